# SPDX-License-Identifier: GPL-2.0-or-later
"""What the x86 boot stub makes of an unpacked kernel.

It puts the segments in their place and applies the relocations behind the ELF file:
arch/x86/tools/relocs.c and handle_relocations() in arch/x86/boot/compressed/misc.c of
the kernel.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sysqcache.attribution.imagescan import limits
from sysqcache.formats.elf import MAGIC, PROGRAM_HEADERS

_EM_X86_64: Final = 62
_PT_LOAD: Final = 1
_PROGRAM: Final = struct.Struct("<IIQQQQQQ")
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_NOBITS: Final = 8


class KernelFileError(Exception):
    """A kernel that can't be unpacked, with the reason in words."""


class Loader:
    """Does what the boot stub does with an unpacked kernel."""

    def __init__(self, vmlinux: memoryview) -> None:
        self._vmlinux = vmlinux
        head = bytes(vmlinux[:64])
        if len(head) < 64 or head[:6] != MAGIC + b"\x02\x01":
            raise KernelFileError("there is no 64-bit vmlinux")
        if struct.unpack_from("<H", head, 18)[0] != _EM_X86_64:
            raise KernelFileError("its vmlinux is not for x86-64")
        self._loads = self._segments(head)
        self._base = min(load[0] for load in self._loads)
        self._size = max(load[0] + load[3] for load in self._loads) - self._base
        if self._size > limits.KERNEL_BYTES:
            raise KernelFileError("its vmlinux is too large")
        self._end = self._file_end(head)
        # the first segment is the text, so this is the address of _text
        self._text = min(self._loads)[4]

    def _segments(self, head: bytes) -> list[tuple[int, int, int, int, int]]:
        """Physical address, place and size in the file, size in memory, virtual address."""
        (table,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        content = self._vmlinux[table : table + size * min(count, PROGRAM_HEADERS)]
        if size != _PROGRAM.size or not count or len(content) % size:
            raise KernelFileError("its vmlinux has no program headers")
        loads = [
            (physical, offset, in_file, in_memory, virtual)
            for kind, _, offset, virtual, physical, in_file, in_memory, _ in _PROGRAM.iter_unpack(
                content
            )
            if kind == _PT_LOAD
        ]
        if not loads:
            raise KernelFileError("its vmlinux has nothing to load")
        return loads

    def _file_end(self, head: bytes) -> int:
        """Where the ELF file ends and the relocations begin."""
        (table,) = struct.unpack_from("<Q", head, 40)
        size, count = struct.unpack_from("<HH", head, 58)
        end = table + size * count
        content = self._vmlinux[table:end]
        if size == _SECTION.size and len(content) == size * count:
            for section in _SECTION.iter_unpack(content):
                if section[1] != _NOBITS:
                    end = max(end, section[4] + section[5])
        for _, offset, in_file, _, _ in self._loads:
            end = max(end, offset + in_file)
        return min(int(end), len(self._vmlinux))

    def image(self, slide: int) -> NDArray[np.uint8]:
        """The loaded image, moved by ``slide`` bytes."""
        image = np.zeros(self._size, np.uint8)
        for physical, offset, in_file, _, _ in self._loads:
            content = np.frombuffer(self._vmlinux[offset : offset + in_file], np.uint8)
            place = physical - self._base
            image[place : place + len(content)] = content[: self._size - place]
        if slide:
            self._relocate(image, slide)
        return image

    def _relocate(self, image: NDArray[np.uint8], slide: int) -> None:
        wide, inverse, narrow = self._relocations()
        _add(image, self._places(wide), slide, np.dtype("<u8"))
        _add(image, self._places(inverse), -slide, np.dtype("<u4"))
        _add(image, self._places(narrow), slide, np.dtype("<u4"))

    def _places(self, addresses: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Places in the image; an address that is not in it is nobody's."""
        places = (addresses - np.uint32(self._text & 0xFFFFFFFF)).astype(np.int64)
        if len(places) and places.max() > self._size - 8:
            raise KernelFileError("a relocation lies outside of the kernel")
        return places

    def _relocations(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]:
        """Low halves of the addresses to move: 64-bit, inverse 32-bit, 32-bit ones."""
        tail = self._vmlinux[self._end :]
        tail = tail[len(tail) % 4 :]
        words = np.frombuffer(tail, "<u4")
        ends = np.flatnonzero(words == 0)
        lists = _lists(words, ends.tolist())
        none = np.zeros(0, np.uint32)
        match len(lists):
            case 0:
                raise KernelFileError("it has no relocations")
            case 1:
                return none, none, lists[0]
            case 2:  # since Linux 6.15 nothing is relocated the other way round
                return lists[0], none, lists[1]
            case _:
                return lists[-3], lists[-2], lists[-1]


def _lists(words: NDArray[np.uint32], zeros: Sequence[int]) -> list[NDArray[np.uint32]]:
    """Each list has a zero in front: the stub reads them from the end."""
    borders = [*zeros, len(words)]
    return [words[a + 1 : b] for a, b in itertools.pairwise(borders)]


def _add(
    image: NDArray[np.uint8],
    places: NDArray[np.int64],
    value: int,
    kind: np.dtype[np.unsignedinteger],
) -> None:
    """Add to the numbers at ``places``, which need not be aligned."""
    index = places[:, None] + np.arange(kind.itemsize)
    numbers = image[index].view(kind)
    numbers += kind.type(value & (1 << 8 * kind.itemsize) - 1)
    image[index] = numbers.view(np.uint8)
