# SPDX-License-Identifier: GPL-2.0-or-later
"""The ends of the range of kernels: booted, mapped, adopted, verified.

`python -m bench.kernels` does the same with all kernels that the mirror has.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from machinehelp import TINY

from bench import kernelpackages
from bench.kernelpackages import Kernel
from bench.kernels import CMDLINE, examine
from bench.session import Session
from sysqcache.base.errors import EngineMissing, SysqcacheError
from sysqcache.base.types import ArchName
from sysqcache.spec.engines import find_engine

pytestmark = [pytest.mark.vm, pytest.mark.slow]

ENDS = {
    "oldest": (ArchName.X86_64, "cloud-amd64", 0),
    "newest": (ArchName.X86_64, "cloud-amd64", -1),
    "newest of arm64": (ArchName.AARCH64, "cloud-arm64", -1),
}
"""Architecture, flavour, and which of its kernels, oldest first."""


_FORGETFUL = """
import runpy, sys
from sysqcache.guestmap import layout
layout.NAMES = {}
sys.argv = ["sysqcache", *sys.argv[1:]]
runpy.run_module("sysqcache", run_name="__main__")
"""
"""The command, without the other names of members."""


def kernel_at(end: str) -> Kernel:
    """Fetched, and kept in the cache; skips where that can't be."""
    arch, flavour, which = ENDS[end]
    try:
        find_engine(arch)
        kernels, _ = kernelpackages.available(arch, update=False)
        kernel = [one for one in kernels if one.flavour == flavour][which]
        kernelpackages.fetched(kernel)
    except (EngineMissing, SysqcacheError, IndexError) as error:
        pytest.skip(f"no kernel to boot: {error}")
    return kernel


@pytest.mark.parametrize("end", ENDS)
def test_a_kernel_is_known(end: str, tmp_path: Path) -> None:
    row = examine(kernel_at(end), Session(tmp_path))
    assert (row.note, row.warnings, row.differs) == ("", (), ()), row
    assert row.processes > 30
    assert row.placed >= 0.97
    assert row.second >= 0.98
    assert row.verified > 10_000
    assert row.mismatches == 0


def test_a_kernel_that_is_no_linux(tmp_path: Path) -> None:
    """Xen, which misses its dom0: its code has its place, and serves a copy of the file."""
    try:
        find_engine(ArchName.X86_64)
        kernel = kernelpackages.xen()
    except SysqcacheError as error:
        pytest.skip(f"no Xen to boot: {error}")
    session = Session(tmp_path)

    def start(name: str, mode: str) -> dict[str, Any]:
        copy = tmp_path / f"{name}.elf"
        shutil.copyfile(kernel, copy)
        config = tmp_path / f"{name}.yaml"
        config.write_text(
            f"kernel: {copy}\nmemory: 128MiB\ncmdline: console=com1 com1=115200 noreboot\n"
            "network: {mode: none}\nready: {pattern: Panic on CPU 0, timeout: 120s}\n"
        )
        return session.boot(tmp_path / "store", config, "--cache", mode)

    cold = start("one", "on")
    told = cold["attribution"]
    assert told["kept_under"] == "one.elf"
    assert told["kinds"]["kernel"] > 500
    assert told["attributed"] > 0.8 * told["blocks"], told
    warm = start("other", "on")["blocks"]
    assert warm["hit_rate"] > 0.97
    verified = start("other", "verify")["blocks"]
    assert verified["verified"] > 0.97 * verified["requested"]
    assert verified["mismatches"] == 0, verified["mismatch_log"]


def test_a_kernel_that_is_not_known_is_a_warning(own_state: Path) -> None:
    folder = kernelpackages.fetched(kernel_at("newest"))
    arguments = ["boot", TINY, "--json", "--set", f"kernel={folder / 'kernel'}"]
    arguments += ["--set", f"initrd={folder / 'initrd'}", "--set", f"cmdline={CMDLINE}"]
    done = subprocess.run(
        [sys.executable, "-c", _FORGETFUL, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    found = json.loads(done.stdout)
    [warning] = found["warnings"]
    assert re.match(r"Linux \d+\.\d+.* has structures that are not known; not read: pages", warning)
    assert found["attribution"]["kinds"]["kernel"] > 10_000
