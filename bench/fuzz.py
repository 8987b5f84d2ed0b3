# SPDX-License-Identifier: GPL-2.0-or-later
"""Feed the readers of journals, packs and the store's other files with changed ones.

    python -m bench.fuzz [--PART]... [--seconds N] [--seed N] [--target NAME]... [--keep DIR]
    python -m bench.fuzz --replay FILE

Without the name of a part all parts run, each for so many seconds. The exit code is 1 when
a reader failed; the input is kept. docs/bench.md, "Fuzzing", says more.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bench.fuzzing import engine, python

Part = Callable[[float, int, Sequence[str], Path], bool]
"""Runs for some seconds with a seed, on some targets; whether nothing was found."""

PARTS: Final[dict[str, tuple[Part, str]]] = {
    "python": (python.run, "the readers in Python: journals, packs, bundles, boot sets, notes"),
    "engine": (engine.run, "the engine's, in C: packs, boot sets, lists of touched pages"),
}
"""By the option that picks them alone."""


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz", description=__doc__)
    for name, (_, what) in PARTS.items():
        parser.add_argument(f"--{name}", action="append_const", dest="parts", const=name, help=what)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each part")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--target", action="append", default=[], help="one reader of the part")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where inputs go")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="one kept input of Python's")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """The exit code."""
    asked = _arguments(given)
    if asked.replay is not None:
        print("read" if python.replay(asked.replay) else "refused")
        return 0
    print(f"--seed {asked.seed}")
    given_to_all = (asked.seconds, asked.seed, asked.target, asked.keep)
    good = [PARTS[name][0](*given_to_all) for name in asked.parts or PARTS]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
