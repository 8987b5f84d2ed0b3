# SPDX-License-Identifier: GPL-2.0-or-later
"""What the next block depends on, changed under code that calls it; see guest/lookup.c."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from enginehelp import Guest, Start, guest
from gdbhelp import STOPPED, Gdb
from machinehelp import eventually
from programhelp import in_shell, tiny_with

from bench.tinyguest import compiled
from sysqcache.base.types import CacheMode
from sysqcache.qmp.client import CommandRefusedError
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import Engine

pytestmark = pytest.mark.vm

WAYS = ("remap", "noexec", "fork", "alias", "border", "far", "trap")
CODE, COUNTER = 0x20000000, 0x20010000
"""Where the program has its function and counts its calls."""
BAR = 1 << 20
STOPS = 10
IVSHMEM = "0x1110"


@pytest.fixture(scope="module")
def machine(
    x86_engine: Engine, tiny_image: ImagePaths, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Guest]:
    """The tiny guest with the program, recording."""
    directory = tmp_path_factory.mktemp("lookup")
    sets = tiny_with([compiled("lookup", directory)], directory)
    start = Start(CacheMode.ON, journal=directory / "journal", sets=sets, accel="x-audit=on")
    with guest(start, directory / "machine") as running:
        running.wait_ready()
        yield running


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_called_that_has_changed(machine: Guest, way: str) -> None:
    assert in_shell(machine, f"lookup {way}").split() == [f"{way}:", "done"]
    machine.audit()


def calls(gdb: Gdb) -> int:
    """How often the function was called; 0 where another process runs."""
    answer = gdb.ask(f"m{COUNTER:x},8")
    return (
        0 if answer.startswith(b"E") else int.from_bytes(bytes.fromhex(answer.decode()), "little")
    )


def stops_at_once(machine: Guest, enough: int) -> bool:
    """Stop the guest and set a breakpoint; False: the program is not there, or has done little."""
    with Gdb(machine.directory / "gdb") as gdb:
        before = calls(gdb)
        if before >= enough:
            gdb.set_breakpoint(CODE)
            assert gdb.ask("c").startswith(STOPPED)
            assert gdb.pc() == CODE
            assert calls(gdb) - before <= 1
            gdb.remove_breakpoint(CODE)
        gdb.detach()
    return before >= enough


def test_a_breakpoint_stops_the_next_call(machine: Guest) -> None:
    """The guest calls the function from another page, some million times a second."""
    in_shell(machine, "lookup spin >/dev/null 2>&1 &")
    machine.monitor("gdbserver unix:gdb,server=on,wait=off")
    for turn in range(1, STOPS + 1):
        eventually(partial(stops_at_once, machine, turn * 10_000))
    in_shell(machine, "killall lookup")


def test_logging_begins_while_the_guest_runs(machine: Guest) -> None:
    """The function is found by look-ups alone, as it is called from another page."""
    in_shell(machine, "lookup spin >/dev/null 2>&1 &")
    log = machine.directory / "exec.log"
    machine.monitor(f"logfile {log}")
    machine.monitor("log exec")
    eventually(lambda: log.exists() and f"/{CODE:016x}/" in log.read_text(errors="replace"))
    machine.monitor("log none")
    in_shell(machine, "killall lookup")


def plug(machine: Guest, number: int, value: int, directory: Path) -> None:
    """Plug in a device whose memory holds a function that returns ``value``."""
    file = directory / f"bar{number}"
    file.write_bytes((b"\xb8" + value.to_bytes(4, "little") + b"\xc3").ljust(BAR, b"\0"))
    backend = {"qom-type": "memory-backend-file", "id": f"bar{number}", "size": BAR}
    machine.qmp.execute("object-add", {**backend, "mem-path": str(file), "share": True})
    device = {"driver": "ivshmem-plain", "id": f"device{number}", "memdev": f"bar{number}"}
    machine.qmp.execute("device_add", device)


def removed(machine: Guest, number: int) -> bool:
    """Whether the guest has let the device go, and its memory with it."""
    try:
        machine.qmp.execute("object-del", {"id": f"bar{number}"})
    except CommandRefusedError:
        return False
    return True


def in_device(machine: Guest) -> str:
    """What the function in the device's memory returns; the guest needs some time to see it."""
    found = f"dir=$(dirname $(grep -l {IVSHMEM} /sys/bus/pci/devices/*/device)) 2>&-"
    bar = "$(sed -n '3s/ .*//p' $dir/resource)"
    return in_shell(machine, f"until {found}; do sleep 0.1; done; lookup device {bar}").strip()


def test_memory_that_takes_the_place_of_other_memory(machine: Guest, tmp_path: Path) -> None:
    """It is a file's, so that nobody writes what is in it: its blocks have to go with it."""
    in_shell(machine, "[ -e /dev/mem ] || mknod /dev/mem c 1 1; mount -o remount,exec /dev || true")
    for number, value in enumerate((11, 22, 33)):
        plug(machine, number, value, tmp_path)
        assert in_device(machine) == str(value)
        machine.qmp.execute("device_del", {"id": f"device{number}"})
        eventually(partial(removed, machine, number))
    machine.audit()
