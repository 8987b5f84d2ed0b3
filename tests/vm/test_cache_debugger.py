# SPDX-License-Identifier: GPL-2.0-or-later
"""A debugger on a guest whose blocks come from packs: it sees every breakpoint and step."""

from __future__ import annotations

from pathlib import Path

import pytest
from enginehelp import Guest, Recorded, Start, guest
from gdbhelp import STOPPED, Gdb
from machinehelp import eventually

from sysqcache.base.types import CacheMode
from sysqcache.qmp import commands

pytestmark = pytest.mark.vm

_STEPS = 50
_RESET_VECTOR = 0xFFFFFFF0
_WRITERS = ("store", "device", "rom")


@pytest.fixture
def pack(recorded: Recorded) -> Path:
    return recorded.pack


def stopped_while_idle(machine: Guest) -> bool:
    """Stop the guest; if it was at work, let it go on, and say so."""
    commands.stop(machine.qmp)
    if "HLT=1" in machine.monitor("info registers"):
        return True
    commands.cont(machine.qmp)
    return False


def attach(machine: Guest) -> Gdb:
    """QEMU's own stub, started when it is wanted; the guest is idle and stands still.

    On a busy host the guest still has work to do when it says that it is ready.
    """
    eventually(lambda: stopped_while_idle(machine))
    path = machine.directory / "gdb"
    # the name of a socket may have 107 bytes, and QEMU runs in the directory
    machine.monitor("gdbserver unix:gdb,server=on,wait=off")
    return Gdb(path)


def hit_breakpoint(gdb: Gdb) -> int:
    """Break where the idle guest goes on after an interrupt, and pass there three times."""
    place = gdb.pc()
    gdb.set_breakpoint(place)
    for _ in range(3):
        # the stub would not get past its own breakpoint
        assert gdb.ask("s").startswith(STOPPED)
        assert gdb.ask("c").startswith(STOPPED)
        assert gdb.pc() == place
    return place


def test_breakpoints_and_steps(pack: Path, tmp_path: Path) -> None:
    with guest(Start(CacheMode.READ_ONLY, [pack]), tmp_path / "debugged") as machine:
        machine.wait_ready()
        warm = machine.stats()
        assert warm.adopted > 10_000
        assert (warm.misses["breakpoint"], warm.misses["single-step"]) == (0, 0)

        with attach(machine) as gdb:
            place = hit_breakpoint(gdb)
            broken = machine.stats()
            assert broken.misses["breakpoint"] >= 1

            passed = {place}
            for _ in range(_STEPS):
                assert gdb.ask("s").startswith(STOPPED)
                passed.add(gdb.pc())
            assert len(passed) > 5
            stepped = machine.stats()
            assert stepped.misses["single-step"] >= 5
            assert stepped.adopted - broken.adopted <= 1

            gdb.remove_breakpoint(place)
            gdb.detach()
        machine.work()
        after = machine.still_stats()
    assert after.misses["breakpoint"] == stepped.misses["breakpoint"]
    assert after.misses["single-step"] == stepped.misses["single-step"]
    assert after.adopted > stepped.adopted


def test_what_a_debugger_writes(pack: Path, tmp_path: Path) -> None:
    with guest(Start(CacheMode.ON, [pack]), tmp_path / "debugged") as machine:
        machine.wait_ready()
        with attach(machine) as gdb:
            before = machine.stats()
            assert before.writes["store"] > 1000
            assert before.writes["rom"] == 0
            assert sum(before.writes[name] for name in _WRITERS) <= before.invalidated

            idle = gdb.pc()
            gdb.write(idle, gdb.read(idle, 1))
            in_ram = machine.stats()
            assert in_ram.writes["device"] > before.writes["device"]

            # where the guest ran before: with paging off the debugger reaches the ROM
            machine.qmp.execute("system_reset")
            eventually(lambda: gdb.pc() & 0xFFFF == _RESET_VECTOR & 0xFFFF)
            reset = machine.stats()
            gdb.write(_RESET_VECTOR, gdb.read(_RESET_VECTOR, 1))
            in_rom = machine.stats()
            assert in_rom.writes["rom"] > reset.writes["rom"]
            assert in_rom.writes["device"] == reset.writes["device"]
            assert in_rom.writes["store"] == before.writes["store"]
            gdb.detach()
        machine.wait_for("adopted", in_rom.adopted + 10_000)
        assert machine.still_stats().dead == 0
