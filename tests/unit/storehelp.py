# SPDX-License-Identifier: GPL-2.0-or-later
"""Small journals and stores for the tests of the store."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from bench.reference.journalwriter import BlockData, journal_header
from sysqcache.base.types import RunInfo
from sysqcache.formats.blocktable import BlockTable
from sysqcache.formats.journal import parse_journal
from sysqcache.store.facade import Store
from sysqcache.store.recording import IngestResult

FINGERPRINT = b"\x11" * 32
OTHER_FINGERPRINT = b"\x22" * 32
TEXT = "arch=x86_64\nengine=test\n"


def make_block(number: int) -> BlockData:
    """Block ``number``: all differ in guest bytes and sizes, some are shorter than 8 bytes."""
    guest = (number.to_bytes(4, "little") * 8)[: 4 + number % 23]
    return BlockData(
        guest=guest,
        code=bytes([number & 255, 0xC3]) * (20 + number % 40),
        search=bytes(3 + number % 5),
        flags=0x40C0B3,
        cflags=0xFF000200,
        pc=0xFFFF_8000_0000 + number * 37,
    )


def make_blocks(*numbers: int) -> list[BlockData]:
    """Blocks by number."""
    return [make_block(number) for number in numbers]


def table_of(blocks: list[BlockData]) -> BlockTable:
    """Blocks as they lie in a journal."""
    data = journal_header(FINGERPRINT, TEXT) + b"".join(b.record() for b in blocks)
    return parse_journal(memoryview(data)).blocks


def write_journal(
    path: Path,
    blocks: list[BlockData],
    *,
    start_time: int = 1,
    fingerprint: bytes = FINGERPRINT,
    tail: bytes = b"",
) -> Path:
    """A journal with the mode that the engine gives it."""
    header = journal_header(fingerprint, TEXT, start_time=start_time, pid=7)
    path.write_bytes(header + b"".join(b.record() for b in blocks) + tail)
    path.chmod(0o600)
    return path


def make_run(name: str = "run") -> RunInfo:
    """A run to ingest."""
    return RunInfo(run_id=name, machine="m", arch="x86_64", mode="on", started=time.time())


_count = 0


def ingest(
    store: Store,
    blocks: list[BlockData],
    *,
    image: str = "image",
    fingerprint: bytes = FINGERPRINT,
) -> IngestResult:
    """One run that recorded ``blocks``; each call is another journal."""
    global _count  # noqa: PLW0603
    _count += 1
    run = make_run(f"run{_count}")
    journal = store.new_journal(image_id=image, run=run)
    write_journal(journal, blocks, start_time=_count, fingerprint=fingerprint)
    return store.ingest(journal, image_id=image, run=run)


def without_times(row: object) -> dict[str, object]:
    """A row's fields except those that depend on the clock."""
    values = dataclasses.asdict(row)  # type: ignore[call-overload]
    return {k: v for k, v in values.items() if k not in ("created", "last_used")}
