# SPDX-License-Identifier: GPL-2.0-or-later
"""The interval table of page owners, and RAM addresses as guest-physical ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sysqcache.formats.block import RAM_RANGE
from sysqcache.guestmap.flatview import MemoryRange
from sysqcache.guestmap.owners import TableBuilder
from sysqcache.guestmap.table import (
    NOWHERE,
    PAGE,
    UNKNOWN,
    Owner,
    OwnerKind,
    OwnerTable,
    RamMap,
)

LIBC = Owner(OwnerKind.FILE, "/lib/libc.so.6", "ab" * 20, 7, 1, 0xFFFF888000001000)
ANON = Owner(OwnerKind.ANONYMOUS)
OWNERS = (UNKNOWN, LIBC, ANON, Owner(OwnerKind.KERNEL, "memory"), Owner(OwnerKind.KERNEL, "text"))


def u64(*values: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(values, np.uint64)


def test_runs_of_pages_become_intervals() -> None:
    table = OwnerTable.from_pages(
        OWNERS,
        u64(1, 2, 3, 5, 6, 7),
        np.array([1, 1, 1, 2, 2, 1]),
        u64(0, PAGE, 5 * PAGE, 99, 98, 6 * PAGE),
    )
    # consecutive in memory but not in the file; anonymous pages have no offsets
    assert table.start.tolist() == [1, 3, 5, 7]
    assert table.end.tolist() == [3, 4, 7, 8]
    found = table.lookup(u64(0, PAGE + 5, 2 * PAGE + 1, 3 * PAGE, 4 * PAGE, 6 * PAGE + 9, 1 << 60))
    assert found.owner.tolist() == [0, 1, 1, 1, 0, 2, 0]
    assert found.offset.tolist() == [0, 5, PAGE + 1, 5 * PAGE, 0, 0, 0]
    assert table.counts()[OwnerKind.FILE] == 4
    assert table.counts()[OwnerKind.ANONYMOUS] == 2


def test_empty_table() -> None:
    table = OwnerTable.empty()
    assert len(table) == 0
    assert table.lookup(u64(0, 5)).owner.tolist() == [0, 0]
    assert set(table.counts().values()) == {0}
    with pytest.raises(ValueError, match="unknown"):
        OwnerTable((LIBC,), u64(), u64(), np.zeros(0, np.int64), u64())


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(1, 3)), min_size=1, max_size=60
    )
)
def test_lookup_gives_back_every_page(rows: list[tuple[int, int, int]]) -> None:
    pages = np.cumsum([gap for _, _, gap in rows]).astype(np.uint64)
    owner = np.array([one for one, _, _ in rows])
    offset = u64(*(place * PAGE for _, place, _ in rows))
    table = OwnerTable.from_pages(OWNERS, pages, owner, offset)
    assert (table.start[1:] >= table.end[:-1]).all()
    found = table.lookup(pages * np.uint64(PAGE) + np.uint64(17))
    assert found.owner.tolist() == owner.tolist()
    for i, one in enumerate(owner.tolist()):
        assert found.offset[i] == (offset[i] + 17 if OWNERS[one].has_offset else 0)


def test_builder_paints_the_surer_owner_last() -> None:
    builder = TableBuilder(
        [MemoryRange(0, 16 * PAGE, False), MemoryRange(1 << 20, (1 << 20) + PAGE, True, "bios")]
    )
    builder.paint_range(0, 8, LIBC, 3 * PAGE)
    builder.paint(u64(2, 300_000), builder.number(ANON))
    table = builder.table()
    found = table.lookup(u64(PAGE, 2 * PAGE, 3 * PAGE, 9 * PAGE, 1 << 20))
    assert [table.owners[i].kind for i in found.owner.tolist()] == [
        OwnerKind.FILE,
        OwnerKind.ANONYMOUS,
        OwnerKind.FILE,
        OwnerKind.UNKNOWN,
        OwnerKind.FIRMWARE,
    ]
    assert found.offset.tolist() == [4 * PAGE, 0, 6 * PAGE, 0, 0]
    assert sum(table.counts().values()) == 17
    assert TableBuilder([]).rows(u64(5)).tolist() == [-1]


def test_ram_map() -> None:
    records = np.zeros(2, RAM_RANGE.dtype)
    records["ram_addr"] = [0x100000, 0]
    records["guest_physical"] = [0x100000000, 0]
    records["size"] = [PAGE, 0xA0000]
    ram = RamMap.from_records(records)
    found = ram.guest_physical(u64(0, 0x9FFFF, 0xA0000, 0x100010, 0x101000, NOWHERE))
    assert found.tolist() == [0, 0x9FFFF, NOWHERE, 0x100000010, NOWHERE, NOWHERE]
    assert RamMap(u64(), u64(), u64()).guest_physical(u64(1)).tolist() == [NOWHERE]
