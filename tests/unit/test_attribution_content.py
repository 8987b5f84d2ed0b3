# SPDX-License-Identifier: GPL-2.0-or-later
"""Places that bytes from images prove: freed kernel code, moved firmware, deleted programs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from attributionhelp import (
    KERNEL,
    LIBC,
    PAGE,
    SHELL,
    Place,
    World,
    as_places,
    code,
    module_of,
    open_as,
)

from sysqcache.attribution import blocks
from sysqcache.attribution import content as content_module
from sysqcache.attribution.attribute import attribute
from sysqcache.attribution.images import blob
from sysqcache.attribution.patching import KernelPatches
from sysqcache.attribution.truths import Blob, CodePages, KernelText, Truths
from sysqcache.formats.modules import Module, ModuleKind
from sysqcache.guestmap.result import KernelInfo
from sysqcache.guestmap.table import Owner, OwnerKind

P = 0x5000
MAPPED = 0x7F00_0000_0000
RET = b"\xc3"
KERNEL_MODULE = Module(ModuleKind.KERNEL, KERNEL.build_id, KERNEL.release)


def kernel_text(content: bytes, slide: int = 0, module: Module = KERNEL_MODULE) -> Truths:
    return Truths(kernels=(KernelText(module, slide, np.frombuffer(content, np.uint8)),))


def files(*found: tuple[Owner, int, bytes]) -> Truths:
    """Truths of files: an owner, an offset, the bytes from there."""
    pages = (
        (module_of(owner), offset + place, content[place : place + PAGE].ljust(PAGE, b"\0"))
        for owner, offset, content in found
        for place in range(0, len(content), PAGE)
    )
    return Truths(files=(CodePages.of(pages),))


def test_freed_kernel_code() -> None:
    world = World()
    image = code(1, 4 * PAGE)
    at = KERNEL.physical + 0x2000
    world.page(at, Owner(OwnerKind.FREE), 0)
    world.run(at + 8, KERNEL.base + 0x2008, image[0x2008:0x200A])
    world.run(at + 0x20, KERNEL.base + 0x2020, code(9, 12))
    world.run(at + 8, KERNEL.base + 0x3008, image[0x3008:0x3028])
    world.run(at + 8, KERNEL.base + 0x3008, image[0x2008:0x2028])
    world.run(KERNEL.physical + 0x3FF0, KERNEL.base + 0x3FF0, image[-16:] + b"\0" * 4, at)
    opened = open_as(ModuleKind.KERNEL)
    first = Place("6.1.0-test", 0x2008, ModuleKind.KERNEL)
    assert world.places(truths=kernel_text(image)) == [first] + [opened] * 4


@pytest.mark.parametrize(
    ("room", "made"),
    [
        ("1f2003d51f2003d5", "e9031eaa1f2003d5"),
        ("0100010001000100", "1300000013000000"),
        ("0100010001000100", "9702000013000000"),
        ("05000014 1f2003d5", "1f2003d51f2003d5"),
        ("1f000014 1f2003d5", "1f2003d51f2003d5"),
        ("6f00a000 01000100", "1300000001000100"),
        ("f30f1efa 90909090", "0f1f40d690909090"),
        ("f30f1efa 90909090", "660f1f0090909090"),
    ],
)
def test_freed_kernel_code_that_the_kernel_had_changed(room: str, made: str) -> None:
    function, other = bytes.fromhex(room) + code(1, 24), bytes.fromhex(room) + code(2, 24)
    image = function * 3 + other
    world = World()
    world.page(KERNEL.physical, Owner(OwnerKind.FREE), 0)
    world.run(KERNEL.physical + 32, KERNEL.base + 32, bytes.fromhex(made) + code(1, 24)[:8])
    world.run(KERNEL.physical + 64, KERNEL.base + 64, function)
    # not there, and changed otherwise
    world.run(KERNEL.physical + 44, KERNEL.base + 44, bytes.fromhex(made) + code(1, 24)[:8])
    world.run(KERNEL.physical + 96, KERNEL.base + 96, bytes.fromhex(made) + code(3, 24))
    placed = [Place("6.1.0-test", offset, ModuleKind.KERNEL) for offset in (32, 64)]
    places = world.places(truths=kernel_text(image))
    assert places == [*placed, *[open_as(ModuleKind.KERNEL)] * 2]


def x86_function(place: int, seed: int, fentry: int = 0, thunk: int = 16) -> bytes:
    """64 bytes: a landing pad, a call that can be traced, code, a return through a thunk."""
    call = b"\xe8" + (fentry - place - 9).to_bytes(4, "little", signed=True)
    jump = b"\xe9" + (thunk - place - 64).to_bytes(4, "little", signed=True)
    return b"\xf3\x0f\x1e\xfa" + call + code(seed, 50).replace(b"\xe9", b"\xea") + jump


def test_what_an_x86_kernel_makes_of_calls_and_returns() -> None:
    """In each order, and only where they lead to where most of them do."""
    functions = [x86_function(64 * n, n) for n in range(4)]
    functions.append(x86_function(256, 4, fentry=32, thunk=48))
    image = b"".join(functions)
    patches = KernelPatches(np.frombuffer(image, np.uint8))
    nop = bytes.fromhex("0f1f440000")
    for place in (64, 128):
        pad, body = image[place : place + 4], image[place + 9 : place + 59]
        assert patches.explain(place, pad + nop + body + RET)
        assert patches.explain(place, bytes.fromhex("0f1f40d6") + nop + body + RET)
        assert patches.explain(place, image[place : place + 9] + body + RET)
        assert patches.explain(place + 59, RET)
        assert not patches.explain(place, pad + nop + body[:-1] + RET + RET)
        assert not patches.explain(place, pad + nop[:4] + b"\x01" + body)
        # a block ends with a return
        assert not patches.explain(place, pad + nop + body + RET + image[place + 60 : place + 64])
    assert not patches.explain(256, image[256:260] + nop + image[265:315])
    assert not patches.explain(256 + 59, RET)
    assert not KernelPatches(np.zeros(8, np.uint8)).explain(0, nop)


def test_changed_kernel_code_is_looked_at_for_a_limited_time() -> None:
    world = World()
    world.page(KERNEL.physical, Owner(OwnerKind.FREE), 0)
    world.run(KERNEL.physical, KERNEL.base, bytes.fromhex("0f1f40d6") + code(1, 24))
    image = bytes.fromhex("f30f1efa") + code(1, 24)
    late = attribute(world.journal(), [world.look()], kernel_text(image), seconds=0)
    assert as_places(late) == [open_as(ModuleKind.KERNEL)]
    assert world.places(truths=kernel_text(image)) == [Place("6.1.0-test", 0, ModuleKind.KERNEL)]


@pytest.mark.parametrize(
    "truths",
    [
        kernel_text(code(1, PAGE), slide=0x200000),
        kernel_text(code(1, PAGE), module=Module(ModuleKind.KERNEL, "f" * 40)),
        kernel_text(b""),
        kernel_text(code(2, PAGE)),
    ],
)
def test_bytes_of_another_kernel(truths: Truths) -> None:
    world = World()
    world.page(KERNEL.physical, Owner(OwnerKind.FREE), 0)
    world.run(KERNEL.physical, KERNEL.base, code(1, PAGE)[:30])
    assert world.places(truths=truths) == [open_as(ModuleKind.KERNEL)]


def moved_firmware(world: World, content: bytes, base: int) -> None:
    for offset in (0x100, 0x180, 0x200):
        place = base + offset
        world.run(place, place, content[offset : offset + 30])
    world.run(base + 0x240, base + 0x240, content[0x240:0x242])
    world.run(base + 0x280, base + 0x280, code(77, 20))


def test_firmware_and_boot_stub_are_found_wherever_they_run() -> None:
    """Also at distances that are not whole pages, and copied twice."""
    world = World()
    bios, stub = blob(code(1, 0x4000), "bios.bin"), blob(code(2, 0x8000), "boot stub")
    moved_firmware(world, bios.content.tobytes(), 0xF0000)
    moved_firmware(world, bios.content.tobytes(), 0x3EFF_1234)
    moved_firmware(world, stub.content.tobytes(), 0x20_0200)
    world.run(P, KERNEL.base + P, code(3, 20))
    truths = Truths(blobs=(dataclasses.replace(stub, is_stub=True), bios))
    offsets = [0x100, 0x180, 0x200, 0x240]
    expected = [Place("bios.bin", offset, ModuleKind.FIRMWARE) for offset in offsets]
    expected += [open_as(ModuleKind.FIRMWARE)]
    places = world.places(truths=truths)
    assert places[:10] == expected * 2
    assert [place.module for place in places[10:]] == ["boot stub"] * 4 + ["", ""]
    # what nobody knows behind the hand-over is not the firmware's
    assert places[14].kind is ModuleKind.UNKNOWN


def test_firmware_that_a_kernel_calls() -> None:
    """OpenSBI runs on below a RISC-V kernel, at the place where it was found."""
    world = World()
    sbi = blob(code(1, 0x4000), "opensbi.bin")
    content = sbi.content.tobytes()
    moved_firmware(world, content, 0x8000_0000)
    world.run(P, KERNEL.base + P, code(3, 20))
    for offset in (0x1000, 0x1100, 0x1200):
        world.run(0x8000_0000 + offset, 0x8000_0000 + offset, content[offset : offset + 30])
    # equal by chance, or not at that place
    world.run(P + 0x300, 0x8000_0300, code(9, 30))
    world.run(P + 0x302, 0x8000_0302, content[0x302:0x304])
    places = world.places(truths=Truths(blobs=(sbi,)))
    assert [place.offset for place in places[6:9]] == [0x1000, 0x1100, 0x1200]
    assert [place.module for place in places[6:9]] == ["opensbi.bin"] * 3
    assert [place.module for place in places[9:]] == ["", ""]


def test_programs_above_the_addresses_of_x86() -> None:
    """arm64 maps libraries below 2^48."""
    world = World()
    content = code(1, 2 * PAGE)
    program(world, content, base=0xFFFF_8F00_0000)
    places = world.places(truths=files((SHELL, 0x1000, content)))
    assert [place.module for place in places] == [SHELL.name] * 5


def test_firmware_is_not_looked_for_once_the_kernel_runs() -> None:
    world = World()
    bios = blob(code(1, 0x4000), "bios.bin")
    world.run(P, KERNEL.base + P, code(3, 20))
    moved_firmware(world, bios.content.tobytes(), 0x400000)
    assert {place.module for place in world.places(truths=Truths(blobs=(bios,)))} == {""}


def test_code_that_a_file_holds_twice_does_not_say_where_it_runs() -> None:
    world = World()
    content = code(1, 0x1000) + code(1, 0x200) + code(2, 0x1000)
    world.run(0xF1000, 0xF1000, content[0x1000:0x1064])
    assert world.places(truths=Truths(blobs=(blob(content, "b"),)))[0].module == ""
    moved_firmware(world, content[0x1200:], 0xF1200)
    assert world.places(truths=Truths(blobs=(blob(content, "b"),)))[0].offset == 0x1000


def test_little_firmware_proves_nothing() -> None:
    world = World()
    bios = blob(code(1, 0x4000), "bios.bin")
    content = bios.content.tobytes()
    world.run(0xF0100, 0xF0100, content[0x100:0x120])
    world.run(0xF0200, 0xF0200, content[0x200:0x202])
    assert [place.module for place in world.places(truths=Truths(blobs=(bios,)))] == ["", ""]


@pytest.mark.parametrize("shift", [0, 1], ids=["in words", "at any byte"])
def test_firmware_whose_parts_were_moved(shift: int) -> None:
    """Drivers of EFI firmware: each has a place of its own, which two of its blocks agree on."""
    world = World()
    volume = dataclasses.replace(blob(code(1, 0x8000), "volume"), in_parts=True)
    content = volume.content.tobytes()
    for part, base in ((0x1000, 0x3E00_0000), (0x3000, 0x1000), (0x5000, 0x4780_0000)):
        moved_firmware(world, content[part:], base + shift)
    # one block of a part does not say where the part is, nor does a block that is in no part
    world.run(0x9_0000, 0x9_0000, content[0x7000:0x7040])
    world.run(0xA_0000, 0xA_0000, code(5, 64))
    places = world.places(truths=Truths(blobs=(volume,)))
    offsets = [0x100, 0x180, 0x200, 0x240]
    for number, part in enumerate((0x1000, 0x3000, 0x5000)):
        found = places[number * 5 : number * 5 + 5]
        assert [place.offset for place in found[:4]] == [part + offset for offset in offsets]
        assert [place.module for place in found] == ["volume"] * 4 + [""]
    assert [place.module for place in places[15:]] == ["", ""]


def test_a_kernel_that_is_no_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs where it was loaded and at high addresses, long after them too."""
    monkeypatch.setattr("sysqcache.attribution.parts._AT_ONCE", 0x1000)
    world = World(kernel=KernelInfo())
    bios, content = blob(code(1, 0x4000), "bios.bin"), code(2, 0x8000)
    module = Module(ModuleKind.KERNEL, "sha256:2", "xen")
    kernel = Blob(module, np.frombuffer(content, np.uint8), True, True, is_system=True)
    moved_firmware(world, bios.content.tobytes(), 0xF0000)
    for base in (0x20_0100, 0xFFFF_82D0_4000_0000):
        # a segment of its own, and a place where the file was searched in two steps
        moved_firmware(world, content, base)
        for at in (0xFF8, 0x1FE0, 0x7FE0):
            world.run(base + 0x10_0000 + at, base + 0x10_0000 + at, content[at : at + 32])
    places = world.places(truths=Truths(blobs=(kernel, bios)))
    expected = [Place("xen", at, ModuleKind.KERNEL) for at in (0x100, 0x180, 0x200, 0x240)]
    expected += [open_as(ModuleKind.UNKNOWN)]
    expected += [Place("xen", at, ModuleKind.KERNEL) for at in (0xFF8, 0x1FE0, 0x7FE0)]
    assert [place.module for place in places[:4]] == ["bios.bin"] * 4
    assert places[4] == open_as(ModuleKind.FIRMWARE)
    assert places[5:] == expected * 2


def test_firmware_alone_runs_nothing_else() -> None:
    world = World(kernel=KernelInfo())
    bios = blob(code(1, 0x4000), "bios.bin")
    moved_firmware(world, bios.content.tobytes(), 0xF0000)
    world.run(0x3E00_0000, 0x3E00_0000, code(3, 40))
    alone = world.places(truths=Truths(blobs=(bios,), firmware_alone=True))
    assert {place.kind for place in alone} == {ModuleKind.FIRMWARE}
    assert world.places(truths=Truths(blobs=(bios,)))[-1] == open_as(ModuleKind.UNKNOWN)


def test_parts_that_are_alike_say_nothing() -> None:
    world = World()
    content = code(1, 0x1000) * 2
    volume = dataclasses.replace(blob(content, "volume"), in_parts=True)
    moved_firmware(world, content, 0xF0000)
    assert {place.module for place in world.places(truths=Truths(blobs=(volume,)))} == {""}
    tiny = dataclasses.replace(blob(content[:15], "tiny"), in_parts=True)
    assert {place.module for place in world.places(truths=Truths(blobs=(tiny,)))} == {""}


def program(world: World, content: bytes, base: int = MAPPED, offset: int = 0x1000) -> None:
    """A process that ran five blocks of a deleted file, two of them short ones."""
    world.page(P, Owner(OwnerKind.FREE), 0)
    for place, size in ((0x100, 30), (0x200, 30), (0x300, 2), (0x400, 30), (0x500, 1)):
        world.run(P + place, base + offset + place, content[place : place + size])


def test_a_deleted_program_is_found_by_its_bytes() -> None:
    world = World()
    content = code(1, 2 * PAGE)
    program(world, content)
    # a block on both of its pages, and one of somebody else
    world.run(P + PAGE - 9, MAPPED + 0x2000 - 9, content[PAGE - 9 : PAGE + 9], second=P + 7 * PAGE)
    broken = content[PAGE - 9 : PAGE + 8] + b"?"
    world.run(P + PAGE - 9, MAPPED + 0x2000 - 9, broken, second=P + 7 * PAGE)
    world.run(P + 0x600, MAPPED + 0x1600, code(9, 40))
    places = world.places(truths=files((LIBC, 0x8000, code(3, PAGE)), (SHELL, 0x1000, content)))
    wanted = [0x1100, 0x1200, 0x1300, 0x1400, 0x1500, 0x2000 - 9]
    assert places[:6] == [Place("/bin/sh", offset, ModuleKind.FILE) for offset in wanted]
    assert places[6:] == [open_as(ModuleKind.UNKNOWN)] * 2


def test_the_start_of_a_program_alone_is_no_proof() -> None:
    """Programs that the same linker made begin with the same code in the same place."""
    world = World()
    content = code(1, PAGE)
    world.page(P, Owner(OwnerKind.FREE), 0)
    world.run(P, MAPPED, content[:40])
    world.run(P + 0x100, MAPPED + 0x100, content[0x100:0x102])
    truths = files((SHELL, 0x1000, content))
    assert [place.module for place in world.places(truths=truths)] == ["", ""]


def test_the_file_that_explains_more_wins() -> None:
    world = World()
    content = code(1, PAGE)
    program(world, content)
    half = content[:0x450] + code(2, PAGE - 0x450)
    longer = files((LIBC, 0x1000, half), (SHELL, 0x1000, content))
    assert {place.module for place in world.places(truths=longer)} == {"/bin/sh"}


@pytest.mark.parametrize("order", [(LIBC, SHELL), (SHELL, LIBC)])
def test_of_equal_files_the_one_used_about_then_wins(order: tuple[Owner, Owner]) -> None:
    content = code(1, PAGE)
    truths = files(*((owner, 0x1000, content) for owner in order))
    world = World()
    program(world, content)
    assert {place.module for place in world.places(truths=truths)} == {order[0].name}
    world.page(0x9000, SHELL, 0x7000, code(4, PAGE))
    world.run(0x9000, MAPPED + 0x7000, code(4, 40))
    assert {place.module for place in world.places(truths=truths)} == {"/bin/sh"}


def test_programs_at_one_address_are_told_apart() -> None:
    """Without randomization each program has the address of the one before."""
    world = World()
    first, second = code(1, PAGE), code(2, PAGE)
    second = second[:0x300] + first[0x300:0x302] + second[0x302:]
    program(world, first, base=0x400000)
    world.page(0x6000, Owner(OwnerKind.FREE), 0)
    for place, size in ((0x300, 2), (0x100, 30), (0x200, 30), (0x400, 30)):
        world.run(0x6000 + place, 0x401000 + place, second[place : place + size])
    program(world, first, base=0x400000)
    truths = files((LIBC, 0x1000, first), (SHELL, 0x1000, second))
    names = [place.module for place in world.places(truths=truths)]
    assert names[:5] == names[9:] == ["/lib/libc.so.6"] * 5
    # the short block is the second program's, and equal to the first one's
    assert names[5] in ("/bin/sh", "")
    assert names[6:9] == ["/bin/sh"] * 3


def test_content_is_found_without_a_look_into_the_guest() -> None:
    from sysqcache.attribution.attribute import attribute

    world = World(kernel=KernelInfo())
    content = code(1, PAGE)
    program(world, content)
    found = attribute(world.journal(), (), files((SHELL, 0x1000, content)))
    assert found.attributed == 5


def test_code_that_is_everywhere_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def same_bytes(*pieces: Any) -> Any:
        compared.append(len(pieces[-1]))
        return blocks.same_bytes(*pieces)

    monkeypatch.setattr(content_module, "same_bytes", same_bytes)
    world = World()
    for number in range(400):
        world.run(P + number * PAGE, MAPPED + number * PAGE, code(5, 60))
    same = code(5, PAGE)
    truths = files(*((dataclasses.replace(LIBC, build_id=f"{n:040x}"), 0, same) for n in range(99)))
    assert {place.module for place in world.places(truths=truths)} == {""}
    assert not compared
    world.places(truths=files((LIBC, 0, same)))
    assert compared


def test_searching_ends_in_time() -> None:
    world = World()
    content = code(1, PAGE)
    program(world, content)
    truths = files((SHELL, 0x1000, content))
    assert attribute(world.journal(), (), truths, seconds=-1.0).attributed == 0
    assert attribute(world.journal(), (), truths).attributed == 5
