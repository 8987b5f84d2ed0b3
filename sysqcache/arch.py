# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that depends on the guest architecture, as one object for each."""

from __future__ import annotations

import dataclasses
from typing import Final

from sysqcache.base.types import ArchName
from sysqcache.kernelkind import ARM_32, RISCV_32, X86_32

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
    files; "": nothing, or none. ``narrow_cpus`` are the target's models with 32 bits, which
    run ``narrow_kernel`` alone; ``runs_both``: the others run that too.
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
    narrow_cpus: frozenset[str] = frozenset()
    narrow_kernel: str = ""
    runs_both: bool = False

    @property
    def qemu_name(self) -> str:
        """File name of the emulator."""
        return f"qemu-system-{self.name}"

    def is_narrow(self, cpu: str) -> bool:
        """Whether a CPU model has 32 bits."""
        return cpu.partition(",")[0].removesuffix("-v1") in self.narrow_cpus

    def kernels(self, cpu: str) -> frozenset[str]:
        """For which machines a kernel may be made that runs on this CPU model."""
        if self.is_narrow(cpu):
            return frozenset({self.narrow_kernel})
        return frozenset({str(self.name), *([self.narrow_kernel] if self.runs_both else [])})

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

# as QEMU 10.0 lists them
_I386_MODELS: Final = frozenset(
    {
        *("486", "pentium", "pentium2", "pentium3", "athlon", "coreduo", "kvm32", "n270"),
        "qemu32",
    }
)
_AARCH32_MODELS: Final = frozenset(
    {
        *("arm926", "arm946", "arm1026", "arm1136", "arm1136-r2", "arm1176", "arm11mpcore"),
        *("cortex-a7", "cortex-a8", "cortex-a9", "cortex-a15", "cortex-r5", "cortex-r5f"),
        *("cortex-r52", "cortex-m0", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33"),
        *("cortex-m55", "sa1100", "sa1110", "ti925t"),
    }
)
_RV32_MODELS: Final = frozenset(
    {
        *("rv32", "rv32i", "rv32e", "max32", "lowrisc-ibex", "sifive-e31", "sifive-e34"),
        "sifive-u34",
    }
)

_ARCHES: Final = {
    # qemu64: no ERMS, which TCG runs byte by byte, and no 5-level page tables
    ArchName.X86_64: Arch(
        ArchName.X86_64,
        "amd64",
        "pc",
        "qemu64",
        "ttyS0",
        narrow_cpus=_I386_MODELS,
        narrow_kernel=X86_32,
        runs_both=True,
    ),
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
        narrow_cpus=_AARCH32_MODELS,
        narrow_kernel=ARM_32,
    ),
    ArchName.RISCV64: Arch(
        ArchName.RISCV64,
        "riscv64",
        "virt",
        "rv64",
        "ttyS0",
        firmware=OPENSBI_RISCV64,
        narrow_cpus=_RV32_MODELS,
        narrow_kernel=RISCV_32,
    ),
}


def get_arch(name: ArchName) -> Arch:
    """The object for ``name``."""
    return _ARCHES[name]
