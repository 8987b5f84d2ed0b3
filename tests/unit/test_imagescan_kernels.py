# SPDX-License-Identifier: GPL-2.0-or-later
"""Where disks have kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagescanhelp import MIB, machine, make_ext, packed_kernel, unified_kernel, with_gpt

from sysqcache.attribution.imagescan.kernelplaces import is_kernel, kernel_bytes
from sysqcache.attribution.imagescan.scan import scan
from sysqcache.attribution.imagescan.volume import Unread, Volume
from sysqcache.base import paths
from sysqcache.formats.modules import ModuleKind
from sysqcache.spec.spec import Disk

pytestmark = pytest.mark.usefixtures("own_scans")

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    "path",
    [
        "/boot/vmlinuz-6.1.0-50-amd64",
        "/boot/vmlinux-6.12.1-riscv64",
        "/vmlinuz-6.1.0-50-amd64",
        "/boot/ostree/fedora-abc/vmlinuz-6.12",
        "/usr/lib/modules/7.0.13+deb13-amd64/vmlinuz",
        "/lib/modules/6.19/vmlinux",
        "/EFI/Linux/debian-6.12.efi",
        "/efi/EFI/linux/arch.EFI",
    ],
)
def test_kernels_are_known_by_their_names(path: str) -> None:
    assert is_kernel(path)


@pytest.mark.parametrize(
    "path",
    [
        "/usr/share/vmlinuz-old",
        "/boot/initrd.img-6.1.0",
        "/EFI/BOOT/BOOTX64.EFI",
        "/usr/lib/modules/6.1/kernel/vmlinuz",
    ],
)
def test_other_files_are_none(path: str) -> None:
    assert not is_kernel(path)


def test_a_unified_kernel_image_has_the_kernel_inside() -> None:
    kernel = bytes(range(256)) * 5
    assert kernel_bytes(unified_kernel(kernel)) == kernel
    assert kernel_bytes(kernel) == kernel


@given(st.binary(max_size=1200), st.integers(0, 1100), st.binary(max_size=16))
def test_no_program_is_damaged_enough_to_fail(tail: bytes, place: int, wrong: bytes) -> None:
    program = bytearray(unified_kernel(tail))
    program[place : place + len(wrong)] = wrong
    assert len(kernel_bytes(bytes(program))) <= len(program)


@pytest.fixture
def own_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of scans lies in a folder of the test's own."""
    monkeypatch.setenv(paths.ENV_HOME, str(tmp_path / "home"))


@pytest.fixture
def kernel() -> bytes:
    """A small bzImage."""
    return packed_kernel(bytes(8192), [[0x100], [0x200]])


def found(tmp_path: Path, disk: Path) -> set[tuple[str, str]]:
    """Path and id of each kernel of a disk."""
    spec = machine(tmp_path, disks=f"[{{file: {disk}, format: raw}}]")
    with scan(spec) as contents:
        kernels = [one for one in contents.files if one.module.kind is ModuleKind.KERNEL]
        for one in kernels:
            assert contents.kernel_file(one.module) is not None
        return {(one.path, one.module.id) for one in kernels}


def test_every_place_of_a_kernel_on_a_disk(tmp_path: Path, kernel: bytes) -> None:
    """What an entry names, what lies beside the modules, and a /boot of its own."""
    root, boot = tmp_path / "root", tmp_path / "boot"
    (root / "usr/lib/modules/6.1.0-test").mkdir(parents=True)
    (root / "usr/lib/modules/6.1.0-test/vmlinuz").write_bytes(kernel)
    (root / "usr/bin").mkdir()
    (root / "usr/bin/linux").write_bytes(kernel)
    (boot / TOKEN / "6.1.0-test").mkdir(parents=True)
    (boot / TOKEN / "6.1.0-test/linux").write_bytes(kernel)
    (boot / TOKEN / "6.0.0-gone").mkdir()
    (boot / TOKEN / "6.0.0-gone/linux").write_bytes(kernel)
    (boot / "EFI/Linux").mkdir(parents=True)
    (boot / "EFI/Linux/test.efi").write_bytes(unified_kernel(kernel))
    (boot / "loader/entries").mkdir(parents=True)
    (boot / "vmlinuz-6.1.0-test").write_bytes(kernel)
    entry = f"title Test\nlinux /{TOKEN}/6.1.0-test/linux\ninitrd /nothing\n"
    (boot / "loader/entries/test.conf").write_text(entry)
    parts = [make_ext(tmp_path / f"{tree.name}.ext4", tree) for tree in (boot, root)]
    kernels = found(tmp_path, with_gpt(tmp_path / "disk", parts))
    assert {path for path, _ in kernels} == {
        "/usr/lib/modules/6.1.0-test/vmlinuz",
        f"/{TOKEN}/6.1.0-test/linux",
        "/EFI/Linux/test.efi",
        "/vmlinuz-6.1.0-test",
    }
    assert len({identity for _, identity in kernels}) == 1


class Nobody:
    """Reads nothing of what it is asked for, and says so."""

    def __init__(self, unread: Sequence[Unread]) -> None:
        self.volumes: Sequence[Volume] = ()
        self.notes = [f"nobody reads {one.origin}, {one.kind}" for one in unread]
        self.fault = ""

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("place", "asked"), [("boot/vmlinuz-6.1.0-test", False), ("srv/vmlinuz-6.1.0-test", True)]
)
def test_fat_is_looked_into_when_no_kernel_lies_elsewhere(
    place: str, asked: bool, tmp_path: Path, kernel: bytes
) -> None:
    file = tmp_path / "root" / place
    file.parent.mkdir(parents=True)
    file.write_bytes(kernel)
    fat = tmp_path / "fat"
    fat.write_bytes(bytes(54) + b"FAT16   " + bytes(MIB))
    disk = with_gpt(tmp_path / "disk", [fat, make_ext(tmp_path / "ext", tmp_path / "root")])
    spec = machine(tmp_path, disks=f"[{{file: {disk}, format: raw}}]")
    with scan(spec, others=lambda _, unread: Nobody(unread)) as contents:
        assert contents.notes == (("nobody reads disk0:1, FAT",) if asked else ())


def test_what_others_failed_at_is_asked_for_again(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"XFSB" + bytes(MIB))
    spec = machine(tmp_path, disks=f"[{{file: {disk}, format: raw}}]")
    calls = []

    def others(_: Sequence[Disk], unread: Sequence[Unread]) -> Nobody:
        calls.append(unread)
        found = Nobody(())
        found.fault = "it failed" if len(calls) == 1 else ""
        return found

    for notes in (("it failed",), (), ()):
        with scan(spec, others=others) as contents:
            assert contents.notes == notes
    # the second time all was well, and is kept
    assert [[one.kind for one in unread] for unread in calls] == [["XFS"], ["XFS"]]
