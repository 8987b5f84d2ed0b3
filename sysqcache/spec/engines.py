# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding built engines and telling what they are."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from sysqcache.base import paths
from sysqcache.base.errors import EngineBuildError, EngineMissing, ImageBuildError
from sysqcache.formats.access import FileAccess, UnreadableImage
from sysqcache.formats.elf import read_code
from sysqcache.spec.series import Sanitizer, options, series_digest

META: Final = "engine.json"
FIRMWARE: Final = "share/qemu"
ENV_ENGINE: Final = "SYSQCACHE_ENGINE"
"""Environment variable: the directory of the engine to use, whatever it was built from."""


@dataclass(frozen=True)
class Engine:
    """A built engine.

    :param dir: its directory, with ``bin/`` and ``share/qemu/``.
    :param binary: the system emulator for the target that was asked for.
    :param build_id: hex build id of ``binary``.
    :param key: what it was built from: version, patches and options.
    :param current: whether it was built from the patches and options as they are now.
    """

    dir: Path
    binary: Path
    qemu_img: Path
    firmware_dir: Path
    key: str
    current: bool
    meta: Mapping[str, Any]

    @cached_property
    def build_id(self) -> str:
        """Hex build id of the binary, read from the file; "" when it has none."""
        return read_build_id(self.binary)

    @property
    def version(self) -> str:
        """QEMU's version, such as "10.0.13"."""
        return str(self.meta.get("version", ""))

    @property
    def plain(self) -> bool:
        """Whether it was built without our patches."""
        return bool(self.meta.get("plain"))

    @property
    def sanitize(self) -> str | None:
        """The sanitizer that it was built with: slow, and only for looking for faults."""
        return self.meta.get("sanitize")


def binary_name(target: str) -> str:
    """File name of the system emulator for ``target``, such as "x86_64"."""
    return f"qemu-system-{target}"


def load(directory: Path, target: str) -> Engine | None:
    """The engine in ``directory``, or None when it lacks the target or is incomplete."""
    binary = directory / "bin" / binary_name(target)
    if not os.access(binary, os.X_OK):
        return None
    try:
        meta = json.loads((directory / META).read_text())
    except (OSError, ValueError):
        meta = {}
    return Engine(
        dir=directory,
        binary=binary,
        qemu_img=directory / "bin" / "qemu-img",
        firmware_dir=directory / FIRMWARE,
        key=directory.name,
        current=_is_current(meta),
        meta=meta,
    )


def _is_current(meta: Mapping[str, Any]) -> bool:
    try:
        series = series_digest(plain=bool(meta.get("plain")))
    except (OSError, EngineBuildError):
        return False  # a series in the middle of an edit must not stop a machine
    name = meta.get("sanitize")
    if name is not None and name not in list(Sanitizer):
        return False  # of a later version
    wanted = options(Sanitizer(name) if name else None)
    return meta.get("series_sha256") == series and meta.get("options") == list(wanted)


def list_engines(target: str) -> list[Engine]:
    """Every built engine for ``target``, the newest first."""
    try:
        folders = [d for d in paths.engines_dir().iterdir() if not d.name.startswith(".")]
    except OSError:
        return []
    engines = [engine for folder in folders if (engine := load(folder, target))]
    return sorted(engines, key=lambda e: str(e.meta.get("built", "")), reverse=True)


def find_engine(target: str, *, plain: bool = False, sanitize: Sanitizer | None = None) -> Engine:
    """The engine to run: one built from the present patches, else the newest one.

    SYSQCACHE_ENGINE names a directory to use instead.
    :param plain: the engine without our patches, for comparisons.
    :param sanitize: an engine with this sanitizer; none is ever chosen without being asked for.
    :raises EngineMissing: none is built for ``target``.
    """
    override = os.environ.get(ENV_ENGINE)
    if override and not plain and not sanitize:
        engine = load(Path(override).absolute(), target)
        if engine is None:
            raise EngineMissing(
                f"{ENV_ENGINE}={override} holds no bin/{binary_name(target)}",
                hint=f"unset {ENV_ENGINE}, or name a directory that `engine build` made",
            )
        return engine
    kind = (plain, sanitize)
    engines = [e for e in list_engines(target) if (e.plain, e.sanitize) == kind]
    for engine in engines:
        if engine.current:
            return engine
    if engines:
        return engines[0]
    option = " --plain" if plain else ""
    option += f" --sanitize {sanitize}" if sanitize else ""
    raise EngineMissing(f"no engine is built for {target}", hint=f"sysqcache engine build{option}")


def any_qemu_img() -> Path:
    """The present engine's own qemu-img, else that of another one, else the system's.

    :raises ImageBuildError: there is neither.
    """
    for engine in sorted(list_engines("x86_64"), key=lambda engine: not engine.current):
        if engine.qemu_img.is_file() and not engine.sanitize:
            return engine.qemu_img
    found = shutil.which("qemu-img")
    if not found:
        raise ImageBuildError("there is no qemu-img", hint="sysqcache engine build")
    return Path(found)


def read_build_id(binary: Path) -> str:
    """Hex build id of an ELF file; "" when it has none or is no ELF file."""
    try:
        with contextlib.closing(FileAccess(binary)) as file:
            code = read_code(file)
    except UnreadableImage:
        return ""
    return code.build_id if code else ""
