# SPDX-License-Identifier: GPL-2.0-or-later
"""The store's RocksDB: small JSON rows, and block metadata in columns.

Keys (docs/formats.md lists them too)::

    g                      GlobalRow
    p/<sha256>             PackRow
    f/<fingerprint>        FingerprintRow
    i/<image id>           ImageRow
    m/<number>             ModuleRow, number as 8 hex digits
    d/<module>/<offset>    DeadRow, both as 8 hex digits
    w/<number>             why blocks of a run missed: {module number: {reason: blocks}}
    r/<number>             RunRow, number as 8 hex digits
    j/<journal identity>   number of the run that the journal became
    b/<sha256>/<column>/<chunk>   block columns, chunk as 4 hex digits
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self, TypeVar

import numpy as np
import rocksdict

from sysqcache.base import system
from sysqcache.base.errors import StoreBusy, StoreError
from sysqcache.base.files import make_directory
from sysqcache.base.statefile import DAMAGED_JSON
from sysqcache.store.batch import Batch, run_key, why_key
from sysqcache.store.columns import COLUMNS, LATER, Columns, join_chunks
from sysqcache.store.records import (
    DeadRow,
    FingerprintRow,
    GlobalRow,
    ImageRow,
    ModuleRow,
    PackRow,
    Row,
    RunRow,
)

_R = TypeVar("_R", bound=Row)

_TICK: Final = 0.001

_OPEN_FILES: Final = 20
"""The fewest that RocksDB goes down to; a store has few tables."""


_THREADS: Final = 3
_MEMORY: Final = 128 << 20
"""What RocksDB takes at most; it ends the process if it can't have them."""


class MetaDamaged(Exception):
    """RocksDB can't be opened or read, or holds values that can't be decoded."""


def _translate(error: Exception, path: Path) -> Exception:
    """What an exception of RocksDB means; it has one class for everything."""
    text = str(error)
    refusal = system.refusal(text)
    # its lock is one of fcntl's, which a file system may lack that has flock's
    if "lock" in text.lower() and "LOCK" in text and refusal in (None, errno.EAGAIN, errno.EACCES):
        return StoreBusy(f"another process holds the metadata in {path}")
    if refusal is not None:
        return StoreError(
            f"the metadata in {path} can't be used: {os.strerror(refusal)}",
            hint=system.hint(refusal),
        )
    return MetaDamaged(text)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _translate(error, path) from error


def _require_room(path: Path) -> None:
    """Raise StoreError unless RocksDB will get what it takes."""
    with system.refused_as(StoreError, f"the metadata in {path} can't be used"):
        system.require_memory(_MEMORY)
        system.require_threads(_THREADS)


def _options(*, create: bool) -> rocksdict.Options:
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(create)
    options.set_compression_type(rocksdict.DBCompressionType.zstd())
    options.set_keep_log_file_num(2)
    options.set_max_open_files(_OPEN_FILES)
    options.set_max_file_opening_threads(1)
    options.set_max_log_file_size(1 << 20)
    options.set_write_buffer_size(64 << 20)
    return options


class Meta:
    """An open RocksDB. Close it, or use it as a context manager.

    Every method raises MetaDamaged for damage, StoreBusy while another process
    has it open for writing, StoreError when the system refuses.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open, or create when ``read_only`` is false.

        A read-only one sees what was committed when it was opened, and can be
        opened while another process writes.
        """
        self.path = path
        _require_room(path)
        access = rocksdict.AccessType.read_write()
        if read_only:
            # RocksDB would leave an empty directory behind
            if not (path / "CURRENT").exists():
                raise MetaDamaged("there is no CURRENT file")
            access = rocksdict.AccessType.read_only()
        elif not path.exists():
            make_directory(path)  # RocksDB asks for 0777
        with _translated(path):
            self._db = rocksdict.Rdict(
                str(path), _options(create=not read_only), access_type=access
            )
        try:
            self.counters = self._row(b"g", GlobalRow) or GlobalRow()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close; what was committed is safe already."""
        # it writes what its log has into a table, which a full disk may not take
        with contextlib.suppress(Exception):
            self._db.close()
        # that gave up before its locks
        del self._db

    def _get(self, key: bytes) -> bytes | None:
        with _translated(self.path):
            value: bytes | None = self._db.get(key)
        return value

    def _row(self, key: bytes, kind: type[_R]) -> _R | None:
        value = self._get(key)
        return None if value is None else _decode(kind, value)

    def _scan(self, prefix: bytes) -> Iterator[bytes]:
        """Values of all keys with a prefix."""
        return (value for _, value in self._scan_items(prefix))

    def _scan_items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        with _translated(self.path):
            cursor = self._db.iter()
            cursor.seek(prefix)
            while cursor.valid() and cursor.key().startswith(prefix):
                yield cursor.key(), cursor.value()
                cursor.next()
            # an iterator ends early at a damaged block, and only this tells
            cursor.status()

    def _rows(self, prefix: bytes, kind: type[_R]) -> list[_R]:
        return [_decode(kind, value) for value in self._scan(prefix)]

    def packs(self) -> dict[str, PackRow]:
        """Every pack by its sha256."""
        return {row.sha256: row for row in self._rows(b"p/", PackRow)}

    def fingerprints(self) -> dict[str, FingerprintRow]:
        """Every fingerprint by its hexadecimal form."""
        return {row.fingerprint: row for row in self._rows(b"f/", FingerprintRow)}

    def images(self) -> dict[str, ImageRow]:
        """Every image by its id."""
        return {row.image_id: row for row in self._rows(b"i/", ImageRow)}

    def now(self) -> float:
        """The time; behind all that the last runs left, also when the clock was set back."""
        last = max((row.last_used for row in self.fingerprints().values()), default=0.0)
        return max(time.time(), last + _TICK)

    def modules(self) -> dict[int, ModuleRow]:
        """Every module by its number."""
        return {row.number: row for row in self._rows(b"m/", ModuleRow)}

    def dead(self) -> list[DeadRow]:
        """Every dead area, by module and offset."""
        return self._rows(b"d/", DeadRow)

    def why(self, run: int) -> dict[int, dict[str, int]]:
        """Why blocks of a run missed: counts by reason, by module number."""
        value = self._get(why_key(run))
        try:
            rows = json.loads(value) if value is not None else {}
            return {int(number): dict(reasons) for number, reasons in rows.items()}
        except DAMAGED_JSON as error:
            raise MetaDamaged(f"the misses of run {run} can't be read: {error}") from error

    def runs(self) -> list[RunRow]:
        """Every run, oldest first."""
        return self._rows(b"r/", RunRow)

    def run_of(self, journal: bytes) -> RunRow | None:
        """The run that a journal became, if it was ingested."""
        number = self._get(b"j/" + journal.hex().encode())
        return None if number is None else self._row(run_key(_number(number)), RunRow)

    def runs_with_journals(self) -> Iterator[tuple[bytes, RunRow]]:
        """Every run with the identity of the journal that it came from."""
        runs = {row.number: row for row in self.runs()}
        for key, number in self._scan_items(b"j/"):
            row = runs.get(_number(number))
            if row is not None:
                yield bytes.fromhex(key[2:].decode()), row

    def columns(self, row: PackRow) -> Columns:
        """The block columns of a pack, ``row.blocks`` rows."""
        parts = {}
        for name in COLUMNS:
            try:
                parts[name] = join_chunks(
                    name, list(self._scan(f"b/{row.sha256}/{name}/".encode()))
                )
            except ValueError as error:
                raise MetaDamaged(f"column {name} of {row.sha256}: {error}") from error
        for name in LATER:
            if not len(parts[name]):
                parts[name] = np.zeros(row.blocks, COLUMNS[name])
        if any(len(column) != row.blocks for column in parts.values()):
            raise MetaDamaged(f"columns of {row.sha256} are not {row.blocks} rows long")
        return Columns(**parts)

    def commit(self, batch: Batch, counters: GlobalRow) -> None:
        """Write all of ``batch`` or nothing, durably."""
        options = rocksdict.WriteOptions()
        options.sync = True
        with _translated(self.path):
            self._db.write(batch.finish(counters), options)
            self._db.flush()
        self.counters = counters

    def shrink(self) -> None:
        """Give the space of replaced and removed values back."""
        with _translated(self.path):
            self._db.compact_range(None, None)


def _decode(kind: type[_R], value: bytes) -> _R:
    try:
        return kind.decode(value)
    except DAMAGED_JSON as error:
        raise MetaDamaged(f"a {kind.__name__} can't be read: {error}") from error


def _number(value: bytes) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise MetaDamaged(f"not a run number: {value[:20]!r}") from error
