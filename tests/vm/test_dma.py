# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest code that a disk writes over older code, without a store of the CPU."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from enginehelp import Start, hit_rate, make_pack
from programhelp import misses_nothing_known, run, tiny_with

from bench.tinyguest import compiled
from sysqcache.base.types import CacheMode
from sysqcache.formats import journal

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("x86_engine", "tiny_image", "own_state")]

_PAGES = 256
_ROUNDS = 5000
_PLACES = 4
_COMMAND = f"/bin/dma /dev/vda {_PAGES} {_ROUNDS}"


def factor(page: int, place: int) -> int:
    """What the function at a quarter of a page multiplies with."""
    return (page * _PLACES + place) * 2654435761 % (1 << 31) | 1


def disk_contents() -> bytes:
    """Pages of four functions each: eax = edi * factor + page."""
    pages = bytearray(_PAGES * 4096)
    for page in range(_PAGES):
        for place in range(_PLACES):
            # imul $factor,%edi,%eax; add $page,%eax; ret
            code = struct.pack("<HIBIB", 0xC769, factor(page, place), 0x05, page, 0xC3)
            start = page * 4096 + place * 1024
            pages[start : start + len(code)] = code
    return bytes(pages)


def expected() -> str:
    """The sum, computed without any machine code."""
    total = 0
    for i in range(_ROUNDS):
        page = i * 7 % _PAGES
        for place in range(_PLACES):
            value = (i * factor(page, place) + page) % (1 << 32)
            total = (total * 31 + value) % (1 << 64)
    return f"{total}\n"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("dma", tmp_path_factory.mktemp("dma"))


@pytest.fixture
def sets(program: Path, tmp_path: Path) -> tuple[str, ...]:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(disk_contents())
    return (
        *tiny_with([program], tmp_path),
        f"disks=[{{file: {disk}, format: raw, mode: read-only}}]",
    )


def test_same_results_cold_warm_and_verified(sets: tuple[str, ...], tmp_path: Path) -> None:
    cold_journal = tmp_path / "cold.journal"
    [output], cold = run(Start(journal=cold_journal, sets=sets), tmp_path / "cold", _COMMAND)
    assert output == expected()
    assert cold.dead >= _PLACES
    # each of the pages was read some twenty times, each function of it is another block
    assert cold.misses["dead"] > 0.9 * _ROUNDS * _PLACES

    dead = journal.read_journal(cold_journal)
    assert len(dead.dead) == cold.dead
    assert not set(dead.records["ram0"].tolist()) & set(dead.dead["ram_addr"].tolist())

    pack = make_pack(cold_journal, tmp_path / "store")
    for mode in (CacheMode.ON, CacheMode.VERIFY):
        start = Start(mode, [pack], sets=sets)
        [output], stats = run(start, tmp_path / mode.value, _COMMAND)
        assert output == expected()
        assert stats.mismatches == 0, stats.mismatch_log
        assert stats.dead >= _PLACES
        rest = stats.requested - stats.misses["dead"] - stats.misses["count"]
        assert hit_rate(stats) * stats.requested > 0.85 * rest


@pytest.mark.slow
def test_the_rest_of_the_machine_is_as_warm(sets: tuple[str, ...], tmp_path: Path) -> None:
    misses_nothing_known(_COMMAND, sets, tmp_path)
