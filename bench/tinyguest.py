# SPDX-License-Identifier: GPL-2.0-or-later
"""The tiny guest with programs of tests/vm/guest, which gcc must be able to link statically."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.session import ROOT, TINY, Session
from sysqcache.setup.images.cpio import CpioWriter
from sysqcache.spec import catalog

PROGRAMS: Final = ROOT / "tests" / "vm" / "guest"


def compiled(name: str, directory: Path) -> Path:
    """A program of tests/vm/guest, static, so that it needs nothing of the guest."""
    binary = directory / name
    subprocess.run(["gcc", "-O2", "-static", "-o", binary, PROGRAMS / f"{name}.c"], check=True)
    return binary


def initrd(programs: Sequence[Path], directory: Path) -> Path:
    """The tiny guest's, with programs in its /bin."""
    files = {f"bin/{program.name}": program for program in programs}
    return extended("tiny-x86_64", files, directory / "initrd")


def extended(image: str, files: Mapping[str, Path], target: Path) -> Path:
    """The initial RAM disk of an image with more files, by their names there; ``target``."""
    own = catalog.resolve(image).initrd
    assert own is not None
    extra = CpioWriter()
    for name, path in files.items():
        extra.file(name, path.read_bytes(), 0o755 if path.stat().st_mode & 1 else 0o644)
    # the kernel unpacks one archive behind the other, each at a multiple of 4 bytes
    size = (own.stat().st_size + 3) & -4
    target.write_bytes(own.read_bytes().ljust(size, b"\0") + extra.getvalue())
    return target


def measured(directory: Path) -> Path:
    """An initial RAM disk with all programs that are measured."""
    directory.mkdir()
    names = ("storm", "spin", "busy", "racewrite")
    return initrd([compiled(name, directory) for name in names], directory)


def boot(
    session: Session, store: Path, files: Path, count: int, mode: str, task: str
) -> dict[str, Any]:
    """The report of a boot with ``count`` vCPUs. Raises SystemExit when ``task`` fails in it."""
    report = session.boot(
        store, TINY, "--set", f"initrd={files}", "--set", f"vcpus={count}",
        "--cache", mode, "--task", task,
    )  # fmt: skip
    [done] = report["times"]["tasks"]
    if done["exit"] != 0:
        raise SystemExit(f"{task} failed: {done}")
    return report
