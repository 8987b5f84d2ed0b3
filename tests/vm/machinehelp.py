# SPDX-License-Identifier: GPL-2.0-or-later
"""Running the command line on the tiny guest."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sysqcache.base import paths
from sysqcache.base.errors import SysqcacheError
from sysqcache.base.types import MachineState
from sysqcache.machine.instances import ForeignProcess, Instance, InstanceState
from sysqcache.spec.engines import Engine

TINY = Path(__file__).parents[2] / "configs" / "tiny-x86_64.yaml"
NOKASLR = "cmdline=console=ttyS0 quiet nokaslr no_timer_check"


def sysqcache(
    *arguments: object, timeout: float = 120.0, code: int | None = 0
) -> subprocess.CompletedProcess[str]:
    """Run the command; its exit code must be ``code``, unless that is None."""
    done = subprocess.run(
        [sys.executable, "-m", "sysqcache", *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
        check=False,
    )
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done


def report(*arguments: object, code: int = 0) -> dict[str, Any]:
    """The JSON of a command."""
    value: dict[str, Any] = json.loads(sysqcache(*arguments, "--json", code=code).stdout)
    return value


def boot(*arguments: object, code: int = 0) -> dict[str, Any]:
    """Boot the tiny guest, with the report as JSON."""
    return report("boot", TINY, *arguments, code=code)


def qcow2_disk(engine: Engine, directory: Path) -> Path:
    """An empty disk that can hold snapshots."""
    disk = directory / "disk.qcow2"
    command = [str(engine.qemu_img), "create", "-q", "-f", "qcow2", str(disk), "64M"]
    subprocess.run(command, check=True)
    return disk


class Background:
    """A ``boot`` that runs while the test does other things."""

    def __init__(self, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sysqcache", "boot", str(TINY), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(20)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._process.stdout.close()
        self._process.stderr.close()

    def wait_running(self, name: str = "tiny") -> InstanceState:
        """Wait until the machine is ready; its state."""
        instance = Instance(name)

        def running() -> bool:
            assert self._process.poll() is None, self.finish()
            file = instance.file(paths.INSTANCE_STATE)
            return file.exists() and instance.read().state is MachineState.RUNNING

        eventually(running)
        return instance.read()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the controller."""
        os.kill(self._process.pid, number)

    def finish(self, timeout: float = 60.0) -> tuple[int, str, str]:
        """Wait for its end: exit code, stdout, stderr."""
        out, err = self._process.communicate(timeout=timeout)
        return self._process.returncode, out, err


def end_all() -> None:
    """End what a test has left running, at once: nobody needs the blocks of these machines.

    ``sysqcache stop`` would keep them, which takes seconds.
    """
    for folder in paths.instances_dir().glob("*"):
        instance = Instance(folder.name)
        with contextlib.suppress(SysqcacheError):
            state = instance.current()
            if state.process.alive():
                log = instance.file(paths.INSTANCE_QEMU_LOG)
                ForeignProcess(state.process, log).signal(signal.SIGKILL)


def eventually(condition: Callable[[], bool], timeout: float = 60.0, step: float = 0.1) -> None:
    """Wait until ``condition`` holds; it is looked at every ``step`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(step)


def stored_blocks() -> int:
    """Blocks in the store."""
    return sum(module["blocks"] for module in report("cache", "list")["modules"])
