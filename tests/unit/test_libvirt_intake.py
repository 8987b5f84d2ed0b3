# SPDX-License-Identifier: GPL-2.0-or-later
"""Journals of domains on their way into a store, without libvirt."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sysqcache.base import paths
from sysqcache.libvirt.facts import Owner
from sysqcache.libvirt.folder import DomainFolder, DomainState, store_root
from sysqcache.libvirt.intake import Intake
from sysqcache.store.facade import Store

GOLDEN = Path(__file__).parents[1] / "golden"
UUID = "7a3f1f0c-52a6-4d6b-9b1c-1d8f6c1c9d11"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[DomainFolder]:
    with tempfile.TemporaryDirectory() as home:  # pytest's paths are too long for sockets
        monkeypatch.setenv(paths.ENV_HOME, home)
        folder = DomainFolder(UUID)
        uid, gid = os.geteuid(), os.getegid()
        folder.make(Owner(uid, gid))
        folder.write(DomainState(UUID, "tiny", "qemu:///x", "x86_64", "e", UUID, False, uid, gid))
        yield folder


def take(folder: DomainFolder, content: bytes, said: list[str]) -> Store:
    """What became of a run that left ``content``: the store, and lines for the user."""
    journal = folder.run / paths.DOMAIN_JOURNAL
    journal.write_bytes(content)
    journal.chmod(0o600)
    intake = Intake(folder, folder.read(), "", said.append)
    intake.rotate()
    assert intake.sweep() == 1
    assert list(folder.waiting.iterdir()) == []
    store = Store.open(store_root(folder.read()))
    assert list(store.layout.journals.iterdir()) == []
    return store


def test_a_journal_is_kept(folder: DomainFolder) -> None:
    said: list[str] = []
    store = take(folder, (GOLDEN / "v2.journal").read_bytes(), said)
    assert (store.stats().blocks, folder.read().damaged, said) == (11, 1, [])


def test_a_journal_of_an_engine_of_before_is_not(folder: DomainFolder) -> None:
    """It is no fault of the domain, and a large file is not left."""
    said: list[str] = []
    store = take(folder, (GOLDEN / "v1.journal").read_bytes(), said)
    assert (store.stats().blocks, folder.read().rejected) == (0, 0)
    assert len(said) == 1
    assert "12 recorded blocks are not kept" in said[0]
    assert list(store.layout.outdated.iterdir()) == []


def test_what_is_no_journal_is_counted_and_removed(folder: DomainFolder) -> None:
    said: list[str] = []
    store = take(folder, b"SYSQPACK" * 1000, said)
    assert (store.stats().blocks, folder.read().rejected) == (0, 1)
    assert list(store.layout.damaged.iterdir()) == []
