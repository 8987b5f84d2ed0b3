# SPDX-License-Identifier: GPL-2.0-or-later
"""The arrays that weigh evidence against the same written down plainly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from attributionhelp import World, code
from hypothesis import given
from hypothesis import strategies as st

from sysqcache.attribution import blocks, evidence
from sysqcache.attribution.blocks import RecordedBlocks, same_bytes
from sysqcache.attribution.checkpoint import checkpoint
from sysqcache.base.errors import MachineDied
from sysqcache.formats.runfiles import RunFiles
from sysqcache.machine.instances import Instance

ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(1, 30), st.booleans()), max_size=40
)


def columns(rows: list[tuple[int, int, int, bool]]) -> tuple[Any, Any, Any, Any]:
    table = np.array([row[:3] for row in rows], np.int64).reshape(-1, 3).T
    return table[0], table[1], table[2], np.array([row[3] for row in rows], bool)


def total(rows: list[tuple[int, int, int, bool]]) -> int:
    longest: dict[int, int] = {}
    for _, place, size, _ in rows:
        longest[place] = max(size, longest.get(place, 0))
    return sum(longest.values())


@given(ROWS)
def test_witnesses(rows: list[tuple[int, int, int, bool]]) -> None:
    group, place, size, _ = columns(rows)
    expected = [total([other for other in rows if other[0] == row[0]]) for row in rows]
    assert evidence.witnesses(group, place, size).tolist() == expected


@given(ROWS)
def test_after_last(rows: list[tuple[int, int, int, bool]]) -> None:
    page, _, _, refuted = columns(rows)
    expected = [
        not any(other[0] == row[0] and other[3] for other in rows[i:]) for i, row in enumerate(rows)
    ]
    assert evidence.after_last(page, refuted).tolist() == expected


@given(ROWS)
def test_before(rows: list[tuple[int, int, int, bool]]) -> None:
    page, place, size, _ = columns(rows)
    expected = []
    for i, row in enumerate(rows):
        seen: dict[int, int] = {}
        for other in rows[: i + 1]:
            if other[0] == row[0]:
                seen.setdefault(other[1], other[2])
        expected.append(sum(seen.values()))
    assert evidence.before(page, place, size).tolist() == expected


@given(ROWS)
def test_grouped(rows: list[tuple[int, int, int, bool]]) -> None:
    first, second, _, _ = columns(rows)
    number = evidence.grouped(first, second).tolist()
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            assert (number[i] == number[j]) == (one[:2] == other[:2])


@given(ROWS, st.integers(1, 60))
def test_runs(rows: list[tuple[int, int, int, bool]], least: int) -> None:
    page, place, size, equal = columns(rows)
    runs: list[list[int]] = [[]]
    for i, row in enumerate(rows):
        if row[3]:
            runs[-1].append(i)
        else:
            runs.append([])
    good = {i for run in runs if total([rows[i] for i in run]) >= least for i in run}
    proven = {
        row[0]: total([rows[i] for i in good if rows[i][0] == row[0]]) >= evidence.TOGETHER
        for row in rows
    }
    expected = [
        i in good and (row[2] >= evidence.ALONE or proven[row[0]]) for i, row in enumerate(rows)
    ]
    assert evidence.runs(equal, page, place, size, least).tolist() == expected


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 9)), max_size=30),
    st.integers(1, 20),
)
def test_same_bytes(pieces: list[tuple[int, int, int]], at_once: int) -> None:
    left, right = bytes(range(5)) * 10, bytes(range(5)) * 4 + bytes(30)
    before = blocks._AT_ONCE
    blocks._AT_ONCE = at_once  # type: ignore[misc]
    try:
        starts, others, size = np.array(pieces, np.int64).reshape(-1, 3).T
        same = same_bytes(
            np.frombuffer(left, np.uint8), starts, np.frombuffer(right, np.uint8), others, size
        )
    finally:
        blocks._AT_ONCE = before  # type: ignore[misc]
    assert same.tolist() == [left[a : a + n] == right[b : b + n] for a, b, n in pieces]


def test_blocks_are_those_of_the_journal() -> None:
    world = World()
    world.run(0x5FF0, 0x7FF0, code(1, 40), second=0x9000)
    world.run(0x5000, 0x8000, code(2, 7))
    journal = world.journal()
    found = RecordedBlocks.of(journal)
    assert [found.bytes_of(row) for row in (0, 1)] == [code(1, 40), code(2, 7)]
    pieces = found.pieces()
    assert pieces.block.tolist() == [0, 1, 0]
    assert pieces.size.tolist() == [16, 7, 24]
    assert (pieces.ram - np.uint64(1 << 30)).tolist() == [0x5FF0, 0x5000, 0x9000]
    raw = bytes(journal.blocks.buffer)
    assert [raw[at : at + 4] for at in found.record.tolist()] == [b"SQBL"] * 2


def test_a_machine_that_can_not_be_looked_into(tmp_path: Path) -> None:
    class Gone:
        def poll(self) -> int | None:
            return 0

        def died(self) -> MachineDied:
            return MachineDied("QEMU ended")

    found = checkpoint(Instance("nobody"), Gone(), RunFiles(tmp_path / "no.journal"))
    assert found.seen is None
    assert found.note == "QEMU ended"
