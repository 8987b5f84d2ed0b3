# SPDX-License-Identifier: GPL-2.0-or-later
"""Many images bring many packs: small ones are gathered, and no boot set has too many."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from storehelp import OTHER_FINGERPRINT, ingest, make_blocks

from sysqcache.formats import block as bf
from sysqcache.machine.cache import Keeper
from sysqcache.spec import resolve
from sysqcache.store import groups, manifest
from sysqcache.store.facade import Store
from sysqcache.store.pack import Pack

TINY = Path(__file__).parents[2] / "configs" / "tiny-x86_64.yaml"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def images(store: Store, count: int) -> None:
    """So many images, each with blocks of its own and one of the image before it."""
    for number in range(count):
        ingest(store, make_blocks(number, number + 1), image=f"image {number}")


def guests(store: Store, image: str) -> set[bytes]:
    tables = [Pack.open(path).blocks() for path in store.boot_set(image, "x86_64")]
    return {bytes(t.guest_bytes(row)) for t in tables for row in range(len(t))}


def test_small_packs_of_many_images_become_one(store: Store) -> None:
    images(store, groups.GATHER + 8)
    live = [row for row in store.packs() if row.live]
    assert len(live) == 9  # what came first is one, the others follow
    assert [row.group for row in live].count(groups.GATHERED) == 1
    everything = {block.guest for block in make_blocks(*range(groups.GATHER + 9))}
    assert guests(store, "image 0") == guests(store, f"image {groups.GATHER + 7}") == everything
    assert store.verify().good
    again = ingest(store, make_blocks(*range(groups.GATHER)), image="image 0")
    assert (again.blocks_new, again.blocks_known) == (0, groups.GATHER)


def test_large_packs_stay(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "SMALL", 1)
    images(store, groups.GATHER + 2)
    assert sum(row.live for row in store.packs()) == groups.GATHER + 2


def test_gathered_packs_travel_and_survive_the_metadata(store: Store, tmp_path: Path) -> None:
    images(store, groups.GATHER + 1)
    other = Store.open(tmp_path / "other")
    store.export(tmp_path / "bundle")
    other.import_bundle(tmp_path / "bundle")
    assert guests(other, "image 0") == guests(store, "image 0")
    store.rebuild()
    assert guests(other, "image 0") == guests(store, "image 0")


def test_a_start_says_how_many_packs_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "MAX_PACKS", 3)
    with Store.open(tmp_path / "store") as store:
        images(store, 5)
        assert len(store.boot_set("image 4", "x86_64")) == 3
        assert store.packs_left_out == store.stats().left_out == 2
        # of several engines and CPUs a start is given packs of four, all of them together
        ingest(store, make_blocks(9000), image="image 4", fingerprint=OTHER_FINGERPRINT)
        assert len(store.boot_set("image 4", "x86_64")) == 3
        assert store.packs_left_out == store.stats().left_out == 3
        (said,) = [text for text, _ in store.degraded() if "are left out" in text]
        assert said.startswith("3 packs")
    warnings: list[str] = []
    spec = resolve.load(TINY, ["cache.mode=read-only"])
    spec = dataclasses.replace(spec, image_id="image 4")
    start = Keeper(warnings.append, tmp_path / "store").prepare(spec)
    start.close()
    assert (len(start.packs), start.packs_left_out, start.left_out) == (3, 3, False)
    assert [w for w in warnings if "3 packs are left out" in w and f"{bf.MAX_PACKS:,}" in w]
