# SPDX-License-Identifier: GPL-2.0-or-later
"""Places of a run's blocks: their file, damaged ones, and two looks at one journal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sysqcache.base.errors import FormatError
from sysqcache.formats.modules import KINDS, Module, ModuleKind
from sysqcache.formats.places import NO_MODULE, Places

LIBC = Module(ModuleKind.FILE, "aa" * 20, "/usr/lib/libc.so.6")
KERNEL = Module(ModuleKind.KERNEL, "bb" * 20, "6.1.0-test")

Row = tuple[int, Module | ModuleKind, int]


def places(*rows: Row, dead: Sequence[tuple[int, Module | None]] = ()) -> Places:
    """Rows of (record, what it belongs to, offset)."""
    modules = tuple(dict.fromkeys(one for _, one, _ in rows if isinstance(one, Module)))
    modules += tuple({one for _, one in dead if one is not None} - set(modules))

    def number(one: Module | ModuleKind | None) -> int:
        return modules.index(one) if isinstance(one, Module) else NO_MODULE

    kinds = [one.kind if isinstance(one, Module) else one for _, one, _ in rows]
    return Places(
        modules=modules,
        record=np.array([record for record, _, _ in rows], np.int64),
        module=np.array([number(one) for _, one, _ in rows], np.int32),
        offset=np.array([offset for _, _, offset in rows], np.uint32),
        kind=np.array([KINDS.index(kind) for kind in kinds], np.uint8),
        kernel=KERNEL,
        dead_ram=np.array([ram for ram, _ in dead], np.uint64),
        dead_module=np.array([number(one) for _, one in dead], np.int32),
        dead_offset=np.zeros(len(dead), np.uint32),
    )


def rows(found: Places) -> list[Row]:
    """The inverse of :func:`places`."""
    return [
        (record, found.modules[module] if module != NO_MODULE else KINDS[kind], offset)
        for record, module, kind, offset in zip(
            found.record.tolist(),
            found.module.tolist(),
            found.kind.tolist(),
            found.offset.tolist(),
            strict=True,
        )
    ]


ONE = places((4096, LIBC, 16), (4200, ModuleKind.UNKNOWN, 0), dead=[(7, LIBC), (8, None)])


def test_file_and_back() -> None:
    again = Places.decode(ONE.encode())
    assert rows(again) == rows(ONE)
    assert again.modules == ONE.modules
    assert [module.name for module in again.modules] == [module.name for module in ONE.modules]
    assert again.kernel == KERNEL
    assert again.dead_ram.tolist() == [7, 8]
    assert (again.attributed, again.counts()[ModuleKind.UNKNOWN]) == (1, 1)
    assert rows(Places.decode(Places.nothing().encode())) == []


def test_a_later_look_adds_and_takes_nothing_away() -> None:
    first = places(
        (10, LIBC, 1), (20, ModuleKind.UNKNOWN, 0), (30, KERNEL, 3), dead=[(1, LIBC), (2, None)]
    )
    later = places(
        (10, ModuleKind.ANONYMOUS, 0),
        (20, KERNEL, 2),
        (30, KERNEL, 4),
        (40, ModuleKind.JIT, 0),
        dead=[(2, KERNEL)],
    )
    found = first.merged(later)
    assert rows(found) == [(10, LIBC, 1), (20, KERNEL, 2), (30, KERNEL, 4), (40, ModuleKind.JIT, 0)]
    dead = dict(zip(found.dead_ram.tolist(), found.dead_module.tolist(), strict=True))
    assert {ram: found.modules[module] for ram, module in dead.items()} == {1: LIBC, 2: KERNEL}


def test_merging_with_nothing() -> None:
    assert rows(ONE.merged(Places.nothing())) == rows(ONE)
    assert rows(Places.nothing().merged(ONE)) == rows(ONE)


@pytest.mark.parametrize(
    "changes",
    [
        {"module": np.array([0, 9], np.int32)},
        {"module": np.array([0, -2], np.int32)},
        {"kind": np.array([0, 200], np.uint8)},
        {"record": np.array([4200, 4096], np.int64)},
        {"offset": np.zeros(1, np.uint32)},
    ],
)
def test_arrays_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"block|records|lengths"):
        dataclasses.replace(ONE, **changes)


@given(st.data())
def test_damaged_files_are_refused_or_read(data: st.DataObject) -> None:
    content = bytearray(ONE.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = Places.decode(bytes(content[: data.draw(st.integers(0, len(content)))]))
    except FormatError:
        return
    assert len(found.record) == len(found.module)
