# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel makes of its own code when it starts.

In ``__init`` code too, which is freed before anybody looks, and in places that are changed
once more later: room for tracing at the start of functions (ftrace_init_nop() of the
kernel), returns through a thunk, landing pads that nobody may use (apply_returns() and
apply_seal_endbr() in arch/x86/kernel/alternative.c), branches by static keys.
"""

from __future__ import annotations

import functools
from typing import Final

import numpy as np

from sysqcache.attribution.blocks import U8

_FIXED: Final = (
    # x86-64: endbr64 -> a nop that is none, up to Linux 6.14 and since
    ("f30f1efa", "660f1f00"),
    ("f30f1efa", "0f1f40d6"),
    # arm64: nop -> mov x9, x30
    ("1f2003d5", "e9031eaa"),
    # RISC-V: four short nops -> two long ones, up to Linux 6.15
    ("0100010001000100", "1300000013000000"),
)
_CHANGES: Final = tuple((bytes.fromhex(old), bytes.fromhex(new)) for old, new in _FIXED)
_LONGEST: Final = 8

_CALL, _JUMP, _RET = 0xE8, 0xE9, 0xC3
_NOP5: Final = bytes.fromhex("0f1f440000")
_ARM64_NOP: Final = bytes.fromhex("1f2003d5")
_RISCV_NOP: Final = bytes.fromhex("13000000")
_RISCV_ROOM: Final = bytes.fromhex("0100010001000100")
_AUIPC_T0: Final = 0x297


class KernelPatches:
    """The changes that a kernel may make to its code.

    :param content: shape (s,), uint8, the image as it was loaded.
    """

    def __init__(self, content: U8) -> None:
        self._content = content

    def explain(self, offset: int, code: bytes) -> bool:
        """Whether code is what the image has at an offset, but for such changes."""
        image = self._content[offset : offset + len(code) + _LONGEST].tobytes()
        at = 0
        while at < len(code):
            if code[at] == image[at]:
                at += 1
                continue
            begin = at if self._change(image, code, at, offset) else at - (offset + at) % 4
            size = self._change(image, code, begin, offset) if begin >= 0 else 0
            if begin + size <= at:
                return False
            at = begin + size
        return True

    def _change(self, image: bytes, code: bytes, at: int, offset: int) -> int:
        """Bytes of the change that begins at a place of a block, 0 when there is none."""
        old, new = image[at : at + _LONGEST], code[at : at + _LONGEST]
        for before, after in _CHANGES:
            if old.startswith(before) and new.startswith(after):
                return len(before)
        word = int.from_bytes(old[:4], "little")
        if old[0] == _CALL and new.startswith(_NOP5):
            return 5 if self._target(old, offset + at) == self._traced else 0
        if old[0] == _JUMP and new[0] == _RET and len(new) == 1:
            return 1 if self._target(old, offset + at) == self._returned else 0
        if new.startswith(_ARM64_NOP) and word >> 26 == 0b000101:  # b
            return 4
        if new.startswith(_RISCV_NOP) and word & 0xFFF == 0x06F:  # jal zero
            return 4
        return 8 if old == _RISCV_ROOM and self._calls(new, offset + at) else 0

    def _calls(self, new: bytes, place: int) -> bool:
        """Whether this begins a call into the image, as RISC-V has it since Linux 6.16."""
        word = int.from_bytes(new[:4], "little")
        far = (word & ~0xFFF) - ((word >> 31) << 32)
        inside = 0 <= place + far < len(self._content)
        return inside and word & 0xFFF == _AUIPC_T0 and new[4:] == _RISCV_NOP

    @staticmethod
    def _target(instruction: bytes, place: int) -> int:
        """Where an x86 call or jump at an offset leads to."""
        return place + 5 + int.from_bytes(instruction[1:5], "little", signed=True)

    @functools.cached_property
    def _traced(self) -> int:
        """Offset of what most calls lead to: __fentry__ in kernels that can be traced."""
        return _most_frequent(self._content, _CALL)

    @functools.cached_property
    def _returned(self) -> int:
        """Offset of what most jumps lead to: the thunk for returns, where there is one."""
        return _most_frequent(self._content, _JUMP)


def _most_frequent(content: U8, opcode: int) -> int:
    """The place in an image that most instructions of an opcode lead to; -1 for none."""
    places = np.flatnonzero(content[: max(0, len(content) - 4)] == opcode)
    distance = content[places[:, None] + np.arange(1, 5)].copy().view("<i4")[:, 0]
    targets = places + 5 + distance
    targets = targets[(targets >= 0) & (targets < len(content))]
    found, count = np.unique(targets, return_counts=True)
    return int(found[np.argmax(count)]) if len(found) else -1
