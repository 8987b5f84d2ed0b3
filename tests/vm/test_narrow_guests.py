# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests with 32 bits on the 64-bit targets: they run, with the cache, or are refused at once."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from debianhelp import check_counters
from machinehelp import TINY, report, sysqcache
from programhelp import kernel32
from required import require_engine, require_image

pytestmark = pytest.mark.vm

CONFIG_ERROR = 3
READY = b"sysqcache: ready\n\0"


@pytest.fixture(autouse=True)
def engines(own_state: Path) -> Iterator[None]:
    """State of the test's own; skipped without the engines."""
    for target in ("x86_64", "aarch64", "riscv64"):
        require_engine(target)
    yield


def x86(directory: Path) -> str:
    return f"arch: x86_64\nkernel: {kernel32(directory)}\n"


def arm(directory: Path) -> str:
    """Puts READY to the board's serial port, in A32 instructions."""
    code = (
        0xE3A00409,  # mov   r0, #0x9000000
        0xE28F1014,  # add   r1, pc, #20
        0xE4D12001,  # ldrb  r2, [r1], #1
        0xE3520000,  # cmp   r2, #0
        0x15802000,  # strne r2, [r0]
        0x1AFFFFFB,  # bne   ldrb
        0xE320F003,  # wfi
        0xEAFFFFFD,  # b     wfi
    )
    kernel = directory / "kernel"
    kernel.write_bytes(struct.pack(f"<{len(code)}I", *code) + READY)
    return f"arch: aarch64\ncpu: cortex-a15\nkernel: {kernel}\n"


def riscv(directory: Path) -> str:
    """The same in place of firmware, in instructions that RV32 and RV64 have."""
    code = (
        0x10000537,  # lui   a0, 0x10000
        0x00000597,  # auipc a1, 0
        0x02458593,  # addi  a1, a1, 36
        0x0005C603,  # lbu   a2, 0(a1)
        0x00158593,  # addi  a1, a1, 1
        0x00060663,  # beqz  a2, wfi
        0x00C50023,  # sb    a2, 0(a0)
        0xFF1FF06F,  # j     lbu
        0x10500073,  # wfi
        0xFFDFF06F,  # j     wfi
    )
    firmware = directory / "firmware"
    firmware.write_bytes(struct.pack(f"<{len(code)}I", *code) + READY)
    return f"arch: riscv64\ncpu: rv32\nfirmware: {firmware}\n"


@pytest.mark.parametrize("make", [x86, arm, riscv])
def test_code_of_32_bits_is_kept_and_verified(make: Callable[[Path], str], tmp_path: Path) -> None:
    """A copy of what is started, with another path, adopts what the first machine recorded."""

    def boot(machine: str, mode: str) -> dict[str, Any]:
        folder = tmp_path / machine
        folder.mkdir(exist_ok=True)
        config = folder / f"{machine}.yaml"
        ready = 'ready: {pattern: "sysqcache: ready", timeout: 60s}\n'
        config.write_text(f"memory: 64MiB\n{ready}{make(folder)}")
        found = report("boot", config, "--until", "ready", "--cache", mode)
        check_counters(found)
        return found

    cold = boot("one", "on")
    assert cold["warnings"] == []
    assert cold["blocks"]["recorded"] > 0
    # what it is can't be found out, and that is said
    told = cold["attribution"]
    assert "no running Linux kernel" in told["unseen"]
    started = make(tmp_path).rpartition("/")[2].strip()
    assert told["kept_under"] == ("" if make is riscv else started)
    assert make is not riscv or told["kinds"]["firmware"] == told["blocks"]
    found = boot("other", "on")
    warm = found["blocks"]
    assert found["cache"]["blocks_known"] <= 2
    # what a PC's firmware does depends on the time: what it never did is no miss of the cache's
    new = 0.1 * warm["requested"] if make is x86 else 0
    assert warm["translated"] - warm["misses"]["count"] <= 2 + new
    verified = boot("other", "verify")["blocks"]
    assert verified["verified"] >= warm["adopted"] - 2 - new
    assert verified["mismatches"] == 0, verified["mismatch_log"]


@pytest.mark.parametrize(
    ("name", "cpu"),
    [("tiny-x86_64", "qemu32"), ("tiny-arm64", "cortex-a15"), ("tiny-riscv64", "rv32")],
)
def test_a_model_that_can_not_run_the_kernel(name: str, cpu: str) -> None:
    """It would start, and say nothing until the readiness probe gives up."""
    require_image(name)
    done = sysqcache(
        "boot", TINY.with_name(f"{name}.yaml"), "--set", f"cpu={cpu}", code=CONFIG_ERROR
    )
    assert f"{cpu} has 32 bits" in done.stderr


@pytest.mark.parametrize("arch", ["arm", "i386", "riscv32"])
def test_targets_that_are_none(arch: str) -> None:
    done = sysqcache("boot", TINY, "--set", f"arch={arch}", code=CONFIG_ERROR)
    assert f"expected 'x86_64', 'aarch64' or 'riscv64'; found '{arch}'" in done.stderr
