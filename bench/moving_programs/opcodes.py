# SPDX-License-Identifier: GPL-2.0-or-later
"""Which opcodes there are, and what follows them.

A line of a table names opcodes that are written alike, so that each line is chosen as often as
any other. Behind the colon:

| word | means |
|---|---|
| ``rm``, ``m``, ``r`` | a ModRM byte: of anything, of memory, of a register |
| ``vsib`` | the same of memory, with a vector of indexes |
| ``/0,2`` | the digits that its middle field may hold |
| ``b``, ``w``, ``z``, ``v`` | an immediate of 8 or 16 bits, of up to 32, of up to 64 |
| ``wb``, ``far`` | the operands of ENTER and of far jumps |
| ``offset`` | an address as wide as addresses are |
| ``rel``, ``short`` | a distance of up to 32 bits, of 8 |
| ``lock`` | may be locked, if it writes to memory |
| ``pp`` | 66, F3 or F2 before it make other instructions |
| ``66.L0`` | with this prefix and 128 bits alone, as plain QEMU 10.0 aborts at others (asserts) |
| ``16``, ``32``, ``64`` | of code of this size alone; ``narrow``: of 16 and 32 bits |

Left out is what would stop the machine or change it for the snippets that follow (HLT, I/O,
control registers, descriptor tables, model-specific registers, REP), and what gives another
result each time (RDTSC, RDRAND, CPUID). None of them has a field, but for the 8-bit ports.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_OPERANDS: Final = ("rm", "m", "r", "vsib")
_IMMEDIATES: Final = ("b", "w", "z", "v", "wb", "far", "offset", "rel", "short", "suffix")


@dataclass(frozen=True)
class Form:
    """Opcodes that are written alike; see the module."""

    opcodes: tuple[int, ...]
    operand: str = ""
    digits: tuple[int, ...] = ()
    immediate: str = ""
    lock: bool = False
    pp: bool = False
    only_66_l0: bool = False
    sizes: tuple[int, ...] = (16, 32, 64)


def _numbers(text: str) -> Iterator[int]:
    for word in text.split():
        first, _, last = word.partition("-")
        yield from range(int(first, 16), int(last or first, 16) + 1)


def _form(line: str) -> Form:
    opcodes, _, text = line.partition(":")
    words = text.split()
    digits = [word[1:].split(",") for word in words if word.startswith("/")]
    sizes = [int(word) for word in words if word in ("16", "32", "64")]
    return Form(
        tuple(_numbers(opcodes)),
        next((word for word in words if word in _OPERANDS), ""),
        tuple(int(digit) for digit in digits[0]) if digits else tuple(range(8)),
        next((word for word in words if word in _IMMEDIATES), ""),
        "lock" in words,
        "pp" in words,
        "66.L0" in words,
        (16, 32) if "narrow" in words else tuple(sizes) or (16, 32, 64),
    )


def _table(text: str) -> tuple[Form, ...]:
    return tuple(_form(line) for line in text.strip().splitlines())


ONE_BYTE: Final = _table("""
00 01 08 09 10 11 18 19 20 21 28 29 30 31 : rm lock
02 03 0a 0b 12 13 1a 1b 22 23 2a 2b 32 33 38-3b : rm
04 0c 14 1c 24 2c 34 3c a8 : b
05 0d 15 1d 25 2d 35 3d a9 : z
63 : rm
68 : z
69 : rm z
6a : b
6b : rm b
80 83 : rm b lock
81 : rm z lock
81 : rm z
84 85 88-8b : rm
86 87 : rm lock
8c : rm /0,1,2,3,4,5
8d : m
8d : m
8e : rm /0,2,3,4,5
8f : rm /0
a0-a3 : offset
b0-b7 : b
b8-bf : v
c0 c1 : rm b
c2 : w
c6 : rm /0 b
c7 : rm /0 z
c7 : rm /0 z
c8 : wb
d0-d3 : rm
d8-df : m
d8-df : rm
d7 c9 :
e0-e3 : short
f6 : rm /0,1 b
f7 : rm /0,1 z
f6 f7 : rm /2,3 lock
f6 f7 : rm /4,5,6,7
fe : rm /0,1 lock
ff : rm /0,1 lock
ff : rm /2,4,6
ff : m /3,5
9a ea : far narrow
c4 c5 62 : m narrow
d4 d5 : b narrow
""")

JUMPS: Final = _table("""
e8 : rel
e9 : rel
e8 e9 : rel
70-7f eb : short
""")
NEAR_JCC: Final = _table("80-8f : rel")
"""Behind 0F."""

TWO_BYTE: Final = _table("""
00 : rm /0,1,4,5
01 : m /0,1,4,7
02 03 : rm
0d 18-19 1c-1f : rm
1a 1b : rm pp
0f : rm suffix
10-17 28-2f : rm pp
40-4f : rm
50-6f : rm pp
70 c2 c6 : rm b pp
71-73 : r /2,4,6,3,7 b pp
74-76 7c-7f : rm pp
77 :
80-8f : rel
80-8f : rel
90-9f : rm
a3 a5 ad af : rm
a4 ac : rm b
ab b3 bb : rm lock
ae : m
ae : r /5,6,7
b0 b1 c0 c1 : rm lock
b2 b4 b5 : m
b6 b7 be bf : rm
b8 bc bd : rm pp
ba : rm /4,5,6,7 b lock
c3 : m
c4 : rm b pp
c5 : r b pp
c7 : m /1 lock
c7 : m /1 lock
d0-df e0-ef f0-fe : rm pp
""")

THREE_BYTE_38: Final = _table("""
00-0b 1c-1e : rm pp
10 14 15 17 20-25 28-2b 30-41 : rm pp
c8-cd db-df : rm pp
f0 f1 : rm pp
f6 : rm pp
""")
THREE_BYTE_3A: Final = _table("""
08-0f : rm b pp
14-17 20-22 : rm b pp
40-42 44 60-63 cc df : rm b pp
""")

VEX_0F: Final = _table("""
10-17 28-2f : rm
50-6f : rm
70 c2 c6 : rm b
71-73 : r /2,4,6,3,7 b
74-76 7c-7f : rm
77 :
ae : m /2,3
c4 : rm b 66.L0
d0-df e0-ef f0-fe : rm
""")
VEX_38: Final = _table("""
00-0f 13 16-19 1c-1e : rm
20-2f 30-41 45-47 : rm
58-5a 78 79 8c 8e : rm
90-93 : vsib
96-9f a6-af b6-bf : rm
db-df f2 f3 f5-f7 : rm
""")
VEX_3A: Final = _table("""
00-06 08 09 0c-0f : rm b
0a 0b : rm b 66.L0
14-19 1d 20-22 38 39 : rm b
40-42 44 46 4a-4c 60-63 df : rm b
f0 : rm b
""")

LOCKED: Final = (
    *(("", form) for form in ONE_BYTE if form.lock),
    *(("0f", form) for form in TWO_BYTE if form.lock),
)
"""With the map of each."""

SUFFIXES: Final = (0x0D, 0x1D, 0x90, 0x94, 0x96, 0x9A, 0x9E, 0xA0, 0xB0, 0xB4, 0xB7, 0xBB, 0xBF)
"""Of 3DNow!."""

_FILLERS: Final = """
90 90 90 6690 0f1f4000 f8 f9 f5 fc 98 99 91 93 96 50 51 56 58 5a 5f 01d8 29ca 31f6 39c1 85db
09f7 89d0 8bd3 0fafc1 0fb6d3 0fa3c8 0fc8 0fcb c1e005 d1f8 d3e2 f7d8 f7d1 f7e2 0f94c3 0f42d1
a4 a5 aa ab ac ad ae af a6 a7 d9e8 d9c9 dec1 0f57c0 660fefc9 0f58d1 660fd4da 9c 9e 9f
"""
FILLERS: Final = tuple(map(bytes.fromhex, _FILLERS.split()))
"""Instructions without a field, of code of any size."""
