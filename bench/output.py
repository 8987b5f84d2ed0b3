# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeping what was measured, and showing it as a Markdown table."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.figures import Figure
from bench.table import HEADER, cells, matrix
from sysqcache.base.errors import EngineMissing
from sysqcache.compare import host
from sysqcache.spec.engines import find_engine

RESULTS: Final = Path(__file__).resolve().parent / "results"


def command() -> str:
    """What is running, such as ``bench.saved compare --rounds 7``."""
    file = Path(sys.argv[0])
    name = file.parent.name if file.stem == "__main__" else file.stem
    return " ".join([f"bench.{name}", *sys.argv[1:]])


def engine() -> dict[str, Any]:
    """Which engine is measured, as far as there is one."""
    try:
        found = find_engine("x86_64")
    except EngineMissing:
        return {}
    return {"key": found.key, "build_id": found.build_id, "current": found.current}


def stamp(started: float) -> str:
    """Unix time as a part of a file's name."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(started))


def about(
    started: float, figures: Sequence[Figure], on: Mapping[str, Any], by: Mapping[str, Any]
) -> dict[str, Any]:
    """What every results file has: command, time, host ``on``, engine ``by``, figures."""
    return {
        "version": 1,
        "command": command(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "host": dict(on),
        "engine": dict(by),
        "figures": [figure.to_json() for figure in figures],
    }


def keep(
    kind: str, started: float, results: Mapping[str, Any], figures: Sequence[Figure] = ()
) -> None:
    """Write ``results`` to bench/results, with command, host and engine.

    :param started: Unix time, also for the file's name.
    """
    RESULTS.mkdir(exist_ok=True)
    value = about(started, figures, host.facts(), engine()) | dict(results)
    path = RESULTS / f"{kind}-{stamp(started)}.json"
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def finish(
    kind: str, started: float, results: Mapping[str, Any], figures: Sequence[Figure]
) -> None:
    """:func:`keep` the results, and print ``figures`` one below the other."""
    keep(kind, started, results, figures)
    sys.stdout.write(matrix(HEADER, map(cells, figures)))
