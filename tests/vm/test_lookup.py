# SPDX-License-Identifier: GPL-2.0-or-later
"""What the next block depends on, changed under code that calls it; see guest/lookup.c."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from enginehelp import Guest, Start, guest
from gdbhelp import STOPPED, Gdb
from machinehelp import eventually
from programhelp import in_shell, kernel32, tiny_with

from bench.tinyguest import compiled
from sysqcache.base import paths
from sysqcache.base.types import CacheMode
from sysqcache.qmp import commands
from sysqcache.qmp.client import CommandRefusedError
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import Engine

pytestmark = pytest.mark.vm

WAYS = ("remap", "noexec", "fork", "alias", "border", "far", "trap")
CODE, COUNTER = 0x20000000, 0x20010000
"""Where the program has its function and counts its calls."""
CODE_SECOND = CODE + 5
"""Its second instruction, which is its last one."""
AROUND = 20
"""More instructions than there are around a call."""
CALLS_OF_REMAP = 64 * 1001
BAR = 1 << 20
LARGE_BAR, APART = 8 << 30, 4 << 30
STOPS = 10
IVSHMEM = "0x1110"

# no header, as in tests/qemu/test_engine_plugin.py
PLUGIN = """
#include <stdint.h>
#include <stdio.h>
typedef void tb_cb(uint64_t id, void *tb);
typedef void exec_cb(unsigned vcpu, void *opaque);
typedef void exit_cb(uint64_t id, void *opaque);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, tb_cb *cb);
void qemu_plugin_register_vcpu_tb_exec_cb(void *tb, exec_cb *cb, int flags, void *opaque);
void qemu_plugin_register_atexit_cb(uint64_t id, exit_cb *cb, void *opaque);
uint64_t qemu_plugin_tb_vaddr(const void *tb);
__attribute__((visibility("default"))) int qemu_plugin_version = 4;
static uint64_t runs;
static void run(unsigned vcpu, void *opaque) { runs++; }
static void translated(uint64_t id, void *tb)
{
    if (qemu_plugin_tb_vaddr(tb) == CODE) {
        qemu_plugin_register_vcpu_tb_exec_cb(tb, run, 0, 0);
    }
}
static void at_exit(uint64_t id, void *opaque)
{
    FILE *file = fopen("runs", "w");
    fprintf(file, "%lu", (unsigned long)runs);
    fclose(file);
}
__attribute__((visibility("default")))
int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, at_exit, 0);
    return 0;
}
"""


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


def steps_through(machine: Guest) -> bool:
    """Take single steps through calls of the function; False: the program is not there."""
    with Gdb(machine.directory / "gdb") as gdb:
        there = calls(gdb) > 0
        if there:
            gdb.set_breakpoint(CODE)
            assert gdb.ask("c").startswith(STOPPED)
            gdb.remove_breakpoint(CODE)
            before = calls(gdb)
            for turn in range(STOPS):
                assert gdb.pc() == CODE
                assert calls(gdb) - before == turn
                passed = []
                while not passed or passed[-1] != CODE:
                    assert gdb.ask("s").startswith(STOPPED)
                    passed.append(gdb.pc())
                    assert len(passed) < AROUND
                assert passed[0] == CODE_SECOND
        gdb.detach()
    return there


def test_single_steps_pass_each_instruction(machine: Guest) -> None:
    in_shell(machine, "lookup spin >/dev/null 2>&1 &")
    machine.monitor("gdbserver unix:gdb,server=on,wait=off")
    eventually(partial(steps_through, machine))
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


def function(value: int) -> bytes:
    """Code that returns ``value``."""
    return b"\xb8" + value.to_bytes(4, "little") + b"\xc3"


def plug(machine: Guest, number: int, value: int, directory: Path) -> None:
    """Plug in a device whose memory holds a function that returns ``value``."""
    file = directory / f"bar{number}"
    file.write_bytes(function(value).ljust(BAR, b"\0"))
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


def open_memory(machine: Guest) -> None:
    """Let programs of the guest map what lies at an address, and run it."""
    in_shell(machine, "[ -e /dev/mem ] || mknod /dev/mem c 1 1; mount -o remount,exec /dev || true")


def in_device(machine: Guest, *offsets: int) -> list[str]:
    """What functions in the device's memory return; the guest needs some time to see it."""
    found = f"dir=$(dirname $(grep -l {IVSHMEM} /sys/bus/pci/devices/*/device)) 2>&-"
    bar = "bar=$(sed -n '3s/ .*//p' $dir/resource)"
    addresses = " ".join(f"$((bar + {offset}))" for offset in offsets)
    program = f"lookup device {addresses}"
    return in_shell(machine, f"until {found}; do sleep 0.1; done; {bar}; {program}").split()


def test_memory_that_takes_the_place_of_other_memory(machine: Guest, tmp_path: Path) -> None:
    """It is a file's, so that nobody writes what is in it: its blocks have to go with it."""
    open_memory(machine)
    for number, value in enumerate((11, 22, 33)):
        plug(machine, number, value, tmp_path)
        assert in_device(machine, 0) == [str(value)]
        machine.qmp.execute("device_del", {"id": f"device{number}"})
        eventually(partial(removed, machine, number))
    machine.audit()


def test_memory_of_more_than_4_gib(
    x86_engine: Engine, tiny_image: ImagePaths, tmp_path: Path
) -> None:
    """Two functions whose addresses in the host's memory differ in the upper half alone."""
    bar = tmp_path / "bar"
    with bar.open("wb") as file:
        file.truncate(LARGE_BAR)
        for value, offset in ((11, 0), (22, APART)):
            file.seek(offset)
            file.write(function(value))
    backend = f"memory-backend-file,id=bar,size={LARGE_BAR},mem-path={bar},share=on"
    arguments = ["-object", backend, "-device", "ivshmem-plain,memdev=bar"]
    sets = tiny_with([compiled("lookup", tmp_path)], tmp_path)
    start = Start(sets=(*sets, f"qemu_args={json.dumps(arguments)}"), accel="x-audit=on")
    with guest(start, tmp_path / "machine") as running:
        running.wait_ready()
        open_memory(running)
        assert in_device(running, 0, APART) == ["11", "22"]
        running.audit()


def test_a_plugin_sees_each_call(
    x86_engine: Engine, tiny_image: ImagePaths, tmp_path: Path
) -> None:
    library = tmp_path / "libruns.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", f"-DCODE={CODE}", "-x", "c", "-o", library, "-"],
        input=PLUGIN, text=True, check=True,
    )  # fmt: skip
    sets = tiny_with([compiled("lookup", tmp_path)], tmp_path)
    start = Start(sets=(*sets, f"qemu_args={json.dumps(['-plugin', str(library)])}"))
    with guest(start, tmp_path / "machine") as running:
        running.wait_ready()
        assert in_shell(running, "lookup remap").split() == ["remap:", "done"]
        commands.quit_qemu(running.qmp)
        running.process.wait(30)
        assert int((running.directory / "runs").read_text()) == CALLS_OF_REMAP


@pytest.mark.parametrize("mode", [CacheMode.OFF, CacheMode.ON])
def test_ring_0_runs_nothing_that_ring_3_may(
    x86_engine: Engine, tiny_image: ImagePaths, tmp_path: Path, mode: CacheMode
) -> None:
    """A jump that changes the ring looks up with the TLB of the old one; see guest/gate.c."""
    sets = (f"kernel={kernel32(tmp_path, 'gate')}", "cpu=max")
    with guest(Start(mode, sets=sets), tmp_path / "machine") as running:
        log = running.directory / paths.INSTANCE_SERIAL_LOG
        eventually(lambda: log.exists() and log.read_bytes().endswith(b"\n"))
        assert log.read_text() == "gate: closed\n"
