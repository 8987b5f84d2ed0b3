# SPDX-License-Identifier: GPL-2.0-or-later
"""Running and ended machines: one directory a name, with a state file and a lock.

The lock's descriptor is inherited by QEMU, so the lock is held exactly as long as the
controller or QEMU lives, however they end. Nothing has to be cleaned up after a kill.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

from sysqcache.base import files, paths, statefile
from sysqcache.base.errors import MachineBusy, MachineDied, MachineError, NoSuchMachine
from sysqcache.base.types import GuestAccess, MachineState
from sysqcache.machine.launch.overlay import remove_overlays
from sysqcache.machine.launch.process import ProcessId, log_tail, wait_pid

_LOCK_PATIENCE: Final = 0.3
_NAME_MAX: Final = 255


@dataclasses.dataclass(frozen=True, slots=True)
class InstanceState:
    """What the state file holds. ``started`` is Unix time in seconds, ``ready_s`` seconds
    from the start of QEMU, ``journal`` an absolute path or "". ``start``: boot, or how it
    was resumed; ``saved_from``: directory of the saved machine that it was resumed from.
    ``cache_reason``: why the engine does not use the cache that it was given. ``waits``: its
    guest has not run yet since it was saved.
    """

    name: str
    state: MachineState = MachineState.CREATED
    arch: str = ""
    source: str = ""
    image_id: str = ""
    pid: int = 0
    pid_start: int = 0
    controller: int = 0
    started: float = 0.0
    ready_s: float | None = None
    cache_mode: str = "off"
    run_id: str = ""
    journal: str = ""
    agent: str = GuestAccess.NONE.value
    serial_log: str = ""
    poweroff_timeout: float = 60.0
    forwards: tuple[dict[str, Any], ...] = ()
    argv: tuple[str, ...] = ()
    error: str = ""
    start: str = "boot"
    saved_from: str = ""
    cache_reason: str = ""
    waits: bool = False

    @property
    def process(self) -> ProcessId:
        """The QEMU process."""
        return ProcessId(self.pid, self.pid_start)

    @property
    def holds(self) -> bool:
        """Whether QEMU stays after the guest's power-off."""
        return "-no-shutdown" in self.argv

    @property
    def live(self) -> bool:
        """Whether there should be a QEMU process."""
        live = (MachineState.STARTING, MachineState.RUNNING, MachineState.STOPPING)
        return self.state in live

    @classmethod
    def parse(cls, text: str) -> Self:
        """From the contents of a state file; raises ``ValueError`` when they are wrong."""
        fields = statefile.read_fields(text, cls)
        if not isinstance(fields.get("name"), str):
            raise ValueError("it has no name")
        fields["state"] = MachineState(fields.get("state", "created"))
        for key in ("forwards", "argv"):
            fields[key] = tuple(fields.get(key, ()))
        return cls(**fields)


@dataclasses.dataclass(frozen=True, slots=True)
class Instance:
    """The directory of one machine."""

    name: str

    @property
    def directory(self) -> Path:
        """Its directory; holds the files named in :mod:`sysqcache.base.paths`."""
        return paths.instance_dir(self.name)

    def file(self, name: str) -> Path:
        """One of its files."""
        return self.directory / name

    def watched(self, state: InstanceState) -> ForeignProcess:
        """The QEMU of another command."""
        return ForeignProcess(state.process, self.file(paths.INSTANCE_QEMU_LOG))

    def read(self) -> InstanceState:
        """The state as written last.

        Raises :class:`NoSuchMachine`, or :class:`MachineError` for a damaged file.
        """
        file = self.file(paths.INSTANCE_STATE)
        if "/" in self.name or self.name.startswith(".") or len(os.fsencode(self.name)) > _NAME_MAX:
            raise no_such_machine(self.name)  # and no way into other folders
        try:
            return InstanceState.parse(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise no_such_machine(self.name) from None
        except (OSError, ValueError, TypeError) as error:
            raise MachineError(f"the state of {self.name} can't be read: {error}: {file}") from None

    def write(self, state: InstanceState) -> None:
        """Replace the state file, atomically."""
        text = json.dumps(statefile.to_json(state), indent=1)
        files.replace_file(self.file(paths.INSTANCE_STATE), text.encode())

    def update(self, **changes: Any) -> InstanceState:
        """Change fields of the state file."""
        state = dataclasses.replace(self.read(), **changes)
        self.write(state)
        return state

    @contextlib.contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the machine; yields the descriptor that QEMU inherits.

        Makes the directory if needed. Raises :class:`MachineBusy` when the machine runs
        or another command starts it.
        """
        files.make_directory(self.directory)
        # another command may hold the lock for a moment while it looks at the machine
        with files.locked(self.file(paths.INSTANCE_LOCK), _LOCK_PATIENCE) as fd:
            if fd is None:
                raise MachineBusy(
                    f"the machine {self.name} is running already",
                    hint=f"sysqcache stop {self.name}, or another name: --set name=...",
                )
            yield fd

    def is_held(self) -> bool:
        """True while the controller or QEMU of this machine lives."""
        return files.is_locked(self.file(paths.INSTANCE_LOCK))

    def tidy(self) -> None:
        """Remove what only a running machine has, overlays and sockets, and what kills left."""
        remove_overlays(self.file(paths.INSTANCE_OVERLAYS))
        files.remove_stale(self.directory)
        for name in paths.INSTANCE_SOCKETS:
            with contextlib.suppress(OSError):
                self.file(name).unlink(missing_ok=True)

    def is_saved(self) -> bool:
        """Whether the machine is saved, in whatever condition."""
        return self.file(paths.INSTANCE_SAVED_CURRENT).is_symlink()

    @property
    def ended(self) -> MachineState:
        """What a machine is whose QEMU has ended: what was saved stays, however it went on."""
        return MachineState.SAVED if self.is_saved() else MachineState.STOPPED

    def current(self) -> InstanceState:
        """The state as it really is: a machine that was killed is ``dead``.

        A QEMU whose controller was killed before it could write down its number is found all
        the same. A damaged state file gives ``broken`` with the error; never raises for that.
        """
        try:
            state = self.read()
        except NoSuchMachine:
            raise
        except MachineError as error:
            return InstanceState(self.name, MachineState.BROKEN, error=error.message)
        if state.live and not self.is_held():
            return dataclasses.replace(
                state,
                state=MachineState.DEAD,
                error=state.error or "QEMU and its controller were killed",
            )
        if state.state is MachineState.CREATED and (found := self._qemu(state.controller)):
            return dataclasses.replace(
                state, state=MachineState.STARTING, pid=found.pid, pid_start=found.start
            )
        return state

    def _qemu(self, controller: int) -> ProcessId | None:
        """The process that holds the lock beside the controller: it inherited the descriptor."""
        if not self.is_held():
            return None
        others = (pid for pid in _holders(self.file(paths.INSTANCE_LOCK)) if pid != controller)
        return next(filter(None, map(ProcessId.of, others)), None)

    def require_running(self) -> InstanceState:
        """The state of a machine that runs; raises :class:`MachineError` otherwise."""
        state = self.current()
        if not state.live or not state.process.alive():
            raise MachineError(
                f"the machine {self.name} is not running (it is {state.state})",
                hint="sysqcache list shows all machines",
                detail=state.error,
            )
        return state


def _holders(lock: Path) -> Iterator[int]:
    """Processes with a descriptor that holds this lock; of other users' processes none is seen."""
    wanted = str(lock.resolve())
    for process in Path("/proc").glob("[0-9]*"):
        # processes and descriptors come and go meanwhile
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if any(_holds(link, wanted) for link in (process / "fd").iterdir()):
                yield int(process.name)


def _holds(link: Path, wanted: str) -> bool:
    """Whether a descriptor of /proc holds a lock; who only looks at it has it open as well."""
    try:
        if str(link.readlink()) != wanted:
            return False
        return "lock:" in (link.parents[1] / "fdinfo" / link.name).read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


def list_instances() -> list[InstanceState]:
    """All machines by name, broken ones included."""
    try:
        folders = sorted(paths.instances_dir().iterdir())
    except FileNotFoundError:
        return []
    states = []
    for folder in folders:
        with contextlib.suppress(NoSuchMachine):
            states.append(Instance(folder.name).current())
    return states


def tidy_dead() -> None:
    """Remove what machines left that were killed with their controllers; never fails."""
    for state in list_instances():
        if state.state is MachineState.DEAD:
            with contextlib.suppress(MachineBusy, OSError), Instance(state.name).locked():
                Instance(state.name).tidy()


def no_such_machine(name: str) -> NoSuchMachine:
    """The error for an unknown name, with the nearest known one."""
    known = [file.parent.name for file in paths.instances_dir().glob(f"*/{paths.INSTANCE_STATE}")]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "sysqcache list shows all machines"
    return NoSuchMachine(f"there is no machine {name[:80]!r}", hint=hint)


class ForeignProcess:
    """A QEMU that another process started, watched through its identity."""

    def __init__(self, process: ProcessId, log: Path) -> None:
        self._process = process
        self._log = log

    def poll(self) -> int | None:
        """0 once it has ended (its exit status is known to its parent only)."""
        return None if self._process.alive() else 0

    def wait(self, timeout: float) -> int | None:
        """Wait for its end."""
        if self.poll() is None:
            wait_pid(self._process.pid, timeout)
        return self.poll()

    def cpu_seconds(self) -> float:
        """CPU time so far."""
        return self._process.cpu_seconds()

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended; never to a process that got its number since."""
        pid = self._process.pid
        with contextlib.suppress(ProcessLookupError), files.held(os.pidfd_open(pid)) as descriptor:
            if self._process.alive():
                signal.pidfd_send_signal(descriptor, number)

    def died(self) -> MachineDied:
        """The error that explains its end."""
        return MachineDied(
            "QEMU ended unexpectedly", hint="sysqcache logs shows more", detail=log_tail(self._log)
        )
