# SPDX-License-Identifier: GPL-2.0-or-later
"""Our changes go into QEMU's tree: files of our own, then the series of patches."""

from __future__ import annotations

import re
from pathlib import Path

from sysqcache.base.errors import EngineBuildError
from sysqcache.setup.work import Work
from sysqcache.spec.series import ENGINE_DIR, SRC, own_files, series


def copy_own_files(tree: Path, engine_dir: Path = ENGINE_DIR) -> int:
    """Copy our files into QEMU's source tree; unchanged ones keep their time. Gives their number.

    :raises EngineBuildError: one of them would replace a file of QEMU.
    """
    files = own_files(engine_dir)
    marker = tree / ".sysqcache-own-files"
    known = set(marker.read_text().splitlines()) if marker.is_file() else set()
    for path in files:
        target = tree / path
        data = (engine_dir / SRC / path).read_bytes()
        if target.exists() and str(path) not in known:
            raise EngineBuildError(f"engine/src/{path} would replace a file of QEMU")
        if not target.exists() or target.read_bytes() != data:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    for gone in known - {str(path) for path in files}:
        (tree / gone).unlink(missing_ok=True)
    marker.write_text("".join(f"{path}\n" for path in files))
    return len(files)


def apply_series(tree: Path, version: str, work: Work, engine_dir: Path = ENGINE_DIR) -> None:
    """Apply every patch to ``tree``, in order.

    :raises EngineBuildError: a patch does not fit; it names the patch and the file. The
        tree is then half patched: its owner discards it.
    """
    for path in series(engine_dir):
        command = ["patch", "-p1", "--forward", "--batch", "--no-backup-if-mismatch", "-F2"]
        try:
            work.run([*command, "-i", path.absolute()], cwd=tree)
        except EngineBuildError as err:
            raise EngineBuildError(
                f"{path.name} does not fit QEMU {version}: {_failed_file(err.detail)}",
                hint="the series is written for QEMU 10.0; sysqcache engine build fetches it",
                detail=err.detail,
            ) from None


def _failed_file(output: str) -> str:
    """The file that `patch` was at when the first hunk failed."""
    current = ""
    for line in output.splitlines():
        if match := re.match(r"(?:patching file|\|\+\+\+) '?(?:b/)?([^'\t]+)", line):
            current = match.group(1)
        elif "FAILED" in line or "No file to patch" in line or "previously applied" in line:
            return current
    return current or "see the details"
