# SPDX-License-Identifier: GPL-2.0-or-later
"""Truths from a machine's image, its kernel and the engine's firmware."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from sysqcache.attribution.address import kernel_module
from sysqcache.attribution.imagescan.contents import INITRD, CodeFile
from sysqcache.attribution.imagescan.efi import unpacked_sections
from sysqcache.attribution.imagescan.kernelfile import KernelFile
from sysqcache.attribution.imagescan.kernelload import KernelFileError
from sysqcache.attribution.imagescan.reader import ImageContents
from sysqcache.attribution.observation import Observation
from sysqcache.attribution.truths import Blob, CodePages, KernelText, Truths
from sysqcache.formats.modules import Module, ModuleKind

_FIRMWARE: Final = ("*.bin", "*.rom", "*.fd")
_FIRMWARE_BYTES: Final = 16 << 20


_SHARED: Final[weakref.WeakValueDictionary[object, Truths]] = weakref.WeakValueDictionary()
"""Truths in use: unpacked kernels are big, and many machines may run one image."""

_LOCK: Final = threading.Lock()


def truths_of(
    contents: ImageContents,
    observations: Sequence[Observation],
    firmware: Path | None = None,
    started: Path | None = None,
) -> Truths:
    """What can be had for a run of a machine with this image.

    Machines that are placed at the same time share it, as far as they ran the same.

    :param firmware: the engine's directory of firmware files.
    :param started: the firmware that vm.yaml names: one of these, or a file elsewhere.
    """
    ran = dict.fromkeys((kernel_module(seen), seen.kernel.kaslr_offset) for seen in observations)
    first = tuple(file for file in contents.files if file.origin == INITRD)
    key = (contents.kernel, contents.firmware_alone, first, tuple(ran), firmware, started)
    with _LOCK:
        found = _SHARED.get(key)
        if found is None:
            found = _SHARED[key] = _truths(contents, list(ran), first, firmware, started)
    return found


def _truths(
    contents: ImageContents,
    ran: Sequence[tuple[Module | None, int]],
    first: Sequence[CodeFile],
    firmware: Path | None,
    started: Path | None,
) -> Truths:
    """See :func:`truths_of`.

    :param ran: the kernels that ran, each with the offset that KASLR gave it.
    :param first: the files of the initial RAM disk.
    """
    kernels: list[KernelText] = []
    blobs: dict[Module, Blob] = {}
    for module in dict.fromkeys((contents.kernel, *(one for one, _ in ran))):
        file = contents.kernel_file(module) if module else None
        if file is None:
            continue
        for one in _unmapped(file):
            blobs.setdefault(one.module, one)
        for slide in sorted({slide for one, slide in ran if one == module}):
            kernels += _loaded(file, slide)
    return Truths(
        kernels=tuple(kernels),
        blobs=(*blobs.values(), *firmware_blobs(firmware, started)),
        files=(code_pages(contents, first),),
        firmware_alone=contents.firmware_alone and not any(module for module, _ in ran),
    )


def _unmapped(file: KernelFile) -> Iterator[Blob]:
    """What no map of a guest tells of a kernel: its boot stub, or all of it."""
    whole = np.frombuffer(file.code, np.uint8)
    is_all = file.code.nbytes == len(file.file)
    if len(whole):
        yield Blob(file.module, whole, is_stub=is_all, in_parts=True, is_system=True)
    if not is_all:
        stub = blob(file.file, f"boot stub of {file.module.name}")
        yield dataclasses.replace(stub, is_stub=True)


def _loaded(file: KernelFile, slide: int) -> Iterator[KernelText]:
    try:
        yield KernelText(file.module, slide, file.loaded(slide))
    except KernelFileError:
        return


def firmware_blobs(directory: Path | None, started: Path | None = None) -> tuple[Blob, ...]:
    """Firmware files, the largest first: they run most of the code.

    :param started: of EFI firmware what it unpacks comes first.
    """
    if directory is None:
        return ()
    found = {path for pattern in _FIRMWARE for path in directory.glob(pattern)}
    named = directory / started if started is not None else None
    if named is not None:
        found.add(named)
    files = {path: path.read_bytes() for path in sorted(found) if _is_small(path)}
    blobs = [blob(content, path.name) for path, content in files.items()]
    return (
        *(_unpacked(named.name, files.get(named, b"")) if named is not None else ()),
        *sorted(blobs, key=lambda one: -len(one.content)),
    )


def _unpacked(name: str, content: bytes) -> Iterator[Blob]:
    for section in unpacked_sections(content):
        yield dataclasses.replace(blob(section, f"{name}, unpacked"), in_parts=True)


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
