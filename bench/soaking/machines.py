# SPDX-License-Identifier: GPL-2.0-or-later
"""What a machine of a soak goes through, again and again, and what must hold each time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
from collections.abc import Callable
from typing import Any, Final

from bench.soaking.host import PATIENCE_S, TINY, Faults, Host, Said

_SUM: Final = hashlib.md5(b"soak\n" * 2000).hexdigest()
CHECK: Final = "yes soak | head -n 2000 | md5sum"
"""Runs code of the kernel, the shell and three programs; its result is known."""

GONE: Final = (10, 11)
"""Exit codes for a machine that is in another state, or is none."""


class Life:
    """One machine's lives. Every method leaves the machine ended."""

    def __init__(self, host: Host, faults: Faults, name: str, chance: random.Random) -> None:
        self.name, self._host, self._faults, self._chance = name, host, faults, chance
        self._lives: list[Callable[[], None]] = []

    def one(self) -> None:
        """One life; all have their turn, in an order by chance."""
        if not self._lives:
            kills = [self.killed_machine, self.killed_command, self.killed_suspend]
            self._lives = [self.task, self.saved, *kills]
            self._chance.shuffle(self._lives)
        self.live(self._lives.pop())

    def live(self, life: Callable[[], None]) -> None:
        """One life; what it must not do becomes a fault."""
        try:
            life()
        except subprocess.TimeoutExpired as error:
            self._faults.add(f"{self.name}: hung: {error.cmd}")
        self._faults.count(life.__name__)

    def task(self) -> None:
        """Boots, runs the check and ends; often with every adopted block verified."""
        mode = self._chance.choice(["on", "on", "verify"])
        said = self._expect(self._boot("--task", CHECK, "--cache", mode, "--json"))
        for task in said.value.get("times", {}).get("tasks", ()):
            self._check(f"{task['stdout']}")
        self._right(said.value)

    def saved(self) -> None:
        """Boots, is suspended, goes on twice, once as copies."""
        method = self._chance.choice(["file", "template", "template"])
        self._expect(self._boot("--detach"))
        self._check_in(self.name)
        self._expect(self._host.run("suspend", self.name, "--method", method, "--json"))
        self._right(self._expect(self._host.run("resume", self.name, "--json")).value)
        self._check_in(self.name)
        self._stop(self.name)
        if method == "template":
            self._expect(self._host.run("resume", self.name, "--copies", "2", "--json"))
            for copy in (f"{self.name}-1", f"{self.name}-2"):
                self._check_in(copy)
                self._stop(copy)

    def killed_machine(self) -> None:
        """QEMU is killed."""
        self._expect(self._boot("--detach"))
        pid = self._host.run("status", self.name, "--json").value.get("pid")
        if pid:
            _kill(pid)
        self._stop(self.name)

    def killed_command(self) -> None:
        """The controller is killed at any time, as QEMU starts, boots or ends."""
        process = self._host.start(*self._boot_line("--task", CHECK, "--json"))
        self._kill_within(process, 12)
        self._stop(self.name)

    def killed_suspend(self) -> None:
        """The command that saves a machine is killed; the machine, or its saved state, is whole."""
        self._expect(self._boot("--detach"))
        process = self._host.start("suspend", self.name, "--method", "template")
        self._kill_within(process, 4)
        state = self._host.run("status", self.name, "--json").value.get("state")
        if state == "saved":
            self._expect(self._host.run("resume", self.name))
        if state in ("saved", "running"):
            self._check_in(self.name)
        self._stop(self.name)

    def _boot_line(self, *arguments: str) -> tuple[str, ...]:
        return ("boot", *TINY, "--set", f"name={self.name}", *arguments)

    def _boot(self, *arguments: str) -> Said:
        return self._host.run(*self._boot_line(*arguments))

    def _expect(self, said: Said) -> Said:
        if said.code:
            self._faults.add(f"{self.name}: exit code {said.code}: {said.err[-800:]}")
        return said

    def _right(self, report: dict[str, Any]) -> None:
        if report.get("blocks", {}).get("mismatches", 0):
            self._faults.add(f"{self.name}: wrong blocks: {report['blocks']}")

    def _check_in(self, name: str) -> None:
        said = self._host.run("exec", name, "--", *("sh", "-c", CHECK))
        self._check(said.out if not said.code else f"{said}")

    def _check(self, text: str) -> None:
        if not text.startswith(_SUM):
            self._faults.add(f"{self.name}: the guest said {text!r}")

    def _kill_within(self, process: subprocess.Popen[str], seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=self._chance.uniform(0, seconds))
        process.kill()
        process.communicate(timeout=PATIENCE_S)

    def _stop(self, name: str) -> None:
        said = self._host.run("stop", name, "--force")
        if said.code not in (0, *GONE):
            self._faults.add(f"{name}: stop: exit code {said.code}: {said.err[-400:]}")


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
