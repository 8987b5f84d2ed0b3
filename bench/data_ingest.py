# SPDX-License-Identifier: GPL-2.0-or-later
"""Times of the store for a synthetic boot: journal to pack, boot set, merge, verify.

    python bench/data_ingest.py [--blocks 300000] [--runs 5] [--json]

The blocks have the sizes of a Debian boot: 300 bytes of host code, 17 of guest
code, 16 of search data on average; the code does not compress.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.reference.journalwriter import BlockData, journal_header
from sysqcache.base.types import RunInfo
from sysqcache.compare.workshop import disk_bytes
from sysqcache.formats.journal import read_journal
from sysqcache.store.facade import Store
from sysqcache.store.pack import Pack

FINGERPRINT = b"\x5a" * 32


def write_journal(path: Path, blocks: int, seed: int) -> None:
    """A journal of ``blocks`` blocks, all different, as the engine would write it."""
    rng = random.Random(seed)
    noise = rng.randbytes(1 << 20)
    with path.open("wb") as out:
        out.write(journal_header(FINGERPRINT, "arch=x86_64\n", start_time=seed, pid=1))
        for number in range(blocks):
            at = rng.randrange(1 << 19)
            guest = rng.randint(2, 32)
            out.write(
                BlockData(
                    guest=noise[at : at + guest],
                    code=noise[at : at + rng.randint(200, 400)],
                    search=noise[at : at + 16],
                    flags=seed,
                    cs_base=number >> 12,
                    pc=rng.randrange(1 << 40),
                ).record()
            )
    path.chmod(0o600)


def timed(action: Callable[[], object]) -> float:
    """Seconds that ``action`` takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def measure(root: Path, blocks: int, runs: int) -> dict[str, float]:
    """One first run with all blocks, then smaller ones until packs are merged."""
    result: dict[str, float] = {"blocks": blocks}
    store = Store.open(root)
    for number in range(runs):
        run = RunInfo(f"run{number}", "bench", "x86_64", "on", time.time())
        journal = store.new_journal(image_id="bench", run=run)
        write_journal(journal, blocks if number == 0 else blocks // 15, seed=number)
        if number == 0:
            result["journal_mb"] = journal.stat().st_size / 1e6
            result["read_journal_s"] = timed(functools.partial(read_journal, journal))
        cpu = time.process_time()
        outcome = store.ingest(journal, image_id="bench", run=run)
        cpu = time.process_time() - cpu
        if number == 0:
            result["ingest_s"] = outcome.seconds
            result["ingest_cpu_s"] = cpu  # what it would be on an idle machine, but for the disk
            packs = disk_bytes(root / "packs")
            result["bytes_per_block"] = disk_bytes(root) / blocks
            result["meta_bytes_per_block"] = (disk_bytes(root) - packs) / blocks
            assert outcome.packs
            result["open_pack_ms"] = timed(functools.partial(Pack.open, outcome.packs[0])) * 1e3
        if number == 1:
            result["ingest_second_s"] = outcome.seconds
        result["ingest_last_s"] = outcome.seconds
    result["boot_set_ms"] = timed(lambda: store.boot_set("bench", "x86_64")) * 1e3
    result["list_ms"] = timed(store.list_modules) * 1e3
    result["verify_s"] = timed(store.verify)
    result["rebuild_s"] = timed(store.rebuild)
    result["compact_s"] = timed(store.compact)
    stats = store.stats()
    result["bytes_per_block_after_merge"] = disk_bytes(root) / stats.blocks
    return result


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=5, help="5 or more end in a merge")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = measure(Path(directory) / "store", options.blocks, options.runs)
    if options.json:
        json.dump(
            {"cpus": os.cpu_count(), "load": os.getloadavg()[0], **result}, sys.stdout, indent=1
        )
        print()
        return
    for name, value in result.items():
        print(f"{name:30} {value:12.3f}")


if __name__ == "__main__":
    main()
