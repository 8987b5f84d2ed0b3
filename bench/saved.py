# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure saved machines: against savevm, with more memory, many at once.

    python -m bench.saved [compare] [sizes] [copies] [--rounds N] [--config VM.yaml] [--task CMD]

``compare`` is ``sysqcache compare`` of the resumes, ``sizes`` resumes templates of 1 and of
4 GiB in turns, ``copies`` one and eight copies of a template in turns. A machine without disks
gets an empty one, which savevm needs. Results go to bench/results.
"""

from __future__ import annotations

import dataclasses
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.figures import RATIO, Limit, figures_of
from bench.output import finish
from bench.session import DEBIAN, WORK, Session, Values, command_line, fresh_session, parse_parts
from sysqcache.machine.launch.process import ProcessId
from sysqcache.spec import resolve
from sysqcache.spec.engines import any_qemu_img

WAYS: Final = "internal,internal+warm,file+warm,template,template+warm"
SIZES: Final = ("1GiB", "4GiB")
COPIES: Final = 8
MIB: Final = 1 << 20

LIMITS: Final = {
    "template+warm/internal, ready": Limit(0.25),
    "template+warm/internal, first task": Limit(0.5),
    "internal+warm/internal, first task": Limit(0.65),
    "suspend, internal": Limit(1.5),
    "suspend, file": Limit(1.5),
    "suspend, template": Limit(1.5),
    "ready, 4GiB/1GiB": Limit(1.1),
    f"slowest of {COPIES}/one, ready": Limit(float(COPIES)),
    "own memory of a copy that ran true": Limit(60.0),
}


@dataclasses.dataclass(frozen=True)
class Guest:
    """The measured machine, how many rounds, and what runs in it."""

    config: Path
    rounds: int
    task: str = WORK


def task_of(config: Path) -> str:
    """What the guests of our images have for measuring."""
    return WORK if config.name.startswith("debian") else "work"


def with_disk(session: Session, config: Path) -> tuple[str, ...]:
    """Options that give a machine without disks one which can hold a snapshot."""
    if resolve.load(config).disks:
        return ()
    disk = session.root / "empty.qcow2"
    command = [str(any_qemu_img()), "create", "-q", "-f", "qcow2", str(disk), "64M"]
    subprocess.run(command, check=True)
    return ("--set", f"disks=[{{file: {disk}}}]")


def compare(session: Session, guest: Guest, found: Values) -> None:
    """What ``sysqcache compare`` says of the resumes."""
    options = ("--task", guest.task, "--runs", guest.rounds, "--ways", WAYS)
    disk = with_disk(session, guest.config)
    result = session.run(session.root / "store", "compare", guest.config, *options, *disk)
    samples: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for sample in sorted(result["samples"], key=lambda one: one["round"]):
        samples[sample["way"]].append(sample)
    for way, ones in samples.items():
        for key, name in (("ready_s", "ready"), ("first_task_s", "first task")):
            found[f"{way}, {name}"] += [one[key] for one in ones]
            if way != "internal":
                base = [one[key] for one in samples["internal"]]
                pairs = zip((one[key] for one in ones), base, strict=True)
                found[f"{way}/internal, {name}"] += [value / other for value, other in pairs]
    warm = samples["template+warm"]
    found["template+warm, first/second task"] += [
        one["first_task_s"] / one["second_task_s"] for one in warm
    ]
    for method, saving in result["suspends"].items():
        found[f"suspend, {method}"].append(saving["suspend_s"])


def template(session: Session, config: Path, name: str, *sets: str) -> None:
    """Save a machine as a template, with the blocks of its first resume kept."""
    store = session.root / "store"
    options = [part for one in (f"name={name}", *sets) for part in ("--set", one)]
    session.run(store, "boot", config, "--detach", *options)
    session.run(store, "suspend", name, "--method", "template")
    session.run(store, "resume", name, "--task", "true")


def answered(times: dict[str, Any]) -> float:
    """Seconds from the start of QEMU until the guest had run the first command."""
    return float(times["ready_s"] + times["tasks"][0]["wall_s"])


def sizes(session: Session, guest: Guest, found: Values) -> None:
    """Resumes of templates that differ in their memory, in turns."""
    for size in SIZES:
        template(session, guest.config, f"bench-{size.lower()}", f"memory={size}")
    for number in range(guest.rounds):
        took = {}
        for size in SIZES if number % 2 == 0 else SIZES[::-1]:
            name = f"bench-{size.lower()}"
            report = session.run(session.root / "store", "resume", name, "--task", "true")
            took[size] = answered(report["times"])
        for size in SIZES:
            found[f"ready, {size}"].append(took[size])
        found["ready, 4GiB/1GiB"].append(took[SIZES[1]] / took[SIZES[0]])


def run_copies(
    session: Session, name: str, count: int, found: Values
) -> tuple[list[float], list[float]]:
    """Seconds to each copy's answer, and MiB that were its own then."""
    store = session.root / "store"
    began = time.monotonic()
    reports = session.run(store, "resume", name, "--copies", count, "--task", "true", "--detach")
    found[f"resume --copies {count}, the whole command"].append(time.monotonic() - began)
    names = [f"{name}-{number + 1}" for number in range(count)]
    try:
        running = {one["name"]: one["pid"] for one in session.run(store, "list")["machines"]}
        later = [identity.own_memory() for one in names if (identity := ProcessId.of(running[one]))]
        found[f"own memory of one of {count}, seconds later"] += [one / MIB for one in later]
    finally:
        for one in names:
            session.run(store, "stop", one, "--force")
    memory = [report["own_memory_bytes"] / MIB for report in reports]
    return [answered(report["times"]) for report in reports], memory


def copies(session: Session, guest: Guest, found: Values) -> None:
    """One copy and eight, in turns."""
    name = "bench-copies"
    template(session, guest.config, name)
    for _ in range(guest.rounds):
        one, _memory = run_copies(session, name, 1, found)
        all_of_them, memory = run_copies(session, name, COPIES, found)
        found["ready, one copy"] += one
        found[f"ready, slowest of {COPIES}"].append(max(all_of_them))
        found[f"slowest of {COPIES}/one, ready"].append(max(all_of_them) / statistics.mean(one))
        found["own memory of a copy that ran true"] += memory


def unit(name: str) -> str:
    """Of a figure, by its name."""
    if "memory" in name:
        return "MiB"
    return RATIO if "/" in name else "s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a Markdown table."""
    parser = command_line(__doc__)
    parts = {"compare": compare, "sizes": sizes, "copies": copies}
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--config", type=Path, default=DEBIAN, metavar="VM.yaml")
    parser.add_argument("--task", metavar="CMD", help="of compare; default: that of our images")
    options = parse_parts(parser, list(parts), arguments)
    config = options.config.absolute()
    guest = Guest(config, options.rounds, options.task or task_of(config))
    started, found = time.time(), defaultdict[str, list[float]](list)
    with fresh_session() as session:
        for part in options.parts:
            parts[part](session, guest, found)
            sys.stderr.write(f"{part}: {time.time() - started:.0f} s\n")
    finish("saved", started, {"found": found}, figures_of(found, unit, LIMITS.get))
    return 0


if __name__ == "__main__":
    sys.exit(main())
