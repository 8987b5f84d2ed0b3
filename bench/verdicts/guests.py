# SPDX-License-Identifier: GPL-2.0-or-later
"""Running a suite in a guest: all its tests in one boot, a boot for each mode of the cache."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from bench.session import CONFIGS, Session
from bench.tinyguest import extended
from bench.verdicts import image
from bench.verdicts.verdict import COLD, Outcome, parse

RUNNER: Final = Path(__file__).with_name("runner.sh")
WARM, VERIFY = "warm", "verify"
RUNS: Final = {COLD: "off", "filling": "on", WARM: "on", VERIFY: "verify"}
"""Each run with its mode of the cache. The second fills the store that the others adopt from."""
TWICE_COLD: Final = {COLD: "off", "cold again": "off"}
"""What tells tests whose verdicts differ by themselves."""

AS_IT_IS: Final = "exec cat"
"""A filter for tests whose whole output is the same in each run."""


class Machine(Protocol):
    """A guest that can be given a folder."""

    def prepare(self, folder: Path) -> tuple[Path, Sequence[str], str]:
        """A vm.yaml, fields of it, and the command that runs the suite of ``folder``."""


@dataclass(frozen=True)
class Tiny:
    """The tiny guest: the folder comes with its initial RAM disk."""

    arch: str = "x86_64"
    sets: Sequence[str] = ()

    def prepare(self, folder: Path) -> tuple[Path, Sequence[str], str]:
        """See :class:`Machine`."""
        name = f"tiny-{self.arch}"
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        files = {f"suite/{path.relative_to(folder)}": path for path in paths}
        initrd = extended(name, files, folder.with_suffix(".initrd"))
        sets = (f"initrd={initrd}", *self.sets)
        return CONFIGS / f"{name}.yaml", sets, "sh /suite/runner.sh /suite"


@dataclass(frozen=True)
class Debian:
    """The Debian guest of :mod:`bench.verdicts.image`: the folder is a disk of its own."""

    sets: Sequence[str] = ()

    def prepare(self, folder: Path) -> tuple[Path, Sequence[str], str]:
        """See :class:`Machine`."""
        disk, config = folder.with_suffix(".ext4"), folder.with_suffix(".yaml")
        used = sum(path.lstat().st_size + 4096 for path in folder.rglob("*"))
        size = (used + used // 4 >> 10) + 16384
        command = ["/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-d", str(folder), str(disk)]
        subprocess.run([*command, f"{size}k"], check=True)
        config.write_text(image.config(image.directory(), [disk]))
        task = "mkdir -p /suite && mount -o ro /dev/vdb /suite && sh /suite/runner.sh /suite"
        return config, self.sets, task


@dataclass(frozen=True)
class Suite:
    """A test suite that runs in a guest.

    :param tests: name -> command, given a folder to put into the guest, where it is ``/suite``.
    :param filter: a shell script that keeps of a test's output what is the same in each run.
    :param seconds: how long one test may take.
    :param excluded: tests that are not run, with the reason of each.
    """

    name: str
    machine: Machine
    tests: Callable[[Path], Mapping[str, str]]
    filter: str = AS_IT_IS
    seconds: int = 120
    excluded: Mapping[str, str] = field(default_factory=dict)


def fill(suite: Suite, folder: Path) -> None:
    """Put what the runner reads, and what the tests need, into ``folder``."""
    folder.mkdir()
    tests = suite.tests(folder)
    for name, command in tests.items():
        assert not set("\t\n/ ") & set(name), name
        assert "\n" not in command, command
    files = {
        "tests": "".join(f"{name}\t{command}\n" for name, command in tests.items()),
        "exclude": "".join(f"{name}\n" for name in suite.excluded),
        "filter": suite.filter + "\n",
        "seconds": f"{suite.seconds}\n",
        RUNNER.name: RUNNER.read_text(),
    }
    for file, text in files.items():
        (folder / file).write_text(text)


def say(text: str, started: float) -> None:
    """Progress, with the time since the start."""
    sys.stderr.write(f"{time.monotonic() - started:7.1f} s  {text}\n")


def run(suite: Suite, session: Session, started: float, runs: Mapping[str, str] = RUNS) -> Outcome:
    """All runs of a suite, with a store of its own."""
    begin = time.monotonic()
    outcome = Outcome(suite.name, excluded=suite.excluded)
    label = suite.name.replace(" ", "-").replace(",", "")
    folder, store = session.root / label, session.root / f"{label}.store"
    fill(suite, folder)
    config, sets, task = suite.machine.prepare(folder)
    fields = [part for one in sets for part in ("--set", one)]
    for name, mode in runs.items():
        arguments = (*fields, "--cache", mode, "--task", task)
        try:
            options = ("--until", "ready", *arguments)
            report = session.run(store, "boot", config, *options, timeout=None)
        except subprocess.CalledProcessError as error:
            outcome.runs[name] = {}
            outcome.notes.append(f"{name}: {error.stderr.strip()}")
        else:
            _take(outcome, name, report)
        differ = [one for one in outcome.differences if one.run == name]
        said = f"{len(outcome.runs[name])} verdicts, {len(differ)} differ"
        say(f"{suite.name}, {name}: {said}", started)
        for one in differ:
            say(f"    {one}", started)
    outcome.seconds = time.monotonic() - begin
    return outcome


def _take(outcome: Outcome, name: str, report: Mapping[str, Any]) -> None:
    """Verdicts and counters of one run."""
    [task] = report["times"]["tasks"]
    outcome.runs[name] = parse(task["stdout"])
    if task["exit"] != 0:
        outcome.notes.append(f"{name}: the runner ended with {task['exit']}: {task['stderr']}")
    blocks = report["blocks"]
    if name == WARM:
        outcome.adopted = blocks["adopted"]
    if name == VERIFY:
        outcome.verified, outcome.mismatches = blocks["verified"], blocks["mismatches"]
        outcome.notes += [f"mismatch: {text}" for text in blocks["mismatch_log"]]
