# SPDX-License-Identifier: GPL-2.0-or-later
"""Metadata that refer to modules or images that there are not: verify, rebuild."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from test_store_modules import BIOS, KERNEL, LIBC, SHELL, boot, dead_rows, lines, placed, run

from sysqcache.store.batch import Batch
from sysqcache.store.facade import Store
from sysqcache.store.manifest import read_manifest, write_manifest
from sysqcache.store.meta import Meta


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "store")
    run(store, boot(store), image="one", dead=[(0x7000, LIBC, 0x5000)])
    run(store, placed(range(40, 43), SHELL), image="two")
    return store


def lose(store: Store, *keys: str) -> None:
    """Remove rows of the metadata, and what the boot sets say of modules."""
    with Meta(store.layout.meta) as meta:
        batch = Batch()
        for key in keys:
            batch._writes.delete(key.encode())
        counters = meta.counters
        meta.commit(batch, dataclasses.replace(counters, generation=counters.generation + 1))
    manifest = read_manifest(store.layout)
    write_manifest(store.layout, dataclasses.replace(manifest, modules={}))


def number_of(store: Store, name: str) -> int:
    return store.module(name).row.number


def test_good_store_has_no_problems(store: Store) -> None:
    assert store.verify().problems == []


def test_blocks_of_a_module_that_is_not_listed(store: Store) -> None:
    lose(store, f"m/{number_of(store, 'libc.so.6'):08x}")
    report = store.verify()
    assert report.problems == [
        "8 blocks belong to modules that are not listed",
        "1 dead places lie in modules that are not listed",
        "1 images use modules that are not listed",
    ]
    assert not report.good
    before = lines(store)
    store.rebuild()
    assert store.verify().good
    assert dead_rows(store) == []
    after = lines(store)
    assert before["unknown"][1] == after["unknown"][1] == 8
    assert LIBC.name not in after
    assert after["/usr/bin/dash"] == ("file", 5, 0)
    # nobody knows whose they are, so every start maps them
    assert store.boot_set("never seen", "x86_64", lambda: [KERNEL])


def test_blocks_of_an_image_that_is_not_listed(store: Store) -> None:
    lose(store, "i/two")
    manifest = read_manifest(store.layout)
    images = tuple(image for image in manifest.images if image.image_id != "two")
    write_manifest(store.layout, dataclasses.replace(manifest, images=images))
    assert store.verify().problems == [
        "3 blocks belong to images that are not listed",
        "1 modules were seen in images that are not listed",
    ]
    store.rebuild()
    assert store.verify().good
    assert store.module("dash").images == ("one", "unknown")


def test_boot_sets_stand_in_for_a_lost_row(store: Store) -> None:
    number = number_of(store, "libc.so.6")
    with Meta(store.layout.meta) as meta:
        batch = Batch()
        batch._writes.delete(f"m/{number:08x}".encode())
        meta.commit(batch, meta.counters)
    assert not store.verify().good
    store.rebuild()
    assert store.verify().good
    assert store.module("libc.so.6").row.module == LIBC


def test_modules_of_the_boot_sets_find_their_groups_again(store: Store) -> None:
    """Else new blocks of theirs would go to packs that belong to no group."""
    groups = {p.group for p in store.packs()}
    shutil.rmtree(store.layout.meta)
    store.rebuild()
    assert store.verify().good
    with Meta(store.layout.meta, read_only=True) as meta:
        found = {row.module: row.group for row in meta.modules().values()}
    assert found[LIBC] == "files:1"
    assert found[KERNEL] == f"kernel:{KERNEL.id}"
    assert found[BIOS] == "firmware"
    run(store, [*placed(range(70, 72), LIBC), *placed(range(72, 74), KERNEL)], image="one")
    assert {p.group for p in store.packs()} == groups
    assert all(p.shares for p in store.packs())
