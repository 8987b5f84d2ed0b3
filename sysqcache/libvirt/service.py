# SPDX-License-Identifier: GPL-2.0-or-later
"""The systemd unit, the libvirt hook and AppArmor's rules, made out for this installation."""

from __future__ import annotations

import os
import re
import shlex
import sys
from importlib import resources
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.libvirt.rewrite import NAMESPACE

SYSTEM: Final = "system.service"
USER: Final = "user.service"
HOOK: Final = "hook.sh"
PROFILES: Final = ("qemu", "libvirtd")
"""Who needs rules of AppArmor's."""

_PLAIN: Final = re.compile(r"[\w@+=:,./-]+")

_UNITS: Final = (SYSTEM, USER)

_GLOBS: Final = re.compile(r'([\\*?"\[\]{}^@])')


def unit() -> str:
    """The systemd unit of the watcher: root's of the system, others' of their session."""
    return _filled(SYSTEM if os.geteuid() == 0 else USER)


def hook() -> str:
    """The script for libvirt's directory of hooks."""
    return _filled(HOOK)


def apparmor(profile: str) -> str:
    """Rules to add to those that libvirt brings for one of :data:`PROFILES`."""
    return _filled(f"apparmor-{profile}")


def _writable() -> list[Path]:
    """Where the watcher writes; all of them stay, while libvirt's directory itself comes and
    goes with the first and the last enabled domain.
    """
    return [paths.libvirt_dir().parent, paths.state_dir(), paths.cache_dir()]


def _systemd_quoted(word: str) -> str:
    """A word of a setting, as systemd.syntax(7) wants it; commands double ``$`` besides."""
    special = {"\\": "\\\\", '"': '\\"', "%": "%%", "\n": "\\n", "\t": "\\t"}
    quoted = "".join(special.get(letter, letter) for letter in word)
    return word if _PLAIN.fullmatch(word) else f'"{quoted}"'


def _filled(name: str) -> str:
    text = (resources.files("sysqcache.libvirt") / "data" / name).read_text(encoding="utf-8")
    home = os.environ.get(paths.ENV_HOME)
    quote = _systemd_quoted if name in _UNITS else shlex.quote
    command = " ".join(quote(word) for word in (sys.executable, "-m", "sysqcache"))
    values = {
        "COMMAND": command.replace("$", "$$") if name in _UNITS else command,
        "ENVIRONMENT": quote(f"{paths.ENV_HOME}={home}") if home else "LC_ALL=C.UTF-8",
        "WRITABLE": " ".join(quote(str(path)) for path in _writable()),
        "MADE": " ".join(quote(str(path)).replace("$", "$$") for path in _writable()),
        "NAMESPACE": NAMESPACE,
        "LIBVIRT": _GLOBS.sub(r"\\\1", str(paths.libvirt_dir())),
    }
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text
