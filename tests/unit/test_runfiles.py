# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of a run: a journal is parsed once for each of its states."""

from __future__ import annotations

from pathlib import Path

import pytest
from storehelp import make_blocks, make_run, write_journal

from sysqcache.formats.places import Places
from sysqcache.formats.runfiles import Note, RunFiles
from sysqcache.store.facade import Store


def test_a_journal_is_parsed_once_for_each_of_its_states(tmp_path: Path) -> None:
    files = RunFiles(write_journal(tmp_path / "j", make_blocks(1, 2)))
    first = files.read_journal()
    assert files.read_journal() is first
    write_journal(files.path, make_blocks(1, 2, 3))
    second = files.read_journal()
    assert (len(first.blocks), len(second.blocks)) == (2, 3)
    assert files.read_journal() is second


def test_a_journal_that_is_gone_is_not_remembered(tmp_path: Path) -> None:
    files = RunFiles(write_journal(tmp_path / "j", make_blocks(1)))
    files.read_journal()
    files.path.unlink()
    with pytest.raises(FileNotFoundError):
        files.read_journal()


def test_what_lies_beside_a_journal(tmp_path: Path) -> None:
    files = RunFiles(write_journal(tmp_path / "j", make_blocks(1)))
    assert len(files.read_places().record) == 0
    note = Note("image", make_run())
    files.write_note(note)
    files.write_places(Places.nothing())
    assert RunFiles(files.path).read_note() == note
    assert len(list(tmp_path.iterdir())) == 3
    files.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_store_takes_what_was_read(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    files = RunFiles(write_journal(tmp_path / "j", make_blocks(1, 2)))
    files.read_journal()
    assert store.ingest(files, image_id="image", run=make_run()).blocks_new == 2
    assert not files.path.exists()
