# SPDX-License-Identifier: GPL-2.0-or-later
"""Variables of a kernel whose symbol table has functions only, honest ones and planted ones."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Mapping

import numpy as np
import pytest
from guestmaphelp import BtfBuilder, FakeMemory, fake_guest, fake_x86, virtual

from sysqcache.guestmap import image as image_module
from sysqcache.guestmap import limits
from sysqcache.guestmap.exports import Export, find_exports, is_export
from sysqcache.guestmap.image import KernelImage
from sysqcache.guestmap.kallsyms import symbol_table
from sysqcache.guestmap.layout import KernelLayout
from sysqcache.guestmap.memory import PAGE, Budget, ExhaustedError, GuestMemory, UnreadableError
from sysqcache.guestmap.resources import Resource, Resources
from sysqcache.guestmap.roots import Roots, btf_candidates
from sysqcache.guestmap.symbols import Symbols
from sysqcache.guestmap.vmcoreinfo import VmcoreInfo
from sysqcache.guestmap.x86 import KERNEL_MAP

BASE = KERNEL_MAP + (16 << 20)
SIZE = 1 << 20
NAMES = sorted([f"function_{i:03}" for i in range(40)] + ["init_task", "vmemmap_base"])
WANTED = ["init_task", "vmemmap_base", "page_offset_base"]


class CountingImage(KernelImage):
    """Counts what is looked at in it, one place after another."""

    looks = 0

    def at(self, address: int, size: int) -> bytes:
        self.looks += 1
        return super().at(address, size)


def image_of(data: bytes | bytearray, base: int = BASE) -> KernelImage:
    return KernelImage([(base, bytes(data))], Budget())


def addresses(names: list[str], at: int = 0x80000) -> dict[str, int]:
    return {name: BASE + at + 64 * i for i, name in enumerate(names)}


def put_table(
    data: bytearray,
    at: int,
    strings: int,
    symbols: Mapping[str, int],
    prefix: str = "",
    form: str = "iii",
) -> None:
    """A table of exports at offset ``at``, its names at ``strings``.

    ``form``: "iii" for distances, "QQQ" for addresses.
    """
    size = struct.calcsize(form)
    for name, address in symbols.items():
        row = prefix + name
        data[strings : strings + len(row) + 1] = row.encode() + b"\0"
        # the linker keeps a name that ends another one once
        own = strings + len(prefix)
        no_namespace = own + len(name)
        places = address - BASE, own, no_namespace
        for i, place in enumerate(places):
            here = at + i * size // 3
            struct.pack_into(
                f"<{form[0]}", data, here, place - here if size == 12 else place + BASE
            )
        at += size
        strings += len(row) + 1


@pytest.fixture
def data() -> bytearray:
    """An image with one table of exports."""
    image = bytearray(SIZE)
    put_table(image, 0x1004, 0x4000, addresses(NAMES))
    return image


@pytest.mark.parametrize(("form", "at"), [("iii", 0x1004), ("QQQ", 0x1008)])
@pytest.mark.parametrize("prefix", ["", "old_"])
def test_exports(prefix: str, form: str, at: int) -> None:
    image = bytearray(SIZE)
    put_table(image, at, 0x4001, addresses(NAMES), prefix, form)
    found = find_exports(image_of(image), WANTED)
    wanted = addresses(NAMES)
    assert {name: one.address for name, one in found.items()} == {
        name: wanted[name] for name in ("init_task", "vmemmap_base")
    }
    step = struct.calcsize(f"<{form}")
    assert found["init_task"].entry == BASE + at + step * NAMES.index("init_task")


def test_planted_exports_lose_against_a_table(data: bytearray) -> None:
    lies = dict.fromkeys(NAMES[-10:], BASE + 0x90000)
    put_table(data, 0x800, 0x9000, {"init_task": BASE + 0x90000})
    put_table(data, 0x900, 0xA000, lies)
    found = find_exports(image_of(data), WANTED)
    assert found["init_task"].address == addresses(NAMES)["init_task"]
    assert found["vmemmap_base"].address == addresses(NAMES)["vmemmap_base"]


def test_what_is_no_table_of_exports(data: bytearray) -> None:
    alone = bytearray(SIZE)
    put_table(alone, 0x1004, 0x4000, {"init_task": BASE + 0x80000})
    assert find_exports(image_of(alone), WANTED) == {}
    disorder = bytearray(SIZE)
    put_table(disorder, 0x1004, 0x4000, addresses(NAMES[::-1]))
    assert find_exports(image_of(disorder), WANTED) == {}
    outside = bytearray(SIZE)
    put_table(outside, 0x1004, 0x4000, dict.fromkeys(NAMES, BASE + 2 * SIZE))
    assert find_exports(image_of(outside), WANTED) == {}
    assert find_exports(image_of(data[:0x1010]), WANTED) == {}
    assert find_exports(image_of(b""), WANTED) == {}


def test_exports_end_in_an_image_full_of_them() -> None:
    names = b"init_task\0vmemmap_base\0page_offset_base\0"
    text = names * (16 << 10)
    # all words lead to the first name
    size = 16 << 20
    words = -4 * np.arange(size // 4, dtype=np.int64)
    absolute = (np.zeros(size // 8, np.uint64) + np.uint64(BASE + size)).tobytes()
    for content in (
        words.astype("<i4").tobytes() + text,
        text + (words - len(text)).astype("<i4").tobytes(),
        absolute + text,
    ):
        image = CountingImage([(BASE, content)], Budget(math.inf))
        assert find_exports(image, WANTED) == {}
        # all places of a name, all references to one, and some looks at each
        assert image.looks < 8 * limits.SEARCH_HITS**2
    assert len(list(image.find(b"init_task\0"))) == limits.SEARCH_HITS
    late = KernelImage(image.pieces, Budget(seconds=-1))
    with pytest.raises(ExhaustedError):
        find_exports(late, WANTED)


def test_damaged_exports_raise_nothing(data: bytearray) -> None:
    choose = random.Random(5)
    for _ in range(100):
        damaged = bytearray(data)
        for _ in range(50):
            damaged[choose.randrange(0x1004, 0x1200)] = choose.randrange(256)
        for export in find_exports(image_of(damaged), WANTED).values():
            assert BASE <= export.address < BASE + SIZE


def test_an_export_is_checked_in_each_guest(data: bytearray) -> None:
    found = find_exports(image_of(data), WANTED)["init_task"]
    memory = FakeMemory()
    memory.write(0, bytes(data))
    own = Export(found.address - BASE + virtual(0), found.entry - BASE + virtual(0))
    assert is_export(fake_guest(memory).memory, "init_task", own)
    assert not is_export(fake_guest(memory).memory, "init_mm", own)
    moved = Export(own.address + 8, own.entry)
    assert not is_export(fake_guest(memory).memory, "init_task", moved)
    nowhere = Export(own.address, 0x4141414141414141)
    assert not is_export(fake_guest(memory).memory, "init_task", nowhere)
    memory.u64(0x7000, own.address, virtual(0x7100))
    memory.write(0x7100, b"init_task\0")
    pointers = Export(own.address, virtual(0x7000))
    assert is_export(fake_guest(memory).memory, "init_task", pointers)
    assert not is_export(fake_guest(memory).memory, "init_mm", pointers)


def small_btf(name: str = "task_struct") -> bytes:
    btf = BtfBuilder()
    btf.compound(name, 8, [("tasks", btf.integer("long unsigned int", 8), 0)])
    return btf.data()


def test_btf_is_found_wherever_it_lies() -> None:
    data = bytearray(SIZE)
    small, big = small_btf(), small_btf("a_much_longer_name")
    data[0x1003 : 0x1003 + len(small)] = small
    data[0x9001 : 0x9001 + len(big)] = big
    found = btf_candidates(image_of(data))
    assert found == [
        (BASE + 0x9001, BASE + 0x9001 + len(big)),
        (BASE + 0x1003, BASE + 0x1003 + len(small)),
    ]


@pytest.mark.parametrize(
    "header",
    [
        (24, 0, 100, 100, 1 << 30),
        (24, 0, 100, 100, 0xFFFFFFFF),
        (24, 0, 0, 0, 50),
        (24, 0, 100, 50, 50),
        (24, 0xFFFFFFFF, 100, 100, 50),
        (8, 0, 100, 100, 50),
        (0xFFFFFFFF, 0, 100, 100, 50),
        (24, 0, 100, 100, 1),
    ],
)
def test_what_is_no_btf(header: tuple[int, ...]) -> None:
    data = bytearray(SIZE)
    struct.pack_into("<HBBIIIII", data, 64, 0xEB9F, 1, 0, *header)
    assert btf_candidates(image_of(data)) == []


def test_planted_btf_is_not_read_without_end() -> None:
    one = small_btf()
    data = one * (SIZE // len(one))
    assert len(btf_candidates(image_of(data))) == limits.BTF_TRIED
    broken = bytearray(one)
    broken[-1] = 1
    assert btf_candidates(image_of(broken)) == []
    assert btf_candidates(image_of(one[:20])) == []


AREA = 0x40_0000
"""Where the modules' area lies in physical memory, and the image one big page above."""

IMAGE = AREA + (2 << 20)
LAYOUT = KernelLayout(
    {
        "module.list": 8,
        "module.name": 24,
        "module.mkobj.mod": 96,
        "mm_struct.pgd": 72,
        "mm_struct.start_code": 96,
        "mm_struct.end_code": 104,
    },
    {"module.name": 56},
    {},
)
ROOT = 0x1000
PGD = KERNEL_MAP + 0x1234000
INFO = VmcoreInfo("6.1.0", "", 0, {"swapper_pg_dir": PGD}, {}, {}, b"")
CODE = {"_text": BASE, "_stext": BASE, "_etext": BASE}


class Kernel:
    """Page tables, the image's variables and two modules."""

    def __init__(self) -> None:
        self.x86 = fake_x86(ROOT, IMAGE - (BASE - KERNEL_MAP))
        self.memory = memory = FakeMemory()
        self.area = self.x86.modules[0]
        upper, image, area = 0x2000, 0x3000, 0x4000
        memory.u64(ROOT + 8 * 511, upper | 3)
        memory.u64(upper + 8 * 510, image | 3, area | 3)
        memory.u64(image + 8 * 8, IMAGE | 0x83)
        memory.u64(area, AREA | 0x83)
        for page in range(AREA, AREA + (4 << 20), PAGE):
            memory.pages[page] = bytearray(PAGE)
        self.head = BASE + 0x5008
        self.first, self.last = self.area + 0x1000, self.area + 0x3000
        self.module(self.first, "first")
        self.module(self.last, "virtio_blk")
        self.ring(self.head, self.first + 8, self.last + 8)

    def at(self, address: int) -> int:
        return address - self.area + AREA if address >= self.area else address - BASE + IMAGE

    def put(self, address: int, *values: int) -> None:
        self.memory.u64(self.at(address), *values)

    def module(self, address: int, name: str) -> None:
        self.memory.write(self.at(address + 24), name.encode())
        self.put(address + 96, address)

    def ring(self, *links: int) -> None:
        for i, link in enumerate(links):
            self.put(link, links[(i + 1) % len(links)], links[i - 1])

    def roots(
        self, symbols: Mapping[str, int] | None = None, reads: int = limits.MAP_READS
    ) -> Roots:
        memory = GuestMemory(self.memory, self.x86, Budget(math.inf, reads))
        return Roots(memory, self.x86, INFO, LAYOUT, Symbols({**CODE, **(symbols or {})}))

    def find(self, reads: int = limits.MAP_READS) -> dict[str, int]:
        """What is found with at most so many reads; raises ExhaustedError."""
        roots = self.roots(reads=reads)
        found, proofs = roots.find(KernelImage.read(roots.memory, self.x86, BASE))
        assert self.roots(found).holds(proofs)
        return found


def test_the_list_of_modules_is_found() -> None:
    kernel = Kernel()
    assert kernel.find() == {"modules": kernel.head}
    # one module, and a head at the border of the pieces that are looked at
    alone = Kernel()
    alone.put(alone.head, 0, 0)
    border = BASE + (1 << 20) - 8
    alone.ring(border, alone.first + 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_module, "_CHUNK", 1 << 20)
        assert alone.find() == {"modules": border}


def test_lists_that_are_not_of_modules() -> None:
    stranger = Kernel()
    stranger.put(stranger.first + 96, stranger.last)
    assert stranger.find() == {}
    nameless = Kernel()
    nameless.module(nameless.last, "\x01\0")
    assert nameless.find() == {}
    open_end = Kernel()
    open_end.put(open_end.last + 8, open_end.first)
    assert open_end.find() == {}
    nowhere = Kernel()
    nowhere.put(nowhere.head, nowhere.area + (900 << 20), nowhere.area + (900 << 20))
    assert nowhere.find() == {}
    empty = Kernel()
    empty.ring(empty.head)
    assert empty.find() == {}


def test_planted_heads_do_not_hide_the_list_and_end() -> None:
    kernel = Kernel()
    for place in range(0x10, 0x5000, 16):
        kernel.put(BASE + place, kernel.first + 8, kernel.last + 8)
    assert kernel.find() == {"modules": kernel.head}
    full = Kernel()
    full.put(full.head, 0, 0)
    for page in range(0, 2 << 20, 8):
        full.put(BASE + page, full.area + 0x100)
    # each place that is tried costs some reads, and there are sixty times as many
    assert full.find(reads=8 * limits.ROOTS_TRIED) == {}


def test_the_kernel_s_own_mm_is_found() -> None:
    kernel = Kernel()
    planted, mm = BASE + 0x8000, BASE + 0x9000
    kernel.put(planted + 72, PGD)
    kernel.put(planted + 96, BASE, BASE + PAGE)
    kernel.put(mm + 72, PGD)
    kernel.put(mm + 96, BASE, BASE)
    assert kernel.find() == {"modules": kernel.head, "init_mm": mm}


def test_a_kernel_that_tells_nothing_of_its_symbols() -> None:
    kernel = Kernel()
    kernel.put(BASE + 0x8000 + 72, PGD, 0, 0, BASE, BASE - PAGE)
    mm = BASE + 0x9000
    kernel.put(mm + 72, PGD, 0, 0, BASE, BASE + 4 * PAGE)
    bare = VmcoreInfo("5.10.0", "", 0, {"_stext": BASE}, {}, {}, b"")
    memory = GuestMemory(kernel.memory, kernel.x86)
    symbols = symbol_table(memory, bare).find(["_etext"])
    roots = Roots(memory, kernel.x86, INFO, LAYOUT, Symbols(symbols))
    found, proofs = roots.find(KernelImage.read(memory, kernel.x86, BASE))
    assert proofs == {"modules": kernel.head, "init_mm": mm}
    assert found == proofs | {"_text": BASE, "_etext": BASE + 4 * PAGE}
    assert kernel.roots(found).holds(proofs)


def test_proofs_that_do_not_hold_in_this_guest() -> None:
    kernel = Kernel()
    good = {"modules": kernel.head}
    assert kernel.roots(good).holds(good)
    assert not kernel.roots({"modules": kernel.head + 16}).holds(good)
    assert not kernel.roots({}).holds(good)
    assert not kernel.roots(good).holds({"modules": kernel.head + 16})
    assert not kernel.roots({"init_mm": BASE}).holds({"init_mm": BASE})
    assert not kernel.roots({"init_task": BASE}).holds({"init_task": BASE})
    kernel.put(kernel.first + 96, 0)
    assert not kernel.roots(good).holds(good)


def test_an_image_without_end_is_read_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IMAGE_BYTES", 3 << 20)
    kernel = Kernel()
    for i in range(1, 64):
        kernel.memory.u64(0x3000 + 8 * (8 + i), IMAGE + (i << 21) | 0x83)
        kernel.memory.write(IMAGE + (i << 21), bytes(2 << 20))
    # what lies behind the image is not part of it
    kernel.memory.u64(0x3000 + 8 * 7, AREA | 0x83)
    memory = GuestMemory(kernel.memory, kernel.x86)
    found = KernelImage.read(memory, kernel.x86, BASE + PAGE)
    assert sum(len(data) for _, data in found.pieces) == 3 << 20
    [(start, _)] = found.pieces
    assert start == BASE + PAGE
    with pytest.raises(UnreadableError):
        KernelImage.read(GuestMemory(FakeMemory(), kernel.x86), kernel.x86, BASE)
    # mapped, but not as an image is
    kernel.memory.u64(0x3000, *([IMAGE | 0x83] * 8))
    kernel.memory.u64(0x3000 + 8 * 8, *([AREA | 0x83] * 504))
    with pytest.raises(UnreadableError):
        KernelImage.read(GuestMemory(kernel.memory, kernel.x86), kernel.x86, BASE)


RESOURCE = {
    "resource.start": 0,
    "resource.end": 8,
    "resource.name": 16,
    "resource.sibling": 24,
    "resource.child": 32,
}
IOMEM = 0x1000


def resources(rows: Mapping[int, tuple[int, int, str, int, int]]) -> Resources:
    """``rows``: address -> start, end, name, sibling, child; the tree begins at 0x2000."""
    memory = FakeMemory()
    memory.u64(IOMEM + 32, virtual(0x2000))
    for at, (start, end, name, sibling, child) in rows.items():
        links = (virtual(one) if one else 0 for one in (sibling, child))
        memory.u64(at, start, end, virtual(at + 64), *links)
        memory.write(at + 64, name.encode() + b"\0")
    guest = fake_guest(memory, offsets=RESOURCE, symbols={"iomem_resource": virtual(IOMEM)})
    return Resources.read(guest)


def test_resources() -> None:
    found = resources(
        {
            0x2000: (0, 0xFFF, "Reserved", 0x2100, 0),
            0x2100: (0x1000, 0x9FFFF, "System RAM", 0x2400, 0x2200),
            0x2200: (0x2000, 0x2FFF, "Kernel code", 0x2300, 0),
            0x2300: (0x3000, 0x3FFF, "Kernel rodata", 0, 0),
            0x2400: (0x100000, 0x1FFFFF, "System RAM (virtio_mem)", 0, 0),
        }
    )
    assert found.note == ""
    assert [one.name for one in found.all][1:3] == ["System RAM", "Kernel code"]
    assert found.ram() == [(0x1000, 0xA0000), (0x100000, 0x200000)]
    assert found.named("Kernel rodata") == (0x3000, 0x4000)
    assert found.named("nothing") == (0, 0)


def test_resources_in_a_circle_or_nowhere() -> None:
    ram = (0, 0xFFF, "System RAM", 0x2000, 0)
    circle = resources({0x2000: ram})
    assert "more than" in circle.note
    assert len(circle.all) == limits.RESOURCES
    deep = resources({0x2000: (0, 0xFFF, "System RAM", 0, 0x2000)})
    assert "more than" in deep.note
    nowhere = resources({0x2000: (0, 0xFFF, "System RAM", 0, 0x900000)})
    assert nowhere.all == (Resource(0, 0x1000, "System RAM"),)
    assert "no memory" in nowhere.note or "hole" in nowhere.note
    assert resources({}).all == ()
