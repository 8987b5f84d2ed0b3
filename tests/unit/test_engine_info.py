# SPDX-License-Identifier: GPL-2.0-or-later
"""Choosing among built engines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sysqcache.base import paths
from sysqcache.base.errors import EngineMissing, ImageBuildError
from sysqcache.setup.engine import build, firmware
from sysqcache.spec import engines
from sysqcache.spec.series import Sanitizer, options, series_digest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(paths.ENV_HOME, str(tmp_path))
    monkeypatch.delenv(engines.ENV_ENGINE, raising=False)


def make_engine(
    name: str,
    *,
    built: str,
    current: bool = False,
    plain: bool = False,
    sanitize: Sanitizer | None = None,
) -> Path:
    directory = paths.engines_dir() / name
    (directory / "bin").mkdir(parents=True)
    for binary in ("qemu-system-x86_64", "qemu-img"):
        path = directory / "bin" / binary
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    series = series_digest(plain=plain) if current else "0" * 64
    meta = {
        "built": built,
        "series_sha256": series,
        "options": list(options(sanitize)),
        "plain": plain,
        "sanitize": sanitize,
        "targets": ["x86_64"],
        "version": "10.0.13",
    }
    (directory / engines.META).write_text(json.dumps(meta))
    return directory


def test_nothing_built_names_the_command() -> None:
    with pytest.raises(EngineMissing) as caught:
        engines.find_engine("x86_64")
    assert caught.value.hint == "sysqcache engine build"


def test_the_engine_of_the_present_patches_wins() -> None:
    make_engine("newer", built="2026-02-02")
    make_engine("older", built="2026-01-01", current=True)
    engine = engines.find_engine("x86_64")
    assert (engine.key, engine.current, engine.version) == ("older", True, "10.0.13")
    assert engine.firmware_dir == engine.dir / "share" / "qemu"


def test_else_the_newest_one() -> None:
    make_engine("a", built="2026-01-01")
    make_engine("b", built="2026-02-02")
    make_engine(".c.1.tmp", built="2026-03-03", current=True)
    engine = engines.find_engine("x86_64")
    assert (engine.key, engine.current) == ("b", False)


def test_the_plain_engine_is_found_only_when_asked_for() -> None:
    make_engine("plain", built="2026-01-01", plain=True, current=True)
    with pytest.raises(EngineMissing):
        engines.find_engine("x86_64")
    assert engines.find_engine("x86_64", plain=True).plain


@pytest.mark.parametrize("plain", [False, True])
def test_an_engine_with_a_sanitizer_is_found_only_when_asked_for(plain: bool) -> None:
    make_engine("a", built="2026-01-01", sanitize=Sanitizer.THREAD, current=True, plain=plain)
    for other in (None, Sanitizer.ADDRESS):
        with pytest.raises(EngineMissing) as caught:
            engines.find_engine("x86_64", plain=plain, sanitize=other)
    assert "--sanitize address" in (caught.value.hint or "")
    engine = engines.find_engine("x86_64", plain=plain, sanitize=Sanitizer.THREAD)
    assert (engine.sanitize, engine.current) == ("thread", True)
    with pytest.raises(EngineMissing):
        engines.find_engine("x86_64", plain=not plain, sanitize=Sanitizer.THREAD)


def test_a_sanitizer_that_is_not_known_makes_an_engine_an_old_one() -> None:
    directory = make_engine("a", built="2026-01-01", current=True)
    meta = json.loads((directory / engines.META).read_text())
    (directory / engines.META).write_text(json.dumps({**meta, "sanitize": "memory"}))
    [engine] = engines.list_engines("x86_64")
    assert not engine.current


def test_the_environment_may_name_an_engine_with_a_sanitizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    normal = make_engine("a", built="2026-01-01", current=True)
    mine = make_engine("b", built="2026-01-01", sanitize=Sanitizer.ADDRESS)
    monkeypatch.setenv(engines.ENV_ENGINE, str(mine))
    assert engines.find_engine("x86_64").sanitize == "address"
    monkeypatch.setenv(engines.ENV_ENGINE, str(normal))
    assert engines.find_engine("x86_64", sanitize=Sanitizer.ADDRESS).dir == mine


def test_a_build_takes_an_engine_of_its_own_kind_for_done() -> None:
    kinds = (None, *Sanitizer)
    made = {s: make_engine(s or "none", built="1", sanitize=s, current=True) for s in kinds}
    for sanitize in kinds:
        wanted = build.BuildOptions(targets=("x86_64",), sanitize=sanitize)
        # firmware is none of this test's concern
        folder = made[sanitize] / engines.FIRMWARE
        folder.mkdir(parents=True)
        for name in firmware.missing(wanted.targets, folder):
            (folder / name).touch()
        assert build.build(wanted).dir == made[sanitize]


def test_an_engine_without_the_target_is_no_engine() -> None:
    make_engine("a", built="2026-01-01", current=True)
    with pytest.raises(EngineMissing, match="aarch64"):
        engines.find_engine("aarch64")


def test_the_environment_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_engine("current", built="2026-01-01", current=True)
    mine = make_engine("mine", built="2025-01-01").rename(tmp_path / "mine")
    monkeypatch.setenv(engines.ENV_ENGINE, str(mine))
    assert engines.find_engine("x86_64").dir == mine
    monkeypatch.setenv(engines.ENV_ENGINE, str(tmp_path / "none"))
    with pytest.raises(EngineMissing):
        engines.find_engine("x86_64")


def test_qemu_img_is_the_engines_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageBuildError):
        engines.any_qemu_img()
    directory = make_engine("a", built="2026-01-01")
    assert engines.any_qemu_img() == directory / "bin" / "qemu-img"


def test_a_file_without_build_id() -> None:
    assert engines.read_build_id(make_engine("a", built="") / "bin" / "qemu-img") == ""


def test_other_options_make_an_engine_an_old_one() -> None:
    directory = make_engine("a", built="2026-01-01", current=True)
    meta = json.loads((directory / engines.META).read_text())
    (directory / engines.META).write_text(json.dumps({**meta, "options": []}))
    assert not engines.find_engine("x86_64").current
