# SPDX-License-Identifier: GPL-2.0-or-later
"""Firmware: which files a build gets, where they are from, and machines without theirs."""

from __future__ import annotations

import bz2
import dataclasses
from pathlib import Path

import pytest

from sysqcache.base.errors import EngineBuildError, LaunchError
from sysqcache.base.types import ArchName
from sysqcache.machine.launch.firmware import require_firmware
from sysqcache.setup.engine import firmware
from sysqcache.setup.engine.configure import TARGETS
from sysqcache.spec.arch import EFI_AARCH64, OPENSBI_RISCV64
from sysqcache.spec.spec import MachineSpec


def spec(arch: ArchName, file: Path | None = None) -> MachineSpec:
    base = MachineSpec("vm", arch, "virt", "max", 1 << 30, 1, "image", Path("/vm.yaml"))
    return dataclasses.replace(base, firmware=file)


def test_every_target_has_firmware() -> None:
    assert set(firmware.FILES) == set(TARGETS)
    devices = {"seabios", "ipxe-qemu", "qemu-system-data"}
    assert set(firmware.needed(["riscv64"])) == {"opensbi", *devices}
    assert set(firmware.needed(["aarch64", "riscv64"])) == {
        "qemu-efi-aarch64",
        "opensbi",
        *devices,
    }
    x86 = firmware.needed(["x86_64"])
    assert {"bios-256k.bin", "vgabios-stdvga.bin"} <= set(x86["seabios"])
    assert {"linuxboot_dma.bin", firmware.KEYMAPS} <= set(x86["qemu-system-data"])


def test_a_release_archive_brings_its_own(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "pc-bios").mkdir(parents=True)
    (source / "pc-bios" / firmware.KEYMAPS).mkdir()
    for name in (f"{firmware.KEYMAPS}/en-us", f"{firmware.KEYMAPS}/meson.build"):
        (source / "pc-bios" / name).touch()
    for name in firmware.missing(["aarch64"], source / "pc-bios"):
        if name != EFI_AARCH64:
            (source / "pc-bios" / name).write_bytes(name.encode())
    assert not firmware.in_tree(source, ["aarch64"])
    (source / "pc-bios" / f"{EFI_AARCH64}.bz2").write_bytes(bz2.compress(b"efi"))
    assert firmware.in_tree(source, ["aarch64"])
    assert not firmware.in_tree(source, ["aarch64", "riscv64"])
    firmware.from_tree(source, ["aarch64"], target)
    assert (target / EFI_AARCH64).read_bytes() == b"efi"
    assert (target / "efi-virtio.rom").read_bytes() == b"efi-virtio.rom"
    assert [path.name for path in (target / firmware.KEYMAPS).iterdir()] == ["en-us"]
    assert firmware.missing(["aarch64"], target) == []
    (target / "vgabios-cirrus.bin").unlink()
    assert firmware.missing(["aarch64"], target) == ["vgabios-cirrus.bin"]


def test_a_package_without_its_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineBuildError, match=r"opensbi has no .*fw_dynamic\.bin"):
        firmware._find(tmp_path, OPENSBI_RISCV64, "opensbi")
    file = tmp_path / "usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin"
    file.parent.mkdir(parents=True)
    file.touch()
    assert firmware._find(tmp_path, OPENSBI_RISCV64, "opensbi") == file


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (spec(ArchName.RISCV64), OPENSBI_RISCV64),
        (spec(ArchName.AARCH64, Path(EFI_AARCH64)), EFI_AARCH64),
    ],
)
def test_a_machine_without_its_firmware(tmp_path: Path, machine: MachineSpec, name: str) -> None:
    with pytest.raises(LaunchError) as caught:
        require_firmware(machine, tmp_path)
    assert name in caught.value.message
    assert caught.value.hint == "sysqcache engine build --force"
    (tmp_path / name).touch()
    require_firmware(machine, tmp_path)


@pytest.mark.parametrize("arch", [ArchName.AARCH64, ArchName.X86_64])
def test_machines_that_need_none(tmp_path: Path, arch: ArchName) -> None:
    require_firmware(spec(arch), tmp_path)
    require_firmware(spec(ArchName.RISCV64, tmp_path / "own.bin"), tmp_path)
