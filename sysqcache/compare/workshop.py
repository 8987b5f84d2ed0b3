# SPDX-License-Identifier: GPL-2.0-or-later
"""A state directory for one comparison: machines, saved states and blocks of its own.

It lies inside the user's state directory, so that it is on the same file system; engines,
images and scans are the user's. It is removed at the end. After a kill the next comparison
ends what still runs in it and removes it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from sysqcache.base import files, paths
from sysqcache.base.errors import MachineError
from sysqcache.machine.instances import Instance, list_instances
from sysqcache.machine.running import end_by_signals
from sysqcache.spec.engines import ENV_ENGINE

_PREFIX: Final = "compare-"
_LOCK: Final = "lock"
_MAKING: Final = ".compare.lock"
_CACHE: Final = "cache"


@contextlib.contextmanager
def workshop(engine: Path) -> Iterator[Path]:
    """The directory, in use: inside the ``with`` block all state is there.

    :param engine: directory of the engine that everything in it uses, so that an engine
        that is built meanwhile changes nothing.

    Raises OSError. What ran in it has ended afterwards.
    """
    parent, cache = paths.state_dir(), paths.cache_dir()
    files.make_directory(parent)
    with contextlib.ExitStack() as stack:
        # a new directory must not be swept before it is locked
        with _locked(parent / _MAKING, wait=True):
            sweep(parent)
            root = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            stack.callback(_remove, root)
            stack.enter_context(_locked(root / _LOCK))
        (root / _CACHE).symlink_to(cache, target_is_directory=True)
        stack.enter_context(_inside(root, {ENV_ENGINE: str(engine)}))
        stack.callback(_end_machines)
        yield root


def sweep(parent: Path) -> list[Path]:
    """Remove what killed comparisons left in ``parent``; the removed directories."""
    removed = []
    for root in sorted(parent.glob(f"{_PREFIX}*")):
        with contextlib.suppress(OSError), _locked(root / _LOCK):
            with _inside(root, {}):
                _end_machines()
            _remove(root)
            removed.append(root)
    return removed


@contextlib.contextmanager
def _locked(file: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock that a kill frees. Raises BlockingIOError when another process has it."""
    with files.locked(file, None if wait else 0.0) as fd:
        if fd is None:
            raise BlockingIOError(f"{file} is held")
        yield


def _inside(root: Path, more: Mapping[str, str]) -> contextlib.AbstractContextManager[None]:
    """State and store in ``root`` for a while."""
    return _environment({paths.ENV_HOME: str(root), paths.ENV_STORE: None, **more})


@contextlib.contextmanager
def _environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Environment variables changed for a while; None removes one."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _end_machines() -> None:
    for state in list_instances():
        if Instance(state.name).is_held():
            with contextlib.suppress(MachineError):
                end_by_signals(state.name)


def _remove(root: Path) -> None:
    # the link goes first: nothing below may lead into the user's caches
    (root / _CACHE).unlink(missing_ok=True)
    shutil.rmtree(root, ignore_errors=True)


def disk_bytes(directory: Path) -> int:
    """Space that all files below a directory take, in bytes."""
    return sum(p.lstat().st_blocks * 512 for p in directory.rglob("*") if p.is_file())
