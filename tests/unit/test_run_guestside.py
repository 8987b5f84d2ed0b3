# SPDX-License-Identifier: GPL-2.0-or-later
"""The line that a template's runner is told, read by a real shell as the guest's reads it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from sysqcache.run.guestside import command_line, is_user, is_variable, supervisor

RUNNER = "nl='\n'\nIFS= read -r line\neval \"$line\""


def told(*command: str, **how: Any) -> subprocess.CompletedProcess[bytes]:
    """What a command does in the shell that a runner is."""
    line = command_line(command, **how)
    assert line.count(b"\n") == 1
    return subprocess.run(["/bin/sh", "-c", RUNNER], input=line, capture_output=True, check=False)


def test_words_reach_the_command_as_they_are() -> None:
    words = ["", "a b", "it's", '"', "$HOME", "`id`", "\\", "*", "a\nb", "\n", "é", "--", "~"]
    done = told("printf", "<%s>", *words)
    assert done.stdout.decode() == "".join(f"<{word}>" for word in words)
    assert done.returncode == 0


def test_one_word_is_a_line_for_a_shell() -> None:
    assert told("echo $((6 * 7)) | tr 4 5; exit 3").stdout == b"52\n"
    assert told("echo a\nfalse\n# done").returncode == 1
    assert told("exit 3").returncode == 3


@pytest.mark.parametrize("command", [["no-such-command"], ["no-such-command", "x"]])
def test_a_command_that_is_not_there(command: list[str]) -> None:
    done = told(*command)
    assert done.returncode == 127
    assert b"no-such-command" in done.stderr


def test_variables_and_folder(tmp_path: Path) -> None:
    value = "two\nlines, 'quoted' and $not expanded"
    done = told('pwd; printf %s "$V"', env=[("V", value)], workdir=str(tmp_path))
    assert done.stdout.decode() == f"{tmp_path}\n{value}"


def test_a_folder_that_is_not_there() -> None:
    done = told("true", workdir="/no/such")
    assert done.returncode == 126
    assert b"/no/such" in done.stderr


def test_names_that_shells_could_not_have() -> None:
    assert [is_variable(name) for name in ("A_1", "1A", "", "A-B", "A=B")] == [True, *[False] * 4]
    assert [is_user(name) for name in ("nobody", "1000", "", "a b", "$(id)", "-x")] == [
        *(True, True, False, False, False, False)
    ]


def test_what_waits_is_code_that_a_shell_can_read() -> None:
    done = subprocess.run(
        ["/bin/sh", "-n", "-c", supervisor("end")], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
