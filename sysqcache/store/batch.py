# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes of the metadata that become visible together."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import rocksdict

from sysqcache.store.columns import COLUMNS, Columns
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


class Batch:
    """Changes that become visible together, see :meth:`Meta.commit`."""

    def __init__(self) -> None:
        self._writes = rocksdict.WriteBatch(raw_mode=True)

    def put(self, *rows: PackRow | FingerprintRow | ImageRow | ModuleRow | DeadRow) -> None:
        """Insert or replace rows."""
        for row in rows:
            self._writes.put(_key(row), row.encode())

    def drop_dead(self, row: DeadRow) -> None:
        """Remove a dead area that came back to life."""
        self._writes.delete(_key(row))

    def put_why(self, run: int, why: Mapping[int, Mapping[str, int]]) -> None:
        """Insert why blocks of a run missed: counts by reason, by module number."""
        self._writes.put(why_key(run), json.dumps(why, separators=(",", ":")).encode())

    def put_run(self, row: RunRow, journal: bytes) -> None:
        """Insert a run; ``journal`` is the identity of what it came from."""
        self._writes.put(run_key(row.number), row.encode())
        self._writes.put(b"j/" + journal.hex().encode(), str(row.number).encode())

    def put_columns(
        self, sha256: str, columns: Columns, names: tuple[str, ...] = tuple(COLUMNS)
    ) -> None:
        """Replace the named columns of a pack."""
        for name, number, value in columns.chunks(names):
            self._writes.put(_column_key(sha256, name, number), value)

    def drop_pack(self, row: PackRow) -> None:
        """Remove a pack and its columns."""
        self._writes.delete(_key(row))
        self.drop_columns(row)

    def drop_columns(self, row: PackRow) -> None:
        """Remove the columns of a pack that no longer takes part in dedupe."""
        for name in COLUMNS:
            self._writes.delete_range(
                f"b/{row.sha256}/{name}/".encode(), f"b/{row.sha256}/{name}0".encode()
            )

    def finish(self, row: GlobalRow) -> rocksdict.WriteBatch:
        """The RocksDB batch, with the store's counters."""
        self._writes.put(b"g", row.encode())
        return self._writes


def run_key(number: int) -> bytes:
    """Key of a run's row."""
    return f"r/{number:08x}".encode()


def why_key(number: int) -> bytes:
    """Key of why a run's blocks missed."""
    return f"w/{number:08x}".encode()


_KEYS: Final[Mapping[type[Row], Callable[[Any], str]]] = {
    PackRow: lambda row: f"p/{row.sha256}",
    FingerprintRow: lambda row: f"f/{row.fingerprint}",
    ImageRow: lambda row: f"i/{row.image_id}",
    ModuleRow: lambda row: f"m/{row.number:08x}",
    DeadRow: lambda row: f"d/{row.module:08x}/{row.offset:08x}",
}


def _key(row: Row) -> bytes:
    return _KEYS[type(row)](row).encode()


def _column_key(sha256: str, name: str, number: int) -> bytes:
    return f"b/{sha256}/{name}/{number:04x}".encode()
