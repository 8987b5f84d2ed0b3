# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever is in a file, its reader refuses it or returns what is documented, and ends.

SYSQCACHE_FUZZ_EXAMPLES=20000 tries more than the usual few hundred inputs of each kind;
``python -m bench.fuzz --python --seconds N`` goes on for a time that is given.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench import fuzz
from bench.fuzzing import mutations, python
from bench.fuzzing.readers import TARGETS, Target, named, require_block
from bench.reference.journalwriter import BlockData
from sysqcache.formats import block as bf
from sysqcache.saved import touched

EXAMPLES = int(os.environ.get("SYSQCACHE_FUZZ_EXAMPLES", "800"))
NAMES = [target.name for target in TARGETS]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("name", NAMES)
@given(rng=st.randoms(use_true_random=False), times=st.integers(1, 4), data=st.data())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_changed_files(
    name: str, scratch: Path, rng: random.Random, times: int, data: st.DataObject
) -> None:
    target = named(name)
    content = data.draw(st.sampled_from([*target.first(), *python.corpus(target)]))
    for _ in range(times):
        content = target.mutate(rng, content)
    target.check(content, scratch)


@pytest.mark.parametrize("name", NAMES)
@given(content=st.binary(max_size=600))
@settings(max_examples=EXAMPLES // 4, deadline=None)
def test_any_bytes(name: str, scratch: Path, content: bytes) -> None:
    assert not named(name).check(content, scratch) or name == "pins"


@pytest.mark.parametrize("name", NAMES)
def test_files_that_nothing_happened_to_are_read(name: str, tmp_path: Path) -> None:
    """Else the checks would check nothing."""
    target = named(name)
    assert all(target.check(content, tmp_path) for content in target.first())


@pytest.mark.parametrize("path", sorted(python.CORPUS.iterdir()), ids=lambda path: path.name)
def test_inputs_that_a_reader_failed_on_once(path: Path) -> None:
    python.replay(path)


def test_the_corpus_belongs_to_readers() -> None:
    found = {path.name for path in python.CORPUS.iterdir()}
    assert found == {n for n in found if any(n.startswith(f"{name}-") for name in NAMES)}


def test_faults_are_found_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reader that raises for every second input."""

    def bad(content: bytes, _scratch: Path) -> bool:
        if len(content) % 2:
            raise IndexError("outside")
        return True

    target = Target("pins", lambda: [b"[]"], mutations.bytes_changed, bad)
    monkeypatch.setattr(python, "named", {"pins": target}.__getitem__)
    keep = tmp_path / "kept"
    given = ["--python", "--seconds", "1", "--seed", "7", "--target", "pins"]
    assert fuzz.main([*given, "--keep", str(keep)]) == 1
    (path,) = keep.iterdir()
    assert path.name.startswith("pins-IndexError-test_reader_fuzz-")
    assert len(path.read_bytes()) % 2
    assert "IndexError: outside" in capsys.readouterr().err


def test_the_command_runs_without_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz.main(["--python", "--seconds", "0.01", "--seed", "7"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in NAMES)
    assert fuzz.main(["--replay", str(sorted(python.CORPUS.iterdir())[0])]) == 0


@pytest.mark.parametrize(
    "block",
    [
        BlockData(guest=b"x", code=b"\xc3", icount=513),
        BlockData(guest=b"x", code=b"\xc3", block_flags=1),
        BlockData(guest=b"x", code=b"\xc3", block_flags=16),
        BlockData(guest=b"x", code=b"\xc3", block_flags=4, cflags=bf.CF_PARALLEL),
        BlockData(guest=b"x" * 20, code=b"\xc3" * 20, imms=((8, 0), (11, 0))),
        BlockData(guest=b"x" * 20, code=b"\xc3" * 20, imms=((17, 0),)),
        BlockData(guest=b"x" * 20, code=b"\xc3" * 20, imms=((8, 17),)),
        BlockData(guest=b"x" * 20, code=bytes(70_000), imms=((8, 0xFFFF),)),
        BlockData(guest=b"x", code=bytes(bf.MAX_BLOCK)),
    ],
)
def test_blocks_that_are_not_as_documented(block: BlockData) -> None:
    """The check itself refuses them, and the reader does."""
    from bench.reference.journalwriter import journal_header
    from sysqcache.formats.journal import parse_journal

    content = memoryview(block.encode())
    with pytest.raises(AssertionError):
        require_block(content, 0, len(content))
    journal = parse_journal(memoryview(journal_header(bytes(32), "") + block.record()))
    assert (len(journal.blocks), journal.damaged) == (0, 1)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=200))
@settings(deadline=None)
def test_lists_of_touched_pages_are_as_documented(pages: list[tuple[bool, bool]]) -> None:
    """Python writes them only: what it writes is what the engine takes."""
    read, written = (np.array([p[n] for p in pages], np.bool_) for n in range(2))
    content = touched.encode(read, written)
    assert content[:8] == touched.MAGIC
    assert len(content) % 8 == 0
    found: dict[bool, list[int]] = {False: [], True: []}
    for first, count in np.frombuffer(content[8:], "<u4").reshape(-1, 2).tolist():
        length = count & ~touched.WRITTEN
        assert length > 0
        found[bool(count & touched.WRITTEN)] += range(first, first + length)
    assert found[True] == np.flatnonzero(written).tolist()
    assert found[False] == np.flatnonzero(read & ~written).tolist()
