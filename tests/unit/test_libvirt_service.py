# SPDX-License-Identifier: GPL-2.0-or-later
"""The hook and the systemd unit, as they are printed."""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sysqcache.base import paths
from sysqcache.libvirt import service
from sysqcache.libvirt.rewrite import NAMESPACE


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(paths.ENV_HOME, str(tmp_path / "a home"))
    return tmp_path / "a home"


def run_hook(tmp_path: Path, operation: str, xml: str) -> str:
    """What the hook starts; a program of ours stands in for sysqcache."""
    said = tmp_path / "said"
    program = tmp_path / "program"
    program.write_text(
        f'#!/bin/sh\ncat > {said}.new\necho "$@" >> {said}.new\nmv {said}.new {said}\n'
    )
    program.chmod(0o755)
    python = shlex.quote(sys.executable)
    script = tmp_path / "hook"
    script.write_text(service.hook().replace(f"{python} -m sysqcache", str(program)))
    subprocess.run(
        ["sh", script, "web1", operation, "begin", "-"],
        input=xml,
        text=True,
        check=True,
        timeout=10,
    )
    deadline = time.monotonic() + (3 if operation == "started" and NAMESPACE in xml else 0.5)
    while not said.exists() and time.monotonic() < deadline:
        time.sleep(0.02)  # the program goes on by itself
    return said.read_text() if said.exists() else ""


def test_the_hook_follows_enabled_domains(tmp_path: Path) -> None:
    xml = f"<domain><x xmlns='{NAMESPACE}'/></domain>"
    assert run_hook(tmp_path, "started", xml).split("\n")[:2] == [xml, "libvirt follow --stdin"]


@pytest.mark.parametrize(
    ("operation", "xml"),
    [("prepare", f"<domain>{NAMESPACE}</domain>"), ("started", "<domain/>"), ("release", "")],
)
def test_the_hook_leaves_everything_else_alone(tmp_path: Path, operation: str, xml: str) -> None:
    assert run_hook(tmp_path, operation, xml) == ""


def options(text: str) -> configparser.SectionProxy:
    """What is in a unit's [Service]."""
    assert "@" not in text
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment]
    parser.read_string(text)
    return parser["Service"]


def test_the_unit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    unit = options(service.unit())
    assert unit["ExecStart"].endswith("-m sysqcache libvirt watch")
    assert shlex.split(unit["Environment"]) == [f"{paths.ENV_HOME}={home}"]
    writable = shlex.split(unit["ReadWritePaths"])
    assert writable == [str(home), str(home / "state"), str(home / "cache")]
    assert shlex.split(unit["ExecStartPre"]) == ["+/bin/mkdir", "-p", *writable]


def test_the_unit_of_a_session(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    unit = options(service.unit())
    assert unit["ExecStart"].endswith("libvirt watch --connect qemu:///session")
    # nothing that the manager of a user's services has no right to set up
    assert not {"CapabilityBoundingSet", "PrivateNetwork", "ProtectSystem"} & set(unit)
    assert shlex.split(unit["Environment"]) == [f"{paths.ENV_HOME}={home}"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize(("uid", "manager"), [(0, "--system"), (1000, "--user")])
def test_systemd_understands_the_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, manager: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    file = tmp_path / "sysqcache-libvirt.service"
    file.write_text(service.unit())
    done = subprocess.run(
        ["systemd-analyze", "verify", manager, "--man=no", file],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    # it tells of other units of the host as well
    assert "sysqcache" not in done.stderr
    assert done.returncode == 0, done.stderr
