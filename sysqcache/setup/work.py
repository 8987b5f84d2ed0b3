# SPDX-License-Identifier: GPL-2.0-or-later
"""Long set-up work: named steps, the programs they run, one log, typed progress events."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sysqcache.base.errors import SysqcacheError
from sysqcache.base.files import locked

TAIL_LINES: Final = 25
_NINJA = re.compile(r"^\[(\d+)/(\d+)\]")


@dataclass(frozen=True)
class Progress:
    """One event of a step.

    :param done, total: finished and all parts of the step; 0, 0 when it can't tell.
    :param elapsed: seconds since the step began.
    """

    step: str
    state: Literal["started", "running", "done", "failed"]
    done: int = 0
    total: int = 0
    elapsed: float = 0.0


Listener = Callable[[Progress], None]


def ignore(_event: Progress) -> None:
    """A listener that wants to know nothing."""


class Work:
    """Runs programs for one long job and tells a listener how far it is.

    :param log: file that receives every command with its output.
    :param error: class of the exception that a failing program becomes.
    """

    def __init__(self, log: Path, error: type[SysqcacheError], listener: Listener = ignore) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
        self.log = log
        self.error = error
        self._listener = listener
        self._step = ""
        self._started = time.monotonic()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A named part of the work: emits started and done (or failed) around its body."""
        self._step, self._started = name, time.monotonic()
        self._emit("started")
        try:
            yield
        except BaseException:
            self._emit("failed")
            raise
        self._emit("done")

    def _emit(
        self, state: Literal["started", "running", "done", "failed"], done: int = 0, total: int = 0
    ) -> None:
        elapsed = time.monotonic() - self._started
        self._listener(Progress(self._step, state, done, total, elapsed))

    def note(self, text: str) -> None:
        """Append one line to the log."""
        with self.log.open("a", encoding="utf-8") as log:
            log.write(text.rstrip("\n") + "\n")

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        hint: str = "",
    ) -> str:
        """Run one program to its end and return what it printed (stderr included).

        Lines that begin with ninja's ``[n/m]`` become progress events.
        :raises SysqcacheError: the class given as ``error``, with the log's tail.
        """
        command = [str(part) for part in argv]
        self.note("$ " + " ".join(command))
        lines: list[str] = []
        try:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=_environment(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        except OSError as err:
            raise self.error(f"can't start {command[0]}: {err.strerror}", hint=hint) from err
        with process, self.log.open("a", encoding="utf-8") as log:
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                lines.append(line)
                if match := _NINJA.match(line):
                    self._emit("running", int(match.group(1)), int(match.group(2)))
        if process.returncode:
            raise self.failed(command, process.returncode, lines, hint)
        return "".join(lines)

    def failed(
        self, command: Sequence[str], code: int, lines: Sequence[str], hint: str
    ) -> SysqcacheError:
        """The exception for a program that ended with ``code``."""
        return self.error(
            f"{self._step or 'set-up'}: {Path(command[0]).name} failed with exit code {code}",
            hint=hint or f"the whole log is {self.log}",
            detail="".join(lines[-TAIL_LINES:]).rstrip(),
        )


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Ours, with English messages, and with mkfs on the path of ordinary users too."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    return {**os.environ, "LC_ALL": "C.UTF-8", "PATH": path, **extra}


def free_space(directory: Path) -> tuple[int, str]:
    """Free bytes where a directory is or will be, and words for them."""
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    return free, f"{free / 1e9:.1f} GB free in {directory}"


def require_space(directory: Path, need: int, what: str, error: type[SysqcacheError]) -> None:
    """Check that ``directory`` (or its nearest existing parent) has ``need`` bytes free.

    :raises SysqcacheError: the class ``error``; nothing was made.
    """
    free, text = free_space(directory)
    if free < need:
        raise error(
            f"{what} needs {need / 1e9:.1f} GB, but there are {text}",
            hint="free some space, or set SYSQCACHE_HOME to a folder on a larger disk",
        )


@contextmanager
def published(target: Path) -> Iterator[Path]:
    """A temporary directory beside ``target`` that replaces it when the body succeeds.

    After a failure ``target`` is as before. After a kill it is as before, complete or,
    between the two renames, absent, but never half written; what a kill leaves behind is
    removed by the next call.
    """
    with scratch(target.parent, f".{target.name}", 0o777) as temporary:
        yield temporary
        old = target.parent / f".{target.name}.{os.getpid()}.old.tmp"
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def scratch(parent: Path, prefix: str, mode: int = 0o700) -> Iterator[Path]:
    """A temporary directory below ``parent``; those that a kill left behind are removed."""
    parent.mkdir(parents=True, exist_ok=True)
    for stale in parent.glob(f"{prefix}.*.tmp"):
        if not _alive(stale):
            shutil.rmtree(stale, ignore_errors=True)
    directory = parent / f"{prefix}.{os.getpid()}.tmp"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=mode)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def alone(lock: Path, listener: Listener) -> Iterator[None]:
    """Only one process at a time runs the body; the others wait, and say so.

    :param lock: a file that stays; the kernel frees the lock when its holder ends.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if stack.enter_context(locked(lock)) is None:
            started = time.monotonic()
            step = "wait for another build"
            listener(Progress(step, "started"))
            stack.enter_context(locked(lock, None))
            listener(Progress(step, "done", elapsed=time.monotonic() - started))
        yield


def _alive(temporary: Path) -> bool:
    pid = temporary.name.split(".")[-2]
    return pid.isdigit() and Path(f"/proc/{pid}").exists()
