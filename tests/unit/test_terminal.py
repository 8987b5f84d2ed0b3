# SPDX-License-Identifier: GPL-2.0-or-later
"""A terminal that is closed while a command runs: it ends as it should, or goes on."""

from __future__ import annotations

import os
import pty
import sys
from pathlib import Path

import pytest

RUN = """
import os, sys, time
from pathlib import Path
from sysqcache.base import interrupts
from sysqcache.cli.errors import report_error, unexpected
from sysqcache.cli.liveline import LiveLine
from sysqcache.cli.loglines import note

report = Path(sys.argv[1])
interrupts.handle_signals()
try:
    with LiveLine(lambda: "working") as live:
        print("begun", flush=True)
        while not report.exists():
            time.sleep(0.05)
            live.print("still there")
        report.write_text("through")
except KeyboardInterrupt:
    note("interrupted")
    report_error(unexpected(ValueError()))
    print("output", flush=True)
    report.write_text("interrupted")
"""


def on_a_terminal(report: Path, before: str) -> tuple[int, int]:
    """A process on a terminal of its own, which is at work: its number and the terminal."""
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover - another program
        os.execv(sys.executable, [sys.executable, "-c", f"{before}\n{RUN}", str(report)])
    seen = b""
    while b"begun\r\n" not in seen:  # no sooner: the line would be an error of its own
        seen += os.read(terminal, 1024)
    return pid, terminal


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_is_closed(tmp_path: Path, ignored: bool) -> None:
    """With its signal ignored, as after ``disown`` or ``trap '' HUP``, only writing tells of it."""
    report = tmp_path / "report"
    # the tests themselves may run with the signal ignored, which is inherited
    how = "SIG_IGN" if ignored else "SIG_DFL"
    pid, terminal = on_a_terminal(
        report, f"import signal; signal.signal(signal.SIGHUP, signal.{how})"
    )
    os.close(terminal)
    if ignored:
        report.touch()
    assert ended(pid) == 0
    assert report.read_text() == ("through" if ignored else "interrupted")
