# SPDX-License-Identifier: GPL-2.0-or-later
"""Maps of arm64 and riscv64 guests against what the guests say of themselves."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from machinehelp import TINY, sysqcache
from maphelp import compare, compare_contents, compare_functions_only, process_of, socket_of

from sysqcache.enginebuild.info import find_engine
from sysqcache.errors import EngineMissing, ImageMissing
from sysqcache.guestmap.guest import open_guest
from sysqcache.guestmap.kallsyms import SymbolTable
from sysqcache.guestmap.session import Session
from sysqcache.guestmap.table import OwnerKind
from sysqcache.images import catalog

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("own_state")]

GUESTS = {
    # machine, target, what is added to the kernel's command line, bits of the page tables
    "arm64": ("tiny-arm64", "aarch64", "", 48),
    "arm64 without KASLR": ("tiny-arm64", "aarch64", " nokaslr", 48),
    "riscv64": ("tiny-riscv64", "riscv64", "", 57),
    "riscv64 with Sv39": ("tiny-riscv64", "riscv64", " no4lvl", 39),
}
CONSOLES = {"aarch64": "ttyAMA0", "riscv64": "ttyS0"}


@pytest.fixture
def guest(request: pytest.FixtureRequest) -> Iterator[tuple[str, str, int]]:
    """A running tiny guest: name, target, bits of its page tables."""
    name, target, more, bits = GUESTS[request.param]
    try:
        find_engine(target)
        catalog.resolve(name)
    except (EngineMissing, ImageMissing) as error:
        pytest.skip(f"{error.message}: {error.hint}")
    line = f"cmdline=console={CONSOLES[target]} quiet{more}"
    sysqcache("boot", TINY.with_name(f"{name}.yaml"), "--detach", "--set", line)
    process = process_of(name)
    yield name, target, bits
    sysqcache("stop", name, "--force", code=None)
    if process.poll() is None:
        process.signal(signal.SIGKILL)


@pytest.mark.parametrize("guest", GUESTS, indirect=True)
def test_maps_agree(guest: tuple[str, str, int], own_state: Path) -> None:
    """Kernel, modules, processes, contents of pages; on riscv64 also without data symbols."""
    name, target, bits = guest
    found, told = compare(name)
    counts = found.table.counts()
    assert sum(counts.values()) * 4096 >= 250 << 20
    assert counts[OwnerKind.UNKNOWN] < sum(counts.values()) // 100
    assert counts[OwnerKind.KERNEL_MODULE] > 10
    assert compare_contents(name, told) == 1
    with Session.open(socket_of(name), process_of(name)) as session:
        assert session.target == target
        opened = open_guest(session)
        assert opened.translation.tables.address_bits == bits
        all_symbols = "init_task" in SymbolTable(opened.memory, opened.info).find(("init_task",))
    if all_symbols:
        compare_functions_only(name)
