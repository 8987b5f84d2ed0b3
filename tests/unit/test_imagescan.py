# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole machines: what their images hold, and the bytes of it."""

from __future__ import annotations

import os
import random
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection
from imagescanhelp import (
    MIB,
    SECTOR,
    bzimage,
    cpio,
    debugfs,
    machine,
    make_ext,
    packed_kernel,
    qemu_img,
    small_elf,
    with_gpt,
)

from sysqcache.attribution.imagescan import diskimage, keep, limits
from sysqcache.attribution.imagescan.contents import CodeFile, Found
from sysqcache.attribution.imagescan.reader import PAGE, ImageContents
from sysqcache.attribution.imagescan.scan import scan
from sysqcache.attribution.imagescan.symbols import symbols_of
from sysqcache.formats.modules import Module, ModuleKind
from sysqcache.spec.spec import MachineSpec

TRUE, SHELL = Path("/bin/true").resolve(), Path("/bin/sh").resolve()
RELEASE = "6.1.0-test"
INIT = small_elf(b"\x90" * 5000 + b"\xc3", b"\x11" * 20)
KERNEL = packed_kernel(random.Random(1).randbytes(8192), [[0x100], [0x200]])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing that was kept before is used."""
    monkeypatch.delenv("SYSQCACHE_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file system as a distribution has it, on its own."""
    root = tmp_path / "tree"
    for folder in ("usr/bin", "usr/lib", "boot", "usr/lib/modules"):
        (root / folder).mkdir(parents=True)
    shutil.copy(TRUE, root / "usr/bin/true")
    shutil.copy(SHELL, root / "usr/lib/libshell.so.1")
    (root / "usr/lib/libshell.so.1").chmod(0o644)
    (root / "usr/bin/script").write_bytes(b"#!/bin/sh\n")
    (root / "usr/bin/script").chmod(0o755)
    (root / "usr/lib/data").write_bytes(TRUE.read_bytes())
    (root / "usr/lib/data").chmod(0o644)
    (root / f"boot/vmlinuz-{RELEASE}").write_bytes(KERNEL)
    (root / "boot/System.map-x").write_bytes(b"x")
    return make_ext(tmp_path / "image.ext4", root)


def scanned(tmp_path: Path, **fields: str) -> ImageContents:
    return scan(machine(tmp_path, **fields), qemu_img=qemu_img())


def section_build_id(file: Path) -> str:
    """As pyelftools reads it, which the scan does not use."""
    with file.open("rb") as stream:
        section = ELFFile(stream).get_section_by_name(".note.gnu.build-id")
        assert isinstance(section, NoteSection)
        return next(str(note["n_desc"]) for note in section.iter_notes())


def by_path(contents: ImageContents) -> dict[str, CodeFile]:
    return {file.path: file for file in contents.files}


def test_a_machine_with_kernel_initrd_and_disk(tmp_path: Path, image: Path) -> None:
    (tmp_path / "kernel").write_bytes(KERNEL)
    packed = zstandard.ZstdCompressor().compress(cpio({"init": INIT, "etc/motd": b"hello"}))
    (tmp_path / "initrd").write_bytes(cpio({"kernel/x86/microcode/x.bin": b"m" * 100}) + packed)
    with scanned(
        tmp_path, kernel="kernel", initrd="initrd", disks=f"[{{file: {image}}}]"
    ) as contents:
        assert contents.notes == ()
        assert contents.kernel == Module(ModuleKind.KERNEL, "42" * 20)
        assert contents.kernel.name == RELEASE
        files = by_path(contents)
        assert files.keys() == {"/usr/bin/true", "/usr/lib/libshell.so.1", "/init"}
        for path, host in (("/usr/bin/true", TRUE), ("/usr/lib/libshell.so.1", SHELL)):
            file = files[path]
            assert file.origin == "disk0:0"
            assert file.module == Module(ModuleKind.FILE, section_build_id(host))
            content = host.read_bytes()
            assert file.size == len(content)
            assert contents.open(file).read(0, len(content) + 1) == content
        assert files["/init"].origin == "initrd"
        assert files["/init"].module.id == "11" * 20
        assert contents.open(files["/init"]).read(0, len(INIT)) == INIT
        kernel = contents.kernel_file(contents.kernel)
        assert kernel is not None
        assert kernel.file == KERNEL


def test_code_pages(tmp_path: Path, image: Path) -> None:
    with scanned(tmp_path, disks=f"[{{file: {image}}}]") as contents:
        file = by_path(contents)["/usr/bin/true"]
        truth = TRUE.read_bytes()
        truth += bytes(-len(truth) % PAGE)
        pages = list(contents.code_pages([file]))
        offsets = [offset for _, offset, _ in pages]
        wanted = [
            offset
            for part in file.segments
            for offset in range(part.offset & -PAGE, part.offset + part.size, PAGE)
        ]
        assert offsets == sorted(set(wanted))
        for one, offset, content in pages:
            assert one is file
            assert content == truth[offset : offset + PAGE]


def test_a_disk_that_boots_by_itself(tmp_path: Path, image: Path) -> None:
    disk = with_gpt(tmp_path / "disk.raw", [image, image])
    over = tmp_path / "over.qcow2"
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", disk, over)
    with scanned(tmp_path, disks=f"[{{file: {over}}}]") as contents:
        assert contents.kernel is None
        assert contents.notes == ()
        assert {file.origin for file in contents.files} == {"disk0:1", "disk0:2"}
        kernels = [f for f in contents.files if f.module.kind is ModuleKind.KERNEL]
        assert [f.path for f in kernels] == [f"/boot/vmlinuz-{RELEASE}"] * 2
        kernel = contents.kernel_file(kernels[0].module)
        assert kernel is not None
        assert kernel.loaded(0x200000)[:16].tobytes() == random.Random(1).randbytes(8192)[:16]
        assert contents.read_file("/boot/System.map-x", 10) == b"x"
        assert contents.read_file("/boot/System.map-x", 0) == b""
        assert contents.read_file("/no/such", 10) == b""


def test_the_second_scan_is_the_first_one(
    tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = tmp_path / "over.qcow2"
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", image, over)
    spec = machine(tmp_path, disks=f"[{{file: {over}}}]")
    first = scan(spec, qemu_img=qemu_img())
    monkeypatch.setattr(
        "sysqcache.attribution.imagescan.scan._Scan", lambda _: pytest.fail("read again")
    )
    asked: list[object] = []
    ask = diskimage._ask

    def noted(*words: Any) -> list[Any]:
        asked.append(words)
        return ask(*words)

    monkeypatch.setattr(diskimage, "_ask", noted)
    second = scan(spec, qemu_img=qemu_img())
    assert not asked  # what takes time is opened when it is read
    assert second.found == first.found
    assert [f.module.name for f in second.files] == [f.module.name for f in first.files]
    file = by_path(second)["/usr/bin/true"]
    assert second.open(file).read(0, 4) == b"\x7fELF"
    assert asked
    with pytest.raises(pytest.fail.Exception):
        scan(spec, qemu_img=qemu_img(), fresh=True)


@pytest.mark.parametrize("what", ["base", "kernel", "damage", "foreign"])
def test_a_change_is_seen(tmp_path: Path, image: Path, own_cache: Path, what: str) -> None:
    over = tmp_path / "over.qcow2"
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", image, over)
    (tmp_path / "kernel").write_bytes(KERNEL)
    spec = machine(tmp_path, kernel="kernel", disks=f"[{{file: {over}}}]")
    before = scan(spec, qemu_img=qemu_img())
    assert "/usr/bin/true" in by_path(before)
    (kept,) = (own_cache / "sysqcache/scans/contents").iterdir()
    if what == "base":
        debugfs(image, "rm /usr/bin/true", write=True)
    elif what == "kernel":
        (tmp_path / "kernel").write_bytes(b"other")
    else:
        content = bytearray(kept.read_bytes())
        content[100] ^= 1 if what == "damage" else 0
        kept.write_bytes(content.replace(b"/usr/bin/true", b"/usr/bin/evil"))
        kept.chmod(0o666 if what == "foreign" else 0o600)
    after = scan(spec, qemu_img=qemu_img())
    assert ("/usr/bin/true" in by_path(after)) == (what != "base")
    assert (after.kernel == before.kernel) == (what != "kernel")


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path, image: Path) -> None:
    spec = machine(tmp_path, disks=f"[{{file: {image}}}]")
    contents = scan(spec)
    # a new time stamp alone could be from before the scan; the size is what counts here
    with image.open("ab") as file:
        file.write(bytes(4096))
    debugfs(image, "rm /usr/bin/true", write=True)
    assert "/usr/bin/true" in by_path(contents)
    assert "/usr/bin/true" not in by_path(scan(spec))


def broken(name: str, image: Path, path: Path) -> Path:
    content = bytearray(image.read_bytes())
    match name:
        case "cut":
            content = content[: 2 * MIB]
        case "noise":
            content = bytearray(random.Random(2).randbytes(MIB))
        case "LUKS":
            content[:6] = b"LUKS\xba\xbe"
            content[1080:1082] = b"\0\0"
        case "super block":
            content[1024 + 24 : 1024 + 28] = b"\xff" * 4
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cut", "damaged places"),
        ("noise", "no file system"),
        ("LUKS", "LUKS can't be read"),
        ("super block", "makes no sense"),
    ],
)
def test_broken_disks_become_notes(tmp_path: Path, image: Path, name: str, said: str) -> None:
    disk = broken(name, image, tmp_path / "broken")
    contents = scanned(tmp_path, disks=f"[{{file: {disk}, format: raw}}]")
    assert any(said in note for note in contents.notes), contents.notes


@pytest.mark.parametrize("size", [0, 1, 512, 4 * MIB])
def test_a_blank_disk_is_no_note(tmp_path: Path, size: int) -> None:
    (tmp_path / "blank").write_bytes(bytes(size))
    assert scanned(tmp_path, disks="[{file: blank, format: raw}]").notes == ()


def test_files_that_are_gone(tmp_path: Path, image: Path) -> None:
    (tmp_path / "kernel").write_bytes(bzimage(b"noise"))
    (tmp_path / "initrd").write_bytes(b"noise that is no archive")
    spec = machine(tmp_path, kernel="kernel", initrd="initrd", disks=f"[{{file: {image}}}]")
    contents = scan(spec)
    assert len(contents.notes) == 2
    assert contents.kernel is not None
    assert contents.kernel.id.startswith("sha256:")
    assert symbols_of(contents.kernel, contents) is None
    image.unlink()
    file = by_path(contents)["/usr/bin/true"]
    assert contents.open(file).read(0, 4) == b"\x7fELF"
    contents.close()
    for path in (tmp_path / "kernel", tmp_path / "initrd"):
        path.unlink()
    again = scan(spec)
    assert len(again.notes) == 3
    assert again.files == ()
    assert again.open(file).read(0, 4) == b""
    assert list(again.code_pages([file])) == []


def test_a_scan_has_an_end(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = machine(tmp_path, disks=f"[{{file: {image}}}]")
    with monkeypatch.context() as patch:
        patch.setattr(limits, "SCAN_SECONDS", -1.0)
        contents = scan(spec)
        assert contents.files == ()
        assert "too long" in contents.notes[-1]
    assert len(scan(spec).files) == 3  # nothing was kept of the first
    monkeypatch.setattr(limits, "CODE_FILES", 1)
    contents = scan(spec, fresh=True)
    assert len(contents.files) == 1
    assert "too many" in contents.notes[-1]


def test_symbols_are_kept(tmp_path: Path, image: Path, own_cache: Path) -> None:
    contents = scanned(tmp_path, disks=f"[{{file: {image}}}]")
    for file in contents.files:
        table = symbols_of(file.module, contents)
        if file.module.kind is ModuleKind.FILE and table is not None:
            kept = symbols_of(file.module, None)
            assert kept is not None
            assert kept.names == table.names
    assert symbols_of(Module(ModuleKind.FILE, "../../etc/passwd"), contents) is None
    assert symbols_of(Module(ModuleKind.FILE, "ab" * 20), contents) is None


def test_what_is_kept_does_not_grow_for_ever(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep, "_KEPT", 3)
    for number in range(6):
        keep.save("kind", f"{number}", b"content")
        os.utime(keep.kept_file("kind", f"{number}"), (number, number))
    left = {path.name for path in (own_cache / "sysqcache/scans/kind").iterdir()}
    assert len(left) <= 4
    assert "0" not in left
    assert keep.load("kind", "5") is not None
    assert keep.load("kind", "0") is None


@pytest.fixture
def no_disk(own_cache: Path) -> Iterator[None]:
    own_cache.write_bytes(b"not a directory")
    yield
    own_cache.unlink()


@pytest.mark.usefixtures("no_disk")
def test_without_a_place_to_keep_anything(tmp_path: Path, image: Path) -> None:
    contents = scanned(tmp_path, disks=f"[{{file: {image}}}]")
    assert "/usr/bin/true" in by_path(contents)


def test_found_as_json(tmp_path: Path, image: Path) -> None:
    found = scanned(tmp_path, disks=f"[{{file: {image}}}]").found
    again = Found.from_json(found.to_json())
    assert again == found
    assert found.modules() == {file.module for file in found.files}


def test_a_real_image(debian_spec: MachineSpec) -> None:
    start = time.process_time()
    contents = scan(debian_spec, qemu_img=qemu_img())
    assert time.process_time() - start < 15
    assert contents.notes == ()
    modules = {file.module.name: file for file in contents.files}
    libc = modules["/usr/lib/x86_64-linux-gnu/libc.so.6"]
    table = symbols_of(libc.module, contents)
    assert table is not None
    assert "printf" in table.names
    assert contents.kernel is not None
    kernel = symbols_of(contents.kernel, contents)
    assert kernel is not None
    assert {"start_kernel", "do_syscall_64"} <= set(kernel.names)
    assert all(not file.module.id.startswith("sha256:") for file in contents.files)


@pytest.fixture
def debian_spec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MachineSpec:
    from sysqcache.base.errors import ImageMissing
    from sysqcache.spec.resolve import load

    own = os.environ["XDG_CACHE_HOME"]
    monkeypatch.delenv("XDG_CACHE_HOME")
    try:
        return load(request.config.rootpath / "configs/debian12-x86_64.yaml")
    except ImageMissing as error:
        pytest.skip(str(error))
    finally:
        monkeypatch.setenv("XDG_CACHE_HOME", own)


def marked(tmp_path: Path, disk: Path) -> Module | None:
    with scanned(tmp_path, disks=f"[{{file: {disk}}}]") as contents:
        return contents.found.system


def test_a_disk_is_known_by_what_is_written_once(tmp_path: Path, image: Path) -> None:
    """Copies and overlays of one disk are the same, whatever is written behind its start."""
    disk = with_gpt(tmp_path / "disk.raw", [image])
    with disk.open("r+b") as file:
        file.seek(SECTOR + 56)
        file.write(uuid.uuid4().bytes_le)  # the disk's GUID
    copy, over = tmp_path / "copy.raw", tmp_path / "over.qcow2"
    copy.write_bytes(disk.read_bytes())
    with copy.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"written by a guest")
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", disk, over)
    first = marked(tmp_path, disk)
    assert first is not None
    assert (first.kind, first.name) == (ModuleKind.UNKNOWN, "disk.raw")
    assert marked(tmp_path, copy) == marked(tmp_path, over) == first
    assert first in scanned(tmp_path, disks=f"[{{file: {copy}}}]").found.modules()
    with copy.open("r+b") as file:
        file.seek(SECTOR + 56)
        file.write(uuid.uuid4().bytes_le)
    assert marked(tmp_path, copy) != first
    # a file system alone says nothing at its start
    assert marked(tmp_path, image) is None


def test_a_kernel_file_is_the_system(tmp_path: Path, image: Path) -> None:
    (tmp_path / "kernel.elf").write_bytes(b"no kernel that anybody knows")
    with scanned(tmp_path, kernel="kernel.elf", disks=f"[{{file: {image}}}]") as contents:
        assert contents.found.system == contents.kernel
        assert contents.found.system in contents.found.modules()
        assert contents.kernel is not None
        assert contents.kernel.name == "kernel.elf"
        assert not contents.firmware_alone
    with scanned(tmp_path) as contents:
        assert contents.found.system is None
        assert contents.firmware_alone
