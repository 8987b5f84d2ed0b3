# SPDX-License-Identifier: GPL-2.0-or-later
"""Real guests' memories, damaged where a map reads: it ends soon, and raises nothing.

SYSQCACHE_FUZZ_EXAMPLES=10000 tries more than the usual few dozens, and kernels of more kinds.
"""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machinehelp import TINY, end_all, sysqcache
from maphelp import paused, process_of, socket_of

from bench.fuzzing.memories import MEMORY, SECONDS, KeptMemory, damaged, mapped
from bench.kernelpackages import IMAGES, available, fetched
from sysqcache.base import paths
from sysqcache.base.errors import EngineMissing, ImageMissing, SysqcacheError
from sysqcache.base.types import ArchName
from sysqcache.guestmap.session import GuestSession
from sysqcache.spec import catalog
from sysqcache.spec.engines import find_engine

pytestmark = [pytest.mark.vm]

EXAMPLES = int(os.environ.get("SYSQCACHE_FUZZ_EXAMPLES", "40"))
GUESTS = {"x86_64": (ArchName.X86_64, "")}
if EXAMPLES > 1_000:
    GUESTS |= {
        "aarch64": (ArchName.AARCH64, ""),
        "riscv64": (ArchName.RISCV64, ""),
        "x86_64, newest": (ArchName.X86_64, "cloud-amd64"),
    }
"""By name: architecture, and the flavour whose newest kernel runs; "" for that of the image."""


def newest(arch: ArchName, flavour: str) -> list[str]:
    """Arguments for the newest kernel of a flavour."""
    kernels = [one for one in available(arch, update=False)[0] if one.flavour == flavour]
    folder = fetched(kernels[-1])
    return ["--set", f"kernel={folder / 'kernel'}", "--set", f"initrd={folder / 'initrd'}"]


@pytest.fixture(scope="module", params=GUESTS)
def memory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[KeptMemory, list[tuple[int, int]]]]:
    """A guest's memory, and the places that a map of it reads."""
    arch, flavour = GUESTS[request.param]
    try:
        find_engine(arch)
        catalog.resolve(IMAGES[arch])
        arguments = newest(arch, flavour) if flavour else []
    except (EngineMissing, ImageMissing, SysqcacheError, IndexError) as error:
        pytest.skip(f"nothing to boot: {error}")
    config = TINY.with_name(f"{IMAGES[arch]}.yaml")
    home = tmp_path_factory.mktemp("home")
    (home / "cache").symlink_to(paths.cache_dir(), target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.ENV_HOME, str(home))
        sysqcache("boot", config, "--detach", "--cache", "off", "--set", "name=damaged", *arguments)
        try:
            with (
                paused("damaged"),
                GuestSession.open(socket_of("damaged"), process_of("damaged")) as session,
            ):
                kept = KeptMemory.of(session)
        finally:
            end_all()
        first = mapped(kept)
        assert first.found.note == ""
        assert len(first.found.processes) > 30
        yield kept, kept.places()


@given(rng=st.randoms(use_true_random=False))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_damaged_memories(
    memory: tuple[KeptMemory, list[tuple[int, int]]], rng: random.Random
) -> None:
    kept, places = memory
    with damaged(kept, places, rng):
        outcome = mapped(kept)
    assert outcome.seconds < SECONDS, outcome.found.note
    assert outcome.grown < MEMORY, outcome.found.note


def test_what_was_damaged_is_whole_again(
    memory: tuple[KeptMemory, list[tuple[int, int]]], tmp_path: Path
) -> None:
    """Else the damages would add up to memories of which nothing can be read."""
    kept, places = memory
    before = [kept.read_physical(*place) for place in places]
    changed = 0
    for seed in range(30):
        with damaged(kept, places, random.Random(seed)):
            changed += [kept.read_physical(*place) for place in places] != before
        assert [kept.read_physical(*place) for place in places] == before
    assert changed > 20


def test_sections_that_a_kernel_calls_small(
    memory: tuple[KeptMemory, list[tuple[int, int]]],
) -> None:
    """Each is read for itself: 2^16 of a page would take longer than all the rest."""
    kept, _ = memory
    info = kept.info
    assert info is not None
    try:
        kept.info = dataclasses.replace(info, numbers={**info.numbers, "SECTION_SIZE_BITS": 0})
        outcome = mapped(kept)
    finally:
        kept.info = info
    assert outcome.found.table.counts() == mapped(kept).found.table.counts()
    assert outcome.seconds < SECONDS
