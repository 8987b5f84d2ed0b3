# SPDX-License-Identifier: GPL-2.0-or-later
"""Kills what writes to a store at random moments, and looks at the store after each kill."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from bench.reference.journalwriter import BlockData, journal_header
from bench.soaking.host import Faults
from sysqcache.base.types import RunInfo
from sysqcache.formats.runfiles import RunFiles
from sysqcache.store.facade import Store
from sysqcache.store.pack import Pack

ARCH: Final = "x86_64"
FINGERPRINT: Final = b"\x11" * 32
TEXT: Final = f"arch={ARCH}\n"
IMAGES: Final = 4
BLOCKS: Final = 40
"""Of a run; half of them are new."""

OTHERS: Final = 1 << 24
"""Numbers of blocks that come with bundles begin here."""

THOROUGH: Final = 20
"""After so many kills everything is repaired, read and compared."""

GIVE_UP: Final = 10


def block(number: int) -> BlockData:
    """Block ``number``: its code follows from its guest bytes."""
    guest = (number.to_bytes(4, "little") * 8)[: 8 + number % 23]
    return BlockData(
        guest=guest,
        code=guest[::-1] * (1 + number % 5),
        search=bytes(3 + number % 5),
        flags=0x40C0B3,
        cflags=0xFF000200,
        pc=0xFFFF_8000_0000 + number * 37,
    )


class Writers:
    """Everything that writes to a store; each is called in a process of its own.

    ``run`` numbers the run: it has its own journal, and blocks that no other one has.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.run = root / "store", 0
        self._other, self._bundle = root / "other", root / "bundle"
        self.all: list[Callable[[], None]] = [
            self.ingest,
            self.ingest,
            self.recover,
            self.rebuild,
            self.compact,
            self.travel,
            self.pin,
        ]

    def _image(self) -> str:
        return f"image{self.run % IMAGES}"

    def _info(self) -> RunInfo:
        return RunInfo(f"run{self.run}", "m", ARCH, "on", time.time())

    def _record(self, root: Path, first: int = 0) -> RunFiles:
        """The journal of a run, as an engine leaves it; its blocks begin with ``first``."""
        store = Store.open(root)
        journal = store.new_journal(image_id=self._image(), run=self._info())
        first += self.run * BLOCKS // 2
        records = [block(number).record() for number in range(first, first + BLOCKS)]
        header = journal_header(FINGERPRINT, TEXT, start_time=self.run + 1, pid=7)
        journal.touch(0o600)
        journal.write_bytes(header + b"".join(records))
        return RunFiles(journal)

    def _ingest(self, root: Path, first: int = 0) -> None:
        files = self._record(root, first)
        Store.open(root).ingest(files, image_id=self._image(), run=self._info())

    def ingest(self) -> None:
        """A run ends."""
        self._ingest(self.root)

    def recover(self) -> None:
        """A run whose controller was killed is taken in."""
        self._record(self.root)
        Store.open(self.root).recover()

    def rebuild(self) -> None:
        """The metadata are made anew."""
        Store.open(self.root).rebuild()

    def compact(self) -> None:
        """Superseded packs go."""
        Store.open(self.root).compact()

    def travel(self) -> None:
        """Another store, which has a run of its own, is exported and imported."""
        self._ingest(self._other, OTHERS)
        Store.open(self._other).export(self._bundle)
        Store.open(self.root).import_bundle(self._bundle)

    def pin(self) -> None:
        """A machine is saved."""
        store = Store.open(self.root)
        store.pin(f"machine{self.run % 3}", [path.stem for path in _packs(store)])


def kills(root: Path, count: int, seed: int) -> Faults:
    """Kill ``count`` writers below ``root``; what was lost, wrong or unusable."""
    faults, chance, writers = Faults(), random.Random(seed), Writers(root)
    look = Look(writers.root, root / "found")
    seconds: dict[str, float] = {}
    done = 0
    while done < count and len(faults.found) < GIVE_UP:
        writers.run += 1
        action = chance.choice(writers.all)
        name = action.__name__
        started = time.monotonic()
        # the first of its kind is measured
        killed = _child(action, chance.uniform(0, seconds[name]) if name in seconds else None)
        if not killed:
            seconds[name] = time.monotonic() - started
        done += killed
        faults.count(f"{name}, killed" if killed else name)
        try:
            look.look(thorough=killed and done % THOROUGH == 0)
        except RuntimeError:
            faults.add(f"after {name} of run {writers.run}: the store is not what it must be")
    sys.stderr.write(f"{done} kills: {dict(faults.counts)}, {len(look.kept)} blocks\n")
    return faults


def _child(action: Callable[[], object], patience: float | None = None) -> bool:
    """Call ``action`` in a process of its own; True when that was killed after ``patience`` s.

    Raises RuntimeError when it failed by itself.
    """
    pid = os.fork()
    if not pid:
        code = 1
        try:
            action()
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    if patience is not None:
        time.sleep(patience)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    if status:
        raise RuntimeError(f"{action} failed")
    return False


class Look:
    """Looks at a store that a writer has left; ``kept``: all blocks that were ever published."""

    def __init__(self, root: Path, found: Path) -> None:
        self._root, self._found = root, found
        self.kept: set[int] = set()

    def look(self, *, thorough: bool) -> None:
        """Raises RuntimeError, with the reason on stderr, when something is lost or wrong.

        :param thorough: let the store be repaired and shrunk, and read every byte of it.
        """
        self._found.unlink(missing_ok=True)
        _child(lambda: self._look(thorough=thorough))
        self.kept |= set(np.fromfile(self._found, np.int64).tolist())

    def _look(self, *, thorough: bool) -> None:
        if thorough:
            self._repair(Store.open(self._root))
        store = Store.open(self._root)
        numbers = set()
        for path in _packs(store):
            numbers |= self._read(path, everything=thorough)
        assert not store.warnings, store.warnings
        assert numbers >= self.kept, f"{len(self.kept - numbers)} published blocks are lost"
        np.array(sorted(numbers), np.int64).tofile(self._found)

    def _repair(self, store: Store) -> None:
        store.recover()
        assert store.rebuild().moved == []
        store.compact()
        assert store.verify().good, store.verify()
        assert store.list_modules() or not self.kept
        # as a rebuild leaves them that is killed before it exchanges them
        assert all("rebuilt from its packs" in text for text in store.warnings), store.warnings

    def _read(self, path: Path, *, everything: bool) -> set[int]:
        """Numbers of a pack's blocks; those that nobody has seen yet are compared."""
        pack = Pack.open(path)
        table = pack.blocks()
        assert pack.holds_all_of(table), f"{path} is not whole"
        firsts = [int.from_bytes(table.guest_bytes(n)[:4], "little") for n in range(len(table))]
        rows = zip(firsts, table.offsets.tolist(), table.padded_sizes().tolist(), strict=True)
        for number, offset, size in rows:
            if everything or number not in self.kept:
                same = bytes(table.buffer[offset : offset + size]) == block(number).encode()
                assert same, f"{path}: block {number} is wrong"
        return set(firsts)


def _packs(store: Store) -> list[Path]:
    return sorted({path for n in range(IMAGES) for path in store.boot_set(f"image{n}", ARCH)})
