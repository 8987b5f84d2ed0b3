# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels and ROMs to which somebody writes while the machine runs, or that are no files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from enginehelp import Guest, Recorded, Start, guest
from machinehelp import NOKASLR, eventually

from sysqcache.base import paths
from sysqcache.base.types import CacheMode
from sysqcache.spec import catalog
from sysqcache.spec.engines import Engine

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("x86_engine", "tiny_image")]

READY = b"sysqcache: ready"


def starts(machine: Guest) -> int:
    """How often the guest has become ready."""
    return (machine.directory / paths.INSTANCE_SERIAL_LOG).read_bytes().count(READY)


def truncate(path: Path) -> None:
    os.truncate(path, 4096)


def overwrite(path: Path) -> None:
    """As a build does that writes another kernel to the same place."""
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))


@pytest.mark.parametrize("change", [truncate, overwrite])
@pytest.mark.parametrize("which", ["kernel", "initrd"])
@pytest.mark.parametrize("mode", [CacheMode.ON, CacheMode.OFF])
def test_a_file_that_changes_is_what_it_was_at_the_next_reboot(
    mode: CacheMode, which: str, change: Callable[[Path], None], tmp_path: Path
) -> None:
    """A kernel developer's loop: a machine goes on with what it was started with."""
    original = getattr(catalog.resolve("tiny-x86_64"), which)
    copy = Path(shutil.copy(original, tmp_path / which))
    start = Start(mode, sets=(NOKASLR, f"{which}={copy}"))
    with guest(start, tmp_path / "guest") as machine:
        machine.wait_ready()
        change(copy)
        machine.qmp.execute("system_reset")
        eventually(lambda: starts(machine) == 2)


def replace_by_more(path: Path) -> None:
    """As a build does that makes a larger one."""
    path.write_bytes(bytes(2 * path.stat().st_size))


def test_everything_that_a_machine_has_at_a_reset(x86_engine: Engine, tmp_path: Path) -> None:
    """Firmware, ROMs, loaded files, and kernels that become larger or nothing at all."""
    image = catalog.resolve("tiny-x86_64")
    sources = {
        "kernel": image.kernel,
        "initrd": image.initrd,
        "firmware": x86_engine.firmware_dir / "bios-256k.bin",
        "option": x86_engine.firmware_dir / "kvmvapic.bin",
        "card": x86_engine.firmware_dir / "efi-virtio.rom",
        "loaded": x86_engine.firmware_dir / "linuxboot.bin",
    }
    own = {name: Path(shutil.copy(str(file), tmp_path / name)) for name, file in sources.items()}
    more = ["-option-rom", str(own["option"])]
    more += ["-device", f"virtio-net-pci,romfile={own['card']}"]
    more += ["-device", f"loader,file={own['loaded']},addr=0x8000000,force-raw=on"]
    fields = [f"{name}={own[name]}" for name in ("kernel", "initrd", "firmware")]
    start = Start(sets=(NOKASLR, *fields, f"qemu_args={json.dumps(more)}"))
    with guest(start, tmp_path / "guest") as machine:
        machine.wait_ready()
        changes: tuple[Callable[[Path], None], ...] = (replace_by_more, truncate)
        for change in changes:
            before = starts(machine)
            for path in own.values():
                change(path)
            machine.qmp.execute("system_reset")
            eventually(lambda: starts(machine) > before, 240.0)  # noqa: B023 - called at once


def test_a_rom_that_comes_through_a_pipe(tmp_path: Path) -> None:
    """It is opened once, and read to its end."""
    rom = tmp_path / "rom"
    os.mkfifo(rom)
    content = b"\x55\xaa\x01\xcb" + bytes(508)
    writer = threading.Thread(target=rom.write_bytes, args=(content,))
    writer.start()
    start = Start(CacheMode.OFF, sets=(NOKASLR, f"qemu_args=[-option-rom, {rom}]"))
    with guest(start, tmp_path / "guest") as machine:
        machine.wait_ready()
    writer.join(10)
    assert not writer.is_alive()


def test_a_bus_error_that_somebody_sends_ends_the_machine(
    recorded: Recorded, tmp_path: Path
) -> None:
    """It tells of no access to a pack: what happens is what happens without the cache."""
    start = Start(CacheMode.READ_ONLY, [recorded.pack])
    with guest(start, tmp_path / "guest") as machine:
        machine.wait_for("adopted", 1000)
        machine.process.signal(signal.SIGBUS)
        assert machine.process.wait(30.0) == -signal.SIGBUS


def test_adopted_code_is_told_to_perf(recorded: Recorded, tmp_path: Path) -> None:
    """The map of host code to guest addresses has what was not translated as well."""
    start = Start(CacheMode.READ_ONLY, [recorded.pack], sets=(NOKASLR, "qemu_args=[-perfmap]"))
    with guest(start, tmp_path / "guest") as machine:
        machine.wait_ready()
        stats = machine.still_stats()
        perf_map = Path(f"/tmp/perf-{machine.process.pid}.map")
        machine.qmp.execute("quit")
        machine.process.wait(30.0)
    lines = perf_map.read_text(errors="replace").splitlines()
    perf_map.unlink()
    assert stats.adopted > 10_000
    # one line an instruction
    assert len(lines) > 2 * stats.adopted
