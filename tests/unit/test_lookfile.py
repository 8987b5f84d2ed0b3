# SPDX-License-Identifier: GPL-2.0-or-later
"""What is taken from a living guest tells the same later as the guest did."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from attributionhelp import LIBC, PAGE, SHELL, World, as_places, code

from sysqcache.attribution import look as looking
from sysqcache.attribution.imagescan.reader import ImageContents
from sysqcache.attribution.lookfile import Looks, read_looks, write_looks
from sysqcache.attribution.observation import Seen
from sysqcache.attribution.placer import AttributionSummary, Placer
from sysqcache.base.errors import FormatError
from sysqcache.formats.runfiles import RunFiles
from sysqcache.guestmap.memory import UnreadableError
from sysqcache.guestmap.result import Mapping, Process
from sysqcache.spec import resolve
from sysqcache.spec.spec import MachineSpec

P, Q, R = 0x5000, 0x6000, 0x9000
MAPPED = 0x7F00_0000_0000


def unasked(spec: MachineSpec) -> ImageContents:
    """Nothing here has an image."""
    raise AssertionError(spec)


def world() -> World:
    """Two pages in a row and one apart; code of a file on both, changed code, a dead area."""
    made = World()
    whole = code(1, 2 * PAGE)
    made.page(P, LIBC, 0x28000, whole[:PAGE])
    made.page(Q, LIBC, 0x29000, whole[PAGE:])
    made.page(R, SHELL, 0x1000, code(2, PAGE))
    made.run(P + 0x10, MAPPED + 0x10, whole[0x10:0x30])
    made.run(P + PAGE - 9, MAPPED + PAGE - 9, whole[PAGE - 9 : PAGE + 20], Q)
    made.run(R + 0x20, 0x20, code(3, 20))
    made.die(R + 0x100)
    jit = Mapping(0x1000, 0x2000, "rwxp", 0, 0, "")
    made.processes.append(Process(1, "init", (jit,)))
    return made


def equal(left: object, right: object) -> bool:
    """Whether two dataclasses with arrays hold the same."""
    fields = [field.name for field in dataclasses.fields(left)]  # type: ignore[arg-type]
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in fields)


def test_the_pages_tell_what_the_guest_did(tmp_path: Path) -> None:
    made = world()
    direct, taken = made.look(), made.taken()
    assert direct.seen.tolist() == [Seen.SAME, Seen.SAME, Seen.OTHER]
    assert equal(taken.observe(made.journal()), direct)
    assert taken.page.tolist() == [P // PAGE, Q // PAGE, R // PAGE]
    write_looks(tmp_path / "looks", Looks((taken,)))
    (read,) = read_looks(tmp_path / "looks").looks
    assert equal(read.observe(made.journal()), direct)


def test_what_came_later_is_not_judged() -> None:
    made = world()
    taken, then = made.taken(), made.look()
    # the page is another's now, and what ran there is not what was taken
    made.page(P, SHELL, 0x7000, code(9, PAGE))
    made.run(P + 0x10, MAPPED + 0x10, code(9, PAGE)[0x10:0x30])
    made.die(P + 0x40)
    assert equal(taken.observe(made.journal()), then)


def test_only_what_was_taken_can_be_read() -> None:
    taken = world().taken()
    assert len(taken.read_physical(P, 2 * PAGE)) == 2 * PAGE
    assert taken.read_physical(P + 5, 3) == code(1, PAGE)[5:8]
    for address, size in ((0, 8), (Q, PAGE + 1), (R, 2 * PAGE), (1 << 50, 8), (R - 8, 16)):
        with pytest.raises(UnreadableError):
            taken.read_physical(address, size)


def test_of_too_many_pages_the_fullest_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    made = world()
    made.run(R + 0x40, 0x40, code(4, 20))
    monkeypatch.setattr(looking, "MOST_PAGES", 2)
    taken = made.taken()
    assert taken.page.tolist() == [P // PAGE, R // PAGE]
    assert taken.observe(made.journal()).seen.tolist()[1] == Seen.UNREAD


def test_a_look_that_has_no_time_left() -> None:
    taken = world().taken(seconds=-1.0)
    assert len(taken.page) == 0
    assert set(taken.observe(world().journal()).seen.tolist()) == {Seen.UNREAD}


def run_files(directory: Path, made: World) -> RunFiles:
    """The journal of a world."""
    files = RunFiles(directory / "run.journal")
    files.path.write_bytes(made.written())
    files.path.chmod(0o600)
    return files


def test_who_places_later_finds_the_same(tmp_path: Path) -> None:
    made = world()
    files = run_files(tmp_path, made)
    first = AttributionSummary()
    write_looks(files.looks, Looks((made.taken(),)))
    Placer(files, first, pytest.fail, scan=unasked).place_handed_on()
    assert as_places(files.read_places()) == made.places()
    assert (first.blocks, first.attributed) == (3, 2)
    files.remove()
    assert list(tmp_path.iterdir()) == []


def test_looks_that_are_damaged_cost_the_modules_alone(tmp_path: Path) -> None:
    files = run_files(tmp_path, world())
    write_looks(files.looks, Looks((world().taken(),)))
    content = bytearray(files.looks.read_bytes())
    content[len(content) // 2] ^= 1
    files.looks.write_bytes(content)
    with pytest.raises(FormatError):
        read_looks(files.looks)
    said: list[str] = []
    Placer(files, AttributionSummary(), said.append, scan=unasked).place_handed_on()
    assert len(said) == 1
    assert not files.places.exists()


def test_looks_of_others_are_refused(tmp_path: Path) -> None:
    write_looks(tmp_path / "looks", Looks((world().taken(),)))
    (tmp_path / "looks").chmod(0o622)
    with pytest.raises(FormatError, match="other users"):
        read_looks(tmp_path / "looks")


def test_what_a_machine_is_goes_with_its_looks(tmp_path: Path) -> None:
    (tmp_path / "vm.yaml").write_text("name: vm")
    spec = resolve.load(tmp_path / "vm.yaml")
    write_looks(tmp_path / "looks", Looks((), spec, tmp_path))
    assert read_looks(tmp_path / "looks") == Looks((), spec, tmp_path)
