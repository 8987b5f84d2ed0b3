# SPDX-License-Identifier: GPL-2.0-or-later
"""Random snippets: a few instructions of one mode, and the state in which they start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from bench.moving_programs import opcodes
from bench.moving_programs.encode import (
    SHORT_TO_END,
    Part,
    memory_operand,
    number,
    register_operand,
    vsib_operand,
)
from bench.moving_programs.modes import KERNEL64, MODES, WEIGHTS, Mode
from bench.moving_programs.opcodes import Form

TRAP: Final = Part(b"\xcc")
"""INT3, which ends a snippet."""

MOST_FIELDS: Final = 48
"""How many moving immediates the engine keeps of a block: TCG_MAX_GUEST_IMMS."""

LONGEST: Final = 3500
"""Bytes of a snippet: less than a page."""

_GOING_ON: Final = tuple(
    form
    for form in opcodes.ONE_BYTE
    if form.operand == "rm" and not form.lock and not {0x8E, 0xFF} & {*form.opcodes}
)
"""After which a block goes on."""

_SEGMENTS: Final = (0x64, 0x65, 0x2E, 0x36, 0x3E, 0x26)
_MANDATORY: Final = (0, 0x66, 0xF3, 0xF2)
_USUAL: Final = {
    "0f": (6, 8, 3, 3),
    "0f38": (4, 14, 1, 2),
    "0f3a": (2, 20, 1, 1),
    "vex1": (6, 8, 3, 3),
    "vex2": (2, 20, 1, 1),
    "vex3": (1, 20, 1, 2),
}
"""How often each of these prefixes makes an instruction of an opcode."""

_ARITHMETIC_FLAGS: Final = 0x8D5
_KEY_FLAGS: Final = (0x100, 0x400, 0x3000, 0x10000, 0x40000)
"""TF, DF, IOPL 3, RF and AC, of which DF alone is no part of the key."""


@dataclass(frozen=True)
class Snippet:
    """Code of one mode.

    :param cross: the offset that is to lie at the beginning of a page, None for anywhere
        on one page.
    :param registers: which of the program's sets of registers it starts with.
    """

    mode: Mode
    part: Part
    cross: int | None = None
    registers: int = 0
    flags: int = 2


class Maker:
    """Makes snippets from one source of random numbers.

    :param amd: whether the processor is AMD's, which cuts jumps with 66 to 16 bits in
        64-bit mode.
    :param focus: how likely an instruction is to be one that depends on the number of vCPUs.
    """

    def __init__(self, random: Random, *, amd: bool = True, focus: float = 0.1) -> None:
        self._random = random
        self._amd = amd
        self._focus = focus

    def snippet(self) -> Snippet:
        """Any snippet."""
        random = self._random
        mode = random.choices(MODES, WEIGHTS)[0]
        [make] = random.choices((self._few, self._many, self._long), (955, 40, 5))
        return self.finished(mode, make(mode))

    def finished(self, mode: Mode, part: Part) -> Snippet:
        """A snippet of ``part`` in a random place and state."""
        random = self._random
        part = part.closed()
        return Snippet(
            mode,
            part,
            self._cross(part) if random.random() < 0.1 else None,
            random.randrange(1 << 16),
            self._flags(),
        )

    def _flags(self) -> int:
        """Arithmetic flags, and rarely one of those that are part of a block's key."""
        random = self._random
        flags = 2 | random.getrandbits(12) & _ARITHMETIC_FLAGS
        return flags | random.choice(_KEY_FLAGS) if random.random() < 0.15 else flags

    def _cross(self, part: Part) -> int | None:
        """Around a field: the page may end behind it, in it or before it."""
        if not part.fields:
            return None
        field = self._random.choice(part.fields)
        offset = field.at + self._random.randint(-1, field.size + 1)
        return min(max(offset, 1), len(part.code) - 1)

    def _few(self, mode: Mode) -> Part:
        random = self._random
        part = Part()
        if random.random() < 0.5:
            # the field lies behind the first eight bytes
            part += self._fillers(random.randint(1, 6))
        for _ in range(random.choice((1, 1, 2, 3))):
            part += self.instruction(mode)
            if random.random() < 0.3:
                part += self._fillers(1)
        return part + self._end(mode)

    def _many(self, mode: Mode) -> Part:
        """More fields than the engine's table holds, or almost."""
        random = self._random
        count = MOST_FIELDS + random.choice((-2, -1, 0, 0, 1, 2, 16))
        part, found = Part(), 0
        while found < count:
            one = self._legacy(mode, "", random.choice(_GOING_ON), plain=True)
            new = sum(field.size > 1 for field in one.fields)
            if new or random.random() < 0.1:
                part += one
                found += new
        return part + TRAP

    def _long(self, mode: Mode) -> Part:
        """More than goes into one block, by the number of instructions or of TCG's ops."""
        random = self._random
        part, size = Part(), random.randint(1000, LONGEST - 100)
        fillers = random.choice((opcodes.FILLERS, opcodes.FILLERS[:3]))
        while len(part.code) < size:
            part += Part(random.choice(fillers))
            if random.random() < 0.1:
                part += self._legacy(mode, "", random.choice(_GOING_ON), plain=True)
        return part + TRAP

    def _fillers(self, count: int) -> Part:
        return Part(b"".join(self._random.choice(opcodes.FILLERS) for _ in range(count)))

    def _end(self, mode: Mode) -> Part:
        """A trap; before it, now and then, what ends a block by itself."""
        choice = self._random.random()
        if choice < 0.1:
            return Part(b"\xc3") + TRAP
        if choice < 0.2:
            return Part(b"\xeb") + SHORT_TO_END + self._fillers(1) + TRAP
        return TRAP

    def instruction(self, mode: Mode) -> Part:
        """One instruction, of any kind."""
        random = self._random
        if random.random() < self._focus:
            return self._for_vcpus(mode)
        kinds = (
            (34, "", opcodes.ONE_BYTE),
            (14, "", opcodes.JUMPS),
            (6, "0f", opcodes.NEAR_JCC),
            (20, "0f", opcodes.TWO_BYTE),
            (5, "0f38", opcodes.THREE_BYTE_38),
            (4, "0f3a", opcodes.THREE_BYTE_3A),
            (6, "vex1", opcodes.VEX_0F),
            (5, "vex2", opcodes.VEX_38),
            (3, "vex3", opcodes.VEX_3A),
            (3, "evex", (*opcodes.VEX_0F, *opcodes.VEX_38, *opcodes.VEX_3A)),
        )
        _, place, forms = random.choices(kinds, [weight for weight, _, _ in kinds])[0]
        form = random.choice([form for form in forms if mode.bits in form.sizes])
        if place == "evex":
            return self._evex(mode, form)
        if place.startswith("vex"):
            return self._vex(mode, int(place[3:]), form)
        return self._legacy(mode, place, form)

    def _for_vcpus(self, mode: Mode) -> Part:
        """What is translated in another way for several vCPUs, or might be."""
        random = self._random
        if random.random() < 0.6:
            place, form = random.choice(opcodes.LOCKED)
            return self._legacy(mode, place, form, lock=True)
        if random.random() < 0.5:
            form = Form((0x10, 0x11, 0x28, 0x29, 0x6F, 0x7F, 0xE7, 0x2B), "m", tuple(range(8)))
            return self._vex(mode, 1, form)
        form = Form((0x28, 0x29, 0x6F, 0x7F, 0xE7, 0x58, 0xFE), "m", tuple(range(8)), pp=True)
        return self._legacy(mode, "0f", form)

    def _legacy(
        self, mode: Mode, place: str, form: Form, *, lock: bool = False, plain: bool = False
    ) -> Part:
        """With prefixes and one to three bytes of opcode.

        :param lock: a locked access of memory.
        :param plain: without prefixes but REX.W, so that immediates of 32 bits can move.
        """
        random = self._random
        prefixes = [] if plain else self._prefixes(form, place)
        if lock or (form.lock and random.random() < 0.2):
            prefixes.append(0xF0)
        rex = b""
        if mode.bits == 64 and (plain or random.random() < 0.6):
            rex = b"\x48" if plain else self._rex()
        opcode = random.choice(form.opcodes)
        code = bytes(prefixes) + rex + bytes.fromhex(place) + bytes([opcode])
        operand, addresses = self._operand(mode, form, prefixes, memory=lock)
        wide = bool(rex) and rex[0] & 8 != 0
        size = _operand_size(mode, 0x66 in prefixes, wide)
        return Part(code) + operand + self._immediate(mode, form, size, addresses)

    def _prefixes(self, form: Form, place: str) -> list[int]:
        random = self._random
        found = []
        if form.pp and (chosen := self._mandatory(place)):
            found.append(_MANDATORY[chosen])
        elif random.random() < 0.15:
            found.append(random.choice((0x66, 0x66, 0xF3, 0xF2)))
        if random.random() < 0.02:
            found.append(random.choice((0x66, 0xF2, 0xF3, 0xF0)))
        if random.random() < 0.08:
            found.append(0x67)
        if random.random() < 0.1:
            found.append(random.choice(_SEGMENTS))
        random.shuffle(found)
        return found

    def _mandatory(self, place: str) -> int:
        """Which prefix decides what the opcode is: 0 for none, 1 for 66, 2 for F3, 3 for F2."""
        return self._random.choices(range(4), _USUAL[place])[0]

    def _rex(self) -> bytes:
        random = self._random
        bits = 8 if random.random() < 0.6 else 0
        return bytes([0x40 | bits | (random.randrange(8) if random.random() < 0.5 else 0)])

    def _operand(
        self, mode: Mode, form: Form, prefixes: Sequence[int], *, memory: bool = False
    ) -> tuple[Part, int]:
        """ModRM and what belongs to it, and the size of addresses."""
        random = self._random
        addresses = _address_size(mode, 0x67 in prefixes)
        if not form.operand:
            return Part(), addresses
        digit = random.choice(form.digits)
        if form.operand == "vsib":
            return vsib_operand(random, digit), addresses
        if form.operand == "r" or (form.operand == "rm" and not memory and random.random() < 0.25):
            return register_operand(random, digit), addresses
        return memory_operand(random, digit, addresses), addresses

    def _immediate(self, mode: Mode, form: Form, size: int, addresses: int) -> Part:
        """What follows the operand; ``size`` is that of data, in bits."""
        random, up_to_32 = self._random, min(size, 32) // 8
        made: dict[str, Callable[[], Part]] = {
            "": Part,
            "b": lambda: number(1),
            "w": lambda: number(2),
            "z": lambda: number(up_to_32),
            "v": lambda: self._wide(size),
            "rel": lambda: number(self._distance_size(mode, size) // 8, jump=True),
            "short": lambda: SHORT_TO_END,
            "wb": lambda: number(2) + Part(bytes([random.choice((0, 0, 1, 2, 31))])),
            "far": lambda: number(up_to_32, jump=True) + Part(bytes([mode.cs, 0])),
            "offset": lambda: self._wide(addresses),
            "suffix": lambda: Part(bytes([random.choice(opcodes.SUFFIXES)])),
        }
        return made[form.immediate]()

    def _wide(self, bits: int) -> Part:
        """Up to 64 bits, of which 32 are the field and the others its sign, or anything."""
        if bits < 64:
            return number(bits // 8)
        rest = self._random.choice((b"\xff" * 4, b"\0" * 4, self._random.randbytes(4)))
        return number(4) + Part(rest)

    def _distance_size(self, mode: Mode, size: int) -> int:
        if mode.bits == 64:
            return 16 if size == 16 and self._amd else 32
        return size

    def _vex(self, mode: Mode, place: int, form: Form) -> Part:
        """With VEX; what it says is often nonsense, which must be refused alike."""
        random = self._random
        prefixes = [0x67] if random.random() < 0.05 else []
        if random.random() < 0.1:
            prefixes.append(random.choice(_SEGMENTS))
        flipped = random.randrange(8) if mode.bits == 64 and random.random() < 0.5 else 0
        source = random.randrange(16) if random.random() < 0.6 else 0
        last = (source ^ 15) << 3
        last |= (
            1 if form.only_66_l0 else random.getrandbits(1) << 2 | self._mandatory(f"vex{place}")
        )
        if mode.bits != 64:
            # bits 7 and 6 of the next byte are what tells VEX from LES and LDS
            last |= 0x40
        if place == 1 and random.random() < 0.4:
            vex = bytes([0xC5, (0x80 if flipped < 4 or mode.bits != 64 else 0) | last & 0x7F])
        else:
            wide = random.choice((0, 0, 0x80))
            vex = bytes([0xC4, (flipped ^ 7) << 5 | place, wide | last & 0x7F])
        opcode = random.choice(form.opcodes)
        operand, addresses = self._operand(mode, form, prefixes)
        code = Part(bytes(prefixes) + vex + bytes([opcode])) + operand
        return code + self._immediate(mode, form, 32, addresses)

    def _evex(self, mode: Mode, form: Form) -> Part:
        """With EVEX, which TCG does not know: the code must end in the same fault."""
        random = self._random
        head = bytes([0x62, 0xF0 | random.choice((1, 2, 3)), 0x7C | random.randrange(4)])
        code = Part(head + random.randbytes(1) + bytes([random.choice(form.opcodes)]))
        operand, addresses = self._operand(mode, form, ())
        return code + operand + self._immediate(mode, form, 32, addresses)


def _operand_size(mode: Mode, prefix: bool, wide: bool) -> int:
    if mode.bits == 64:
        return 64 if wide else 16 if prefix else 32
    return 16 if (mode.bits == 16) != prefix else 32


def _address_size(mode: Mode, prefix: bool) -> int:
    if mode.bits == 64:
        return 32 if prefix else 64
    return 16 if (mode.bits == 16) != prefix else 32


def of_kernel(code: Part, registers: int = 0) -> Snippet:
    """A snippet of 64-bit code in ring 0, on one page."""
    return Snippet(KERNEL64, (code + TRAP).closed(), None, registers)
