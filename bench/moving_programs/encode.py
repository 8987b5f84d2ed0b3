# SPDX-License-Identifier: GPL-2.0-or-later
"""Pieces of machine code whose numbers are filled in later, and operands made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final


@dataclass(frozen=True)
class Field:
    """A number in the code.

    :param at: offset of its first byte.
    :param size: in bytes: 1, 2 or 4.
    :param jump: whether it is the distance of a jump, which must not lead into the code nearby.
    """

    at: int
    size: int = 4
    jump: bool = False


@dataclass(frozen=True)
class Part:
    """Code with zeros in place of its fields.

    :param ends: offsets of bytes that are to become the distance to the end of the snippet.
    """

    code: bytes = b""
    fields: tuple[Field, ...] = ()
    ends: tuple[int, ...] = ()

    def __add__(self, other: Part) -> Part:
        size = len(self.code)
        return Part(
            self.code + other.code,
            self.fields + tuple(replace(field, at=field.at + size) for field in other.fields),
            self.ends + tuple(end + size for end in other.ends),
        )

    def closed(self) -> Part:
        """With the distances to its end filled in; too far ones lead to the next instruction."""
        code = bytearray(self.code)
        for end in self.ends:
            distance = len(code) - end - 1
            code[end] = distance if distance < 128 else 0
        return Part(bytes(code), self.fields)

    def filled(self, values: Sequence[int]) -> bytes:
        """The code with ``values`` in its fields, cut to their sizes."""
        code = bytearray(self.code)
        for field, value in zip(self.fields, values, strict=True):
            bits = 8 * field.size
            number = value & ((1 << bits) - 1)
            code[field.at : field.at + field.size] = number.to_bytes(field.size, "little")
        return bytes(code)


def number(size: int, *, jump: bool = False) -> Part:
    """A field alone."""
    return Part(bytes(size), (Field(0, size, jump),))


SHORT_TO_END: Final = Part(b"\0", ends=(0,))
"""An 8-bit distance to the snippet's end."""


def register_operand(random: Random, digit: int) -> Part:
    """ModRM of a register."""
    return Part(bytes([0xC0 | digit << 3 | random.randrange(8)]))


def memory_operand(random: Random, digit: int, bits: int) -> Part:
    """ModRM of a place in memory, with a SIB byte and a displacement.

    :param bits: size of addresses.
    """
    if bits == 16:
        return _memory16(random, digit)
    if random.random() < 0.4:
        return _with_sib(random, digit)
    if random.random() < 0.4:
        # relative to the program counter in 64-bit mode
        return Part(bytes([digit << 3 | 5])) + number(4)
    base = random.choice((0, 1, 2, 3, 5, 6, 7))
    return _displaced(random, digit, base)


def _displaced(random: Random, digit: int, rm: int, sib: bytes = b"") -> Part:
    """With 32, 8 or no bits of displacement, mostly 32."""
    choice = random.random()
    if choice < 0.8:
        return Part(bytes([0x80 | digit << 3 | rm]) + sib) + number(4)
    if choice < 0.9 or rm == 5 or (sib and sib[0] & 7 == 5):
        return Part(bytes([0x40 | digit << 3 | rm]) + sib) + number(1)
    return Part(bytes([digit << 3 | rm]) + sib)


def _with_sib(random: Random, digit: int) -> Part:
    sib = random.randrange(256)
    if random.random() < 0.4:
        # no base, and in half of the cases no index either
        sib = sib & 0xF8 | 5 if random.random() < 0.5 else 0x25
        return Part(bytes([digit << 3 | 4, sib])) + number(4)
    return _displaced(random, digit, 4, bytes([sib]))


def _memory16(random: Random, digit: int) -> Part:
    if random.random() < 0.3:
        return Part(bytes([digit << 3 | 6])) + number(2)
    rm = random.randrange(8)
    if random.random() < 0.5:
        return Part(bytes([0x80 | digit << 3 | rm])) + number(2)
    return Part(bytes([0x40 | digit << 3 | rm])) + number(1)


def vsib_operand(random: Random, digit: int) -> Part:
    """ModRM with a vector of indexes."""
    sib = random.randrange(256)
    if random.random() < 0.5:
        return Part(bytes([digit << 3 | 4, sib & 0xF8 | 5])) + number(4)
    return Part(bytes([0x80 | digit << 3 | 4, sib])) + number(4)
