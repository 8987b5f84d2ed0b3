# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest code that rewrites itself: right results in every mode, and dead afterwards."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest
from enginehelp import Guest, Start, guest, hit_rate, make_pack
from machinehelp import NOKASLR

from sysqcache import journal, paths
from sysqcache.guest.serialshell import SerialShell
from sysqcache.images import catalog
from sysqcache.images.cpio import CpioWriter
from sysqcache.qmp import commands
from sysqcache.qmp.commands import TbCacheStats
from sysqcache.types import CacheMode

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("x86_engine", "tiny_image", "own_state")]

_SOURCE = Path(__file__).parent / "guest" / "rewrite.c"
_PLACES = 3


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, static, so that it needs nothing of the guest."""
    binary = tmp_path_factory.mktemp("rewrite") / "rewrite"
    subprocess.run(["gcc", "-O2", "-static", "-o", binary, _SOURCE], check=True)
    return binary


@pytest.fixture
def sets(program: Path, tmp_path: Path) -> tuple[str, ...]:
    """The tiny guest with the program in its initial RAM disk."""
    image = catalog.resolve("tiny-x86_64")
    assert image.initrd is not None
    extra = CpioWriter()
    extra.file("bin/rewrite", program.read_bytes(), 0o755)
    initrd = tmp_path / "initrd"
    # the kernel unpacks one archive behind the other, each at a multiple of 4 bytes
    initrd.write_bytes(
        image.initrd.read_bytes().ljust(_aligned(image.initrd), b"\0") + extra.getvalue()
    )
    return (NOKASLR, f"initrd={initrd}")


def _aligned(file: Path) -> int:
    return (file.stat().st_size + 3) & -4


def rewrite(machine: Guest) -> str:
    """What the program prints."""
    machine.wait_ready()
    shell = SerialShell.connect(machine.directory / paths.INSTANCE_SERIAL)
    with contextlib.closing(shell):
        result = shell.run("/bin/rewrite", 120.0)
    assert result.exit == 0, result
    return result.stdout


def run(start: Start, directory: Path) -> tuple[str, TbCacheStats]:
    """Boot, run the program, give what it printed and the counters."""
    with guest(start, directory) as machine:
        output = rewrite(machine)
        stats = machine.still_stats()
        commands.tb_cache_checkpoint(machine.qmp)
    return output, stats


def test_same_results_cold_warm_and_verified(
    program: Path, sets: tuple[str, ...], tmp_path: Path
) -> None:
    expected = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    cold_journal = tmp_path / "cold.journal"
    output, cold = run(Start(journal=cold_journal, sets=sets), tmp_path / "cold")
    assert output == expected
    assert cold.dead >= _PLACES

    dead = journal.read_journal(cold_journal)
    assert len(dead.dead) == cold.dead
    assert not set(dead.records["ram0"].tolist()) & set(dead.dead["ram_addr"].tolist())
    # without dead areas each of 30,000 variants would be a block
    assert cold.recorded < cold.requested - 20_000

    pack = make_pack(cold_journal, tmp_path / "store")
    for mode in (CacheMode.ON, CacheMode.VERIFY):
        output, stats = run(Start(mode, [pack], sets=sets), tmp_path / mode.value)
        assert output == expected
        assert stats.mismatches == 0
        assert stats.dead >= _PLACES
        assert stats.misses["dead"] > 20_000
        rest = stats.requested - stats.misses["dead"] - stats.misses["count"]
        assert hit_rate(stats) * stats.requested > 0.85 * rest
