# SPDX-License-Identifier: GPL-2.0-or-later
"""One module in detail: names that lead to it, offsets, dead places, the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from storehelp import OTHER_FINGERPRINT, ingest, make_block, make_blocks
from test_store_modules import BIOS, DRIVER, KERNEL, LIBC, SHELL, boot, placed, run

from sysqcache.base.errors import UsageError
from sysqcache.cli import cachemap
from sysqcache.formats.modules import Module, ModuleKind
from sysqcache.store.facade import Store
from sysqcache.store.inspect import candidates
from sysqcache.store.records import ModuleRow

OTHER_LIBC = Module(ModuleKind.FILE, "cf" * 20, "/usr/lib/libc.so.6")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


@pytest.mark.parametrize(
    ("asked", "module"),
    [
        ("kernel", KERNEL),
        ("6.1.0-test", KERNEL),
        ("libc.so.6", LIBC),
        ("/usr/lib/libc.so.6", LIBC),
        ("cccccc", LIBC),
        ("CCCCCCCC", LIBC),
        (LIBC.id, LIBC),
        ("virtio_blk", DRIVER),
        ("virtio-blk", DRIVER),
        ("virtio_blk.ko", DRIVER),
        ("bios.bin", BIOS),
        ("eeeeee", BIOS),
        (BIOS.id, BIOS),
        ("file:dash", SHELL),
    ],
)
def test_names_of_modules(store: Store, asked: str, module: Module) -> None:
    run(store, boot(store))
    assert store.module(asked).row.module == module


def test_code_without_a_place_has_a_name_too(store: Store) -> None:
    run(store, boot(store))
    detail = store.module("jit under 6.1.0-test")
    assert (detail.row.kind, len(detail.columns), detail.module) == ("jit", 1, None)
    assert len(store.module(f"unknown:unplaced:{KERNEL.id}").columns) == 1


@pytest.mark.parametrize("asked", ["libm.so.6", "ccccc", "file:virtio_blk", "", "kernel-module:"])
def test_names_of_nothing(store: Store, asked: str) -> None:
    run(store, boot(store))
    with pytest.raises(UsageError, match="no module"):
        store.module(asked)


def test_near_names_are_suggested(store: Store) -> None:
    run(store, boot(store))
    with pytest.raises(UsageError) as caught:
        store.module("/lib/libc.so.7")
    assert "did you mean libc.so.6?" in caught.value.hint


def test_ambiguous_names_list_the_candidates(store: Store) -> None:
    run(store, boot(store))
    run(store, placed(range(30, 32), OTHER_LIBC))
    with pytest.raises(UsageError) as caught:
        store.module("libc.so.6")
    assert caught.value.message == "2 modules are called 'libc.so.6'"
    assert all(one.id in caught.value.detail for one in (LIBC, OTHER_LIBC))
    assert store.module("cfcfcf").row.module == OTHER_LIBC


def test_modules_without_blocks_are_not_found(store: Store) -> None:
    run(store, boot(store))
    rewritten = [(make_block(30), OTHER_LIBC, 0x500)]
    assert run(store, rewritten, dead=[(0x7000, OTHER_LIBC, 0x500)]).blocks_new == 0
    assert store.module("libc.so.6").row.module == LIBC


def test_empty_store(store: Store) -> None:
    with pytest.raises(UsageError, match="no module"):
        store.module("libc.so.6")
    assert store.misses("m") is None


def test_offsets_of_all_fingerprints(store: Store) -> None:
    run(store, list(reversed(placed(range(1, 5), LIBC))), image="one")
    run(store, placed(range(3, 7), LIBC), image="two", fingerprint=OTHER_FINGERPRINT)
    run(store, placed(range(1, 2), LIBC), image="two")
    detail = store.module("libc.so.6")
    assert detail.columns.offset.tolist() == [16, 32, 48, 48, 64, 64, 80, 96]
    assert detail.columns.uses.tolist() == [2, 1, 1, 1, 1, 1, 1, 1]
    assert sorted(line.blocks for line in detail.lines) == [4, 4]
    assert detail.images == ("one", "two")
    assert [r.image_id for r in detail.runs] == ["one", "two", "two"]
    first, last = detail.started(detail.columns.first), detail.started(detail.columns.last)
    assert first[0] == detail.runs[0].started
    assert last[0] == detail.runs[2].started


def test_dead_places(store: Store) -> None:
    run(store, placed(range(4), LIBC), dead=[])
    run(store, placed(range(4, 6), LIBC), dead=[(0x7000, LIBC, 32)])
    detail = store.module("libc.so.6")
    assert [(d.offset, d.size) for d in detail.dead] == [(32, 16)]
    assert detail.dead_at(np.array([0, 31, 32, 47, 48])).tolist() == [-1, -1, 0, 0, -1]


def test_blocks_of_nobody_after_the_loss_of_all_metadata(store: Store) -> None:
    import shutil

    ingest(store, make_blocks(*range(5)))
    shutil.rmtree(store.layout.meta)
    store.layout.boot_sets.unlink()
    store.rebuild()
    detail = store.module("unknown")
    assert len(detail.columns) == 5
    assert detail.module is None


def test_names_of_hostile_rows_do_no_harm() -> None:
    row = ModuleRow(1, "x", "file", "/" * 10_000 + "\x1b[31m[red]", "files:1", 0, 0)
    assert candidates([row], "sha256:") == []
    assert candidates([row], "\x1b[31m[red]") == [row]


areas = st.lists(st.tuples(st.integers(0, 500), st.integers(1, 60)), min_size=1, max_size=40)


@given(areas)
def test_coverage_counts_each_byte_once(found: list[tuple[int, int]]) -> None:
    starts, sizes = (np.array(column, np.int64) for column in zip(*found, strict=True))
    covered = np.zeros(600, np.bool_)
    for start, size in found:
        covered[start : start + size] = True
    below = cachemap.covered_below(cachemap.merged(starts, sizes), np.arange(600))
    assert below.tolist() == [int(covered[:place].sum()) for place in range(600)]


@given(areas, st.integers(1, 1 << 20))
def test_regions_hold_all_blocks(found: list[tuple[int, int]], scale: int) -> None:
    found = sorted(found)
    starts, sizes = (np.array(column, np.int64) for column in zip(*found, strict=True))
    starts *= scale
    regions = cachemap.regions(starts, sizes, np.arange(len(starts)) + 1)
    assert 1 <= len(regions) <= cachemap.REGIONS
    assert sum(r.rows.stop - r.rows.start for r in regions) == len(starts)
    total = sum(float(r.cells.sum()) * r.size / cachemap.CELLS for r in regions)
    begin, end = cachemap.merged(starts, sizes)
    assert total == pytest.approx(float((end - begin).sum()))
    assert all(r.cells.min() >= 0 and r.cells.max() <= 1 for r in regions)
    assert all(len(r.picture()) == cachemap.CELLS for r in regions)


def test_no_regions_without_blocks() -> None:
    none = np.zeros(0, np.int64)
    assert cachemap.regions(none, none, none) == []


def test_sizes_in_the_columns_are_those_of_the_blocks(store: Store) -> None:
    run(store, placed(range(1, 3), LIBC))
    sizes = store.module("libc.so.6").columns.size.tolist()
    assert sizes == [len(make_block(1).guest), len(make_block(2).guest)]
