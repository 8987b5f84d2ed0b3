# SPDX-License-Identifier: GPL-2.0-or-later
"""Is this host ready? Each check tells a state and the next step."""

from __future__ import annotations

import os
import platform
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sysqcache.base import paths
from sysqcache.base.errors import SysqcacheError
from sysqcache.setup import hostpackages
from sysqcache.setup.apt import sources
from sysqcache.setup.engine.configure import meson_present
from sysqcache.setup.work import free_space
from sysqcache.spec import catalog, engines

State = Literal["ok", "warning", "missing"]

MIN_MEMORY: Final = 2 << 30
MIN_DISK: Final = 5_000_000_000
"""Bytes for engine, images and their builds together."""


@dataclass(frozen=True)
class Check:
    """One line of `sysqcache doctor`.

    :param state: "missing" when machines can't run before it is mended.
    :param next_step: what to do, or "".
    """

    name: str
    state: State
    text: str
    next_step: str = ""


def run_checks() -> list[Check]:
    """All checks, in the order in which they are best mended."""
    engine = _engine()
    checks = [_host(), _processors(), _memory(), _disk(engine), engine]
    checks += _packages(engine_missing=engine.state == "missing")
    checks += [_mirror(), _meson()]
    checks += _images()
    for name, directory in _directories():
        checks.append(_directory(name, directory))
    return checks


def _host() -> Check:
    machine = platform.machine()
    text = f"{platform.system()} on {machine}, Python {platform.python_version()}"
    if sys.platform == "linux" and machine == "x86_64":
        return Check("host", "ok", text)
    return Check("host", "missing", text, "the engine runs on Linux on x86_64 only")


def _processors() -> Check:
    count = len(os.sched_getaffinity(0))
    if count >= 2:
        return Check("processors", "ok", str(count))
    return Check("processors", "warning", str(count), "with one processor everything is slow")


def _memory() -> Check:
    available = _meminfo("MemAvailable")
    text = f"{available / 2**30:.1f} GiB available"
    if available >= MIN_MEMORY:
        return Check("memory", "ok", text)
    return Check("memory", "warning", text, "free some, or give machines less than 1GiB")


def _meminfo(field: str, file: Path = Path("/proc/meminfo")) -> int:
    """A field of /proc/meminfo, in bytes; 0 when it is not there."""
    for line in file.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return 0


def _disk(engine: Check) -> Check:
    free, text = free_space(paths.cache_dir())
    if free >= MIN_DISK:
        return Check("disk", "ok", text)
    step = "free some space, or set SYSQCACHE_HOME to a folder on a larger disk"
    return Check("disk", "missing" if engine.state == "missing" else "warning", text, step)


def _engine() -> Check:
    try:
        engine = engines.find_engine("x86_64")
    except SysqcacheError as err:
        return Check("engine", "missing", err.message, err.hint)
    text = f"{engine.key} in {engine.dir}"
    if not engine.current:
        return Check("engine", "warning", f"{text}, from other patches", "sysqcache engine build")
    return Check("engine", "ok", text)


def _packages(*, engine_missing: bool) -> Iterator[Check]:
    parts: tuple[tuple[hostpackages.Part, str], ...] = (
        ("engine", "engine"),
        ("image", "images"),
        ("foreign", "Debian images of other architectures"),
    )
    for part, what in parts:
        names = hostpackages.missing([part])
        needed = part == "engine" and engine_missing
        name = f"packages for building {what}"
        if names:
            state: State = "missing" if needed else "warning"
            step = hostpackages.install_command(names)
            yield Check(name, state, f"missing: {', '.join(names)}", step)
        else:
            yield Check(name, "ok", "all installed")


def _mirror() -> Check:
    uris = sources.mirrors(sources.read_sources())
    if uris:
        return Check("Debian mirror", "ok", ", ".join(uris))
    step = "add Debian's archive to /etc/apt/sources.list.d, or build with --source"
    return Check("Debian mirror", "warning", "none in apt's configuration", step)


def _meson() -> Check:
    if meson_present():
        return Check("meson", "ok", f"in {sys.prefix}")
    step = "pip install 'sysqcache[engine-build]'"
    return Check("meson", "warning", "needed to build the engine", step)


def _images() -> Iterator[Check]:
    for image in catalog.list_images():
        name = f"image {image.name}"
        step = f"sysqcache image build {image.name}"
        if image.error:
            yield Check(name, "warning", image.error, f"{step} --force")
        elif image.built:
            yield Check(name, "ok", f"built {image.meta.get('created')}")
        else:
            yield Check(name, "warning", "not built", step)


def _directories() -> tuple[tuple[str, Path], ...]:
    return (
        ("cache directory", paths.cache_dir()),
        ("state directory", paths.state_dir()),
        ("store", paths.store_dir()),
    )


def _directory(name: str, directory: Path) -> Check:
    try:
        trouble = _trouble(directory, directory.stat())
    except FileNotFoundError:
        return Check(name, "ok", f"{directory}, made when it is needed")
    except OSError as err:
        trouble = (f"{directory}: {err.strerror}", "check the permissions of its parents")
    return Check(name, "missing", *trouble) if trouble else Check(name, "ok", str(directory))


def _trouble(directory: Path, status: os.stat_result) -> tuple[str, str] | None:
    """What is wrong and the next step; files that others could write are refused later."""
    if not stat.S_ISDIR(status.st_mode):
        return f"{directory} is no directory", "move it away"
    if status.st_uid != os.geteuid():
        step = "set SYSQCACHE_HOME to a folder of your own"
        return f"{directory} belongs to user {status.st_uid}", step
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{directory} can be written by others", f"chmod go-w {directory}"
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        return f"{directory} is not writable", f"chmod u+rwx {directory}"
    return None
