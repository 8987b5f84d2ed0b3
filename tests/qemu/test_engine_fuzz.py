# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's C files that read packs, boot sets and lists of pages, fed by libFuzzer."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

import numpy as np
import pytest

from bench import fuzz
from bench.fuzzing import engine
from bench.fuzzing.engine import Target
from bench.reference.journalwriter import BlockData
from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import BlockTable
from sysqcache.store.writer import write_pack

pytestmark = pytest.mark.qemu

PACK = engine.TARGETS[0]
FIND = Path("accel/tcg/tb-cache-find.c")

PLANTED = {
    "the checksum is not compared": ("+ size) != b->checksum)) {", "+ size) == 0)) {"),
    "guest code has any size": (
        "b->guest_size > 0 && b->guest_size <= TB_CACHE_MAX_GUEST",
        "true",
    ),
    "an immediate ends behind the code": (
        "imm.host + (size_t)4 > b->code_size",
        "imm.host + (size_t)3 > b->code_size",
    ),
    "what is compared is not the copy": (
        "if (!same_first_page(f, b, b->data, k)) {",
        "if (!same_first_page(f, b, data, k)) {",
    ),
}
"""Faults, each a text of tb-cache-find.c and what is there instead."""


@pytest.fixture(autouse=True, scope="module")
def _packages() -> None:
    if names := engine.missing():
        pytest.skip(f"not installed: {' '.join(names)}")


@pytest.mark.parametrize("target", engine.TARGETS, ids=lambda target: target.name)
def test_inputs_that_were_kept(target: Target) -> None:
    outcome = engine.replay(engine.build(target), target.inputs())
    assert not outcome.failed, outcome.output
    assert outcome.found  # else nothing was tried


@pytest.mark.parametrize("fault", PLANTED)
def test_the_inputs_find_a_planted_fault(fault: str, tmp_path: Path) -> None:
    """Else they would prove nothing."""
    source = tmp_path / "src"
    shutil.copytree(engine.SOURCE, source)
    before, after = PLANTED[fault]
    code = (source / FIND).read_text()
    assert code.count(before) == 1
    (source / FIND).write_text(code.replace(before, after))
    outcome = engine.replay(engine.build(PACK, source, tmp_path), PACK.inputs())
    assert outcome.failed
    assert "not so:" in outcome.output or "AddressSanitizer" in outcome.output


@pytest.mark.parametrize(("place", "found"), [(bf.IMM_NOWHERE, False), (0xFFFC, True)])
def test_an_immediate_that_is_nowhere_is_refused(place: int, found: bool, tmp_path: Path) -> None:
    """Also where the host's code is so long that there is such a place in it."""
    block = BlockData(
        guest=b"12345678\xb8\0\0\0\x81",
        code=b"\xc3" * 70_000,
        pc=0xFFFFFFFF_81000010,
        imms=((9, place),),
    ).encode()
    table = BlockTable.at(memoryview(block), np.zeros(1, np.int64))
    pack = write_pack(tmp_path, bytes(32), "", [table])
    outcome = engine.replay(engine.build(PACK), [pack.path])
    assert not outcome.failed, outcome.output
    assert bool(outcome.found) == found


def test_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert fuzz.main(["--engine", "--seconds", "1"]) == 1
    assert "apt-get install" in capsys.readouterr().err
    assert {"clang", "libclang-rt-dev"} <= set(engine.missing())


@pytest.mark.slow
def test_two_more_minutes_find_nothing(tmp_path: Path) -> None:
    """100 seconds of packs, 10 of each of the others, each time from another seed."""
    given = ["--seconds", "120", "--seed", str(secrets.randbits(32)), "--keep", str(tmp_path)]
    assert fuzz.main(["--engine", *given]) == 0
