# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that depends on the guest architecture, as one object for each."""

from __future__ import annotations

import dataclasses
from typing import Final

from sysqcache.types import ArchName

EFI_AARCH64: Final = "edk2-aarch64-code.fd"
OPENSBI_RISCV64: Final = "opensbi-riscv64-generic-fw_dynamic.bin"


@dataclasses.dataclass(frozen=True, slots=True)
class Arch:
    """Answers for one guest architecture.

    ``default_cpu`` must be stable: its features enter the fingerprint, so a model that
    changed from host to host would throw the cache away. ``cpu_options`` are appended
    to every CPU model. ``console`` is the kernel's name of the first serial port,
    ``debian_name`` what Debian calls the architecture. ``firmware`` is what the default
    machine type runs by itself, ``efi`` what ``firmware: efi`` means, as QEMU names the
    files; "": nothing, or none.
    """

    name: ArchName
    debian_name: str
    default_machine: str
    default_cpu: str
    console: str
    machine_options: str = ""
    cpu_options: str = ""
    serial_device: tuple[str, ...] = ("-serial", "chardev:serial0")
    firmware: str = ""
    efi: str = ""

    @property
    def qemu_name(self) -> str:
        """File name of the emulator."""
        return f"qemu-system-{self.name}"

    def machine_argument(self, machine: str) -> str:
        """The value of ``-machine``."""
        return f"{machine},{self.machine_options}" if self.machine_options else machine

    def cpu_argument(self, cpu: str) -> str:
        """The value of ``-cpu``; options that the user wrote himself win."""
        missing = [
            option
            for option in filter(None, self.cpu_options.split(","))
            if f"{option.partition('=')[0]}=" not in cpu
        ]
        return ",".join([cpu, *missing]) if self._takes_options(cpu) else cpu

    def _takes_options(self, cpu: str) -> bool:
        # pauth-impdef is a property of models with pointer authentication only, and of
        # no use without it
        model, *options = cpu.split(",")
        return self.name is not ArchName.AARCH64 or (
            model in _PAUTH_MODELS and "pauth=off" not in options
        )


_PAUTH_MODELS: Final = frozenset({"max", "neoverse-v1", "neoverse-n2", "cortex-a710"})

_ARCHES: Final = {
    # qemu64: no ERMS, which TCG runs byte by byte, and no 5-level page tables
    ArchName.X86_64: Arch(ArchName.X86_64, "amd64", "pc", "qemu64", "ttyS0"),
    # TCG runs pointer authentication and SVE in helpers: without them a boot of Debian 12
    # takes 17.4 s instead of 28.0 s (QARMA5 would take 30 % more; hence the option for
    # models that keep it). Models with fewer features are no remedy: without E0PD the
    # kernel's KASLR switches page tables at each system call, which flushes QEMU's TLB.
    ArchName.AARCH64: Arch(
        ArchName.AARCH64,
        "arm64",
        "virt",
        "max,pauth=off,sve=off,sme=off",
        "ttyAMA0",
        cpu_options="pauth-impdef=on",
        efi=EFI_AARCH64,
    ),
    ArchName.RISCV64: Arch(
        ArchName.RISCV64, "riscv64", "virt", "rv64", "ttyS0", firmware=OPENSBI_RISCV64
    ),
}


def get_arch(name: ArchName) -> Arch:
    """The object for ``name``."""
    return _ARCHES[name]
