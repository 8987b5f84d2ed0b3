# SPDX-License-Identifier: GPL-2.0-or-later
"""RISC-V harts of one model are the same, whatever profiles of extensions they fulfil."""

from __future__ import annotations

from pathlib import Path

import pytest
from qemuhelp import info, qemu
from required import require_engine

from sysqcache.spec.engines import Engine

pytestmark = pytest.mark.qemu

HARTS = ("-machine", "virt", "-smp", "3", "-bios", "none", "-S", "-object", "tb-cache,id=c")


@pytest.fixture(scope="module")
def riscv_engine() -> Engine:
    return require_engine("riscv64")


@pytest.mark.parametrize("model", ["max", "rv64", "rva22s64", "rv64,rva22u64=on,rva23u64=on"])
def test_all_harts_are_one_cpu(model: str, riscv_engine: Engine, tmp_path: Path) -> None:
    """Profiles for user mode have no privileged version, and a hart has one."""
    with qemu(riscv_engine, tmp_path, *HARTS, "-cpu", model) as client:
        state = info(client)
    assert state["active"], state
    [version] = [
        line.partition("=")[2]
        for line in state["fingerprint-text"].splitlines()
        if line.startswith("riscv-privileged=")
    ]
    assert int(version, 16) <= 3, "newer than the newest that QEMU knows"


@pytest.mark.parametrize(
    ("model", "profiles"),
    [
        ("max", {"rva22u64", "rva23u64"}),
        ("rva22s64", {"rva22u64", "rva22s64"}),
        ("rv64", set()),
    ],
)
def test_what_a_cpu_fulfils_is_told(
    model: str, profiles: set[str], riscv_engine: Engine, tmp_path: Path
) -> None:
    with qemu(riscv_engine, tmp_path) as client:
        asked = {"type": "full", "model": {"name": model}}
        found = client.execute("query-cpu-model-expansion", asked)["model"]["props"]
    assert {name for name, has in found.items() if name.startswith("rva") and has} == profiles
