# SPDX-License-Identifier: GPL-2.0-or-later
"""What commands say on stderr: lines for people, or with ``--log-json`` objects for programs."""

from __future__ import annotations

import json
import os
import time
from typing import Any, Final, Literal

from sysqcache.base.printable import printable
from sysqcache.base.terminal import tell

ENV_LOG: Final = "SYSQCACHE_LOG"
Level = Literal["info", "warning", "error"]
_WARNING: Final = "warning: "


def set_log_json(enabled: bool) -> None:
    """Switch to objects, also for processes that we start."""
    if enabled:
        os.environ[ENV_LOG] = "json"


def log_json() -> bool:
    """True with ``--log-json`` or ``SYSQCACHE_LOG=json``."""
    return os.environ.get(ENV_LOG, "") == "json"


def line(text: str, level: Level = "info", event: str = "message", **fields: Any) -> str:
    """One line with its end: ``text`` for people, an object with all fields for programs."""
    if not log_json():
        return f"{printable(text)}\n"
    if text.startswith(_WARNING):
        text, level = text.removeprefix(_WARNING), "warning"
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03}Z"
    value = {"time": stamp, "level": level, "event": event, "message": text.strip()}
    return json.dumps(value | fields) + "\n"


def note(text: str, level: Level = "info", event: str = "message", **fields: Any) -> None:
    """A line on stderr: progress, warnings, errors."""
    tell(line(text, level, event, **fields))
