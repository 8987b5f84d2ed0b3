# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of a tiny guest besides busybox: from packages, with their libraries, or compiled."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from sysqcache.base.errors import ImageBuildError
from sysqcache.setup.apt.private import PrivateApt
from sysqcache.setup.work import Work

_COMPILED: Final = "usr/local/bin"
_LIBRARIES: Final = ("usr/lib/*/", "lib/*/", "usr/lib/", "lib/", "lib64/", "usr/lib64/")


def packages(apt: PrivateApt, wanted: Sequence[str]) -> list[str]:
    """``wanted`` and all packages of libraries below them, each once."""
    found = list(wanted)
    for name in found:  # grows meanwhile
        below = (one for one in apt.depends(name) if one.startswith("lib"))
        found += [one for one in dict.fromkeys(below) if one not in found]
    return found


def installed(wanted: Iterable[str], root: Path) -> dict[str, Path]:
    """Programs below ``root`` and what they are linked with: name in the guest -> file.

    :param wanted: names without the first slash.
    :raises ImageBuildError: one of them, or a library, is not there.
    """
    found: dict[str, Path] = {}
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        file = root / name
        if not file.is_file():
            raise ImageBuildError(f"no {name} in the unpacked packages")
        found[name] = file
        interpreter, libraries = _needs(file)
        waiting += [_library(root, one) for one in libraries]
        if interpreter:
            found[interpreter] = root / _library(root, Path(interpreter).name)
    return found


def _needs(file: Path) -> tuple[str, list[str]]:
    """The interpreter of an ELF file, "" without one, and the names of its libraries."""
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.elffile import ELFFile
    from elftools.elf.segments import InterpSegment

    interpreter, libraries = "", []
    with file.open("rb") as stream:
        for segment in ELFFile(stream).iter_segments():
            if isinstance(segment, InterpSegment):
                interpreter = segment.get_interp_name().lstrip("/")
            elif isinstance(segment, DynamicSegment):
                libraries = [str(vars(tag)["needed"]) for tag in segment.iter_tags("DT_NEEDED")]
    return interpreter, libraries


def _library(root: Path, name: str) -> str:
    places = (path for folder in _LIBRARIES for path in root.glob(f"{folder}{name}"))
    found = next(places, None)
    if found is None:
        raise ImageBuildError(f"no library {name} in the unpacked packages")
    return str(found.relative_to(root))


def compiled(sources: Iterable[Path], arch: str, scratch: Path, work: Work) -> dict[str, Path]:
    """C files as programs without libraries: name in the guest -> file.

    :raises ImageBuildError: one does not compile, or this machine's compiler is for another
        architecture.
    """
    found = {}
    for source in sources:
        if platform.machine() != arch:
            raise ImageBuildError(f"{source.name} can be compiled on {arch} only")
        file = scratch / source.stem
        work.run(["gcc", "-static", "-Os", "-s", "-Wall", "-o", file, source])
        found[f"{_COMPILED}/{source.stem}"] = file
    return found
