# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: help, unknown names, laziness, documentation."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from sysqcache.base.interrupts import Interrupted
from sysqcache.cli.app import COMMANDS, LazyGroup, main

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sysqcache", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )


def test_help_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    for name, text in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", done.stdout, re.MULTILINE)


def test_help_takes_little() -> None:
    """CPU time, as the clock would measure what else runs on this host."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.3


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['sysqcache', '--help']\n"
        "from sysqcache.cli import app\n"
        "try: app.main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'rich', 'pydantic', 'numpy', 'rocksdict', 'ruamel', 'asyncio'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: sysqcache " + name in done.stdout
    assert "--install-completion" not in done.stdout


@pytest.mark.parametrize("name", ["boot", "list", "status", "stop", "exec", "suspend", "resume"])
def test_reporting_commands_take_json(name: str) -> None:
    assert "--json" in run(name, "--help").stdout


def test_every_command_is_documented() -> None:
    text = (ROOT / "README.md").read_text() + "".join(
        file.read_text() for file in (ROOT / "docs").glob("*.md")
    )
    for name in COMMANDS:
        assert f"sysqcache {name}" in text, name


def test_unknown_command_suggests() -> None:
    done = run("bot")
    assert done.returncode == 2
    assert "boot" in done.stderr


def test_version() -> None:
    assert run("--version").stdout.startswith("sysqcache 0")


def test_an_error_has_its_exit_code_and_no_traceback(tmp_path: Path) -> None:
    file = tmp_path / "vm.yaml"
    file.write_text("memory: lots\nvcpus: no\n")
    done = run("boot", str(file))
    assert done.returncode == 3
    assert "2 problems" in done.stderr
    assert "Traceback" not in done.stderr
    done = run("boot", str(file), "--debug")
    assert done.returncode == 3
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--until", "never"], ["--until", "exit", "--detach"]], ids=str
)
def test_wrong_options(tmp_path: Path, arguments: list[str]) -> None:
    file = tmp_path / "vm.yaml"
    file.write_text("")
    assert run("boot", str(file), *arguments).returncode == 2


_INTERRUPTED_IMPORT = """
import os, signal, sys
from sysqcache.base.interrupts import handle_signals
handle_signals()
try:
    exec("os.kill(os.getpid(), signal.SIGTERM)\\nwhile True: pass")
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_a_signal_during_an_import_keeps_the_exit_code(tmp_path: Path) -> None:
    """The end of the process is ours to say, not Python's: see ``Interrupted``."""
    (tmp_path / "interrupted_import.py").write_text(_INTERRUPTED_IMPORT)
    done = subprocess.run(
        [sys.executable, "-m", "interrupted_import"], cwd=tmp_path, timeout=60, check=False
    )
    assert done.returncode == 130


def test_what_an_interruption_says_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_self: LazyGroup, _ctx: object, _name: str) -> None:
        raise Interrupted("tiny was not saved: interrupted; the machine runs on")

    monkeypatch.setattr(LazyGroup, "get_command", interrupted)
    monkeypatch.setattr(sys, "argv", ["sysqcache", "suspend", "tiny"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert "tiny was not saved: interrupted" in capsys.readouterr().err
