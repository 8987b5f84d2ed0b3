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
from bench.table import HEADER, cells
from sysqcache.compare import host

RESULTS: Final = Path(__file__).resolve().parent / "results"


def keep(kind: str, started: float, results: Mapping[str, Any]) -> None:
    """Write ``results`` with facts about the host to bench/results.

    :param started: Unix time, for the file's name.
    """
    RESULTS.mkdir(exist_ok=True)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(started))
    text = json.dumps({"version": 1, "host": host.facts(), **results}, indent=1)
    (RESULTS / f"{kind}-{stamp}.json").write_text(text)


def finish(
    kind: str, started: float, results: Mapping[str, Any], figures: Sequence[Figure]
) -> None:
    """:func:`keep` the results, and print ``figures`` one below the other."""
    keep(kind, started, results)
    sys.stdout.write("| " + " | ".join(HEADER) + " |\n|---|---|---|---|---|\n")
    for figure in figures:
        sys.stdout.write("| " + " | ".join(cells(figure)) + " |\n")
