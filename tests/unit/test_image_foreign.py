# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines that can't run programs of another architecture, and may not be changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sysqcache.base.errors import ImageBuildError, SetupError
from sysqcache.base.types import ArchName
from sysqcache.setup import hostpackages
from sysqcache.setup.images import foreign
from sysqcache.setup.work import Work
from sysqcache.spec.arch import get_arch

ARM = get_arch(ArchName.AARCH64)


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path / "log", ImageBuildError)


def programs(directory: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """What `foreign` looks for, with an arch-test that ends with ``code``."""
    for name, text in (("arch-test", f"exit {code}"), ("qemu-aarch64-static", "")):
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, work: Work) -> None:
    monkeypatch.setattr(hostpackages, "missing", lambda parts: ["arch-test"])
    with (
        pytest.raises(SetupError, match="packages are missing: arch-test"),
        foreign.programs(ARM, work),
    ):
        pass


def test_a_machine_that_can_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Work
) -> None:
    programs(tmp_path, monkeypatch, 0)
    monkeypatch.setattr(foreign, "BINFMT", tmp_path / "none")
    with foreign.programs(ARM, work):
        pass
    assert work.log.read_text() == ""


def test_without_root_the_command_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Work
) -> None:
    programs(tmp_path, monkeypatch, 1)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ImageBuildError) as caught, foreign.programs(ARM, work):
        pass
    assert caught.value.message == "this machine does not run programs of arm64"
    assert "/usr/lib/binfmt.d/qemu-aarch64.conf" in caught.value.hint


def test_what_was_told_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Work
) -> None:
    """Files stand for the kernel's: what is written to them stays to be looked at."""
    programs(tmp_path, monkeypatch, 1)
    binfmt, rules = tmp_path / "binfmt", tmp_path / "rules"
    for directory in (binfmt, rules):
        directory.mkdir()
    (binfmt / "register").touch()
    (rules / "qemu-aarch64.conf").write_text(":rule")
    monkeypatch.setattr(foreign, "BINFMT", binfmt)
    monkeypatch.setattr(foreign, "_RULES", rules)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with (
        pytest.raises(ImageBuildError, match="though its kernel was told how"),
        foreign.programs(ARM, work),
    ):
        pass
    assert (binfmt / "register").read_text() == ":rule"
    assert (binfmt / "qemu-aarch64").read_text() == "-1"
