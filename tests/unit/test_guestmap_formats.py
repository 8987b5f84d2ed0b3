# SPDX-License-Identifier: GPL-2.0-or-later
"""What is parsed of a guest: BTF, VMCOREINFO, ELF headers, QEMU's view of memory."""

from __future__ import annotations

import contextlib
import random
import shutil
import struct
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from guestmaphelp import BtfBuilder, FakeMemory, fake_guest, virtual

from sysqcache.formats.elf import Reader, notes_build_id, program_build_id
from sysqcache.guestmap import limits
from sysqcache.guestmap.btf import Btf, BtfError, Kind
from sysqcache.guestmap.flatview import parse_flat_views
from sysqcache.guestmap.kallsyms import SymbolTable
from sysqcache.guestmap.layout import KernelLayout
from sysqcache.guestmap.memory import PAGE, UnreadableError
from sysqcache.guestmap.vmcoreinfo import VmcoreInfo, find_notes


def small_btf() -> BtfBuilder:
    btf = BtfBuilder()
    u64, char = btf.integer("long unsigned int", 8), btf.integer("char", 1)
    name = btf.array(char, 16)
    link = btf.compound(
        "list_head", 16, [("next", btf.pointer(0), 0), ("prev", btf.pointer(0), 64)]
    )
    inner = btf.compound("", 16, [("mapping", u64, 0), ("index", u64, 64)])
    union = btf.compound("", 16, [("", inner, 0), ("compound_head", u64, 0)], kind=5)
    alias = btf.add(8, "flags_t", u64)
    const = btf.add(10, "", alias)
    btf.compound("page", 64, [("flags", const, 0), ("", union, 64), ("_refcount", u64, 52 * 8)])
    btf.compound("task_struct", 64, [("tasks", link, 128), ("comm", name, 256)])
    btf.enum("pageflags", {"PG_locked": 0, "PG_reserved": 12, "PG_slab": 9})
    btf.enum("signed", {"MINUS": -5})
    return btf


def test_members_through_anonymous_structs_and_typedefs() -> None:
    btf = Btf(small_btf().data())
    page = btf.struct("page")
    assert page is not None
    assert btf.member(page, "flags") == (0, 8)
    assert btf.member(page, "mapping") == (8, 8)
    assert btf.member(page, "index") == (16, 8)
    assert btf.member(page, "compound_head") == (8, 8)
    assert btf.member(page, "nothing") is None
    assert btf.member(page, "flags.nothing") is None
    task = btf.struct("task_struct")
    assert task is not None
    assert btf.member(task, "tasks.prev") == (24, 8)
    assert btf.member(task, "comm") == (32, 16)
    assert btf.struct("nothing") is None


def test_enumerators() -> None:
    btf = Btf(small_btf().data())
    signed = btf.find(Kind.ENUM, "signed")
    assert signed is not None
    assert list(btf.enumerators(signed)) == [("MINUS", -5)]
    builder = small_btf()
    rows = struct.pack("<III", builder.name("BIG"), 1, 2)
    builder.add(19, "wide", 8, rows, vlen=1)
    wide = Btf(builder.data()).find(Kind.ENUM64, "wide")
    assert wide is not None
    assert list(Btf(builder.data()).enumerators(wide)) == [("BIG", 2 << 32 | 1)]


def test_layout_leaves_out_what_a_kernel_lacks() -> None:
    layout = KernelLayout.from_btf(Btf(small_btf().data()))
    assert layout.offsets["page.mapping"] == 8
    assert layout.sizes["page"] == 64
    assert layout.sizes["task_struct.comm"] == 16
    assert layout.enums == {"PG_reserved": 12, "PG_slab": 9}
    assert not layout.has("module.mem")


def test_renamed_members_keep_their_name_here() -> None:
    btf = BtfBuilder()
    u64 = btf.integer("long unsigned int", 8)
    btf.compound("page", 64, [("compound_info", u64, 64), ("__folio_index", u64, 256)])
    union = btf.compound("", 16, [("d_alias", u64, 0)], kind=5)
    btf.compound("dentry", 64, [("", union, 128)])
    layout = KernelLayout.from_btf(Btf(btf.data()))
    assert dict(layout.offsets) == {
        "page.compound_head": 8, "page.index": 32, "dentry.d_alias": 16,
    }  # fmt: skip


def test_typedefs_and_structs_in_a_circle_end() -> None:
    builder = BtfBuilder()
    builder.add(8, "a", 2)
    builder.add(8, "b", 1)
    btf = Btf(builder.data())
    with pytest.raises(BtfError, match="circle"):
        btf.strip(1)
    builder = BtfBuilder()
    builder.compound("page", 8, [("", 1, 0)])
    with pytest.raises(BtfError, match="deep"):
        KernelLayout.from_btf(Btf(builder.data()))
    builder = BtfBuilder()
    builder.array(1, 2)
    with pytest.raises(BtfError, match="circle"):
        Btf(builder.data()).size(1)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x9f\xeb", bytes(64), small_btf().data()[:-3], small_btf().data()[:60]],
)
def test_what_is_no_btf(data: bytes) -> None:
    with pytest.raises(BtfError):
        Btf(data)


def test_damaged_btf_raises_nothing_else() -> None:
    good = small_btf().data()
    choose = random.Random(1)
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(choose.randint(1, 6)):
            data[choose.randrange(len(data))] = choose.randrange(256)
        try:
            KernelLayout.from_btf(Btf(bytes(data)))
        except BtfError:
            continue


VMCORE = b"""OSRELEASE=6.1.0-1-amd64
BUILD-ID=3B43FAD5034874490492495d552c0af6a5fab235
SYMBOL(_stext)=ffffffff85c00000
NUMBER(phys_base)=576716800
NUMBER(broken)=what
OFFSET(uts_namespace.name)=0
KERNELOFFSET=4c00000
not a line
"""


def test_vmcoreinfo() -> None:
    info = VmcoreInfo.parse(VMCORE + b"\0SYMBOL(behind)=1")
    assert info.release == "6.1.0-1-amd64"
    assert info.build_id == "3b43fad5034874490492495d552c0af6a5fab235"
    assert info.kaslr_offset == 0x4C00000
    assert info.symbols == {"_stext": 0xFFFFFFFF85C00000}
    assert info.numbers == {"phys_base": 576716800, "broken": 0}
    assert VmcoreInfo.parse(b"BUILD-ID=../../etc/passwd\n").build_id == ""
    assert VmcoreInfo.parse(random.Random(2).randbytes(70_000)).symbols == {}
    assert not info.is_narrow
    assert not VmcoreInfo.parse(b"OSRELEASE=6.1.0\n").is_narrow
    assert VmcoreInfo.parse(b"OSRELEASE=6.1.0-686\nSYMBOL(_stext)=c1000000\n").is_narrow


def note(text: bytes) -> bytes:
    return struct.pack("<III", 11, len(text), 0) + b"VMCOREINFO\0\0" + text


def test_notes_are_found_at_page_starts() -> None:
    memory = FakeMemory()
    for page in range(2048):
        memory.pages[page * PAGE] = bytearray(PAGE)
    memory.write(5 * PAGE, note(b"old"))
    memory.write(7 * PAGE + 16, note(b"not at a start"))
    memory.write(1500 * PAGE, note(b"new"))
    memory.write(9 * PAGE, struct.pack("<III", 11, 1 << 31, 0) + b"VMCOREINFO\0\0")
    assert list(find_notes(memory, [(0, 2048 * PAGE)])) == [b"old", b"new"]
    assert list(find_notes(memory, [(6 * PAGE, 2048 * PAGE)])) == [b"new"]


def build_id(read: Reader) -> str:
    return program_build_id(read, limits.ELF_PROGRAM_HEADERS, limits.ELF_NOTE_BYTES)


def test_build_id_of_a_real_file() -> None:
    program = shutil.which("true")
    assert program is not None
    data = Path(program).resolve().read_bytes()
    with Path(program).resolve().open("rb") as stream:
        section = ELFFile(stream).get_section_by_name(".note.gnu.build-id")
        assert section is not None
        wanted = section.data()[-20:].hex()
    assert build_id(lambda offset, size: data[offset : offset + size]) == wanted
    # only the first page is in memory
    assert build_id(lambda offset, size: data[offset : offset + size] if offset < PAGE else None)


def test_hostile_elf_files_have_no_build_id() -> None:
    program = shutil.which("true")
    assert program is not None
    good = Path(program).resolve().read_bytes()[:PAGE]
    choose = random.Random(3)
    asked = []

    def reader(data: bytes) -> Reader:
        def read(offset: int, size: int) -> bytes | None:
            asked.append(size)
            return data[offset : offset + size] if offset < len(data) else None

        return read

    for _ in range(2000):
        data = bytearray(good)
        for _ in range(8):
            data[choose.randrange(1024)] = choose.randrange(256)
        build_id(reader(bytes(data)))
    assert max(asked) <= limits.ELF_NOTE_BYTES
    assert notes_build_id(struct.pack("<III", 0xFFFFFFFF, 0xFFFFFFFF, 3) * 4) == ""
    assert notes_build_id(struct.pack("<III4s", 4, 1000, 3, b"GNU\0")) == ""


def test_flat_view() -> None:
    text = (
        "FlatView #0\r\n AS \"I/O\", root: io\r\n"
        "  0000000000000000-0000000000000007 (prio 0, ram): x\r\n\r\n"
        "FlatView #1\r\n AS \"memory\", root: system\r\n AS \"cpu-memory-0\", root: system\r\n"
        " Root memory region: system\r\n"
        "  0000000000000000-00000000000bffff (prio 0, ram): pc.ram\r\n"
        "  00000000000c0000-00000000000fffff (prio 1, rom): pc.ram @00000000000c0000\r\n"
        "  00000000febf0000-00000000febf0fff (prio 0, i/o): virtio\r\n"
        "  00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios\r\n"
    )  # fmt: skip
    ranges = parse_flat_views(text)
    assert [(one.start, one.end, one.rom, one.name) for one in ranges] == [
        (0, 0xC0000, False, "pc.ram"),
        (0xC0000, 0x100000, True, "pc.ram"),
        (0xFFFC0000, 0x100000000, True, "pc.bios"),
    ]
    assert parse_flat_views("what") == ()


def symbol_table(
    names: dict[str, int], *, percpu: bool = True, own_place: bool = False
) -> tuple[FakeMemory, VmcoreInfo]:
    """A table whose tokens are single characters, and "kernel" as character 200."""
    memory, text, base = FakeMemory(), b"", 0xFFFFFFFF81000000
    pieces = [bytes([i]) if 0 < i < 128 else b"?" for i in range(256)]
    pieces[200] = b"kernel"
    at = {"kallsyms_num_syms": 0x1000, "kallsyms_relative_base": 0x1008,
          "kallsyms_offsets": 0x2000, "kallsyms_names": 0x10000,
          "kallsyms_token_table": 0x20000, "kallsyms_token_index": 0x30000}  # fmt: skip
    offsets: list[int] = []
    for name, address in names.items():
        packed = b"T" + name.encode().replace(b"kernel", bytes([200]))
        long = bytes([len(packed) & 0x7F | 0x80, len(packed) >> 7])
        text += (bytes([len(packed)]) if len(packed) < 128 else long) + packed
        if own_place:
            offsets.append(address - virtual(at["kallsyms_offsets"]) - 4 * len(offsets))
        else:
            offsets.append(base - 1 - address if percpu else address - base)
    memory.write(at["kallsyms_num_syms"], struct.pack("<I", len(names)))
    memory.u64(at["kallsyms_relative_base"], base)
    memory.write(at["kallsyms_offsets"], struct.pack(f"<{len(names)}i", *offsets))
    memory.write(at["kallsyms_names"], text)
    for page in range(0x10000, 0x22000, PAGE):
        memory.pages.setdefault(page, bytearray(PAGE))
    place = 0
    for i, piece in enumerate(pieces):
        memory.write(at["kallsyms_token_table"] + place, piece + b"\0")
        memory.write(at["kallsyms_token_index"] + 2 * i, struct.pack("<H", place))
        place += len(piece) + 1
    symbols = {name: virtual(address) for name, address in at.items()}
    symbols["_stext"] = names["_stext"]
    if own_place:
        del symbols["kallsyms_relative_base"]
    return memory, VmcoreInfo("6.1.0", "", 0, symbols, {}, {}, b"")


NAMES = {
    "_stext": 0xFFFFFFFF81000000,
    "x" * 150: 0xFFFFFFFF81000800,
    "kernel_thread": 0xFFFFFFFF81001000,
    "modules": 0xFFFFFFFF82001000,
}


@pytest.mark.parametrize("percpu", [True, False])
def test_symbols(percpu: bool) -> None:
    memory, info = symbol_table(NAMES, percpu=percpu)
    table = SymbolTable(fake_guest(memory).memory, info)
    assert table.find(["kernel_thread", "modules", "x" * 150, "nothing"]) == NAMES


def test_symbols_whose_offsets_count_from_their_own_place() -> None:
    near = {name: virtual(0x2000) + 0x1000 * row for row, name in enumerate(NAMES)}
    memory, info = symbol_table(near, own_place=True)
    table = SymbolTable(fake_guest(memory).memory, info)
    assert table.find(["kernel_thread", "modules", "x" * 150, "nothing"]) == near


def test_damaged_symbol_tables() -> None:
    choose = random.Random(4)
    for _ in range(300):
        memory, info = symbol_table(NAMES)
        for _ in range(4):
            place = choose.choice([0x1000, 0x1008, 0x2000, 0x10000, 0x20000, 0x30000])
            memory.write(place + choose.randrange(64), bytes([choose.randrange(256)]))
        with contextlib.suppress(UnreadableError, IndexError):
            SymbolTable(fake_guest(memory).memory, info).find(["modules"])
    memory, info = symbol_table(NAMES)
    memory.write(0x1000, b"\xff\xff\xff\xff")
    with pytest.raises(UnreadableError, match="no sensible size"):
        SymbolTable(fake_guest(memory).memory, info)
    bare = VmcoreInfo("5.10.0", "", 0, {}, {}, {}, b"")
    with pytest.raises(UnreadableError, match="VMCOREINFO"):
        SymbolTable(fake_guest(memory).memory, bare)
