# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU command line, part by part."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sysqcache.base.types import ArchName, CacheMode, DiskFormat, DiskMode, OnPoweroff
from sysqcache.machine.launch import argv
from sysqcache.machine.launch.argv import Launch, TbCache
from sysqcache.spec.spec import Accelerator, Disk, Forward, MachineSpec, Network


def spec(**changes: object) -> MachineSpec:
    base = MachineSpec(
        name="vm",
        arch=ArchName.X86_64,
        machine="pc",
        cpu="qemu64",
        memory=1 << 30,
        vcpus=1,
        image_id="image",
        source=Path("/vm.yaml"),
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def launch(
    machine: MachineSpec | None = None,
    disks: tuple[Disk, ...] = (),
    tb_cache: TbCache | None = None,
) -> Launch:
    return Launch(
        machine or spec(),
        Path("/engine/bin/qemu-system-x86_64"),
        Path("/engine/share/qemu"),
        Path("/run/vm"),
        disks,
        tb_cache,
    )


def values(args: list[str], option: str) -> list[str]:
    return [args[i + 1] for i, arg in enumerate(args) if arg == option]


def test_the_whole_is_the_sum_of_its_parts() -> None:
    one = launch()
    parts = [arg for part in argv.PARTS for arg in part(one)]
    assert argv.build(one) == ["/engine/bin/qemu-system-x86_64", *parts]


def test_nothing_that_was_not_asked_for() -> None:
    args = argv.build(launch())
    assert "-nodefaults" in args
    assert "-no-user-config" in args
    assert values(args, "-display") == ["none"]
    assert values(args, "-L") == ["/engine/share/qemu"]
    assert not {"-kernel", "-bios", "-object", "-blockdev", "-no-reboot"} & set(args)


@pytest.mark.parametrize(
    ("arch", "machine", "cpu", "expected"),
    [
        (ArchName.X86_64, "pc", "qemu64", "qemu64"),
        (ArchName.X86_64, "pc", "max,-la57", "max,-la57"),
        (ArchName.AARCH64, "virt", "max", "max,pauth-impdef=on"),
        (ArchName.AARCH64, "virt", "max,pauth-impdef=off", "max,pauth-impdef=off"),
        (ArchName.AARCH64, "virt", "max,pauth=off", "max,pauth=off"),
        (ArchName.AARCH64, "virt", "cortex-a72", "cortex-a72"),
        (ArchName.RISCV64, "virt", "rv64", "rv64"),
    ],
)
def test_machine_of_each_architecture(
    arch: ArchName, machine: str, cpu: str, expected: str
) -> None:
    args = argv.machine_args(launch(spec(arch=arch, machine=machine, cpu=cpu, vcpus=2)))
    assert values(args, "-machine") == [machine]
    assert values(args, "-cpu") == [expected]
    assert values(args, "-smp") == ["2"]
    assert values(args, "-m") == ["1024M"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Accelerator(), "tcg,thread=single"),
        (Accelerator(multi=True), "tcg,thread=multi"),
        (Accelerator(tb_size=256 << 20), "tcg,thread=single,tb-size=256"),
    ],
)
def test_accelerator(options: Accelerator, expected: str) -> None:
    assert argv.accelerator_args(launch(spec(accelerator=options))) == ["-accel", expected]


def test_cache_object() -> None:
    cache = TbCache(CacheMode.ON, Path("/b"), Path("/j,1"), 1000)
    assert argv.tb_cache_args(launch(tb_cache=cache)) == [
        "-object",
        "tb-cache,id=tbcache0,mode=on,boot-set=/b,journal=/j,,1,journal-max=1000",
    ]
    cache = TbCache(CacheMode.ON, touched=Path("/t,"))
    assert argv.tb_cache_args(launch(tb_cache=cache)) == [
        "-object",
        "tb-cache,id=tbcache0,mode=on,touched=/t,,",
    ]
    cache = TbCache(CacheMode.ON, small_pages=True)
    assert argv.tb_cache_args(launch(tb_cache=cache)) == [
        "-object",
        "tb-cache,id=tbcache0,mode=on,small-pages=on",
    ]
    cache = TbCache(CacheMode.ON, images=Path("/i,"))
    assert argv.tb_cache_args(launch(tb_cache=cache)) == [
        "-object",
        "tb-cache,id=tbcache0,mode=on,images=/i,,",
    ]
    cache = TbCache(CacheMode.READ_ONLY, Path("/b"))
    assert argv.tb_cache_args(launch(tb_cache=cache)) == [
        "-object",
        "tb-cache,id=tbcache0,mode=read-only,boot-set=/b",
    ]


def test_cache_off_leaves_no_trace() -> None:
    assert argv.tb_cache_args(launch()) == []
    assert argv.tb_cache_args(launch(tb_cache=TbCache(CacheMode.OFF, Path("/b")))) == []
    assert not any("tb-cache" in arg for arg in argv.build(launch()))


def test_kernel() -> None:
    machine = spec(kernel=Path("/k"), initrd=Path("/i"), cmdline="console=ttyS0 a,b")
    assert argv.boot_args(launch(machine)) == [
        *("-kernel", "/k", "-initrd", "/i", "-append", "console=ttyS0 a,b")
    ]
    assert argv.boot_args(launch(spec(kernel=Path("/k")))) == ["-kernel", "/k"]


def test_firmware() -> None:
    assert argv.boot_args(launch(spec(firmware=Path("/f")))) == ["-bios", "/f"]


def test_disks() -> None:
    disks = (
        Disk(Path("/o,1.qcow2"), DiskFormat.QCOW2, DiskMode.EPHEMERAL),
        Disk(Path("/p.img"), DiskFormat.RAW, DiskMode.PERSISTENT),
        Disk(Path("/r.img"), DiskFormat.RAW, DiskMode.READ_ONLY),
        Disk(Path("/dev/d"), DiskFormat.RAW, DiskMode.READ_ONLY, device=True),
    )
    args = argv.disk_args(launch(disks=disks))
    ephemeral, persistent, read_only, device = values(args, "-blockdev")
    assert [",file.driver=file," in disk for disk in (ephemeral, persistent, read_only)] == [
        True
    ] * 3
    assert ",file.driver=host_device,file.filename=/dev/d," in device
    assert "file.filename=/o,,1.qcow2" in ephemeral
    assert ephemeral.endswith("cache.no-flush=on")
    assert "no-flush" not in persistent
    assert "read-only" not in persistent
    assert read_only.endswith("read-only=on")
    devices = values(args, "-device")
    assert [f"drive=disk{i}," in device for i, device in enumerate(devices)] == [True] * 4


def test_network() -> None:
    forwards = (Forward(2222, 22), Forward(53, 53, "udp", "0.0.0.0"))
    args = argv.network_args(launch(spec(network=Network(True, forwards))))
    assert values(args, "-netdev") == [
        "user,id=net0,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=udp:0.0.0.0:53-:53"
    ]
    assert values(args, "-device")[0].endswith("romfile=")
    assert argv.network_args(launch(spec(network=Network(False)))) == []


def test_sockets_have_short_names_and_logs_are_complete() -> None:
    args = argv.build(launch())
    sockets = [value for value in values(args, "-chardev") if value.startswith("socket")]
    assert len(sockets) == 5
    for value in sockets:
        path = next(v for v in value.split(",") if v.startswith("path=")).removeprefix("path=")
        assert "/" not in path
        assert "server=on,wait=off" in value
    assert any("logfile=/run/vm/serial.log" in value for value in sockets)
    assert len(values(args, "-mon")) == 3


def test_serial_log_of_the_user() -> None:
    args = argv.serial_args(launch(spec(serial_log=Path("/x/my.log"))))
    assert "logfile=/x/my.log" in args[1]


def test_lifecycle() -> None:
    assert argv.lifecycle_args(launch()) == []
    machine = spec(on_poweroff=OnPoweroff.HOLD, reboot=False)
    assert argv.lifecycle_args(launch(machine)) == ["-no-shutdown", "-no-reboot"]


def test_user_arguments_are_last() -> None:
    args = argv.build(launch(spec(qemu_args=("-d", "guest_errors"))))
    assert args[-2:] == ["-d", "guest_errors"]
