# SPDX-License-Identifier: GPL-2.0-or-later
"""Asking an engine's binary what it is, with `-machine none` over QMP."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any, Final

from sysqcache.base.errors import EngineBuildError
from sysqcache.spec.engines import Engine

OBJECT: Final = "tb-cache"
_READ_ONLY: Final = {"mode": "read-only"}
_TIMEOUT: Final = 30.0


@dataclass(frozen=True)
class CheckResult:
    """What the binary said of itself.

    :param has_cache: whether it knows the object ``tb-cache``.
    :param commands: names of its QMP commands that belong to the cache.
    :param reason: why it can't use the cache on this host, "" when it can.
    """

    version: str
    package: str
    has_cache: bool
    commands: tuple[str, ...]
    reason: str = ""


def check(engine: Engine) -> CheckResult:
    """Start the engine without a machine and question it.

    :raises EngineBuildError: it does not start, or does not answer.
    """
    ask = [
        {"execute": "qmp_capabilities"},
        # refused by an engine that does not know it; the object comes before the machine
        {"execute": "object-add", "arguments": {"qom-type": OBJECT, "id": "try"} | _READ_ONLY},
        {"execute": "x-exit-preconfig"},
        {"execute": "query-version", "id": "version"},
        {"execute": "qom-list-types", "id": "types", "arguments": {"implements": "user-creatable"}},
        {"execute": "query-commands", "id": "commands"},
        {"execute": "x-query-tb-cache", "id": "cache"},
        {"execute": "quit"},
    ]
    command = [
        str(engine.binary),
        "-machine",
        "none",
        "-nodefaults",
        "-display",
        "none",
        "-preconfig",
    ]
    try:
        done = subprocess.run(
            [*command, "-qmp", "stdio"],
            input="".join(json.dumps(line) + "\n" for line in ask),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        raise EngineBuildError(f"{engine.binary} does not run: {err}") from err
    answers = _answers(done.stdout)
    has_cache = any(entry["name"] == OBJECT for entry in answers.get("types", ()))
    wanted = {"version", "types", "commands"} | ({"cache"} if has_cache else set())
    if done.returncode or not wanted <= answers.keys():
        raise EngineBuildError(
            f"{engine.binary} ended with exit code {done.returncode} before it had answered",
            hint="sysqcache engine build --force",
            detail=(done.stderr or done.stdout)[-2000:],
        )
    qemu = answers["version"]["qemu"]
    return CheckResult(
        version=f"{qemu['major']}.{qemu['minor']}.{qemu['micro']}",
        package=str(answers["version"]["package"]),
        has_cache=has_cache,
        commands=tuple(c["name"] for c in answers["commands"] if OBJECT in c["name"]),
        reason=answers.get("cache", {}).get("reason", ""),
    )


def _answers(output: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for line in output.splitlines():
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict) and "return" in message and "id" in message:
            found[message["id"]] = message["return"]
    return found
