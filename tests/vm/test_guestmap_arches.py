# SPDX-License-Identifier: GPL-2.0-or-later
"""Maps of arm64 and riscv64 guests that were told to start differently.

``test_attribution_arches.py`` has those that were not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from machinehelp import TINY, end_all, sysqcache
from maphelp import compare_tiny
from required import require_engine, require_image

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("own_state")]

GUESTS = {
    # machine, target, what is added to the kernel's command line, bits of the page tables
    "arm64 without KASLR": ("tiny-arm64", "aarch64", " nokaslr", 48),
    "riscv64 with Sv39": ("tiny-riscv64", "riscv64", " no4lvl", 39),
}
CONSOLES = {"aarch64": "ttyAMA0", "riscv64": "ttyS0"}


@pytest.fixture
def guest(request: pytest.FixtureRequest) -> Iterator[tuple[str, str, int]]:
    """A running tiny guest: name, target, bits of its page tables."""
    name, target, more, bits = GUESTS[request.param]
    require_engine(target)
    require_image(name)
    line = f"cmdline=console={CONSOLES[target]} quiet{more}"
    sysqcache("boot", TINY.with_name(f"{name}.yaml"), "--detach", "--cache", "off", "--set", line)
    yield name, target, bits
    end_all()


@pytest.mark.parametrize("guest", GUESTS, indirect=True)
def test_maps_agree(guest: tuple[str, str, int], own_state: Path) -> None:
    # what is planted is about a kernel, and the same kernel is tried with its other tables
    compare_tiny(*guest, planted=False)
