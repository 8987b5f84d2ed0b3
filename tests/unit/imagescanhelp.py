# SPDX-License-Identifier: GPL-2.0-or-later
"""Images and kernels made for tests: small, and with everything that a real one has."""

from __future__ import annotations

import gzip
import shutil
import struct
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from sysqcache.base.errors import SetupError
from sysqcache.spec.engines import any_qemu_img
from sysqcache.spec.resolve import load
from sysqcache.spec.spec import MachineSpec

SECTOR = 512
MIB = 1 << 20
TEXT = 0xFFFFFFFF81000000


def tool(name: str) -> str:
    """A program of the host; skips the test when it is not installed."""
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def _find_qemu_img() -> Path | None:
    try:
        return any_qemu_img()
    except SetupError:
        return None


# before a test sets a cache directory of its own, where no engine is
_QEMU_IMG = _find_qemu_img()


def qemu_img(*command: str | Path) -> Path:
    """The engine's qemu-img, after it ran a command; skips the test when there is none."""
    if _QEMU_IMG is None:
        pytest.skip("there is no qemu-img: sysqcache engine build")
    if command:
        subprocess.run([_QEMU_IMG, *command], check=True, capture_output=True)
    return _QEMU_IMG


def make_ext(image: Path, tree: Path, kind: str = "ext4", *options: str) -> Path:
    """A file system of 32 MiB with the files of ``tree``."""
    command = [tool(f"mkfs.{kind}"), "-q", "-F", *options, "-d", str(tree), str(image), "32M"]
    subprocess.run(command, check=True, capture_output=True)
    return image


def debugfs(image: Path, *requests: str, write: bool = False) -> str:
    """The output of e2fsprogs' own reader."""
    option = ["-w"] if write else []
    text = "\n".join(requests)
    command = [tool("debugfs"), *option, "-f", "-", str(image)]
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=True)
    return done.stdout


def with_gpt(disk: Path, parts: Sequence[Path], *, spare: bool = False) -> Path:
    """A disk with a GPT and these partitions; ``spare``: only its second table is left."""
    starts, place = [], MIB
    for part in parts:
        starts.append(place)
        place += -(-part.stat().st_size // MIB) * MIB
    entries = b"".join(
        struct.pack(
            "<16s16sQQQ72s",
            uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4").bytes_le,
            uuid.uuid4().bytes_le,
            start // SECTOR,
            (start + part.stat().st_size) // SECTOR - 1,
            0,
            "linux".encode("utf-16-le"),
        )
        for part, start in zip(parts, starts, strict=True)
    ).ljust(128 * 128, b"\0")
    end = (place + MIB) // SECTOR
    with disk.open("wb") as file:
        file.truncate(end * SECTOR)
        for part, start in zip(parts, starts, strict=True):
            file.seek(start)
            file.write(part.read_bytes())
        for here, table in ((1, 2), (end - 1, end - 33)):
            if spare and here == 1:
                continue
            fields = (b"EFI PART", 0x10000, 92, 0, 0, here, end - here, 34, end - 34)
            header = struct.pack("<8sIIIIQQQQ16sQIII", *fields, b"", table, 128, 128, 0)
            file.seek(here * SECTOR)
            file.write(header)
            file.seek(table * SECTOR)
            file.write(entries)
        file.seek(446)
        file.write(struct.pack("<B3sB3sII", 0, b"", 0xEE, b"", 1, end - 1))
        file.seek(510)
        file.write(b"\x55\xaa")
    return disk


def cpio(files: Mapping[str, bytes], mode: int = 0o100755) -> bytes:
    """An archive in the format of initial RAM disks."""
    out = b""
    for number, (name, data) in enumerate([*files.items(), ("TRAILER!!!", b"")]):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return out


def machine(tmp_path: Path, **fields: str) -> MachineSpec:
    """A machine by the real reader of vm.yaml; values are YAML."""
    file = tmp_path / "vm.yaml"
    lines = ["name: scanned", "arch: x86_64", "memory: 256MiB"]
    lines += [f"{key}: {value}" for key, value in fields.items()]
    file.write_text("\n".join(lines))
    return load(file)


def note(build_id: bytes) -> bytes:
    """An ELF note with a build id."""
    return struct.pack("<III4s", 4, len(build_id), 3, b"GNU\0") + build_id


def small_elf(code: bytes, build_id: bytes = b"", *, kind: int = 3, physical: int = 0) -> bytes:
    """An ELF file with one executable segment at 4096 of the file, and a note."""
    notes = note(build_id) if build_id else b""
    address = TEXT if physical else 4096
    size = len(code)
    loads = struct.pack("<IIQQQQQQ", 1, 5, 4096, address, physical, size, size + 64, 4096)
    noted = struct.pack("<IIQQQQQQ", 4, 4, 256, 0, 0, len(notes), len(notes), 4)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", kind, 62, 1, 0, 64, 0, 0, 64, 56, 2, 64, 0, 0
    )
    return ((header + loads + noted).ljust(256, b"\0") + notes).ljust(4096, b"\0") + code


def bzimage(payload: bytes, release: str = "6.1.0-test") -> bytes:
    """A kernel file with a boot header; ``payload`` is packed already."""
    setup = bytearray(2 * SECTOR)
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, 0x20F)
    struct.pack_into("<H", setup, 0x20E, 0x300 - 0x200)
    struct.pack_into("<II", setup, 0x248, 0x40, len(payload))
    text = f"{release} (someone@somewhere) #1".encode()
    setup[0x300 : 0x300 + len(text)] = text
    return bytes(setup) + b"stub".ljust(0x40, b"\xcc") + payload


def packed_kernel(
    code: bytes, relocations: Sequence[Sequence[int]], build_id: bytes = b"\x42" * 20
) -> bytes:
    """A kernel file whose lists of relocations hold offsets from ``_text``."""
    vmlinux = small_elf(code, build_id, kind=2, physical=0x1000000)
    for part in relocations:
        low = [(TEXT + offset) & 0xFFFFFFFF for offset in part]
        vmlinux += struct.pack(f"<{len(low) + 1}I", 0, *low)
    return bzimage(gzip.compress(vmlinux, 1))


def unified_kernel(kernel: bytes) -> bytes:
    """An EFI program with a kernel in it, as ukify makes them: headers, a stub, the kernel."""
    sections = [(b".text", b"\x90" * 512), (b".cmdline", b"quiet"), (b".linux", kernel)]
    head = 0x80
    place = SECTOR * 2
    table, content = b"", b""
    for number, (name, data) in enumerate(sections, 1):
        padded = data.ljust(-(-len(data) // SECTOR) * SECTOR, b"\0")
        fields = (name, len(data), number << 24, len(padded), place)
        table += struct.pack("<8sIIII16x", *fields)
        place += len(padded)
        content += padded
    pe = b"PE\0\0" + struct.pack("<HH12xHH", 0x8664, len(sections), 112, 0x22E) + bytes(112)
    start = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", head)
    return (start.ljust(head, b"\0") + pe + table).ljust(SECTOR * 2, b"\0") + content
