# SPDX-License-Identifier: GPL-2.0-or-later
"""The JSON of ``boot``: names, formulas, zeros."""

from __future__ import annotations

import json

import pytest

from sysqcache.base.counters import MISSES, REJECTS
from sysqcache.cli.bootview import print_report
from sysqcache.machine import report
from sysqcache.machine.guest.result import TaskResult
from sysqcache.machine.report import BootReport, Times
from sysqcache.qmp.commands import TbCacheStats
from sysqcache.store.recording import IngestResult

ANSWER = {
    "id": "tbcache0",
    "mode": "on",
    "fingerprint": "ab" * 32,
    "fingerprint-text": "a=1\n",
    "requested": 1000,
    "adopted": 800,
    "translated": 200,
    "verified": 0,
    "adopt-cycles": 2_000_000,
    "miss-cycles": 400_000,
    "translate-cycles": 4_000_000,
    "vcpu-ns": 2_000_000_000,
    "tsc-hz": 1_000_000_000,
    "misses": {"absent": 150, "bytes": 50},
    "rejected": {"checksum": 3},
    "packs": [
        {"path": "/a", "status": "mapped", "blocks": 9, "bytes": 100, "open-us": 1500},
        {"path": "/b", "status": "truncated"},
    ],
    "journal": "/j",
    "journal-bytes": 77,
    "member-of-a-later-version": 1,
}


def test_formulas() -> None:
    stats = TbCacheStats.from_qmp(ANSWER)
    assert report.hit_rate(stats) == 0.8
    assert report.adopt_cycles(stats) == 3000
    assert report.translate_cycles(stats) == 20_000
    assert report.translate_share(stats) == 6_400_000 / 2_000_000_000


def test_verified_blocks_are_hits() -> None:
    stats = TbCacheStats.from_qmp({"requested": 10, "verified": 9, "translated": 10})
    assert report.hit_rate(stats) == 0.9


def test_every_name_is_there() -> None:
    blocks = report.blocks_json(TbCacheStats.from_qmp(ANSWER))
    assert tuple(blocks["misses"]) == MISSES
    assert tuple(blocks["rejected"]) == REJECTS
    assert blocks["misses"]["absent"] == 150
    assert blocks["misses"]["io"] == 0


def test_engines_of_before_count_no_limits() -> None:
    assert report.blocks_json(TbCacheStats.from_qmp(ANSWER))["verify_limits"] == 0
    stats = TbCacheStats.from_qmp({**ANSWER, "verify-limits": 7, "verify-prefix": 3})
    blocks = report.blocks_json(stats)
    assert (blocks["verify_limits"], blocks["verify_prefix"], blocks["mismatches"]) == (7, 3, 0)


def test_cache_off_is_all_zero() -> None:
    value = BootReport("vm", "x86_64", "off").to_json()
    json.dumps(value)
    assert value["blocks"]["hit_rate"] == 0.0
    assert value["blocks"]["translate_share"] == 0.0
    assert set(value["blocks"]["misses"].values()) == {0}
    assert value["cache"]["packs"] == 0


def test_the_contract() -> None:
    stats = TbCacheStats.from_qmp(ANSWER)
    task = TaskResult("work", 0.5, 0, "out", "err")
    boot = BootReport(
        "vm", "x86_64", "on", stats=stats, ingest=IngestResult(seconds=1.25), times=Times()
    )
    boot.times.tasks.append(task)
    value = boot.to_json()
    assert {"machine", "arch", "cache_mode", "fingerprint", "start"} <= set(value)
    assert {"times", "blocks", "blocks_at_ready", "cache", "attribution"} <= set(value)
    assert value["own_memory_bytes"] == 0
    assert set(value["times"]) == {"launch_s", "ready_s", "wall_s", "host_cpu_s", "tasks"}
    assert value["times"]["ready_s"] is None
    assert value["times"]["tasks"] == [
        {"cmd": "work", "wall_s": 0.5, "exit": 0, "stdout": "out", "stderr": "err"}
    ]
    assert value["cache"]["packs"] == 1
    assert value["cache"]["pack_bytes"] == 100
    assert value["cache"]["open_ms"] == 1.5
    assert value["cache"]["journal_bytes"] == 77
    assert value["cache"]["ingest_s"] == 1.25
    assert value["cache"]["refused_packs"] == {"/b": "truncated"}
    left_out = ("blocks_dead", "blocks_crowded", "blocks_outdated", "blocks_damaged")
    assert [value["cache"][name] for name in left_out] == [0] * 4
    kinds = {"file", "kernel", "kernel-module", "firmware", "anonymous", "unknown"}
    assert kinds <= set(value["attribution"]["kinds"])
    assert {"blocks", "attributed"} <= set(value["attribution"])


def test_why_nobody_looked_inside_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    seen = BootReport("m", "x86_64", "on")
    print_report(seen)
    assert "nobody looked" not in capsys.readouterr().err
    seen.attribution.unseen = "no Linux"
    seen.attribution.kept_under = "xen.elf"
    print_report(seen)
    said = [line for line in capsys.readouterr().err.splitlines() if "nobody looked" in line]
    assert said == ["nobody looked inside: no Linux; its code is kept under xen.elf"]
    told = seen.to_json()["attribution"]
    assert (told["unseen"], told["kept_under"]) == ("no Linux", "xen.elf")
