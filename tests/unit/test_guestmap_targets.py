# SPDX-License-Identifier: GPL-2.0-or-later
"""Page tables and address spaces of each architecture, from tables made by hand."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable

import pytest
from guestmaphelp import FakeMemory, fake_x86

from sysqcache.guestmap import memory as memory_module
from sysqcache.guestmap.arm64 import arm64_space, decoder
from sysqcache.guestmap.memory import Budget, ExhaustedError, GuestMemory, UnreadableError
from sysqcache.guestmap.pagetable import ADDRESSES, Decoder, Entry, MappedPage, PageTables
from sysqcache.guestmap.riscv import decode as riscv_decode
from sysqcache.guestmap.riscv import riscv_space
from sysqcache.guestmap.targets import SPACES, address_space
from sysqcache.guestmap.vmcoreinfo import VmcoreInfo
from sysqcache.guestmap.x86 import decode as x86_decode

ROOT = 0x1_0000
Encoder = Callable[[int, bool, bool, int], int]
"""``encode(address, leaf, executable, level)``."""


@dataclasses.dataclass(frozen=True)
class Format:
    """One format, and the highest physical address that it can name."""

    name: str
    bits: int
    page_bits: int
    physical_bits: int
    decode: Decoder
    encode: Encoder
    largest: int
    """The highest level on which memory may be mapped."""

    def tables(self, root: int = ROOT) -> PageTables:
        return PageTables(root, self.bits, self.decode, self.page_bits)


def x86_entry(address: int, leaf: bool, executable: bool, level: int) -> int:
    large = 1 << 7 if leaf and level else 0
    return address | 0x23 | large | (0 if executable else 1 << 63)


def arm64_entry(page_bits: int, bits: int) -> Encoder:
    """As pgtable-hwdef.h has it, but for attributes, all of which are set."""

    def encode(address: int, leaf: bool, executable: bool, level: int) -> int:
        low = 3 if not leaf or level == 0 else 1
        # access, shareability; user never executes; contiguous and dirty are hints
        attributes = (1 << 10 | 1 << 54 | 1 << 52 | 1 << 51) if leaf else 0
        no_execute = 0 if executable else 1 << (53 if leaf else 59)
        if page_bits == 16:
            address = address & ((1 << 48) - 1) | (address >> 48) << 12
        elif bits > 48:
            address = address & ((1 << 50) - 1) | (address >> 50) << 8
        else:
            attributes |= 3 << 8 if leaf else 0
        return address | attributes | low | no_execute

    return encode


def riscv_entry(address: int, leaf: bool, executable: bool, level: int) -> int:
    permissions = (0xC3 | 4 | (8 if executable else 0)) if leaf else 1
    # memory types of Svpbmt are no part of the address
    return address >> 12 << 10 | permissions | (1 << 61 if leaf else 0)


def _arm64(page_bits: int, bits: int, physical: int, largest: int) -> Format:
    name = f"arm64 {1 << page_bits - 10}K, {bits} bits"
    encode = arm64_entry(page_bits, bits)
    return Format(name, bits, page_bits, physical, decoder(page_bits, bits), encode, largest)


FORMATS = (
    Format("x86-64, 4 levels", 48, 12, 52, x86_decode, x86_entry, 2),
    Format("x86-64, 5 levels", 57, 12, 52, x86_decode, x86_entry, 2),
    _arm64(12, 39, 48, 2),
    _arm64(12, 48, 48, 2),
    _arm64(12, 52, 52, 3),
    _arm64(14, 36, 48, 1),
    _arm64(14, 47, 48, 1),
    _arm64(14, 48, 48, 1),
    _arm64(14, 52, 52, 2),
    _arm64(16, 42, 48, 1),
    _arm64(16, 48, 48, 1),
    _arm64(16, 52, 52, 2),
    Format("Sv39", 39, 12, 56, riscv_decode, riscv_entry, 2),
    Format("Sv48", 48, 12, 56, riscv_decode, riscv_entry, 3),
    Format("Sv57", 57, 12, 56, riscv_decode, riscv_entry, 4),
)

formats = pytest.mark.parametrize("form", FORMATS, ids=[one.name for one in FORMATS])


class Tables:
    """Page tables in the making."""

    def __init__(self, form: Format) -> None:
        self.form = form
        self.memory = FakeMemory()
        self._next = ROOT + (1 << form.page_bits)
        self.table(ROOT)

    def table(self, address: int) -> int:
        self.memory.write(address, bytes(1 << self.form.page_bits))
        return address

    def map(self, page: MappedPage, *, executable_tables: bool = True) -> None:
        """Enter a page, with the tables that it needs."""
        form, table = self.form, ROOT
        step = form.page_bits - 3
        level = -(-(form.bits - form.page_bits) // step) - 1
        while True:
            shift = form.page_bits + level * step
            # bits above those of the format are all ones, and have no place in the table
            index = (page.virtual & ((1 << form.bits) - 1)) >> shift & ((1 << step) - 1)
            place = table + 8 * index
            if 1 << shift == page.size:
                entry = form.encode(page.physical, True, page.executable, level)
                self.memory.u64(place, entry)
                return
            known = form.decode(
                int.from_bytes(self.memory.read_physical(place, 8), "little"), level
            )
            if known is None:
                below = self.table(self._next)
                self._next += 1 << form.page_bits
                self.memory.u64(place, form.encode(below, False, executable_tables, level))
                table = below
            else:
                table = known.address
            level -= 1


def some_pages(form: Format, seed: int) -> list[MappedPage]:
    """Pages of all sizes all over the upper half, none of which lie in another."""
    choose = random.Random(seed)
    step = form.page_bits - 3
    found: list[MappedPage] = []
    for _ in range(40):
        size = 1 << (form.page_bits + step * choose.randint(0, form.largest))
        room = 1 << form.bits - 1
        if size >= room:
            continue
        virtual = ADDRESSES - room + choose.randrange(room // size) * size
        physical = choose.randrange((1 << form.physical_bits) // size) * size
        if all(virtual + size <= one.virtual or virtual >= one.virtual + one.size for one in found):
            found.append(MappedPage(virtual, physical, size, bool(choose.randint(0, 1))))
    return sorted(found, key=lambda one: one.virtual)


@formats
@pytest.mark.parametrize("seed", range(3))
def test_what_was_mapped_is_found(form: Format, seed: int) -> None:
    made, pages = Tables(form), some_pages(form, seed)
    for page in pages:
        made.map(page)
    tables, read = form.tables(), made.memory.read_physical
    assert list(tables.sweep(0, ADDRESSES, read)) == pages
    for page in pages:
        for inside in (0, 8, page.size - 1):
            assert tables.physical(page.virtual + inside, read) == page.physical + inside
    # a part of it all
    start, end = pages[3].virtual, pages[-3].virtual + 1
    assert list(tables.sweep(start, end, read)) == pages[3:-2]
    assert next(tables.sweep(pages[0].virtual + pages[0].size - 1, end, read)) == pages[0]
    assert list(tables.sweep(end, start, read)) == []


@formats
def test_addresses_of_nothing(form: Format) -> None:
    made = Tables(form)
    page = MappedPage(ADDRESSES - (1 << form.page_bits), 0x10_0000, 1 << form.page_bits, True)
    made.map(page)
    tables, read = form.tables(), made.memory.read_physical
    nowhere = (0, 0x1000, -1, 1 << 64, 1 << 70, ADDRESSES - (1 << form.bits) - 1, page.virtual - 1)
    for address in nowhere:
        with pytest.raises(UnreadableError):
            tables.physical(address, read)
    assert tables.physical(page.virtual, read) == 0x10_0000
    with pytest.raises(UnreadableError):
        form.tables(1 << 40).physical(page.virtual, read)
    assert list(form.tables(1 << 40).sweep(0, ADDRESSES, read)) == []


@formats
def test_tables_that_hold_themselves_cost_what_a_map_may_cost(
    form: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "_CHECK_EVERY", 16)
    memory = FakeMemory()
    entry = form.encode(ROOT, False, True, 1)
    memory.u64(ROOT, *([entry] * (1 << form.page_bits - 3)))
    for budget, most in ((Budget(seconds=-1.0), 16), (Budget(math.inf, reads=100), 112)):
        guest, reads = GuestMemory(memory, budget=budget), 0

        def read(address: int, size: int, guest: GuestMemory = guest) -> bytes:
            nonlocal reads
            reads += 1
            return guest.physical(address, size)

        with pytest.raises(ExhaustedError):
            for _ in form.tables().sweep(0, ADDRESSES, read):
                pass
        assert reads <= most


@formats
def test_any_entries_raise_nothing_else(form: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "_CHECK_EVERY", 16)
    choose = random.Random(5)
    memory = FakeMemory()
    for table in range(ROOT, ROOT + (8 << form.page_bits), 1 << form.page_bits):
        entries = [
            choose.choice((choose.getrandbits(64), form.encode(ROOT, False, True, 1), 0))
            for _ in range(1 << form.page_bits - 3)
        ]
        memory.u64(table, *entries)
    guest = GuestMemory(memory, budget=Budget(seconds=0.1))
    try:
        for mapped in form.tables().sweep(0, ADDRESSES, guest.physical):
            assert 0 <= mapped.physical < 1 << 56
    except ExhaustedError:
        pass
    for _ in range(500):
        try:
            form.tables().physical(choose.getrandbits(64), memory.read_physical)
        except UnreadableError:
            continue


def test_arm64_tables_forbid_for_all_below() -> None:
    form = next(one for one in FORMATS if one.name == "arm64 4K, 48 bits")
    made = Tables(form)
    page = MappedPage(ADDRESSES - 4096, 0x5000, 4096, True)
    made.map(page, executable_tables=False)
    [found] = form.tables().sweep(0, ADDRESSES, made.memory.read_physical)
    assert found == dataclasses.replace(page, executable=False)


def test_arm64_entries_that_are_none() -> None:
    decode = decoder(12, 48)
    assert decode(0x5000, 3) is None
    # on the lowest level the form of a block is reserved
    assert decode(0x5001, 0) is None
    assert decode(0x5003, 0) == Entry(0x5000, True, True)
    assert decode(0x20_0001, 1) == Entry(0x20_0000, True, True)


def test_riscv_pages_that_belong_together() -> None:
    form = next(one for one in FORMATS if one.name == "Sv39")
    made = Tables(form)
    start = ADDRESSES - (1 << 16)
    for i in range(16):
        # 64 KiB from 0x50000: all sixteen entries are the same, with the size in the address
        made.map(MappedPage(start + i * 4096, 0x5_8000 | 1 << 65, 4096, True))
    tables, read = form.tables(), made.memory.read_physical
    assert tables.physical(start + 0x3123, read) == 0x5_3123
    assert [one.physical for one in tables.sweep(0, ADDRESSES, read)] == list(
        range(0x5_0000, 0x6_0000, 4096)
    )


def test_riscv_entries_that_are_none() -> None:
    assert riscv_decode(0, 2) is None
    assert riscv_decode(0x401, 0) is None
    assert riscv_decode(0x401, 1) == Entry(0x1000, False, True)


ARM64 = """\
OSRELEASE=6.1.0-56-arm64
PAGESIZE=4096
SYMBOL(swapper_pg_dir)=ffffb0f4bf458000
SIZE(page)=64
NUMBER(VA_BITS)=48
NUMBER(MODULES_VADDR)=0xffff800000000000
NUMBER(MODULES_END)=0xffff800008000000
NUMBER(VMALLOC_START)=0xffff800008000000
NUMBER(VMALLOC_END)=0xfffffbfff0000000
NUMBER(VMEMMAP_START)=0xfffffc0000000000
NUMBER(VMEMMAP_END)=0xfffffe0000000000
NUMBER(kimage_voffset)=0xffffb0f47dc00000
NUMBER(PHYS_OFFSET)=0x40000000
NUMBER(TCR_EL1_T1SZ)=0x10
KERNELOFFSET=30f4b5e00000
"""


def told(text: str, **changes: str) -> VmcoreInfo:
    """A note with some lines of it changed; "" takes a line away."""
    lines = []
    for line in text.splitlines():
        key, _, value = line.partition("=")
        name = key.partition("(")[2].rstrip(")") or key
        value = changes.get(name, value)
        lines.append(f"{key}={value}\n" if value else "")
    return VmcoreInfo.parse("".join(lines).encode())


def hole(address: int, size: int) -> bytes:
    raise UnreadableError(f"hole at {address:#x}")


def test_arm64_space() -> None:
    space = arm64_space(told(ARM64))
    assert (space.page_bits, space.tables.levels) == (12, 4)
    assert space.tables.root == 0x4185_8000
    assert space.image_start == 0xFFFF_B0F4_BDE0_0000
    assert space.image_physical(space.image_start) == 0x4020_0000
    assert space.is_image(space.image_start, space.image_start + (30 << 20))
    assert not space.is_image(space.image_start, space.image_start + (30 << 30))
    assert not space.is_image(0, 30 << 20)
    # of the direct mapping no table is read
    assert space.physical(0xFFFF_0000_1FED_0380, hole) == 0x5FED_0380
    assert space.vmemmap_base + (0x4000_0000 >> 12) * 64 == 0xFFFF_FC00_0000_0000
    with pytest.raises(UnreadableError, match="hole"):
        space.physical(space.image_start, hole)


def test_arm64_with_addresses_of_52_bits() -> None:
    """What a kernel for 52 bits tells on processors that have them, and on others."""
    wide = {"PAGESIZE": "65536", "VA_BITS": "52", "SIZE": "64"}
    lpa = arm64_space(told(ARM64, **wide, TCR_EL1_T1SZ="0xc"))
    assert (lpa.page_bits, lpa.tables.address_bits, lpa.tables.levels) == (16, 52, 3)
    # memory starts so far below 0 that the direct mapping of 0 is where that of 48 bits is
    narrow = 0x4000_0000 + (1 << 48) - (1 << 52)
    for page_size, bits, levels in (("65536", 52, 3), ("4096", 48, 4), ("16384", 48, 4)):
        changes = {**wide, "PAGESIZE": page_size, "PHYS_OFFSET": hex(narrow % ADDRESSES)}
        space = arm64_space(told(ARM64, **changes))
        assert (space.tables.address_bits, space.tables.levels) == (bits, levels)
        assert space.physical(0xFFFF_0000_0000_1000, hole) == 0x4000_1000
        first = 0xFFFF_FC00_0000_0000 - (narrow >> space.page_bits) * 64
        assert space.vmemmap_base == first % ADDRESSES
    lpa2 = arm64_space(told(ARM64, VA_BITS="52", TCR_EL1_T1SZ="0xc"))
    assert (lpa2.page_bits, lpa2.tables.address_bits, lpa2.tables.levels) == (12, 52, 5)
    small = arm64_space(told(ARM64, VA_BITS="39", TCR_EL1_T1SZ="0x19"))
    assert (small.tables.address_bits, small.tables.levels) == (39, 3)


RISCV = """\
OSRELEASE=6.12.117+deb13-riscv64
PAGESIZE=4096
SYMBOL(swapper_pg_dir)=ffffffff81dcb000
SYMBOL(vmemmap)=ff1bfffffe000000
SIZE(page)=64
NUMBER(phys_ram_base)=2147483648
NUMBER(PAGE_OFFSET)=0xff60000000000000
NUMBER(VA_BITS)=57
NUMBER(VMEMMAP_START)=0xff1c000000000000
NUMBER(MODULES_VADDR)=0xffffffff01e6c000
NUMBER(MODULES_END)=0xffffffff80000000
NUMBER(KERNEL_LINK_ADDR)=0xffffffff80000000
NUMBER(va_kernel_pa_offset)=0xfffffffeffe00000
"""


def test_riscv_space() -> None:
    space = riscv_space(told(RISCV))
    assert (space.page_bits, space.tables.levels) == (12, 5)
    assert space.tables.root == 0x81FC_B000
    assert space.image_physical(0xFFFF_FFFF_8000_2000) == 0x8020_2000
    assert space.is_image(0xFFFF_FFFF_8000_2000, 0xFFFF_FFFF_81F0_0000)
    assert space.physical(0xFF60_0000_1DC0_0000, hole) == 0x9DC0_0000
    assert space.vmemmap_base + (0x8000_0000 >> 12) * 64 == 0xFF1C_0000_0000_0000
    for bits, levels in (("39", 3), ("48", 4)):
        assert riscv_space(told(RISCV, VA_BITS=bits)).tables.levels == levels
    # the direct mapping of Sv39 ends below the modules
    sv39 = riscv_space(told(RISCV, VA_BITS="39", PAGE_OFFSET="0xffffffd600000000"))
    assert sv39.direct[1] == 0xFFFF_FFF6_0000_0000


@pytest.mark.parametrize(("target", "text"), [("aarch64", ARM64), ("riscv64", RISCV)])
def test_a_kernel_that_tells_nonsense_or_too_little(target: str, text: str) -> None:
    address_space(target, told(text))
    for line in text.splitlines():
        key = line.partition("=")[0]
        name = key.partition("(")[2].rstrip(")") or key
        for value in ("", "0", "-1", "0x" + "f" * 40, "9" * 40, "word"):
            try:
                space = address_space(target, told(text, **{name: value}))
            except UnreadableError:
                continue
            assert 0 <= space.vmemmap_base < ADDRESSES
            assert 0 <= space.tables.root < ADDRESSES
            assert 1 <= space.tables.levels <= 6
            for address in (0, space.image[0], space.direct[0], space.modules[1], ADDRESSES - 1):
                with pytest.raises(UnreadableError):
                    GuestMemory(FakeMemory(), space).read(address, 8)


@pytest.mark.parametrize("name", ["VA_BITS", "page", "swapper_pg_dir"])
def test_what_lacks_is_named(name: str) -> None:
    for target, text in (("aarch64", ARM64), ("riscv64", RISCV)):
        if (target, name) != ("riscv64", "page"):
            with pytest.raises(UnreadableError, match=name):
                address_space(target, told(text, **{name: ""}))


def test_targets_that_are_not_known() -> None:
    assert set(SPACES) == {"x86_64", "aarch64", "riscv64"}
    for target in ("i386", "arm", "riscv32", "", "ppc64"):
        with pytest.raises(UnreadableError, match="can't be looked into"):
            address_space(target, told(ARM64))


def test_an_area_right_behind_a_small_direct_mapping_is_not_taken_for_it() -> None:
    memory, base = FakeMemory(), 0xFFFF_A000_0000_0000
    vmemmap = base + (45 << 40)
    memory.u64(0x1000 + 8 * (vmemmap >> 39 & 511), 0x2001)
    memory.u64(0x2000 + 8 * (vmemmap >> 30 & 511), 0x3001)
    memory.u64(0x3000 + 8 * (vmemmap >> 21 & 511), 0x4001)
    memory.u64(0x4000 + 8 * (vmemmap >> 12 & 511), 0x5001)
    space = fake_x86(0x1000)
    values = {1: base, 2: vmemmap}
    space.use_variables({"page_offset_base": 1, "vmemmap_base": 2}, values.__getitem__)
    assert space.vmemmap_base == vmemmap
    assert space.physical(base + 0x7000, memory.read_physical) == 0x7000
    assert space.physical(vmemmap, memory.read_physical) == 0x5000


def test_a_direct_mapping_whose_place_is_not_known_is_read_by_page_tables() -> None:
    memory, base = FakeMemory(), 0xFFFF_8880_0000_0000
    space = fake_x86(0x1000)
    space.use_variables({}, lambda address: 0)
    with pytest.raises(UnreadableError):
        space.physical(base + 0x7000, memory.read_physical)
    memory.u64(0x1000 + 8 * (base >> 39 & 511), 0x2001)
    memory.u64(0x2000, 0x4000_0081)
    assert space.physical(base + 0x7000, memory.read_physical) == 0x4000_7000
