# SPDX-License-Identifier: GPL-2.0-or-later
"""What guests and files say reaches no terminal as commands, whatever its encoding is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sysqcache.base import paths
from sysqcache.base.errors import NotReady
from sysqcache.base.printable import printable
from sysqcache.base.types import MachineState
from sysqcache.cli.errors import report_error
from sysqcache.machine.instances import Instance, InstanceState


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \u00e9\u4e16 text\n\twith lines", "plain \u00e9\u4e16 text\n\twith lines"),
        ("\x1b[0;32m  OK  \x1b[0m done", "  OK   done"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]52;c;aGk=\x1b\\after", "after"),
        ("\x1bPq#0\x1b\\after", "after"),
        ("\x1b]0;never ends\nnext line", "\nnext line"),
        ("\x1b[?1049h\x1bc\x1b(0x", "x"),
        ("a\rb\x08\x7f\x00", "a\\rb\\x08\\x7f\\x00"),
        ("\x1b", "\\x1b"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("caf\udce9", "caf\\udce9"),
    ],
)
def test_nothing_is_left_that_a_terminal_obeys(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_serial_output_in_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    report_error(NotReady("late\x1b[2J", hint="see \x1b]0;x\x07it", detail="\x1b[31mlast\x9b1m\n"))
    said = capsys.readouterr().err
    assert said == "error: late\n  last\nhint: see it\n"


def run(home: Path, encoding: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {paths.ENV_HOME: str(home), "PYTHONIOENCODING": encoding}
    return subprocess.run(
        [sys.executable, "-m", "sysqcache", *arguments],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=environment,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_any_encoding_of_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    home = tmp_path / "caf\u00e9 \u4e16,x=y"
    monkeypatch.setenv(paths.ENV_HOME, str(home))
    instance = Instance("odd")
    instance.directory.mkdir(parents=True)
    error = "a \u4e16 \u00e9 \x1b[31mred"
    instance.write(InstanceState("odd", MachineState.STOPPED, error=error))
    done = run(home, encoding, "list")
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout
    value = json.loads(run(home, encoding, "list", "--json").stdout.decode("ascii"))
    assert value["machines"][0]["error"] == error
    if encoding == "ascii":
        done = run(home, encoding, "status", os.fsdecode(b"n\xff\xe4\xb8\x96"))
        assert (done.returncode, b"Traceback" in done.stderr) == (11, False)
        assert done.stderr.startswith(b"error: there is no machine")


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines", b"\x1b[31m"])
def test_a_home_that_nothing_can_name(tmp_path: Path, name: bytes) -> None:
    """QEMU's protocol is UTF-8, and the lists of packs have one on a line."""
    done = run(tmp_path / os.fsdecode(name), "utf-8", "list")
    assert done.returncode == 3
    assert b"error: SYSQCACHE_HOME" in done.stderr
    assert b"\x1b" not in done.stderr
