# SPDX-License-Identifier: GPL-2.0-or-later
"""Every place that a Debian boot's blocks got, against the bytes of the files themselves.

And the guest's map, against what the guest says of itself.
"""

from __future__ import annotations

import signal
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
    say,
)
from debianhelp import DEBIAN
from maphelp import compare, compare_contents, compare_functions_only, process_of, socket_of
from required import require_image

from sysqcache.attribution.attribute import attribute
from sysqcache.attribution.checkpoint import checkpoint
from sysqcache.attribution.images import truths_of
from sysqcache.formats.places import NO_MODULE
from sysqcache.formats.runfiles import RunFiles
from sysqcache.guestmap import kernelcache, mapper
from sysqcache.spec.engines import Engine

pytestmark = [pytest.mark.vm, pytest.mark.slow]


@pytest.fixture(scope="module")
def run(x86_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    require_image("debian12-x86_64")
    with recorded(DEBIAN, x86_engine, tmp_path_factory.mktemp("home")) as found:
        yield found


def test_nearly_all_blocks_are_placed(run: Run) -> None:
    counts = {str(kind): count for kind, count in run.places.counts().items()}
    total = len(run.places.record)
    say(f"{run.places.attributed / total:.4f} of {total} blocks, kinds {counts}")
    assert run.look.note == ""
    assert total >= 200_000
    assert run.places.attributed >= 0.97 * total
    assert counts["unknown"] <= 0.005 * total
    assert run.places.kernel == run.contents.kernel
    # 8 s are for all of keeping a run; packing takes 2 of them
    assert run.took_s < 6


def test_code_of_files_is_what_the_files_hold(run: Run) -> None:
    checked, lost = check_files(run)
    assert checked >= 100_000
    assert lost <= 200


def test_code_of_processes_is_where_they_have_mapped_it(run: Run) -> None:
    assert check_processes(run) >= 20_000


def test_kernel_code_is_the_kernels(run: Run) -> None:
    assert check_kernel(run) >= 100_000


def test_code_of_kernel_modules_is_theirs(run: Run) -> None:
    compared, patched = check_modules(run)
    assert compared >= 3_000
    assert patched <= compared // 25


def test_code_before_the_kernel_is_that_of_the_files(run: Run) -> None:
    assert check_firmware(run) >= 2_000


def test_without_a_look_only_content_counts(run: Run) -> None:
    truths = truths_of(run.contents, [], run.firmware)
    # unpacked once for all that are placed meanwhile
    assert truths_of(run.contents, [], run.firmware) is truths
    assert truths_of(run.contents, [], None) is not truths
    found = attribute(run.journal, [], truths)
    both = (found.module != NO_MODULE) & (run.places.module != NO_MODULE)
    names = [np.array([m.id for m in places.modules]) for places in (found, run.places)]
    same = names[0][found.module[both]] == names[1][run.places.module[both]]
    same &= found.offset[both] == run.places.offset[both]
    say(f"{found.attributed} blocks by content alone, {np.count_nonzero(~same)} elsewhere")
    assert found.attributed >= 20_000


def test_the_map_agrees_with_the_guest(run: Run) -> None:
    name = run.instance.name
    file = kernelcache.file_of(run.found.kernel.build_id)
    assert file is not None
    file.unlink()  # the first map is that of an unknown kernel
    first, told = compare(name)
    assert first.took_s <= 2
    # on a busy machine one of them may be late
    again = [mapper.map_machine(socket_of(name), process_of(name)) for _ in range(5)]
    assert min(one.took_s for one in again) <= 0.6
    assert min(one.paused_ms for one in again) <= 50
    assert sum(bool(rows) for rows in told.maps.values()) >= 8
    assert compare_contents(name, told) >= 30
    # the tiny guest has the same kernel, and what is planted
    compare_functions_only(name, planted=False)


def test_a_machine_that_was_killed(run: Run) -> None:
    """Comes last: the machine is gone afterwards."""
    run.process.signal(signal.SIGKILL)
    run.process.wait(30)
    found = checkpoint(run.instance, run.process, RunFiles(run.firmware))
    assert found.seen is None
    assert found.note
