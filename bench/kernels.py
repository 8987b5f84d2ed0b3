# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot kernels of Debian's suites with the tiny image, and make the table of docs/guestmap.md.

    python -m bench.kernels [--arch ARCH]... [--flavour NAME]... [--keep] [--offline] [PACKAGE]...

Default: the newest kernel of each series and flavour that the mirror has. Each is booted
cold, warm and verified; the last one is compared with the guest's /proc. Results go to
bench/results.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from bench import kernelpackages
from bench.kernelpackages import FLAVOURS, IMAGES, Kernel
from bench.output import keep
from bench.session import CONFIGS, NAME, ROOT, Session, command_line, fresh_session
from bench.table import matrix
from sysqcache.base.errors import SysqcacheError
from sysqcache.base.types import ArchName

DOCS: Final = ROOT / "docs" / "guestmap.md"
CMDLINE: Final = "console=ttyS0 quiet no_timer_check"
"""On a busy host, kernels up to 6.1 may see no interrupt of their timer in time, and panic."""

_TABLE: Final = re.compile(r"(?<=<!-- bench.kernels -->\n)(?:\|.*\n)*")
_HEADER: Final = (
    "kernel", "modules", "processes", "blocks placed", "second boot", "mismatches",
    "first look", "paused, in a later map",
)  # fmt: skip
_MAPS: Final = 'for d in /proc/[0-9]*; do echo "P ${d#/proc/}"; cat $d/maps 2>/dev/null; done'
_ASK: Final = f"cat /proc/modules; {_MAPS}"


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """What was found of one kernel.

    :param modules, processes: that the map has; ``differs`` names those of the guest's /proc
        that it has not, or otherwise.
    :param placed: share of the cold boot's blocks that have a module.
    :param second: share of the second boot's blocks that were adopted, until ready.
    :param look_s: of the first look at this kernel, with the comparison of all blocks.
    :param map_s: of a later map; the guest paused for ``paused_ms`` at most.
    """

    package: str
    arch: str
    modules: int
    processes: int
    differs: tuple[str, ...]
    placed: float
    second: float
    verified: int
    mismatches: int
    look_s: float
    map_s: float
    paused_ms: float
    note: str
    warnings: tuple[str, ...]


def told(text: str) -> tuple[set[str], dict[int, set[str]]]:
    """Modules, and mappings of each process, as the guest prints them."""
    modules, maps, rows = set[str](), dict[int, set[str]](), set[str]()
    for line in text.splitlines():
        fields = line.split(None, 5)
        if fields[:1] == ["P"]:
            rows = maps.setdefault(int(fields[1]), set())
        elif "-" in fields[0][:17] and len(fields) >= 5:
            path = fields[5].rstrip() if len(fields) > 5 else ""
            if path != "[vsyscall]":
                start, end = (int(one, 16) for one in fields[0].split("-"))
                rows.add(f"{start:x}-{end:x} {fields[1]} {int(fields[2], 16):x} {fields[4]} {path}")
        elif len(fields) > 5:
            modules.add(f"{fields[0]} {fields[1]} {int(fields[5].split()[0], 16):x}")
    return modules, maps


def mapped(found: Mapping[str, Any]) -> tuple[set[str], dict[int, set[str]]]:
    """The same of a map's JSON."""
    modules = {f"{one['name']} {one['size']} {one['start']:x}" for one in found["kernel_modules"]}
    maps = {
        process["pid"]: {
            f"{one['start']:x}-{one['end']:x} {one['perms']} {one['offset']:x}"
            f" {one['inode']} {one['path']}"
            for one in process["maps"]
        }
        for process in found["processes"]
    }
    return modules, maps


def differences(found: Mapping[str, Any], before: str, after: str) -> tuple[str, ...]:
    """What the guest said before and after a map, and the map does not have."""
    modules, maps = mapped(found)
    (old_modules, old_maps), (new_modules, new_maps) = told(before), told(after)
    lacking = [*((old_modules & new_modules) - modules), *(modules - (old_modules | new_modules))]
    for pid in old_maps.keys() & new_maps.keys():
        stable = old_maps[pid] & new_maps[pid]
        if pid not in maps:
            lacking.append(f"process {pid}")
        lacking += [f"{pid}: {one}" for one in stable - maps.get(pid, stable)]
    return tuple(sorted(lacking))


def examine(kernel: Kernel, session: Session) -> Row:
    """Boot one kernel three times, with a store of its own."""
    folder = kernelpackages.fetched(kernel)
    store = session.root / kernel.package
    config = CONFIGS / f"{IMAGES[kernel.arch]}.yaml"
    files = ["--set", f"kernel={folder / 'kernel'}", "--set", f"initrd={folder / 'initrd'}"]
    if kernel.arch == ArchName.X86_64:
        files += ["--set", f"cmdline={CMDLINE}"]
    session.forget_kernels()
    cold = session.boot(store, config, *files)
    warm = session.boot(store, config, *files)
    session.forget_kernels()
    session.boot(store, config, *files, "--cache", "verify", "--detach")
    try:
        before = session.run(store, "exec", NAME, _ASK)["stdout"]
        found = session.run(store, "map", NAME)
        after = session.run(store, "exec", NAME, _ASK)["stdout"]
    finally:
        ended = session.run(store, "stop", NAME)
    whose = cold["attribution"]
    return Row(
        package=kernel.package,
        arch=kernel.arch,
        modules=len(found["kernel_modules"]),
        processes=len(found["processes"]),
        differs=differences(found, before, after),
        placed=whose["attributed"] / max(1, whose["blocks"]),
        second=warm["blocks_at_ready"]["hit_rate"],
        verified=ended["blocks"]["verified"],
        mismatches=ended["blocks"]["mismatches"],
        look_s=whose["look_s"],
        map_s=found["took_s"],
        paused_ms=found["paused_ms"],
        note=found["note"] or whose["note"],
        warnings=tuple(cold["warnings"]),
    )


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    name = row.package.removeprefix("linux-image-")
    equal = f", {len(row.differs)} differ" if row.differs else ""
    return (
        name,
        f"{row.modules}",
        f"{row.processes}{equal}",
        f"{100 * row.placed:.1f} %",
        f"{100 * row.second:.1f} %",
        f"{row.mismatches} of {row.verified:,}",
        f"{row.look_s:.2f} s{row.note and ', '}{row.note}",
        f"{row.paused_ms:.1f} ms in {row.map_s:.2f} s",
    )


def table(rows: Iterable[Row]) -> str:
    """The Markdown table."""
    return matrix(_HEADER, map(cells, rows))


def chosen(options: argparse.Namespace) -> list[Kernel]:
    """The kernels that are asked for; problems of the mirror go to stderr."""
    found = list[Kernel]()
    for arch in options.arch or [ArchName(one) for one in IMAGES]:
        kernels, problems = kernelpackages.available(arch, update=not options.offline)
        sys.stderr.writelines(f"{one}\n" for one in problems)
        found += kernels
    return [
        one
        for one in found
        if (not options.packages or one.package in options.packages)
        and (not options.flavour or one.flavour in options.flavour)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the table into the docs if that is asked for."""
    parser = command_line(__doc__)
    parser.add_argument("packages", nargs="*", metavar="PACKAGE")
    parser.add_argument("--arch", action="append", type=ArchName, choices=list(FLAVOURS))
    parser.add_argument("--flavour", action="append", metavar="NAME", help="such as cloud-amd64")
    parser.add_argument("--keep", action="store_true", help="write the table into docs/guestmap.md")
    parser.add_argument("--offline", action="store_true", help="with the lists that are there")
    options = parser.parse_args(arguments)
    started, rows = time.time(), list[Row]()
    for kernel in chosen(options):
        with fresh_session() as session:
            try:
                rows.append(examine(kernel, session))
            except (SysqcacheError, subprocess.CalledProcessError) as error:
                sys.stderr.write(f"{kernel.package}: {error}\n")
                continue
        sys.stderr.write(f"{' | '.join(cells(rows[-1]))}\n")
        sys.stderr.writelines(f"  differs: {one}\n" for one in rows[-1].differs[:10])
    keep("kernels", started, {"kernels": [dataclasses.asdict(row) for row in rows]})
    sys.stdout.write(table(rows))
    if options.keep:
        DOCS.write_text(_TABLE.sub(lambda _: table(rows), DOCS.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
