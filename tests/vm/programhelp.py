# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of our own in the tiny guest, and what they do to the rest of the machine."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from enginehelp import Guest, Start, guest, make_pack
from machinehelp import NOKASLR

from bench.tinyguest import PROGRAMS, initrd
from sysqcache.base import paths
from sysqcache.formats.journal import read_journal
from sysqcache.machine.guest.serialshell import SerialShell
from sysqcache.qmp import commands
from sysqcache.qmp.commands import TbCacheStats
from sysqcache.store.key import identities


def kernel32(directory: Path, name: str = "kernel32") -> Path:
    """A 32-bit kernel of guest/; without a name one that is ready at once and does nothing more."""
    kernel = directory / name
    command = ["gcc", "-m32", "-O1", "-ffreestanding", "-fno-pie", "-fno-stack-protector"]
    command += ["-nostdlib", "-static", "-Wl,-m,elf_i386,-N,-Ttext=0x100000", "-o", str(kernel)]
    subprocess.run([*command, str(PROGRAMS / f"{name}.c")], check=True, capture_output=True)
    return kernel


def tiny_with(programs: Sequence[Path], directory: Path) -> tuple[str, ...]:
    """Fields of vm.yaml: the tiny guest with programs in its /bin."""
    return (NOKASLR, f"initrd={initrd(programs, directory)}")


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


def misses_nothing_known(program: str, sets: tuple[str, ...], directory: Path) -> None:
    """A machine that runs ``program`` before its task is as warm as any other.

    All it records but what is dead, and it misses nothing of that when it does the same again.
    What no run had before, like a path that only a busy host's guest takes, is no miss of the
    cache's: hit rates of two runs differ by it, and the more the busier the host is.
    """
    cold = Start(journal=directory / "cold.journal", sets=sets)
    _, stats = run(cold, directory / "cold", program, "work")
    nothing_to_keep = stats.misses["dead"] + stats.misses["count"]
    assert stats.unrecorded["uncacheable"] <= nothing_to_keep
    assert stats.recorded + stats.unrecorded["known"] >= stats.requested - nothing_to_keep
    known = identities(read_journal(directory / "cold.journal").blocks)

    pack = make_pack(directory / "cold.journal", directory / "store")
    warm = replace(cold, packs=[pack], journal=directory / "warm.journal")
    _, stats = run(warm, directory / "warm", program, "work")
    missed = identities(read_journal(directory / "warm.journal").blocks)
    assert np.count_nonzero(np.isin(missed, known)) <= len(known) / 1000
    # the rest is as good as nothing
    assert len(missed) < len(known) / 20
