# SPDX-License-Identifier: GPL-2.0-or-later
"""The Markdown tables of a results file: ``python -m bench.table FILE``.

``python -m bench.table --figures FILE...`` puts them into docs/figures.md, in place of what the
same commands gave before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.figures import RATIO, SHARE, Figure
from bench.session import command_line

FIGURES: Final = Path(__file__).resolve().parents[1] / "docs" / "figures.md"
REMARKS: Final = "## Remarks"
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


def matrix(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    first, *rest = (f"| {' | '.join(row)} |\n" for row in (heads, *rows))
    return "".join([first, "|---" * len(heads) + "|\n", *rest])


def cells(figure: Figure) -> tuple[str, str, str, str, str]:
    """A figure as the columns of HEADER."""
    unit = figure.unit
    spread = ""
    if len(figure.values) > 1:
        spread = f"{number(figure.spread.min, unit)} to {number(figure.spread.max, unit)}"
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
        + (f"{results['options']['pairs']} pairs, " if "options" in results else "")
        + results["started"][:10]
        + ("; interrupted" if results.get("interrupted") else ""),
    ]
    figures = [Figure.from_json(value) for value in results["figures"]]
    for config, group in grouped(figures).items():
        title = config or "the command"
        lines += ["", matrix((title, *HEADER[1:-1], "reached"), map(cells, group)).rstrip("\n")]
    return "\n".join(lines) + "\n"


def title(command: str) -> str:
    """A command without what does not change what is measured: names a section of FIGURES."""
    return re.sub(r" --(rounds|pairs|results|work-dir)[ =]\S+", "", command)


def section(results: Mapping[str, Any]) -> str:
    """What docs/figures.md says of a results file: which engine gave which figures where."""
    host, engine = results["host"], results.get("engine", {}).get("key") or "not noted"
    figures = [Figure.from_json(value) for value in results["figures"]]
    count = max((len(figure.values) for figure in figures), default=0)
    lines = [
        f"## {title(results['command'])}",
        "",
        f"{host['cores']} cores of {host['cpu']}, Linux {host['kernel']}; "
        f"{results['started'][:10]}; up to {count} values a figure; engine {engine}"
        + ("; interrupted." if results.get("interrupted") else "."),
    ]
    for config, group in grouped(figures).items():
        rows = [cells(figure)[:3] for figure in group]
        lines += ["", matrix((config, *HEADER[1:3]), rows).rstrip("\n")]
    return "\n".join(lines) + "\n"


def updated(text: str, sections: Sequence[str]) -> str:
    """docs/figures.md with these sections in place of those with the same headings.

    New ones come before the remarks, which are nobody's output.
    """
    head, *old = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    parts = {part.partition("\n")[0]: part.rstrip("\n") + "\n" for part in old}
    remarks = {key: parts.pop(key) for key in [REMARKS] if key in parts}
    parts |= {part.partition("\n")[0]: part for part in sections}
    return "\n".join([head.rstrip("\n") + "\n", *parts.values(), *remarks.values()])


def main() -> None:
    """Print the tables, or write them down."""
    parser = command_line(__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="files in bench/results")
    parser.add_argument("--figures", action="store_true", help="write them into docs/figures.md")
    options = parser.parse_args()
    results = [json.loads(file.read_text(encoding="utf-8")) for file in options.files]
    if options.figures:
        text = FIGURES.read_text(encoding="utf-8")
        FIGURES.write_text(updated(text, [section(one) for one in results]), encoding="utf-8")
    else:
        print("\n".join(map(markdown, results)), end="")


if __name__ == "__main__":
    main()
