# SPDX-License-Identifier: GPL-2.0-or-later
"""How a boot looks: a live line while it runs, a short table at its end; all on stderr."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

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

_REFRESH_PER_S: Final = 4


class BootView:
    """A listener that keeps a live line on a terminal and prints plain lines elsewhere.

    Lines that stay (warnings, ended tasks) are printed above the live one.
    """

    def __init__(self, *, debug: bool = False) -> None:
        self._debug = debug
        self._started = time.monotonic()
        self._phase = ""
        self._stats: TbCacheStats | None = None
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._live = Live(
            console=self._console,
            get_renderable=self._line,
            refresh_per_second=_REFRESH_PER_S,
            transient=True,
        )

    def __enter__(self) -> Self:
        self.pause(False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.pause(True)

    def __call__(self, event: Event) -> None:
        """Show one event; may be called from any thread."""
        match event:
            case PhaseBegan(name):
                self._phase = name
                if not self._console.is_terminal:
                    self._print(f"{self._elapsed():7.1f} s  {name}")
            case StatsUpdated(stats):
                self._stats = stats
            case TaskFinished(result):
                ended = "ok" if result.exit == 0 else f"exit {result.exit}"
                self._print(
                    f"{self._elapsed():7.1f} s  {result.cmd}: {ended}, {result.wall_s:.3f} s"
                )
            case Warned(text):
                self._print(f"warning: {text}")
            case Launched(pid, command) if self._debug:
                self._print(f"QEMU is process {pid}: {command}")

    def pause(self, paused: bool) -> None:
        """Take the live line away, for a console, or bring it back."""
        if not self._console.is_terminal:
            return
        if paused:
            self._live.stop()
        else:
            self._live.start()

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _line(self) -> Text:
        text = f"{self._elapsed():7.1f} s  {self._phase}"
        if self._stats is not None:
            text += f"  {counters(self._stats)}"
        return Text(text, no_wrap=True, overflow="ellipsis")

    def _print(self, text: str) -> None:
        self._console.print(Text(text))


def counters(stats: TbCacheStats) -> str:
    """``adopted 1,234  translated 56  hits 95.7 %``."""
    adopted = stats.adopted + stats.verified
    word = "verified" if stats.verified else "adopted"
    return f"{word} {adopted:,}  translated {stats.translated:,}  hits {hit_rate(stats):.1%}"


def print_report(report: BootReport) -> None:
    """The table at the end of a boot, on stderr."""
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
