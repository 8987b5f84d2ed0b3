# SPDX-License-Identifier: GPL-2.0-or-later
"""The pure parts of bench: order of runs, ratios, limits, tables, results."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from bench import arches, limit, table, vcpus
from bench import figures as fig
from bench.figures import SHARE, Figure, Limit, Run
from bench.plan import SINGLE_RUNS, Kind, Section, Step, pairs, plan
from bench.run import Session, parse, short_hash
from bench.runner import StepFailed, values_of
from bench.session import CONFIGS, ROOT
from sysqcache.base import paths
from sysqcache.compare import host
from sysqcache.machine.report import BootReport


def make_run(section: Section, kind: Kind, pair: int, **values: float) -> Run:
    defaults = {"ready_s": 10.0, "host_cpu_s": 9.0, "hit_rate": 0.0, "adopt_cycles": 0.0}
    defaults |= {"translate_cycles": 20_000.0, "translate_share": 0.15, "blocks": 0.0}
    return Run(str(section), str(kind), "vm", pair, defaults | values, {"load": 0.1})


def by_name(found: list[Figure]) -> dict[str, Figure]:
    assert len({(f.config, f.name) for f in found}) == len(found)
    return {figure.name: figure for figure in found}


def test_pairs_alternate_and_are_turned() -> None:
    kinds = [step.kind for step in pairs(Section.BOOT, "vm", 3)]
    assert kinds == [Kind.COLD, Kind.WARM, Kind.WARM, Kind.COLD, Kind.COLD, Kind.WARM]


def test_the_whole_plan() -> None:
    steps = plan(list(Section), ["a", "b"], 5, single=["a"])
    count = Counter((step.section, step.kind, step.config) for step in steps)
    assert count == {
        (Section.STORE, Kind.FILL, "a"): 1,
        (Section.BOOT, Kind.COLD, "a"): 5,
        (Section.BOOT, Kind.WARM, "a"): 5,
        (Section.THIRD, Kind.SECOND, "a"): 1,
        (Section.THIRD, Kind.THIRD, "a"): 1,
        (Section.RECORDING, Kind.OFF, "a"): 5,
        (Section.RECORDING, Kind.COLD, "a"): 5,
        (Section.OFF, Kind.PLAIN, "a"): 5,
        (Section.OFF, Kind.OFF, "a"): 5,
        (Section.STORE, Kind.OPEN, "a"): SINGLE_RUNS,
        (Section.STORE, Kind.FILL, "b"): 1,
        (Section.BOOT, Kind.COLD, "b"): 5,
        (Section.BOOT, Kind.WARM, "b"): 5,
        (Section.HELP, Kind.HELP, ""): SINGLE_RUNS,
    }
    assert len(set(steps)) == len(steps)
    for config in ("a", "b"):
        kinds = [step.kind for step in steps if step.config == config]
        assert kinds[0] is Kind.FILL


def test_a_store_is_filled_only_for_those_who_need_it() -> None:
    for section in (Section.RECORDING, Section.OFF, Section.HELP):
        assert all(s.kind is not Kind.FILL for s in plan([section], ["a"], 1, single=["a"]))
    assert plan([Section.BOOT], ["a"], 1, single=["a"])[0].kind is Kind.FILL
    assert plan([Section.RECORDING], ["a", "b"], 1, single=["a"]) == [
        Step(Section.RECORDING, Kind.OFF, "a"),
        Step(Section.RECORDING, Kind.COLD, "a"),
    ]


def test_ratios_are_taken_within_pairs() -> None:
    cold = {0: make_run(Section.BOOT, Kind.COLD, 0, ready_s=10.0)}
    cold[1] = make_run(Section.BOOT, Kind.COLD, 1, ready_s=20.0)
    warm = {1: make_run(Section.BOOT, Kind.WARM, 1, ready_s=15.0)}
    warm[2] = make_run(Section.BOOT, Kind.WARM, 2, ready_s=1.0)
    assert fig.ratios(warm, cold, "ready_s") == (0.75,)
    nothing = {1: make_run(Section.BOOT, Kind.COLD, 1, ready_s=0.0)}
    assert fig.ratios(warm, nothing, "ready_s") == ()


def test_boot_figures_against_their_limits() -> None:
    runs = []
    for pair, warm_s in enumerate((9.0, 8.0, 9.4)):
        runs.append(make_run(Section.BOOT, Kind.COLD, pair, ready_s=10.0, translate_share=0.15))
        values = {"hit_rate": 0.93, "adopt_cycles": 4_000.0, "translate_cycles": 40_000.0}
        values |= {"ready_s": warm_s, "translate_share": 0.06}
        runs.append(make_run(Section.BOOT, Kind.WARM, pair, **values))
    found = by_name(fig.boot_figures(runs, "vm", kaslr=True))
    ready = found["ready, warm/cold"]
    assert ready.median == pytest.approx(0.9)
    assert ready.limit is not None
    assert ready.limit.value == pytest.approx(0.91)
    assert ready.passed
    assert found["adoption/translation, same run"].median == pytest.approx(0.1)
    assert found["share of translation, warm/cold"].passed
    assert found["hit rate, second boot"].passed
    strict = by_name(fig.boot_figures(runs, "vm", kaslr=False))
    assert strict["hit rate, second boot"].passed is False
    assert strict["share of translation, warm/cold"].passed is False


def test_figures_of_half_a_session() -> None:
    runs = [make_run(Section.BOOT, Kind.COLD, 0), make_run(Section.OFF, Kind.PLAIN, 0)]
    found = by_name(fig.figures(runs, {"vm": True}))
    assert "ready, cold" in found
    assert "ready, warm/cold" not in found
    assert "ready, cache off/plain QEMU" not in found
    assert fig.figures([], {"vm": True}) == []


def test_engine_and_store_figures() -> None:
    runs = [
        make_run(Section.RECORDING, Kind.OFF, 0, ready_s=10.0, host_cpu_s=9.0),
        make_run(Section.RECORDING, Kind.COLD, 0, ready_s=10.2, host_cpu_s=9.9),
        make_run(Section.OFF, Kind.PLAIN, 0),
        make_run(Section.OFF, Kind.OFF, 0),
        make_run(Section.THIRD, Kind.THIRD, -1, hit_rate=0.95),
        make_run(Section.STORE, Kind.FILL, -1, blocks=1e5, ingest_s=2.0, bytes_per_block=501.0),
        make_run(Section.STORE, Kind.OPEN, 0, open_ms=0.5),
        Run("help", "help", "", 0, {"wall_s": 0.1}),
    ]
    found = by_name(fig.figures(runs, {"vm": True}))
    passed = {name: figure.passed for name, figure in found.items()}
    assert passed == {
        "ready, recording/cache off": True,
        "host CPU, recording/cache off": False,
        "ready, cache off/plain QEMU": True,
        "host CPU, cache off/plain QEMU": True,
        "hit rate, third boot": True,
        "blocks of a cold boot": None,
        "pack usable after": True,
        "journal to store": True,
        "a block on disk": False,
        "sysqcache --help": True,
    }


def test_a_limit_may_be_met_exactly() -> None:
    assert Limit(1.03).met(1.03)
    assert fig.at_least(0.92).met(0.92)
    assert not fig.at_least(0.92).met(0.919)


def test_numbers() -> None:
    assert table.number(0.98765, "%") == "98.8 %"
    assert table.number(0.98765, "ratio") == "0.988"
    assert table.number(23456.7, "") == "23,457"
    assert table.number(477.3, "bytes") == "477 bytes"
    assert table.number(0.2345, "s") == "0.23 s"


def test_results_go_through_json_into_a_table(tmp_path: Path) -> None:
    session = Session(1, {"vm": True}, {"key": "k"}, host.facts(), started=0.0)
    session.runs = [
        make_run(Section.BOOT, Kind.COLD, 0, ready_s=10.0),
        make_run(Section.BOOT, Kind.WARM, 0, ready_s=8.0, hit_rate=0.9),
    ]
    path = session.save(tmp_path)
    assert path == session.save(tmp_path)
    assert path.name == f"19700101T000000-{short_hash(session.host)}.json"
    results = json.loads(path.read_text())
    assert [Run.from_json(value) for value in results["runs"]] == session.runs
    assert [Figure.from_json(value) for value in results["figures"]] == session.figures()
    lines = table.markdown(results).splitlines()
    assert lines[0].endswith("1 pairs, 1970-01-01")
    assert lines[2] == "| vm | median | min to max | asked | reached |"
    assert "| ready, warm/cold | 0.800 |  | at most 0.910 | yes |" in lines
    assert "| hit rate, second boot | 90.0 % |  | at least 92.0 % | no |" in lines


def test_a_spread_is_shown_for_several_values() -> None:
    cells = table.cells(Figure("", "x", "s", (1.0, 3.0, 2.0)))
    assert cells == ("x", "2.00 s", "1.00 s to 3.00 s", "", "")


def results_of(command: str, *figures: Figure) -> dict[str, Any]:
    about = {"command": command, "started": "2026-01-02T03:04:05Z", "engine": {"key": "10.0.13-ab"}}
    return about | {"host": host.facts(), "figures": [figure.to_json() for figure in figures]}


def test_a_section_of_figures_has_its_host_date_and_engine() -> None:
    figure = Figure("vm", "ready", "s", (1.0, 3.0, 2.0), Limit(1.5))
    lines = table.section(results_of("bench.saved compare --rounds 3", figure)).splitlines()
    assert lines[0] == "## bench.saved compare"
    assert host.cpu_model() in lines[2]
    assert "; 2026-01-02; up to 3 values a figure; engine 10.0.13-ab." in lines[2]
    assert lines[4:] == [
        "| vm | median | min to max |",
        "|---|---|---|",
        "| ready | 2.00 s | 1.00 s to 3.00 s |",
    ]


def test_measuring_again_replaces_one_section() -> None:
    text = "# Figures\n\nIntro.\n\n## bench.a\n\nold\n\n## bench.b\n\nkept\n\n## Remarks\n\nmine\n"
    found = table.updated(text, ["## bench.a\n\nnew\n", "## bench.c\n\nmore\n"])
    assert found == (
        "# Figures\n\nIntro.\n\n## bench.a\n\nnew\n\n## bench.b\n\nkept\n\n"
        "## bench.c\n\nmore\n\n## Remarks\n\nmine\n"
    )
    assert table.updated(found, []) == found


def test_the_figures_are_what_is_generated() -> None:
    text = table.FIGURES.read_text()
    assert table.updated(text, []) == text
    assert "asked" not in text.partition(table.REMARKS)[0]


def test_noise_is_never_negative() -> None:
    noise = host.Noise()
    other = dataclasses.replace(noise.before, ours=noise.before.ours - 1e6)
    noise.before = other
    assert noise.measure()["others_cpu_s"] == 0.0


def test_values_of_a_report() -> None:
    report = BootReport("vm", "x86_64", "on")
    report.times.ready_s = 3.0
    values = values_of(report.to_json())
    assert values["ready_s"] == 3.0
    assert values["hit_rate"] == 0.0
    report.warnings.append("running with the cache off")
    with pytest.raises(StepFailed, match="running with the cache off"):
        values_of(report.to_json())


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    options = parse(["boot", "off", "--pairs", "7"])
    assert (options.sections, options.pairs, options.config) == (["boot", "off"], 7, None)
    for wrong in (["bot"], ["--pairs", "0"]):
        with pytest.raises(SystemExit):
            parse(wrong)
    assert "no such section: bot (there are boot, third" in capsys.readouterr().err


def test_every_section_is_documented() -> None:
    text = (ROOT / "docs" / "bench.md").read_text()
    for section in Section:
        assert f"`{section}`" in text


def test_several_vcpus_are_held_against_one() -> None:
    found = {
        "1 vCPU, ready, warm/cold": [0.8, 0.9, 0.85],
        "4 vCPU, ready, warm/cold": [0.84, 0.8, 0.95],
        "4 vCPU after 1, hit rate": [0.9],
        "adopted a second, 1 vCPU": [4e5, 5e5],
        "adopted a second, 2 vCPU": [7e5, 3e5],
        "stress of 60 s, mismatches": [1.0],
    }
    figures = {figure.name: figure for figure in vcpus.table(found)}
    assert figures["4 vCPU, ready, warm/cold"].passed
    assert figures["adopted a second, 2 vCPU"].passed
    assert figures["stress of 60 s, mismatches"].passed is False
    assert figures["4 vCPU after 1, hit rate"].unit == SHARE
    assert figures["1 vCPU, ready, warm/cold"].passed is None


def test_what_an_unused_cache_costs() -> None:
    found = {
        "own memory, 8 vCPU, off": [101.0, 103.0],
        "own memory, 8 vCPU, off/plain": [1.0, 1.03],
        "storm, 8 vCPU, plain": [2.5],
        "storm, 8 vCPU, off/plain": [1.005],
    }
    figures = {figure.name: figure for figure in vcpus.table(found)}
    assert [figure.unit for figure in figures.values()] == ["MiB", fig.RATIO, "s", fig.RATIO]
    assert figures["own memory, 8 vCPU, off"].passed is None
    assert figures["own memory, 8 vCPU, off/plain"].passed is False
    assert figures["storm, 8 vCPU, off/plain"].passed


def test_one_table_of_all_architectures() -> None:
    found = {name: [0.5, 0.7] for name in arches.COLUMNS}
    found |= {arches.HITS: [0.95, 0.93, 0.9], arches.COLD_SHARE: [0.5], arches.MISMATCHES: [0.0]}
    names = ("debian12", "tiny")
    lines = arches.matrix({name: arches.figures(name, found) for name in names})
    header, line, *rows = lines.splitlines()
    assert header.count("|") == line.count("|") == rows[0].count("|")
    assert [row.split(" | ")[0] for row in rows] == ["| debian12", "| tiny"]
    assert "| 93.0 % (90.0 % to 95.0 %) |" in rows[0]
    # a boot can't win more than the share of translation
    assert "| 0.600 (0.500 to 0.700), asked at most 0.500 |" in rows[0]
    assert "asked" not in rows[1]
    assert rows[0].endswith("| 0 |")


def test_guests_whose_image_is_not_built_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(paths.ENV_HOME, str(tmp_path))
    assert arches.built() == []
    said = capsys.readouterr().err
    for name in arches.DEFAULT:
        assert f"{name} is left out: sysqcache image build {name}\n" in said
        assert (CONFIGS / f"{name}.yaml").is_file()


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("debian12-arm64, perl, warm/plain", 0.75),
        ("debian12, perl, warm/plain", 0.80),
        ("debian12, work, warm/plain", 0.70),
        ("debian12, ready, off/plain", 0.85),
        ("debian12, first task, template+warm/internal, plain", 0.35),
        ("debian12, perl, cold/plain", None),
        ("debian12, ready, warm", None),
        ("debian12, first task, internal, plain", None),
    ],
)
def test_what_is_asked_beside_plain_qemu_depends_on_task_and_guest(
    name: str, asked: float | None
) -> None:
    found = limit.limit(name)
    assert (found.value if found else None) == asked
