# SPDX-License-Identifier: GPL-2.0-or-later
"""How a comparison looks in a terminal: a live line and ended runs on stderr, tables on stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sysqcache.cli.liveline import LiveLine
from sysqcache.compare.events import Event, Noted, StepBegan, StepEnded
from sysqcache.compare.figures import FIRST, READY, SECOND, Spread
from sysqcache.compare.result import DOMAINS, Result, Summary
from sysqcache.compare.texts import advice, percent, rounds, seconds, size, span
from sysqcache.machine.progress import PhaseBegan

_PLAIN_WIDTH: Final = 100


class CompareView(LiveLine):
    """A listener of a comparison; ended runs and notes are lines that stay."""

    def __init__(self) -> None:
        super().__init__(self._line)
        self._step, self._phase = "", ""

    def __call__(self, event: Event) -> None:
        """Show one event."""
        match event:
            case StepBegan(number, total, title):
                self._step, self._phase = f"{number}/{total} {title}", ""
            case StepEnded(_, outcome):
                self.print(self.timed(f"{self._step}: {outcome}"))
            case Noted(text):
                self.print(f"note: {text}")
            case PhaseBegan(name):
                self._phase = name

    def _line(self) -> str:
        return self.timed(self._step + (f": {self._phase}" if self._phase else ""))


def print_result(result: Result) -> None:
    """The figures and what follows from them, on stdout."""
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH, highlight=False)
    summaries = result.summaries()
    if summaries:
        title = f"{result.machine}: {rounds(result.asked)}, task: {result.task}"
        if result.subject is DOMAINS:
            heads: tuple[str, ...] = ("start", "ready", "first task", "second task", "hits")
            console.print(_table(title, heads, summaries, _of_domain))
        else:
            heads = ("ready", "first task", "second task")
            console.print(_table(title, heads, summaries, _times))
            heads = ("host CPU", "suspend", "on disk", "memory", "hits")
            console.print(_table("what it costs", heads, summaries, _costs))
    ratios = result.ratios()
    if ratios:
        console.print(_ratios(ratios))
    for way, reason in result.left_out.items():
        console.print(Text(f"{way} is left out: {reason}"))
    for failed, reason in result.failed.items():
        console.print(Text(f"{failed} failed: {reason}", style="bold red"))
    for line in advice(result):
        console.print(Text(f"* {line}"))


def _table(
    title: str,
    heads: Sequence[str],
    summaries: Sequence[Summary],
    cells: Callable[[Summary], Sequence[Text | str]],
) -> Table:
    """A row for each way, a line between groups."""
    table = Table(title=title)
    table.add_column("way", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right")
    for number, one in enumerate(summaries):
        last = number + 1 == len(summaries)
        ends = last or summaries[number + 1].way.group != one.way.group
        table.add_row(str(one.way), *cells(one), end_section=ends)
    return table


def _times(one: Summary) -> Sequence[Text | str]:
    return [_cell(one[name]) for name in (READY, FIRST, SECOND)]


def _of_domain(one: Summary) -> Sequence[Text | str]:
    return _cell(one["start_s"]), *_times(one), percent(one.hit_rate)


def _costs(one: Summary) -> Sequence[Text | str]:
    return (
        seconds(one["host_cpu_s"].median),
        "-" if one.suspend_s is None else seconds(one.suspend_s),
        size(one.disk_bytes),
        size(one.peak_rss_bytes),
        percent(one.hit_rate),
    )


def _cell(value: Spread) -> Text:
    """The median, and below it the spread, if there is one."""
    text = Text(seconds(value.median))
    return text.append(f"\n{span(value)}", "dim") if value.min < value.max else text


def _ratios(ratios: dict[str, Spread]) -> Table:
    table = Table("ratio", title="within rounds")
    for head in ("median", "min", "max"):
        table.add_column(head, justify="right")
    for name, value in ratios.items():
        table.add_row(name, *(f"{one:.3f}" for one in (value.median, value.min, value.max)))
    return table
