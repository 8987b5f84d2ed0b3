# SPDX-License-Identifier: GPL-2.0-or-later
"""Truths from a machine's image, its kernel and the engine's firmware."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from sysqcache.attribution.address import kernel_module
from sysqcache.attribution.observation import Observation
from sysqcache.attribution.tracing import prepared
from sysqcache.attribution.truths import Blob, CodePages, KernelText, Truths
from sysqcache.imagescan.contents import INITRD, CodeFile
from sysqcache.imagescan.kernelfile import KernelFile, KernelFileError
from sysqcache.imagescan.reader import ImageContents
from sysqcache.modules import Module, ModuleKind

_FIRMWARE: Final = ("*.bin", "*.rom", "*.fd")
_FIRMWARE_BYTES: Final = 16 << 20


def truths_of(
    contents: ImageContents, observations: Sequence[Observation], firmware: Path | None = None
) -> Truths:
    """What can be had for a run of a machine with this image.

    :param firmware: the engine's directory of firmware files.
    """
    kernels: list[KernelText] = []
    blobs: dict[Module, Blob] = {}
    ran = [kernel_module(seen) for seen in observations]
    for module in dict.fromkeys((contents.kernel, *ran)):
        file = contents.kernel_file(module) if module else None
        if file is None:
            continue
        stub = blob(file.file, f"boot stub of {file.module.name}")
        blobs.setdefault(stub.module, dataclasses.replace(stub, is_stub=True))
        slides = {
            seen.kernel.kaslr_offset for seen in observations if kernel_module(seen) == module
        }
        for slide in sorted(slides):
            kernels += _loaded(file, slide)
    return Truths(
        kernels=tuple(kernels),
        blobs=(*blobs.values(), *firmware_blobs(firmware)),
        files=(code_pages(contents, [one for one in contents.files if one.origin == INITRD]),),
    )


def _loaded(file: KernelFile, slide: int) -> Iterator[KernelText]:
    try:
        content = file.loaded(slide)
        yield KernelText(file.module, slide, content, prepared(content))
    except KernelFileError:
        return


def firmware_blobs(directory: Path | None) -> tuple[Blob, ...]:
    """The firmware files of a directory, the largest first: they run most of the code."""
    if directory is None:
        return ()
    found = {path for pattern in _FIRMWARE for path in directory.glob(pattern)}
    blobs = [blob(path.read_bytes(), path.name) for path in sorted(found) if _is_small(path)]
    return tuple(sorted(blobs, key=lambda one: -len(one.content)))


def _is_small(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= _FIRMWARE_BYTES


def blob(content: bytes, name: str) -> Blob:
    """A file that runs wherever it was copied to; its hash is its identity."""
    identity = f"sha256:{hashlib.sha256(content).hexdigest()}"
    module = Module(ModuleKind.FIRMWARE, identity, name)
    return Blob(module, np.frombuffer(content, np.uint8))


def code_pages(contents: ImageContents, files: Iterable[CodeFile]) -> CodePages:
    """Pages with code of some files of an image."""
    chosen = [file for file in files if file.module.kind is ModuleKind.FILE]
    pages = contents.code_pages(chosen)
    return CodePages.of((file.module, offset, data) for file, offset, data in pages)
