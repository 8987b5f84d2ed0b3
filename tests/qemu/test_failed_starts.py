# SPDX-License-Identifier: GPL-2.0-or-later
"""What a start says that QEMU refuses, to people and to scripts; what it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sysqcache.base import paths
from sysqcache.base.errors import LaunchError
from sysqcache.machine.instances import Instance
from sysqcache.machine.launch.process import QemuProcess, messages
from sysqcache.spec.engines import Engine

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("x86_engine", "own_state")]


def boot(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sysqcache", "boot", str(file), *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


@pytest.fixture
def refused(tmp_path: Path) -> Path:
    file = tmp_path / "refused.yaml"
    file.write_text("memory: 64MiB\ncache: {mode: off}\nqemu_args: [-no-such-option]\n")
    return file


def test_people_get_the_reason_and_scripts_an_object(refused: Path) -> None:
    done = boot(refused, "--json")
    assert done.returncode == LaunchError.exit_code
    value: dict[str, Any] = json.loads(done.stdout)
    assert (value["machine"], value["cache_mode"]) == ("refused", "off")
    assert value["error"]["exit_code"] == LaunchError.exit_code
    assert "invalid option" in value["error"]["detail"]
    assert "invalid option" in done.stderr
    assert "-nodefaults" not in done.stderr
    debug = boot(refused, "--debug")
    assert debug.stdout == ""
    assert "command: cd " in debug.stderr
    assert "-nodefaults" in debug.stderr


def test_an_object_even_without_a_machine(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("vcpus: 0")
    done = boot(file, "--json")
    assert done.returncode == 3
    value = json.loads(done.stdout)
    assert list(value) == ["error"]
    assert "wrong.yaml:1: vcpus" in value["error"]["detail"]


def test_nothing_is_left_of_an_ended_machine(refused: Path) -> None:
    assert boot(refused).returncode == LaunchError.exit_code
    folder = Instance("refused").directory
    left = {path.name for path in folder.iterdir()}
    assert left == {
        *(paths.INSTANCE_STATE, paths.INSTANCE_LOCK, paths.INSTANCE_SPEC),
        paths.INSTANCE_QEMU_LOG,
    }
    assert "QEMU did not start" in Instance("refused").read().error


def test_firmware_that_qemu_refuses(x86_engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "bios").write_bytes(bytes(100))
    arguments = [str(x86_engine.binary), "-nodefaults", "-display", "none", "-machine", "pc"]
    with QemuProcess([*arguments, "-bios", str(tmp_path / "bios")], tmp_path) as process:
        process.wait(30.0)
        error = process.launch_error()
    assert error.hint.startswith("QEMU refuses this file as the machine's firmware")


def test_packs_of_others_are_no_news(tmp_path: Path) -> None:
    log = tmp_path / "qemu.log"
    warning = "qemu-system-x86_64: warning: tb-cache: pack /s/p.pack refused:"
    log.write_text(f"{warning} fingerprint\n{warning} header\nqemu: it broke\n")
    assert messages(log) == f"{warning} header\nqemu: it broke"
