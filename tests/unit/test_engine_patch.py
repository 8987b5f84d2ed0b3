# SPDX-License-Identifier: GPL-2.0-or-later
"""Our files and patches on a small tree: order, fit, refusal, digest."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

import pytest

from sysqcache.base.errors import EngineBuildError
from sysqcache.setup.engine import patch
from sysqcache.setup.work import Work
from sysqcache.spec import series

FIRST = """\
From: someone
Subject: [PATCH] first

---
 a.c | 2 +-
 1 file changed, 1 insertion(+), 1 deletion(-)

diff --git a/a.c b/a.c
--- a/a.c
+++ b/a.c
@@ -1,3 +1,3 @@
 one
-two
+TWO
 three
"""
SECOND = FIRST.replace("-two", "-TWO").replace("+TWO", "+2").replace("first", "second")


@pytest.fixture
def engine_dir(tmp_path: Path) -> Path:
    root = tmp_path / "engine"
    (root / "patches").mkdir(parents=True)
    (root / "src" / "accel").mkdir(parents=True)
    (root / "src" / "accel" / "ours.c").write_text("int ours;\n")
    (root / "patches" / "0002-second.patch").write_text(SECOND)
    (root / "patches" / "0001-first.patch").write_text(FIRST)
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "qemu"
    root.mkdir()
    (root / "a.c").write_text("one\ntwo\nthree\n")
    return root


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path / "log", EngineBuildError)


def test_patches_apply_in_the_order_of_their_numbers(
    engine_dir: Path, tree: Path, work: Work
) -> None:
    patch.apply_series(tree, "10.0.13", work, engine_dir)
    assert (tree / "a.c").read_text() == "one\n2\nthree\n"


def test_a_patch_that_does_not_fit_is_named_with_its_file(
    engine_dir: Path, tree: Path, work: Work
) -> None:
    (tree / "a.c").write_text("something else\n")
    with pytest.raises(EngineBuildError) as caught:
        patch.apply_series(tree, "10.0.2", work, engine_dir)
    assert caught.value.message == "0001-first.patch does not fit QEMU 10.0.2: a.c"


def test_a_patch_for_a_missing_file_names_it(engine_dir: Path, tree: Path, work: Work) -> None:
    (tree / "a.c").unlink()
    with pytest.raises(EngineBuildError, match=r"0001-first\.patch does not fit .*: a\.c"):
        patch.apply_series(tree, "10.0.2", work, engine_dir)


@pytest.mark.parametrize("name", ["first.patch", "1-first.patch", "0001-again.patch"])
def test_names_of_patches_are_checked(engine_dir: Path, name: str) -> None:
    (engine_dir / "patches" / name).write_text(FIRST)
    with pytest.raises(EngineBuildError):
        series.series(engine_dir)


def test_own_files_are_copied_and_may_be_copied_again(engine_dir: Path, tree: Path) -> None:
    assert patch.copy_own_files(tree, engine_dir) == 1
    time = (tree / "accel" / "ours.c").stat().st_mtime_ns
    assert patch.copy_own_files(tree, engine_dir) == 1
    assert (tree / "accel" / "ours.c").stat().st_mtime_ns == time


def test_a_removed_own_file_leaves_the_tree(engine_dir: Path, tree: Path) -> None:
    patch.copy_own_files(tree, engine_dir)
    (engine_dir / "src" / "accel" / "ours.c").unlink()
    patch.copy_own_files(tree, engine_dir)
    assert not (tree / "accel" / "ours.c").exists()


def test_own_files_never_replace_those_of_qemu(engine_dir: Path, tree: Path) -> None:
    (engine_dir / "src" / "a.c").write_text("ours\n")
    with pytest.raises(EngineBuildError, match=r"a\.c would replace"):
        patch.copy_own_files(tree, engine_dir)
    assert (tree / "a.c").read_text().startswith("one")


def test_the_digest_follows_every_change(engine_dir: Path) -> None:
    seen = {series.series_digest(engine_dir), series.series_digest(engine_dir, plain=True)}
    (engine_dir / "src" / "accel" / "ours.c").write_text("int other;\n")
    seen.add(series.series_digest(engine_dir))
    (engine_dir / "patches" / "0003-third.patch").write_text(SECOND)
    seen.add(series.series_digest(engine_dir))
    assert len(seen) == 4


def test_without_changes_the_digest_is_that_of_a_plain_build(tmp_path: Path) -> None:
    assert series.series_digest(tmp_path) == series.series_digest(tmp_path, plain=True)


def test_the_real_series_is_well_named() -> None:
    series.series()


def test_each_of_our_files_arrives_with_one_patch() -> None:
    arriving = dict.fromkeys(series.own_files(), 0)
    for patch_file in series.series():
        message = patch_file.read_text().partition("\n---\n")[0]
        for names in re.findall(r"^Adds: (.+)$", message, re.MULTILINE):
            found = [path for path in arriving if fnmatch.fnmatch(str(path), names)]
            assert found, (patch_file.name, names)
            for path in found:
                arriving[path] += 1
    assert set(arriving.values()) == {1}, arriving


def test_the_documented_series_is_the_real_one() -> None:
    """A row for each patch, in order and by its subject: no hole, none twice."""
    docs = Path(__file__).parents[2] / "docs" / "engine.md"
    rows = re.findall(r"^\| (\d{4}) (.+?) \|", docs.read_text(), re.MULTILINE)
    real = []
    for number, file in enumerate(series.series(), 1):
        subject = re.search(r"^Subject: \[PATCH\] (.+(?:\n .+)*)", file.read_text(), re.MULTILINE)
        assert subject, file.name
        real.append((f"{number:04}", subject[1].replace("\n", "")))
        assert file.name.startswith(real[-1][0]), file.name
    assert rows == real
