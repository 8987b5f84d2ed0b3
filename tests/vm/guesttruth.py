# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's own truth about what it runs, and a guest with another kernel."""

from __future__ import annotations

import base64
import collections
import dataclasses
import hashlib
import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
from machinehelp import sysqcache

from sysqcache.base import paths
from sysqcache.base.errors import ImageBuildError
from sysqcache.formats.elf import notes_build_id
from sysqcache.guestmap.guest import open_guest
from sysqcache.guestmap.kallsyms import SymbolTable
from sysqcache.guestmap.kernel import kernel_info
from sysqcache.guestmap.result import GuestMap, Mapping
from sysqcache.guestmap.session import GuestSession
from sysqcache.guestmap.table import OwnerKind, OwnerTable
from sysqcache.setup.apt import sources
from sysqcache.setup.apt.private import PrivateApt
from sysqcache.setup.images import tiny
from sysqcache.setup.images.cpio import CpioWriter
from sysqcache.setup.work import Work, alone, ignore, published, scratch
from sysqcache.spec.recipe import TinyRecipe, find

_MAPS = 'for d in /proc/[0-9]*; do echo "P ${d#/proc/}"; cat $d/maps 2>/dev/null; done'
_ONE_IN = 60
"""Of the kernel's functions, so many are compared: each is a line over a slow console."""

_SYMBOLS = "_start|_text|_stext|_etext|_sinittext|_einittext|modules|init_task"


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
    assert found.kernel.base == _image_start(symbols)
    assert found.kernel.init_text == (symbols["_sinittext"], symbols["_einittext"])
    _agree_on_modules(found, before, after)
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


def _agree_on_modules(found: GuestMap, before: Truth, after: Truth) -> None:
    """A guest that has just come up may still load drivers: those may be found or not."""
    ours = {(one.name, one.start, one.size) for one in found.modules}
    then, later = (
        {(name, *place) for name, place in told.modules.items()} for told in (before, after)
    )
    assert then & later, "the guest tells of no module"
    assert then & later <= ours, (then & later) - ours
    assert ours <= then | later, ours - (then | later)
    assert all(len(one.build_id) == 40 for one in found.modules)


def _image_start(symbols: dict[str, int]) -> int:
    """The kernel's first byte: a symbol of RISC-V, of x86-64, of arm64 with all symbols.

    Other arm64 kernels have none for the 64 KiB in front of their code.
    """
    known = symbols.get("_start") or symbols.get("_text")
    return known or symbols["_stext"] - (64 << 10)


@dataclasses.dataclass(frozen=True)
class Segment:
    """An executable part of a mapped file: its place in bytes, and what the guest says of it."""

    path: str
    inode: int
    offset: int
    size: int
    sha256: str


def segments(name: str, told: Truth) -> list[Segment]:
    """Executable file mappings of all processes, each read and summed by the guest."""
    wanted = {
        (one.path, one.inode, one.offset, one.end - one.start)
        for maps in told.maps.values()
        for one in maps
        if "x" in one.perms and one.inode and "(deleted)" not in one.path
    }
    calls = [
        f"h '{path}' {offset >> 12} {size >> 12}; " for path, _, offset, size in sorted(wanted)
    ]
    lines = [line for part in _chunks(calls) for line in in_guest(name, part).splitlines()]
    found = []
    for (path, inode, offset, size), line in zip(sorted(wanted), lines, strict=True):
        length, digest = line.split()[:2]
        found.append(Segment(path, inode, offset, min(size, int(length) - offset), digest))
    return found


def _chunks(calls: list[str]) -> Iterator[str]:
    """Commands of less than a serial line's 4095 bytes."""
    head = 'h() { echo $(stat -c %s "$1") $(dd if="$1" bs=4096 skip=$2 count=$3 | sha256sum); }; '
    text = head
    for call in calls:
        if len(text) + len(call) > 3500:
            yield f"{{ {text} }} 2>/dev/null"
            text = head
        text += call
    yield f"{{ {text} }} 2>/dev/null"


def segment_sha256(session: GuestSession, table: OwnerTable, segment: Segment) -> str:
    """The same sum over the pages of guest memory that the map gives to the file.

    Asserts that there is a page for each part: the guest has just read all of them.
    """
    data = bytearray((segment.size + 4095) & -4096)
    seen = np.zeros(len(data) >> 12, bool)
    owners = {
        number
        for number, one in enumerate(table.owners)
        if one.kind == OwnerKind.FILE and (one.name, one.inode) == (segment.path, segment.inode)
    }
    for row in np.flatnonzero(np.isin(table.owner, list(owners))).tolist():
        start, end = int(table.start[row]) << 12, int(table.end[row]) << 12
        place = int(table.offset[row]) - segment.offset
        # the part of the interval that lies in the segment
        skip, length = max(0, -place), min(end - start, len(data) - place)
        if skip < length:
            data[place + skip : place + length] = session.read_physical(start + skip, length - skip)
            seen[(place + skip) >> 12 : (place + length) >> 12] = True
    assert seen.all(), f"{segment.path} at {segment.offset:#x}: {(~seen).sum()} pages lack"
    return hashlib.sha256(data[: segment.size]).hexdigest()


def functions(name: str) -> dict[str, int]:
    """Addresses of some of the kernel's own functions, as /proc/kallsyms has them."""
    script = f"""awk '($2 == "t" || $2 == "T") && NF == 3 && NR % {_ONE_IN} == 0' /proc/kallsyms"""
    rows = [line.split() for line in in_guest(name, script).splitlines()]
    return {symbol: int(address, 16) for address, _, symbol in rows}


def functions_agree(session: GuestSession, told: dict[str, int]) -> int:
    """Assert that the kernel's symbols, read from outside, are where the guest says; how many.

    Names that several functions have are left out.
    """
    guest = open_guest(session)
    table = SymbolTable(guest.memory, guest.info)
    times = collections.Counter(name[1:].decode() for name in table._names())
    wanted = {name: address for name, address in told.items() if times[name] == 1}
    assert table.find(wanted) == wanted | {"_stext": table.find(())["_stext"]}
    kernel = kernel_info(guest)
    assert all(kernel.base <= address < kernel.end for address in wanted.values())
    return len(wanted)


def build_ids(name: str, modules: list[str]) -> dict[str, str]:
    """Build ids by the guest's own ELF notes: of its kernel (as "") and of modules."""
    files = {"": "/sys/kernel/notes"}
    files |= {one: f"/sys/module/{one}/notes/.note.gnu.build-id" for one in modules}
    script = "".join(f"echo $(base64 {file} | tr -d '\\n'); " for file in files.values())
    lines = in_guest(name, script).splitlines()
    return {
        one: notes_build_id(base64.b64decode(line)) for one, line in zip(files, lines, strict=True)
    }


_SWITCH = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/lib/modules/$module"; done < /lib/modules/order
while [ ! -b /dev/vda ]; do sleep 0.1; done
mount -t ext4 /dev/vda /root
umount /proc /sys
mount -o move /dev /root/dev
exec switch_root /root /sbin/init
"""
_IMAGE = find("tiny-x86_64")
_TINY = cast(TinyRecipe, _IMAGE.recipe)
_DEBIAN_MODULES = (
    *_TINY.modules, "virtio_console", "virtio_rng", "crc32c_generic", "ext4", "autofs4",
)  # fmt: skip


def trixie_guest() -> Path:
    """Directory with Debian 13's kernel, and ``initrd`` of the tiny guest with its modules.

    ``initrd-debian`` boots the root file system on /dev/vda instead. Built once; raises
    :class:`ImageBuildError` when there is no such archive.
    """
    target = paths.downloads_dir() / "test-trixie"
    with alone(paths.downloads_dir() / "test-trixie.lock", ignore):
        return target if target.exists() else _build_trixie(target)


def _build_trixie(target: Path) -> Path:
    archives = sources.for_release(sources.read_sources(), "trixie")
    if not archives:
        raise ImageBuildError("no archive of Debian 13 is configured")
    work = Work(paths.logs_dir() / "test-trixie.log", ImageBuildError)
    with scratch(paths.downloads_dir(), "trixie") as directory, published(target) as output:
        apt = PrivateApt(directory / "apt", archives, work)
        apt.update()
        names = apt.depends(_TINY.kernel)
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
        (output / "initrd").write_bytes(
            tiny._initrd(_IMAGE.files, _TINY.modules, unpacked, modules, {})
        )
        (output / "initrd-debian").write_bytes(_switch_root(unpacked, modules))
    return target


def _switch_root(unpacked: Path, modules: Path) -> bytes:
    """An initial RAM disk that only finds the root file system."""
    cpio = CpioWriter()
    for name in ("proc", "sys", "dev", "root"):
        cpio.directory(name)
    cpio.device("dev/console", 5, 1)
    cpio.file("bin/busybox", next(unpacked.glob("**/bin/busybox")).read_bytes(), 0o755)
    files = {path.stem.replace("-", "_"): path for path in modules.rglob("*.ko")}
    order = tiny.load_order(_DEBIAN_MODULES, files)
    for name in order:
        cpio.file(f"lib/modules/{name}.ko", files[name].read_bytes())
    cpio.file("lib/modules/order", "".join(f"{name}.ko\n" for name in order).encode())
    cpio.file("init", _SWITCH.encode(), 0o755)
    return cpio.getvalue()
