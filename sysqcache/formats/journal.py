# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads what the engine recorded; stops at a torn tail.

A journal is read through one mapping; a reader never trusts a size before it
compared it with what is left of the file, and each hop goes forward by at least
one record header, so that no input makes it loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from sysqcache.base.errors import FormatError
from sysqcache.base.mapfile import map_private
from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import BlockTable, Mask, Offsets, gather, whole_units

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class JournalHeader:
    """Who recorded: ``fingerprint`` raw SHA-256, ``start_time`` in ns since 1970."""

    version: int
    fingerprint: bytes
    text: str
    start_time: int
    pid: int
    identity: bytes
    """The 4096 header bytes' checksum: the same journal has the same identity."""


@dataclass(frozen=True)
class Journal:
    """A journal's whole and intact records.

    :param blocks: every block with good checksums, in the order of recording.
    :param records: the record header of each block, shape (n,).
    :param ram_map: shape (m,), of ``block.RAM_RANGE.dtype``.
    :param dead: places where code rewrites itself, of ``block.DEAD_AREA.dtype``;
        no block that began there is among ``blocks``.
    :param packs: names of the packs that were mapped, without ".pack", by number.
    :param adopted: first use of each block of a pack in the run, in the order of each
        vCPU thread, of ``block.ADOPTED.dtype``; only uses whose pack is in
        ``packs``. Positions are as the engine read them: look them up before use.
    :param damaged: blocks that were skipped for a bad checksum or bad sizes.
    :param skipped: records of unknown type.
    :param tail_bytes: bytes behind the last whole record.
    """

    header: JournalHeader
    blocks: BlockTable
    records: bf.Records
    ram_map: bf.Records
    dead: bf.Records
    packs: Mapping[int, str]
    adopted: bf.Records
    damaged: int
    skipped: int
    tail_bytes: int


def read_journal(path: Path) -> Journal:
    """Map and read a journal.

    Raises OSError, FormatError when the file is not ours alone, or its header is damaged;
    damage behind the header is counted instead.
    """
    return parse_journal(map_private(path), name=str(path))


def parse_journal(buffer: memoryview, *, name: str = "journal") -> Journal:
    """Read a journal from memory; ``name`` is for messages. Raises FormatError."""
    header = parse_header(buffer, name=name)
    offsets, records = _whole_records(buffer)
    end = int(offsets[-1] + records["total_size"][-1]) if len(offsets) else bf.HEADER_SIZE
    kinds = records["type"]
    blocks, kept, damaged = _blocks(buffer, offsets, records, kinds == bf.RECORD_BLOCK)
    dead = _payloads(buffer, offsets, records, bf.RECORD_DEAD, bf.DEAD_AREA)
    alive = ~np.isin(kept["ram0"], dead["ram_addr"])
    packs = _packs(_payloads(buffer, offsets, records, bf.RECORD_PACK, bf.PACK_NAME))
    adopted = _payloads(buffer, offsets, records, bf.RECORD_ADOPTED, bf.ADOPTED)
    return Journal(
        header=header,
        blocks=blocks.select(alive),
        records=kept[alive],
        ram_map=_payloads(buffer, offsets, records, bf.RECORD_RAM_MAP, bf.RAM_RANGE),
        dead=dead,
        packs=packs,
        adopted=adopted[np.isin(adopted["pack"], list(packs))],
        damaged=damaged,
        skipped=int(len(offsets) - np.count_nonzero(np.isin(kinds, bf.RECORDS_KNOWN))),
        tail_bytes=len(buffer) - end,
    )


def outdated_blocks(path: Path) -> int | None:
    """How many blocks a journal of an earlier format version holds; None for any other file.

    Nobody reads what is in them. Raises OSError.
    """
    try:
        buffer = map_private(path)
        header = parse_header(buffer, oldest=bf.OLDEST_KNOWN)
    except FormatError:
        return None
    if header.version == bf.VERSION:
        return None
    _, records = _whole_records(buffer)
    return int(np.count_nonzero(records["type"] == bf.RECORD_BLOCK))


def parse_header(
    buffer: bf.Buffer, *, name: str = "journal", oldest: int = bf.VERSION
) -> JournalHeader:
    """Check and read the first 4096 bytes. Raises FormatError with the reason.

    :param oldest: headers of format versions from this one on are read.
    """
    refused = f"{name} is not a usable journal"
    head = bf.open_header(buffer, bf.JOURNAL_HEADER, bf.JOURNAL_MAGIC, refused, oldest)
    bf.require(head["header_size"] == bf.HEADER_SIZE, refused, "bounds")
    return JournalHeader(
        version=int(head["version"]),
        fingerprint=head["fingerprint"].tobytes(),
        text=bf.header_text(head, refused),
        start_time=int(head["start_time"]),
        pid=int(head["pid"]),
        identity=int(head["checksum"]).to_bytes(8, "little"),
    )


def _hop(buffer: memoryview) -> list[int]:
    """Positions of records by magic and size alone, in units of 4 bytes."""
    words = buffer[: whole_units(buffer)].cast("I")
    position, end, header = bf.HEADER_SIZE // 4, len(words), bf.RECORD.size // 4
    found = []
    while position + header <= end:
        size = words[position + 1]
        # magic is compared here, and not later for all, to stop at the tail at once
        if words[position] != bf.RECORD_MAGIC or size < bf.RECORD.size or size & 15:
            break
        following = position + (size >> 2)
        if following > end:
            break
        found.append(position)
        position = following
    return found


def _whole_records(buffer: memoryview) -> tuple[Offsets, bf.Records]:
    """Offsets and headers of the records up to the first damaged header."""
    offsets = np.array(_hop(buffer), np.int64) * 4
    records = gather(buffer, offsets, bf.RECORD)
    digest, covered = xxhash.xxh3_64_intdigest, bf.RECORD.size - 8
    sums = [digest(buffer[start : start + covered]) for start in offsets.tolist()]
    bad = np.flatnonzero(np.array(sums, np.uint64) != records["checksum"])
    whole = int(bad[0]) if len(bad) else len(offsets)
    return offsets[:whole], records[:whole]


def _blocks(
    buffer: memoryview, offsets: Offsets, records: bf.Records, chosen: Mask
) -> tuple[BlockTable, bf.Records, int]:
    """Intact blocks, their records, and how many were damaged."""
    room = records["total_size"].astype(np.int64) - bf.RECORD.size
    payload = records["payload_size"].astype(np.int64)
    fits = chosen & (room >= bf.BLOCK.size + bf.ALIGN) & (payload <= room)
    table = BlockTable.at(buffer, offsets[fits] + bf.RECORD.size)
    good = table.in_bounds(room[fits]) & (table.sizes() <= payload[fits])
    table, kept = table.select(good), records[fits][good]
    intact = table.good_checksums()
    damaged = int(np.count_nonzero(chosen) - np.count_nonzero(intact))
    return table.select(intact), kept[intact], damaged


def _packs(names: bf.Records) -> dict[int, str]:
    """Names by number; a number has one name."""
    found: dict[int, str] = {}
    for number, name in zip(names["number"].tolist(), names["name"].tolist(), strict=True):
        found.setdefault(number, name.decode("ascii", "replace"))
    return found


def _payloads(
    buffer: memoryview, offsets: Offsets, records: bf.Records, kind: int, layout: bf.Layout
) -> bf.Records:
    """All structures in records of a kind that holds a list of them, in order."""
    parts = [np.zeros(0, layout.dtype)]
    for row in np.flatnonzero(records["type"] == kind).tolist():
        room = int(records["total_size"][row]) - bf.RECORD.size
        count = min(int(records["payload_size"][row]), room) // layout.size
        start = int(offsets[row]) + bf.RECORD.size
        if count:
            parts.append(np.frombuffer(buffer, layout.dtype, count, start))
    return np.concatenate(parts)
