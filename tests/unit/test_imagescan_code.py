# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF files, packed data, initial RAM disks, kernels and their symbols."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lz4.block
import numpy as np
import pytest
import zstandard
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection
from imagescanhelp import TEXT, bzimage, cpio, packed_kernel, small_elf, tool

from sysqcache.attribution.imagescan import kernelfile, limits
from sysqcache.attribution.imagescan.codefile import Classifier
from sysqcache.attribution.imagescan.elfsymbols import file_functions, text_layout
from sysqcache.attribution.imagescan.initrd import read_archive
from sysqcache.attribution.imagescan.kallsyms import kernel_functions
from sysqcache.attribution.imagescan.kernelfile import read_kernel
from sysqcache.attribution.imagescan.kernelload import KernelFileError
from sysqcache.attribution.imagescan.symbols import SymbolTable, system_map
from sysqcache.attribution.imagescan.unpack import PackedDataError, unpack, unpack_until
from sysqcache.formats.access import FileAccess, MemoryAccess
from sysqcache.formats.elf import find_build_id, read_code
from sysqcache.formats.modules import ModuleKind

BINARIES = ["/bin/true", "/bin/bash", sys.executable, "/usr/bin/qemu-img"]


def host_files() -> list[Path]:
    """Programs and libraries of this host."""
    found = {Path(name).resolve() for name in BINARIES if Path(name).exists()}
    return sorted(found | set(Path("/usr/lib/x86_64-linux-gnu").glob("lib[a-d]*.so.?")))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing that was kept before is used."""
    monkeypatch.delenv("SYSQCACHE_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_code_and_build_ids_agree_with_pyelftools() -> None:
    files = host_files()
    assert files
    for path in files:
        code = read_code(FileAccess(path))
        assert code is not None
        with path.open("rb") as stream:
            elf = ELFFile(stream)
            notes = [s for s in elf.iter_sections() if isinstance(s, NoteSection)]
            ids = [
                n["n_desc"] for s in notes for n in s.iter_notes() if "BUILD_ID" in str(n["n_type"])
            ]
            assert code.build_id == (ids[0] if ids else "")
            loads = [s for s in elf.iter_segments("PT_LOAD") if s["p_flags"] & 1]
            wanted = [(s["p_offset"], s["p_filesz"], s["p_vaddr"]) for s in loads]
            assert [(s.offset, s.size, s.address) for s in code.segments] == wanted


def test_damaged_elf_files_are_no_code_or_other_code() -> None:
    whole = host_files()[0].read_bytes()
    chance = random.Random(5)
    for _ in range(300):
        content = bytearray(whole[: chance.choice((len(whole), 5000, 64, 70, 3))])
        for _ in range(chance.choice((1, 10))):
            content[chance.randrange(min(len(content), 1000))] = chance.randrange(256)
        blocks = MemoryAccess(bytes(content))
        code = read_code(blocks)
        assert code is None or all(s.offset + s.size <= len(content) for s in code.segments)
        for name, _, _ in ((n, o, s) for o, s, n in file_functions(blocks)):
            assert isinstance(name, str)


def test_a_file_without_build_id_is_named_by_its_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    elf = MemoryAccess(small_elf(b"\xc3" * 100))
    classifier = Classifier()
    file = classifier.code_file(elf, "/bin/x", "disk0:0", 5)
    assert file is not None
    assert file.module.id.startswith("sha256:")
    assert file.module.kind is ModuleKind.FILE
    monkeypatch.setattr(limits, "HASHED_BYTES", 4000)
    assert classifier.code_file(elf, "/bin/x", "disk0:0", 5) is None
    assert classifier.skipped == 1


def kernel_module(tmp_path: Path) -> Path:
    """An object file with notes and code sections as a kernel module has them."""
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    source = tmp_path / "m.c"
    source.write_text(
        """
        __attribute__((section(".text.unlikely"))) int cold(int a) { return a / 3; }
        int first(int a) { return a * 7; }
        int second(int a) { return a * first(a) + cold(a); }
        __attribute__((section(".init.text"))) int init_module(void) { return 0; }
        """
    )
    command = ["gcc", "-O1", "-c", "-o", str(tmp_path / "m.o"), str(source)]
    subprocess.run(command, check=True)
    module = tmp_path / "some-module.ko"
    command = ["ld", "-r", "--build-id=sha1", "-o", str(module), str(tmp_path / "m.o")]
    subprocess.run(command, check=True)
    return module


def test_kernel_modules_packed_and_not(tmp_path: Path) -> None:
    plain = kernel_module(tmp_path).read_bytes()
    packed = {
        ".ko": plain,
        ".ko.xz": lzma.compress(plain, check=lzma.CHECK_CRC32),
        ".ko.zst": zstandard.ZstdCompressor().compress(plain),
        ".ko.gz": gzip.compress(plain),
    }
    command = [tool("readelf"), "-n", str(tmp_path / "some-module.ko")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for suffix, content in packed.items():
        path = f"/lib/modules/6/some-module{suffix}"
        file = Classifier().code_file(MemoryAccess(content), path, "initrd", 7)
        assert file is not None
        assert file.module.kind is ModuleKind.KERNEL_MODULE
        assert file.module.name == "some_module"
        assert len(file.module.id) == 40
        assert file.module.id in said
    assert Classifier().code_file(MemoryAccess(plain), "/usr/lib/crt1.o", "initrd", 7) is None
    torn = packed[".ko.xz"][:200]
    assert Classifier().code_file(MemoryAccess(torn), "/a.ko.xz", "initrd", 7) is None


def test_where_the_kernel_puts_a_modules_code(tmp_path: Path) -> None:
    blocks = FileAccess(kernel_module(tmp_path))
    with (tmp_path / "some-module.ko").open("rb") as stream:
        elf = ELFFile(stream)
        names = [section.name for section in elf.iter_sections()]
        layout = {names[number]: offset for number, offset in text_layout(blocks).items()}
        sizes = {s.name: s["sh_size"] for s in elf.iter_sections()}
    assert layout.keys() == {".text", ".text.unlikely"}
    first = min(layout, key=layout.__getitem__)
    (other,) = layout.keys() - {first}
    assert layout[first] == 0
    assert layout[other] >= sizes[first]


def test_symbols_agree_with_nm() -> None:
    for path in host_files()[:4]:
        blocks = FileAccess(path)
        code = read_code(blocks)
        assert code is not None
        table = SymbolTable.of(file_functions(blocks))
        nm = [tool("nm"), "-D", "--defined-only", "--without-symbol-versions", str(path)]
        said = subprocess.run(nm, capture_output=True, text=True, check=True).stdout
        names: dict[int, set[str]] = {}
        for address, kind, name in (line.split() for line in said.splitlines()):
            if kind in "Ti":
                names.setdefault(int(address, 16), set()).add(name)
        for value, aliases in names.items():
            segment = next(s for s in code.segments if s.address <= value < s.address + s.size)
            assert table.lookup(value - segment.address + segment.offset) in aliases
        kept = SymbolTable.decode(table.encode())
        assert kept is not None
        assert kept.names == table.names
        assert (kept.offsets == table.offsets).all()


def test_lookup() -> None:
    table = SymbolTable.of([(64, 16, "two"), (16, 32, "__one"), (16, 32, "one"), (80, 0, "end")])
    found = [table.lookup(offset) for offset in (0, 15, 16, 34, 47, 48, 64, 65, 80, 81)]
    assert found == ["", "", "one", "one+0x12", "one+0x1f", "", "two", "two+0x1", "end", ""]
    assert SymbolTable.of([]).lookup(5) == ""


def legacy_lz4(data: bytes) -> bytes:
    pieces = (data[place : place + (8 << 20)] for place in range(0, len(data), 8 << 20))
    blocks = (lz4.block.compress(piece, store_size=False) for piece in pieces)
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(b)) + b for b in blocks)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
    "zstd without size": lambda data: b"".join(
        ((c := zstandard.ZstdCompressor().compressobj()).compress(data), c.flush())
    ),
    "lz4": legacy_lz4,
}


@pytest.mark.parametrize("name", PACKERS)
def test_unpacking(name: str) -> None:
    data = random.Random(6).randbytes(1000) * 12_000 + b"end"
    packed = PACKERS[name](data)
    assert unpack(packed + b"\xff" * 9) == (data, len(packed))
    with pytest.raises(PackedDataError, match=r"too much|damaged"):
        unpack(packed, len(data) - 1)
    if name != "lz4":  # which has no end mark
        with pytest.raises(PackedDataError):
            unpack(packed[:-5])
    chance = random.Random(8)
    for _ in range(20):
        damaged = bytearray(packed)
        damaged[chance.randrange(4, len(packed))] ^= 1 << chance.randrange(8)
        try:
            assert len(unpack(bytes(damaged), 20 << 20)[0]) <= 20 << 20
        except PackedDataError:
            continue


def test_a_small_file_that_becomes_huge() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(400 << 20))
    assert len(bomb) < 100_000
    with pytest.raises(PackedDataError, match="too much"):
        unpack(bomb, 64 << 20)
    assert unpack_until(io.BytesIO(bomb), find_build_id, 1 << 20) == ""


def test_an_initrd_of_several_archives() -> None:
    microcode = cpio({"kernel/x86/microcode/GenuineIntel.bin": b"micro" * 99})
    first = cpio({"./usr/bin/a": b"A" * 1000, "usr/bin/b": b"old"})
    second = cpio({"usr/bin/b": b"new"})
    data = microcode + bytes(512 - len(microcode) % 512 + 1024) + gzip.compress(first)
    for packer in PACKERS.values():
        archive = read_archive(data + bytes(3) + packer(second))
        assert not archive.notes
        found = {e.path: archive.content[e.offset : e.offset + e.size] for e in archive.entries}
        assert found == {
            "/kernel/x86/microcode/GenuineIntel.bin": b"micro" * 99,
            "/usr/bin/a": b"A" * 1000,
            "/usr/bin/b": b"new",
        }


def test_hostile_initrds(monkeypatch: pytest.MonkeyPatch) -> None:
    good = cpio({"a": b"x" * 500, "b": b"y"})
    chance = random.Random(9)
    for _ in range(300):
        data = bytearray(good[: chance.choice((len(good), 300, 109, 5))])
        for _ in range(chance.choice((1, 5))):
            data[chance.randrange(min(len(data), 110))] = chance.choice(b"0123456789abcdefF-_ \0")
        archive = read_archive(bytes(data))
        assert all(
            0 <= e.offset <= e.offset + e.size <= len(archive.content) for e in archive.entries
        )
    assert "unknown bytes" in read_archive(b"noise and more noise").notes[0]
    assert "unpacked" in read_archive(gzip.compress(good)[:-9]).notes[0]
    monkeypatch.setattr(limits, "ARCHIVE_BYTES", 100)
    assert "too much" in read_archive(gzip.compress(good)).notes[0]
    assert read_archive(b"").entries == ()


def kernel_code() -> bytearray:
    code = bytearray(random.Random(10).randbytes(8192))
    struct.pack_into("<Q", code, 0x101, TEXT + 0x123456)
    struct.pack_into("<I", code, 0x203, (TEXT + 0x55) & 0xFFFFFFFF)
    struct.pack_into("<i", code, 0x309, -0x1000)
    return code


@pytest.mark.parametrize("inverse", [True, False])
def test_a_kernel_as_it_lies_in_memory(own_cache: Path, inverse: bool) -> None:
    code = kernel_code()
    lists = [[0x101], [0x309], [0x203]] if inverse else [[0x101], [0x203]]
    kernel = read_kernel(packed_kernel(bytes(code), lists))
    assert (kernel.module.kind, kernel.module.id) == (ModuleKind.KERNEL, "42" * 20)
    assert kernel.module.name == "6.1.0-test"
    assert kernel.text_address == TEXT
    assert kernel.loaded(0).tobytes() == bytes(code) + bytes(64)
    slide = 0x1A000000
    struct.pack_into("<Q", code, 0x101, TEXT + 0x123456 + slide)
    struct.pack_into("<I", code, 0x203, (TEXT + 0x55 + slide) & 0xFFFFFFFF)
    if inverse:
        struct.pack_into("<i", code, 0x309, -0x1000 - slide)
    assert kernel.loaded(slide).tobytes() == bytes(code) + bytes(64)
    kept = list((own_cache / "sysqcache/scans/kernels").iterdir())
    assert len(kept) == 1


def test_a_kept_kernel_is_used_and_a_damaged_one_is_not(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = packed_kernel(bytes(kernel_code()), [[0x101], [0x203]])
    truth = read_kernel(file).loaded(0).tobytes()
    (kept,) = (own_cache / "sysqcache/scans/kernels").iterdir()
    content = bytearray(kept.read_bytes())
    content[5000] ^= 1
    kept.write_bytes(content)
    assert read_kernel(file).loaded(0).tobytes() == truth
    monkeypatch.setattr(kernelfile, "_payload", lambda _: pytest.fail("unpacked again"))
    assert read_kernel(file).loaded(0).tobytes() == truth
    kept.chmod(0o666)
    with pytest.raises(pytest.fail.Exception):
        read_kernel(file)


def test_hostile_kernels() -> None:
    good = small_elf(bytes(kernel_code()), b"\x42" * 20, kind=2, physical=0x1000000)
    good += struct.pack("<5I", 0, 0x81000101, 0, 0x81000203, 0x8100FFFF)
    with pytest.raises(KernelFileError, match="outside"):
        read_kernel(bzimage(gzip.compress(good))).loaded(0x200000)
    chance = random.Random(11)
    for _ in range(300):
        content = bytearray(good)
        for _ in range(chance.choice((1, 4))):
            content[chance.randrange(240)] = chance.randrange(256)
        kernel = read_kernel(bzimage(gzip.compress(bytes(content), 1)))
        try:
            assert len(kernel.loaded(0x200000)) <= limits.KERNEL_BYTES
        except KernelFileError:
            continue


def test_kernels_that_are_known_by_their_hash() -> None:
    files = {
        "not known": b"noise" * 300,
        "payload lies outside": bzimage(b"")[:-1],
        "can't be unpacked|damaged": bzimage(gzip.compress(b"x" * 9000)[:-20]),
        "no ELF": bzimage(gzip.compress(b"x" * 9000)),
    }
    for said, file in files.items():
        kernel = read_kernel(file)
        assert kernel.module.id.startswith("sha256:")
        assert any(part in kernel.note for part in said.split("|"))
        with pytest.raises(KernelFileError):
            kernel.loaded(0)


def test_kernels_that_no_map_is_made_of(own_cache: Path) -> None:
    """What runs of them is found in their own bytes: all of the file, or what it unpacks."""
    old = bytearray(bzimage(b"no payload", "Memtest86+ v6"))
    struct.pack_into("<H", old, 0x206, 0x207)
    unnamed = bytearray(bzimage(b"", "Memtest86+ v6"))
    unnamed[0x248:0x250] = bytes(8)
    multiboot = small_elf(b"code" * 99, b"\x11" * 20, kind=2)
    for file in (bytes(old), bytes(unnamed), multiboot):
        kernel = read_kernel(file)
        assert (kernel.module.kind, kernel.note) == (ModuleKind.KERNEL, "")
        assert kernel.code == file
    assert read_kernel(bytes(old)).module.name == "Memtest86+"
    assert read_kernel(multiboot).module.id == "11" * 20
    linux = small_elf(b"Linux version 6.1.0 ", b"\x22" * 20, kind=2, physical=0x1000000)
    assert not read_kernel(bzimage(gzip.compress(linux))).code
    # the same with 32 bits
    narrow = struct.pack(
        "<16sHHIIIIIHHHHHH", b"\x7fELF\x01\x01\x01", 2, 3, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0
    )
    narrow += struct.pack("<IIIIIIII", 1, 4096, 0xC1000000, 0x1000000, 20, 20, 5, 4096)
    narrow = narrow.ljust(4096, b"\0") + b"Linux version 6.1.0 "
    kernel = read_kernel(bzimage(gzip.compress(narrow)))
    assert (kernel.module.name, kernel.note) == ("6.1.0-test", "")
    assert kernel.code == narrow


def kallsyms(names: list[tuple[str, int]], behind: bool, at: int | None = None) -> bytes:
    """A symbol table as scripts/kallsyms.c writes it, without any merged letters but two.

    ``behind``: the order of parts since Linux 6.4. ``at``: as since Linux 7.0, at this place.
    """
    unit = 8 if at is None else 4
    tokens = [bytes([n]) if 32 < n < 127 else b"~%02x" % n for n in range(256)]
    tokens[1], tokens[2] = b"Tfun", b"_of_"
    packed, markers = b"", []
    for row, (name, _) in enumerate(names):
        if row % 256 == 0:
            markers.append(len(packed))
        raw = name.encode().replace(b"Tfun", b"\1").replace(b"_of_", b"\2")
        size = len(raw)
        packed += (bytes([size & 0x7F | 0x80, size >> 7]) if size > 127 else bytes([size])) + raw
    places = [sum(len(t) + 1 for t in tokens[:n]) for n in range(256)]

    def padded(part: bytes) -> bytes:
        return part + bytes(-len(part) % unit)

    offsets = padded(b"".join(struct.pack("<i", -1 - offset) for _, offset in names))
    base = struct.pack("<Q", TEXT)
    head = len(names).to_bytes(unit, "little") + padded(packed)
    head += padded(b"".join(struct.pack("<I", marker) for marker in markers))
    tail = padded(b"".join(t + b"\0" for t in tokens)) + struct.pack("<256H", *places)
    if at is not None:
        place = at + len(head) + len(tail)
        rows = [offset - place - 4 * row for row, (_, offset) in enumerate(names)]
        return head + tail + struct.pack(f"<{len(rows)}i", *rows) + bytes(3 * len(names))
    if behind:
        return head + tail + offsets + base + bytes(3 * len(names))
    return (
        offsets
        + base
        + head
        + padded(bytes(range(256)) * (3 * len(names) // 256 + 1))[: -(-3 * len(names) // 8) * 8]
        + tail
    )


@pytest.mark.parametrize(("behind", "since_7_0"), [(False, False), (True, False), (True, True)])
def test_a_kernels_own_symbols(behind: bool, since_7_0: bool) -> None:
    names = [("T_text", 0), ("Dsome_data", 0x1200)]
    names += [(f"tfun_of_{n}_" + "x" * (n % 150), 16 * n + 32) for n in range(900)]
    code = bytes(kernel_code()) + b"\xcc" * 8192
    code += kallsyms(names, behind, len(code) if since_7_0 else None)
    code = code.ljust(-(-len(code) // 4096) * 4096, b"\0")
    kernel = read_kernel(packed_kernel(code, [[0x101], [0x203]]))
    found = kernel_functions(kernel)
    assert [(name, offset) for offset, _, name in found] == [
        (name[1:], offset) for name, offset in names if name[0] in "tT"
    ]
    without = read_kernel(packed_kernel(bytes(kernel_code()), [[0x101], [0x203]]))
    assert kernel_functions(without) == []


def test_damaged_symbol_tables() -> None:
    names = [("T_text", 0)] + [(f"tfun_of_{n}", 16 * n + 32) for n in range(900)]
    table = kallsyms(names, behind=True)
    chance = random.Random(12)
    for _ in range(40):
        content = bytearray(table)
        for _ in range(3):
            content[chance.randrange(len(content))] = chance.randrange(256)
        code = bytes(kernel_code()) + bytes(content)
        found = kernel_functions(read_kernel(packed_kernel(code, [[0x101], [0x203]])))
        assert len(found) <= len(names)


def test_system_map() -> None:
    lines = [f"{TEXT + 16 * n:016x} t f{n}" for n in range(200)]
    text = "\n".join([f"{TEXT:016x} T _text", *lines, f"{TEXT - 99:016x} t low"]).encode()
    found = system_map(text)
    assert found[0] == (0, 0, "_text")
    assert (32, 0, "f2") in found
    assert "low" not in [name for _, _, name in found]
    assert system_map(b"ffffffffffffffff B The real System.map is elsewhere\n") == []
    assert np.all(np.diff(SymbolTable.of(found).offsets) > 0)
