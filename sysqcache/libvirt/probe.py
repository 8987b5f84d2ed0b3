# SPDX-License-Identifier: GPL-2.0-or-later
"""An engine without a machine: what it answers, and what it says when it does not start."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final

from sysqcache.base.errors import LibvirtError

_SECONDS: Final = 30.0


def answers(emulator: Path, *commands: tuple[str, Mapping[str, object]]) -> list[Any]:
    """What an engine returns for QMP commands. Raises :class:`LibvirtError`."""
    asked = [("qmp_capabilities", {}), *commands]
    try:
        with subprocess.Popen(
            _command(emulator),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            text=True,
            errors="replace",
            cwd="/",
        ) as engine:
            limit = threading.Timer(_SECONDS, engine.kill)
            limit.start()
            try:
                found = _returned(engine, asked)
            finally:
                limit.cancel()
                # "quit" would drop what does not fit the pipe while we are late in reading
                engine.kill()
            said = engine.stderr.read() if engine.stderr is not None else ""
    except (OSError, ValueError) as error:
        raise LibvirtError(f"the engine {emulator} does not answer: {error}") from None
    if len(found) < len(asked):
        raise LibvirtError(f"the engine {emulator} does not answer", detail=said)
    return found[1:]


def refusal(emulator: Path, *arguments: str) -> str:
    """What an engine says when it does not start with some arguments, "" when it does.

    Raises :class:`LibvirtError`.
    """
    lines = _line("qmp_capabilities", {}) + _line("quit", {})
    done = _finished(_command(emulator, *arguments), lines)
    return done.stderr.strip() if done.returncode else ""


def help_text(emulator: Path, *arguments: str) -> str:
    """What an engine prints when it is asked for help. Raises :class:`LibvirtError`."""
    done = _finished([str(emulator), "-machine", "none", *arguments])
    if done.returncode:
        raise LibvirtError(f"the engine {emulator} does not answer", detail=done.stderr)
    return done.stdout


def _finished(command: Sequence[str], lines: str = "") -> subprocess.CompletedProcess[str]:
    """An engine that ends by itself; ``lines`` is what it reads."""
    try:
        return subprocess.run(
            command,
            input=lines,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
            cwd="/",
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise LibvirtError(f"the engine {command[0]} does not answer: {error}") from None


def _command(emulator: Path, *arguments: str) -> list[str]:
    """An engine without a machine, which reads QMP."""
    machine = ("-machine", "none", "-nodefaults", "-no-user-config", "-display", "none")
    return [str(emulator), *machine, *arguments, "-qmp", "stdio"]


def _line(command: str, arguments: Mapping[str, object]) -> str:
    return json.dumps({"execute": command, "arguments": arguments}) + "\n"


def _returned(
    engine: subprocess.Popen[str], asked: Sequence[tuple[str, Mapping[str, object]]]
) -> list[Any]:
    """What it returns for each command; fewer when it refuses one or ends."""
    assert engine.stdin is not None
    assert engine.stdout is not None
    for command, arguments in asked:
        engine.stdin.write(_line(command, arguments))
    engine.stdin.flush()
    messages = (json.loads(line) for line in engine.stdout)
    replies = (one for one in messages if "return" in one or "error" in one)
    return [one["return"] for one in itertools.islice(replies, len(asked)) if "return" in one]
