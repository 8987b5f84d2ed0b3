# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure whole commands: a boot with a task, as the shell sees it, and its keeper apart.

    python -m bench.whole [--rounds N] [--config VM.yaml] [--task CMD] [--json]

Each round boots cold (an empty store), warm (what the cold boot left, when it has been kept) and
with the cache off, in another order each time. --json measures commands that wait for their
blocks. Results go to bench/results.
"""

from __future__ import annotations

import resource
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench.figures import Figure, Limit
from bench.output import finish
from bench.session import DEBIAN, NAME, WORK, Session, Values, command_line, fresh_session

ORDERS: Final = (("off", "cold", "warm"), ("cold", "warm", "off"), ("cold", "off", "warm"))
"""A warm boot follows the cold one of its round."""

LIMITS: Final = {"warm/off": Limit(0.72), "cold/off": Limit(1.03)}


def one_command(session: Session, store: Path, kind: str, arguments: list[str]) -> dict[str, float]:
    """Wall and CPU time of one boot; then of its keeper, for which this waits."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    mode = "off" if kind == "off" else "on"
    session.output(store, "boot", *arguments, "--set", f"name={NAME}", "--cache", mode)
    wall = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {
        f"{kind}, whole command": wall,
        f"{kind}, CPU": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }
    runs = session.run(store, "cache", "wait")["runs"]
    if kind != "off" and "--json" not in arguments:
        found |= {f"{kind}, keeper": runs[-1]["wall_s"], f"{kind}, keeper's CPU": runs[-1]["cpu_s"]}
    return found


def one_round(session: Session, number: int, arguments: list[str]) -> dict[str, float]:
    """All three boots, and their ratios."""
    store = session.root / f"store-{number}"
    found: dict[str, float] = {}
    for kind in ORDERS[number % len(ORDERS)]:
        found |= one_command(session, store, kind, arguments)
    for kind in ("cold", "warm"):
        found[f"{kind}/off"] = found[f"{kind}, whole command"] / found["off, whole command"]
    shutil.rmtree(store)
    return found


def table(values: Mapping[str, list[float]]) -> list[Figure]:
    """Every figure; seconds, but for ratios."""
    return [
        Figure("", name, "" if "/" in name else "s", tuple(found), LIMITS.get(name))
        for name, found in values.items()
    ]


def main() -> int:
    """Measure and print a Markdown table."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--config", type=Path, default=DEBIAN)
    parser.add_argument("--task", default=WORK)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    arguments = [str(options.config), "--until", "ready", "--task", options.task]
    arguments += ["--json"] if options.json else []
    started, values = time.time(), Values()
    with fresh_session() as session:
        for number in range(options.rounds):
            for name, value in one_round(session, number, arguments).items():
                values.setdefault(name, []).append(value)
            sys.stderr.write(f"round {number + 1} of {options.rounds}\n")
    finish("whole", started, {"values": values}, table(values))
    return 0


if __name__ == "__main__":
    sys.exit(main())
