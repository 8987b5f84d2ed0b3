# SPDX-License-Identifier: GPL-2.0-or-later
"""One command in one machine: begun, talked with, ended."""

from __future__ import annotations

import os
import time
from typing import Final

from sysqcache.base.errors import UsageError
from sysqcache.run import guestside
from sysqcache.run.plan import Plan
from sysqcache.run.serialtalk import SerialTalk
from sysqcache.run.streams import Hangup, PortTalk, Sink, Talk
from sysqcache.run.throwaway import SERIAL, ThrowAway
from sysqcache.run.words import Asked

TIMED_OUT: Final = 124
"""As timeout(1) has it."""

_LAST_WORDS: Final = 2.0
"""Seconds for a command that was told that its time is over."""


def begun(
    machine: ThrowAway,
    plan: Plan,
    asked: Asked,
    sinks: tuple[Sink, Sink],
    *,
    env: tuple[str, ...] = (),
    hostname: str = "",
    size: tuple[int, int] | None = None,
) -> Talk:
    """Tell a machine its command. Raises :class:`UsageError` for what can't be told.

    :param env: more of it.
    :param size: of this terminal, if the command shall have one.
    """
    line = guestside.command_line(
        asked.command,
        env=variables((*asked.env, *env)),
        workdir=asked.workdir,
        user=_user(asked.user),
        hostname=hostname,
        now=time.time(),
        size=size,
    )
    talk: PortTalk | SerialTalk
    if plan.token:
        talk = PortTalk(machine.ends, plan.token.encode(), *sinks)
    else:
        if size is not None or not asked.command:
            raise UsageError("over a serial line there is no terminal for a command")
        talk = SerialTalk(machine.ends[SERIAL], sinks[0])
    talk.begin(line)
    return talk


def finished(machine: ThrowAway, talk: Talk, stdin: int | None, asked: Asked) -> int:
    """The command's exit status, :data:`TIMED_OUT` when it took too long.

    Raises :class:`MachineDied` when the machine ended before.
    """
    deadline = time.monotonic() + asked.timeout if asked.timeout else None
    try:
        status = talk.talk(stdin, deadline)
        if status is None:
            talk.send_signal("TERM")
            talk.talk(None, time.monotonic() + _LAST_WORDS)
            status = TIMED_OUT
    except Hangup:
        raise machine.died() from None
    return status


def variables(written: tuple[str, ...]) -> list[tuple[str, str]]:
    """Names and values of ``NAME=VALUE``, or of ``NAME`` as it is here.

    Raises :class:`UsageError`.
    """
    found = []
    for one in written:
        name, equals, value = one.partition("=")
        if not guestside.is_variable(name):
            raise UsageError(f"--env takes NAME=VALUE or NAME; found {one!r}")
        if equals or name in os.environ:
            found.append((name, value if equals else os.environ[name]))
    return found


def _user(name: str) -> str:
    if name and not guestside.is_user(name):
        raise UsageError(f"no user can be called {name!r}")
    return name
