# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's multiarch tests for bare machines with the board's own console and end (``boot/``)."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.verdicts.tcg import TOOLCHAINS

BOOT: Final = Path(__file__).with_name("boot")
_COMMON: Final = (
    "-nostdlib", "-static", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie", "-g",
)  # fmt: skip


@dataclass(frozen=True)
class Test:
    """A test of tests/tcg: its source, and options for the compiler."""

    source: str
    flags: Sequence[str] = ("-O0",)


_MULTIARCH: Final = {
    "hello": Test("multiarch/system/hello.c"),
    "interrupt": Test("multiarch/system/interrupt.c"),
    "memory": Test("multiarch/system/memory.c", ("-O0", "-DCHECK_UNALIGNED=1")),
    "memory-O2": Test("multiarch/system/memory.c", ("-O2", "-DCHECK_UNALIGNED=1")),
}
_TESTS: Final = {
    "aarch64": {
        **_MULTIARCH,
        "memory-sve": Test(
            "multiarch/system/memory.c", ("-O3", "-DCHECK_UNALIGNED=1", "-march=armv8.1-a+sve")
        ),
        "feat-xs": Test("aarch64/system/feat-xs.c"),
    },
    "riscv64": _MULTIARCH,
}
_FLAGS: Final = {"aarch64": (), "riscv64": ("-mcmodel=medany",)}
_MACHINES: Final = {
    "aarch64": ("-M", "virt", "-cpu", "max", "-kernel"),
    "riscv64": ("-M", "virt", "-bios"),
}


def build(tree: Path, directory: Path, target: str) -> dict[str, list[str]]:
    """Build a target's tests in ``directory``; name -> QEMU's arguments."""
    directory.mkdir(parents=True, exist_ok=True)
    source = tree / "tests" / "tcg"
    parts = _aarch64(source, directory) if target == "aarch64" else _riscv64(source)
    found = {}
    for name, test in _TESTS[target].items():
        # the end is the board's, after the test's
        _compile(
            target, *test.flags, "-c", "-Dmain=test_main", f"-I{source / 'minilib'}",
            source / test.source, "-o", directory / f"{name}.o",
        )  # fmt: skip
        _compile(target, directory / f"{name}.o", *parts, "-lgcc", "-o", directory / name)
        console = f"file,path={name}.out,id=output"
        found[name] = [
            "-monitor", "none", "-display", "none", "-chardev", console, "-serial",
            "chardev:output", *_MACHINES[target], name,
        ]  # fmt: skip
    return found


def _compile(target: str, *arguments: str | Path) -> None:
    command = [TOOLCHAINS[target].compiler, *_COMMON, *_FLAGS[target], *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


def _aarch64(source: Path, directory: Path) -> list[str | Path]:
    """QEMU's boot code, whose console is ours."""
    system = source / "aarch64" / "system"
    boot = directory / "boot.o"
    _compile("aarch64", "-c", "-Wa,--noexecstack", system / "boot.S", "-o", boot)
    weaken = [f"{TOOLCHAINS['aarch64'].prefix}objcopy", "--weaken-symbol=__sys_outc", str(boot)]
    subprocess.run(weaken, check=True)
    script = f"-Wl,-T{system / 'kernel.ld'},--build-id=none"
    minilib = source / "minilib"
    return [script, boot, "-O1", BOOT / "aarch64.c", f"-I{minilib}", minilib / "printf.c"]


def _riscv64(source: Path) -> list[str | Path]:
    """Our boot code, in place of the firmware."""
    minilib = source / "minilib"
    options: list[str | Path] = ["-Wl,-T", BOOT / "riscv64.ld", "-Wl,--build-id=none"]
    return [*options, BOOT / "riscv64.S", f"-I{minilib}", minilib / "printf.c"]
