# SPDX-License-Identifier: GPL-2.0-or-later
"""The first resume of a new template: it shows which memory the next ones will need first."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sysqcache.base.errors import MachineError, SysqcacheError
from sysqcache.base.files import replace_file
from sysqcache.run import command, throwaway
from sysqcache.run.plan import Plan
from sysqcache.run.words import Asked
from sysqcache.saved import slots, touched

_SECONDS: Final = 60.0


def note_touched(found: Plan) -> bool:
    """Resume a template once and write down what it touches; whether that is known now.

    Raises :class:`MachineError` when the template can't run a command.
    """
    asked = Asked("", ("true",), timeout=_SECONDS)
    more = (throwaway.AGENT,) if found.token else ()
    name = throwaway.new_name("trial")
    with throwaway.started(found, name, any_port=True, more=more) as machine:
        talk = command.begun(machine, found, asked, (_nothing, _nothing))
        status = command.finished(machine, talk, None, asked)
        if status != 0:
            raise MachineError(f"the template can't be used: true ends with {status} in it")
        return _note(found, machine.process.pid)


def _note(found: Plan, pid: int) -> bool:
    directory = Path(found.directory)
    try:
        record, _ = slots.current(found.template)
        _, size, offset = record.ram
        content = touched.observe(pid, directory / slots.STATE, offset, size)
        replace_file(directory / slots.TOUCHED, content)
    except (SysqcacheError, OSError):
        return False  # the next resumes are slower
    return True


def _nothing(_: bytes) -> None:
    """Nobody reads it."""
