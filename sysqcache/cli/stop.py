# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache stop`: power a machine off and keep its blocks."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sysqcache.cli.loglines import note
from sysqcache.cli.options import Json, MachineName, print_json, say

if TYPE_CHECKING:
    from sysqcache.machine.running import Machine

app = typer.Typer()


@app.command()
def stop(
    name: MachineName,
    force: Annotated[
        bool, typer.Option("--force", help="Do not ask the guest; unwritten data is lost.")
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", help="Give the guest this long."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask the guest to power off, end QEMU if it does not, and keep its blocks."""
    from sysqcache.base.types import MachineState
    from sysqcache.cli.sweeping import sweep
    from sysqcache.machine.instances import Instance
    from sysqcache.machine.running import settle

    instance = Instance(name)
    state = instance.current()
    running = state.live and state.process.alive()
    if not running:
        sweep()
        note(f"{name} is not running")
        answer: dict[str, Any] = {"machine": name, "ended_by": None}
    else:
        answer = _stop(name, 0.0 if force else timeout)
        settle(instance)
        sweep()
    if not running and not instance.is_held():
        settle(instance)  # one that was killed left what only a running machine has
    if state.state is not MachineState.BROKEN and not instance.is_held():
        instance.update(state=instance.ended)
    if as_json:
        print_json(answer)
    elif running:
        say(f"{name} ended ({answer['ended_by']})")


def _stop(name: str, timeout: float | None) -> dict[str, Any]:
    """End a running machine; its last counters and who ended it.

    :param timeout: seconds for the guest; 0: the guest is not asked, and a QEMU that can't
        be reached is ended by signals.
    """
    from sysqcache.base.errors import MachineDied, QmpError
    from sysqcache.machine.running import Machine, end_by_signals

    try:
        machine = Machine.attach(name, quick=timeout == 0.0)
    except MachineDied:
        return {"machine": name, "ended_by": "quit", "blocks": None}
    except QmpError as error:
        if timeout != 0.0:
            raise
        note(error.message)
        return {"machine": name, "ended_by": end_by_signals(name), "blocks": None}
    with machine:
        return _end(machine, timeout)


def _end(machine: Machine, timeout: float | None) -> dict[str, Any]:
    from sysqcache.base.errors import MachineError
    from sysqcache.machine.life import place_before_end
    from sysqcache.machine.report import blocks_json

    blocks = None
    with contextlib.suppress(MachineError):
        stats = machine.stats()
        blocks = None if stats is None else blocks_json(stats)
    place_before_end(machine, lambda text: note(f"warning: {text}"))
    limit = machine.state.poweroff_timeout if timeout is None else timeout
    ended_by = machine.power_off(limit) if limit and _runs(machine) else machine.quit()
    return {"machine": machine.state.name, "ended_by": ended_by, "blocks": blocks}


def _runs(machine: Machine) -> bool:
    """Whether the guest can be asked; it runs on if a killed command left it standing."""
    from sysqcache.base.errors import MachineError
    from sysqcache.qmp import commands
    from sysqcache.saved import killed

    try:
        still = killed.go_on(machine)
    except MachineError as error:  # it ended, or its disks are as they were
        note(error.message)
        return False
    if still is not None and still.state == "paused":
        commands.cont(machine.qmp)  # whoever stopped it, it can't power off so
        still = machine.standstill()
    if still is not None and still.state == "shutdown":
        return True  # it has powered off by itself, and only its QEMU is left
    if still is not None:
        note(f"warning: {still.text}: it can't be asked to power off")
    return still is None
