# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's own truth about what it runs, and a guest with another kernel."""

from __future__ import annotations

import dataclasses
import json
import lzma
from pathlib import Path

from machinehelp import sysqcache

from sysqcache import paths
from sysqcache.apt import sources
from sysqcache.apt.private import PrivateApt
from sysqcache.errors import ImageBuildError
from sysqcache.guestmap.result import GuestMap, Mapping
from sysqcache.images import tiny
from sysqcache.work import Work, published, scratch

_MAPS = 'for d in /proc/[0-9]*; do echo "P ${d#/proc/}"; cat $d/maps 2>/dev/null; done'
_SYMBOLS = "_text|_stext|_etext|_sinittext|_einittext|modules|init_task"


@dataclasses.dataclass(frozen=True)
class Truth:
    """What a guest tells of itself."""

    maps: dict[int, list[Mapping]]
    modules: dict[str, tuple[int, int]]
    symbols: dict[str, int]
    release: str


def in_guest(name: str, command: str) -> str:
    """Output of a command in the guest."""
    done = json.loads(sysqcache("exec", name, "--json", "--", command).stdout)
    assert done["exit"] == 0, done
    return str(done["stdout"])


def truth(name: str) -> Truth:
    """Ask the guest by its own channel."""
    maps: dict[int, list[Mapping]] = {}
    for line in in_guest(name, _MAPS).splitlines():
        if line.startswith("P "):
            rows = maps.setdefault(int(line[2:]), [])
        elif line and "[vsyscall]" not in line:
            rows.append(_mapping(line))
    modules = {}
    for line in in_guest(name, "cat /proc/modules").splitlines():
        fields = line.split()
        modules[fields[0]] = int(fields[5], 16), int(fields[1])
    symbols = {}
    for line in in_guest(name, f"grep -E ' ({_SYMBOLS})$' /proc/kallsyms").splitlines():
        address, _, symbol = line.split()
        symbols[symbol] = int(address, 16)
    return Truth(maps, modules, symbols, in_guest(name, "uname -r").strip())


def _mapping(line: str) -> Mapping:
    fields = line.split(None, 5)
    start, end = (int(one, 16) for one in fields[0].split("-"))
    path = fields[5] if len(fields) > 5 else ""
    return Mapping(start, end, fields[1], int(fields[2], 16), int(fields[4]), path)


def agree(found: GuestMap, before: Truth, after: Truth) -> int:
    """Assert that a map agrees with what the guest said before and after it.

    Only what the guest said both times is compared; gives the number of executable file
    mappings compared.
    """
    assert found.note == ""
    assert found.kernel.release == before.release
    symbols = before.symbols
    assert found.kernel.text == (symbols["_stext"], symbols["_etext"])
    assert found.kernel.base == symbols["_text"]
    assert found.kernel.init_text == (symbols["_sinittext"], symbols["_einittext"])
    assert {one.name: (one.start, one.size) for one in found.modules} == before.modules
    assert all(len(one.build_id) == 40 for one in found.modules)
    ours = {
        one.pid: [dataclasses.replace(m, build_id="", file=0) for m in one.maps]
        for one in found.processes
    }
    both = before.maps.keys() & after.maps.keys()
    assert both <= ours.keys()
    compared = 0
    for pid in both:
        stable = [one for one in before.maps[pid] if one in after.maps[pid]]
        lacking = [one for one in stable if one not in ours[pid]]
        assert lacking == [], (pid, lacking)
        if before.maps[pid] == after.maps[pid]:
            assert ours[pid] == before.maps[pid], pid
        compared += sum("x" in one.perms and one.inode != 0 for one in stable)
    return compared


def trixie_guest() -> Path:
    """Directory with ``kernel`` and ``initrd`` of the tiny guest with Debian 13's kernel.

    Built once; raises :class:`ImageBuildError` when there is no such archive.
    """
    target = paths.downloads_dir() / "test-tiny-trixie"
    if target.exists():
        return target
    archives = sources.for_release(sources.read_sources(), "trixie")
    if not archives:
        raise ImageBuildError("no archive of Debian 13 is configured")
    work = Work(paths.logs_dir() / "test-tiny-trixie.log", ImageBuildError)
    with scratch(paths.downloads_dir(), "trixie") as directory, published(target) as output:
        apt = PrivateApt(directory / "apt", archives, work)
        apt.update()
        names = apt.depends(tiny.KERNEL_META)
        kernel_package = next(name for name in names if name.startswith("linux-image-"))
        unpacked = directory / "unpacked"
        for deb in apt.download(kernel_package, "busybox-static"):
            apt.unpack(deb, unpacked)
        for packed in unpacked.rglob("*.ko.xz"):
            packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        kernel = next((unpacked / "boot").glob("vmlinuz-*"))
        (output / "kernel").write_bytes(kernel.read_bytes())
        release = kernel.name.removeprefix("vmlinuz-")
        modules = next(unpacked.glob(f"**/lib/modules/{release}"))
        (output / "initrd").write_bytes(tiny._initrd(unpacked, modules))
    return target
