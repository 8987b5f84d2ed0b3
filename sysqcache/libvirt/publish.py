# SPDX-License-Identifier: GPL-2.0-or-later
"""Engines and packs where QEMU's user can read them, and nobody but us can write.

Files are linked where that is possible, so that they take no room twice, and copied where
it is not. A pack in use stays, whatever becomes of the store.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.base.errors import LibvirtError
from sysqcache.base.files import TEMPORARY, make_directory, replacing
from sysqcache.libvirt.facts import Owner
from sysqcache.libvirt.folder import DomainFolder
from sysqcache.spec.engines import FIRMWARE, Engine

_NO_LINK: Final = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)
_READABLE: Final = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH


def publish_engine(engine: Engine) -> str:
    """Put an engine where libvirt finds it; its name below ``engines``.

    It appears whole or not at all; one that is there gets the firmware that it lacks.
    Raises :class:`LibvirtError`.
    """
    if engine.plain or not engine.build_id:
        raise LibvirtError(
            f"{engine.dir} is no engine with the cache", hint="unset SYSQCACHE_ENGINE"
        )
    target = engines_dir() / engine.build_id
    try:
        if target.exists():
            _complete(engine.dir / FIRMWARE, target / FIRMWARE)
            return target.name
        make_directory(engines_dir(), 0o755)
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=engines_dir()) as scratch:
            whole = Path(scratch) / "engine"
            shutil.copytree(engine.dir, whole, copy_function=_link_or_copy)
            for directory, _, _ in os.walk(whole):
                Path(directory).chmod(0o755)
            with contextlib.suppress(FileExistsError):
                whole.rename(target)
    except (OSError, shutil.Error) as error:
        raise LibvirtError(f"the engine can't be put into {engines_dir()}: {error}") from None
    return target.name


def _complete(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        copied = target / path.relative_to(source)
        if path.is_dir():
            copied.mkdir(mode=0o755, exist_ok=True)
        elif not copied.exists():
            _link_or_copy(str(path), str(copied))


def engines_dir() -> Path:
    """Where libvirt finds engines."""
    return paths.libvirt_dir() / paths.LIBVIRT_ENGINES


def emulator(engine: str, arch: str) -> Path:
    """The program of a published engine."""
    return engines_dir() / engine / "bin" / f"qemu-system-{arch}"


def remove_engines(used: Iterable[str]) -> None:
    """Remove published engines that no domain uses."""
    keep = set(used)
    with contextlib.suppress(OSError):
        for entry in engines_dir().iterdir():
            if entry.name not in keep and not entry.name.startswith(TEMPORARY):
                shutil.rmtree(entry, ignore_errors=True)


def remove_empty() -> None:
    """Remove our directories that hold nothing."""
    base = paths.libvirt_dir()
    names = (paths.LIBVIRT_STORES, paths.LIBVIRT_DOMAINS, paths.LIBVIRT_RUN, paths.LIBVIRT_ENGINES)
    for name in (*names, ""):
        with contextlib.suppress(OSError):
            (base / name).rmdir()


def _link_or_copy(source: str, target: str) -> None:
    """One file, readable by all: a link to it if it is that already."""
    if Path(source).stat().st_mode & _READABLE == _READABLE:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)
    executable = os.access(source, os.X_OK)
    Path(target).chmod(0o755 if executable else 0o644)


def publish_packs(folder: DomainFolder, packs: Sequence[Path], owner: Owner) -> None:
    """Make ``packs`` what the domain's next start maps; those before go.

    The list appears when all packs are there. Raises OSError; the old list is valid then.
    """
    for pack in packs:
        target = folder.packs / pack.name
        if not target.exists():
            _publish_pack(pack, target)
    lines = "".join(f"{folder.packs / pack.name}\n" for pack in packs)
    with replacing(folder.boot_set, synced=True) as listed:
        listed.write(lines.encode())
        if os.geteuid() == 0:
            os.fchown(listed.fileno(), 0, owner.gid)
        os.fchmod(listed.fileno(), 0o640)
    names = {pack.name for pack in packs}
    for entry in folder.packs.iterdir():
        if entry.name not in names:
            entry.unlink()


def _publish_pack(pack: Path, target: Path) -> None:
    """The directory keeps others out, so the mode need not know QEMU's group."""
    try:
        pack.chmod(0o644)
        os.link(pack, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        with pack.open("rb") as source, replacing(target) as copy:
            shutil.copyfileobj(source, copy)
            os.fchmod(copy.fileno(), 0o644)


def require_reachable(path: Path, owner: Owner) -> None:
    """Check that QEMU's user can run the program ``path``, whatever grants it.

    Raises :class:`LibvirtError` with the directory that is closed to it.
    """
    closed = [part for part in (*reversed(path.parents), path) if not _may_pass(part, owner)]
    if closed:
        raise LibvirtError(
            f"QEMU runs as user {owner.uid}, who can't get to {closed[0]}",
            hint=f"chmod o+x {closed[0]}, or set SYSQCACHE_HOME to a directory outside of it",
        )


def _may_pass(path: Path, owner: Owner) -> bool:
    if os.geteuid() != 0:
        return os.access(path, os.X_OK)
    done = subprocess.run(
        ["test", "-x", str(path)],
        check=False,
        user=owner.uid,
        group=owner.gid,
        extra_groups=[],
    )
    return done.returncode == 0
