# SPDX-License-Identifier: GPL-2.0-or-later
"""Our changes to QEMU: files of our own under engine/src, and the series engine/patches."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

from sysqcache.base.errors import EngineBuildError
from sysqcache.work import Work

ENGINE_DIR: Final = Path(__file__).resolve().parents[2] / "engine"
SRC: Final = "src"
PATCHES: Final = "patches"


def series(engine_dir: Path = ENGINE_DIR) -> list[Path]:
    """The patches in the order in which they are applied.

    :raises EngineBuildError: a name does not begin with four digits, or two share a number.
    """
    patches = sorted((engine_dir / PATCHES).glob("*.patch"))
    numbers: dict[str, Path] = {}
    for path in patches:
        number = path.name[:4]
        if not re.match(r"\d{4}-", path.name):
            raise EngineBuildError(f"{path}: a patch is named NNNN-what-it-does.patch")
        if number in numbers:
            raise EngineBuildError(f"{path.name} and {numbers[number].name} share a number")
        numbers[number] = path
    return patches


def own_files(engine_dir: Path = ENGINE_DIR) -> list[Path]:
    """Files of ours, as paths relative to engine/src, which mirrors QEMU's tree."""
    root = engine_dir / SRC
    hidden = (".", "__")
    return sorted(
        path.relative_to(root)
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(hidden) and not path.name.endswith("~")
    )


def series_digest(engine_dir: Path = ENGINE_DIR, *, plain: bool = False) -> str:
    """Hex SHA-256 of all our changes to QEMU; of nothing when ``plain``."""
    return _digest(engine_dir, plain)


def _digest(engine_dir: Path, plain: bool) -> str:
    digest = hashlib.sha256()
    if not plain:
        files = [engine_dir / SRC / path for path in own_files(engine_dir)]
        for path in files + series(engine_dir):
            data = path.read_bytes()
            name = str(path.relative_to(engine_dir)).encode()
            digest.update(b"%d:%s%d:" % (len(name), name, len(data)) + data)
    return digest.hexdigest()


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
