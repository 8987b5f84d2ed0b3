# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of the host, with a home directory of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from sysqcache.base import paths
from sysqcache.base.errors import SetupError
from sysqcache.setup import doctor, hostpackages
from sysqcache.spec import engines


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(paths.ENV_HOME, str(tmp_path))
    monkeypatch.delenv(paths.ENV_STORE, raising=False)
    monkeypatch.delenv(engines.ENV_ENGINE, raising=False)


def check(name: str) -> doctor.Check:
    return next(c for c in doctor.run_checks() if c.name == name)


def test_every_trouble_has_a_next_step() -> None:
    for found in doctor.run_checks():
        assert found.state == "ok" or found.next_step, found


def test_without_engine_the_host_is_not_ready() -> None:
    found = check("engine")
    assert (found.state, found.next_step) == ("missing", "sysqcache engine build")


def test_images_are_not_required() -> None:
    assert check("image tiny-x86_64").state == "warning"


def test_a_directory_that_others_can_write_is_refused() -> None:
    paths.state_dir().mkdir(mode=0o777)
    paths.state_dir().chmod(0o777)
    found = check("state directory")
    assert found.state == "missing"
    assert found.next_step == f"chmod go-w {paths.state_dir()}"


def test_a_file_in_place_of_a_directory() -> None:
    paths.cache_dir().write_text("")
    assert "no directory" in check("cache directory").text


def test_missing_packages_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = (hostpackages.HostPackage("ninja-build", "engine", lambda: False),)
    monkeypatch.setattr(hostpackages, "PACKAGES", absent)
    assert hostpackages.missing() == ["ninja-build"]
    assert hostpackages.missing(["image"]) == []
    with pytest.raises(SetupError) as caught:
        hostpackages.require("engine")
    assert caught.value.hint == "apt-get install --no-install-recommends ninja-build"
    assert check("packages for building engine").state == "missing"


def test_tests_need_more_than_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = (hostpackages.HostPackage("chromium", "test", lambda: False),)
    monkeypatch.setattr(hostpackages, "PACKAGES", absent)
    assert hostpackages.missing() == []
    assert hostpackages.missing((*hostpackages.SETUP, "test")) == ["chromium"]
