# SPDX-License-Identifier: GPL-2.0-or-later
"""Verdicts: how they are read, compared and shown; what the suites run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench.verdicts import bare, debian, guests, suites, tcg
from bench.verdicts.__main__ import chosen
from bench.verdicts.verdict import (
    COLD,
    Outcome,
    Verdict,
    differences,
    figures,
    parse,
    reached,
    table,
)

GOOD = Verdict(0, "aa", "ok")


def outcome(**runs: dict[str, Verdict]) -> Outcome:
    return Outcome("suite", runs=dict(runs))


def test_figures_are_sums_and_none_may_differ() -> None:
    good = outcome(cold={"one": GOOD, "two": GOOD}, warm={"one": GOOD, "two": GOOD})
    bad = outcome(cold={"one": GOOD}, warm={"one": Verdict(1, "aa", "ok")})
    bad.mismatches, bad.verified, good.verified = 2, 30, 400
    found = {figure.name: figure for figure in figures([good, bad])}
    assert (found["differences"].median, found["differences"].passed) == (1, False)
    assert (found["mismatches"].median, found["mismatches"].passed) == (2, False)
    assert (found["blocks verified"].median, found["blocks verified"].passed) == (430, None)
    assert found["tests of suite"].median == 1
    assert all(one.passed is not False for one in figures([good]))


def test_verdicts_are_read_from_what_the_runner_prints() -> None:
    text = (
        "noise\n"
        "verdict\tone\t0\tabc\t1.50\tlast\tline\n"
        "verdict\ttwo\t137\tdef\t0.01\t\n"
        "verdict\tbroken\n"
    )
    assert parse(text) == {
        "one": Verdict(0, "abc", "last\tline", 1.5),
        "two": Verdict(137, "def", "", 0.01),
    }


def test_two_verdicts_of_a_test() -> None:
    with pytest.raises(ValueError, match="two verdicts of one"):
        parse("verdict\tone\t0\tabc\t0\t\n" * 2)


def test_status_and_output_are_compared_and_nothing_else() -> None:
    same = Verdict(0, "aa", "other", 99.0)
    assert differences({COLD: {"t": GOOD}, "warm": {"t": same}}) == []
    for other in (Verdict(1, "aa"), Verdict(0, "bb")):
        [found] = differences({COLD: {"t": GOOD}, "warm": {"t": other}})
        assert (found.test, found.run, found.cold, found.other) == ("t", "warm", GOOD, other)


def test_a_test_without_a_verdict_differs() -> None:
    found = differences({COLD: {"a": GOOD}, "warm": {"b": GOOD}, "verify": {}})
    assert [(one.test, one.run) for one in found] == [
        ("a", "warm"),
        ("b", "warm"),
        ("a", "verify"),
    ]


def test_what_is_reached() -> None:
    good = outcome(cold={"t": GOOD}, warm={"t": GOOD})
    assert reached([good], 1)
    assert not reached([good], 2)
    assert not reached([good, outcome(cold={"t": GOOD}, warm={})], 1)
    good.mismatches = 1
    assert not reached([good], 1)


def test_the_table() -> None:
    good = outcome(cold={"t": GOOD, "u": Verdict(1, "")}, warm={"t": GOOD, "u": Verdict(1, "")})
    good.adopted, good.verified, good.seconds = 1000, 2000, 3.2
    bad = outcome(cold={"t": GOOD}, warm={"t": Verdict(139, "")})
    lines = table([good, bad]).splitlines()
    assert lines[2] == "| suite | 2 | 1 | warm | 0 | 1,000 | 2,000 | 0 | 0 | 3 s |"
    assert lines[4].startswith("| **all** | 3 | 2 |  | 1 | 1,000 | 2,000 | 0 |")
    assert lines[5] == "* suite: t: cold status 0, aa, 'ok'; warm status 139, nothing, ''"
    assert bad.to_json()["differences"] == [lines[5].removeprefix("* suite: ")]


def suite_folder(directory: Path, tests: dict[str, str], **more: str) -> Path:
    suite = guests.Suite(
        "unit", guests.Tiny(), lambda _: tests, more.get("filter", guests.AS_IT_IS), 1,
        {"left-out": "for a reason"},
    )  # fmt: skip
    guests.fill(suite, directory / "suite")
    return directory / "suite"


def run(folder: Path) -> dict[str, Verdict]:
    command = ["sh", str(folder / "runner.sh"), str(folder)]
    environment = {"PATH": "/usr/bin:/bin", "TMPDIR": str(folder.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return parse(done.stdout)


def test_the_runner(tmp_path: Path) -> None:
    tests = {
        "passes": "echo here; cat",
        "fails": "echo there >&2; exit 3",
        "dies": "kill -SEGV $$",
        "hangs": "exec sleep 60",
        "left-out": "true",
        "own-directory": "ls -A; touch file",
    }
    found = run(suite_folder(tmp_path, tests))
    statuses = {name: verdict.status for name, verdict in found.items()}
    assert statuses == {"passes": 0, "fails": 3, "dies": 139, "hangs": 137, "own-directory": 0}
    assert [found[name].said for name in ("passes", "fails", "own-directory")] == [
        "here",
        "there",
        "",
    ]
    assert len(found["passes"].digest) == 64


def test_the_runner_compares_what_the_filter_keeps(tmp_path: Path) -> None:
    tests = {"t": "date +%N; echo fixed"}
    folder = suite_folder(tmp_path, tests, filter="grep -v [0-9]")
    first, second = run(folder)["t"], run(folder)["t"]
    assert first.same_as(second)
    assert first.said == "fixed"


def test_stress_ng_says_what_passed_without_times(tmp_path: Path) -> None:
    said = (
        "stress-ng: info:  [11] dispatching hogs: 1 cpu\n"
        "stress-ng: fail:  [12] cpu: wrong by 7\n"
        "stress-ng: info:  [11] successful run completed in 1.25s\n"
    )
    done = subprocess.run(
        ["sh", "-c", debian.STRESS_FILTER], input=said, capture_output=True, text=True, check=True
    )
    assert done.stdout == "fail cpu: wrong by 7\ninfo successful run\n"


def test_every_test_of_a_list_has_a_name_of_its_own() -> None:
    text = "# comment\ncpu: a b\n    c\n# alone\n: d\n"
    assert debian.stressors(text) == {"cpu": ["a", "b", "c"], "": ["d"]}
    assert len(debian.stress(Path())) > 250
    assert len(debian.python(Path())) > 100


def test_commands_of_make_are_read() -> None:
    text = (
        "gcc -o hello hello.c\n"
        "timeout -s KILL --foreground 120  @qemu@ -monitor none -chardev file,path=hello.out,id=o"
        " -kernel hello\n"
        "timeout -s KILL 120 run-test.py --qemu @qemu@ --bin memory\n"
        "timeout -s KILL --foreground 120 @qemu@ -semihosting -device loader,file=issue1060\n"
    )
    assert tcg.parse_runs(text) == {
        "hello": ["-monitor", "none", "-chardev", "file,path=hello.out,id=o", "-kernel", "hello"],
        "issue1060": ["-semihosting", "-device", "loader,file=issue1060"],
    }


def test_a_machine_with_semihosting_does_not_pause(tmp_path: Path) -> None:
    def machine(*arguments: str) -> bare.Machine:
        return bare.Machine(Path("qemu"), arguments, tmp_path, tmp_path)

    assert machine("-kernel", "x").pauses
    assert not machine("-semihosting-config", "enable=on").pauses
    (tmp_path / "x.out").write_bytes(b"said")
    assert machine("-chardev", "file,path=x.out,id=output").output() == b"said"
    assert machine("-serial", "none").output() == b""


def test_suites_are_chosen_by_the_beginning_of_their_names() -> None:
    assert chosen([]) == list(suites.ENTRIES)
    assert [entry.name for entry in chosen(["stress"])] == ["stress-ng"]
    assert {entry.target for entry in chosen(["user"])} == set(tcg.TOOLCHAINS)
    assert len({entry.name for entry in suites.ENTRIES}) == len(suites.ENTRIES)


def test_every_exclusion_has_a_reason() -> None:
    for tests in (*suites.EXCLUDED.values(), suites.STATUS_ONLY):
        assert all(len(reason) > 10 for reason in tests.values())
