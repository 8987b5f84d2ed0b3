# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure guests of every architecture, into one table.

    python -m bench.arches [VM.yaml]... [--rounds N]

Default: Debian 12 and 13 for all architectures that they have, and the tiny arm64 and riscv64
guests, as far as these images are built. Each round is a
cold boot, a warm one and a verified one with the blocks of the cold one; `sysqcache compare`
follows with as many rounds of resumes. Results go to bench/results.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bench import table
from bench.figures import RATIO, SAVED_SHARE, SECOND_HIT_RATE, SHARE, Figure, Limit
from bench.output import keep
from bench.saved import Guest, compare, task_of
from bench.session import CONFIGS, Session, Values, command_line, fresh_session
from bench.table import number
from sysqcache.spec import catalog

_DEBIAN: Final = "debian"
DEFAULT: Final = (
    *("debian12-x86_64", "debian12-arm64"),
    *("debian13-x86_64", "debian13-arm64", "debian13-riscv64"),
    *("tiny-arm64", "tiny-riscv64"),
)

HITS: Final = "hit rate, second boot"
READY: Final = "ready, warm/cold"
COLD_SHARE: Final = "share of translation, cold"
WARM_SHARE: Final = "share of translation, warm"
MISMATCHES: Final = "mismatches, verified"
FIRST_TASK: Final = "template+warm/internal, first task"
COLUMNS: Final = {
    HITS: SHARE,
    READY: RATIO,
    COLD_SHARE: SHARE,
    WARM_SHARE: SHARE,
    FIRST_TASK: RATIO,
    MISMATCHES: "",
}
"""The table's columns with their units."""


def boots(session: Session, guest: Guest, found: Values) -> None:
    """One round: cold, warm and verified; what is said of the first two is up to ready."""
    store, copy = session.root / "cold", session.root / "copy"
    cold = session.boot(store, guest.config, "--task", guest.task)
    shutil.copytree(store, copy)
    warm = session.boot(copy, guest.config)
    verified = session.boot(store, guest.config, "--cache", "verify", "--task", guest.task)
    for directory in (store, copy):
        shutil.rmtree(directory)
    at_ready = [report["blocks_at_ready"] for report in (cold, warm)]
    found[HITS].append(at_ready[1]["hit_rate"])
    found[READY].append(warm["times"]["ready_s"] / cold["times"]["ready_s"])
    found[COLD_SHARE].append(at_ready[0]["translate_share"])
    found[WARM_SHARE].append(at_ready[1]["translate_share"])
    found[MISMATCHES].append(verified["blocks"]["mismatches"])


def measure(config: Path, rounds: int) -> Values:
    """All figures of one machine, with state of its own."""
    found: Values = defaultdict(list)
    guest = Guest(config, rounds, task_of(config))
    with fresh_session() as session:
        for _ in range(rounds):
            boots(session, guest, found)
        compare(session, guest, found)
    return found


def limits(config: str, found: Mapping[str, Sequence[float]]) -> dict[str, Limit]:
    """What is asked; of the tiny guests, which do little else than start, no times."""
    asked = {HITS: SECOND_HIT_RATE[True], MISMATCHES: Limit(0.0)}
    if config.startswith(_DEBIAN):
        # a boot can't win more than the share that translating had of it
        bound = 1 - SAVED_SHARE * statistics.median(found[COLD_SHARE])
        asked |= {READY: Limit(bound), FIRST_TASK: Limit(0.5)}
    return asked


def figures(config: str, found: Mapping[str, Sequence[float]]) -> list[Figure]:
    """The columns of one machine, against what is asked."""
    asked = limits(config, found)
    return [
        Figure(config, name, unit, tuple(found[name]), asked.get(name))
        for name, unit in COLUMNS.items()
    ]


def cell(figure: Figure) -> str:
    """Median, spread, and what was asked if it was not reached."""
    text = number(figure.median, figure.unit)
    if len(set(figure.values)) > 1:
        ends = (number(one, figure.unit) for one in (figure.spread.min, figure.spread.max))
        text += f" ({' to '.join(ends)})"
    if figure.limit is not None and not figure.passed:
        sign = "at most" if figure.limit.at_most else "at least"
        text += f", asked {sign} {number(figure.limit.value, figure.unit)}"
    return text


def matrix(rows: Mapping[str, Sequence[Figure]]) -> str:
    """One Markdown table, a machine a row."""
    return table.matrix(("", *COLUMNS), ((name, *map(cell, row)) for name, row in rows.items()))


def built() -> list[Path]:
    """Configurations of the default guests that can be started; says which can't."""
    images = {image.name for image in catalog.list_images() if image.built}
    for name in DEFAULT:
        if name not in images:
            sys.stderr.write(f"{name} is left out: sysqcache image build {name}\n")
    return [CONFIGS / f"{name}.yaml" for name in DEFAULT if name in images]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    parser = command_line(__doc__)
    parser.add_argument("configs", nargs="*", type=Path, metavar="VM.yaml")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    configs = options.configs or built()
    started, found = time.time(), dict[str, Values]()
    for config in configs:
        found[config.stem] = measure(config.absolute(), options.rounds)
        sys.stderr.write(f"{config.stem}: {time.time() - started:.0f} s\n")
    rows = {name: figures(name, values) for name, values in found.items()}
    keep("arches", started, {"found": found}, [figure for row in rows.values() for figure in row])
    sys.stdout.write(matrix(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
