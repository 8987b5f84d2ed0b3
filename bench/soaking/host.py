# SPDX-License-Identifier: GPL-2.0-or-later
"""A state directory of its own, commands in it, and what of them is left on the host."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench import session
from sysqcache.base import paths
from sysqcache.base.files import TEMPORARY, is_locked

TINY: Final = (
    str(session.TINY),
    # on a host with far more machines than processors the kernel's test of its timer fails, and
    # it panics: with or without the cache
    *("--set", "cmdline=console=ttyS0 quiet no_timer_check", "--set", "ready.timeout=600s"),
)
"""The machine of all, as words of a command."""
PATIENCE_S: Final = 900

_MARK: Final = "SYSQCACHE_SOAK"


@dataclass
class Faults:
    """What went wrong, told at once; safe for threads. ``counts``: what was done, by name."""

    found: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, text: str) -> None:
        """One more."""
        with self._lock:
            self.found.append(text)
            sys.stderr.write(f"fault: {text}\n")

    def count(self, name: str) -> None:
        """Something was done."""
        with self._lock:
            self.counts[name] += 1


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """Its JSON; {} for none."""
        with contextlib.suppress(ValueError):
            return json.loads(self.out)
        return {}


class Host:
    """Commands with state, store and temporary files below ``root``; engines are shared."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state" / "sysqcache"
        self.temporary = root / "tmp"
        self.temporary.mkdir()
        own = {"XDG_STATE_HOME": str(root / "state"), "TMPDIR": str(self.temporary)}
        kept = {k: v for k, v in os.environ.items() if k not in (paths.ENV_HOME, paths.ENV_STORE)}
        self.environment = {**kept, **own, _MARK: str(root)}

    @property
    def store(self) -> Path:
        """The block store of all machines."""
        return self.state / "store"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command on its way."""
        return subprocess.Popen(
            [sys.executable, "-m", "sysqcache", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> Said:
        """A command that ended by itself. Raises subprocess.TimeoutExpired."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=PATIENCE_S)
        return Said(process.returncode, out, err)

    def processes(self) -> dict[int, str]:
        """Every process that descends from our commands, with its command line."""
        mark = f"{_MARK}={self.root}".encode()
        return {pid: line for pid, line in _processes(mark) if pid != os.getpid()}

    def left(self) -> Iterator[str]:
        """What machines that have all ended should not leave behind, in words."""
        for pid, line in self.processes().items():
            yield f"process {pid}: {line[:200]}"
        for path in self.root.rglob("*"):
            name = path.name
            if path.is_socket() or path.is_fifo():
                yield f"socket {path}"
            elif name.startswith(TEMPORARY) or name.endswith((paths.JOURNAL_SUFFIX, ".tmp")):
                yield f"file {path}"
            elif name in (paths.INSTANCE_LOCK, paths.STORE_IN_USE) and is_locked(path):
                yield f"lock {path}"
        for path in self.temporary.iterdir():
            yield f"temporary file {path}"


def _processes(mark: bytes) -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                yield int(entry.name), line.decode(errors="replace")
