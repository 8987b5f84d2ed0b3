# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole `sysqcache run`: the template, the machine, the terminal, the exit status."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from typing import Final

from sysqcache.run import choose, command, guestside, throwaway
from sysqcache.run.choose import ViewOf
from sysqcache.run.plan import Plan
from sysqcache.run.signals import (
    BROKEN_PIPE,
    INTERRUPTED,
    GaveUp,
    following_size,
    passing_signals,
)
from sysqcache.run.streams import Talk, writer
from sysqcache.run.words import Asked

_OUTPUT_LOG: Final = "output.log"
_SIZE: Final = (24, 80)
"""Of a terminal that nobody sees."""


def run(asked: Asked, view: ViewOf, say: Callable[[str], None]) -> int:
    """Run a command in a machine of its own; its exit status.

    Raises what starts and templates raise.
    """
    return go_on(asked, choose.find(asked, view, say), say)


def go_on(asked: Asked, plan: Plan, say: Callable[[str], None]) -> int:
    """As :func:`run`, from a template that is there."""
    throwaway.sweep()
    if asked.copies:
        from sysqcache.run import copies

        return copies.run(plan, asked, say)
    named = dataclasses.replace(asked, name=asked.name or throwaway.new_name(plan.state["name"]))
    if asked.detach:
        return _detached(named, plan)
    return _attached(named, plan, hostname=asked.name)


def _attached(asked: Asked, plan: Plan, *, hostname: str) -> int:
    """In the foreground; ``hostname``: the name that was asked for, "" for any."""
    tty = asked.tty or not asked.command
    size = _terminal_size() if tty else None
    if size is not None:
        asked = dataclasses.replace(asked, env=("TERM", *asked.env))
    sinks = (writer(1), writer(2))
    # nobody who was not told a name will ask the agent
    more = (throwaway.AGENT,) if plan.token and not hostname else ()
    with throwaway.started(plan, asked.name, more=more) as machine:
        talk = command.begun(machine, plan, asked, sinks, hostname=hostname, size=size)
        stdin = _stdin() if plan.token else None
        terminal = _raw(talk) if size is not None else contextlib.nullcontext()
        with passing_signals([talk]), terminal:
            try:
                return command.finished(machine, talk, stdin, asked)
            except GaveUp:
                return INTERRUPTED
            except BrokenPipeError:
                return BROKEN_PIPE


@contextlib.contextmanager
def _raw(talk: Talk) -> Iterator[None]:
    """This terminal is the command's, if there is one."""
    from sysqcache.machine.guest.console import raw_terminal

    if not os.isatty(0):
        yield
        return
    with raw_terminal(0), following_size(talk, 0):
        yield


def _terminal_size() -> tuple[int, int]:
    """Rows and columns of this terminal."""
    try:
        columns, rows = os.get_terminal_size(0)
    except OSError:
        return _SIZE
    return (rows, columns) if rows and columns else _SIZE


def _stdin() -> int | None:
    """The descriptor of standard input, None when there is none."""
    try:
        os.fstat(0)
    except OSError:
        return None
    return 0


def _detached(asked: Asked, plan: Plan) -> int:
    """Leave the machine to a process of its own; prints its name."""
    asked = dataclasses.replace(asked, command=asked.command or (guestside.FOR_EVER,))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.setsid()
        return _keeper(asked, plan, write)
    os.close(write)
    with open(read, "rb") as begun:  # noqa: PTH123 - a descriptor
        name = begun.read()
    if not name:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])  # it said why
    sys.stdout.write(f"{name.decode()}\n")
    return 0


def _keeper(asked: Asked, plan: Plan, begun: int) -> int:
    """Stay with a machine until its command's end, without a terminal."""
    with throwaway.started(plan, asked.name) as machine:
        log = os.open(machine.instance.file(_OUTPUT_LOG), os.O_WRONLY | os.O_CREAT, 0o600)
        talk = command.begun(machine, plan, asked, (writer(1), writer(2)), hostname=asked.name)
        null = os.open(os.devnull, os.O_RDONLY)
        for fd, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(fd, target)
        os.write(begun, asked.name.encode())
        os.close(begun)
        with passing_signals([talk]), contextlib.suppress(GaveUp):
            return command.finished(machine, talk, None, asked)
    return INTERRUPTED
