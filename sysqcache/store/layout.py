# SPDX-License-Identifier: GPL-2.0-or-later
"""The store's directory: its parts, its version, how it is made."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sysqcache.base import paths, system
from sysqcache.base.errors import FormatError, StoreBusy, StoreError, StoreVersionError
from sysqcache.base.files import TEMPORARY, locked, make_directory, remove_stale, replace_file

STORE_VERSION: Final = 1
LOCK_TIMEOUT: Final = 60.0
"""Seconds to wait for the writer lock; an ingest of a whole boot takes a few."""

_FORMAT_LINE: Final = "sysqcache store "


class StoreLayout:
    """Paths inside a store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.format = root / paths.STORE_FORMAT
        """The store's version, one line of text."""
        self.lock = root / paths.STORE_LOCK
        """Held by whoever writes."""
        self.in_use = root / paths.STORE_IN_USE
        """Held, shared, by machines that map packs."""
        self.packs = root / paths.STORE_PACKS
        """Published packs."""
        self.journals = root / paths.STORE_JOURNALS
        """Journals of runs that are not ingested yet."""
        self.pins = root / paths.STORE_PINS
        """Names of packs that saved machines rely on, a file a machine."""
        self.meta = root / paths.STORE_META
        """RocksDB."""
        self.boot_sets = root / paths.STORE_BOOT_SETS
        """What the next starts map, readable without RocksDB."""
        self.damaged = root / paths.STORE_DAMAGED
        """Where damaged files are moved."""
        self.outdated = root / paths.STORE_OUTDATED
        """Where journals of earlier format versions are moved."""

    def outdated_journals(self) -> list[Path]:
        """Journals that were moved there."""
        return sorted(self.outdated.glob(f"*{paths.JOURNAL_SUFFIX}.*"))

    def pack(self, sha256: str) -> Path:
        """The file of a pack."""
        return self.packs / f"{sha256}{paths.PACK_SUFFIX}"

    def pack_files(self) -> dict[str, Path]:
        """Every published pack file by its sha256, whether the metadata know it or not."""
        suffix = paths.PACK_SUFFIX
        return {
            entry.name[: -len(suffix)]: entry
            for entry in sorted(self.packs.iterdir())
            if entry.name.endswith(suffix) and not entry.name.startswith(".")
        }


def open_layout(root: Path) -> StoreLayout:
    """Make the directories (mode 0700) and the version file, or check the version.

    Raises StoreVersionError for a newer store, FormatError when the version can't
    be read, StoreError when the system refuses; nothing was touched then.
    """
    layout = StoreLayout(root)
    try:
        version = _version(layout)
        for directory in (root, layout.packs, layout.journals):
            make_directory(directory)
        _require_private(root)
        if version is None:
            replace_file(layout.format, f"{_FORMAT_LINE}{STORE_VERSION}\n".encode(), synced=True)
    except OSError as error:
        raise StoreError(
            f"the store {root} can't be used: {error.strerror}",
            hint=system.hint(error.errno) or "set SYSQCACHE_STORE to another directory",
        ) from error
    return layout


def _require_private(root: Path) -> None:
    info = root.stat()
    if info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise StoreError(
            f"other users could write into the store {root}",
            hint=f"chmod go-w {root}, or set SYSQCACHE_STORE to a directory of your own",
        )


def _version(layout: StoreLayout) -> int | None:
    try:
        text = layout.format.read_text(errors="replace")
    except FileNotFoundError:
        return None
    number = text.removeprefix(_FORMAT_LINE).strip()
    if not text.startswith(_FORMAT_LINE) or not number.isascii() or not number.isdecimal():
        raise FormatError(
            f"{layout.format} does not name a store version",
            reason="version",
            hint=f"write '{_FORMAT_LINE}{STORE_VERSION}' into it if this is a store, "
            "or set SYSQCACHE_STORE to another directory",
        )
    if int(number[:9]) > STORE_VERSION:
        raise StoreVersionError(
            f"the store {layout.root} has version {number[:9]}, "
            f"this sysqcache knows up to {STORE_VERSION}",
            hint="use the newer sysqcache, or set SYSQCACHE_STORE to another directory",
        )
    return int(number)


@contextlib.contextmanager
def writing(layout: StoreLayout, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
    """Be the only one who writes to the store. Raises StoreBusy after ``timeout`` seconds."""
    with locked(layout.lock, timeout) as fd:
        if fd is None:
            raise StoreBusy(
                f"another process has held {layout.lock} for {timeout:g} s",
                hint="wait for the other sysqcache command to finish, then try again",
            )
        yield


def remove_temporary(layout: StoreLayout) -> None:
    """Remove what killed writers left; only for the holder of the lock."""
    for directory in (layout.root, layout.packs):
        for entry in directory.glob(f"{TEMPORARY}*"):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
    for directory in (layout.journals, layout.pins):  # written to without the lock
        remove_stale(directory)


def move_aside(layout: StoreLayout, path: Path, into: Path | None = None) -> Path:
    """Move a file or directory into ``into``, else ``damaged/``, under a free name."""
    into = into or layout.damaged
    into.mkdir(mode=0o700, exist_ok=True)
    stem = f"{path.name}.{time.strftime('%Y%m%dT%H%M%S')}"
    for number in range(10_000):
        target = into / (f"{stem}.{number}" if number else stem)
        if not target.exists():
            with contextlib.suppress(FileNotFoundError):
                path.rename(target)
            return target
    raise StoreError(f"{into} is full of {stem}.*", hint="remove it")
