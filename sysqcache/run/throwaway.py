# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine for one command: resumed from a plan, and gone without a trace at its end."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.base.errors import MachineBusy, MachineDied, MachineError
from sysqcache.base.files import is_locked, share
from sysqcache.base.types import MachineState
from sysqcache.machine.instances import Instance, InstanceState
from sysqcache.machine.launch.ports import free_port
from sysqcache.machine.launch.process import QemuProcess
from sysqcache.run import guestside, keep, wake
from sysqcache.run.plan import Plan
from sysqcache.spec.spec import Forward

MARK: Final = "throw-away"
"""A file in the directory of a machine that nothing stays of."""

SERIAL: Final = "serial0"
AGENT: Final = "agent0"
_FLUSH_S: Final = 2.0
_KILL_S: Final = 10.0
_LISTENING: Final = ("path=", "server=", "wait=")
"""Options of a character device that waits for a client."""


class ThrowAway:
    """A running machine, and the host's ends of its character devices by name."""

    def __init__(
        self, instance: Instance, process: QemuProcess, ends: Mapping[str, socket.socket]
    ) -> None:
        self.instance, self.process, self.ends = instance, process, ends

    @property
    def name(self) -> str:
        """What other commands call it."""
        return self.instance.name

    def died(self) -> MachineError:
        """The error for streams that ended before the command."""
        if self.process.wait(2.0) is None:
            return MachineDied("QEMU hung up before the command had ended")
        died = self.process.died()
        return MachineDied(
            f"{self.name} ended before the command had: {died.message}",
            hint="the guest powered off or crashed, or QEMU did",
            detail=died.detail,
            command=died.command,
        )


@contextlib.contextmanager
def started(
    plan: Plan, name: str, *, any_port: bool = False, more: Sequence[str] = ()
) -> Iterator[ThrowAway]:
    """A machine that goes on from a plan's template, until the end of the scope.

    :param any_port: take free host ports, also where vm.yaml names one.
    :param more: character devices whose host's ends are kept from other commands. A guest's agent
        that was connected when it was saved has work to do when it no longer is.
    Raises :class:`MachineBusy` when one of this name runs, :class:`LaunchError`, OSError.
    """
    instance = Instance(name)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(instance.locked())
        _require_no_other(instance)
        stack.callback(shutil.rmtree, instance.directory, ignore_errors=True)
        instance.file(MARK).touch()
        ports = [one.host or free_port(one) for one in forwards(plan, any_port=any_port)]
        state = _written(instance, plan, ports)
        _prepare(instance, plan)
        pairs = {one: socket.socketpair() for one in (*_channels(plan), *more)}
        for ours, theirs in pairs.values():
            stack.callback(ours.close)
            stack.callback(theirs.close)
        fds = {one: theirs.fileno() for one, (_, theirs) in pairs.items()}
        keep = [lock, *fds.values(), *_held(stack)]
        argv = command_line(plan, fds, ports)
        process = QemuProcess(argv, instance.directory, keep_fds=keep)
        process.start()
        stack.callback(_end, plan, instance, process, pairs[wake.CHANNEL][0])
        for _, theirs in pairs.values():
            theirs.close()
        wake.let_go_on(pairs[wake.CHANNEL][0], process)
        identity = process.identity
        instance.write(
            dataclasses.replace(
                state,
                state=MachineState.RUNNING,
                pid=identity.pid,
                pid_start=identity.start,
                argv=tuple(argv),
            )
        )
        yield ThrowAway(instance, process, {one: ours for one, (ours, _) in pairs.items()})


def _require_no_other(instance: Instance) -> None:
    """A machine that stays must not go with one that does not."""
    if instance.file(paths.INSTANCE_STATE).exists() and not instance.file(MARK).exists():
        raise MachineBusy(f"there is a machine {instance.name} already", hint="choose another name")


def _end(plan: Plan, instance: Instance, process: QemuProcess, qmp: socket.socket) -> None:
    """Nothing of it stays but what it recorded, if that is much."""
    worth = plan.records and process.poll() is None and wake.recorded(qmp) >= keep.WORTH
    if worth:
        process.signal(signal.SIGTERM)
        process.wait(_FLUSH_S)
    process.kill()
    process.wait(_KILL_S)
    if worth:
        with contextlib.suppress(OSError):
            keep.keep(plan, instance.name, instance.directory)


def _channels(plan: Plan) -> tuple[str, ...]:
    return (wake.CHANNEL, *(guestside.PORTS if plan.token else (SERIAL,)))


def forwards(plan: Plan, *, any_port: bool) -> list[Forward]:
    """Host ports that lead into the machine; 0 for any that is free."""
    found = [Forward(**one) for one in plan.state["forwards"]]
    return [Forward(0, f.guest, f.protocol, f.address) if any_port else f for f in found]


def _written(instance: Instance, plan: Plan, ports: list[int]) -> InstanceState:
    """The state of a machine that is about to start; it is in its file."""
    named = zip(plan.state["forwards"], ports, strict=True)
    fields = plan.state | {
        "name": instance.name,
        "controller": os.getpid(),
        "started": time.time(),
        "saved_from": plan.directory,
        "forwards": tuple({**one, "host": port} for one, port in named),
    }
    state = InstanceState(**fields)
    instance.write(state)
    return state


def _prepare(instance: Instance, plan: Plan) -> None:
    """The machine's files: overlays, and the list of packs."""
    if plan.disks:
        overlays = instance.file(paths.INSTANCE_OVERLAYS)
        overlays.mkdir(mode=0o700)
        for own, empty in plan.disks.items():
            shutil.copyfile(Path(plan.directory) / empty, overlays / own)
    packs = b"".join(os.fsencode(pack) + b"\n" for pack in plan.boot_set)
    instance.file(paths.INSTANCE_BOOT_SET).write_bytes(packs)


def _held(stack: contextlib.ExitStack) -> list[int]:
    """A descriptor that keeps packs from being removed; none when there is no store."""
    in_use = paths.store_dir() / paths.STORE_IN_USE
    if not in_use.exists():
        return []
    fd = share(in_use)
    stack.callback(os.close, fd)
    return [fd]


def port_mark(index: int) -> int:
    """What stands in a plan's command line for the host port of a forward: no port's number."""
    return 70000 + index


def command_line(plan: Plan, fds: Mapping[str, int], ports: list[int]) -> list[str]:
    """QEMU's command line for a machine of a plan."""
    values = {f":{port_mark(index)}-": f":{port}-" for index, port in enumerate(ports)}
    found = []
    for word in plan.argv:
        for mark, value in values.items():
            word = word.replace(mark, value)  # noqa: PLW2901
        found.append(by_descriptor(word, fds))
    return found


def by_descriptor(word: str, fds: Mapping[str, int]) -> str:
    """A word of a command line; a character device of ``fds`` has a socket, and none to listen."""
    kind, _, rest = word.partition(",id=")
    name = rest.partition(",")[0]
    if kind != "socket" or name not in fds:
        return word
    kept = [part for part in word.split(",") if not part.startswith(_LISTENING)]
    return ",".join([*kept, f"fd={fds[name]}"])


def new_name(machine: str) -> str:
    """A name that no machine has."""
    return f"{machine[:48]}-{secrets.token_hex(3)}"


def sweep() -> None:
    """Remove what was left of machines whose run was killed; never fails."""
    for file in paths.instances_dir().glob(f"*/{MARK}"):
        with contextlib.suppress(OSError):
            if not is_locked(file.with_name(paths.INSTANCE_LOCK)):
                shutil.rmtree(file.parent, ignore_errors=True)
