# SPDX-License-Identifier: GPL-2.0-or-later
"""SIGKILL at each step of an ingest, and several processes at once: real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from storehelp import TEXT, ingest, make_block, make_blocks, make_run, write_journal

from sysqcache.store.facade import Store
from sysqcache.store.pack import Pack

POINTS = (
    "journal-read",
    "pack-written",
    "pack-synced",
    "pack-published",
    "committed",
    "boot-sets-written",
    "journal-removed",
)
DOCS = Path(__file__).parents[2] / "docs" / "formats.md"

INGEST = """
import os, sys
from pathlib import Path
from sysqcache.store.facade import Store
from sysqcache.base.types import RunInfo

root, journal, point = sys.argv[1:]
def reached(name):
    if name == point:
        os.kill(os.getpid(), 9)
run = RunInfo(Path(journal).stem, "m", "x86_64", "on", 1.0)
result = Store.open(Path(root)).ingest(
    Path(journal), image_id="image", run=run, reached=reached
)
print(result.blocks_new)
"""


def start_ingest(store: Store, journal: Path, point: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", INGEST, str(store.layout.root), str(journal), point],
        stdout=subprocess.PIPE,
        text=True,
    )


def again(store: Store, journal: Path) -> int:
    """The ingest that follows one that failed: its new blocks."""
    opened = Store.open(store.layout.root)
    return opened.ingest(journal, image_id="image", run=make_run(journal.stem)).blocks_new


def mapped_guests(store: Store) -> list[bytes]:
    tables = [Pack.open(p).blocks() for p in store.boot_set("image", "x86_64")]
    assert all(t.good_checksums().all() for t in tables)
    return sorted(bytes(t.guest_bytes(i)) for t in tables for i in range(len(t)))


@pytest.mark.parametrize("runs_before", [1, 4], ids=["new pack", "merge"])
@pytest.mark.parametrize("point", POINTS)
def test_kill(tmp_path: Path, point: str, runs_before: int) -> None:
    store = Store.open(tmp_path / "store")
    for number in range(runs_before):
        ingest(store, make_blocks(number, number + 50))
    before = mapped_guests(store)
    journal = write_journal(
        store.layout.journals / "j.journal", make_blocks(0, *range(100, 120)), start_time=10**9
    )
    killed = start_ingest(store, journal, point)
    assert killed.communicate()[0] == ""
    assert killed.returncode == -signal.SIGKILL

    wanted = sorted([*before, *(b.guest for b in make_blocks(*range(100, 120)))])
    done = POINTS.index(point) >= POINTS.index("boot-sets-written")
    assert mapped_guests(store) == (wanted if done else before)
    assert all(not p.problem and not p.damaged for p in store.verify().packs)
    assert journal.exists() == (point != "journal-removed")
    if journal.exists():
        assert again(store, journal) == 20
    assert mapped_guests(store) == wanted
    assert store.stats().runs == runs_before + 1
    assert not list(store.layout.packs.glob(".new*"))
    store.compact()
    assert mapped_guests(store) == wanted
    assert store.verify().good


def test_kill_of_the_first_ingest(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    journal = write_journal(store.layout.journals / "j.journal", make_blocks(1, 2))
    assert start_ingest(store, journal, "pack-published").communicate()[0] == ""
    assert store.boot_set("image", "x86_64") == []
    assert again(store, journal) == 0  # the pack is there
    assert mapped_guests(store) == sorted(b.guest for b in make_blocks(1, 2))


FULL = """
import resource, sys
from pathlib import Path
from sysqcache.base.errors import StoreError
from sysqcache.store.facade import Store
from sysqcache.base.types import RunInfo

# a write beyond the limit fails as on a full disk (Python ignores SIGXFSZ)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
run = RunInfo("full", "m", "x86_64", "on", 1.0)
try:
    Store.open(Path(sys.argv[1])).ingest(Path(sys.argv[2]), image_id="image", run=run)
except StoreError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("limit", [1000, 6000, 12000])
def test_no_space(tmp_path: Path, limit: int) -> None:
    store = Store.open(tmp_path / "store")
    ingest(store, make_blocks(1, 2))
    before = mapped_guests(store)
    journal = write_journal(store.layout.journals / "j.journal", make_blocks(*range(200)))
    command = [sys.executable, "-c", FULL, str(store.layout.root), str(journal), str(limit)]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout == b"StoreError\n"
    assert journal.exists()
    assert mapped_guests(store) == before
    assert store.verify().good
    assert again(store, journal) == 198
    assert store.verify().good


def test_points_are_documented() -> None:
    text = DOCS.read_text()
    assert all(f"`{point}`" in text for point in POINTS)


def test_two_ingests_and_readers_at_once(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    journals = [
        write_journal(
            store.layout.journals / f"{n}.journal",
            make_blocks(*range(n * 1000, n * 1000 + 3000)),
            start_time=n + 1,
        )
        for n in range(4)
    ]
    running = [start_ingest(store, journal) for journal in journals]
    sizes = []
    while any(process.poll() is None for process in running):
        sizes.append(len(mapped_guests(store)))
        assert sum(m.blocks for m in store.list_modules()) >= sizes[-1]
        time.sleep(0.01)
    assert [process.returncode for process in running] == [0] * 4
    new = sum(int(process.communicate()[0]) for process in running)
    assert sizes == sorted(sizes)
    assert new == 6000
    assert mapped_guests(store) == sorted(make_block(n).guest for n in range(6000))
    assert store.warnings == []
    assert store.verify().good
    assert TEXT.startswith("arch=")
