# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors as the user sees them: message, hint, detail, and the class's exit code."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any, Final

from sysqcache.base import system
from sysqcache.base.errors import SysqcacheError, brief
from sysqcache.base.printable import printable
from sysqcache.base.terminal import is_unwritten, tell
from sysqcache.cli.loglines import log_json, note

ENV_DEBUG: Final = "SYSQCACHE_DEBUG"


def set_debug(enabled: bool) -> None:
    """Switch tracebacks and QEMU's command on, also for processes that we start."""
    if enabled:
        os.environ[ENV_DEBUG] = "1"


def debug_enabled() -> bool:
    """True with ``--debug`` or ``SYSQCACHE_DEBUG=1``."""
    return os.environ.get(ENV_DEBUG, "") not in ("", "0")


def unexpected(error: Exception) -> SysqcacheError:
    """An error that nothing expected, such as a full disk in the state directory."""
    text, hint = f"internal error: {type(error).__name__}: {error}", "--debug shows where"
    refused = system.shortage(error)
    if is_unwritten(error):
        text, hint = f"the output can't be written: {brief(error)}", ""
    elif refused is not None:
        text, hint = brief(refused), system.hint(refused.errno) or hint
    wrapped = SysqcacheError(text, hint=hint)
    wrapped.__cause__ = error
    return wrapped


def as_json(error: SysqcacheError) -> dict[str, Any]:
    """What ``--json`` prints of a command that failed: what is known, and the error."""
    known = error.report.to_json() if error.report is not None else {}
    return known | {"error": error.to_json()}


def report_error(error: SysqcacheError) -> int:
    """Print an error to stderr; returns its exit code."""
    if debug_enabled():
        traceback.print_exception(error)
    if log_json():
        note(error.message, "error", "error", **error.to_json() | {"command": error.command})
        return error.exit_code
    bold, red, reset = ("\x1b[1m", "\x1b[31m", "\x1b[0m") if sys.stderr.isatty() else ("", "", "")
    lines = [f"{bold}{red}error:{reset} {bold}{printable(error.message)}{reset}"]
    lines += [f"  {line}" for line in printable(error.detail).splitlines()]
    if error.hint:
        lines.append(f"hint: {printable(error.hint)}")
    if error.command and debug_enabled():
        lines.append(f"command: {printable(error.command)}")
    tell("\n".join(lines) + "\n")
    return error.exit_code
