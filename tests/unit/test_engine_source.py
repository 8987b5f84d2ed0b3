# SPDX-License-Identifier: GPL-2.0-or-later
"""Which sources are accepted, and how a build is named."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from sysqcache.base.errors import EngineBuildError
from sysqcache.setup.engine import source
from sysqcache.setup.engine.build import sync
from sysqcache.setup.work import Work
from sysqcache.spec.series import Sanitizer, build_key


def make_tree(root: Path, version: str) -> Path:
    root.mkdir(parents=True)
    (root / "VERSION").write_text(version + "\n")
    (root / "configure").write_text("#!/bin/sh\n")
    (root / "build").mkdir()
    (root / "build" / "old.o").write_text("")
    return root


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path / "log", EngineBuildError)


@pytest.mark.parametrize("version", ["10.0.0", "10.0.13", "10.0.49"])
def test_point_releases_are_accepted(tmp_path: Path, version: str) -> None:
    assert source.check_version(make_tree(tmp_path / "q", version)) == version


@pytest.mark.parametrize("version", ["9.2.0", "10.1.0", "10.0.50", "10.0.90", "10.0", "x"])
def test_other_versions_are_refused(tmp_path: Path, version: str) -> None:
    with pytest.raises(EngineBuildError, match=r"patches are for 10\.0\.x"):
        source.check_version(make_tree(tmp_path / "q", version))


def test_a_directory_is_copied_without_its_build(tmp_path: Path, work: Work) -> None:
    origin = make_tree(tmp_path / "q", "10.0.3")
    tree = source.from_path(origin, tmp_path / "copy", work)
    assert (tree.version, tree.origin) == ("10.0.3", str(origin))
    assert (tree.directory / "configure").is_file()
    assert not (tree.directory / "build").exists()


def test_an_archive_is_unpacked(tmp_path: Path, work: Work) -> None:
    archive = tmp_path / "qemu-10.0.3.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        tar.add(make_tree(tmp_path / "q", "10.0.3"), "qemu-10.0.3")
    tree = source.from_path(archive, tmp_path / "copy", work)
    assert tree.version == "10.0.3"


def test_what_is_no_source_is_refused(tmp_path: Path, work: Work) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no archive")
    for name in ("none", "empty", "text"):
        with pytest.raises(EngineBuildError):
            source.from_path(tmp_path / name, tmp_path / f"copy-{name}", work)


def test_the_key_names_everything_that_changes_the_code() -> None:
    def key(
        version: str = "10.0.13",
        origin: str = "10.0.13-1",
        series: str = "aa",
        targets: tuple[str, ...] = ("x86_64",),
        plain: bool = False,
        sanitize: Sanitizer | None = None,
    ) -> str:
        return build_key(version, origin, series, targets, plain=plain, sanitize=sanitize)

    keys = {
        key(),
        key(version="10.0.12"),
        key(origin="10.0.13-2"),
        key(series="bb"),
        key(targets=("x86_64", "aarch64")),
        key(plain=True),
        key(sanitize=Sanitizer.THREAD),
        key(sanitize=Sanitizer.ADDRESS),
    }
    assert len(keys) == 8
    assert key(targets=("aarch64", "x86_64")) == key(targets=("x86_64", "aarch64"))
    assert key().startswith("10.0.13-")
    assert "-plain-" in key(plain=True)
    assert "-thread-" in key(sanitize=Sanitizer.THREAD)


def test_sync_keeps_the_time_of_equal_files(tmp_path: Path) -> None:
    fresh, kept = tmp_path / "fresh", tmp_path / "kept"
    for root, changed in ((kept, "old"), (fresh, "new")):
        (root / "d").mkdir(parents=True)
        (root / "d" / "same").write_text("same")
        (root / "d" / "changed").write_text(changed)
    (fresh / "link").symlink_to("d/same")
    (kept / "gone").write_text("")
    (kept / "build").mkdir()
    (kept / "build" / "object").write_text("")
    before = (kept / "d" / "same").stat().st_mtime_ns
    sync(fresh, kept, skip=("build",))
    assert (kept / "d" / "same").stat().st_mtime_ns == before
    assert (kept / "d" / "changed").read_text() == "new"
    assert (kept / "link").is_symlink()
    assert not (kept / "gone").exists()
    assert (kept / "build" / "object").exists()
