# SPDX-License-Identifier: GPL-2.0-or-later
"""A file system of a machine's disk, whoever reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from sysqcache.formats.access import RandomAccess
from sysqcache.spec.spec import Disk


@dataclasses.dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file: its absolute path in the file system, mode, bytes.

    :param place: what opens it again together with its path, as in :class:`contents.CodeFile`.
    """

    path: str
    mode: int
    size: int
    place: int


class Walk(Protocol):
    """All regular files of a file system, once."""

    @property
    def damaged(self) -> int:
        """Places that could not be read so far."""

    @property
    def note(self) -> str:
        """In words, the first of them; "" when there is none."""

    def __iter__(self) -> Iterator[FoundFile]:
        """The files; raises nothing for what a file system claims."""


class Volume(Protocol):
    """A file system; ``origin`` as in :class:`contents.CodeFile`."""

    @property
    def origin(self) -> str:
        """Which one it is."""

    def walk(self) -> Walk:
        """Its files."""

    def open(self, path: str, place: int) -> RandomAccess:
        """The bytes of a file that a walk found. Raises DamagedFileSystem."""

    def read(self, path: str, most: int) -> bytes:
        """A file by its path, b"" when there is none or a larger one; links are not followed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Unread:
    """A part of a disk that is not read here.

    :param disk: its number in vm.yaml, from 0.
    :param partition: as in :class:`partitions.Partition`.
    :param kind: what it holds, as :func:`partitions.identify` names it.
    :param why: in words, why it is not read.
    """

    disk: int
    partition: int
    kind: str
    why: str

    @property
    def origin(self) -> str:
        """As in :class:`contents.CodeFile`."""
        return f"disk{self.disk}:{self.partition}"


class Opened(Protocol):
    """What somebody else reads of disks, until it is closed."""

    @property
    def volumes(self) -> Sequence[Volume]:
        """File systems."""

    @property
    def notes(self) -> Sequence[str]:
        """In words, what could not be read."""

    @property
    def fault(self) -> str:
        """Why more was not read that may be the next time, "" when all is well so far."""

    def close(self) -> None:
        """Nothing can be read afterwards."""


OtherReader = Callable[[Sequence[Disk], Sequence[Unread]], Opened]
"""Reads what is not read here, of the disks of a machine. Raises nothing."""
