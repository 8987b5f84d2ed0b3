# SPDX-License-Identifier: GPL-2.0-or-later
"""Comparisons: which ways, in which order, and what is computed from the runs."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from comparehelp import result, sample, spec

from sysqcache.base.errors import UsageError
from sysqcache.base.types import DiskFormat, DiskMode, GuestAccess
from sysqcache.compare import figures, texts
from sysqcache.compare.machines import private
from sysqcache.compare.runner import Request, compare
from sysqcache.compare.ways import Way, named, supported, turns
from sysqcache.saved.record import Method
from sysqcache.spec.spec import Forward, Network


def test_ways_are_made_of_a_method_and_the_cache() -> None:
    assert [(str(w), w.method, w.cached, w.group) for w in Way] == [
        ("cold", None, False, "boot"),
        ("warm", None, True, "boot"),
        ("internal", Method.INTERNAL, False, "internal"),
        ("internal+warm", Method.INTERNAL, True, "internal"),
        ("file", Method.FILE, False, "file"),
        ("file+warm", Method.FILE, True, "file"),
        ("template", Method.TEMPLATE, False, "template"),
        ("template+warm", Method.TEMPLATE, True, "template"),
    ]


def test_parse_ways() -> None:
    assert named("", tuple(Way)) == tuple(Way)
    assert named("template+warm, cold,cold", tuple(Way)) == (Way.COLD, Way.TEMPLATE_WARM)
    with pytest.raises(UsageError, match="cold\\+warm"):
        named("cold,cold+warm", tuple(Way))


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_round_has_every_way_once(count: int) -> None:
    ways = tuple(Way)[:count]
    found = turns(ways, 5)
    assert [number for number, _ in found] == [n for n in range(5) for _ in ways]
    for number in range(5):
        assert {way for n, way in found if n == number} == set(ways)
    assert len(found) == 5 * count


def test_no_way_has_a_favoured_place() -> None:
    found = turns(tuple(Way), 8)
    first = [
        way for (before, _), (number, way) in pairwise([(-1, Way.COLD), *found]) if number != before
    ]
    assert set(first) == set(Way)
    after = Counter((a, b) for (n, a), (m, b) in pairwise(found) if n == m)
    assert max(after.values()) <= 4  # of 8 rounds: nobody always follows the same one


def test_a_machine_without_disks_has_no_internal_snapshots() -> None:
    possible, left_out = supported(tuple(Way), spec(), plain=False)
    assert possible == tuple(way for way in Way if way.group != "internal")
    assert set(left_out) == {Way.INTERNAL, Way.INTERNAL_WARM}
    assert "no disk" in left_out[Way.INTERNAL]


def test_an_engine_without_patches_has_no_cache_and_no_templates() -> None:
    possible, left_out = supported(tuple(Way), spec(DiskMode.EPHEMERAL), plain=True)
    assert possible == (Way.COLD, Way.INTERNAL, Way.FILE)
    assert set(left_out) == set(Way) - set(possible)


def test_nothing_of_the_users_is_written_to() -> None:
    network = Network(forwards=(Forward(2222, 22), Forward(0, 80)))
    made = private(
        spec(
            DiskMode.PERSISTENT,
            DiskMode.READ_ONLY,
            form=DiskFormat.RAW,
            network=network,
            serial_log=Path("/var/log/mine"),
        )
    )
    assert [disk.mode for disk in made.disks] == [DiskMode.EPHEMERAL, DiskMode.READ_ONLY]
    assert [(one.host, one.guest) for one in made.network.forwards] == [(0, 22), (0, 80)]
    assert made.serial_log is None
    assert supported(tuple(Way), made, plain=False) == (tuple(Way), {})


def test_ratios_are_taken_within_rounds() -> None:
    runs = [
        sample(Way.COLD, 0, ready_s=10.0),
        sample(Way.WARM, 0, ready_s=5.0),
        sample(Way.COLD, 1, ready_s=100.0),
        sample(Way.WARM, 1, ready_s=80.0),
        sample(Way.COLD, 2, ready_s=10.0),
        sample(Way.WARM, 3, ready_s=1.0),  # without its other half
    ]
    found = figures.ratios(runs)
    assert found["warm/cold ready"] == figures.Spread(0.65, 0.5, 0.8)
    assert "template/internal ready" not in found
    assert "warm first/second task" in found


def test_a_time_of_zero_has_no_ratio() -> None:
    runs = [sample(Way.COLD, ready_s=0.0), sample(Way.WARM)]
    assert "warm/cold ready" not in figures.ratios(runs)


def test_json_has_the_keys_that_scripts_rely_on() -> None:
    value = json.loads(json.dumps(result().to_json()))
    assert value["machine"] == "debian12"
    assert value["runs"] == 3
    assert value["task"] == "make <all> & test"
    assert set(value["host"]) >= {"cpu", "cores", "kernel"}
    assert [way["way"] for way in value["ways"]] == [str(way) for way in Way]
    for way in value["ways"]:
        for name in ("ready_s", "first_task_s", "second_task_s", "host_cpu_s"):
            assert set(way[name]) == {"median", "min", "max"}
            assert way[name]["min"] <= way[name]["median"] <= way[name]["max"]
        assert way["disk_bytes"] == (0 if way["way"] in ("cold", "warm") else 280 << 20)
        assert way["peak_rss_bytes"] == 300 << 20
        assert way["hit_rate"] == (0.97 if "warm" in way["way"] else 0)
    ratios = value["ratios"]
    assert ratios["warm/cold ready"] == pytest.approx(0.85)
    assert ratios["internal+warm/internal first task"] == pytest.approx(0.5)
    assert ratios["template+warm/internal first task"] == pytest.approx(0.5)
    assert ratios["template/internal ready"] == pytest.approx(0.2)
    assert ratios["template+warm first/second task"] == pytest.approx(2.0)


def test_ways_that_broke_have_no_figures() -> None:
    found = result(1, (Way.COLD, Way.TEMPLATE))
    found.samples = [one for one in found.samples if one.way is Way.COLD]
    found.failed[Way.TEMPLATE] = "it did not start"
    value = found.to_json()
    assert [way["way"] for way in value["ways"]] == ["cold"]
    assert value["failed"] == {"template": "it did not start"}
    assert value["ratios"] == {"cold first/second task": 4.0}


def test_advice_follows_from_the_figures() -> None:
    lines = texts.advice(result())
    assert lines[0].startswith("Soonest to a first result: template+warm, 1.64 s")
    assert "24.0 s" in lines[0]
    assert "Not clearly slower" not in lines[0]
    assert any(line.startswith("When the image changes often") for line in lines)
    assert any("0.900 s and 280 MiB" in line for line in lines)
    assert not any("first impressions" in line for line in lines)


def test_advice_says_what_can_not_be_told_apart() -> None:
    found = result(3, (Way.COLD, Way.WARM))
    for number, one in enumerate((30.0, 14.0, 15.0)):
        found.samples.append(sample(Way.WARM, number + 3, ready_s=one))
        found.samples.append(sample(Way.COLD, number + 3, ready_s=20.0))
    lines = texts.advice(found)
    assert "as the spreads overlap: cold" in lines[0]
    assert any("not more than the spread" in line for line in lines)
    assert any("first impressions" in line for line in texts.advice(result(1)))


def test_advice_of_nothing() -> None:
    assert texts.advice(result(0)) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1314, "0.131 s"),
        (2.254, "2.25 s"),
        (20.34, "20.3 s"),
        (0.0, "0.000 s"),
        (0.9997, "1.00 s"),
    ],
)
def test_seconds(value: float, text: str) -> None:
    assert texts.seconds(value) == text


def test_a_spread_has_as_many_digits_at_both_ends() -> None:
    assert texts.span(figures.Spread(1.0, 0.998, 1.012)) == "1.00 to 1.01 s"
    assert texts.span(figures.Spread(9.0, 8.123, 25.26)) == "8.1 to 25.3 s"
    assert texts.span(figures.Spread(0.5, 0.5, 0.5)) == "0.500 s"


def test_what_can_not_be_compared_is_refused(x86_engine: object) -> None:
    with pytest.raises(UsageError, match="no command can be run"):
        compare(Request(spec(agent=GuestAccess.NONE), tuple(Way)))
    with pytest.raises(UsageError, match="any of these ways") as caught:
        compare(Request(spec(), (Way.INTERNAL, Way.INTERNAL_WARM)))
    assert "no disk" in caught.value.detail
    with pytest.raises(UsageError, match="--runs"):
        compare(Request(spec(), tuple(Way), runs=0))
