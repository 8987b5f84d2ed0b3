# SPDX-License-Identifier: GPL-2.0-or-later
"""One command in several machines at once: every line of output says whose it is."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import threading
from collections.abc import Callable
from typing import Final

from sysqcache.base.errors import SysqcacheError, UsageError
from sysqcache.run import command, throwaway
from sysqcache.run.plan import Plan
from sysqcache.run.signals import INTERRUPTED, GaveUp, passing_signals
from sysqcache.run.streams import Sink, Talk, writer
from sysqcache.run.words import Asked

MAX_COPIES: Final = 256
_POLL_S: Final = 0.2


def run(plan: Plan, asked: Asked, say: Callable[[str], None]) -> int:
    """Run the command in ``asked.copies`` machines; the first exit status that is not 0.

    Each is told which one it is, from 1: SYSQCACHE_COPY of SYSQCACHE_COPIES.
    """
    if asked.copies > MAX_COPIES:
        raise UsageError(f"--copies takes 1 to {MAX_COPIES}; found {asked.copies}")
    base = asked.name or throwaway.new_name(plan.state["name"])
    several = _Several(_sharing(plan), asked, base, say)
    with concurrent.futures.ThreadPoolExecutor(asked.copies) as pool:
        waiting = [pool.submit(several.one, number + 1) for number in range(asked.copies)]
        with passing_signals(several.talks):
            try:
                while concurrent.futures.wait(waiting, _POLL_S).not_done:
                    pass  # a signal's handler runs in this thread
            except GaveUp:
                several.end_all()
                return INTERRUPTED
    return next((status for one in waiting if (status := one.result())), 0)


def _sharing(plan: Plan) -> Plan:
    """The plan for one of several machines: memory before speed."""
    if not plan.touched:
        return plan
    argv = (
        word.replace(plan.touched, ",small-pages=on") if word.startswith("tb-cache,") else word
        for word in plan.argv
    )
    return dataclasses.replace(plan, argv=tuple(argv))


class _Several:
    """Machines that run at once, each in a thread of its own."""

    def __init__(self, plan: Plan, asked: Asked, base: str, say: Callable[[str], None]) -> None:
        self._plan, self._asked, self._base, self._say = plan, asked, base, say
        self._lock = threading.Lock()
        self._machines: list[throwaway.ThrowAway] = []
        self._over = False
        self.talks: list[Talk] = []

    def one(self, number: int) -> int:
        """One machine from its start to its end; its command's exit status."""
        name = f"{self._base}-{number}"
        out, errors = (Lines(f"[{number}] ", writer(fd), self._lock) for fd in (1, 2))
        env = (f"SYSQCACHE_COPY={number}", f"SYSQCACHE_COPIES={self._asked.copies}")
        try:
            with throwaway.started(self._plan, name, any_port=True) as machine:
                self._machines.append(machine)
                if self._over:
                    return INTERRUPTED
                sinks = (out.feed, errors.feed)
                talk = command.begun(
                    machine, self._plan, self._asked, sinks, env=env, hostname=name
                )
                self.talks.append(talk)
                try:
                    return command.finished(machine, talk, None, self._asked)
                finally:
                    out.flush()
                    errors.flush()
        except BrokenPipeError:
            return 141
        except SysqcacheError as error:
            if not self._over:
                self._say(f"{name}: {error.message}")
            return error.exit_code

    def end_all(self) -> None:
        """End all machines, however far they are."""
        self._over = True
        for machine in self._machines:
            machine.process.kill()


class Lines:
    """Passes whole lines on, each with a prefix; several write to the same place."""

    def __init__(self, prefix: str, sink: Sink, lock: threading.Lock) -> None:
        self._prefix, self._sink, self._lock = prefix.encode(), sink, lock
        self._begun = b""

    def feed(self, data: bytes) -> None:
        """Take bytes; what is no whole line yet waits."""
        *whole, self._begun = (self._begun + data).split(b"\n")
        if whole:
            text = b"".join(self._prefix + line + b"\n" for line in whole)
            with self._lock:
                self._sink(text)

    def flush(self) -> None:
        """Pass on a last line that has no end."""
        if self._begun:
            self.feed(b"\n")
