# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures of a comparison as Markdown: ``python -m sysqcache.compare.markdown FILE.json``."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sysqcache.compare.figures import Spread
from sysqcache.compare.texts import percent, rounds, seconds, size, span

_HEADS: Final = (
    *("way", "ready", "first task", "second task", "host CPU"),
    *("suspend", "on disk", "memory", "hits"),
)


def markdown(value: Mapping[str, Any]) -> str:
    """The tables of the JSON of ``compare``."""
    host = value["host"]
    processor = f"{host['cpu']}, {host['cores']} cores, Linux {host['kernel']}"
    lines = [
        (
            f"{value['machine']}, task `{value['task']}`, {rounds(value['runs'])}, "
            f"{value['started'][:10]}; {processor}. "
            "Medians, in brackets the smallest and the largest."
        ),
        "",
        *_table(_HEADS, [_way(way) for way in value["ways"]]),
        "",
        *_table(("ratio, within rounds", "median", "min to max"), _ratios(value["ratio_spreads"])),
    ]
    lines += [f"\n{way}: left out, {reason}" for way, reason in value["left_out"].items()]
    lines += [f"\n{way}: failed, {reason}" for way, reason in value["failed"].items()]
    return "\n".join(lines) + "\n"


def _way(way: Mapping[str, Any]) -> list[str]:
    suspend = way["suspend_s"]
    return [
        way["way"],
        *(_spread(way[name]) for name in ("ready_s", "first_task_s", "second_task_s")),
        seconds(way["host_cpu_s"]["median"]),
        "-" if suspend is None else seconds(suspend),
        size(way["disk_bytes"]),
        size(way["peak_rss_bytes"]),
        percent(way["hit_rate"]),
    ]


def _spread(value: Mapping[str, float]) -> str:
    spread = Spread(**value)
    return seconds(spread.median) + (f" ({span(spread)})" if spread.min < spread.max else "")


def _ratios(found: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    return [
        [name, f"{one['median']:.3f}", f"{one['min']:.3f} to {one['max']:.3f}"]
        for name, one in found.items()
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]


if __name__ == "__main__":
    sys.stdout.write(markdown(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
