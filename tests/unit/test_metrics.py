# SPDX-License-Identifier: GPL-2.0-or-later
"""What programs are told: metrics, log lines, counters of ended runs, degraded states."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from storehelp import ingest, make_blocks, make_run, write_journal

from sysqcache.base import paths
from sysqcache.base.counters import MISSES, REJECTS
from sysqcache.base.errors import NotReady
from sysqcache.base.types import MachineState
from sysqcache.cli import health, metricfamilies, metrics
from sysqcache.cli.errors import report_error
from sysqcache.cli.loglines import ENV_LOG, note
from sysqcache.formats.runfiles import Note, RunFiles
from sysqcache.machine.instances import Instance, InstanceState
from sysqcache.qmp.commands import TbCacheStats
from sysqcache.store import manifest
from sysqcache.store.facade import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv(paths.ENV_HOME, str(tmp_path))
    monkeypatch.delenv(paths.ENV_STORE, raising=False)
    paths.state_dir().mkdir(mode=0o700)
    return Store.open(paths.store_dir())


def machine(name: str, **fields: Any) -> None:
    Instance(name).directory.mkdir(parents=True)
    Instance(name).write(InstanceState(name, **fields))


def samples(text: str) -> dict[tuple[str, str], float]:
    """Values by name and labels of a text that Prometheus' own parser takes."""
    return {
        (sample.name, ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_of_a_store_and_machines(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    ingest(store, make_blocks(*range(12)))
    machine('odd"\\\n\u4e16', state=MachineState.STOPPED, arch="x86_64")
    machine("dead", state=MachineState.RUNNING, pid=1)
    metrics.metrics()
    found = samples(capsys.readouterr().out)
    assert found["sysqcache_store_up", ""] == 1
    assert found["sysqcache_store_packs", "state=live"] == 1
    assert found["sysqcache_store_blocks", ""] == 12
    assert found["sysqcache_store_runs_total", ""] == 1
    assert found["sysqcache_store_bytes", "part=pack"] == store.stats().pack_bytes
    states = {labels for name, labels in found if name == "sysqcache_machine_state"}
    assert 'arch=x86_64,cache_mode=off,kind=machine,name=odd"\\\n\u4e16,state=stopped' in states
    assert "arch=,cache_mode=off,kind=machine,name=dead,state=dead" in states
    metrics.metrics(as_json=True)
    values = json.loads(capsys.readouterr().out)["metrics"]
    assert {one["name"] for one in values} >= {"sysqcache_store_blocks", "sysqcache_machine_state"}


def test_a_store_that_can_t_be_read(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.layout.format.write_text("sysqcache store 99\n")
    metrics.metrics()
    assert samples(capsys.readouterr().out)["sysqcache_store_up", ""] == 0
    [blocks] = [check for check in health.checks() if check.name == "blocks"]
    assert blocks.state == "warning"
    assert "the store can't be used" in blocks.text
    assert blocks.next_step


def test_counters_of_a_running_machine() -> None:
    numbers = {name: n for n, name in enumerate(metricfamilies.COUNTED, 10)}
    misses = {name: n for n, name in enumerate(MISSES)}
    found = metricfamilies.Machines()
    found.add(("machine", "a"), TbCacheStats(**numbers, misses=misses))  # type: ignore[arg-type]
    found.add(("domain", "b"), TbCacheStats())
    values = {
        (s.name, *s.labels.values()): s.value for family in found.families() for s in family.samples
    }
    for name, number in numbers.items():
        assert values[f"sysqcache_blocks_{name}_total", "machine", "a"] == number
        assert values[f"sysqcache_blocks_{name}_total", "domain", "b"] == 0
    for reason, number in misses.items():
        assert values["sysqcache_blocks_misses_total", "machine", "a", reason] == number
    assert ("sysqcache_blocks_rejected_total", "machine", "a", REJECTS[0]) in values


def test_log_lines_are_objects(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ENV_LOG, "json")
    note("warning: it \x1b[31mbroke")
    note("goes on", event="phase", number=3)
    report_error(NotReady("late", hint="wait", detail="a\nb"))
    warning, phase, error = map(json.loads, capsys.readouterr().err.splitlines())
    assert (warning["level"], warning["message"]) == ("warning", "it \x1b[31mbroke")
    assert (phase["level"], phase["event"], phase["number"]) == ("info", "phase", 3)
    assert (error["level"], error["detail"], error["exit_code"]) == ("error", "a\nb", 15)
    assert warning["time"][10] == "T"


def test_log_json_stands_anywhere(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    from sysqcache.cli import app

    monkeypatch.setenv(ENV_LOG, "")
    monkeypatch.setattr(sys, "argv", ["sysqcache", "status", "--log-json", "nobody"])
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 11
    assert os.environ[ENV_LOG] == "json"


def test_why_knows_the_counters_of_a_run_that_another_command_kept(store: Store) -> None:
    run = make_run("20260101T000000-m-1")
    journal = store.new_journal(image_id="image", run=run)
    write_journal(journal, make_blocks(1, 2))
    RunFiles(journal).count({"requested": 9, "adopted": 7, "missed: absent": 2})
    [_] = store.recover()
    kept = store.misses("m")
    assert kept is not None
    assert kept.run.counters == {"requested": 9, "adopted": 7, "missed: absent": 2}


def test_counting_without_a_note_is_no_error(tmp_path: Path) -> None:
    RunFiles(tmp_path / "x.journal").count({"requested": 1})
    assert list(tmp_path.iterdir()) == []
    with_counters = Note("i", make_run(), {"requested": 1})
    files = RunFiles(tmp_path / "y.journal")
    files.write_note(with_counters)
    assert files.read_note() == with_counters
    files.write_note(dataclasses.replace(with_counters, counters={}))
    assert "counters" not in json.loads(files.note.read_text())


def test_doctor_names_packs_beyond_what_an_engine_maps(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        ingest(store, make_blocks(*range(100 * number, 100 * number + 9)), image=f"image {number}")
    assert store.degraded() == []
    monkeypatch.setattr(manifest, "MAX_PACKS", 2)
    [check] = [check for check in health.checks() if check.name == "blocks"]
    assert check.state == "warning"
    assert check.text.startswith("1 packs are left out, as an engine maps 1,024")
    assert check.next_step.startswith("sysqcache cache compact --max-bytes N")


def test_doctor_names_what_is_degraded_and_the_remedy(store: Store) -> None:
    assert store.degraded() == []
    ingest(store, make_blocks(1, 2, 3))
    ingest(store, make_blocks(*range(100, 300)), image="other")
    journal = store.new_journal(image_id="image", run=make_run("left"))
    write_journal(journal, make_blocks(9))
    store.layout.damaged.mkdir()
    (store.layout.damaged / "x.pack").write_bytes(b"x")
    second = max(store.layout.packs.iterdir())
    second.rename(second.with_name(f"{'0' * 64}.pack"))
    machine("killed", state=MachineState.RUNNING, pid=1)
    machine("plain", state=MachineState.STOPPED, cache_reason="icount is on")
    machine("broken")
    Instance("broken").file(paths.INSTANCE_STATE).write_text("{")
    checks = [check for check in health.checks() if check.state != "ok"]
    said = {f"{check.name}: {check.text} -> {check.next_step}" for check in checks}
    rebuild = "sysqcache cache rebuild"
    for wanted in (
        f"blocks: 1 packs are missing: their blocks are translated again -> {rebuild}",
        f"blocks: 1 packs are not in the metadata, so that no start maps them -> {rebuild}",
        "blocks: the blocks of 1 ended runs are not kept yet -> sysqcache list keeps them",
        "machine plain: runs without the cache: icount is on -> sysqcache cache why plain",
    ):
        assert wanted in said
    assert sum(one.startswith("blocks: 1 damaged files were set aside in ") for one in said) == 1
    assert {check.name for check in checks} >= {"machine killed", "machine broken"}
    assert all(check.next_step for check in checks)
    store.rebuild()
    store.recover()
    assert [text for text, _ in store.degraded() if "damaged files" not in text] == []
