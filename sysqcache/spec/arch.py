# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything that depends on the guest architecture, as one object for each."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import Final

from sysqcache.base.types import ArchName

X86_32: Final = "32-bit x86"
ARM_32: Final = "32-bit arm"
RISCV_32: Final = "32-bit riscv"

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


# For which machine a kernel file was built: QEMU starts one that it does not recognize as plain
# code at the start of memory, and the machine then says nothing for ever.
HEAD: Final = 0x240
"""Bytes that :func:`kernel_machine` looks at."""


# offset and magic: x86/boot.rst, arm64/booting.rst, arch/arm/boot/compressed/head.S,
# riscv/boot-image-header.rst of the kernel's documentation
_MAGICS: Final = (
    (0x38, b"ARM\x64", ArchName.AARCH64.value),
    (0x38, b"RSC\x05", ArchName.RISCV64.value),
    (0x24, b"\x18\x28\x6f\x01", ARM_32),
)
_X86_MAGIC: Final = b"HdrS"
_X86_FLAGS_SINCE: Final = 0x20C  # version of the boot protocol
_X86_64_BIT: Final = 1
_ELF_MACHINES: Final = {
    (2, 62): ArchName.X86_64.value,
    (2, 183): ArchName.AARCH64.value,
    (2, 243): ArchName.RISCV64.value,
    (1, 40): ARM_32,
    (1, 243): RISCV_32,
}


def kernel_machine(head: bytes) -> str:
    """Name of the architecture; "" when these bytes don't tell (packed kernels, multiboot)."""
    if head[:4] == b"\x7fELF" and len(head) >= 20 and head[5] == 1:
        (machine,) = struct.unpack_from("<H", head, 18)
        return _ELF_MACHINES.get((head[4], machine), "")
    if head[0x202:0x206] == _X86_MAGIC:
        return _x86(head)
    for offset, magic, name in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return name
    return ""


def _x86(head: bytes) -> str:
    """Which of the two; kernels before 3.8 don't tell, and count as the usual one."""
    (version,) = struct.unpack_from("<H", head.ljust(HEAD, b"\0"), 0x206)
    (flags,) = struct.unpack_from("<H", head.ljust(HEAD, b"\0"), 0x236)
    narrow = version >= _X86_FLAGS_SINCE and not flags & _X86_64_BIT
    return X86_32 if narrow else ArchName.X86_64.value


def read_kernel_machine(file: Path) -> str:
    """:func:`kernel_machine` of a file; "" when it can't be read."""
    try:
        with file.open("rb") as stream:
            return kernel_machine(stream.read(HEAD))
    except OSError:
        return ""
