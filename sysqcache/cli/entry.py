# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the process begins: a `run` that is ready goes on at once, all else to the commands.

A resumed machine answers in less time than the library takes to import that the commands are
read with. What is not plain, or has to be made first, goes the long way.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sysqcache.run.plan import Plan
    from sysqcache.run.words import Asked


def main() -> NoReturn:
    """Run the command line; the process ends with the exit codes of docs/errors.md."""
    if sys.argv[1:2] == ["run"] and (found := _ready(sys.argv[2:])) is not None:
        sys.exit(_run(*found))
    from sysqcache.cli import app

    app.main()


def _ready(words: list[str]) -> tuple[Asked, Plan] | None:
    """What is asked for and the plan for it, if it is plain and its template is there."""
    from sysqcache.base.errors import SysqcacheError
    from sysqcache.run import choose
    from sysqcache.run.words import parse

    asked = parse(words)
    try:
        plan = choose.ready_plan(asked) if asked is not None else None
    except (SysqcacheError, OSError):
        return None  # the long way says what is wrong
    return (asked, plan) if asked is not None and plan is not None else None


def _run(asked: Asked, plan: Plan) -> int:
    from sysqcache.base.errors import SysqcacheError
    from sysqcache.base.interrupts import handle_signals

    os.umask(os.umask(0o077) | 0o022)  # nobody else writes what becomes host code
    handle_signals()
    try:
        from sysqcache.run.session import go_on

        return go_on(asked, plan, _say)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        from sysqcache.cli.errors import report_error, unexpected

        return report_error(error if isinstance(error, SysqcacheError) else unexpected(error))


def _say(text: str) -> None:
    from sysqcache.cli.loglines import note

    note(text)
