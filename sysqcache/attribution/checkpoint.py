# SPDX-License-Identifier: GPL-2.0-or-later
"""A look into a running machine: its map, and its blocks compared with its memory."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from sysqcache.attribution.observation import Observation, observe
from sysqcache.base import paths
from sysqcache.base.errors import SysqcacheError
from sysqcache.formats.runfiles import RunFiles
from sysqcache.guestmap import mapper
from sysqcache.guestmap.memory import Budget
from sysqcache.guestmap.session import GuestSession
from sysqcache.qmp.client import Watched

SECONDS = 10.0
"""Processor time of mapping and comparing together."""


class Files(Protocol):
    """Who knows where a machine's files are."""

    def file(self, name: str) -> Path:
        """The file that :mod:`sysqcache.base.paths` gives this name in a machine's directory."""


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """``seen`` is None when the machine could not be looked into; ``note`` says why."""

    seen: Observation | None
    took_s: float
    note: str = ""


def checkpoint(
    instance: Files,
    process: Watched,
    files: RunFiles,
    *,
    seconds: float = SECONDS,
    attach: Callable[[Path, Watched], GuestSession] = GuestSession.open,
) -> Checkpoint:
    """Look into a machine over its spare QMP socket; ``attach`` is the way to do it.

    The engine should have been told to write out its journal right before. Nothing that
    the guest holds raises, nor do a QEMU that ends, a socket that is in use, or a journal
    that can't be read.
    """
    start, deadline = time.perf_counter(), time.thread_time() + seconds
    try:
        with attach(instance.file(paths.INSTANCE_QMP_INTROSPECT), process) as session:
            found = mapper.map_guest(session, Budget(seconds=seconds))
            recorded = files.read_journal()
            left = max(0.0, deadline - time.thread_time())
            seen = observe(session, found, recorded, seconds=left)
    except SysqcacheError as error:
        return Checkpoint(None, time.perf_counter() - start, error.message)
    return Checkpoint(seen, time.perf_counter() - start, seen.note)
