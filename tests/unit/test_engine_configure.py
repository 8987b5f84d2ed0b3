# SPDX-License-Identifier: GPL-2.0-or-later
"""A kept build directory, which only the same configuration may use again."""

from __future__ import annotations

from pathlib import Path

from sysqcache.base.errors import EngineBuildError
from sysqcache.setup.engine.configure import configure
from sysqcache.setup.work import Work
from sysqcache.spec.series import Sanitizer


def test_a_kept_directory_is_configured_anew_for_other_options(tmp_path: Path) -> None:
    """In place of QEMU's script: one that counts, as what is asked is who calls it."""
    script = tmp_path / "configure"
    script.write_text("#!/bin/sh\necho run >> ../runs\ntouch build.ninja\n", encoding="utf-8")
    script.chmod(0o755)
    work = Work(tmp_path / "log", EngineBuildError)
    runs = tmp_path / "runs"
    for targets, sanitize, count in (
        (["x86_64"], None, 1),
        (["x86_64"], None, 1),
        (["x86_64", "aarch64"], None, 2),
        (["x86_64", "aarch64"], Sanitizer.THREAD, 3),
    ):
        build = configure(tmp_path, targets, work, sanitize)
        assert len(runs.read_text().split()) == count
    (build / "build.ninja").unlink()
    configure(tmp_path, ["x86_64", "aarch64"], work, Sanitizer.THREAD)
    assert len(runs.read_text().split()) == 4
