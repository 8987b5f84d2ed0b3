# SPDX-License-Identifier: GPL-2.0-or-later
"""Bundles: from one store to another, damaged and hostile ones, kills."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from storehelp import OTHER_FINGERPRINT, ingest, make_blocks
from test_store_modules import BIOS, DRIVER, KERNEL, LIBC, SHELL, boot, lines, placed, run

from sysqcache.base.errors import FormatError, StoreError, SysqcacheError, UsageError
from sysqcache.store.bundle import form
from sysqcache.store.facade import Store
from sysqcache.store.meta import Meta
from sysqcache.store.pack import Pack

Edit = Callable[[dict[str, Any]], object]


def filled(path: Path) -> Store:
    """What is exported: two images, two fingerprints, a dead place."""
    store = Store.open(path)
    run(store, placed(range(900, 901), SHELL), image="first of this store alone")
    run(store, boot(store), image="one", dead=[(0x7000, LIBC, 0x5000)])
    run(store, placed(range(40, 44), SHELL), image="two")
    run(store, placed(range(50, 54), LIBC), image="two", fingerprint=OTHER_FINGERPRINT)
    return store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return filled(tmp_path / "store")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bundle of such a store; made once, as committing takes time."""
    folder = tmp_path_factory.mktemp("exported")
    filled(folder / "store").export(folder / "bundle.tar")
    return (folder / "bundle.tar").read_bytes()


@pytest.fixture
def other(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "other")


@pytest.fixture
def file(exported: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "bundle.tar"
    path.write_bytes(exported)
    path.chmod(0o600)
    return path


def guests(store: Store) -> list[bytes]:
    """Guest code of all live blocks."""
    tables = [Pack.open(store.layout.pack(p.sha256)).blocks() for p in store.packs() if p.live]
    return sorted(bytes(t.guest_bytes(i)) for t in tables for i in range(len(t)))


def tables(store: Store) -> dict[str, Any]:
    """What the metadata say, in words instead of numbers, without times."""
    with Meta(store.layout.meta, read_only=True) as meta:
        images = {row.number: row.image_id for row in meta.images().values()} | {0: ""}
        modules = {row.number: row.module for row in meta.modules().values()}
        blocks = set()
        for row in meta.packs().values():
            columns = meta.columns(row)
            group = row.group
            if group.startswith("files:"):
                group = f"files:{images[int(group.removeprefix('files:'))]}"
            numbers = (columns.module, columns.offset, columns.image, columns.flags, columns.uses)
            for module, offset, image, *rest in zip(*(n.tolist() for n in numbers), strict=True):
                place = (modules[module], offset, images[image])
                blocks.add((row.fingerprint, group, *place, *rest))
        return {
            "blocks": blocks,
            "modules": {
                (m.module, tuple(sorted(images[i] for i in m.images)), m.dead_unplaced)
                for m in meta.modules().values()
            },
            "dead": {(modules[d.module], d.offset, d.size, d.changes) for d in meta.dead()},
            "boot": {
                i.image_id: ({modules[n] for n in i.modules}, i.fingerprints)
                for i in meta.images().values()
            },
        }


def everything(store: Store) -> tuple[Any, ...]:
    """Every file of packs and boot sets, and the counters."""
    with Meta(store.layout.meta, read_only=True) as meta:
        counters = dataclasses.asdict(meta.counters)
    files = {path.name: path.read_bytes() for path in store.layout.packs.iterdir()}
    return counters, files, store.layout.boot_sets.read_bytes()


def test_all_arrives(store: Store, other: Store, file: Path) -> None:
    result = other.import_bundle(file)
    assert (result.blocks_new, result.blocks_known, result.modules_new) == (33, 0, 7)
    assert tables(other) == tables(store)
    assert guests(other) == guests(store)
    assert lines(other) == lines(store)
    assert other.verify().good
    assert other.warnings == []


def test_starts_are_warm_at_once(store: Store, other: Store, file: Path) -> None:
    run(other, placed(range(800, 802), SHELL), image="something else", kernel=None)
    other.import_bundle(file)

    def never() -> list[Any]:
        raise AssertionError("the image is known")

    boot_set = other.boot_set("one", "x86_64", never)
    tables = [Pack.open(p).blocks() for p in boot_set]
    found = {bytes(t.guest_bytes(i)) for t in tables for i in range(len(t))}
    assert {b.guest for b, _, _ in boot(store)} <= found
    assert len(other.boot_set("never seen", "x86_64", lambda: [LIBC])) == 2


def test_twice_changes_nothing(other: Store, file: Path) -> None:
    other.import_bundle(file)
    before = everything(other)
    result = other.import_bundle(file)
    assert (result.blocks_new, result.blocks_known, result.packs) == (0, 33, ())
    assert everything(other) == before


def test_own_bundle_changes_nothing(store: Store, file: Path) -> None:
    before = everything(store)
    assert store.import_bundle(file).blocks_new == 0
    assert everything(store) == before


def test_export_is_the_same_each_time(store: Store, other: Store, tmp_path: Path) -> None:
    for name in ("a", "b", "c.zst", "d.zst"):
        store.export(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "c.zst").read_bytes() == (tmp_path / "d.zst").read_bytes()
    assert (tmp_path / "c.zst").stat().st_size < (tmp_path / "a").stat().st_size
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert other.import_bundle(tmp_path / "c.zst").blocks_new == 33


def test_what_is_there_is_left_out(store: Store, other: Store, file: Path) -> None:
    run(other, [*placed(range(12, 16), LIBC), *placed(range(600, 602), SHELL)], image="two")
    run(other, placed(range(3, 5), KERNEL), image="three")
    result = other.import_bundle(file)
    assert (result.blocks_new, result.blocks_known) == (27, 6)
    assert len(guests(other)) == len(set(guests(other))) == 35
    assert other.verify().good
    uses = other.module("libc.so.6").columns.uses.tolist()
    assert set(uses) == {1}
    # the files of both stores lie in the groups that this store gave their modules
    shell = {
        p.group for p in other.packs() if p.live and other.module("dash").row.number in p.shares
    }
    assert shell == {"files:1"}


def test_many_imports_leave_few_packs(other: Store, store: Store, tmp_path: Path) -> None:
    for number in range(5):
        run(store, placed(range(700 + number, 701 + number), KERNEL), image="one")
        store.export(tmp_path / "f")
        other.import_bundle(tmp_path / "f")
    live = [p for p in other.packs() if p.live and p.group == f"kernel:{KERNEL.id}"]
    assert len(live) <= 3
    assert guests(other) == guests(store)
    assert other.verify().good


def test_only_some_modules(store: Store, other: Store, tmp_path: Path) -> None:
    report = store.export(tmp_path / "f", ["libc.so.6", "virtio_blk"])
    assert (report.blocks, report.modules) == (14, 2)
    other.import_bundle(tmp_path / "f")
    assert {(line.name, line.fingerprint[:2], line.blocks) for line in other.list_modules()} == {
        (LIBC.name, "11", 8),
        (LIBC.name, "22", 4),
        (DRIVER.name, "11", 2),
    }
    assert {p.stem for p in other.boot_set("one", "x86_64")} == {p.sha256 for p in other.packs()}


def test_only_one_fingerprint(store: Store, tmp_path: Path) -> None:
    assert store.export(tmp_path / "f", (), OTHER_FINGERPRINT.hex()[:8]).blocks == 4
    for wrong in ("22", "ffff", "g"):
        with pytest.raises(UsageError):
            store.export(tmp_path / "g", (), wrong)
    with pytest.raises(UsageError, match="no module"):
        store.export(tmp_path / "g", ["libm.so.6"])
    assert not (tmp_path / "g").exists()


def test_dead_places_arrive_before_blocks(store: Store, other: Store, file: Path) -> None:
    """What is dead here is not taken in, and what is dead there is not recorded here."""
    run(other, [], dead=[(0x7000, LIBC, 16 * 12)])
    result = other.import_bundle(file)
    assert (result.blocks_new, result.blocks_dead) == (32, 1)
    assert run(other, [(make_blocks(77)[0], LIBC, 0x5008)]).blocks_dead == 1


def test_nothing_to_export(other: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing"):
        other.export(tmp_path / "f")
    assert list(tmp_path.glob("*f*")) == []


def test_file_that_cannot_be_written(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SysqcacheError, match="can't be written"):
        store.export(tmp_path / "none" / "f")
    with pytest.raises(UsageError, match="not a file"):
        store.export(tmp_path)


def test_export_replaces_the_file_only_when_whole(
    store: Store, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(SysqcacheError, match="No space left"):
            store.export(file)
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.glob(".new*")] == []


def test_damaged_blocks_stay_behind(store: Store, other: Store, tmp_path: Path) -> None:
    (row,) = [p for p in store.packs() if p.group == "firmware"]
    path = store.layout.pack(row.sha256)
    content = bytearray(path.read_bytes())
    content[4096 + 60] ^= 1
    path.write_bytes(content)
    assert store.export(tmp_path / "f").blocks == 32
    assert other.import_bundle(tmp_path / "f").blocks_new == 32


# files that are not what they should be


def refuse(store: Store, path: Path, match: str, reason: str | None = None) -> None:
    """The bundle is refused, and the store as before."""
    names = sorted(p.name for p in store.layout.root.rglob("*"))
    with pytest.raises(FormatError, match=match or ".") as caught:
        store.import_bundle(path)
    assert reason is None or caught.value.reason == reason
    assert sorted(p.name for p in store.layout.root.rglob("*")) == names
    assert store.list_modules() == []


def members(path: Path) -> list[tuple[str, bytes]]:
    """Names and contents of a tar."""
    with tarfile.open(path) as tar:
        return [(i.name, f.read()) for i in tar for f in [tar.extractfile(i)] if f is not None]


def write(path: Path, found: list[tuple[str, bytes]]) -> Path:
    """The inverse, with the list of contents named by what it is."""
    parts = []
    for name, content in found:
        parts += [form.member_header(name, len(content)), content]
        parts.append(bytes(form.padding(len(content))))
    path.write_bytes(b"".join(parts) + bytes(1024))
    path.chmod(0o600)
    return path


def edited(path: Path, edit: Edit) -> Path:
    """The bundle with other contents, the name of the list made right."""
    (_, listed), *rest = members(path)
    values = json.loads(listed)
    edit(values)
    content = json.dumps(values).encode()
    name = form.contents_name(hashlib.sha256(content).hexdigest())
    return write(path, [(name, content), *rest])


def swapped(path: Path, number: int, content: bytes) -> Path:
    """The bundle with another member, its hash and size made right everywhere."""
    found = members(path)
    old = found[number][0].partition(".")[0]
    new = hashlib.sha256(content).hexdigest()
    found[number] = (found[number][0].replace(old, new), content)
    listed = found[0][1].replace(old.encode(), new.encode())
    values = json.loads(listed)
    if found[number][0].endswith(".pack"):
        values["packs"][(number - 1) // 2]["bytes"] = len(content)
    listed = json.dumps(values).encode()
    found[0] = (form.contents_name(hashlib.sha256(listed).hexdigest()), listed)
    return write(path, found)


def test_rewritten_bundles_are_taken(other: Store, file: Path) -> None:
    """The helpers above break nothing themselves."""
    swapped(edited(file, lambda _: None), 1, members(file)[1][1])
    assert other.import_bundle(file).blocks_new == 33


def test_no_file(other: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        other.import_bundle(tmp_path / "none")


def test_file_that_others_could_have_written(other: Store, file: Path, tmp_path: Path) -> None:
    file.chmod(0o620)
    refuse(other, file, "written by other users", "writable")
    file.chmod(0o600)
    link = tmp_path / "link"
    link.symlink_to(file)
    refuse(other, link, "not a regular file", "unreadable")
    refuse(other, tmp_path, "", "unreadable")
    os.mkfifo(tmp_path / "fifo", 0o600)
    refuse(other, tmp_path / "fifo", "not a regular file", "unreadable")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give files to another user")
def test_file_of_another_user(other: Store, file: Path) -> None:
    os.chown(file, 12345, 0)
    refuse(other, file, "belongs to user 12345", "owner")


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\0" * 4096, b"PK\3\4" * 2000])
def test_files_that_are_no_bundles(other: Store, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(content)
    path.chmod(0o600)
    refuse(other, path, "")


def test_cut_files(other: Store, file: Path) -> None:
    content = file.read_bytes()
    for size in (511, 512, 5000, len(content) // 2, len(content) - 1024, len(content) - 1):
        file.write_bytes(content[:size])
        refuse(other, file, "ends too early", "truncated")


@pytest.mark.parametrize("name", ["f", "f.zst"])
def test_flipped_bits(store: Store, tmp_path: Path, name: str) -> None:
    """Wherever a bit is wrong, the bundle is refused, or nothing was changed by it."""
    path = tmp_path / name
    store.export(path)
    content = path.read_bytes()
    places = np.linspace(0, len(content) - 1, 60).astype(int).tolist()
    if name == "f":  # in names, sizes, checksums, types, contents
        end = 0
        for _, member in members(path):
            places += [end + place for place in (0, 30, 124, 150, 156, 600)]
            end += 512 + len(member) + form.padding(len(member))
    for number, place in enumerate(places):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place & 7)
        path.write_bytes(damaged)
        other = Store.open(tmp_path / f"store{number}")
        try:
            other.import_bundle(path)
        except FormatError:
            assert other.list_modules() == []
        else:  # such as the owner's name in a header of the tar
            assert name == "f.zst"
            assert tables(other) == tables(store)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../../../tmp/evil", tarfile.REGTYPE),
        ("/etc/passwd", tarfile.REGTYPE),
        ("x" * 64 + ".pack", tarfile.REGTYPE),
        ("link", tarfile.SYMTYPE),
        ("hard", tarfile.LNKTYPE),
        ("device", tarfile.CHRTYPE),
        ("directory", tarfile.DIRTYPE),
    ],
)
def test_other_members(other: Store, file: Path, name: str, kind: bytes) -> None:
    found = members(file)
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    strange = info.tobuf(tarfile.GNU_FORMAT)
    first = form.member_header(found[0][0], len(found[0][1])) + found[0][1]
    first += bytes(form.padding(len(found[0][1])))
    for content in (strange + first, first + strange):
        file.write_bytes(content + file.read_bytes()[len(first) :])
        refuse(other, file, "bundle")


def test_long_names_are_not_read(other: Store, file: Path) -> None:
    """Headers that announce gigabytes of a name cost nothing."""
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE):
        info = tarfile.TarInfo("././@LongLink")
        info.type, info.size = kind, 1 << 40
        file.write_bytes(zstandard.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
        refuse(other, file, "it holds", "bounds")


def test_more_members_than_listed(other: Store, file: Path) -> None:
    write(file, [*members(file), ("more", b"x")])
    refuse(other, file, "more than it lists", "bounds")


def test_huge_sizes(other: Store, file: Path) -> None:
    first = form.member_header(f"bundle-{'0' * 64}.json", form.MAX_CONTENTS + 1)
    file.write_bytes(zstandard.compress(first + bytes(1 << 20)))
    refuse(other, file, "too long", "bounds")


def _pack(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = values["packs"][0]
    return found


HOSTILE: dict[str, Edit] = {
    "format": lambda v: v.update(format="other"),
    "no packs": lambda v: v.pop("packs"),
    "text as number": lambda v: _pack(v).update(blocks="7"),
    "path as hash": lambda v: _pack(v).update(sha256="../" * 21 + "x"),
    "too many bytes": lambda v: _pack(v).update(bytes=form.MAX_BYTES + 1),
    "many bytes together": lambda v: [p.update(bytes=form.MAX_BYTES) for p in v["packs"]],
    "no bytes": lambda v: _pack(v).update(bytes=0),
    "more blocks": lambda v: _pack(v).update(blocks=_pack(v)["blocks"] + 1),
    "fewer blocks": lambda v: _pack(v).update(blocks=_pack(v)["blocks"] - 1),
    "absurdly many blocks": lambda v: _pack(v).update(blocks=(1 << 32) - 1),
    "negative blocks": lambda v: _pack(v).update(blocks=-1),
    "other fingerprint": lambda v: _pack(v).update(fingerprint="0" * 64),
    "strange arch": lambda v: _pack(v).update(arch="../x86_64"),
    "strange group": lambda v: _pack(v).update(group="b/" * 9),
    "group of no image": lambda v: _pack(v).update(group="files:999"),
    "packs in another order": lambda v: v["packs"].reverse(),
    "pack left out": lambda v: v["packs"].pop(),
    "pack twice": lambda v: v["packs"].append(_pack(v)),
    "image twice": lambda v: v["images"].append(v["images"][0]),
    "image under two numbers": lambda v: v["images"].append({**v["images"][0], "number": 99}),
    "image of no name": lambda v: v["images"][0].update(image_id=""),
    "module twice": lambda v: v["modules"].append(v["modules"][0]),
    "module under two numbers": lambda v: v["modules"].append({**v["modules"][0], "number": 99}),
    "modules left out": lambda v: v["modules"].clear(),
    "images left out": lambda v: v["images"].clear(),
    "kind of module": lambda v: v["modules"][0].update(kind="virus"),
    "module in no image": lambda v: v["modules"][0].update(images=[77]),
    "time of no year": lambda v: v["modules"][0].update(last_used=1e300),
    "no time": lambda v: v["modules"][0].update(last_used=float("nan")),
    "long name": lambda v: v["modules"][0].update(name="x" * 5000),
    "number of module": lambda v: v["modules"][0].update(number=1 << 40),
    "dead in no module": lambda v: v["dead"][0].update(module=99),
    "dead of no size": lambda v: v["dead"][0].update(size=0),
    "deep": lambda v: v.update(format=json.loads("[" * 300 + "]" * 300)),
}


@pytest.mark.parametrize("edit", HOSTILE.values(), ids=HOSTILE)
def test_hostile_contents(other: Store, file: Path, edit: Edit) -> None:
    refuse(other, edited(file, edit), "")


def test_newer_version(other: Store, file: Path) -> None:
    refuse(other, edited(file, lambda v: v.update(version=2)), "another version", "version")


def test_contents_that_are_no_json(other: Store, file: Path) -> None:
    for content in (b"", b"[]", b"null", b"\xff", b"[" * 100_000):
        name = form.contents_name(hashlib.sha256(content).hexdigest())
        refuse(other, write(file, [(name, content), *members(file)[1:]]), "list of contents")


def test_packs_that_are_not_what_they_should_be(other: Store, file: Path) -> None:
    """Their hashes are right, so that what is inside of them has to be looked at."""
    original = file.read_bytes()
    content = members(file)[1][1]

    def hostile(place: int, value: bytes) -> bytes:
        return content[:place] + value + content[place + len(value) :]

    for damaged in (
        hostile(0, b"NOTAPACK"),
        hostile(64, b"\xff" * 8),
        hostile(4096 + 60, b"\xff"),  # a byte of a block
        hostile(4096 + 32, b"\xff" * 4),  # its size
        hostile(len(content) - 16 * 20, bytes(16 * 20)),  # the index
        content[:-16],
        content + bytes(16),
        content[:4096],
        b"x",
    ):
        file.write_bytes(original)
        refuse(other, swapped(file, 1, damaged), "")


def test_columns_that_are_not_what_they_should_be(other: Store, file: Path) -> None:
    original = file.read_bytes()
    rows = np.frombuffer(members(file)[2][1], form.COLUMNS)
    for name in ("image", "module"):
        strange = rows.copy()
        strange[name][-1] = 4711
        file.write_bytes(original)
        refuse(other, swapped(file, 2, strange.tobytes()), f"a block has no {name}", "bounds")
    file.write_bytes(original)
    refuse(other, swapped(file, 2, rows[:-1].tobytes()), "should be", "bounds")


def test_absurd_uses_do_not_overflow(other: Store, file: Path) -> None:
    rows = np.frombuffer(members(file)[2][1], form.COLUMNS).copy()
    rows["uses"] = 0xFFFFFFFF
    rows["uses"][0] = 0
    other.import_bundle(swapped(file, 2, rows.tobytes()))
    with Meta(other.layout.meta, read_only=True) as meta:
        uses = np.concatenate([meta.columns(p).uses for p in meta.packs().values()])
    assert 1 <= uses.min() <= uses.max() <= 1 << 30


def test_compressed_bomb(other: Store, file: Path) -> None:
    """A pack of zeros that unpacks to gigabytes is refused by its list of contents."""
    edited(file, lambda v: v["packs"].__setitem__(slice(1, None), []))
    (name, content), *rest = members(file)
    listed = json.loads(content)
    listed["packs"][0]["bytes"] = form.MAX_BYTES + 1
    content = json.dumps(listed).encode()
    name = form.contents_name(hashlib.sha256(content).hexdigest())
    plain = io.BytesIO()
    plain.write(form.member_header(name, len(content)) + content)
    plain.write(bytes(form.padding(len(content))))
    file.write_bytes(zstandard.compress(plain.getvalue() + rest[0][1]))
    refuse(other, file, "", "bounds")


# kills

IMPORT = """
import os, sys
from pathlib import Path
from sysqcache.store.facade import Store

root, file, point = sys.argv[1:]
def reached(name):
    if name == point:
        os.kill(os.getpid(), 9)
print(Store.open(Path(root)).import_bundle(Path(file), reached=reached).blocks_new)
"""

POINTS = (
    "bundle-read",
    "pack-written",
    "pack-synced",
    "pack-published",
    "committed",
    "boot-sets-written",
)
DOCS = Path(__file__).parents[2] / "docs" / "formats.md"


@pytest.mark.parametrize("before", [0, 4], ids=["empty", "merge"])
@pytest.mark.parametrize("point", POINTS)
def test_kill(store: Store, other: Store, file: Path, point: str, before: int) -> None:
    for number in range(before):
        run(other, placed(range(700 + number, 701 + number), KERNEL), image="one")
    known = guests(other)
    command = [sys.executable, "-c", IMPORT, str(other.layout.root), str(file), point]
    killed = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, b"")

    wanted = sorted([*known, *guests(store)])
    done = POINTS.index(point) >= POINTS.index("committed")
    assert all(not p.problem and not p.damaged for p in other.verify().packs)
    assert guests(other) == (wanted if done else known)
    again = Store.open(other.layout.root).import_bundle(file)
    assert again.blocks_new == (0 if done else 33) or point == "pack-published"
    assert guests(other) == wanted
    assert set(other.boot_set("one", "x86_64"))
    assert not list(other.layout.packs.glob(".new*"))
    other.compact()
    assert other.verify().good
    assert guests(other) == wanted


def test_boot_sets_after_a_kill_between_commit_and_boot_sets(other: Store, file: Path) -> None:
    command = [sys.executable, "-c", IMPORT, str(other.layout.root), str(file)]
    subprocess.run([*command, "committed"], check=False)
    assert other.boot_set("one", "x86_64") == []
    other.import_bundle(file)
    assert other.boot_set("one", "x86_64") != []


def test_points_are_documented() -> None:
    assert all(f"`{point}`" in DOCS.read_text() for point in POINTS)


def test_import_that_finds_no_space(other: Store, file: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000,) * 2)\n"
        "import sys; from pathlib import Path\n"
        "from sysqcache.base.errors import StoreError\n"
        "from sysqcache.store.facade import Store\n"
        "try: Store.open(Path(sys.argv[1])).import_bundle(Path(sys.argv[2]))\n"
        "except StoreError as error: print(error.message)"
    )
    command = [sys.executable, "-c", code, str(other.layout.root), str(file)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert "File too large" in done.stdout
    assert other.list_modules() == []
    assert not list(other.layout.packs.iterdir())
    assert other.import_bundle(file).blocks_new == 33


def test_progress_ends_at_the_end(store: Store, other: Store, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    for name in ("f", "f.zst"):
        seen.clear()
        store.export(tmp_path / name, progress=lambda *step: seen.append(step))
        assert seen[-1][0] == seen[-1][1] > 0
        seen.clear()
        other.import_bundle(tmp_path / name, lambda *step: seen.append(step))
        size = (tmp_path / name).stat().st_size
        assert seen[-1] == (size, size)
        assert seen == sorted(seen)


def test_blocks_without_modules(tmp_path: Path, other: Store) -> None:
    """After the loss of all metadata nobody knows whose blocks are."""
    import shutil

    store = Store.open(tmp_path / "lost")
    ingest(store, make_blocks(*range(7)))
    shutil.rmtree(store.layout.meta)
    store.layout.boot_sets.unlink()
    store.rebuild()
    store.export(tmp_path / "f")
    assert other.import_bundle(tmp_path / "f").blocks_new == 7
    assert lines(other) == {"unknown": ("unknown", 7, 0)}
    assert other.import_bundle(tmp_path / "f").blocks_new == 0
    assert BIOS.name not in lines(other)
