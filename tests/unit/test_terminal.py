# SPDX-License-Identifier: GPL-2.0-or-later
"""A terminal that is closed while a command runs: it ends as it should, or goes on."""

from __future__ import annotations

import os
import pty
import subprocess
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


def told(redirection: str, *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of a command with such an output."""
    command = f'exec "$0" -m sysqcache "$@" {redirection}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("arguments", [("list",), ("list", "--json"), ("--version",)])
def test_an_output_without_room(own_state: Path, arguments: tuple[str, ...]) -> None:
    code, said = told("> /dev/full", *arguments)
    assert (code, said) == (1, "error: the output can't be written: No space left on device\n")
    assert told(">&-", *arguments) == (0, "")
    # nobody reads it
    assert told("| true", *arguments) == (0, "")


@pytest.mark.parametrize("redirection", ["> /dev/full", ">&-", "2>&1 >/dev/full | cat >&2"])
def test_an_error_is_told_whatever_the_output_is(own_state: Path, redirection: str) -> None:
    for json in ((), ("--json",)):
        code, said = told(redirection, "status", "nobody", *json)
        assert code == (0 if "cat" in redirection else 11)
        assert said.startswith("error: there is no machine 'nobody'\nhint: ")


def test_closed_streams_are_no_numbers_for_files(tmp_path: Path) -> None:
    """What was meant for a stream would be written into a store, or a disk."""
    file = tmp_path / "file"
    code = (
        "import os, sys; from sysqcache.base import terminal; terminal.open_all();"
        "file = open(sys.argv[1], 'w'); print('lost'); sys.stderr.write('lost');"
        "[os.write(n, b'lost') for n in (1, 2)]; sys.exit(file.fileno() < 3)"
    )
    command = ["sh", "-c", 'exec "$0" -c "$@" <&- >&- 2>&-', sys.executable, code, str(file)]
    assert subprocess.run(command, check=False).returncode == 0
    assert file.read_text() == ""
