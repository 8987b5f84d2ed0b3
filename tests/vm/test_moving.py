# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs that differ in what is no part of a block's key: what is adopted fits all the same.

``python -m bench.moving`` runs many more of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from bench.moving_programs.encode import Part, number
from bench.moving_programs.judge import Verdict, judge
from bench.moving_programs.machine import Run, Settings, assemble, run
from bench.moving_programs.pairs import KINDS, Pair, fixed
from bench.moving_programs.snippets import Snippet, of_kernel
from bench.moving_programs.values import MIB
from sysqcache.base.types import CacheMode
from sysqcache.spec.engines import Engine

pytestmark = pytest.mark.vm

SNIPPETS: Final = 2000

FOUND: Final = {
    "opaque": 0.65,
    "borders": 0.4,
    "one, two": 0.4,
    "two, one": 0.4,
    "elsewhere": 0.8,
    "no second page": 0.2,
    "other second page": 0.2,
    "settings": 0.98,
    "control bits": 0.98,
}
"""How many of the blocks are found for the second program, at least: in the first two kinds of
those that can have moving immediates, in the others of all."""

CMP: Final = bytes.fromhex("39c0")
"""CMP %eax,%eax"""

TAKEN: Final = (0x1, 0x3, 0x4, 0x6, 0x9, 0xA, 0xD, 0xE)
"""Conditions that hold behind it."""

FAR_JUMPS: Final = (
    (-0x2000000, -0x2100000),
    (-65 * MIB, -20 * MIB),
    (-20 * MIB, -65 * MIB),
    (-64 * MIB, -64 * MIB - 1),
    (-70 * MIB, -80 * MIB),
    (70 * MIB, 80 * MIB),
    (-0x2000000, 70 * MIB),
)
"""Distances of the first and of the second program."""

Case = tuple[Snippet, list[int], list[int]]


@pytest.fixture(scope="module")
def kernel(x86_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What runs the snippets."""
    return assemble(tmp_path_factory.mktemp("kernel"))


def sound(pair: Pair, kernel: Path, directory: Path) -> Verdict:
    """What a pair says, of which nothing is wrong."""
    verdict = judge(pair, kernel, directory / "runs")
    assert verdict.good, verdict.explain()
    assert verdict.again >= 0.99 * verdict.recorded
    return verdict


# odd seeds have one vendor of processors, even ones the other
@pytest.mark.parametrize(
    ("kind", "seed"),
    [("opaque", 1), ("opaque", 2), ("borders", 1), ("borders", 2)]
    + [(kind, seed) for seed, kind in enumerate(KINDS) if kind not in ("opaque", "borders")],
)
def test_what_is_adopted_fits(kind: str, seed: int, kernel: Path, tmp_path: Path) -> None:
    verdict = sound(KINDS[kind](kind, seed, SNIPPETS), kernel, tmp_path)
    assert verdict.recorded > SNIPPETS
    assert verdict.movable > SNIPPETS / 2
    found = (
        verdict.moved / verdict.movable
        if kind in ("opaque", "borders")
        else verdict.verified / verdict.recorded
    )
    assert found > FOUND[kind]


def far_jump(code: bytes, *distances: int) -> Case:
    """A jump behind ``code``, with its distance in the first and in the second program."""
    first, second = distances
    return of_kernel(Part(code) + number(4, jump=True)), [first], [second]


def jumps() -> Iterator[Case]:
    """Near jumps with all prefixes, among the first eight bytes of a block and behind them."""
    opcodes = [bytes([0x0F, 0x80 | condition]) for condition in range(16)] + [b"\xe8", b"\xe9"]
    prefixes = [b"", b"\x48", b"\x4f", b"\x66\x48", b"\xf2\x48", b"\xf3\x48", b"\x67\x48", b"\x64"]
    for lead in (CMP, CMP + b"\x90" * 8):
        for opcode, prefix in itertools.product(opcodes, prefixes):
            for distances in FAR_JUMPS:
                yield far_jump(lead + prefix + opcode, *distances)


def leads_to(case: Case, address: int, distance: int) -> int:
    """Where the snippet at ``address`` ends."""
    code = case[0].part.filled([distance])[:-1]
    jumps = code[-6] != 0x0F or code[-5] & 15 in TAKEN
    behind = address + len(code)
    # the trap is one byte, and tells of the next
    return (behind + distance if jumps else behind + 1) & (1 << 64) - 1


def test_jumps_with_rex_w(kernel: Path, tmp_path: Path) -> None:
    """The block of a conditional jump with REX.W was adopted for other distances.

    JMP and CALL with REX.W were, for distances between -64 and -16 MiB.
    """
    cases = list(jumps())
    pair = fixed("jumps", cases)
    program = pair.second.program
    off = run(program, kernel, tmp_path / "off", CacheMode.OFF)
    assert [result.rip for result in off.results] == [
        leads_to(case, address, case[2][0])
        for case, address in zip(cases, program.addresses, strict=True)
    ]
    sound(pair, kernel, tmp_path)


def test_one_conditional_jump_with_rex_w(kernel: Path, tmp_path: Path) -> None:
    """The smallest pair of programs that was once told apart by the cache alone."""
    case = far_jump(CMP + b"\x90" * 8 + bytes.fromhex("480f84"), *FAR_JUMPS[0])
    verdict = sound(fixed("one jump", [case]), kernel, tmp_path)
    assert (verdict.snippets, verdict.recorded) == (1, 1)


def results_of(cases: list[bytes], kernel: Path, directory: Path) -> Run:
    """What snippets leave."""
    pair = fixed("sums", [(of_kernel(Part(code)), [], []) for code in cases])
    return run(pair.first.program, kernel, directory, CacheMode.OFF, settings=Settings())


def test_what_a_snippet_leaves_is_seen(kernel: Path, tmp_path: Path) -> None:
    """Sums tell apart what differs, and are the same for the same."""
    push, pop = b"\x50", b"\x58"
    cases = {
        "nothing": b"\x90",
        "a register": b"\x41\xff\xc7",  # inc %r15d
        "a flag": b"\xf5",  # cmc
        "memory": push + pop,
        "a vector": b"\x0f\x57\xc1",  # xorps %xmm1,%xmm0
        "an upper half": b"\xc5\xf8\x77",  # vzeroupper
        "nothing again": b"\x90",
    }
    left = results_of(list(cases.values()), kernel, tmp_path / "a").results
    found = dict(zip(cases, left, strict=True))
    nothing, again = found["nothing"], found["nothing again"]
    assert (nothing.vector, nothing.vectors, nothing.arena) == (3, again.vectors, again.arena)
    for name in ("a register", "a flag"):
        assert found[name].general != nothing.general
        assert (found[name].vectors, found[name].arena) == (nothing.vectors, nothing.arena)
    assert found["memory"].arena != nothing.arena
    for name in ("a vector", "an upper half"):
        assert found[name].vectors != nothing.vectors
        assert found[name].arena == nothing.arena


def test_a_seed_makes_the_same_pair(kernel: Path, tmp_path: Path) -> None:
    """Else nobody could look into what a long search found; and running it twice is the same."""
    pairs = [KINDS["borders"]("borders", 7, 200) for _ in range(2)]
    assert pairs[0].second.program.image == pairs[1].second.program.image
    assert pairs[0].first.program.image != pairs[0].second.program.image
    runs = [
        run(pair.second.program, kernel, tmp_path / str(i), CacheMode.OFF)
        for i, pair in enumerate(pairs)
    ]
    assert runs[0].line == runs[1].line
    assert runs[0].results == runs[1].results
