# SPDX-License-Identifier: GPL-2.0-or-later
"""Maps of real guests whose memory was changed to lie, that are no Linux, or have ended."""

from __future__ import annotations

import contextlib
import resource
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gdbhelp import Gdb
from machinehelp import (
    TINY,
    Background,
    boot,
    end_all,
    eventually,
    report,
    stored_blocks,
    sysqcache,
)

from sysqcache.base import paths
from sysqcache.guestmap import kernelcache, mapper
from sysqcache.guestmap.guest import Guest, open_guest
from sysqcache.guestmap.kallsyms import TEXT_TYPES
from sysqcache.guestmap.kernel import ModuleWalk
from sysqcache.guestmap.result import GuestMap
from sysqcache.guestmap.session import GuestSession
from sysqcache.machine.instances import Instance
from sysqcache.qmp import commands
from sysqcache.qmp.client import QmpClient

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("x86_engine", "tiny_image", "own_state")]


@pytest.fixture(autouse=True)
def nothing_left(own_state: Path) -> Iterator[None]:
    """No machine outlives its test."""
    yield
    end_all()


NOWHERE = 0x4141_4141_4141_4140
SECONDS = 5.0
"""Processor time of a command that maps; its start takes most of it."""


def time_of_children() -> float:
    """Seconds of the processor that commands have taken up to now."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Memory:
    """Guest memory that a debugger writes to, by the kernel's virtual addresses.

    The guest is stopped from here on. ``undo`` puts back what was there.
    """

    def __init__(self, gdb: Gdb, guest: Guest) -> None:
        self._gdb = gdb
        self.guest = guest
        self._before: list[tuple[int, bytes]] = []
        # the processor may run a user's page tables, which do not have the kernel
        assert gdb.ask("Qqemu.PhyMemMode:1") == b"OK"

    def write(self, address: int, data: bytes) -> None:
        """Change memory; ``data`` lies in one page."""
        physical = self.guest.memory.translate(address)
        self._before.append((physical, self._gdb.read(physical, len(data))))
        self._gdb.write(physical, data)

    def pointer(self, address: int, value: int) -> None:
        """Change a 64-bit word."""
        self.write(address, struct.pack("<Q", value))

    def undo(self) -> None:
        """Put everything back, the last change first."""
        while self._before:
            physical, data = self._before.pop()
            self._gdb.write(physical, data)


@contextlib.contextmanager
def debugged(name: str = "tiny") -> Iterator[Memory]:
    """The memory of a machine that runs without a controller; it goes on afterwards."""
    instance = Instance(name)
    path, qmp = instance.file("gdb"), instance.file(paths.INSTANCE_QMP)
    with QmpClient.connect(qmp) as client:
        # the name of a socket may have 107 bytes, and QEMU runs in the directory
        command = "gdbserver unix:gdb,server=on,wait=off"
        client.execute("human-monitor-command", {"command-line": command})
    # the main socket is free, and the spare one is for the maps that are tested
    with Gdb(path) as gdb, GuestSession.open(qmp) as session:
        try:
            yield Memory(gdb, open_guest(session))
        finally:
            gdb.detach()


def no_types(memory: Memory) -> None:
    memory.write(memory.guest.symbols["__start_BTF"], bytes(24))


def wild_types(memory: Memory) -> None:
    # a string section that begins beyond the end
    memory.write(memory.guest.symbols["__start_BTF"] + 16, struct.pack("<II", 1 << 30, 1 << 30))


def endless_modules(memory: Memory) -> None:
    first = memory.guest.memory.u64(memory.guest.symbols["modules"])
    memory.pointer(first, first)


def modules_nowhere(memory: Memory) -> None:
    first = memory.guest.memory.u64(memory.guest.symbols["modules"])
    memory.pointer(first, NOWHERE)


def huge_module(memory: Memory) -> None:
    guest = memory.guest
    first = guest.memory.u64(guest.symbols["modules"]) - guest.layout.at("module.list")
    memory.write(first + guest.layout.at("module.core_layout.size"), b"\xff" * 4)


def endless_tasks(memory: Memory) -> None:
    guest = memory.guest
    link = guest.layout.at("task_struct.tasks")
    first = guest.memory.u64(guest.symbols["init_task"] + link)
    second = guest.memory.u64(first)
    memory.pointer(second, first)


def tasks_nowhere(memory: Memory) -> None:
    guest = memory.guest
    memory.pointer(guest.symbols["init_task"] + guest.layout.at("task_struct.tasks"), NOWHERE)


def first_process(guest: Guest) -> int:
    link = guest.layout.at("task_struct.tasks")
    return guest.memory.u64(guest.symbols["init_task"] + link) - link


def tree_in_itself(memory: Memory) -> None:
    guest = memory.guest
    mm = guest.pointer(first_process(guest), "task_struct.mm")
    root = guest.pointer(mm, "mm_struct.mm_mt.ma_root")
    # the node says that it is an inner one, and all its slots lead to it
    inner = root & ~0x78 | 2 << 3
    memory.pointer(mm + guest.layout.at("mm_struct.mm_mt.ma_root"), inner)
    slots = (root & ~0xFF) + guest.layout.at("maple_range_64.slot")
    memory.write(slots, struct.pack("<Q", inner) * 16)


def first_memory(guest: Guest) -> int:
    """The first range of /proc/iomem."""
    root = guest.symbols["iomem_resource"]
    return guest.pointer(root, "resource.child")


def memory_without_an_end(memory: Memory) -> None:
    guest = memory.guest
    at = first_memory(guest)
    while guest.memory.string(guest.pointer(at, "resource.name")) != "System RAM":
        at = guest.pointer(at, "resource.sibling")
    memory.pointer(at + guest.layout.at("resource.end"), (1 << 60) - 1)


def endless_resources(memory: Memory) -> None:
    at = first_memory(memory.guest)
    memory.pointer(at + memory.guest.layout.at("resource.sibling"), at)


def no_resources(memory: Memory) -> None:
    root = memory.guest.symbols["iomem_resource"]
    memory.pointer(root + memory.guest.layout.at("resource.child"), NOWHERE)


def kernel_without_an_end(memory: Memory) -> None:
    brk = memory.guest.layout.at("mm_struct.brk")
    memory.pointer(memory.guest.symbols["init_mm"] + brk, NOWHERE)


def pages_nowhere(memory: Memory) -> None:
    memory.pointer(memory.guest.symbols["vmemmap_base"], NOWHERE)


def too_many_symbols(memory: Memory) -> None:
    memory.write(memory.guest.info.symbols["kallsyms_num_syms"], b"\xff" * 4)


def no_page_tables(memory: Memory) -> None:
    root = memory.guest.info.symbols["swapper_pg_dir"]
    for place in range(0, 4096, 1024):
        memory.write(root + place, bytes(1024))


LIES: list[tuple[Callable[[Memory], None], str]] = [
    (no_types, "type information"),
    (wild_types, "type information"),
    (endless_modules, "modules: a list that became a circle"),
    (modules_nowhere, "modules: the list of modules ends early"),
    (huge_module, "modules: 1 could not be read"),
    (endless_tasks, "processes: a list that became a circle"),
    (tasks_nowhere, "processes: "),
    (tree_in_itself, "processes: 1 could not be read"),
    (memory_without_an_end, "pages: only the first"),
    (pages_nowhere, "pages: "),
    (endless_resources, "pages: the list of memory ends early"),
    (no_resources, "pages: the kernel names no memory"),
    (kernel_without_an_end, "where no kernel can"),
    (too_many_symbols, "symbol table has no sensible size"),
    (no_page_tables, ""),
]


def test_structures_that_lie() -> None:
    """Each lie costs what it is about and a note, and the map is whole again without it."""
    boot("--detach", "--cache", "off")
    clean = report("map", "tiny")
    assert clean["note"] == ""
    with debugged() as memory:
        modules = len(ModuleWalk(memory.guest).modules())
        for lie, words in LIES:
            lie(memory)
            start = time_of_children()
            found = report("map", "tiny")
            assert time_of_children() - start < SECONDS, lie
            assert words in found["note"], (lie, found["note"])
            assert found["note"], lie
            if words == "type information":
                assert "type information is damaged" in found["note"]
                same = ("release", "build_id", "text", "init_text", "kaslr_offset")
                assert [found["kernel"][key] for key in same] == [
                    clean["kernel"][key] for key in same
                ]
                assert found["pages"]["kernel"] > 1_000
            assert sum(found["pages"].values()) == sum(clean["pages"].values()), lie
            memory.undo()
            if lie is tree_in_itself:
                assert len(found["kernel_modules"]) == modules
                assert found["pages"]["file"] > 0
        assert report("map", "tiny")["note"] == ""
    assert sysqcache("exec", "tiny", "--", "echo", "alive").stdout == "alive\n"


def map_by_functions(forget: bool) -> GuestMap:
    """A map of the tiny guest that looks at no symbols but functions."""
    with GuestSession.open(Instance("tiny").file(paths.INSTANCE_QMP_INTROSPECT)) as session:
        assert session.info is not None
        file = kernelcache.file_of(session.info.build_id)
        assert file is not None
        if forget:
            file.unlink(missing_ok=True)
        return mapper.map_guest(session, symbol_types=TEXT_TYPES)


def test_variables_that_hide() -> None:
    """What one guest hides is missing from its map, and is found again where it is not hidden."""
    boot("--detach", "--cache", "off")
    clean = map_by_functions(forget=True)
    assert clean.note == ""
    with debugged() as memory:
        known = kernelcache.load(clean.kernel.build_id)
        assert known is not None
        clean = map_by_functions(forget=False)
        proofs = {name: at + clean.kernel.kaslr_offset for name, at in known.roots.items()}
        pgd = memory.guest.layout.at("mm_struct.pgd")
        for name, proof in proofs.items():
            place = {"modules": proof, "init_mm": proof + pgd}.get(name, proof + 4)
            memory.write(place, bytes(4))
            for forget in (True, False):
                start = time.thread_time()
                found = map_by_functions(forget)
                assert time.thread_time() - start < SECONDS, name
                if name == "page_offset_base":
                    # page tables say the same
                    assert (found.note, found.processes) == ("", clean.processes)
                elif name == "vmemmap_base":
                    assert found.note
                else:
                    assert f"no symbol {name}" in found.note, found.note
                assert sum(found.table.counts().values()) == sum(clean.table.counts().values())
            memory.undo()
            found = map_by_functions(forget=False)
            assert found.note == "", name
            assert (found.modules, found.processes) == (clean.modules, clean.processes), name
            assert kernelcache.load(clean.kernel.build_id) == known, name


def test_blocks_of_a_kernel_without_types_are_kept() -> None:
    """Nothing is attributed, nothing is lost, and the next boot finds the blocks."""
    boot("--detach")
    with debugged() as memory:
        no_types(memory)
    assert "type information" in report("map", "tiny")["note"]
    stopped = report("stop", "tiny")
    assert stopped["ended_by"] == "guest"
    assert stored_blocks() > 10_000
    assert boot()["blocks"]["hit_rate"] > 0.5


SERIAL = 0x3F8
HELLO = b"no kernel here\n\0"


def boot_sector() -> bytes:
    """A whole system: a line on the serial port, then sleep for ever."""
    start = 0x7C00
    code = bytearray()
    code += b"\xfa\x31\xc0\x8e\xd8"  # cli; xor %ax,%ax; mov %ax,%ds
    code += b"\xbe" + bytes(2)  # mov $text,%si
    code += b"\xba" + SERIAL.to_bytes(2, "little")  # mov $SERIAL,%dx
    code += b"\xac\x84\xc0\x74\x03\xee\xeb\xf8"  # 1: lodsb; test %al,%al; jz 2f; out; jmp 1b
    code += b"\xf4\xeb\xfd"  # 2: hlt; jmp 2b
    code[6:8] = (start + len(code)).to_bytes(2, "little")
    return bytes(code + HELLO).ljust(510, b"\0") + b"\x55\xaa"


def test_a_guest_that_is_not_linux(tmp_path: Path) -> None:
    """What it ran is kept under its disk, and serves a copy of that."""

    def sets(name: str) -> list[str]:
        disk = tmp_path / name
        disk.write_bytes(boot_sector().ljust(1 << 20, b"\0"))
        return [
            *("--set", "kernel=null", "--set", "initrd=null", "--set", 'cmdline=""'),
            *("--set", f"disks=[{{file: {disk}, format: raw, mode: read-only}}]"),
            *("--set", "ready.pattern=no kernel here", "--set", "agent=none"),
        ]

    first = boot(*sets("disk.raw"), "--detach")
    assert first["blocks"]["adopted"] == 0
    assert first["attribution"]["kept_under"] == "disk.raw"
    assert first["attribution"]["unseen"] == first["attribution"]["note"]
    found = report("map", "tiny")
    assert "no running Linux kernel" in found["note"]
    assert found["pages"]["firmware"] > 0
    assert report("stop", "tiny", "--timeout", "1")["ended_by"] == "quit"
    kept = stored_blocks()
    assert kept > 500
    second = boot(*sets("copy.raw"))
    assert second["blocks"]["hit_rate"] > 0.9
    modules = [m["name"] for m in report("cache", "list")["modules"] if m["kind"] == "unknown"]
    assert modules == ["unknown under disk.raw"]
    assert stored_blocks() >= kept


def test_firmware_alone() -> None:
    """Nothing is there to boot: all that runs is the firmware's."""
    sets = [
        *("--set", "kernel=null", "--set", "initrd=null", "--set", 'cmdline=""'),
        *("--set", "ready={probe: none}", "--set", "agent=none"),
    ]
    first = boot(*sets)
    told = first["attribution"]
    assert told["kinds"]["firmware"] == told["blocks"] > 0
    assert (told["unseen"], told["kept_under"]) == (told["note"], "")
    assert {module["kind"] for module in report("cache", "list")["modules"]} == {"firmware"}
    assert boot(*sets)["blocks"]["hit_rate"] > 0.9


UNPACKING = 3000
"""Blocks after which the firmware is done, and the kernel is not."""


def requested(qmp: QmpClient) -> int:
    stats = commands.query_tb_cache(qmp)
    return stats.requested if stats is not None else 0


def test_a_kernel_that_still_unpacks_itself() -> None:
    """Stopped in its first tenths of a second: no map, but blocks."""
    with Background("--until", "exit", "--json") as first:
        socket = Instance("tiny").file(paths.INSTANCE_QMP_INTROSPECT)
        eventually(socket.exists)
        with QmpClient.connect(socket) as qmp:
            eventually(lambda: requested(qmp) >= UNPACKING, step=0.01)
            commands.stop(qmp)
        assert report("map", "tiny")["note"]
        stopped = sysqcache("stop", "tiny", "--force", "--json")
        code, _, err = first.finish()
    assert '"ended_by": "quit"' in stopped.stdout
    assert code in (0, 14), err
    assert stored_blocks() > 500


def test_a_guest_that_has_powered_off() -> None:
    """With on_poweroff: hold, its memory is still there to be looked at."""
    sysqcache("boot", TINY, "--detach", "--set", "on_poweroff=hold")
    before = report("map", "tiny")
    # a shell that is gone would never answer
    sysqcache("exec", "tiny", "--", "(sleep 1; poweroff -f) > /dev/null 2>&1 &")
    eventually(lambda: report("status", "tiny")["qemu_state"] == "shutdown")
    after = report("map", "tiny")
    assert after["note"] == ""
    assert after["kernel"] == before["kernel"]
    assert after["kernel_modules"] == before["kernel_modules"]
    assert after["pages"]["file"] >= before["pages"]["file"] * 0.9
    assert "/bin/busybox" in str(after["processes"])
    stopped = report("stop", "tiny")
    assert stopped["ended_by"] == "guest"
    assert stored_blocks() > 10_000
