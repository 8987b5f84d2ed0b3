# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache compare --libvirt`: the figures of a domain as a table."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sysqcache.cli.options import note, print_json
from sysqcache.compare import domains
from sysqcache.compare.domainpage import page
from sysqcache.compare.domainresult import VALUES, DomainResult
from sysqcache.compare.domains import DomainRequest
from sysqcache.compare.texts import seconds, span

_PLAIN_WIDTH = 130
_HEADS = ("start", "ready", "first task", "second task")


def compare_domain(request: DomainRequest, html: Path | None, *, as_json: bool) -> None:
    """Measure and print. Raises what :func:`.domains.compare_domain` raises."""
    result = domains.compare_domain(request, note)
    if html is not None:
        html.write_text(page(result), encoding="utf-8")
        note(f"charts and figures: {html}")
    if as_json:
        print_json(result.to_json())
        return
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH, highlight=False)
    console.print(_table(result))
    delay = result.start_delay()
    if delay is not None:
        console.print(f"the cache makes a start {1000 * delay:+.0f} ms longer")
    for ratio, value in result.ratios().items():
        console.print(f"{ratio}: {value.median:.2f} ({value.min:.2f} to {value.max:.2f})")


def _table(result: DomainResult) -> Table:
    """A row for each way, medians with the smallest and the largest value."""
    table = Table(title=f"{result.domain}: {result.runs} rounds, task: {result.task}")
    table.add_column("way")
    for head in (*_HEADS, "hits"):
        table.add_column(head, justify="right")
    for way in result.ways:
        cells = []
        for value in VALUES[: len(_HEADS)]:
            found = result.spread(way, value)
            cells.append(f"{seconds(found.median)} ({span(found)})")
        rate = result.spread(way, "hit_rate").median
        table.add_row(way, *cells, f"{rate:.1%}" if way.cached else "-")
    return table
