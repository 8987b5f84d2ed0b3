# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of our own in the tiny guest, and what they do to the rest of the machine."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from enginehelp import Guest, Start, guest, make_pack
from machinehelp import NOKASLR

from sysqcache import paths
from sysqcache.guest.serialshell import SerialShell
from sysqcache.images import catalog
from sysqcache.images.cpio import CpioWriter
from sysqcache.qmp import commands
from sysqcache.qmp.commands import TbCacheStats
from sysqcache.types import CacheMode

SPREAD = 0.005
"""By how much the hit rates of two equal runs may differ; 0.002 was seen."""

SOURCES = Path(__file__).parent / "guest"


def compiled(name: str, directory: Path) -> Path:
    """A program of ``guest/``, static, so that it needs nothing of the guest."""
    binary = directory / name
    subprocess.run(["gcc", "-O2", "-static", "-o", binary, SOURCES / f"{name}.c"], check=True)
    return binary


def kernel32(directory: Path) -> Path:
    """The 32-bit kernel ``guest/kernel32.c``, which is ready at once and does nothing more."""
    kernel = directory / "kernel32"
    command = ["gcc", "-m32", "-O1", "-ffreestanding", "-fno-pie", "-fno-stack-protector"]
    command += ["-nostdlib", "-static", "-Wl,-m,elf_i386,-N,-Ttext=0x100000", "-o", str(kernel)]
    subprocess.run([*command, str(SOURCES / "kernel32.c")], check=True, capture_output=True)
    return kernel


def tiny_with(programs: Sequence[Path], directory: Path) -> tuple[str, ...]:
    """Fields of vm.yaml: the tiny guest with programs in its /bin."""
    image = catalog.resolve("tiny-x86_64")
    assert image.initrd is not None
    extra = CpioWriter()
    for program in programs:
        extra.file(f"bin/{program.name}", program.read_bytes(), 0o755)
    initrd = directory / "initrd"
    # the kernel unpacks one archive behind the other, each at a multiple of 4 bytes
    size = (image.initrd.stat().st_size + 3) & -4
    initrd.write_bytes(image.initrd.read_bytes().ljust(size, b"\0") + extra.getvalue())
    return (NOKASLR, f"initrd={initrd}")


def in_shell(machine: Guest, command: str) -> str:
    """What a command prints in a guest that is ready."""
    shell = SerialShell.connect(machine.directory / paths.INSTANCE_SERIAL)
    with contextlib.closing(shell):
        result = shell.run(command, 120.0)
    assert result.exit == 0, result
    return result.stdout


def run(start: Start, directory: Path, *programs: str) -> tuple[list[str], TbCacheStats]:
    """Boot, run commands, give what they printed and the counters."""
    with guest(start, directory) as machine:
        machine.wait_ready()
        output = [in_shell(machine, command) for command in programs]
        stats = machine.still_stats()
        commands.tb_cache_checkpoint(machine.qmp)
    return output, stats


def rate(requested: int, found: int, misses: Mapping[str, int]) -> float:
    """Share of found blocks of a whole machine, without two kinds of requests.

    What is wanted in a dead place is new code each time, so there is nothing that a cache could
    have for it; and QEMU asks for blocks of one instruction (``count``) to step over a store
    into the running block. All other blocks of a program that rewrites itself count, like
    everybody's.
    """
    return found / (requested - misses["dead"] - misses["count"])


def as_warm_with(program: str, sets: tuple[str, ...], directory: Path) -> None:
    """With ``program`` before its task a machine has the same warm hit rate as without."""
    # on a busy host a guest may find its clock unstable, which is code of its own: two tries
    without = max(rates(sets, directory / "without", "work"))
    assert any(
        found >= without - SPREAD for found in rates(sets, directory / "with", program, "work")
    )


def rates(sets: tuple[str, ...], directory: Path, *todo: str) -> Iterator[float]:
    """Hit rates of a machine that does the same a second time, and a third time if asked."""
    directory.mkdir()
    cold = Start(journal=directory / "cold.journal", sets=sets)
    run(cold, directory / "cold", *todo)
    pack = make_pack(directory / "cold.journal", directory / "store")
    warm = replace(cold, mode=CacheMode.READ_ONLY, packs=[pack], journal=None)
    for number in range(2):
        _, stats = run(warm, directory / f"warm-{number}", *todo)
        yield rate(stats.requested, stats.adopted, stats.misses)
