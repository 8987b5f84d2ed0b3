# SPDX-License-Identifier: GPL-2.0-or-later
"""A listener that measures one start of a machine while it goes by."""

from __future__ import annotations

import time
from pathlib import Path

from sysqcache.base.errors import GuestCommandError
from sysqcache.machine import progress
from sysqcache.machine.guest.result import TaskResult
from sysqcache.machine.launch.process import ProcessId
from sysqcache.machine.progress import Event, Launched, Listener, TaskFinished


class Observer:
    """Notes when QEMU answered and when commands ended; passes every event on.

    :param measured: number of commands after which CPU time and memory are read.
    """

    def __init__(self, measured: int, listener: Listener = progress.ignore) -> None:
        self._measured = measured
        self._listener = listener
        self._process: ProcessId | None = None
        self.called_at = time.monotonic()
        self.launched_at = 0.0
        self.first_end = 0.0
        self.tasks: list[TaskResult] = []
        self.host_cpu_s = 0.0
        self.peak_rss_bytes = 0

    def __call__(self, event: Event) -> None:
        """Take in one event; called by the thread that runs the machine, but for counters."""
        match event:
            case Launched(pid, _):
                self.launched_at = time.monotonic()
                self._process = ProcessId.of(pid)
            case TaskFinished(result):
                self._task_ended(result)
        self._listener(event)

    def _task_ended(self, result: TaskResult) -> None:
        now = time.monotonic()
        if not self.tasks:
            self.first_end = now
        self.tasks.append(result)
        if len(self.tasks) == self._measured and self._process is not None:
            self.host_cpu_s = self._process.cpu_seconds()
            self.peak_rss_bytes = peak_rss(self._process.pid)

    def answered_after(self, launch_s: float) -> float:
        """Seconds from the start of QEMU to the end of the first command.

        :param launch_s: seconds from the start of QEMU to its first answer.
        """
        return launch_s + self.first_end - self.launched_at

    def require_success(self) -> None:
        """Raise :class:`GuestCommandError` if a command failed in the guest."""
        for result in self.tasks:
            if result.exit:
                raise GuestCommandError(
                    f"the command ended with exit status {result.exit} in the guest: {result.cmd}",
                    detail=(result.stderr or result.stdout)[-2000:],
                )


def peak_rss(pid: int) -> int:
    """The most memory a process had resident, in bytes; 0 when it is gone.

    Pages of mapped files count, also those that other processes map too.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    for line in lines.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0
