# SPDX-License-Identifier: GPL-2.0-or-later
"""Which suites there are; which tests are left out or judged less strictly, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.session import Session
from bench.verdicts import bare, board, debian, guests, image, tcg
from bench.verdicts.verdict import Outcome
from sysqcache.setup.images import build as images
from sysqcache.setup.work import Listener

_SEMIHOSTING: Final = "asks for QEMU's semihosting of programs, which no guest's kernel has"
EXCLUDED: Final[Mapping[str, Mapping[str, str]]] = {
    "user x86_64": {},
    "user i386": {
        "test-i386": "enters the virtual 8086 mode, which a 64-bit kernel does not offer",
    },
    "user aarch64": {"semihosting": _SEMIHOSTING, "semiconsole": _SEMIHOSTING},
    "user riscv64": {"semihosting": _SEMIHOSTING, "semiconsole": _SEMIHOSTING},
    "stress-ng": {},
    "perl": {},
    "python": {},
}
"""Suite -> test -> why it is not run: without the cache its verdict differs from run to run, or
it can't run there at all."""

STATUS_ONLY: Final[Mapping[str, str]] = {
    "signals": "prints how many alarms each thread saw",
    "test-mmap": "prints addresses, which the kernel chooses at random",
    "testthread": "two threads print in turns that the scheduler decides",
    "pauth-1": "prints how many of some thousand random signatures differ",
    "sysregs": "prints registers, among them the counter of time",
}
"""Programs of QEMU's that check themselves, but print what differs from run to run: their exit
status is compared, their output is not."""

_CPU_MAX: Final = ("cpu=max", "memory=1GiB")


@dataclass(frozen=True)
class Place:
    """Where a suite runs.

    :param tree: QEMU's source.
    :param session: for guests; its directory is for everything else, too.
    :param started: of :func:`time.monotonic`, for what is said of the progress.
    """

    tree: Path
    session: Session
    started: float
    runs: Mapping[str, str]


@dataclass(frozen=True)
class Entry:
    """A suite of the table.

    :param target: whose compiler it needs, or "".
    :param image: the image that it needs; "": that of :mod:`bench.verdicts.image`.
    :param fetch: gets what else it needs, once.
    """

    name: str
    run: Callable[[Place], Outcome]
    target: str = ""
    image: str | None = None
    fetch: Callable[[Listener], object] | None = None


def programs(
    target: str,
    sets: Sequence[str] = _CPU_MAX,
    label: str = "",
    only: Sequence[str] = (),
) -> Entry:
    """QEMU's tests for programs, in a tiny guest whose processor has all that QEMU knows.

    :param only: names of some, for a short run.
    """
    arch = {"i386": "x86_64", "aarch64": "arm64"}.get(target, target)
    name = f"user {target}"

    def run(place: Place) -> Outcome:
        def tests(folder: Path) -> Mapping[str, str]:
            build = tcg.Build(
                place.tree, place.session.root / f"build-{target}-user", target, "linux-user"
            )
            found = tcg.commands(build, folder, tcg.references(place.tree, target), only)
            for test in STATUS_ONLY.keys() & found.keys():
                found[test] += " > /dev/null"
            return found

        suite = guests.Suite(name + label, guests.Tiny(arch, sets), tests, excluded=EXCLUDED[name])
        return guests.run(suite, place.session, place.started, place.runs)

    return Entry(name + label, run, target, f"tiny-{arch}")


def bare_machines(target: str) -> Entry:
    """QEMU's tests for bare machines, as its Makefile runs them."""

    def run(place: Place) -> Outcome:
        directory = place.session.root / f"build-{target}-system"
        build = tcg.Build(place.tree, directory, target, "softmmu")
        system = "x86_64" if target == "i386" else target
        suite = bare.Bare(f"system {target}", build.runs, directory, system)
        return bare.run(suite, place.session.root, place.started, place.runs)

    return Entry(f"system {target}", run, target)


def with_board(target: str) -> Entry:
    """Those of them that need no semihosting."""

    def run(place: Place) -> Outcome:
        directory = place.session.root / f"board-{target}"
        suite = bare.Bare(
            f"system {target} board", lambda: board.build(place.tree, directory, target),
            directory, target,
        )  # fmt: skip
        return bare.run(suite, place.session.root, place.started, place.runs)

    return Entry(f"system {target} board", run, target)


def in_debian(
    name: str,
    tests: Callable[[Path], Mapping[str, str]],
    kept: str,
    seconds: int,
    fetch: Callable[[Listener], object] | None = None,
) -> Entry:
    """A suite of Debian's packages."""

    def run(place: Place) -> Outcome:
        suite = guests.Suite(name, guests.Debian(), tests, kept, seconds, EXCLUDED[name])
        return guests.run(suite, place.session, place.started, place.runs)

    return Entry(name, run, image="", fetch=fetch)


ENTRIES: Final = (
    *(bare_machines(target) for target in ("x86_64", "i386", "aarch64", "riscv64")),
    *(with_board(target) for target in ("aarch64", "riscv64")),
    *(programs(target) for target in ("x86_64", "i386", "aarch64", "riscv64")),
    in_debian("stress-ng", debian.stress, debian.STRESS_FILTER, 120),
    in_debian("perl", debian.perl, debian.PERL_FILTER, 300, debian.perl_tree),
    in_debian("python", debian.python, debian.PYTHON_FILTER, 300),
)


def prepare(entry: Entry, listener: Listener) -> str:
    """Make what a suite needs; why it can't be run here, or ""."""
    if entry.target and (reason := tcg.missing(entry.target)):
        return reason
    if entry.image:
        images.build(entry.image, listener=listener)
    elif entry.image == "":
        image.build(listener)
    if entry.fetch:
        entry.fetch(listener)
    return ""
