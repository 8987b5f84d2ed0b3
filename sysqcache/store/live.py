# SPDX-License-Identifier: GPL-2.0-or-later
"""The live packs of one fingerprint, their headers checked, with their block columns.

Which of their blocks a run adopted: what its journal says, as rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from sysqcache.base.counters import DAMAGE
from sysqcache.base.errors import FormatError
from sysqcache.base.system import is_short
from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import BlockTable, Offsets
from sysqcache.formats.journal import Journal
from sysqcache.store.columns import Columns
from sysqcache.store.layout import StoreLayout
from sysqcache.store.meta import Meta
from sysqcache.store.pack import Pack, PackHeader, read_header
from sysqcache.store.records import PackRow, PackStatus

_BAD: Final = DAMAGE | {"fingerprint", "page-bits", "unreadable", "version"}
"""Of packs of this store; "unreadable" is what is no file."""


@dataclass(frozen=True)
class LivePack:
    """A pack and its metadata. ``columns`` has a row for each block of the pack."""

    row: PackRow
    path: Path
    header: PackHeader
    columns: Columns

    def intact(self) -> tuple[BlockTable, Columns]:
        """Every block whose bytes are as written, with its metadata.

        Maps the pack. Raises FormatError ("bounds") when file and metadata do not fit
        together, OSError when the file can't be read now.
        """
        table = Pack.open(self.path).blocks()
        if not np.array_equal(table.offsets, self.columns.offsets()):
            raise FormatError(f"{self.path}: the index is damaged", reason="bounds")
        good = table.good_checksums()
        return table.select(good), self.columns.select(good)


@dataclass(frozen=True)
class LivePacks:
    """The live packs of a fingerprint, oldest first.

    :param lost: rows of those whose content is bad, or that are gone, with their new
        status; the caller commits them.
    :param refused: lines for the user about those that can't be used now: nothing is
        known of their content, so they stay what they are.
    """

    found: list[LivePack]
    lost: list[PackRow]
    refused: list[str]

    def warnings(self) -> list[str]:
        """Lines for the user."""
        lost = [f"pack {row.sha256[:12]} is {row.status}: not used any more" for row in self.lost]
        return lost + self.refused


def load_live(layout: StoreLayout, meta: Meta, fingerprint: str) -> LivePacks:
    """Find the live packs of a fingerprint; their headers are read and nothing else.

    Raises OSError when the system is short of something that every file needs.
    """
    rows = [p for p in meta.packs().values() if p.live and p.fingerprint == fingerprint]
    rows.sort(key=lambda p: (p.created, p.sha256))
    packs = LivePacks([], [], [])
    for row in rows:
        try:
            header = require_same(layout.pack(row.sha256), row)
        except FileNotFoundError:
            packs.lost.append(dataclasses.replace(row, status=PackStatus.MISSING))
        except (FormatError, OSError) as error:
            if is_damage(error):
                packs.lost.append(dataclasses.replace(row, status=PackStatus.DAMAGED))
            else:
                packs.refused.append(f"a pack is left as it is: {error}")
        else:
            packs.found.append(LivePack(row, layout.pack(row.sha256), header, meta.columns(row)))
    return packs


def require_same(path: Path, row: PackRow) -> PackHeader:
    """The header of the pack of ``row``. Raises FormatError for any other file, OSError."""
    head = read_header(path)
    if head.block_count != row.blocks or head.fingerprint.hex() != row.fingerprint:
        raise FormatError(f"{path} is not the pack of its name", reason="fingerprint")
    return head


def is_damage(error: FormatError | OSError) -> bool:
    """Whether a pack's content is bad; False when it could not be looked at, or must not be.

    Raises an OSError that is about no file in particular.
    """
    if isinstance(error, OSError):
        if is_short(error):
            raise error
        return False
    return error.reason in _BAD


def adopted_rows(live: Sequence[LivePack], journal: Journal) -> Offsets:
    """Rows of adopted blocks, counted through all packs in order, ascending, none twice.

    Packs that were replaced while the machine ran are not counted; neither is what does
    not lie where a block begins, as a journal is not to be trusted.
    """
    parts, before = [np.zeros(0, np.int64)], 0
    numbers = {name: number for number, name in journal.packs.items()}
    for pack in live:
        number = numbers.get(pack.row.sha256)
        if number is not None:
            of_pack = journal.adopted[journal.adopted["pack"] == number]
            parts.append(before + _rows(pack, of_pack["position"].astype(np.int64)))
        before += len(pack.columns)
    return np.unique(np.concatenate(parts))


def _rows(pack: LivePack, position: Offsets) -> Offsets:
    starts = pack.columns.offsets() // bf.ALIGN
    if not len(starts):
        return np.zeros(0, np.int64)
    row = np.minimum(np.searchsorted(starts, position), len(starts) - 1)
    rows: Offsets = row[starts[row] == position]
    return rows
