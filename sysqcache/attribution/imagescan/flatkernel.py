# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels that are flat images, as those of arm64 and RISC-V are, and what they come in.

Documentation/arch/arm64/booting.rst, Documentation/arch/riscv/boot-image-header.rst and
drivers/firmware/efi/libstub/zboot-header.S of the kernel.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import struct
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sysqcache.attribution.imagescan import limits
from sysqcache.attribution.imagescan.kernelload import KernelFileError
from sysqcache.attribution.imagescan.unpack import PackedDataError, packing, unpack
from sysqcache.formats.elf import BUILD_ID_NOTE, MAGIC

_HEADER: Final = 64
_NAME_AT: Final = 0x38
_ARM64: Final = b"ARM\x64"
_RISCV: Final = b"RSC\x05"
_ZBOOT: Final = b"zimg"
_BANNER: Final = re.compile(rb"Linux version ([^\s(]{1,64}) \(")
_RISCV_ADDRESS: Final = 0xFFFF_FFFF_8000_0000
"""KERNEL_LINK_ADDR of 64-bit kernels since Linux 5.13."""

_RELATIVE: Final = 0x403
"""R_AARCH64_RELATIVE; an entry is (place, this, value)."""

_ALIGNED: Final = 1 << 27
"""arm64 kernels are linked at a multiple of the area for modules, 128 MiB or more."""

_NOTES: Final = 64
_EMBEDDED: Final = 1_024
_EMBEDDED_BYTES: Final = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class FlatKernel:
    """An image that is loaded as it is.

    :param content: the unpacked image, from ``_text`` or on RISC-V ``_start`` on.
    :param packed: whether it had to be unpacked.
    """

    content: memoryview
    packed: bool = False

    @property
    def is_arm64(self) -> bool:
        """True for arm64, false for RISC-V."""
        return bytes(self.content[_NAME_AT : _NAME_AT + 4]) == _ARM64

    @property
    def release(self) -> str:
        """The release that the kernel names itself, "" when it does not."""
        found = _BANNER.search(self.content)
        return found[1].decode("ascii", "replace") if found else ""

    @property
    def build_id(self) -> str:
        """The kernel's own build id; "" when there is none.

        The vDSOs, which are ELF files inside of the image, have others.
        """
        inside = list(itertools.islice(_embedded(self.content), _EMBEDDED))
        for found in itertools.islice(BUILD_ID_NOTE.finditer(self.content), _NOTES):
            value = self.content[found.end() : found.end() + found[1][0]]
            own = not any(start <= found.start() < end for start, end in inside)
            if own and len(value) == found[1][0]:
                return bytes(value).hex()
        return ""

    @property
    def address(self) -> int:
        """Virtual address of the image's first byte as linked, 0 when nothing tells."""
        if not self.is_arm64:
            return _RISCV_ADDRESS
        places, _ = _relocations(self.content)
        return int(places.min()) & -_ALIGNED if len(places) else 0

    def loaded(self, slide: int) -> NDArray[np.uint8]:
        """The image in memory, moved by ``slide`` bytes, bss included.

        Code holds no addresses, on either architecture; those in the data of an arm64
        kernel are applied from its list of relocations, those of a RISC-V kernel are not.
        Raises KernelFileError when the header makes no sense.
        """
        (size,) = struct.unpack_from("<Q", self.content, 16)
        if size > limits.KERNEL_BYTES:
            raise KernelFileError("its image is too large")
        image = np.zeros(max(size, len(self.content)), np.uint8)
        image[: len(self.content)] = np.frombuffer(self.content, np.uint8)
        if self.is_arm64:
            _relocate(image, *_relocations(self.content), slide)
        return image


def flat_kernel(file: bytes) -> FlatKernel | None:
    """The flat image in a kernel file, None when there is none.

    It may be packed as a whole, or with an EFI program that unpacks it. Raises
    KernelFileError when it is, and can't be unpacked.
    """
    view = memoryview(file)
    if _is_flat(view):
        return FlatKernel(view)
    payload = _zboot_payload(view) if file[4:8] == _ZBOOT else view
    if not packing(bytes(payload[:8])):
        return None
    try:
        content = memoryview(unpack(payload, limits.KERNEL_BYTES)[0])
    except PackedDataError as error:
        raise KernelFileError(str(error)) from error
    return FlatKernel(content, packed=True) if _is_flat(content) else None


def _is_flat(file: memoryview) -> bool:
    return len(file) > _HEADER and bytes(file[_NAME_AT : _NAME_AT + 4]) in (_ARM64, _RISCV)


def _zboot_payload(file: memoryview) -> memoryview:
    if len(file) < _HEADER:
        raise KernelFileError("its payload lies outside of the file")
    offset, size = struct.unpack_from("<II", file, 8)
    payload = file[offset : offset + size]
    if len(payload) < size or not size:
        raise KernelFileError("its payload lies outside of the file")
    return payload


def _embedded(content: memoryview) -> Iterator[tuple[int, int]]:
    """(start, end) of ELF files inside of an image."""
    for found in re.finditer(re.escape(MAGIC) + rb"([\x01\x02])\x01\x01", content):
        start = found.start()
        wide = found[1] == b"\x02"
        head = bytes(content[start : start + _HEADER])
        if len(head) < _HEADER:
            return
        (table,) = struct.unpack_from("<Q" if wide else "<I", head, 40 if wide else 32)
        size, count = struct.unpack_from("<HH", head, 58 if wide else 46)
        length = table + size * count
        if _HEADER < length <= _EMBEDDED_BYTES:
            yield start, start + length


def _relocations(content: memoryview) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Addresses and values of an arm64 kernel's relative relocations, as linked.

    Nothing in the header says where they are: entries stand in a row, and name places in
    the image.
    """
    words = np.frombuffer(content[: len(content) & -8], "<u8")
    rows = np.flatnonzero(words == _RELATIVE)
    rows = rows[(rows > 0) & (rows < len(words) - 1)]
    in_a_row = np.isin(rows + 3, rows) | np.isin(rows - 3, rows)
    rows = rows[in_a_row & (words[rows - 1] >= np.uint64(1 << 63))]
    places, values = words[rows - 1], words[rows + 1]
    if not len(places):
        return places, values
    base = places.min() & np.uint64(-_ALIGNED % (1 << 64))
    inside = places - base <= np.uint64(len(content) - 8)
    return places[inside], values[inside]


def _relocate(
    image: NDArray[np.uint8], places: NDArray[np.uint64], values: NDArray[np.uint64], slide: int
) -> None:
    if not len(places):
        return
    base = places.min() & np.uint64(-_ALIGNED % (1 << 64))
    index = (places - base).astype(np.int64)[:, None] + np.arange(8)
    moved = values + np.uint64(slide % (1 << 64))
    image[index] = moved.astype("<u8").view(np.uint8).reshape(-1, 8)
