# SPDX-License-Identifier: GPL-2.0-or-later
"""The ends of the range of kernels: booted, mapped, adopted, verified.

`python -m bench.kernels` does the same with all kernels that the mirror has.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import kernelpackages
from bench.kernels import examine
from bench.modules import Session
from sysqcache.base.errors import EngineMissing, SysqcacheError
from sysqcache.base.types import ArchName
from sysqcache.spec.engines import find_engine

pytestmark = [pytest.mark.vm, pytest.mark.slow]

ENDS = {
    "oldest that is mapped": (ArchName.X86_64, "cloud-amd64", 1),
    "newest": (ArchName.X86_64, "cloud-amd64", -1),
    "newest of arm64": (ArchName.AARCH64, "cloud-arm64", -1),
}
"""Architecture, flavour, and which of its kernels, oldest first."""


@pytest.mark.parametrize("end", ENDS)
def test_a_kernel_is_known(end: str, tmp_path: Path) -> None:
    arch, flavour, which = ENDS[end]
    try:
        find_engine(arch)
        kernels, problems = kernelpackages.available(arch, update=False)
        kernel = [one for one in kernels if one.flavour == flavour][which]
        kernelpackages.fetched(kernel)
    except (EngineMissing, SysqcacheError, IndexError) as error:
        pytest.skip(f"no kernel to boot: {error}")
    row = examine(kernel, Session(tmp_path))
    assert (row.note, row.warnings, row.differs) == ("", (), ()), (row, problems)
    assert row.processes > 30
    assert row.placed >= 0.97
    assert row.second >= 0.98
    assert row.verified > 10_000
    assert row.mismatches == 0
