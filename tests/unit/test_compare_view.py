# SPDX-License-Identifier: GPL-2.0-or-later
"""What a comparison shows in a terminal."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from comparehelp import result

from sysqcache.cli.compareview import CompareView, print_result
from sysqcache.compare.events import Noted, StepBegan, StepEnded
from sysqcache.compare.ways import Way
from sysqcache.machine.progress import PhaseBegan

TINY = Path(__file__).parents[2] / "configs" / "tiny-x86_64.yaml"


def test_tables_fit_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sysqcache.cli.compareview._PLAIN_WIDTH", 80)
    made = result()
    made.failed[Way.FILE] = "it [bold]broke[/]"
    print_result(made)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for way in Way:
        assert len(re.findall(rf"^│ {re.escape(way)} +│", text, re.MULTILINE)) == 2
    assert "20.0 to 22.0 s" in text
    assert "template+warm/internal first task" in text
    assert "file failed: it [bold]broke[/]" in text
    assert "* Soonest to a first result" in text


def test_nothing_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    print_result(result(0))
    assert capsys.readouterr().out == ""


def test_a_log_has_ended_runs_and_notes_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with CompareView() as view:
        for event in (Noted("busy"), StepBegan(2, 9, "cold"), PhaseBegan("booting")):
            view(event)
        view(StepEnded("cold", "ready"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "note: busy"
    assert lines[1].endswith("s  2/9 cold: ready")
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--ways", "cold,hot"], "no such way: hot"),
        (["--runs", "0"], "--runs takes 1 or more"),
        (["--task", " "], "--task takes a command"),
        (["--html", "/nonexistent/page.html"], "--html can't be written"),
    ],
)
def test_wrong_options_cost_no_time(
    x86_engine: object, tiny_image: object, options: list[str], problem: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sysqcache", "compare", str(TINY), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert problem in done.stderr
