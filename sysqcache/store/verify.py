# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads every byte of every pack and says what is wrong; changes nothing."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sysqcache.base.errors import FormatError
from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import BlockTable, Offsets
from sysqcache.store import key, references
from sysqcache.store.layout import StoreLayout
from sysqcache.store.live import is_damage
from sysqcache.store.meta import Meta, MetaDamaged
from sysqcache.store.pack import Pack, outdated_header
from sysqcache.store.records import PackRow, PackStatus


@dataclass(frozen=True)
class PackCheck:
    """One pack file.

    :param status: as in the metadata, "unlisted" when they do not know the file; "outdated"
        for one of an earlier format version, which is not checked.
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

    @property
    def outdated(self) -> int:
        """Packs that were not checked, as no engine reads them."""
        return sum(p.status == PackStatus.OUTDATED for p in self.packs)


def verify(layout: StoreLayout, progress: Callable[[int, int], None]) -> VerifyReport:
    """Check everything; ``progress`` is told (bytes done, bytes in all).

    Needs no lock: packs are immutable. Raises OSError, StoreError when the
    directory or the metadata can't be read now.
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
        report.packs.append(_check(sha256, path, row))
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
    return {}


def _check(sha256: str, path: Path, row: PackRow | None) -> PackCheck:
    with contextlib.suppress(OSError):  # told below
        if outdated_header(path) is not None:
            return PackCheck(sha256, PackStatus.OUTDATED)
    if row is not None and row.status == PackStatus.DAMAGED:
        return PackCheck(sha256, row.status, problem="marked as damaged")
    return check_pack(sha256, path, row)


def check_pack(sha256: str, path: Path, row: PackRow | None = None) -> PackCheck:
    """Check one file: header, name, every checksum, every block's way through the index."""
    status = row.status if row else "unlisted"
    try:
        pack = Pack.open(path)
    except (FormatError, OSError) as error:
        is_damage(error)  # raises what is about no file in particular
        return PackCheck(sha256, status, problem=str(error))
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
    """Blocks of ``table``, all in bounds, that a lookup with their own key does not come to."""
    index, head = pack.index, pack.header
    hashes = key.index_hashes(table, head.seed)
    homes = key.home_slots(hashes, head.slot_count)
    slots = _slots(index, table.offsets, homes)
    inside = np.minimum(slots, len(index) - 1)
    entries = index[inside]
    mask = np.where(key.long_keys(table), np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0xFF))
    reached = (slots < len(index)) & (slots - homes < bf.MAX_WALK)
    reached &= entries["tag"] == (hashes & np.uint64(0xFFFF))
    reached &= (entries["prefix"] & mask) == (table.prefixes() & mask)
    empty = np.concatenate([[0], np.cumsum(index["position"] == 0)])
    reached &= empty[inside] == empty[homes]
    for row in np.flatnonzero(reached & (slots - homes >= bf.MAX_CANDIDATES)).tolist():
        before = index[homes[row] : slots[row]]
        same = (before["prefix"] & mask[row]) == (entries["prefix"][row] & mask[row])
        same &= before["tag"] == entries["tag"][row]
        reached[row] = np.count_nonzero(same) < bf.MAX_CANDIDATES
    return int(np.count_nonzero(~reached))


def _slots(index: bf.Records, offsets: Offsets, homes: Offsets) -> Offsets:
    """Of each block the first entry from its home on that points to it, else ``len(index)``."""
    positions = index["position"].astype(np.uint64) << np.uint64(32)
    entries = np.sort(positions | np.arange(len(index), dtype=np.uint64))
    wanted = (offsets // bf.ALIGN).astype(np.uint64) << np.uint64(32)
    at = np.searchsorted(entries, wanted | homes.astype(np.uint64))
    found = entries[np.minimum(at, len(entries) - 1)]
    own = (at < len(entries)) & (found >> np.uint64(32) == wanted >> np.uint64(32))
    slots: Offsets = np.where(own, found & np.uint64(0xFFFFFFFF), len(index)).astype(np.int64)
    return slots
