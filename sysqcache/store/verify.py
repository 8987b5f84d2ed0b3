# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads every byte of every pack and says what is wrong; changes nothing."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sysqcache.base.errors import FormatError, StoreError
from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import BlockTable
from sysqcache.store import references
from sysqcache.store.layout import StoreLayout
from sysqcache.store.meta import Meta, MetaDamaged
from sysqcache.store.pack import Pack, Query
from sysqcache.store.records import PackRow, PackStatus
from sysqcache.store.writer import build_index


@dataclass(frozen=True)
class PackCheck:
    """One pack file.

    :param status: as in the metadata, "unlisted" when they do not know the file.
    :param blocks: blocks that the header promises, 0 when it can't be read.
    :param damaged: of these, missing or with a bad checksum.
    :param unfindable: intact blocks that a lookup does not reach.
    :param problem: why the whole file is bad, or "".
    """

    sha256: str
    status: str
    blocks: int = 0
    damaged: int = 0
    unfindable: int = 0
    problem: str = ""

    @property
    def good(self) -> bool:
        """Whether nothing is wrong with the pack."""
        return not (self.damaged or self.unfindable or self.problem)


@dataclass
class VerifyReport:
    """All packs; ``problems`` are those of the store as a whole."""

    packs: list[PackCheck] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and all(p.good for p in self.packs)

    @property
    def blocks(self) -> int:
        """Blocks that were checked."""
        return sum(p.blocks for p in self.packs)


def verify(layout: StoreLayout, progress: Callable[[int, int], None]) -> VerifyReport:
    """Check everything; ``progress`` is told (bytes done, bytes in all).

    Needs no lock: packs are immutable. Raises OSError when the directory can't be read.
    """
    started = time.monotonic()
    report = VerifyReport()
    rows = _rows(layout, report)
    files = layout.pack_files()
    total = sum(path.lstat().st_size for path in files.values())
    done = 0
    for sha256, path in files.items():
        size = path.lstat().st_size
        row = rows.pop(sha256, None)
        if row is None or row.status != PackStatus.DAMAGED:
            report.packs.append(check_pack(sha256, path, row))
        else:
            report.packs.append(PackCheck(sha256, row.status, problem="marked as damaged"))
        done += size
        progress(done, total)
    for row in rows.values():
        if row.live:
            report.packs.append(PackCheck(row.sha256, row.status, problem="the file is missing"))
    report.seconds = time.monotonic() - started
    return report


def _rows(layout: StoreLayout, report: VerifyReport) -> dict[str, PackRow]:
    if not layout.meta.exists():
        return {}
    try:
        with Meta(layout.meta, read_only=True) as meta:
            rows = meta.packs()
            report.problems += references.problems(meta)
            return rows
    except MetaDamaged as error:
        report.problems.append(f"the metadata are damaged: {error}")
    except StoreError as error:
        report.problems.append(error.message)
    return {}


def check_pack(sha256: str, path: Path, row: PackRow | None = None) -> PackCheck:
    """Check one file: header, name, every checksum, every block's way through the index."""
    status = row.status if row else "unlisted"
    try:
        pack = Pack.open(path)
    except FormatError as error:
        return PackCheck(sha256, status, problem=error.message)
    table = pack.blocks()
    good = table.select(table.good_checksums())
    blocks = pack.header.block_count
    problem = ""
    if hashlib.sha256(pack.buffer).hexdigest() != sha256:
        problem = "the content is not what the name says"
    elif row is not None and row.blocks != blocks:
        problem = f"the metadata say {row.blocks} blocks"
    return PackCheck(
        sha256, status, blocks, max(blocks - len(good), 0), unfindable(pack, good), problem
    )


def unfindable(pack: Pack, table: BlockTable) -> int:
    """Blocks of ``table`` that a lookup with their own key and bytes does not find."""
    expected = build_index([table], table.offsets)
    if np.array_equal(expected, pack.index):
        return 0  # the one index in which all are found
    return sum(not _finds(pack, table, row) for row in range(len(table)))


def _finds(pack: Pack, table: BlockTable, row: int) -> bool:
    head = table.headers[row]
    query = Query(
        cs_base=int(head["cs_base"]),
        flags=int(head["flags"]),
        cflags=int(head["cflags"]),
        page_offset=int(head["page_offset"]),
        guest=bytes(table.guest_bytes(row)),
    )
    found = pack.find(query)
    if found is None:
        return False
    size: np.uint16 = bf.BLOCK.unpack(pack.buffer, found)["guest_size"]
    return bool(size == head["guest_size"])
