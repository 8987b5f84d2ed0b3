# SPDX-License-Identifier: GPL-2.0-or-later
"""The live line on a terminal, and nothing of it elsewhere."""

from __future__ import annotations

import io
import time

import pytest

from sysqcache.cli.liveline import LiveLine, Phases


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def eventually(stream: io.StringIO, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in stream.getvalue():
        assert time.monotonic() < deadline, stream.getvalue()
        time.sleep(0.01)


def test_lines_that_stay_are_above_the_live_one() -> None:
    stream = Terminal()
    with LiveLine(lambda: "going on", stream=stream) as line:
        eventually(stream, "\r\x1b[Kgoing on")
        line.print("done")
    assert "\r\x1b[Kdone\n" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_a_paused_line_leaves_the_terminal_alone() -> None:
    stream = Terminal()
    with LiveLine(lambda: "going on", stream=stream) as line:
        eventually(stream, "going on")
        line.pause(True)
        before = stream.getvalue()
        time.sleep(0.6)
        assert stream.getvalue() == before
        line.pause(False)
        eventually(stream, before + "\r\x1b[Kgoing on")


def test_a_line_is_not_longer_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    LiveLine(lambda: "x" * 100, stream=stream).draw()
    assert stream.getvalue() == "\r\x1b[K" + "x" * 19


def test_a_log_has_lines_that_stay_alone() -> None:
    stream = io.StringIO()
    with LiveLine(lambda: "going on", stream=stream) as line:
        line.draw()
        line.print("done")
        time.sleep(0.3)
    assert stream.getvalue() == "done\n"


def test_quick_work_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Phases() as phases:
        phases("saving")
    assert capsys.readouterr().err == ""
