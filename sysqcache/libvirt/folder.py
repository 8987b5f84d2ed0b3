# SPDX-License-Identifier: GPL-2.0-or-later
"""The folders of an enabled domain: its files, who may do what there, its state file.

::

    libvirt/                  traversable
      engines/BUILD-ID/       the engine, readable by all
      stores/NAME/            kept blocks, private
      domains/UUID/           traversable
        state.json            private
        boot-set.txt, packs/  readable by QEMU's group
        waiting/              private: journals on their way into the store
      run/                    traversable
        libvirt-UUID/         belongs to QEMU's user: journal and sockets

libvirt gives each QEMU an AppArmor profile of the name libvirt-UUID, so that one rule lets
each write to its own folder and to no other, although all of them run as the same user.

Nothing that QEMU's user wrote is ever mapped as a pack, or used where it lies.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self
from uuid import NAMESPACE_URL, uuid5

from sysqcache.base import files, paths, statefile
from sysqcache.base.errors import LibvirtError
from sysqcache.base.system import refused_as
from sysqcache.libvirt.facts import Owner, image_id
from sysqcache.libvirt.rewrite import NAMESPACE, CachePaths

_SOCKET_PATH: Final = 107


@dataclasses.dataclass(frozen=True, slots=True)
class LastRun:
    """What is known of the last run that was followed to its end."""

    ended: float = 0.0
    requested: int = 0
    adopted: int = 0
    blocks_new: int = 0
    attributed: int = 0
    recorded: int = 0
    packs: int = 0

    @property
    def hit_rate(self) -> float:
        """Adopted blocks among those that were asked for."""
        return self.adopted / self.requested if self.requested else 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class DomainState:
    """The state file. ``engine`` names a folder of engines, ``store`` one of stores.

    ``shared`` tells a store that other domains may use; ``rejected`` counts journals that
    could not be used at all, ``damaged`` blocks of others that were left out.
    """

    uuid: str
    name: str
    uri: str
    arch: str
    engine: str
    store: str
    shared: bool
    uid: int
    gid: int
    runs: int = 0
    rejected: int = 0
    damaged: int = 0
    warning: str = ""
    last: LastRun = LastRun()

    @property
    def owner(self) -> Owner:
        """Who QEMU runs as."""
        return Owner(self.uid, self.gid)

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Raises ``ValueError`` or ``TypeError`` for what is no state file."""
        fields = statefile.read_fields(text, cls)
        fields["last"] = LastRun(**fields.get("last", {}))
        return cls(**fields)


class DomainFolder:
    """The folder of the domain with this UUID; it need not exist."""

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self.directory = paths.libvirt_dir() / paths.LIBVIRT_DOMAINS / uuid
        """Where it lies."""
        self.run = run_directory(uuid)
        """The one directory that QEMU may write to."""
        self.copy_uuid = str(uuid5(NAMESPACE_URL, f"{NAMESPACE}:compare:{uuid}"))
        """The domain that is measured in its place has this one, and a run directory."""
        self.waiting = self.directory / paths.DOMAIN_WAITING
        """Journals that were taken away from QEMU, and are not in the store yet."""
        self.packs = self.directory / paths.DOMAIN_PACKS
        """The packs that the next start maps."""
        self.boot_set = self.directory / paths.DOMAIN_BOOT_SET
        """The list of them."""
        self.monitor = self.run / paths.DOMAIN_QMP
        """QMP, for the one who follows the domain."""
        self.introspection = self.run / paths.DOMAIN_QMP_INTROSPECT
        """QMP, for looks into the guest and for questions."""
        self.image_id = image_id(uuid)
        """What the store calls the domain's image."""

    def file(self, name: str) -> Path:
        """A file under the name that it has for other machines."""
        return self.introspection if name == paths.INSTANCE_QMP_INTROSPECT else self.run / name

    def cache_paths(self, emulator: Path) -> CachePaths:
        """What the domain's XML names."""
        journal = self.run / paths.DOMAIN_JOURNAL
        return CachePaths(emulator, journal, self.boot_set, self.monitor, self.introspection)

    def exists(self) -> bool:
        """Whether the domain has a folder."""
        return (self.directory / paths.DOMAIN_STATE).exists()

    def make(self, owner: Owner) -> None:
        """Make it, or set owners and modes right again. Raises :class:`LibvirtError`."""
        longest = len(os.fsencode(self.introspection))
        if longest > _SOCKET_PATH:
            raise LibvirtError(
                f"{self.run} is too long a path for a socket",
                hint=f"set SYSQCACHE_HOME to a path that is {longest - _SOCKET_PATH} bytes shorter",
            )
        base = paths.libvirt_dir()
        remedy = "run it as root, or set SYSQCACHE_HOME to a directory of your own"
        with refused_as(LibvirtError, f"{self.directory} can't be made", remedy):
            files.make_directory(base.parent, 0o711)
            for directory in (base, self.directory.parent, self.directory, self.run.parent):
                _directory(directory, 0o711)
            _directory(self.waiting, 0o700)
            _directory(self.packs, 0o750, gid=owner.gid)
            _directory(self.run, 0o700, owner.uid, owner.gid)

    def remove(self) -> None:
        """Remove it with all that is in it. Raises OSError."""
        for directory in (self.run, run_directory(self.copy_uuid), self.directory):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(directory)

    def read(self) -> DomainState:
        """The state. Raises :class:`LibvirtError`."""
        path = self.directory / paths.DOMAIN_STATE
        try:
            return DomainState.parse(path.read_bytes())
        except (OSError, ValueError, TypeError) as error:
            raise LibvirtError(
                f"{path} can't be read: {error}", hint="sysqcache libvirt enable writes it anew"
            ) from None

    def write(self, state: DomainState) -> None:
        """Replace the state, atomically. Raises OSError."""
        content = json.dumps(statefile.to_json(state), indent=1).encode()
        files.replace_file(self.directory / paths.DOMAIN_STATE, content, synced=True)

    def update(self, **changes: Any) -> DomainState:
        """Change fields of the state. Raises :class:`LibvirtError`, OSError."""
        state = dataclasses.replace(self.read(), **changes)
        self.write(state)
        return state

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Be the one who follows the domain and takes its journals; False if another is."""
        with files.locked(self.directory / paths.DOMAIN_LOCK) as fd:
            yield fd is not None


def run_directory(uuid: str) -> Path:
    """Where the QEMU of the domain with this UUID may write."""
    return paths.libvirt_dir() / paths.LIBVIRT_RUN / image_id(uuid)


def list_folders() -> list[DomainFolder]:
    """All enabled domains, also those that libvirt no longer knows."""
    directory = paths.libvirt_dir() / paths.LIBVIRT_DOMAINS
    try:
        found = sorted(directory.iterdir())
    except OSError:
        return []
    return [f for f in (DomainFolder(entry.name) for entry in found) if f.exists()]


def store_root(state: DomainState) -> Path:
    """The store of a domain."""
    return paths.libvirt_dir() / paths.LIBVIRT_STORES / state.store


def _directory(path: Path, mode: int, uid: int | None = None, gid: int | None = None) -> None:
    path.mkdir(exist_ok=True)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with files.held(os.open(path, flags)) as fd:
        if os.geteuid() == 0:
            os.fchown(fd, 0 if uid is None else uid, 0 if gid is None else gid)
        os.fchmod(fd, mode)
