# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure boots with many packs, and with a pack that a neighbour has filled with others' keys.

    python -m bench.packs [many] [dealt] [crowd] [--rounds N] [--config VM.yaml]

``many`` boots with the same blocks in 20 and in 200 packs, dealt out 32 neighbours at a time, as
code of one module lies in one pack; ``dealt`` does so block by block, which no store does.
``crowd`` boots with and without a pack of blocks that each begin as one which the machine wants.
Both take turns, every other time in the other order, and read the store alone.
Results go to bench/results.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from bench.figures import RATIO, Figure, Limit, figures_of
from bench.fuzzing.mutations import seal_block
from bench.output import finish
from bench.session import DEBIAN, Session, Values, command_line, fresh_session, parse_parts
from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import BlockTable
from sysqcache.store import key
from sysqcache.store.layout import StoreLayout
from sysqcache.store.manifest import read_manifest, write_manifest
from sysqcache.store.pack import Pack
from sysqcache.store.writer import write_pack

FEW, MANY = 20, 200
KEYS: Final = 1000
RUNS: Final = {"many": 32, "dealt": 1}
LIMITS: Final[dict[str, Limit | None]] = {"many": Limit(1.1), "dealt": None, "crowd": Limit(1.02)}


def split(pack: Path, folder: Path, count: int, run: int = 1) -> list[Path]:
    """The blocks of ``pack`` dealt out to ``count`` packs, ``run`` neighbours at a time."""
    folder.mkdir(exist_ok=True)
    whole = Pack.open(pack)
    table, head = whole.blocks(), whole.header
    owner = np.arange(len(table)) // run % count
    parts = [table.select(np.flatnonzero(owner == number)) for number in range(count)]
    return [
        write_pack(folder, head.fingerprint, head.text, [part]).path for part in parts if len(part)
    ]


def crowded(pack: Path, folder: Path, keys: int = 64, each: int = 1500) -> Path:
    """A pack in which many blocks have the key of one that is wanted, and other code behind it.

    The store leaves out those beyond ``block.MAX_SAME_KEY`` for a key.
    """
    table, rng = Pack.open(pack).blocks(), np.random.default_rng(1)
    head = table.headers
    fit = key.long_keys(table) & (head["guest_size"] > 16) & (head["block_flags"] >> 8 == 0)
    chosen = np.flatnonzero(fit)[:: max(1, int(fit.sum()) // keys)][:keys]
    content, offsets = bytearray(), []
    for i in chosen.tolist():
        start = int(table.offsets[i])
        block = bytes(table.buffer[start : start + int(table.padded_sizes()[i])])
        end = bf.BLOCK.size + int(head["guest_size"][i])
        for _ in range(each):
            offsets.append(len(content))
            content += block
            tail = slice(offsets[-1] + bf.BLOCK.size + 8, offsets[-1] + end)
            content[tail] = rng.bytes(tail.stop - tail.start)
            seal_block(content, offsets[-1])
    folder.mkdir()
    copies = BlockTable.at(memoryview(content), np.array(offsets, np.int64))
    header = Pack.open(pack).header
    return write_pack(folder, header.fingerprint, header.text, [copies]).path


def _offer(store: Path, packs: Sequence[Path]) -> None:
    """Let starts from ``store`` map these packs, for whatever image."""
    layout = StoreLayout(store)
    manifest = read_manifest(layout)
    rows = []
    for number, found in enumerate(packs):
        path = found.rename(layout.packs / found.name)
        size, head = path.stat().st_size, Pack.open(path).header
        old = manifest.packs[0]
        rows.append(
            dataclasses.replace(
                old, sha256=path.stem, blocks=head.block_count, bytes=size, shares={},
                created=old.created + number,
            )
        )  # fmt: skip
    write_manifest(layout, dataclasses.replace(manifest, packs=tuple(rows)))


def _spread(store: Path, count: int, run: int) -> None:
    """Deal the blocks of a store out to ``count`` packs, ``run`` at a time."""
    layout = StoreLayout(store)
    rows = read_manifest(layout).packs
    total, found = sum(row.blocks for row in rows), []
    for row in rows:
        share = max(1, round(count * row.blocks / total))
        found += split(layout.pack(row.sha256), store / "split", share, run)
    _offer(store, found)


def _crowd(store: Path) -> None:
    """Let starts map a pack that is in the way of all others."""
    layout = StoreLayout(store)
    rows = read_manifest(layout).packs
    kept = [layout.pack(row.sha256) for row in rows]
    largest = max(rows, key=lambda row: row.blocks)
    full = crowded(layout.pack(largest.sha256), store / "full", KEYS, bf.MAX_SAME_KEY)
    _offer(store, [full, *kept])


def _stores(session: Session, config: Path, part: str) -> dict[str, Path]:
    """The two stores that are compared, with names; what is measured is the second by the first."""
    first = session.root / "first"
    if not first.exists():
        session.boot(first, config)
    stores = {}
    names = (f"{FEW} packs", f"{MANY} packs") if part in RUNS else ("alone", "crowded")
    for name in names:
        stores[name] = shutil.copytree(first, session.root / f"{part}-{name}")
    if part in RUNS:
        _spread(stores[names[0]], FEW, RUNS[part])
        _spread(stores[names[1]], MANY, RUNS[part])
    else:
        _crowd(stores[names[1]])
    return stores


def turn(
    session: Session, config: Path, stores: dict[str, Path], found: Values, number: int
) -> None:
    """One boot of each, and what the second is by the first.

    :param number: of the round; every other one begins with the second.
    """
    seen = {}
    for name, store in list(stores.items())[:: -1 if number % 2 else 1]:
        report = session.boot(store, config, "--cache", "read-only")
        blocks = report["blocks_at_ready"]
        seen[name] = (report["times"]["ready_s"], blocks["vcpu_s"], blocks["adopt_cycles"])
        found[f"{name}, mapped"].append(report["cache"]["packs"])
        found[f"{name}, ready"].append(seen[name][0])
        found[f"{name}, cycles an adoption"].append(seen[name][2])
        found[f"{name}, hit rate"].append(blocks["hit_rate"])
    before, after = (seen[name] for name in stores)
    for place, what in enumerate(("ready", "vCPU time", "cycles an adoption")):
        found[f"{' / '.join(reversed(stores))}, {what}"].append(after[place] / before[place])


def table(part: str, found: Values) -> list[Figure]:
    """Every figure, and what is asked of adoptions (many) and of boots (crowd)."""
    asked = "cycles an adoption" if part in RUNS else "vCPU time"

    def unit(name: str) -> str:
        return RATIO if " / " in name else "s" if name.endswith("ready") else ""

    def limit(name: str) -> Limit | None:
        return LIMITS[part] if " / " in name and name.endswith(asked) else None

    return figures_of(found, unit, limit, part)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a Markdown table."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--config", type=Path, default=DEBIAN, metavar="VM.yaml")
    options = parse_parts(parser, list(LIMITS), arguments)
    started, figures = time.time(), []
    with fresh_session() as session:
        for part in options.parts:
            found = defaultdict[str, list[float]](list)
            stores = _stores(session, options.config.absolute(), part)
            for number in range(options.rounds):
                turn(session, options.config.absolute(), stores, found, number)
            figures += table(part, found)
    finish("packs", started, {}, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
