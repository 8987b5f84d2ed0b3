# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure what belonging to modules is worth: images that never ran, attribution, maps.

    python -m bench.modules [--rounds N]

Needs the three Debian images. Each round boots the image that fills the store, then, each
with a copy of that store, another image and one with a changed library, neither of which
ever ran. Results go to bench/results.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.figures import SHARE, Figure, Limit
from bench.output import finish
from bench.session import CONFIGS, DEBIAN, NAME, WORK, Session, command_line, fresh_session
from sysqcache.base import paths

OTHER, UPGRADED = (CONFIGS / f"debian12-x86_64-{name}.yaml" for name in ("other", "upgraded"))
_INGEST_BLOCKS: Final = 300_000


@contextmanager
def detached(session: Session, store: Path) -> Iterator[None]:
    """The first machine, running."""
    session.boot(store, DEBIAN, "--detach")
    try:
        yield
    finally:
        session.run(store, "stop", NAME, "--force")


def attribution(report: dict[str, Any]) -> dict[str, float]:
    """Figures of a cold boot with its task."""
    found, cache = report["attribution"], report["cache"]
    seconds = found["look_s"] + found["place_s"] + cache["ingest_s"]
    return {
        "blocks recorded": found["blocks"],
        "attributed": found["attributed"] / found["blocks"],
        "unknown": found["kinds"]["unknown"] / found["blocks"],
        "look into the guest": found["look_s"],
        "attribution and ingest": seconds,
        f"the same, for {_INGEST_BLOCKS:,} blocks": seconds * _INGEST_BLOCKS / found["blocks"],
    }


def one_round(session: Session, number: int) -> dict[str, float]:
    """All boots of a round; figure name to value."""
    store = session.root / f"store-{number}"
    values = attribution(session.boot(store, DEBIAN, "--task", WORK))
    meta = sum(path.stat().st_size for path in (store / paths.STORE_META).iterdir())
    values["RocksDB, a block"] = meta / values["blocks recorded"]
    names = {"second boot": DEBIAN, "another image": OTHER, "a library changed": UPGRADED}
    for name, config in names.items():
        copy = session.root / "copy"
        shutil.copytree(store, copy)
        report = session.boot(copy, config)
        values[f"hit rate, {name}"] = report["blocks_at_ready"]["hit_rate"]
        shutil.rmtree(copy)
    with detached(session, store):
        session.forget_kernels()
        first, second = (session.run(store, "map", NAME) for _ in range(2))
    values["map, first of a kernel"] = first["took_s"]
    values["map, later"] = second["took_s"]
    values["guest paused for"] = max(first["paused_ms"], second["paused_ms"])
    shutil.rmtree(store)
    return values


LIMITS: Final = {
    "attributed": Limit(0.97, at_most=False),
    "unknown": Limit(0.005),
    f"the same, for {_INGEST_BLOCKS:,} blocks": Limit(8.0),
    "RocksDB, a block": Limit(60.0),
    "hit rate, second boot": Limit(0.97, at_most=False),
    "hit rate, another image": Limit(0.85, at_most=False),
    "hit rate, a library changed": Limit(0.90, at_most=False),
    "map, first of a kernel": Limit(2.0),
    "map, later": Limit(0.6),
    "guest paused for": Limit(50.0),
}
UNITS: Final = {
    "blocks recorded": "",
    "RocksDB, a block": "bytes",
    "guest paused for": "ms",
    **dict.fromkeys(("attributed", "unknown"), SHARE),
}


def unit(name: str) -> str:
    """The unit of a figure; seconds where nothing else is said."""
    return SHARE if name.startswith("hit rate") else UNITS.get(name, "s")


def table(rounds: list[dict[str, float]]) -> list[Figure]:
    """Every figure with its values of all rounds."""
    return [
        Figure("", name, unit(name), tuple(one[name] for one in rounds), LIMITS.get(name))
        for name in rounds[0]
    ]


def main() -> int:
    """Measure and print a Markdown table."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    started, found = time.time(), []
    with fresh_session() as session:
        for number in range(rounds):
            found.append(one_round(session, number))
            sys.stderr.write(f"round {number + 1} of {rounds}: {time.time() - started:.0f} s\n")
    finish("modules", started, {"rounds": found}, table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
