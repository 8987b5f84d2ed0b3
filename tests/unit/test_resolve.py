# SPDX-License-Identifier: GPL-2.0-or-later
"""From fields to a concrete machine: defaults, files, combinations."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from sysqcache.base.errors import ConfigError, ImageMissing
from sysqcache.base.types import ArchName, CacheMode, DiskFormat, DiskMode, Probe
from sysqcache.spec import resolve
from sysqcache.spec.spec import MachineSpec
from sysqcache.spec.specjson import read_spec, write_spec


def load(tmp_path: Path, text: str, *overrides: str) -> MachineSpec:
    file = tmp_path / "my vm.yaml"
    file.write_text(text)
    return resolve.load(file, overrides)


def details(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    file = str(tmp_path / "my vm.yaml")
    return [line.replace(file, "vm.yaml") for line in caught.value.detail.splitlines()]


def test_defaults_are_concrete(tmp_path: Path) -> None:
    spec = load(tmp_path, "")
    assert (spec.name, spec.arch) == ("my-vm", ArchName.X86_64)
    assert (spec.machine, spec.cpu, spec.memory, spec.vcpus) == ("pc", "qemu64", 1 << 30, 1)
    assert (spec.accelerator.multi, spec.accelerator.tb_size) == (False, 0)
    assert spec.cache.mode is CacheMode.ON
    assert spec.ready.probe is Probe.NONE
    assert "auto" not in repr(spec)


@pytest.mark.parametrize(
    ("arch", "machine", "cpu"),
    [
        ("x86_64", "pc", "qemu64"),
        ("aarch64", "virt", "max,pauth=off,sve=off,sme=off"),
        ("riscv64", "virt", "rv64"),
    ],
)
def test_defaults_of_each_architecture(tmp_path: Path, arch: str, machine: str, cpu: str) -> None:
    spec = load(tmp_path, f"arch: {arch}")
    assert (spec.machine, spec.cpu) == (machine, cpu)


def test_several_vcpus_get_a_thread_each(tmp_path: Path) -> None:
    assert load(tmp_path, "vcpus: 2").accelerator.multi
    assert not load(tmp_path, "vcpus: 2\naccelerator: {thread: single}").accelerator.multi


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(512))
    (tmp_path / "other.img").write_bytes(b"QFI\xfb" + bytes(508))
    spec = load(tmp_path, "disks:\n  - file: disk.img\n  - file: other.img\n    mode: read-only")
    assert [disk.file for disk in spec.disks] == [tmp_path / "disk.img", tmp_path / "other.img"]
    assert [disk.format for disk in spec.disks] == [DiskFormat.RAW, DiskFormat.QCOW2]
    assert [disk.mode for disk in spec.disks] == [DiskMode.EPHEMERAL, DiskMode.READ_ONLY]


@pytest.mark.parametrize(
    ("text", "probe"),
    [
        ("ready: {pattern: x}", Probe.SERIAL),
        ("ready: {port: 22}\nnetwork: {forwards: [{host: 0, guest: 22}]}", Probe.TCP),
        ("agent: guest-agent", Probe.GUEST_AGENT),
        ("agent: serial-shell", Probe.NONE),
        ("agent: guest-agent\nready: {probe: none}", Probe.NONE),
    ],
)
def test_probe_follows_from_the_fields(tmp_path: Path, text: str, probe: Probe) -> None:
    assert load(tmp_path, text).ready.probe is probe


def test_missing_files_and_wrong_fields_together(tmp_path: Path) -> None:
    text = "memory: 1G\nkernel: nope\ndisks:\n  - file: none.img\n  - file: /\nvcpus: 0\n"
    assert sorted(details(tmp_path, text)) == [
        "vm.yaml:1: memory: expected a size such as 1GiB or 512MiB; found '1G'",
        f"vm.yaml:2: kernel: no such file: {tmp_path}/nope",
        f"vm.yaml:4: disks.0.file: no such file: {tmp_path}/none.img",
        "vm.yaml:5: disks.1.file: not a file: /",
        "vm.yaml:6: vcpus: expected greater than or equal to 1; found 0",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("memory: 5KiB", "memory: guest memory is counted in whole MiB"),
        ("cmdline: quiet", "cmdline: needs a kernel"),
        ("ready: {probe: serial}", "ready.probe: a serial probe needs ready.pattern"),
        ("ready: {probe: tcp}", "ready.probe: a tcp probe needs ready.port"),
        (
            "ready: {port: 22}",
            "ready.port: no tcp forward in network.forwards leads to port 22",
        ),
        ("ready: {probe: guest-agent}", "ready.probe: needs agent: guest-agent"),
        (
            "network: {forwards: [{host: 80, guest: 1}, {host: 80, guest: 2}]}",
            "network.forwards.1.host: port 80 is forwarded already, by forwards.0",
        ),
    ],
)
def test_combinations(tmp_path: Path, text: str, problem: str) -> None:
    assert details(tmp_path, text) == [f"vm.yaml:1: {problem}"]


def test_image_that_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSQCACHE_HOME", str(tmp_path / "home"))
    with pytest.raises(ImageMissing) as caught:
        load(tmp_path, "disks: [{file: 'image:debian12-x86_64'}]")
    assert caught.value.hint == "sysqcache image build debian12-x86_64"
    found = details(tmp_path, "vcpus: 0\nkernel: image:tiny-x86_64/kernel")
    assert len(found) == 2


def test_every_problem_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its place: of an image, of a field, of two together."""
    monkeypatch.setenv("SYSQCACHE_HOME", str(tmp_path / "home"))
    text = "vcpus: 0\nmemory: 5KiB\ncmdline: quiet\ndisks: [{file: 'image:tiny-x86_64'}]"
    assert sorted(details(tmp_path, text)) == [
        "vm.yaml: the image tiny-x86_64 is not built",
        "vm.yaml:1: vcpus: expected greater than or equal to 1; found 0",
        "vm.yaml:2: memory: guest memory is counted in whole MiB",
        "vm.yaml:3: cmdline: needs a kernel",
    ]


def test_unknown_part_of_an_image(tmp_path: Path) -> None:
    assert details(tmp_path, "kernel: image:tiny-x86_64/kernle") == [
        "vm.yaml:1: kernel: an image has disk, kernel and initrd; found 'kernle'"
    ]


def test_the_same_image_has_the_same_id(tmp_path: Path) -> None:
    for name in ("a.img", "b.img"):
        (tmp_path / name).write_bytes(bytes(512))
    a = load(tmp_path, "name: x\ndisks: [{file: a.img}]").image_id
    assert a == load(tmp_path, "name: y\nmemory: 2GiB\ndisks: [{file: a.img}]").image_id
    assert a != load(tmp_path, "name: x\ndisks: [{file: b.img}]").image_id


def test_efi_is_a_file_of_the_engine(tmp_path: Path) -> None:
    spec = load(tmp_path, "arch: aarch64\nfirmware: efi")
    assert str(spec.firmware) == "edk2-aarch64-code.fd"
    assert details(tmp_path, "arch: riscv64\nfirmware: efi") == [
        "vm.yaml:2: firmware: there is no EFI firmware for riscv64"
    ]


def test_a_kernel_of_another_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zImage").write_bytes(bytes(0x24) + b"\x18\x28\x6f\x01")
    (tmp_path / "Image").write_bytes(bytes(0x38) + b"ARM\x64")
    assert details(tmp_path, "arch: aarch64\nkernel: zImage") == [
        "vm.yaml:2: kernel: this kernel is for 32-bit arm, the machine is aarch64"
    ]
    assert details(tmp_path, "kernel: Image") == [
        "vm.yaml:1: kernel: this kernel is for aarch64, the machine is x86_64"
    ]
    assert load(tmp_path, "arch: aarch64\nkernel: Image").kernel == tmp_path / "Image"


def x86_kernel(flags: int) -> bytes:
    """The head of a bzImage of today."""
    head = bytearray(0x240)
    head[0x202:0x206], head[0x206:0x208], head[0x236] = b"HdrS", b"\x0f\x02", flags
    return bytes(head)


def test_kernels_and_models_of_32_bits(tmp_path: Path) -> None:
    for name, head in {
        "x86": x86_kernel(0x7E),
        "x86_64": x86_kernel(0x7F),
        "arm": bytes(0x24) + b"\x18\x28\x6f\x01",
        "arm64": bytes(0x38) + b"ARM\x64",
    }.items():
        (tmp_path / name).write_bytes(head)
    for runs in (
        "kernel: x86",
        "kernel: x86_64",
        "kernel: x86\ncpu: pentium3-v1",
        "arch: aarch64\nkernel: arm\ncpu: cortex-a15",
        "arch: riscv64\ncpu: rv32\nfirmware: arm",
    ):
        assert load(tmp_path, runs).kernel or "firmware" in runs
    assert details(tmp_path, "kernel: x86_64\ncpu: qemu32,-sse") == [
        "vm.yaml:2: cpu: qemu32,-sse has 32 bits, and the kernel is for x86_64"
    ]
    assert details(tmp_path, "arch: aarch64\nkernel: arm64\ncpu: cortex-a7") == [
        "vm.yaml:3: cpu: cortex-a7 has 32 bits, and the kernel is for aarch64"
    ]
    assert details(tmp_path, "arch: riscv64\ncpu: rv32") == [
        "vm.yaml:2: cpu: rv32 has 32 bits, and the engine's firmware 64: name one in firmware"
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kernel: ~nobody-has-this/x", "kernel: there is no home folder ~nobody-has-this"),
        (f"kernel: {'x' * 300}", f"kernel: can't be read: {{0}}/{'x' * 300}"),
        ("kernel: fifo", "kernel: not a file: {0}/fifo"),
        ("disks: [{file: fifo}]", "disks.0.file: not a file: {0}/fifo"),
        ("disks: [{file: /dev/zero}]", "disks.0.file: not a file: /dev/zero"),
        ("kernel: file/below", "kernel: no such file: {0}/file/below"),
        ("serial: {log: none/x}", "serial.log: not a file in a folder: {0}/none/x"),
        ("serial: {log: .}", "serial.log: not a file in a folder: {0}"),
        (
            "{serial: {log: file}, disks: [{file: file}]}",
            "serial.log: the machine needs this file: {0}/file",
        ),
        (
            "network: {forwards: [{host: 0, guest: 1, address: 192.0.2.1}]}",
            "network.forwards.0.address: no address of this host: 192.0.2.1",
        ),
        ("firmware: file", "firmware: the firmware of a PC has a whole number of 64 KiB: {0}/file"),
    ],
)
def test_files_and_addresses_that_can_t_be_used(tmp_path: Path, text: str, problem: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(bytes(512))
    [found] = details(tmp_path, text)
    shown = problem.format(tmp_path)[:200]
    assert found.startswith(f"vm.yaml:1: {shown}")


def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    """In a process without the rights of root, which may read everything."""
    (tmp_path / "theirs").mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    (tmp_path / "vm.yaml").write_text("kernel: theirs/vmlinuz\n")
    child = os.fork() if os.geteuid() == 0 else 0
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        return
    code = 1
    try:
        os.chdir(tmp_path)
        os.setresuid(65534, 65534, 65534)
        with pytest.raises(ConfigError) as caught:
            resolve.load(Path("vm.yaml"))
        code = 0 if "can't be read" in caught.value.detail else 2
    finally:
        os._exit(code)


def test_names_of_machines_are_short_and_ascii(tmp_path: Path) -> None:
    file = tmp_path / ("\u00e9\u4e16" * 30 + ".yaml")
    file.write_text("")
    assert resolve.load(file).name == "machine"
    file = tmp_path / "\udcff \u00e9x.yaml"
    file.write_text("")
    assert resolve.load(file).name == "x"


def test_a_machine_of_paths_that_are_not_utf8_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / os.fsdecode(b"d\xff,.raw")).write_bytes(bytes(512))
    spec = load(folder, "", "disks=[]", os.fsdecode(b"serial.log=l\xfe"))
    spec = dataclasses.replace(spec, disks=load(folder, "", *_not_utf8_disk()).disks)
    write_spec(tmp_path / "spec.json", spec)
    assert read_spec(tmp_path / "spec.json") == spec
    assert os.fsencode(spec.disks[0].file).endswith(b"/caf\xe9/d\xff,.raw")


def _not_utf8_disk() -> list[str]:
    return ["disks=[{file: x}]", os.fsdecode(b"disks.0.file=d\xff,.raw")]
