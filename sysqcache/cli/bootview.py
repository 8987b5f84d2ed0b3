# SPDX-License-Identifier: GPL-2.0-or-later
"""How a boot looks: a live line while it runs, a short table at its end; all on stderr."""

from __future__ import annotations

from typing import Final

import typer
from rich.console import Console
from rich.table import Table

from sysqcache.attribution.placer import AttributionSummary
from sysqcache.cli.liveline import LiveLine
from sysqcache.cli.loglines import line, log_json, note
from sysqcache.machine.progress import (
    Event,
    Launched,
    PhaseBegan,
    StatsUpdated,
    TaskFinished,
    Warned,
)
from sysqcache.machine.report import (
    BootReport,
    adopt_cycles,
    hit_rate,
    translate_cycles,
    translate_share,
)
from sysqcache.qmp.commands import TbCacheStats

_INTERRUPTED: Final = 130


class BootView(LiveLine):
    """A listener of a start: a live line on a terminal, plain lines elsewhere."""

    def __init__(self, *, debug: bool = False) -> None:
        super().__init__(self._line)
        self._debug = debug
        self._phase = ""
        self._stats: TbCacheStats | None = None

    def __call__(self, event: Event) -> None:
        """Show one event; may be called from any thread."""
        match event:
            case PhaseBegan(name):
                self._phase = name
                if not self.terminal:
                    self.print(self.timed(name))
            case StatsUpdated(stats) if log_json():
                asked, taken = stats.requested, stats.adopted
                text = counters(stats)
                self._write(line(text, event="counters", requested=asked, adopted=taken))
            case StatsUpdated(stats):
                self._stats = stats
            case TaskFinished(result):
                ended = "ok" if result.exit == 0 else f"exit {result.exit}"
                self.print(self.timed(f"{result.cmd}: {ended}, {result.wall_s:.3f} s"))
            case Warned(text):
                self.print(f"warning: {text}")
            case Launched(pid, command) if self._debug:
                self.print(f"QEMU is process {pid}: {command}")

    def _line(self) -> str:
        text = self.timed(self._phase)
        return text if self._stats is None else f"{text}  {counters(self._stats)}"


def counters(stats: TbCacheStats) -> str:
    """``adopted 1,234  translated 56  hits 95.7 %``."""
    adopted = stats.adopted + stats.verified
    word = "verified" if stats.verified else "adopted"
    return f"{word} {adopted:,}  translated {stats.translated:,}  hits {hit_rate(stats):.1%}"


def print_report(report: BootReport) -> None:
    """The table at the end of a boot, on stderr."""
    if log_json():
        note(f"the report of {report.machine}", event="report", report=report.to_json())
        return
    table = Table(title=f"{report.machine} ({report.arch}, cache {report.cache_mode})")
    table.add_column("")
    table.add_column("at ready", justify="right")
    table.add_column("whole run", justify="right")
    times = report.times
    ready = "-" if times.ready_s is None else f"{times.ready_s:.2f} s"
    table.add_row("time", ready, f"{times.wall_s:.2f} s")
    table.add_row("host CPU", "", f"{times.host_cpu_s:.2f} s")
    table.add_row("own memory", "", f"{report.own_memory >> 20:,} MiB")
    if report.stats.requested:
        for row in _block_rows(report.stats_at_ready, report.stats):
            table.add_row(*row)
    console = Console(stderr=True)
    console.print(table)
    if report.ingest.blocks_new or report.ingest.blocks_known:
        console.print(
            f"kept {report.ingest.blocks_new:,} new blocks, {report.ingest.blocks_known:,} were "
            f"known, in {report.ingest.seconds:.2f} s"
        )
    if report.attribution.unseen:
        note(unseen_line(report.attribution))


def note_outcome(*reports: BootReport) -> None:
    """Say which machines run on, where that is not plain; raises Exit after an interrupt."""
    for report in reports:
        name = report.machine
        if report.detached:
            note(f"{name} is running; sysqcache stop {name} ends it")
        if report.interrupted:
            note(f"interrupted: {name} has ended")
    if any(report.interrupted for report in reports):
        raise typer.Exit(_INTERRUPTED)


def unseen_line(found: AttributionSummary) -> str:
    """Why nobody looked into a guest, and what becomes of its code."""
    under = f"; its code is kept under {found.kept_under}" if found.kept_under else ""
    return f"nobody looked inside: {found.unseen}{under}"


def _block_rows(ready: TbCacheStats, end: TbCacheStats) -> list[tuple[str, str, str]]:
    both = (ready, end)
    rows: list[tuple[str, list[str]]] = [
        ("blocks", [f"{s.requested:,}" for s in both]),
        ("adopted", [f"{s.adopted:,}" for s in both]),
        ("translated", [f"{s.translated:,}" for s in both]),
        ("hit rate", [f"{hit_rate(s):.2%}" for s in both]),
        ("cycles to adopt", [f"{adopt_cycles(s):,.0f}" for s in both]),
        ("cycles to translate", [f"{translate_cycles(s):,.0f}" for s in both]),
        ("share of the CPU", [f"{translate_share(s):.2%}" for s in both]),
    ]
    if end.verified:
        rows.append(("verified", [f"{s.verified:,}" for s in both]))
        rows.append(("mismatches", [f"{s.mismatches:,}" for s in both]))
    return [(name, cells[0], cells[1]) for name, cells in rows]
