# SPDX-License-Identifier: GPL-2.0-or-later
"""Walks through kernel structures that are as they should be, torn, or hostile."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from guestmaphelp import FakeMemory, fake_guest, fake_x86, virtual

from sysqcache.base import paths
from sysqcache.guestmap import kernelcache, limits, mapper
from sysqcache.guestmap.files import Files
from sysqcache.guestmap.flatview import MemoryRange
from sysqcache.guestmap.guest import Guest
from sysqcache.guestmap.kernel import ModuleWalk
from sysqcache.guestmap.kernelcache import KnownKernel
from sysqcache.guestmap.layout import KernelLayout
from sysqcache.guestmap.mapletree import MapleTree
from sysqcache.guestmap.memory import (
    PAGE,
    Budget,
    ExhaustedError,
    GuestMemory,
    UnreadableError,
)
from sysqcache.guestmap.pagecache import CachedFile
from sysqcache.guestmap.pages import Pages, PageWalk, Use
from sysqcache.guestmap.process import ProcessWalk
from sysqcache.guestmap.resources import Resource, Resources
from sysqcache.guestmap.session import is_alive
from sysqcache.guestmap.table import OwnerKind
from sysqcache.guestmap.vmcoreinfo import VmcoreInfo
from sysqcache.guestmap.x86 import KERNEL_MAP

LIST = {"thing.link": 16}


def test_memory_reads_across_pages_and_refuses_what_is_too_much() -> None:
    memory = FakeMemory()
    memory.write(PAGE - 3, b"abcdef\0")
    guest = GuestMemory(memory)
    assert guest.physical(PAGE - 3, 6) == b"abcdef"
    with pytest.raises(UnreadableError):
        guest.physical(0, limits.BULK_BYTES + 1)
    with pytest.raises(UnreadableError):
        guest.bulk_physical(0, -1)
    with pytest.raises(UnreadableError, match="no kernel"):
        guest.u64(virtual(0))
    known = fake_guest(memory).memory
    assert known.string(virtual(PAGE - 3)) == "abcdef"
    assert known.bulk(virtual(PAGE - 3), 6) == b"abcdef"
    with pytest.raises(UnreadableError):
        known.bulk(virtual(0), 1 << 62)
    with pytest.raises(UnreadableError):
        known.u64(virtual(2 * PAGE - 4))


def test_every_page_is_read_once() -> None:
    memory = FakeMemory()
    memory.u64(0, 1, 2, 3)
    guest = fake_guest(memory).memory
    assert [guest.u64(virtual(8 * i)) for i in range(3)] == [1, 2, 3]
    assert memory.reads == 1


def test_lists() -> None:
    memory = FakeMemory()
    head, first, second = 0x1000, 0x2000, 0x3000
    memory.u64(head, virtual(first + 16))
    memory.u64(first + 16, virtual(second + 16))
    memory.u64(second + 16, virtual(head))
    guest = fake_guest(memory, offsets=LIST)
    assert list(guest.members(virtual(head), "thing.link", 10)) == [virtual(first), virtual(second)]
    memory.u64(second + 16, virtual(first + 16))
    looped = fake_guest(memory, offsets=LIST)
    with pytest.raises(ExhaustedError, match="a circle after 2 entries"):
        list(looped.members(virtual(head), "thing.link", 10))
    memory.u64(0x4000, virtual(0x4100))
    memory.u64(0x4110, virtual(0x4100))
    with pytest.raises(ExhaustedError, match="a circle after 1 entries"):
        list(fake_guest(memory, offsets=LIST).chain(virtual(0x4000), "thing.link", 10))
    with pytest.raises(ExhaustedError, match="more than 1"):
        list(fake_guest(memory, offsets=LIST).members(virtual(head), "thing.link", 1))
    memory.u64(second + 16, 0x41414141)
    wild = fake_guest(memory, offsets=LIST)
    with pytest.raises(UnreadableError):
        list(wild.members(virtual(head), "thing.link", 10))


def test_a_budget_ends_what_no_other_limit_ends() -> None:
    memory = FakeMemory()
    memory.u64(0, virtual(0))
    guest = fake_guest(memory, budget=Budget(reads=5000))
    with pytest.raises(ExhaustedError, match="too long"):
        _spin(guest)
    late = fake_guest(memory, budget=Budget(seconds=-1.0))
    with pytest.raises(ExhaustedError, match="too long"):
        _spin(late)


def _spin(guest: Guest) -> None:
    at = virtual(0)
    while True:
        at = guest.memory.u64(at)


MAPLE = {
    "maple_range_64.pivot": 8,
    "maple_range_64.slot": 128,
    "maple_arange_64.pivot": 8,
    "maple_arange_64.slot": 80,
}
MAPLE_SIZES = {"maple_range_64.slot": 128, "maple_arange_64.slot": 80}
LEAF, INNER = 1 << 3, 3 << 3


def leaf(memory: FakeMemory, address: int, entries: list[tuple[int, int]]) -> int:
    """A leaf with (last index, entry) pairs; its tagged pointer."""
    memory.u64(address + 8, *(end for end, _ in entries))
    memory.u64(address + 128, *(entry for _, entry in entries))
    return virtual(address) | LEAF | 2


def tree(memory: FakeMemory) -> MapleTree:
    guest = fake_guest(memory, offsets=MAPLE, sizes=MAPLE_SIZES)
    return MapleTree(guest.memory, guest.layout)


def test_maple_tree() -> None:
    memory = FakeMemory()
    a, b, c = (virtual(0x10000 * i) for i in (1, 2, 3))
    left = leaf(memory, 0x4000, [(99, 0), (199, a), (299, b)])
    # what lies behind a zero pivot is left over from earlier
    right = leaf(memory, 0x4100, [(399, 0), (499, c), (0, 0)])
    memory.u64(0x4100 + 128 + 8 * 5, a)
    memory.u64(0x4200 + 8, 299)
    memory.u64(0x4200 + 80, left, right)
    root = virtual(0x4200) | INNER | 2
    assert list(tree(memory).entries(root, 10)) == [a, b, c]
    assert list(tree(memory).entries(0, 10)) == []
    with pytest.raises(ExhaustedError):
        list(tree(memory).entries(root, 2))


def test_broken_maple_trees() -> None:
    memory = FakeMemory()
    memory.u64(0x4200 + 8, 299)
    root = virtual(0x4200) | INNER | 2
    memory.u64(0x4200 + 80, root, root)
    with pytest.raises(UnreadableError, match="broken"):
        list(tree(memory).entries(root, 10))
    with pytest.raises(UnreadableError, match="broken"):
        list(tree(memory).entries(virtual(0x4200) | 15 << 3, 10))
    with pytest.raises(UnreadableError):
        list(tree(memory).entries(0x41414141_41414141, 10))


FILES = {
    "mount.mnt": 32,
    "mount.mnt.mnt_root": 32,
    "mount.mnt_parent": 16,
    "mount.mnt_mountpoint": 24,
    "dentry.d_parent": 24,
    "dentry.d_name.name": 40,
    "dentry.d_hash.pprev": 16,
}


class Tree:
    """Mounts and dentries in fake memory."""

    def __init__(self) -> None:
        self.memory = FakeMemory()
        self._next = 0x100000

    def place(self, size: int = 64) -> int:
        self._next += size
        return self._next - size

    def dentry(self, name: str, parent: int | None = None, hashed: bool = True) -> int:
        text, at = self.place(256), self.place()
        self.memory.write(text, name.encode() + b"\0")
        self.memory.u64(at + 16, int(hashed), parent or virtual(at), 0, virtual(text))
        return virtual(at)

    def mount(self, root: int, on: tuple[int, int] | None = None) -> int:
        """``on`` is (vfsmount, dentry); gives the vfsmount."""
        at = self.place()
        parent = virtual(at) if on is None else on[0] - 32
        self.memory.u64(at + 16, parent, root if on is None else on[1], root)
        return virtual(at) + 32

    def files(self) -> Files:
        return Files(fake_guest(self.memory, offsets=FILES))


def test_paths() -> None:
    tree = Tree()
    root = tree.dentry("/")
    base = tree.mount(root)
    usr = tree.dentry("usr", root)
    inner_root = tree.dentry("/")
    inner = tree.mount(inner_root, (base, usr))
    program = tree.dentry("prog", inner_root)
    assert tree.files().path(inner, program) == "/usr/prog"
    assert tree.files().path(base, usr) == "/usr"
    assert tree.files().path(base, root) == "/"
    gone = tree.dentry("gone", inner_root, hashed=False)
    assert tree.files().path(inner, gone) == "/usr/gone (deleted)"
    memfd = tree.dentry("memfd:jit")
    assert tree.files().path(base, memfd) == "/memfd:jit (deleted)"


def test_paths_without_an_end() -> None:
    tree = Tree()
    root = tree.dentry("/")
    base = tree.mount(root)
    a = tree.dentry("a", root)
    b = tree.dentry("b", a)
    tree.memory.u64(a - virtual(0) + 24, b)
    with pytest.raises(ExhaustedError, match="without an end"):
        tree.files().path(base, b)
    with pytest.raises(UnreadableError):
        tree.files().path(base, 0x4141414141414141)


def test_mounts_of_a_file_system_in_both_forms() -> None:
    tree = Tree()
    root, other, superblock = tree.dentry("/"), tree.dentry("sub"), tree.place(64)
    part, whole = tree.mount(other) - 32, tree.mount(root) - 32
    base = virtual(0)
    tree.memory.u64(superblock, part)
    tree.memory.u64(part - base + 48, whole)
    new = {"super_block.s_mounts": 0, "mount.mnt_next_for_sb": 48}
    files = Files(fake_guest(tree.memory, offsets=FILES | new))
    assert files._mount_of(virtual(superblock), root) == whole
    tree.memory.u64(superblock, part + 48)
    tree.memory.u64(part - base + 48, whole + 48)
    tree.memory.u64(whole - base + 48, virtual(superblock))
    old = {"super_block.s_mounts": 0, "mount.mnt_instance": 48}
    files = Files(fake_guest(tree.memory, offsets=FILES | old))
    assert files._mount_of(virtual(superblock), root) == whole


def test_mappings_as_a_list() -> None:
    memory = FakeMemory()
    offsets = {
        "mm_struct.mmap": 0, "mm_struct.start_brk": 8, "mm_struct.brk": 16,
        "mm_struct.start_stack": 24, "vm_area_struct.vm_start": 0, "vm_area_struct.vm_end": 8,
        "vm_area_struct.vm_next": 16, "vm_area_struct.vm_flags": 24, "vm_area_struct.vm_file": 32,
        "vm_area_struct.vm_ops": 40, "mount.mnt": 0,
    }  # fmt: skip
    memory.u64(0x1000, virtual(0x2000), 0, 0, 0x7800)
    memory.u64(0x2000, 0x4000, 0x5000, virtual(0x3000), 5, 0, 0)
    memory.u64(0x3000, 0x7000, 0x8000, 0, 3, 0, 0)
    guest = fake_guest(memory, offsets=offsets)
    maps = ProcessWalk(guest, Files(guest))._mappings(virtual(0x1000))
    found = [(one.start, one.end, one.perms, one.path) for one in maps]
    assert found == [(0x4000, 0x5000, "r-xp", ""), (0x7000, 0x8000, "rw-p", "[stack]")]
    # a vDSO of a kernel that does not say where special_mapping_name is
    named = offsets | {
        "vm_operations_struct.name": 0, "vm_area_struct.vm_private_data": 48,
        "vm_special_mapping.name": 0,
    }  # fmt: skip
    memory.u64(0x2028, virtual(0x6000), virtual(0x6100))
    memory.u64(0x6000, 0xFFFFFFFF81000000)
    memory.u64(0x6100, virtual(0x6200))
    memory.write(0x6200, b"[vdso]\0")
    guest = fake_guest(memory, offsets=named)
    [vdso, _] = ProcessWalk(guest, Files(guest))._mappings(virtual(0x1000))
    assert vdso.path == "[vdso]"
    known = {"special_mapping_name": 0xFFFFFFFF81000010}
    guest = fake_guest(memory, offsets=named, symbols=known)
    [other, _] = ProcessWalk(guest, Files(guest))._mappings(virtual(0x1000))
    assert other.path == ""
    memory.u64(0x3010, virtual(0x2000))
    looped = fake_guest(memory, offsets=offsets, budget=Budget(reads=50_000))
    with pytest.raises(ExhaustedError):
        ProcessWalk(looped, Files(looped))._mappings(virtual(0x1000))


MODULE = {
    "module.list": 8,
    "module.state": 0,
    "module.name": 24,
    "module.core_layout.base": 80,
    "module.core_layout.size": 88,
    "module.core_layout.text_size": 92,
    "module.init_layout.base": 96,
    "module.init_layout.size": 104,
    "module.init_layout.text_size": 108,
    "module.notes_attrs": 112,
}
MODULE_SIZES = {"module.name": 56}


def module_at(memory: FakeMemory, address: int, name: str, size: int) -> None:
    memory.write(address + 24, name.encode())
    memory.u64(address + 80, 0xFFFFFFFFC0000000)
    memory.write(address + 88, struct.pack("<II", size, size // 2))


def test_modules_with_one_that_makes_no_sense() -> None:
    memory = FakeMemory()
    memory.u64(0x1000, virtual(0x2008))
    memory.u64(0x2008, virtual(0x3008))
    memory.u64(0x3008, virtual(0x1000))
    module_at(memory, 0x2000, "good", 0x4000)
    module_at(memory, 0x3000, "huge", 0xFFFFFFFF)
    symbols = {"modules": virtual(0x1000)}
    walk = ModuleWalk(fake_guest(memory, offsets=MODULE, sizes=MODULE_SIZES, symbols=symbols))
    [module] = walk.modules()
    assert (module.name, module.size, module.build_id) == ("good", 0x4000, "")
    assert module.text == (0xFFFFFFFFC0000000, 0xFFFFFFFFC0002000)
    assert (walk.lost, walk.cut_short) == (1, "")
    memory.u64(0x3008, virtual(0x2008))
    looped = ModuleWalk(fake_guest(memory, offsets=MODULE, sizes=MODULE_SIZES, symbols=symbols))
    assert len(looped.modules()) == 1
    assert "a circle" in looped.cut_short


ATTRIBUTES = {
    "module.notes_attrs": 0,
    "module.sect_attrs": 8,
    "module_notes_attrs.grp.bin_attrs": 40,
    "module_sect_attrs.grp.bin_attrs": 40,
    "bin_attribute.attr.name": 0,
    "bin_attribute.size": 16,
    "bin_attribute.private": 24,
}


def test_notes_and_sections_as_lists_of_pointers() -> None:
    memory = FakeMemory()
    note = struct.pack("<III4s", 4, 4, 3, b"GNU\0") + b"\xab\xcd\xef\x01"
    memory.u64(0x1000, virtual(0x2000), virtual(0x2000))
    memory.u64(0x2028, virtual(0x3000))
    memory.u64(0x3000, virtual(0x4000), virtual(0x4100), 0)
    for at, name, private in ((0x4000, b".text", 0x5000), (0x4100, b".data", 0x6000)):
        memory.u64(at, virtual(at + 64), 0, len(note), virtual(private))
        memory.write(at + 64, name + b"\0")
    memory.write(0x5000, note)
    sizes = {"bin_attribute.size": 8}

    def walk() -> ModuleWalk:
        return ModuleWalk(fake_guest(memory, offsets=ATTRIBUTES, sizes=sizes))

    assert walk()._build_id(virtual(0x1000)) == "abcdef01"
    expected = ((".text", virtual(0x5000)), (".data", virtual(0x6000)))
    assert walk()._sections(virtual(0x1000)) == expected
    memory.u64(0x3000, *[virtual(0x4000)] * 512)  # no end
    assert len(walk()._sections(virtual(0x1000))) <= limits.MODULE_SECTIONS
    memory.u64(0x2028, 0x4141414141414141)
    assert (walk()._build_id(virtual(0x1000)), walk()._sections(virtual(0x1000))) == ("", ())


PAGE_OFFSETS = {
    "page.flags": 0,
    "page.compound_head": 8,
    "page.mapping": 24,
    "page.index": 32,
    "page.page_type": 48,
    "page._refcount": 52,
}


def struct_page(
    flags: int = 0, head: int = 0, mapping: int = 0, index: int = 0, count: int = 1
) -> bytes:
    return struct.pack("<QQQQQQIIQ", flags, head, 0, mapping, index, 0, 0, count, 0)


def walk_pages(rows: list[bytes], count: int | None = None) -> tuple[Pages, PageWalk]:
    memory = FakeMemory()
    base = 0x200000
    memory.write(base, b"".join(rows))
    guest = fake_guest(
        memory,
        offsets=PAGE_OFFSETS,
        sizes={"page": 64},
        enums={"PG_reserved": 12, "PG_slab": 9},
    )
    guest.translation.vmemmap_base = virtual(base)
    end = (len(rows) if count is None else count) * PAGE
    walk = PageWalk(guest, Resources((Resource(0, end, "System RAM"),)))
    return walk.pages(), walk


def test_uses_of_pages() -> None:
    mapping, head = 0xFFFF888000004000, virtual(0x200000) + 6 * 64
    pages, _ = walk_pages(
        [
            struct_page(flags=1 << 12, count=1),
            struct_page(count=0),
            struct_page(mapping=mapping, index=7),
            struct_page(mapping=mapping | 1),
            struct_page(flags=1 << 9, mapping=mapping),
            struct_page(),
            struct_page(mapping=mapping, index=16),
            struct_page(head=head | 1, mapping=0xDEAD, count=0),
            struct_page(head=head | 1, count=0),
            struct_page(head=1, count=0),
        ]
    )
    assert [Use(use) for use in pages.use.tolist()] == [
        Use.RESERVED,
        Use.FREE,
        Use.FILE,
        Use.ANONYMOUS,
        Use.KERNEL,
        Use.KERNEL,
        Use.FILE,
        Use.FILE,
        Use.FILE,
        Use.UNKNOWN,
    ]
    assert pages.index.tolist() == [0, 0, 7, 0, 0, 0, 16, 17, 18, 0]
    assert pages.page.tolist() == list(range(10))


def test_compound_heads_as_masks() -> None:
    mapping, mask = 0xFFFF888000004000, -(4 * 64) % (1 << 64)
    tail = struct_page(head=mask | 1, count=0)
    head = struct_page(mapping=mapping, index=16)
    pages, _ = walk_pages([struct_page(count=0)] * 4 + [head, tail, tail, tail])
    assert pages.use.tolist() == [Use.FREE] * 4 + [Use.FILE] * 4
    assert pages.index.tolist() == [0, 0, 0, 0, 16, 17, 18, 19]


def test_a_guest_that_claims_endless_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GUEST_PAGES", 1 << 17)
    rows = [struct_page()] * 32768
    pages, walk = walk_pages(rows, 1 << 60)
    assert len(pages.page) == 32768
    assert "only the first" in walk.cut_short
    with pytest.raises(UnreadableError, match="can't be read"):
        walk_pages([struct_page()], 1 << 20)


def test_cached_files_have_holes() -> None:
    memory = FakeMemory()
    memory.write(5 * PAGE, b"first")
    memory.write(9 * PAGE, b"third")
    index = np.array([2, 0], np.uint64)
    page = np.array([9, 5], np.uint64)
    pages = Pages(page, np.zeros(2, np.uint8), page, index)
    file = CachedFile(GuestMemory(memory), pages, np.arange(2))
    assert file.read(0, 5) == b"first"
    assert file.read(2 * PAGE, 5) == b"third"
    assert file.read(PAGE - 2, 4) is None
    assert file.read(1 << 63, 4) is None
    assert file.read(0, limits.ELF_NOTE_BYTES + 1) is None


def test_page_tables() -> None:
    memory = FakeMemory()
    root, upper, middle, lower = 0x1000, 0x2000, 0x3000, 0x4000
    start = KERNEL_MAP + (1 << 30)
    memory.u64(root + 8 * ((start >> 39) & 511), upper | 3)
    memory.u64(upper + 8 * ((start >> 30) & 511), middle | 3)
    memory.u64(middle, lower | 3, 0x600000 | 0x83)
    memory.u64(lower, 0x5000 | 3 | 1 << 63, 0x7000 | 3)
    x86 = fake_x86(root)
    assert x86.physical(start + 0x1234, memory.read_physical) == 0x7234
    assert x86.physical(start + (2 << 20) + 5, memory.read_physical) == 0x600005
    for address in (start + 0x2000, 0, 1 << 70):
        with pytest.raises(UnreadableError):
            x86.physical(address, memory.read_physical)
    found = list(x86.sweep(*x86.modules, memory.read_physical))
    assert [(one.virtual - start, one.physical, one.executable) for one in found] == [
        (0, 0x5000, False),
        (0x1000, 0x7000, True),
        (2 << 20, 0x600000, True),
    ]
    # a table that holds itself: as many pages as addresses, not more
    memory.u64(root, *([root | 3] * 512))
    assert sum(1 for _ in x86.sweep(*x86.modules, memory.read_physical)) == (1 << 30 >> 12) - 4096


class FakeSession:
    """What a map needs of a session."""

    def __init__(self, info: VmcoreInfo | None) -> None:
        self.info = info
        self.target = "x86_64"
        self.ranges = (MemoryRange(0, 64 * PAGE, False, "ram"),)
        self.paused_ms = 0.0

    def read_physical(self, address: int, size: int) -> bytes:
        return bytes(size)


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(paths.ENV_HOME, str(tmp_path))


def test_a_guest_without_linux_is_mapped_with_a_note() -> None:
    found = mapper.map_guest(FakeSession(None))
    assert "no running Linux kernel" in found.note
    assert found.table.counts()[OwnerKind.UNKNOWN] == 64
    value = found.to_json()
    assert value["kernel"]["text"] == [0, 0]
    assert (value["kernel_modules"], value["processes"]) == ([], [])
    assert json.dumps(value)


def test_a_kernel_that_says_little_is_mapped_with_a_note() -> None:
    empty = VmcoreInfo.parse(b"OSRELEASE=6.1.0\n")
    assert "phys_base" in mapper.map_guest(FakeSession(empty)).note
    some = VmcoreInfo.parse(
        b"OSRELEASE=6.1.0\nNUMBER(phys_base)=0\nSYMBOL(swapper_pg_dir)=ffffffff81000000\n"
        b"SYMBOL(kallsyms_names)=ffffffff82000000\n"
    )
    found = mapper.map_guest(FakeSession(some))
    assert "symbol table" in found.note
    assert "Linux 6.1.0 has structures that are not known; not read: all" in found.unknown
    assert mapper.map_guest(FakeSession(None)).unknown == ""


def test_only_a_living_kernel_is_believed() -> None:
    info = VmcoreInfo.parse(
        b"OSRELEASE=6.1.0\nNUMBER(phys_base)=0\nSYMBOL(swapper_pg_dir)=ffffffff80001000\n"
        b"SYMBOL(init_uts_ns)=ffffffff80005000\nOFFSET(uts_namespace.name)=0\n"
    )
    memory = FakeMemory()
    memory.u64(0x1000 + 8 * 511, 0x2003)
    memory.u64(0x2000 + 8 * 510, 0x3003)
    memory.u64(0x3000, 0x83)
    memory.write(0x5000 + 2 * 65, b"6.1.0\0")
    assert is_alive(memory, "x86_64", info)
    memory.write(0x5004 + 2 * 65, b"6.1.0\0")
    older = dataclasses.replace(info, offsets={})  # before Linux 5.11
    assert is_alive(memory, "x86_64", older)
    assert not is_alive(memory, "x86_64", info)
    memory.write(0x5000 + 2 * 65, b"6.12.0\0")
    assert not is_alive(memory, "x86_64", info)
    assert not is_alive(FakeMemory(), "x86_64", info)
    assert not is_alive(memory, "x86_64", VmcoreInfo.parse(b""))


def test_known_kernels_are_kept_and_damaged_files_are_not_used() -> None:
    layout = KernelLayout({"page.flags": 0}, {"page": 64}, {})
    known = KnownKernel({"_text": 1}, layout, "12ab", {"init_task": 5}, searched=True)
    kernelcache.save("ab12", known)
    assert kernelcache.load("ab12") == known
    file = kernelcache.file_of("ab12")
    assert file is not None
    text = file.read_text()
    for damaged in (text[:-9], "[]", "{}", text.replace("64", '"x"'), "\0"):
        file.write_text(damaged)
        assert kernelcache.load("ab12") is None
    assert kernelcache.load("../ab") is None
    kernelcache.save("../ab", known)
    assert [one.name for one in file.parent.iterdir()] == ["ab12.json"]
