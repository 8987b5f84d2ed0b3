# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines with several vCPUs: blocks of machines with one, and of all threads at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from enginehelp import (
    Guest,
    Recorded,
    Start,
    assert_adds_up,
    guest,
    hit_rate,
    make_pack,
    run,
)
from machinehelp import NOKASLR
from programhelp import in_shell, tiny_with
from programhelp import run as run_programs

from bench.tinyguest import compiled
from sysqcache.base.types import CacheMode
from sysqcache.formats.journal import Journal, read_journal
from sysqcache.qmp import commands
from sysqcache.qmp.commands import TbCacheStats
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import Engine

pytestmark = pytest.mark.vm

FOUR = "vcpus=4"
STRESS_S = 12
STORM_BLOCKS = 30 * 1024
NEIGHBOUR_ROUNDS = 10
SPIN_ROUNDS = 1_000_000_000  # more than there is time for
CHANGES = 20_000
CHANGES_BY_TWO = 500  # three threads on two vCPUs wait for a turn
RACE_S = 3
WAYS = ("1", "2", "4", "8", "16", "lock", "cross", "string", "fxsave")


def cold(directory: Path, *sets: str) -> tuple[Path, Journal, TbCacheStats]:
    """A run with an empty store: pack, journal, counters."""
    directory.mkdir()
    path = directory / "cold.journal"
    stats = run(Start(journal=path, sets=(NOKASLR, *sets)), directory / "cold")
    # the store takes the journal away
    journal = read_journal(path)
    return make_pack(path, directory / "store"), journal, stats


@pytest.fixture(scope="module")
def one(recorded: Recorded) -> tuple[Path, Journal, TbCacheStats]:
    """What a machine with one vCPU recorded."""
    return recorded.pack, recorded.journal(), recorded.stats()


@pytest.fixture(scope="module")
def four(
    one: object, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Journal, TbCacheStats]:
    """What a machine with four recorded."""
    return cold(tmp_path_factory.mktemp("vcpus") / "four", FOUR)


def warm(pack: Path, directory: Path, *sets: str, mode: str = "read-only") -> TbCacheStats:
    """A run with a pack."""
    return run(Start(CacheMode(mode), [pack], sets=(NOKASLR, *sets)), directory)


def tied(journal: Journal) -> float:
    """Share of blocks that are for one kind of machine alone."""
    any_context = journal.blocks.any_context()
    return 1 - float(any_context.sum()) / len(any_context)


def test_few_blocks_depend_on_the_number_of_vcpus(
    one: tuple[Path, Journal, TbCacheStats], four: tuple[Path, Journal, TbCacheStats]
) -> None:
    for _, journal, _ in (one, four):
        assert 0 < tied(journal) < 0.15


def test_one_fingerprint(
    one: tuple[Path, Journal, TbCacheStats], four: tuple[Path, Journal, TbCacheStats]
) -> None:
    assert one[1].header.text == four[1].header.text


@pytest.mark.parametrize("to", ["four", "one"])
def test_blocks_serve_machines_with_another_number_of_vcpus(
    to: str,
    one: tuple[Path, Journal, TbCacheStats],
    four: tuple[Path, Journal, TbCacheStats],
    tmp_path: Path,
) -> None:
    (own, other), sets = ((four, one), (FOUR,)) if to == "four" else ((one, four), ())
    same = warm(own[0], tmp_path / "same", *sets)
    crossed = warm(other[0], tmp_path / "crossed", *sets)
    assert hit_rate(crossed) > 0.85 * hit_rate(same)
    assert same.misses["parallel"] == 0
    assert 0 < crossed.misses["parallel"] < 0.1 * crossed.requested
    verified = warm(other[0], tmp_path / "verify", *sets, mode="verify")
    assert verified.mismatches == 0, verified.mismatch_log
    assert verified.verified > 0.85 * hit_rate(same) * verified.requested


def plug(machine: Guest, **features: bool) -> None:
    """Add the one vCPU that there is room for."""
    slots = machine.qmp.execute("query-hotpluggable-cpus")
    [free] = [slot for slot in slots if "qom-path" not in slot]
    wanted = {"driver": free["type"], "id": "second", **features, **free["props"]}
    machine.qmp.execute("device_add", wanted)


def use_plugged(machine: Guest) -> None:
    """Let the guest use its second vCPU, which is there when it has heard of it."""
    online = (
        "cd /sys/devices/system/cpu; while ! [ -e cpu1/online ]; do sleep 0.1; done;"
        "echo 1 > cpu1/online; cat online"
    )
    assert in_shell(machine, online).strip() == "0-1"


def test_one_vcpu_that_may_get_others(
    one: tuple[Path, Journal, TbCacheStats], tmp_path: Path
) -> None:
    """A machine to which vCPUs may be added translates for several from the start."""
    start = Start(CacheMode.VERIFY, [one[0]], smp="1,maxcpus=2")
    with guest(start, tmp_path / "hotplug") as machine:
        machine.wait_ready()
        plug(machine)
        use_plugged(machine)
        machine.work()
        stats = machine.still_stats()
        assert machine.info()["active"]
    assert_adds_up(stats, records=False)
    assert stats.misses["parallel"] > 0
    assert stats.mismatches == 0, stats.mismatch_log
    assert hit_rate(stats) > 0.7


def test_a_vcpu_that_differs_ends_the_cache(
    one: tuple[Path, Journal, TbCacheStats], tmp_path: Path
) -> None:
    start = Start(CacheMode.ON, [one[0]], journal=tmp_path / "journal", smp="1,maxcpus=2")
    with guest(start, tmp_path / "differs") as machine:
        machine.wait_for("adopted", 1000)
        plug(machine, cx16=False)
        info = machine.info()
        assert not info["active"]
        assert "differs" in info["reason"]
        machine.wait_ready()
        machine.work()
        assert machine.stats().requested == info["requested"]
        commands.tb_cache_checkpoint(machine.qmp)
    assert "differs" in machine.log()
    assert read_journal(tmp_path / "journal").tail_bytes == 0


@pytest.mark.parametrize("tb_size", [(), ("accelerator.tb_size=24MiB",)], ids=["", "small-buffer"])
def test_four_busy_threads_in_verify_mode(
    tb_size: tuple[str, ...], x86_engine: Engine, tiny_image: ImagePaths, tmp_path: Path
) -> None:
    """Atomic counting, code written by each and for all, processes; see guest/busy.c."""
    sets = (*tiny_with([compiled("busy", tmp_path)], tmp_path), FOUR, *tb_size)
    journal = tmp_path / "journal"
    busy(Start(journal=journal, sets=sets), tmp_path / "cold", 3)
    pack = make_pack(journal, tmp_path / "store")
    stats = busy(Start(CacheMode.VERIFY, [pack], sets=sets), tmp_path / "verify", STRESS_S)
    assert stats.mismatches == 0, stats.mismatch_log
    assert stats.verified > 50_000
    assert bool(stats.flushes) == bool(tb_size)


def test_code_beside_data_that_another_vcpu_writes(
    x86_engine: Engine, tiny_image: ImagePaths, tmp_path: Path
) -> None:
    """Pages are protected before they have code, while others fill their TLBs."""
    sets = (*tiny_with([compiled("neighbours", tmp_path)], tmp_path), "vcpus=2")
    path = tmp_path / "journal"
    output, stats = neighbours(Start(journal=path, sets=sets), tmp_path / "cold")
    pack = make_pack(path, tmp_path / "store")
    for mode in (CacheMode.ON, CacheMode.VERIFY):
        again, stats = neighbours(Start(mode, [pack], sets=sets), tmp_path / mode.value)
        assert again == output
        assert stats.mismatches == 0, stats.mismatch_log


def neighbours(start: Start, directory: Path) -> tuple[str, TbCacheStats]:
    """Boot and run guest/neighbours.c: every one of its functions gives what it was written for."""
    [output], stats = run_programs(start, directory, f"/bin/neighbours {NEIGHBOUR_ROUNDS}")
    runs = NEIGHBOUR_ROUNDS * 128
    assert output.strip() == f"neighbours: {runs} runs, 0 wrong"
    assert stats.writes["store"] > runs / 4
    return output, stats


def busy(start: Start, directory: Path, seconds: int) -> TbCacheStats:
    """Boot and let four threads work; the counters."""
    with guest(start, directory) as machine:
        machine.wait_ready()
        output = in_shell(machine, f"/bin/busy 4 {seconds}")
        stats = machine.still_stats()
        commands.tb_cache_checkpoint(machine.qmp)
    assert output.startswith("busy: ok"), output
    assert_adds_up(stats, records=start.journal is not None)
    return stats


def test_vcpus_that_wait_for_each_other_can_be_stopped(
    x86_engine: Engine, tiny_image: ImagePaths, tmp_path: Path
) -> None:
    """More vCPUs than processors hand on a turn and spin with PAUSE; see guest/spin.c."""
    sets = (*tiny_with([compiled("spin", tmp_path)], tmp_path), FOUR)
    with guest(Start(sets=sets), tmp_path / "machine") as machine:
        machine.wait_ready()
        in_shell(machine, f"spin 4 {SPIN_ROUNDS} > /tmp/turns & echo $! > /tmp/spin")
        for _ in range(20):
            commands.stop(machine.qmp)
            assert commands.query_status(machine.qmp).state == "paused"
            commands.cont(machine.qmp)
        in_shell(machine, "sleep 2; kill -TERM $(cat /tmp/spin)")
        output = in_shell(machine, "until [ -s /tmp/turns ]; do sleep 0.1; done; cat /tmp/turns")
    assert int(output.split()[0]) > 8, output


@pytest.mark.parametrize("mode", [CacheMode.OFF, CacheMode.ON])
def test_no_vcpu_runs_code_that_another_has_changed(
    x86_engine: Engine, tiny_image: ImagePaths, tmp_path: Path, mode: CacheMode
) -> None:
    """A function changes under those who call it by its address; see guest/crosswrite.c."""
    sets = (*tiny_with([compiled("crosswrite", tmp_path)], tmp_path), FOUR)
    with guest(Start(mode, sets=sets), tmp_path / "machine") as machine:
        machine.wait_ready()
        output = in_shell(machine, f"crosswrite 2 {CHANGES}")
    assert output.strip() == f"{CHANGES} rounds 0 stale"


def test_no_vcpu_that_was_plugged_in_runs_code_that_has_changed(
    x86_engine: Engine, tiny_image: ImagePaths, tmp_path: Path
) -> None:
    sets = tiny_with([compiled("crosswrite", tmp_path)], tmp_path)
    with guest(Start(sets=sets, smp="1,maxcpus=2"), tmp_path / "machine") as machine:
        machine.wait_ready()
        plug(machine)
        use_plugged(machine)
        output = in_shell(machine, f"crosswrite 1 {CHANGES_BY_TWO}")
    assert output.strip() == f"{CHANGES_BY_TWO} rounds 0 stale"


@pytest.mark.parametrize("mode", [CacheMode.OFF, CacheMode.ON])
def test_nobody_keeps_code_that_changed_while_it_was_made(
    x86_engine: Engine, tiny_image: ImagePaths, tmp_path: Path, mode: CacheMode
) -> None:
    """Callers of a function that changes wait for nobody; see guest/racewrite.c."""
    sets = (*tiny_with([compiled("racewrite", tmp_path)], tmp_path), FOUR)
    with guest(Start(mode, sets=sets), tmp_path / "machine") as machine:
        machine.wait_ready()
        for way in WAYS:
            output = in_shell(machine, f"racewrite {way} 2 {RACE_S}")
            changes, calls, stale = [int(word) for word in output.split() if word.isdigit()]
            assert stale == 0, (way, output)
            assert min(changes, calls) > 100, (way, output)
            machine.audit()


def test_every_thread_records_and_adopts(
    x86_engine: Engine, tiny_image: ImagePaths, tmp_path: Path
) -> None:
    """Blocks that four threads recorded at once serve one, and the other way round."""
    sets = (*tiny_with([compiled("storm", tmp_path)], tmp_path), FOUR)
    journal = tmp_path / "journal"
    expected = storm(Start(journal=journal, sets=sets), tmp_path / "cold", 4)
    recorded = read_journal(journal)
    assert set(recorded.records["vcpu"].tolist()) == {0, 1, 2, 3}
    assert (recorded.damaged, recorded.tail_bytes) == (0, 0)
    pack = make_pack(journal, tmp_path / "store")
    for threads in (1, 4):
        uses = tmp_path / f"{threads}.journal"
        start = Start(CacheMode.ON, [pack], uses, sets=sets)
        assert storm(start, tmp_path / f"warm-{threads}", threads) == expected
        adopted = read_journal(uses).adopted
        # each first use once, whichever thread it was
        assert len(np.unique(adopted["position"])) == len(adopted)
        assert len(adopted) > STORM_BLOCKS


def storm(start: Start, directory: Path, threads: int) -> str:
    """Run blocks that nothing has run before; their sum."""
    with guest(start, directory) as machine:
        machine.wait_ready()
        before = machine.stats()
        output = in_shell(machine, f"/bin/storm {threads} {STORM_BLOCKS}")
        after = machine.still_stats()
        commands.tb_cache_checkpoint(machine.qmp)
    grown = after.adopted - before.adopted if start.packs else after.recorded - before.recorded
    assert grown > STORM_BLOCKS
    return output.rpartition("sum ")[2]
