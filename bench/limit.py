# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure machines beside QEMU of the same source without our patches: is all of it faster?

    python -m bench.limit [boots|resumes]... [--rounds N] [--vcpus N] [--config VM.yaml]...

Default: Debian 12 for x86_64 and arm64. ``boots``: a round boots the machine on the plain QEMU,
with the cache off, cold and warm, in an order that turns from round to round; each boot runs the
same tasks, every one of them more than once, and the first run of each is not counted. ``resumes``:
a round resumes what savevm saved on the plain QEMU and a template with its blocks. `make
plain-engine` builds that QEMU. Ratios are those within a round. Results go to bench/results.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.figures import RATIO, Figure, Limit, figures_of
from bench.output import finish
from bench.saved import answered, with_disk
from bench.session import (
    CONFIGS,
    DEBIAN,
    WORK,
    Session,
    Values,
    command_line,
    fresh_session,
    parse_parts,
)
from sysqcache.spec import engines, resolve

PLAIN: Final = "plain"
KINDS: Final = (PLAIN, "off", "cold", "warm")
_MODES: Final = {PLAIN: "off", "off": "off", "cold": "on", "warm": "on"}

TASKS: Final = {
    "work": WORK,
    "python": "python3 -c 'for i in range(2000000): i * i % 7'",
    "perl": "perl -e '$x += $_ * $_ % 7 for 1 .. 4000000'",
    "sha256sum": "for i in 1 2 3 4 5 6 7 8; do sha256sum /usr/bin/python3; done > /dev/null",
    "100 forks": "i=0; while [ $i -lt 100 ]; do i=$((i + 1)); /bin/true; done",
}
RUNS: Final = 3
"""Of each task in each boot; the first is not counted."""


def _engine(session: Session, arch: str, kind: str) -> None:
    """Choose the engine of the next commands. Raises EngineMissing."""
    chosen = engines.find_engine(arch, plain=kind == PLAIN)
    session.environment[engines.ENV_ENGINE] = str(chosen.dir)


def _boot(session: Session, config: Path, kind: str, filled: Path, *sets: str) -> dict[str, float]:
    """Seconds to ready and of each task, of one boot."""
    store = session.root / "store"
    if kind == "warm":
        shutil.copytree(filled, store)
    tasks = [word for task in TASKS.values() for word in ("--task", task) * RUNS]
    report = session.boot(store, config, "--cache", _MODES[kind], *sets, *tasks)
    shutil.rmtree(store, ignore_errors=True)
    return {"ready": report["times"]["ready_s"], **_later_runs(report["times"]["tasks"])}


def _later_runs(done: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean seconds of each task's runs but the first. Raises SystemExit for one that failed."""
    if failed := [one for one in done if one["exit"] != 0]:
        raise SystemExit(f"a task failed in the guest: {failed[0]}")
    return {
        name: statistics.mean(one["wall_s"] for one in done[at * RUNS + 1 : (at + 1) * RUNS])
        for at, name in enumerate(TASKS)
    }


def _in_turn(number: int) -> Sequence[str]:
    """The kinds in the order of a round."""
    start = number % len(KINDS)
    return (*KINDS[start:], *KINDS[:start])


def boots(session: Session, config: Path, rounds: int, sets: Sequence[str], found: Values) -> None:
    """All boots of one machine."""
    spec = resolve.load(config)
    filled = session.root / "filled"
    _engine(session, spec.arch, "warm")
    tasks = [word for task in TASKS.values() for word in ("--task", task)]
    session.boot(filled, config, *sets, *tasks)
    for number in range(rounds):
        took = {}
        for kind in _in_turn(number):
            _engine(session, spec.arch, kind)
            took[kind] = _boot(session, config, kind, filled, *sets)
            sys.stderr.write(f"{spec.name}, round {number + 1}, {kind}: {_line(took[kind])}\n")
        for kind, values in took.items():
            for name, value in values.items():
                found[f"{spec.name}, {name}, {kind}"].append(value)
                if kind != PLAIN:
                    ratio = value / took[PLAIN][name]
                    found[f"{spec.name}, {name}, {kind}/{PLAIN}"].append(ratio)


def _line(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f} s" for name, value in values.items())


def resumes(
    session: Session, config: Path, rounds: int, sets: Sequence[str], found: Values
) -> None:
    """All resumes of one machine."""
    spec = resolve.load(config)
    store = session.root / "store"
    disk = with_disk(session, config)
    for name, kind, method in (("limit-plain", PLAIN, "internal"), ("limit", "warm", "template")):
        _engine(session, spec.arch, kind)
        options = ("--cache", _MODES[kind], "--set", f"name={name}", *disk, *sets)
        session.run(store, "boot", config, "--detach", *options)
        session.run(store, "suspend", name, "--method", method)
    session.run(store, "resume", "limit", "--task", WORK)
    for number in range(rounds):
        for name in ("limit-plain", "limit")[:: -1 if number % 2 else 1]:
            _engine(session, spec.arch, PLAIN if name == "limit-plain" else "warm")
            for task, title in ((WORK, "first task"), ("true", "true")):
                times = session.run(store, "resume", name, "--task", task)["times"]
                value = answered(times) if task == "true" else times["tasks"][0]["wall_s"]
                way = "internal, plain" if name == "limit-plain" else "template+warm"
                found[f"{spec.name}, {title}, {way}"].append(value)
        for title in ("first task", "true"):
            ours, plain = (
                found[f"{spec.name}, {title}, {way}"][-1]
                for way in ("template+warm", "internal, plain")
            )
            found[f"{spec.name}, {title}, template+warm/internal, plain"].append(ours / plain)
    shutil.rmtree(store)


def limit(name: str) -> Limit | None:
    """What is asked of a figure."""
    machine, title, *rest = name.split(", ")
    if not rest or "/" not in rest[0]:
        return None
    if title == "first task":
        return Limit(0.35)
    kind = rest[0].partition("/")[0]
    if title == "ready":
        return Limit({"warm": 0.62, "off": 0.85, "cold": 0.88}[kind])
    if kind != "warm" or title == "true":
        return None
    return Limit(0.70 if title == "work" else 0.75 if machine.endswith("arm64") else 0.80)


def unit(name: str) -> str:
    """Of a figure, by its name."""
    return RATIO if "/" in name else "s"


def table(found: Values) -> list[Figure]:
    """Every figure with its values and what is asked of it."""
    return figures_of(found, unit, limit)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a Markdown table."""
    parser = command_line(__doc__)
    parts = {"boots": boots, "resumes": resumes}
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--vcpus", type=int, default=1)
    parser.add_argument(
        "--config", type=Path, action="append", metavar="VM.yaml", help="repeatable"
    )
    options = parse_parts(parser, list(parts), arguments)
    configs = options.config or [DEBIAN, CONFIGS / "debian12-arm64.yaml"]
    sets = ("--set", f"vcpus={options.vcpus}")
    started, found = time.time(), defaultdict[str, list[float]](list)
    for config in configs:
        for part in options.parts:
            with fresh_session() as session:
                parts[part](session, config.absolute(), options.rounds, sets, found)
            sys.stderr.write(f"{config.stem}, {part}: {time.time() - started:.0f} s\n")
    finish("limit", started, {"found": found}, table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
