# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU command line as a sum of small pure functions.

Each function answers one question about a :class:`Launch` with a list of arguments;
:func:`build` adds them up. Nothing here touches the file system.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.base.types import CacheMode, DiskFormat, DiskMode, OnPoweroff
from sysqcache.spec.arch import get_arch
from sysqcache.spec.spec import Disk, Forward, MachineSpec


@dataclasses.dataclass(frozen=True, slots=True)
class TbCache:
    """The translation cache's object; paths are absolute, ``journal_max`` in bytes.

    :param touched: the list of guest memory to touch ahead of the guest.
    :param small_pages: take no memory for code that is not used yet: memory before speed.
    :param images: the folder whose files are never written to: machines share kernels in it.
    """

    mode: CacheMode
    boot_set: Path | None = None
    journal: Path | None = None
    journal_max: int = 0
    touched: Path | None = None
    small_pages: bool = False
    images: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Incoming:
    """A machine that does not boot: it waits, paused, for a saved state.

    :param migration: the state comes by a QMP command from a file; else it is loaded from
        a snapshot inside the disks.
    :param memory: a file whose bytes from ``memory_offset`` on are the guest's memory, to
        be mapped privately; ``memory_id`` is what QEMU calls this memory.
    """

    migration: bool
    memory: Path | None = None
    memory_offset: int = 0
    memory_id: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Launch:
    """All that decides the command line.

    QEMU runs with ``directory`` as its working directory, so that its sockets can be
    named relatively: a Unix socket's path has at most 107 bytes. ``disks`` are those
    of the spec with ephemeral ones replaced by their overlays.
    """

    spec: MachineSpec
    binary: Path
    firmware_dir: Path
    directory: Path
    disks: tuple[Disk, ...] = ()
    tb_cache: TbCache | None = None
    incoming: Incoming | None = None


def escape(value: object) -> str:
    """A value inside a comma-separated option: QEMU wants commas doubled."""
    return str(value).replace(",", ",,")


def base_args(launch: Launch) -> list[str]:
    """What every machine has: nothing that we did not ask for."""
    return [
        *("-nodefaults", "-no-user-config"),
        *("-display", "none"),
        *("-L", str(launch.firmware_dir)),
        *("-name", f"guest={escape(launch.spec.name)},debug-threads=on"),
    ]


def machine_args(launch: Launch) -> list[str]:
    """Machine type, CPU model, vCPUs and memory."""
    spec, arch = launch.spec, get_arch(launch.spec.arch)
    machine = arch.machine_argument(spec.machine)
    incoming = launch.incoming
    if incoming is not None and incoming.memory is not None:
        machine += f",memory-backend={incoming.memory_id}"
    return [
        *("-machine", machine),
        *("-cpu", arch.cpu_argument(spec.cpu)),
        *("-smp", str(spec.vcpus)),
        *("-m", f"{spec.memory >> 20}M"),
    ]


def incoming_args(launch: Launch) -> list[str]:
    """How a saved machine comes in."""
    incoming = launch.incoming
    if incoming is None:
        return []
    if not incoming.migration:
        return ["-S"]
    if incoming.memory is None:
        return ["-incoming", "defer"]
    # the name of the block of memory in the stream is that of the object alone
    memory = f"memory-backend-file,id={incoming.memory_id},size={launch.spec.memory}"
    memory += f",mem-path={escape(incoming.memory)},offset={incoming.memory_offset}"
    memory += ",share=off,readonly=on,rom=off,x-use-canonical-path-for-ramblock-id=off"
    return ["-object", memory, "-incoming", "defer"]


def accelerator_args(launch: Launch) -> list[str]:
    """TCG, its threads and its code buffer."""
    options = launch.spec.accelerator
    value = f"tcg,thread={'multi' if options.multi else 'single'}"
    if options.tb_size:
        value += f",tb-size={max(1, options.tb_size >> 20)}"
    return ["-accel", value]


def tb_cache_args(launch: Launch) -> list[str]:
    """The cache object; nothing at all when the cache is off."""
    cache = launch.tb_cache
    if cache is None or cache.mode is CacheMode.OFF:
        return []
    value = f"tb-cache,id=tbcache0,mode={cache.mode}"
    files = {
        "boot-set": cache.boot_set,
        "touched": cache.touched,
        "images": cache.images,
        "journal": cache.journal,
    }
    value += "".join(f",{name}={escape(file)}" for name, file in files.items() if file)
    if cache.journal is not None:
        value += f",journal-max={cache.journal_max}"
    if cache.small_pages:
        value += ",small-pages=on"
    return ["-object", value]


def boot_args(launch: Launch) -> list[str]:
    """Firmware other than the machine type's own, a directly booted kernel."""
    spec = launch.spec
    named = {
        "-bios": spec.firmware,
        "-kernel": spec.kernel,
        "-initrd": spec.initrd,
        "-append": spec.cmdline,
    }
    return [arg for option, value in named.items() if value for arg in (option, str(value))]


def disk_args(launch: Launch) -> list[str]:
    """All disks, in the guest's order."""
    return [arg for i, disk in enumerate(launch.disks) for arg in _one_disk(i, disk)]


def disk_node(index: int) -> str:
    """QEMU's name of the disk number ``index`` of vm.yaml."""
    return f"disk{index}"


def _one_disk(index: int, disk: Disk) -> list[str]:
    node = disk_node(index)
    value = f"driver={disk.format},node-name={node},discard=unmap"
    value += file_options("file", disk)
    if disk.mode is DiskMode.READ_ONLY:
        value += ",read-only=on"
    if disk.mode is DiskMode.EPHEMERAL:
        # the overlay ends with the machine: nothing to keep safe
        value += ",cache.no-flush=on"
    device = f"virtio-blk-pci,drive={node},id=virtio-{node},bootindex={index + 1}"
    return ["-blockdev", value, "-device", device]


def file_options(node: str, disk: Disk) -> str:
    """The file of a disk as the options of a node."""
    driver = "host_device" if disk.device else "file"
    return f",{node}.driver={driver},{node}.filename={escape(disk.file)}"


def network_args(launch: Launch) -> list[str]:
    """The network card behind QEMU's NAT; no option ROM, so no time in it."""
    network = launch.spec.network
    if not network.enabled:
        return []
    value = "user,id=net0" + "".join(f",hostfwd={_hostfwd(f)}" for f in network.forwards)
    return ["-netdev", value, "-device", "virtio-net-pci,netdev=net0,id=nic0,romfile="]


def _hostfwd(forward: Forward) -> str:
    return f"{forward.protocol}:{escape(forward.address)}:{forward.host}-:{forward.guest}"


def serial_args(launch: Launch) -> list[str]:
    """The first serial port: all output in a file, a socket to attach to."""
    log = launch.spec.serial_log or launch.directory / paths.INSTANCE_SERIAL_LOG
    value = f"socket,id=serial0,path={paths.INSTANCE_SERIAL},server=on,wait=off"
    value += f",logfile={escape(log)},logappend=off"
    return ["-chardev", value, *get_arch(launch.spec.arch).serial_device]


_PORTS: Final = 4
"""Of the serial bus, the guest agent's among them: each costs QEMU 110 KiB."""


def channel_args(launch: Launch) -> list[str]:
    """The guest agent's channel."""
    path = paths.INSTANCE_AGENT
    port = "virtserialport,bus=vser0.0,chardev=agent0,name=org.qemu.guest_agent.0"
    return [
        *("-chardev", f"socket,id=agent0,path={path},server=on,wait=off"),
        *("-device", f"virtio-serial-pci,id=vser0,max_ports={_PORTS}"),
        *("-device", port),
    ]


def helper_device_args(launch: Launch) -> list[str]:
    """Entropy for the guest, vmcoreinfo for introspection, an id for each life of a guest.

    A guest that is resumed twice would use the same random numbers twice; the generation
    id tells its kernel. It needs ACPI as the PC machines have it.
    """
    args = ["-device", "virtio-rng-pci,id=rng0", "-device", "vmcoreinfo"]
    if launch.spec.machine.partition("-")[0] in ("pc", "q35"):
        args += ["-device", "vmgenid,guid=auto"]
    return args


def qmp_args(launch: Launch) -> list[str]:
    """QMP sockets: ours, a spare one for other commands and introspection, one for who waits.

    Each has one client at a time. Who runs a command in the guest may wait for hours, and has
    to hear of the guest's end meanwhile; the spare one is not to be held as long.
    """
    args: list[str] = []
    sockets = (paths.INSTANCE_QMP, paths.INSTANCE_QMP_INTROSPECT, paths.INSTANCE_QMP_EVENTS)
    for index, path in enumerate(sockets):
        name = f"qmp{index}"
        args += ["-chardev", f"socket,id={name},path={path},server=on,wait=off"]
        args += ["-mon", f"chardev={name},mode=control"]
    return args


def lifecycle_args(launch: Launch) -> list[str]:
    """What happens at the guest's end."""
    args = []
    if launch.spec.on_poweroff is OnPoweroff.HOLD:
        args.append("-no-shutdown")
    if not launch.spec.reboot:
        args.append("-no-reboot")
    return args


PARTS: Final[tuple[Callable[[Launch], list[str]], ...]] = (
    base_args,
    machine_args,
    incoming_args,
    accelerator_args,
    tb_cache_args,
    boot_args,
    disk_args,
    network_args,
    serial_args,
    channel_args,
    helper_device_args,
    qmp_args,
    lifecycle_args,
)


def build(launch: Launch) -> list[str]:
    """The whole command line: the program, our arguments, those of ``qemu_args`` override them."""
    ours = (arg for part in PARTS for arg in part(launch))
    return [str(launch.binary), *ours, *launch.spec.qemu_args]


def overlay_disk(disk: Disk, overlay: Path) -> Disk:
    """``disk`` as seen through a qcow2 overlay."""
    return Disk(overlay, DiskFormat.QCOW2, disk.mode)
