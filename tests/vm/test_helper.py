# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks of all kinds of file systems hold what they were made from, for the helper as well."""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path

import pytest
from required import require_image
from rootshelp import MAKERS, MIB, make_btrfs, make_ext4, make_fat, make_xfs, sparse, with_gpt

from sysqcache.attribution.imagescan.contents import Found
from sysqcache.base import paths
from sysqcache.formats.modules import ModuleKind
from sysqcache.machine.helper.scan import scan_image
from sysqcache.spec.catalog import HELPER, ImagePaths
from sysqcache.spec.resolve import load
from sysqcache.spec.spec import MachineSpec

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("x86_engine", "own_state")]

SIZE = 96 * MIB
PROGRAMS = ("/bin/ls", "/bin/cat", "/usr/bin/env", "/usr/bin/sort")


@pytest.fixture
def tree(tmp_path: Path, tiny_image: ImagePaths) -> Path:
    """The files of a small system: programs, one without a build id, a kernel."""
    require_image(HELPER)
    root = tmp_path / "tree"
    (root / "usr/bin").mkdir(parents=True)
    (root / "boot").mkdir()
    for program in PROGRAMS:
        shutil.copy2(program, root / "usr/bin")
    (root / "usr/bin/script").write_text("#!/bin/sh\n")
    (root / "usr/bin/script").chmod(0o755)
    (root / "usr/bin/alias").symlink_to("ls")
    assert tiny_image.kernel is not None
    shutil.copy(tiny_image.kernel, root / "boot/vmlinuz-6.1.0-tiny")
    return root


def machine(tmp_path: Path, *disks: Path) -> MachineSpec:
    """A machine that starts from raw disks."""
    file = tmp_path / "vm.yaml"
    lines = ["name: scanned", "arch: x86_64", "memory: 256MiB", "disks:"]
    lines += [f"  - {{file: {disk}, format: raw, mode: read-only}}" for disk in disks]
    file.write_text("\n".join(lines))
    return load(file)


def found(tmp_path: Path, *disks: Path) -> Found:
    with scan_image(machine(tmp_path, *disks)) as contents:
        return contents.found


def content(one: Found) -> set[tuple[str, str, str, int]]:
    """What was found, wherever it lies."""
    return {(file.path, str(file.module.kind), file.module.id, file.size) for file in one.files}


@pytest.mark.parametrize("kind", MAKERS)
def test_every_file_system_holds_the_same(kind: str, tree: Path, tmp_path: Path) -> None:
    known = found(tmp_path, make_ext4(tmp_path / "known", tree, SIZE))
    assert len(content(known)) == len(PROGRAMS) + 1
    disk = MAKERS[kind](tmp_path / "disk", tree, SIZE)
    before = hashlib.sha256(disk.read_bytes()).hexdigest()
    with scan_image(machine(tmp_path, disk)) as contents:
        assert contents.notes == ()
        assert content(contents.found) == content(known)
        # the bytes of a file, and of a kernel, are those that it was made from
        for file in contents.files:
            made_from = (tree / file.path.lstrip("/")).read_bytes()
            assert contents.open(file).read(0, file.size) == made_from
        (kernel,) = (one for one in contents.files if one.module.kind is ModuleKind.KERNEL)
        assert contents.kernel_file(kernel.module) is not None
    assert hashlib.sha256(disk.read_bytes()).hexdigest() == before


def test_a_root_in_a_directory_of_btrfs(tree: Path, tmp_path: Path) -> None:
    """As installers make it: the top of the file system is not the root."""
    top = tmp_path / "top"
    for name in ("@", "@home"):
        (top / name).mkdir(parents=True)
    shutil.copytree(tree, top / "@", dirs_exist_ok=True, symlinks=True)
    shutil.copy2("/bin/ls", top / "@home/mine")
    one = found(tmp_path, make_btrfs(tmp_path / "disk", top, SIZE))
    assert one.notes == ()
    assert {"/usr/bin/ls", "/boot/vmlinuz-6.1.0-tiny", "/mine"} <= {f.path for f in one.files}
    assert {file.origin for file in one.files} == {"disk0:0/@", "disk0:0/@home"}


def test_a_kernel_on_fat_is_looked_for_where_no_other_is(tree: Path, tmp_path: Path) -> None:
    boot = tmp_path / "esp"
    (boot / "EFI/Linux").mkdir(parents=True)
    (tree / "boot/vmlinuz-6.1.0-tiny").rename(boot / "EFI/Linux/tiny.efi")
    parts = [
        make_fat(tmp_path / "fat", boot, 64 * MIB),
        make_xfs(tmp_path / "xfs", tree, SIZE),
    ]
    one = found(tmp_path, with_gpt(tmp_path / "disk", parts))
    assert one.notes == ()
    kernels = [file for file in one.files if file.module.kind is ModuleKind.KERNEL]
    assert [(file.path, file.origin) for file in kernels] == [("/EFI/Linux/tiny.efi", "disk0:1")]
    assert {file.origin for file in one.files} == {"disk0:1", "disk0:2"}


def test_a_live_system_has_its_root_in_a_file(tree: Path, tmp_path: Path) -> None:
    live = tmp_path / "live"
    (live / "live").mkdir(parents=True)
    MAKERS["squashfs"](live / "live/filesystem.squashfs", tree, SIZE)
    one = found(tmp_path, make_fat(tmp_path / "disk", live, 64 * MIB))
    assert one.notes == ()
    origin = "disk0:0/live/filesystem.squashfs"
    assert "/usr/bin/sort" in {file.path for file in one.files if file.origin == origin}


def test_what_cannot_be_read_is_a_line(tree: Path, tmp_path: Path) -> None:
    broken = make_xfs(tmp_path / "xfs", tree, SIZE)
    with broken.open("r+b") as file:
        file.seek(8)
        file.write(bytes(400))
    locked = sparse(tmp_path / "luks", 8 * MIB)
    with locked.open("r+b") as file:
        file.write(b"LUKS\xba\xbe\0\x02")
    half = MAKERS["lvm"](tmp_path / "lvm", tree, SIZE)
    with half.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(512))
    disk = with_gpt(tmp_path / "disk", [broken, locked, half])
    one = found(tmp_path, disk)
    assert one.files == ()
    lvm, xfs, luks = sorted(one.notes)
    assert lvm == "LVM: no volume group is complete"
    # what the kernel says of it depends on what it looks at first
    assert xfs.startswith("disk0:1: XFS it can't be mounted: ")
    assert luks == "disk0:2: LUKS can't be read"


def test_without_the_helper_a_line_says_what_to_do(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = make_xfs(tmp_path / "disk", tree, SIZE)
    monkeypatch.setenv(paths.ENV_HOME, str(tmp_path / "empty"))
    hint = f"XFS can't be read without: sysqcache image build {HELPER}"
    assert found(tmp_path, disk).notes == (f"disk0:0: {hint}",)


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "f2fs", "lvm"])
def test_damage_costs_files_and_nothing_else(kind: str, tree: Path, tmp_path: Path) -> None:
    disk = MAKERS[kind](tmp_path / "disk", tree, SIZE)
    chance = random.Random(kind)
    used = [place for place in range(0, disk.stat().st_size, 4096) if has_data(disk, place)]
    with disk.open("r+b") as file:
        for place in chance.sample(used, len(used) // 8):
            file.seek(place)
            file.write(chance.randbytes(4096))
    with scan_image(machine(tmp_path, disk)) as contents:
        for one in contents.files:
            contents.open(one).read(0, one.size)


def has_data(disk: Path, place: int) -> bool:
    with disk.open("rb") as file:
        file.seek(place)
        return bool(file.read(4096).strip(b"\0"))


def test_a_helper_goes_on_from_the_template_of_the_one_before(tree: Path, tmp_path: Path) -> None:
    disk = make_xfs(tmp_path / "disk", tree, SIZE)
    found(tmp_path, disk)
    (state,) = paths.helper_dir().glob("*/state")
    before = state.stat()
    # what was found of the one before is kept
    assert found(tmp_path, disk.rename(tmp_path / "other")).files
    assert state.stat() == before
    assert [path.name for path in state.parent.parent.iterdir() if path.is_dir()] == [
        state.parent.name
    ]
