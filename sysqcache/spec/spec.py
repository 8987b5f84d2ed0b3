# SPDX-License-Identifier: GPL-2.0-or-later
"""What a machine is: concrete, immutable values without any ``auto`` left.

Made by :mod:`sysqcache.spec.resolve` from a vm.yaml; everything after it only reads.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sysqcache.base.types import (
    ArchName,
    CacheMode,
    DiskFormat,
    DiskMode,
    GuestAccess,
    OnPoweroff,
    Probe,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Disk:
    """A disk image on the host, an absolute path; ``device``: it is a block device."""

    file: Path
    format: DiskFormat
    mode: DiskMode
    device: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Forward:
    """A host port that leads to a guest port; ``host`` 0 means any free port."""

    host: int
    guest: int
    protocol: str = "tcp"
    address: str = "127.0.0.1"


@dataclasses.dataclass(frozen=True, slots=True)
class Network:
    """User-mode network of the guest; ``enabled`` False: no network card."""

    enabled: bool = True
    forwards: tuple[Forward, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Ready:
    """When the machine counts as ready.

    ``pattern`` is a regular expression for ``Probe.SERIAL``; ``port`` is a guest port
    for ``Probe.TCP`` and ``send`` what to send there first; ``timeout`` in seconds
    counts from the start of QEMU; ``hint`` is shown when it passes.
    """

    probe: Probe
    pattern: str = ""
    port: int = 0
    send: str = ""
    timeout: float = 300.0
    hint: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class CachePolicy:
    """How the machine uses the cache; ``journal_max`` in bytes."""

    mode: CacheMode = CacheMode.ON
    journal_max: int = 1 << 30


@dataclasses.dataclass(frozen=True, slots=True)
class Accelerator:
    """TCG options; ``tb_size`` in bytes, 0 for QEMU's own default."""

    multi: bool = False
    tb_size: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class MachineSpec:
    """A whole machine. Sizes in bytes, times in seconds, paths absolute; a ``firmware``
    without a directory is a file of the engine's.

    ``image_id`` names what the machine boots; machines that boot the same image share
    what they translated. ``serial_log`` None means the file in the instance directory.
    ``channels`` names ports of the virtio-serial bus besides the guest agent's.
    """

    name: str
    arch: ArchName
    machine: str
    cpu: str
    memory: int
    vcpus: int
    image_id: str
    source: Path
    firmware: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    disks: tuple[Disk, ...] = ()
    network: Network = Network()
    serial_log: Path | None = None
    ready: Ready = Ready(Probe.NONE)
    agent: GuestAccess = GuestAccess.NONE
    cache: CachePolicy = CachePolicy()
    accelerator: Accelerator = Accelerator()
    on_poweroff: OnPoweroff = OnPoweroff.QUIT
    poweroff_timeout: float = 60.0
    reboot: bool = True
    qemu_args: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()

    def with_cache(self, mode: CacheMode) -> MachineSpec:
        """The same machine with another cache mode."""
        return dataclasses.replace(self, cache=dataclasses.replace(self.cache, mode=mode))
