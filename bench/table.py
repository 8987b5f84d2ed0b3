# SPDX-License-Identifier: GPL-2.0-or-later
"""The Markdown table of a results file: ``python -m bench.table FILE``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.figures import RATIO, SHARE, Figure

HEADER = ("", "median", "min to max", "asked", "")


def number(value: float, unit: str) -> str:
    """A value with as many digits as mean something."""
    if unit == SHARE:
        return f"{100 * value:.1f} %"
    if unit == RATIO:
        return f"{value:.3f}"
    if unit == "":
        return f"{value:,.0f}"
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.2f} {unit}"


def cells(figure: Figure) -> tuple[str, str, str, str, str]:
    """A figure as the columns of HEADER."""
    unit = figure.unit
    spread = ""
    if len(figure.values) > 1:
        spread = f"{number(min(figure.values), unit)} to {number(max(figure.values), unit)}"
    asked = verdict = ""
    if figure.limit is not None:
        sign = "at most" if figure.limit.at_most else "at least"
        asked = f"{sign} {number(figure.limit.value, unit)}"
        verdict = "yes" if figure.passed else "no"
    return figure.name, number(figure.median, unit), spread, asked, verdict


def grouped(figures: Sequence[Figure]) -> dict[str, list[Figure]]:
    """Figures by config, in order."""
    groups: dict[str, list[Figure]] = {}
    for figure in figures:
        groups.setdefault(figure.config, []).append(figure)
    return groups


def markdown(results: Mapping[str, Any]) -> str:
    """The tables of a results file, a table for each config."""
    host = results["host"]
    lines = [
        f"{host['cpu']}, {host['cores']} cores, Linux {host['kernel']}; "
        f"{results['options']['pairs']} pairs, {results['started'][:10]}"
        + ("; interrupted" if results["interrupted"] else ""),
    ]
    figures = [Figure.from_json(value) for value in results["figures"]]
    for config, group in grouped(figures).items():
        title = config or "the command"
        lines += [
            "",
            f"| {' | '.join((title, *HEADER[1:-1], 'reached'))} |",
            "|---|---|---|---|---|",
        ]
        lines += [f"| {' | '.join(cells(figure))} |" for figure in group]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="a file in bench/results")
    options = parser.parse_args()
    print(markdown(json.loads(options.file.read_text(encoding="utf-8"))), end="")


if __name__ == "__main__":
    main()
