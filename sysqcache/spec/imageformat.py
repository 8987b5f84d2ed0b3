# SPDX-License-Identifier: GPL-2.0-or-later
"""Which format an image file is of, by its own marks, and what to do with those not run here.

A container that is taken for a raw disk is destroyed by the guest's first writes. Machines run
raw and qcow2; everything else is told apart here, and qemu-img turns it into qcow2.
"""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Final

from sysqcache.base.errors import ImageBuildError
from sysqcache.base.types import DiskFormat
from sysqcache.spec import engines

_HEAD: Final = 512
_TAIL: Final = 512
_QCOW: Final = b"QFI\xfb"
_KEY: Final = "--object secret,id=key,file=PASSWORD-FILE"

_BEGINNINGS: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"<<< Oracle VM VirtualBox Disk Image >>>", "vdi"),
    (64, b"\x7f\x10\xda\xbe", "vdi"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"),
    (0, b"QED\0", "qed"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"Bochs Virtual HD Image", "bochs"),
    (0, b"#!/bin/sh\n#V2.0 Format\n", "cloop"),
    (0, b"LUKS\xba\xbe", "luks"),
    (0, b"\x1f\x8b\x08", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"PK\x03\x04", "zip"),
)
"""Offset, bytes and format, which qemu-img calls so."""

_ENDINGS: Final = ((b"conectix", "vpc"), (b"koly", "dmg"))
"""Of the last 512 bytes: fixed images of Virtual PC, and those of macOS."""

_PACKED: Final = {"gzip": ".gz", "bzip2": ".bz2", "xz": ".xz", "zstd": ".zst"}
"""Packers, which are programs too, and how their files' names end mostly."""


def find_format(file: Path) -> str:
    """What a file is by its marks: "raw" for one without any. Raises OSError."""
    with file.open("rb") as stream:
        head = stream.read(_HEAD)
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _TAIL))
        tail = stream.read(_TAIL)
    if head.startswith(_QCOW):
        return "qcow" if head[4:8] == b"\0\0\0\1" else "qcow2"
    for offset, mark, name in _BEGINNINGS:
        if head[offset:].startswith(mark):
            return name
    return next((name for mark, name in _ENDINGS if tail.startswith(mark)), "raw")


def is_encrypted(file: Path) -> bool:
    """Whether a qcow2 image can be read with a key only. Raises OSError."""
    with file.open("rb") as stream:
        return stream.read(36)[32:] not in (b"", b"\0\0\0\0")


def disk_format(file: Path, wanted: str) -> DiskFormat:
    """The format to run an image with.

    :param wanted: "raw", "qcow2" or "auto".
    Raises OSError, and ValueError with what is wrong and what to do: for "raw" never, who says
    so knows the file.
    """
    if wanted == DiskFormat.RAW:
        return DiskFormat.RAW
    found = find_format(file)
    if found == DiskFormat.QCOW2 and is_encrypted(file):
        key = "encrypt.key-secret=key"
        raise ValueError(f"{file} is encrypted, {_decrypt(file, DiskFormat.QCOW2, key)}")
    if wanted == DiskFormat.QCOW2 and found == DiskFormat.RAW:
        raise ValueError(f"{file} is no qcow2 image: leave format out, or say raw")
    if found in tuple(DiskFormat):
        return DiskFormat(found)
    raise ValueError(f"{file} is of the format {found}, {_remedy(file, found)}")


def _remedy(file: Path, found: str) -> str:
    """How to come to an image that can be run; ``format: raw`` has the file as it is."""
    if found in _PACKED:
        return f"unpack it: {found} -dc {_quoted(file)} > {_unpacked(file, _PACKED[found])}"
    if found == "zip":
        return f"unpack it: unzip {_quoted(file)}"
    if found == "luks":
        return (
            f"{_decrypt(file, found, 'key-secret=key')} (or format: raw, for a guest that has "
            "the key itself)"
        )
    return f"convert it: {_qemu_img()} convert -f {found} -O qcow2 {_quoted(file)} {_target(file)}"


def _decrypt(file: Path, kind: str, key: str) -> str:
    """The line that writes an image without its encryption."""
    name = str(file).replace(",", ",,")
    options = shlex.quote(f"driver={kind},{key},file.filename={name}")
    command = f"{_qemu_img()} convert {_KEY} --image-opts {options}"
    return f"convert it: {command} -O qcow2 {_target(file)}"


def _target(file: Path) -> str:
    """A name for the new image, which is not that of the old one."""
    target = file.with_suffix(".qcow2")
    return _quoted(target if target != file else file.with_suffix(".plain.qcow2"))


def _unpacked(file: Path, ending: str) -> str:
    """A name for what is in a packed file; its packer refuses to make one up for odd names."""
    is_named = file.suffix == ending
    return _quoted(file.with_suffix("" if is_named else f".unpacked{file.suffix}"))


def _quoted(file: Path) -> str:
    return shlex.quote(str(file))


def _qemu_img() -> str:
    """The system's tool, which knows more formats than an older engine's, or the engine's."""
    if shutil.which("qemu-img"):
        return "qemu-img"
    try:
        return str(engines.any_qemu_img())
    except ImageBuildError:
        return "qemu-img"
