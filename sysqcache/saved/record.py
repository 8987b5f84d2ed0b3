# SPDX-License-Identifier: GPL-2.0-or-later
"""What is written down about a saved machine: enough to know whether it may be resumed."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from sysqcache.base.devices import device_size, device_state
from sysqcache.base.errors import SavedStateError
from sysqcache.base.statefile import DAMAGED_JSON
from sysqcache.formats.ramfile import Checksums
from sysqcache.saved.qcow2snapshot import SnapshotSums
from sysqcache.spec import specjson
from sysqcache.spec.spec import MachineSpec

VERSION: Final = 1


class Method(enum.StrEnum):
    """How a machine is saved."""

    INTERNAL = "internal"
    """Inside its qcow2 disks, as savevm does."""
    FILE = "file"
    """Memory in a file that a resume reads."""
    TEMPLATE = "template"
    """Memory in a file that any number of resumes map privately."""


@dataclasses.dataclass(frozen=True, slots=True)
class FileIdentity:
    """What a file was like; equal means that nobody wrote to it.

    A block device has no time and no inode of its own, but a ``device`` state
    (:func:`sysqcache.base.devices.device_state`).
    """

    size: int
    mtime_ns: int
    inode: int
    device: str = ""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Of a file as it is now. Raises OSError."""
        if device := device_state(path):
            return cls(device_size(path), 0, 0, device)
        info = path.stat()
        return cls(info.st_size, info.st_mtime_ns, info.st_ino)


@dataclasses.dataclass(frozen=True, slots=True)
class SavedDisk:
    """A disk as the machine had it.

    :param own: name inside the saved machine's directory, "" for a disk elsewhere.
    :param file: where a disk elsewhere lies, or what an own one lies over.
    :param checksum: XXH3-128 of an own disk that holds no snapshot, "" for others.
    :param chain: identity of every file below, by path, the disk's own one first.
    :param snapshot: checksums of the snapshot in it (internal); None for disks that are only
        read, and in records of versions that took none.
    """

    own: str
    file: str
    format: str
    mode: str
    checksum: str
    identity: FileIdentity
    chain: dict[str, FileIdentity]
    snapshot: SnapshotSums | None = None

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """From a record; raises KeyError or TypeError."""
        identity = FileIdentity(**value["identity"])
        chain = {path: FileIdentity(**one) for path, one in value["chain"].items()}
        sums = value.get("snapshot")
        snapshot = SnapshotSums.from_json(sums) if sums else None
        return cls(**{**value, "identity": identity, "chain": chain, "snapshot": snapshot})


@dataclasses.dataclass(frozen=True, slots=True)
class SavedMachine:
    """One saved machine.

    :param id: unique among all; ``created`` is Unix time.
    :param spec: what it was started from; ``image_id`` and all.
    :param engine: key of the engine's build, ``build_id`` of its binary.
    :param fingerprint: of the cache, hexadecimal, "" when it ran without.
    :param packs: those that it had mapped, by sha256.
    :param tag: of the snapshot inside the disks (internal).
    :param state: identity of the state file (file, template), with its ``checksums``.
    :param ram: name, size and offset of the block of guest memory in the state file.
    :param why: why this method was chosen.
    :param held: identity of the files of disks that vm.yaml does not name, by path.
    :param alone: ports, sockets and files that two machines can't have at the same time.
    """

    id: str
    name: str
    method: Method
    created: float
    spec: MachineSpec
    engine: str
    build_id: str
    fingerprint: str
    disks: tuple[SavedDisk, ...]
    packs: tuple[str, ...] = ()
    tag: str = ""
    state: FileIdentity | None = None
    checksums: Checksums | None = None
    ram: tuple[str, int, int] = ("", 0, 0)
    disk_bytes: int = 0
    why: str = ""
    held: dict[str, FileIdentity] = dataclasses.field(default_factory=dict)
    alone: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """The record's file."""
        values = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        values["spec"] = specjson.to_json(self.spec)
        return json.dumps({"version": VERSION, **values}, indent=1).encode()

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """The inverse. Raises :class:`SavedStateError`."""
        try:
            value: dict[str, Any] = json.loads(content)
            if value.pop("version") != VERSION:
                raise SavedStateError(
                    "it was saved by another version of sysqcache",
                    hint="resume it with that version, or boot the machine afresh",
                )
            return cls(**{name: _typed(name, one) for name, one in value.items()})
        except DAMAGED_JSON as error:
            raise SavedStateError(
                f"what is known of the saved machine can't be read: {error}"
            ) from error


def _plain(value: Any) -> Any:
    """A field as a JSON value."""
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (SavedDisk, FileIdentity, Checksums)):
        return dataclasses.asdict(value)
    return None if isinstance(value, MachineSpec) else value


def _typed(name: str, value: Any) -> Any:
    """The inverse of :func:`_plain`; raises what wrong values make of it."""
    make = _TYPES.get(name)
    return value if make is None else make(value)


_TYPES: Final[dict[str, Callable[[Any], Any]]] = {
    "spec": specjson.from_json,
    "method": Method,
    "disks": lambda value: tuple(SavedDisk.from_json(one) for one in value),
    "packs": tuple,
    "alone": tuple,
    "held": lambda value: {path: FileIdentity(**one) for path, one in value.items()},
    "ram": tuple,
    "state": lambda value: FileIdentity(**value) if value else None,
    "checksums": lambda value: Checksums.from_json(value) if value else None,
}
