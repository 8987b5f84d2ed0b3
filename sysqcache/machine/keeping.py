# SPDX-License-Identifier: GPL-2.0-or-later
"""The keeper: a process that takes ended runs into the store behind the commands that ran them.

There is one at a time: the store's file ``keeper`` is locked for it before it is started, and
the end of the process frees it, however that comes. What it has not kept by then stays as the
run's files, which the next keeper takes. Who adds a run while one works starts none: a keeper
looks again when it has let go of the lock.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sysqcache.base import files, paths
from sysqcache.base.errors import StoreBusy, StoreError, brief
from sysqcache.base.mapfile import read_small
from sysqcache.base.system import allow_open_files
from sysqcache.machine.cache import Kept, StoreUse
from sysqcache.spec.engines import ENV_ENGINE
from sysqcache.store.layout import LOCK_TIMEOUT

_SCRIPT: Final = (
    "import os, sys; sys.path.append(sys.argv[1]); "
    "from sysqcache.machine.keeping import main; main(sys.argv[2], int(sys.argv[3])); os._exit(0)"
)
"""Whose work is done ends at once: who waits for it may look for processes then."""

_REMEMBERED: Final = 16
"""So many runs are listed with what keeping them took."""

_PATIENCE: Final = 0.5
"""Seconds in which one who only looked at a lock has let go of it."""

_LOCK_PATIENCE: Final = 600.0
"""Seconds to wait for the store's lock: nobody waits for a keeper as long as that."""

_STEP: Final = 0.05
_KEPT_MAX_BYTES: Final = 1 << 24
_NICEST: Final = 19
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30, "riscv64": 30}
"""Numbers of the system call, which the C library does not have."""

_IDLE_CLASS: Final = 3 << 13


def start(root: Path | None = None) -> bool:
    """See to it that a keeper works; False when the system does not let one start."""
    root = root or paths.store_dir()
    try:
        return files.is_locked(root / paths.STORE_KEEPER) or _started(root) is not None
    except OSError:
        return False


def _started(root: Path) -> subprocess.Popen[bytes] | None:
    """A new keeper, which holds the lock from its first moment on; None when another has it.

    Raises OSError.
    """
    with files.locked(root / paths.STORE_KEEPER, _PATIENCE) as lock:
        if lock is None:
            return None
        here = str(Path(__file__).parents[2])
        process = subprocess.Popen(
            # -P: nothing of the directory that a command was called in is imported
            [sys.executable, "-P", "-c", _SCRIPT, here, str(root), str(lock)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=_environment(),
            start_new_session=True,
            pass_fds=[lock],
        )
    with contextlib.suppress(RuntimeError):
        # a program that lives on is not left with a dead child
        threading.Thread(target=process.wait, daemon=True).start()
    return process


def _environment() -> dict[str, str]:
    """Ours, without what depends on the working directory."""
    folders = (paths.ENV_HOME, paths.ENV_STORE, ENV_ENGINE)
    names = [name for name in folders if os.environ.get(name)]
    return {**os.environ, **{name: str(Path(os.environ[name]).absolute()) for name in names}}


def active(root: Path | None = None) -> bool:
    """Whether a keeper works now. Raises OSError."""
    return files.is_locked((root or paths.store_dir()) / paths.STORE_KEEPER)


def wait(root: Path | None = None, timeout: float | None = None) -> list[str]:
    """Wait until all ended runs are kept; start a keeper if there has to be one.

    :returns: names of journals that could not be kept; :func:`kept` says why.
    Raises StoreBusy after ``timeout`` seconds, StoreError.
    """
    root = root or paths.store_dir()
    deadline = None if timeout is None else time.monotonic() + timeout
    ours: subprocess.Popen[bytes] | None = None
    before: set[str] = set()
    with _as_store_error(root):
        while True:
            if not active(root) and (ours is None or ours.poll() is not None):
                left = _waiting(root)
                if not left or (ours is not None and set(left) == before):
                    return sorted(left)
                if not all(left.values()):  # those that others have claimed are theirs to keep
                    before, ours = set(left), _started(root)
            if deadline is not None and time.monotonic() >= deadline:
                raise StoreBusy(
                    f"the keeper of {root} has not finished after {timeout:g} s",
                    hint="it goes on; wait again: sysqcache cache wait",
                )
            time.sleep(_STEP)


def settle(root: Path | None = None, tell: Callable[[str], None] = lambda _: None) -> None:
    """Wait for a keeper if one works, as long as for the store's lock; start none.

    :param tell: told that there is one.
    Raises StoreError.
    """
    root = root or paths.store_dir()
    with _as_store_error(root):
        if not active(root):
            return
        tell("waiting for the keeper")
        deadline = time.monotonic() + LOCK_TIMEOUT
        while active(root) and time.monotonic() < deadline:
            time.sleep(_STEP)


def catch_up(root: Path | None = None) -> int:
    """Let a keeper take what earlier runs left; how many there are that it takes. Never fails."""
    root = root or paths.store_dir()
    with contextlib.suppress(StoreError):
        free = list(_waiting(root).values()).count(False)
        return free if free and start(root) else 0
    return 0


@contextlib.contextmanager
def _as_store_error(root: Path) -> Any:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"the keeper of {root} can't be asked: {error.strerror or error}"
        ) from error


def _waiting(root: Path) -> dict[str, bool]:
    """Journals that wait, and whether somebody has claimed each. Raises StoreError."""
    if not any((root / paths.STORE_JOURNALS).glob(f"*{paths.JOURNAL_SUFFIX}")):
        return {}
    from sysqcache.store.facade import Store

    with Store.open(root) as store:
        return store.waiting()


def kept(root: Path | None = None) -> list[dict[str, Any]]:
    """What keepers did last, an object a run; the newest is the last one."""
    file = (root or paths.store_dir()) / paths.STORE_KEPT
    try:
        runs = json.loads(read_small(file, _KEPT_MAX_BYTES))["runs"]
        return [dict(run) for run in runs][-_REMEMBERED:]
    except (OSError, ValueError, TypeError, KeyError, RecursionError, StoreError):
        return []


def main(root: str, lock: int) -> None:
    """The life of a keeper, which inherits the lock's descriptor."""
    os.umask(os.umask(0o077) | 0o022)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    allow_open_files()
    _step_back()
    store = Path(root)
    left = _keep(store)
    os.close(lock)
    while fresh := set(_waiting(store)) - left:
        with files.locked(store / paths.STORE_KEEPER, _PATIENCE) as again:
            if again is None:
                return  # another one has been started
            left = _keep(store) | fresh


def _step_back() -> None:
    """Leave processors and disks to whoever wants them, as far as the system lets us."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICEST)
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, 1, 0, _IDLE_CLASS)


def _keep(root: Path) -> set[str]:
    """Keep what waits; the journals that are left."""
    warnings: list[str] = []
    began = time.monotonic(), time.process_time()

    def note(run: Kept | None) -> None:
        nonlocal began
        now = time.monotonic(), time.process_time()
        told = {"wall_s": round(now[0] - began[0], 3), "cpu_s": round(now[1] - began[1], 3)}
        began = now
        _write_kept(root, (run.to_json() if run else {}) | told | {"warnings": list(warnings)})
        warnings.clear()

    try:
        StoreUse(warnings.append, root, patience=_LOCK_PATIENCE).sweep(note)
    except Exception as error:  # nobody sees a traceback
        warnings.append(brief(error))
    if warnings:
        note(None)
    return set(_waiting(root))


def _write_kept(root: Path, run: dict[str, Any]) -> None:
    runs = [*kept(root), run | {"ended": round(time.time(), 3)}][-_REMEMBERED:]
    with contextlib.suppress(OSError):
        files.replace_file(root / paths.STORE_KEPT, json.dumps({"runs": runs}).encode())
