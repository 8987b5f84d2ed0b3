# SPDX-License-Identifier: GPL-2.0-or-later
"""apt with lists of its own, and mirrors that fail."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sysqcache.base.errors import EngineBuildError
from sysqcache.setup.apt import private, sources
from sysqcache.setup.apt.private import PrivateApt
from sysqcache.setup.apt.sources import Source
from sysqcache.setup.engine import source
from sysqcache.setup.work import Work

pytestmark = pytest.mark.skipif(not shutil.which("apt-get"), reason="there is no apt-get")


def apt_for(tmp_path: Path, uri: str) -> PrivateApt:
    source = Source(("deb", "deb-src"), (uri,), ("trixie",), ("main",))
    return PrivateApt(tmp_path / "apt", [source], Work(tmp_path / "log", EngineBuildError))


def test_an_unreachable_mirror_names_the_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private, "host_options", lambda: {"Acquire::Retries": "0"})
    with pytest.raises(EngineBuildError) as caught:
        apt_for(tmp_path, "http://127.0.0.1:9/debian").update()
    assert "127.0.0.1" in caught.value.detail
    assert caught.value.hint == "check the mirror in /etc/apt and the network"


def test_a_mirror_without_the_suite(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    with pytest.raises(EngineBuildError, match="apt-get failed"):
        apt_for(tmp_path, f"file:{tmp_path}/mirror").update()


def test_a_mirror_without_the_source_package(tmp_path: Path) -> None:
    apt = apt_for(tmp_path, f"file:{tmp_path}/mirror")
    with pytest.raises(EngineBuildError) as caught:
        source.fetch(apt)
    assert caught.value.message == "the mirror has no source package of QEMU in trixie"
    assert "--source" in caught.value.hint


def test_no_debian_mirror_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "read_sources", list)
    with pytest.raises(EngineBuildError, match="names no Debian mirror"):
        source.debian_apt(Work(tmp_path / "log", EngineBuildError))


def test_the_machines_own_lists_are_left_alone(tmp_path: Path) -> None:
    apt = apt_for(tmp_path, "http://127.0.0.1:9/debian")
    config = (apt.root / "apt.conf").read_text()
    for name in ("lists", "status", "cache"):
        assert f'"{apt.root / name}"' in config
    assert 'Dir::Etc::sourceparts "/dev/null"' in config
    assert not apt.has_lists


def test_packages_of_another_architecture(tmp_path: Path) -> None:
    source = Source(("deb",), ("http://127.0.0.1:9/debian",), ("trixie",), ("main",))
    apt = PrivateApt(tmp_path / "apt", [source], Work(tmp_path / "log", EngineBuildError), "arm64")
    done = subprocess.run(
        ["apt-config", "dump", "--format", "%f=%v%n", "APT::Architecture", "APT::Architectures"],
        env={**os.environ, "APT_CONFIG": str(apt.root / "apt.conf")},
        capture_output=True,
        text=True,
        check=True,
    )
    found = done.stdout.split()
    assert "APT::Architecture=arm64" in found
    assert [line for line in found if line.startswith("APT::Architectures:")] == [
        "APT::Architectures::=arm64"
    ]
