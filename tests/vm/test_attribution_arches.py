# SPDX-License-Identifier: GPL-2.0-or-later
"""Every place that the blocks of arm64 and riscv64 guests got, against the files' own bytes.

The tiny ones are also mapped, and compared with what they say of themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from attributionrun import (
    Run,
    check_files,
    check_firmware,
    check_kernel,
    check_modules,
    check_processes,
    recorded,
)
from machinehelp import TINY
from maphelp import compare_tiny
from required import require_engine, require_image

from sysqcache.base import paths
from sysqcache.guestmap.session import GuestSession

pytestmark = pytest.mark.vm

GUESTS = {
    "tiny-arm64": "aarch64",
    "tiny-riscv64": "riscv64",
    "tiny-arm64-efi": "aarch64",
    "debian12-arm64": "aarch64",
}
TABLES = {"tiny-arm64": 48, "tiny-riscv64": 57}
"""Bits of the page tables of guests that are mapped: the first of ``GUESTS``."""

LEAST = {"debian12-arm64": 200_000}
"""Blocks of a boot, 50,000 of others."""

FIRMWARE = {"tiny-arm64-efi": 15_000, "tiny-riscv64": 2_000}
"""Blocks of firmware; the other guests' kernels are started without any."""

PATCHED = 0.05
"""Share of the text that a kernel may patch: tracing, alternatives, static keys."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(one, marks=pytest.mark.slow) if one[0] == "d" else one for one in GUESTS],
)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    engine = require_engine(GUESTS[request.param])
    require_image(request.param.removesuffix("-efi"))
    config = TINY.with_name(f"{request.param}.yaml")
    with recorded(config, engine, tmp_path_factory.mktemp("home")) as found:
        yield found


def test_nearly_all_blocks_are_placed_and_right(run: Run) -> None:
    total = len(run.places.record)
    counts = {str(kind): count for kind, count in run.places.counts().items()}
    assert run.look.note == ""
    assert total >= LEAST.get(run.spec.name, 50_000)
    assert run.places.attributed >= 0.97 * total
    assert counts["unknown"] <= 0.005 * total
    assert run.places.kernel == run.contents.kernel
    checked, lost = check_files(run)
    assert checked >= 3_000
    assert lost <= 200
    assert check_processes(run) >= 1_000
    assert check_kernel(run) >= 50_000
    compared, patched = check_modules(run)
    assert compared >= 300
    assert patched <= compared // 4
    firmware = check_firmware(run)
    least = FIRMWARE.get(run.spec.name, 0)
    assert firmware >= least if least else firmware == 0


def test_the_kernel_in_memory_is_the_one_of_the_file(run: Run) -> None:
    kernel = run.found.kernel
    assert run.contents.notes == ()
    assert run.contents.kernel is not None
    file = run.contents.kernel_file(run.contents.kernel)
    assert file is not None
    start, end = (address - kernel.base for address in kernel.text)
    with GuestSession.open(
        run.instance.file(paths.INSTANCE_QMP_INTROSPECT), run.process
    ) as session:
        text = session.read_physical(kernel.physical + start, end - start)
    memory = np.frombuffer(text, np.uint8)
    image = file.loaded(kernel.kaslr_offset)[start:end]
    assert np.count_nonzero(image != memory) < PATCHED * len(memory)


@pytest.mark.parametrize("run", TABLES, indirect=True)
def test_maps_agree(run: Run) -> None:
    compare_tiny(run.instance.name, GUESTS[run.spec.name], TABLES[run.spec.name])
