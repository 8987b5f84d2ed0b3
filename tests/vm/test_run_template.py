# SPDX-License-Identifier: GPL-2.0-or-later
"""Templates of `sysqcache run`: made once, made anew when something is another one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from machinehelp import TINY, sysqcache

from sysqcache.base import paths
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import Engine

pytestmark = pytest.mark.vm

SAVED_STATE_ERROR = 19


@pytest.fixture
def config(own_state: Path, x86_engine: Engine, tiny_image: ImagePaths, tmp_path: Path) -> Path:
    """The tiny machine, with an initial RAM disk that may be changed."""
    assert tiny_image.initrd is not None
    shutil.copy(tiny_image.initrd, tmp_path / "initrd")
    file = tmp_path / "small.yaml"
    text = TINY.read_text().replace("name: tiny", "name: small")
    file.write_text(text.replace("image:tiny-x86_64/initrd", "initrd"))
    return file


def templates() -> list[str]:
    return sorted(path.name for path in paths.instances_dir().iterdir())


def output(config: Path, *words: str) -> str:
    return sysqcache("run", config, *words, timeout=300).stdout


def test_made_once_and_anew_for_what_changed(config: Path) -> None:
    assert output(config, "--", "echo hi; uname -m") == "hi\nx86_64\n"
    first = templates()
    assert len(first) == 1
    assert output(config, "--", "exit 0") == ""
    assert templates() == first
    # a file that has the same size and time as before is another one all the same
    initrd = config.with_name("initrd")
    told = initrd.stat()
    shutil.copy(initrd, config.with_name("other"))
    config.with_name("other").replace(initrd)
    os.utime(initrd, ns=(told.st_atime_ns, told.st_mtime_ns))
    error = sysqcache("run", config, "--template", "never", "--", "true", code=SAVED_STATE_ERROR)
    assert "none may be made" in error.stderr
    assert output(config, "--", "echo again") == "again\n"
    second = templates()
    assert len(second) == 1
    assert second != first
    assert output(config, "--memory", "300MiB", "--", "true") == ""
    assert len(templates()) == 2


def test_two_runs_make_one_template(config: Path) -> None:
    command = [sys.executable, "-m", "sysqcache", "run", str(config), "--", "echo done"]
    pipe = subprocess.PIPE
    both = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    told = [process.communicate(timeout=300) for process in both]
    assert [out for out, _ in told] == ["done\n", "done\n"], told
    assert sum("another run makes the template" in errors for _, errors in told) == 1
    assert len(templates()) == 1


def test_an_image_needs_no_vm_yaml(own_state: Path, tiny_image: ImagePaths) -> None:
    done = sysqcache("run", "tiny-x86_64", "--", "work", timeout=300)
    assert done.stdout.startswith("work: ok")
    assert sysqcache("run", "no-such-image", "--", "true", code=7).stderr.startswith("error:")
