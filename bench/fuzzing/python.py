# SPDX-License-Identifier: GPL-2.0-or-later
"""Python's readers, fed for a while with changed files."""

from __future__ import annotations

import random
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.fuzzing.readers import TARGETS, Target, inputs, named

CORPUS: Final = Path(__file__).parents[2] / "tests" / "fuzz" / "corpus-python"
"""Inputs that a reader once failed on, ``TARGET-WHAT``; a test gives them all to it."""

_ROUND: Final = 200


@dataclass
class Tally:
    """What became of the inputs of one target.

    :param slowest: seconds that one input took at most.
    """

    read: int = 0
    refused: int = 0
    failed: int = 0
    slowest: float = 0.0


def corpus(target: Target) -> list[bytes]:
    """Inputs of a target that were worth keeping."""
    return [path.read_bytes() for path in sorted(CORPUS.glob(f"{target.name}-*"))]


def run(seconds: float, seed: int, names: Sequence[str], keep: Path) -> bool:
    """Feed the readers of ``names`` (none: all) in turns; whether none failed.

    Inputs that a reader failed on are written to ``keep``, one for each place in the code.
    """
    targets = [named(name) for name in names] or list(TARGETS)
    tallies = {target.name: Tally() for target in targets}
    places: set[str] = set()
    end = time.monotonic() + seconds
    number = 0
    with tempfile.TemporaryDirectory(prefix="sysqcache-fuzz-") as folder:
        while time.monotonic() < end:
            for target in targets:
                scratch = Path(folder) / target.name
                scratch.mkdir(exist_ok=True)
                rng = random.Random(f"{seed}-{number}-{target.name}")
                _round(target, rng, scratch, tallies[target.name], places, keep)
            number += 1
    for name, tally in tallies.items():
        print(
            f"{name:<10} {tally.read:>8,} read {tally.refused:>8,} refused "
            f"{tally.failed:>4,} failed, {tally.slowest:.3f} s at most"
        )
    return not any(tally.failed for tally in tallies.values())


def _round(
    target: Target,
    rng: random.Random,
    scratch: Path,
    tally: Tally,
    places: set[str],
    keep: Path,
) -> None:
    source = inputs(target, rng, corpus(target))
    for _ in range(_ROUND):
        content = next(source)
        started = time.monotonic()
        try:
            read = target.check(content, scratch)
        except Exception as error:
            tally.failed += 1
            _keep(target, content, error, places, keep)
            continue
        tally.slowest = max(tally.slowest, time.monotonic() - started)
        tally.read += read
        tally.refused += not read


def _keep(target: Target, content: bytes, error: Exception, places: set[str], keep: Path) -> None:
    """Write down an input and its traceback, the first of each place."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{target.name}-{type(error).__name__}-{Path(last.filename).stem}-{last.lineno}"
    if place in places:
        return
    places.add(place)
    keep.mkdir(parents=True, exist_ok=True)
    (keep / place).write_bytes(content)
    print(f"{keep / place}:", file=sys.stderr)
    traceback.print_exception(error, file=sys.stderr)


def replay(path: Path) -> bool:
    """Give a kept input to its reader again; raises what it raises."""
    name = next(t.name for t in TARGETS if path.name.startswith(f"{t.name}-"))
    with tempfile.TemporaryDirectory(prefix="sysqcache-fuzz-") as folder:
        return named(name).check(path.read_bytes(), Path(folder))
