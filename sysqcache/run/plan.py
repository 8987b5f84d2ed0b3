# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run needs to know of its template, found in milliseconds.

::

    state/runs/<words>.json     the plan for one source with its overrides
    state/runs/<template>.lock  held by whoever makes a template

A plan holds a whole command line, so that a run reads no vm.yaml and no record. It is good as
long as every file that it was made from is what it was; who finds one that is not makes a new
plan, and a new template if what changed is a part of the machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Self

from sysqcache.base import paths
from sysqcache.base.devices import device_size, device_state
from sysqcache.base.files import make_directory, replace_file
from sysqcache.base.types import CacheMode
from sysqcache.run import guestside
from sysqcache.run.words import Asked

VERSION: Final = 1
RUNS: Final = "runs"
_ENGINE: Final = "SYSQCACHE_ENGINE"

Marks = dict[str, list[Any]]
"""What files were like, by path."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """How to start a machine for one command.

    :param template: name of the saved machine; ``directory``: of its state and its disks.
    :param key: what the template was made of.
    :param argv: QEMU's command line, relative to the machine's own directory; descriptors of
        character devices and host ports are filled in at the start.
    :param disks: names of overlays, and the empty ones that they begin as.
    :param boot_set: packs to map; ``packs``: the file that a store lists them in, and what it
        was like.
    :param touched: the part of the command line that lets QEMU touch memory ahead of the guest.
    :param token: what follows on the streams' output; "": the command goes over the serial line.
    :param state: fields of the state file of a machine that is started so.
    :param watched: all files that the plan was made from.
    """

    key: str
    template: str
    directory: str
    argv: tuple[str, ...]
    disks: dict[str, str]
    boot_set: tuple[str, ...]
    packs: Marks
    token: str
    state: dict[str, Any]
    watched: Marks
    touched: str = ""

    def encode(self) -> bytes:
        """The plan's file."""
        versions = {"version": VERSION, "guest": guestside.VERSION}
        return json.dumps(versions | dataclasses.asdict(self)).encode()

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """The inverse; raises ValueError, KeyError or TypeError."""
        value = json.loads(content)
        if (value.pop("version"), value.pop("guest")) != (VERSION, guestside.VERSION):
            raise ValueError("made by another version")
        return cls(**value | {"argv": tuple(value["argv"])})

    @property
    def records(self) -> bool:
        """Whether its machines write down what they translate."""
        return CacheMode(self.state["cache_mode"]).records

    def changed(self) -> list[str]:
        """Paths of files that are not what they were, or of which nobody can tell."""
        return [path for path, was in self.watched.items() if not was or mark(path) != was]

    def packs_changed(self) -> bool:
        """Whether the store lists other packs than it did."""
        return any(mark(path) != was for path, was in self.packs.items())


def mark(path: str | Path) -> list[Any]:
    """What a file is like; equal means that nobody wrote to it. Empty for none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - several dozen files, in milliseconds
        if device := device_state(Path(path)):
            return [device_size(Path(path)), device]
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def marks(files: Iterable[str | Path]) -> Marks:
    """What files are like now."""
    return {str(path): mark(path) for path in files}


def runs_dir() -> Path:
    """Where plans lie."""
    return paths.state_dir() / RUNS


def name_of(asked: Asked) -> str:
    """What the plan's files are called: the same for all commands in the same machine."""
    source = str(Path(asked.source).absolute()) if is_file(asked.source) else asked.source
    told = [source, *asked.overrides, os.environ.get(_ENGINE, ""), str(paths.store_dir())]
    return hashlib.sha256("\0".join(told).encode("utf-8", "surrogateescape")).hexdigest()[:24]


def is_file(source: str) -> bool:
    """Whether what a run was asked for is a vm.yaml, and no image's name."""
    return "/" in source or source.endswith((".yaml", ".yml"))


def read(asked: Asked) -> Plan | None:
    """The plan that was made last, None when there is none that can be read."""
    try:
        return Plan.decode((runs_dir() / f"{name_of(asked)}.json").read_bytes())
    except (OSError, ValueError, KeyError, TypeError):
        return None


def templates() -> set[str]:
    """Names of the templates that plans go on from."""
    found = set()
    for file in runs_dir().glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found.add(Plan.decode(file.read_bytes()).template)
    return found


def write(asked: Asked, plan: Plan) -> None:
    """Keep a plan. Raises OSError."""
    make_directory(runs_dir())
    replace_file(runs_dir() / f"{name_of(asked)}.json", plan.encode())


def lock_of(template: str) -> Path:
    """The lock of making a template of this name; its directory is made. Raises OSError."""
    make_directory(runs_dir())
    return runs_dir() / f"{template}.lock"
