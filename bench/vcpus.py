# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure machines with several vCPUs: boots, blocks and turns a second, a stress in verify mode.

    python -m bench.vcpus [boot|storm|spin|stress|race|off]... [--rounds N] [--config VM.yaml]

``boot`` uses the given machine (default: Debian 12), the others the tiny guest with programs
of tests/vm/guest, which gcc must be able to link statically. ``race`` (only if it is asked for)
counts calls that got stale code, with the cache on, off, and on QEMU of the same source without
our patches (`make plain-engine`), where there are some. ``off`` (only if it is asked for) compares
memory and speed of our engine with the cache off and of that QEMU. Results go to bench/results.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench import tinyguest, unused
from bench.figures import OFF_RATIO, RATIO, SHARE, Figure, Limit, figures_of
from bench.output import finish
from bench.session import DEBIAN, NAME, Session, Values, command_line, fresh_session, parse_parts
from sysqcache.spec import engines as info

COUNTS: Final = (1, 4)
STORM_VCPUS: Final = (1, 2, 4)
STORM_BLOCKS: Final = 480 * 1024
STRESS_S: Final = 60
SPIN_ROUNDS: Final = 50_000
RACE_WAYS: Final = ("1", "2", "4", "8", "16", "lock", "cross", "string", "fxsave")
RACE_S: Final = 20


def boots(session: Session, config: Path, found: Values) -> None:
    """One round of boots: cold and warm with each number of vCPUs, and across."""
    stores = {}
    for count in COUNTS:
        stores[count] = session.root / f"store-{count}"
        before = _boot(session, stores[count], config, count)
        after = _boot(session, _copy(session, stores[count]), config, count)
        _add_pair(found, f"{count} vCPU", before, after)
    for count, other in (COUNTS, COUNTS[::-1]):
        report = _boot(session, _copy(session, stores[other]), config, count)
        blocks = report["blocks_at_ready"]
        name = f"{count} vCPU after {other}"
        found[f"{name}, hit rate"].append(blocks["hit_rate"])
        found[f"{name}, there but for the other kind"].append(
            blocks["misses"]["parallel"] / blocks["requested"]
        )
        found[f"{name}, ready"].append(report["times"]["ready_s"])
    for store in stores.values():
        shutil.rmtree(store)


def _copy(session: Session, store: Path) -> Path:
    copy = session.root / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    return shutil.copytree(store, copy)


def _boot(session: Session, store: Path, config: Path, count: int) -> dict[str, Any]:
    return session.boot(store, config, "--set", f"vcpus={count}")


def _add_pair(found: Values, name: str, cold: Mapping[str, Any], warm: Mapping[str, Any]) -> None:
    ready = [report["times"]["ready_s"] for report in (cold, warm)]
    found[f"{name}, ready, cold"].append(ready[0])
    found[f"{name}, ready, warm"].append(ready[1])
    found[f"{name}, ready, warm/cold"].append(ready[1] / ready[0])
    cpu = [report["times"]["host_cpu_s"] for report in (cold, warm)]
    found[f"{name}, host CPU, warm/cold"].append(cpu[1] / cpu[0])
    share = cold["blocks_at_ready"]["translate_share"]
    found[f"{name}, share of translation, cold"].append(share)
    found[f"{name}, hit rate"].append(warm["blocks_at_ready"]["hit_rate"])
    cycles = warm["blocks_at_ready"]["adopt_cycles"]
    found[f"{name}, cycles an adoption"].append(cycles)


def storms(session: Session, files: Path, found: Values) -> None:
    """One round: new code on 1, 2 and 4 vCPUs, translated and adopted."""
    stores = {count: session.root / f"storm-{count}" for count in STORM_VCPUS}
    for mode in ("on", "read-only"):
        for count, own in stores.items():
            # all adopt what the machine with one vCPU recorded
            store = own if mode == "on" else stores[1]
            report = tinyguest.boot(
                session, store, files, count, mode, f"storm {count} {STORM_BLOCKS}"
            )
            output = report["times"]["tasks"][0]["stdout"]
            match = re.match(r"(\d+) blocks ([\d.]+) s", output)
            assert match, output
            how = "translated" if mode == "on" else "adopted"
            rate = int(match[1]) / float(match[2])
            found[f"{how} a second, {count} vCPU"].append(rate)
            sys.stderr.write(f"{how} on {count} vCPU: {rate:,.0f} blocks a second\n")
    for store in stores.values():
        shutil.rmtree(store)


def spin(session: Session, files: Path, found: Values) -> None:
    """One round: vCPUs that wait for each other with PAUSE, as many as processors and more."""
    store = session.root / "spin"
    for count in (2, 4):
        report = tinyguest.boot(session, store, files, count, "on", f"spin {count} {SPIN_ROUNDS}")
        turns, _, seconds, _ = report["times"]["tasks"][0]["stdout"].split()
        found[f"turns handed on a second, {count} vCPU"].append(int(turns) / float(seconds))
    shutil.rmtree(store)


def stress(session: Session, files: Path, found: Values) -> None:
    """Four busy threads on four vCPUs, with everything that is found verified."""
    store = session.root / "stress"
    tinyguest.boot(session, store, files, 4, "on", "busy 4 10")
    blocks = tinyguest.boot(session, store, files, 4, "verify", f"busy 4 {STRESS_S}")["blocks"]
    found[f"stress of {STRESS_S} s, verified"].append(blocks["verified"])
    found[f"stress of {STRESS_S} s, mismatches"].append(blocks["mismatches"])
    shutil.rmtree(store)


def race(session: Session, files: Path, found: Values) -> None:
    """Functions that one vCPU changes while others call them, written in all ways."""
    plain = info.find_engine("x86_64", plain=True)
    for kind, mode in (("cache on", "on"), ("cache off", "off"), ("plain QEMU", "off")):
        if kind.startswith("plain"):
            session.environment[info.ENV_ENGINE] = str(plain.dir)
        stale = 0
        for way in RACE_WAYS:
            task = f"racewrite {way} 2 {RACE_S}"
            report = tinyguest.boot(session, session.root / "race", files, 4, mode, task)
            words = report["times"]["tasks"][0]["stdout"].split()
            stale += int(words[words.index("stale") - 1])
        found[f"calls of stale code, {kind}"].append(stale)
    del session.environment[info.ENV_ENGINE]


def table(found: Values) -> list[Figure]:
    """Every figure with its values and what is asked of it."""
    return figures_of(found, _unit, lambda name: _limit(name, found))


def _unit(name: str) -> str:
    if name.endswith("warm/cold"):
        return RATIO
    if "hit rate" in name or "other kind" in name or "share" in name:
        return SHARE
    return unused.unit(name) or ("s" if "ready" in name else "")


def _limit(name: str, found: Values) -> Limit | None:
    if name == "4 vCPU, ready, warm/cold":
        return Limit(Figure("", "", RATIO, tuple(found["1 vCPU, ready, warm/cold"])).median)
    if name.endswith(unused.RATIO_ENDING):
        return OFF_RATIO
    if name in ("adopted a second, 2 vCPU", "adopted a second, 4 vCPU"):
        one = tuple(found["adopted a second, 1 vCPU"])
        return Limit(Figure("", "", "", one).median, at_most=False)
    ours = name.startswith("calls of stale code, cache")
    return Limit(0.0) if ours or name.endswith("mismatches") else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a Markdown table."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of all but stress and race")
    parser.add_argument("--config", type=Path, default=DEBIAN, metavar="VM.yaml")
    known = ("boot", "storm", "spin", "stress", "race", "off")
    options = parse_parts(parser, known, arguments, known[:4])
    parts = options.parts
    started, found = time.time(), defaultdict[str, list[float]](list)
    with fresh_session() as session:
        alone = parts == ["boot"]
        files = Path() if alone else tinyguest.measured(session.root / "programs")
        for number in range(options.rounds):
            if "boot" in parts:
                boots(session, options.config.absolute(), found)
            if "storm" in parts:
                storms(session, files, found)
            if "spin" in parts:
                spin(session, files, found)
            if "off" in parts:
                unused.pair(session, files, number, found)
            sys.stderr.write(f"round {number + 1}: {time.time() - started:.0f} s\n")
        if "stress" in parts:
            stress(session, files, found)
        if "race" in parts:
            race(session, files, found)
    finish("vcpus", started, {"name": NAME, "found": found}, table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
