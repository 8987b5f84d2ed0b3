# SPDX-License-Identifier: GPL-2.0-or-later
"""Places by address: what confirms one, and what must not."""

from __future__ import annotations

import dataclasses

import pytest
from attributionhelp import (
    EXT4,
    EXT4_OWNER,
    KERNEL,
    LIBC,
    PAGE,
    SHELL,
    TEXT,
    Place,
    World,
    as_places,
    code,
    open_as,
)

from sysqcache.attribution.attribute import attribute
from sysqcache.attribution.observation import Observation, Seen
from sysqcache.base.errors import MachineDied
from sysqcache.formats.modules import ModuleKind
from sysqcache.formats.places import Places
from sysqcache.guestmap.result import KernelInfo, Mapping, Process
from sysqcache.guestmap.table import Owner, OwnerKind

P, Q = 0x5000, 0x9000
MAPPED = 0x7F00_0000_0000
RET = b"\xc3"


def test_a_block_of_a_file_is_placed() -> None:
    world = World()
    page = code(1, PAGE)
    world.page(P, LIBC, 0x28000, page)
    world.run(P + 0x123, MAPPED + 0x123, page[0x123 : 0x123 + 20])
    assert world.places() == [Place("/lib/libc.so.6", 0x28123, ModuleKind.FILE)]


def test_a_page_that_was_reused_labels_nothing() -> None:
    world = World()
    old, new = code(1, PAGE), code(2, PAGE)
    world.page(P, LIBC, 0x28000, new)
    world.run(P + 0x123, MAPPED + 0x123, old[0x123 : 0x123 + 20])
    assert world.places() == [open_as(ModuleKind.UNKNOWN)]


def test_a_short_block_that_is_equal_by_chance_is_not_labelled() -> None:
    """The page had another owner, whose `ret` stood where the new owner has one too."""
    world = World()
    old, new = code(1, PAGE), code(2, PAGE)
    new = new[:0x40] + RET + new[0x41:]
    world.page(P, LIBC, 0x28000, new)
    world.run(P + 0x40, MAPPED + 0x40, RET)
    world.run(P + 0x100, MAPPED + 0x100, old[0x100:0x120])
    world.run(P + 0x200, MAPPED + 0x7000_0200, new[0x200:0x220])
    assert [place.module for place in world.places()] == ["", "", "/lib/libc.so.6"]


def test_a_long_block_from_before_other_bytes_is_not_labelled_either() -> None:
    world = World()
    new = code(2, PAGE)
    world.page(P, LIBC, 0x28000, new)
    world.run(P, MAPPED, new[:32])
    world.run(P + 0x100, MAPPED + 0x100, code(3, 16))
    assert [place.module for place in world.places()] == ["", ""]


def test_a_lone_short_block_is_not_labelled() -> None:
    world = World()
    world.page(P, LIBC, 0x28000, RET)
    world.run(P, MAPPED, RET)
    assert world.places() == [open_as(ModuleKind.FILE)]


@pytest.mark.parametrize("same_mapping", [True, False])
def test_a_short_block_needs_a_witness_of_its_mapping_or_from_before_on_its_page(
    same_mapping: bool,
) -> None:
    world = World()
    page = code(1, PAGE)
    page = page[:0x10] + RET + page[0x11:]
    world.page(P, LIBC, 0x28000, page)
    world.page(Q, LIBC, 0x29000, code(2, PAGE))
    world.run(P + 0x10, MAPPED + 0x10, RET)
    elsewhere = 0 if same_mapping else 0x10_0000
    world.run(Q, MAPPED + 0x1000 + elsewhere, code(2, PAGE)[:16])
    first = world.places()[0]
    assert first.module == ("/lib/libc.so.6" if same_mapping else "")
    world.run(P + 0x100, MAPPED + 0x2222_0100, page[0x100:0x120])
    world.run(P + 0x10, MAPPED + 0x3333_0010, RET)
    assert world.places()[3] == Place("/lib/libc.so.6", 0x28010, ModuleKind.FILE)


def two_pages(second: Owner, offset: int, content: bytes) -> list[Place]:
    world = World()
    whole = code(1, 2 * PAGE)
    world.page(P, LIBC, 0x28000, whole[:PAGE])
    world.page(Q, second, offset, content)
    world.run(P + PAGE - 10, MAPPED + PAGE - 10, whole[PAGE - 10 : PAGE + 12], Q)
    return world.places()


def test_blocks_on_two_pages() -> None:
    good = code(1, 2 * PAGE)[PAGE:]
    assert two_pages(LIBC, 0x29000, good)[0].offset == 0x28000 + PAGE - 10
    assert two_pages(LIBC, 0x29000, good[:11] + bytes(PAGE - 11)) == [open_as(ModuleKind.UNKNOWN)]
    assert two_pages(LIBC, 0x2A000, good)[0].module == ""
    assert two_pages(SHELL, 0x29000, good)[0].module == ""


@pytest.mark.parametrize(
    ("owner", "offset", "kind"),
    [
        (LIBC, (1 << 32) - 0x1000, None),
        (LIBC, 1 << 32, ModuleKind.FILE),
        (LIBC, (1 << 64) - 0x1000, ModuleKind.FILE),
        (dataclasses.replace(LIBC, build_id=""), 0x1000, ModuleKind.FILE),
        (dataclasses.replace(EXT4_OWNER, build_id=""), 0x1000, ModuleKind.KERNEL_MODULE),
        (EXT4_OWNER, (1 << 64) - 0x1000, ModuleKind.KERNEL_MODULE),
        (Owner(OwnerKind.JIT), 0, ModuleKind.JIT),
        (Owner(OwnerKind.ANONYMOUS), 0, ModuleKind.ANONYMOUS),
        (Owner(OwnerKind.FREE), 0, ModuleKind.UNKNOWN),
    ],
)
def test_owners_without_sense(owner: Owner, offset: int, kind: ModuleKind | None) -> None:
    """Offsets beyond 4 GiB and owners without identity give a kind, no place."""
    world = World()
    page = code(1, PAGE)
    world.page(P, owner, offset, page)
    world.run(P + 8, MAPPED + 8, page[8:40])
    place = world.places()[0]
    if kind is None:
        assert place == Place("/lib/libc.so.6", offset + 8, ModuleKind.FILE)
    else:
        assert place == open_as(kind)


def test_generated_code_of_a_process() -> None:
    world = World()
    page = code(1, PAGE)
    mapping = Mapping(MAPPED, MAPPED + PAGE, "rwxp", 0, 0, "")
    world.processes.append(Process(1, "node", (mapping,)))
    world.page(P, Owner(OwnerKind.ANONYMOUS), 0, page)
    world.run(P + 8, MAPPED + 8, page[8:40])
    world.run(P + 8, MAPPED + PAGE + 8, page[8:40])
    assert world.places() == [open_as(ModuleKind.JIT), open_as(ModuleKind.ANONYMOUS)]


def test_kernel_code_is_placed_where_the_kernel_runs() -> None:
    world = World()
    page = code(1, PAGE)
    world.page(KERNEL.physical + 0x3000, TEXT, 0x3000, page)
    world.run(KERNEL.physical + 0x3010, KERNEL.base + 0x3010, page[0x10:0x12])
    world.run(KERNEL.physical + 0x3020, KERNEL.physical + 0x3020, page[0x20:0x22])
    world.run(KERNEL.physical + 0x3030, MAPPED + 0x3030, page[0x30:0x60])
    good = [Place("6.1.0-test", offset, ModuleKind.KERNEL) for offset in (0x3010, 0x3020)]
    assert world.places() == [*good, open_as(ModuleKind.KERNEL)]


def test_patched_kernel_code_stays_open() -> None:
    world = World()
    page = code(1, PAGE)
    world.page(KERNEL.physical, TEXT, 0, page)
    world.run(KERNEL.physical, KERNEL.base, code(9, 30))
    assert world.places() == [open_as(ModuleKind.KERNEL)]


def test_a_module_is_placed_inside_its_code_only() -> None:
    world = World(modules=[EXT4])
    start, end = EXT4.text
    page = code(1, PAGE)
    world.page(P, EXT4_OWNER, 0x3000, page)
    world.page(Q, EXT4_OWNER, 0x4000, page)
    world.run(P, start + 0x3000, page[:2])
    world.run(P + 16, start + 0x2010, page[16:40])
    world.run(Q, end, page[:30])
    assert world.places() == [
        Place("ext4", 0x3000, ModuleKind.KERNEL_MODULE),
        open_as(ModuleKind.KERNEL_MODULE),
        open_as(ModuleKind.KERNEL_MODULE),
    ]


def test_what_any_look_confirmed_stays() -> None:
    world = World()
    page = code(1, PAGE)
    world.page(P, LIBC, 0x28000, page)
    world.run(P, MAPPED, page[:20])
    first = world.look()
    world.page(P, SHELL, 0x1000, page)
    world.run(P + 0x40, MAPPED + 0x1234_0040, page[0x40:0x60])
    assert world.places(first, world.look()) == [
        Place("/lib/libc.so.6", 0x28000, ModuleKind.FILE),
        Place("/bin/sh", 0x1040, ModuleKind.FILE),
    ]


def test_blocks_that_no_look_saw_are_unknown() -> None:
    world = World()
    page = code(1, PAGE)
    world.page(P, LIBC, 0x28000, page)
    look = world.look()
    world.run(P, MAPPED, page[:20])
    assert world.places(look) == [open_as(ModuleKind.UNKNOWN)]
    assert as_places(attribute(world.journal(), ())) == [open_as(ModuleKind.UNKNOWN)]


def test_dead_areas_have_their_first_owner() -> None:
    world = World()
    world.page(P, LIBC, 0x28000)
    world.page(Q, Owner(OwnerKind.ANONYMOUS), 0)
    world.die(P + 8)
    world.die(Q + 8)
    world.die(1 << 35)
    first = world.look()
    world.page(P, SHELL, 0)
    found = attribute(world.journal(), [first, world.look()])
    assert found.dead_ram.tolist() == [(1 << 30) + P + 8]
    assert found.modules[found.dead_module[0]].name == "/lib/libc.so.6"
    assert found.dead_offset.tolist() == [0x28008]


def test_without_a_kernel_there_are_kinds_only() -> None:
    world = World(kernel=KernelInfo())
    page = code(1, PAGE)
    world.page(0xF0000, Owner(OwnerKind.FIRMWARE, "pc.bios"), 0, page)
    world.run(0xF0000, 0xF0000, page[:20])
    world.run(P, P, page[:20])
    look = world.look()
    assert world.places(look) == [open_as(ModuleKind.FIRMWARE), open_as(ModuleKind.UNKNOWN)]
    assert attribute(world.journal(), [look]).kernel is None


def test_the_answer_can_be_written_and_read() -> None:
    world = World(modules=[EXT4])
    page = code(1, PAGE)
    world.page(P, LIBC, 0x28000, page)
    world.run(P, MAPPED, page[:20])
    found = attribute(world.journal(), [world.look()])
    again = Places.decode(found.encode())
    assert as_places(again) == as_places(found)
    assert again.kernel is not None
    assert again.kernel.name == "6.1.0-test"
    assert found.attributed == 1


def test_memory_that_can_not_be_read() -> None:
    world = World()
    page = code(1, PAGE)
    world.page(P, LIBC, 0x28000, page)
    world.page(P + PAGE, LIBC, 0x29000, page)
    del world.memory.pages[P]
    world.run(P, MAPPED, page[:20])
    world.run(P + PAGE, MAPPED + PAGE, page[:20])
    world.run(1 << 37, MAPPED, page[:20])
    look = world.look()
    assert look.seen.tolist() == [Seen.UNREAD, Seen.SAME, Seen.UNREAD]
    assert [place.module for place in world.places(look)] == ["", "/lib/libc.so.6", ""]


def test_a_look_ends_in_time() -> None:
    world = World()
    page = code(1, PAGE)
    world.page(P, LIBC, 0x28000, page)
    world.run(P, MAPPED, page[:20])
    look = world.look(seconds=-1.0)
    assert look.seen.tolist() == [Seen.UNREAD]
    assert world.places(look)[0].module == ""


def test_an_empty_journal() -> None:
    world = World()
    look = world.look()
    assert isinstance(look, Observation)
    assert world.places(look) == []


def test_a_qemu_that_ends_is_told() -> None:
    world = World()
    page = code(1, PAGE)
    world.page(P, LIBC, 0x28000, page)
    world.run(P, MAPPED, page[:20])

    class Ended:
        def read_physical(self, address: int, size: int) -> bytes:
            raise MachineDied(f"{size} bytes at {address:#x} are gone")

    world.memory = Ended()  # type: ignore[assignment]
    with pytest.raises(MachineDied):
        world.look()
