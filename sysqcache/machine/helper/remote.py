# SPDX-License-Identifier: GPL-2.0-or-later
"""A file system that the helper has mounted, as a volume of an image."""

from __future__ import annotations

import dataclasses
import itertools
import struct
from collections.abc import Iterator
from typing import Final

from sysqcache.attribution.imagescan import limits
from sysqcache.attribution.imagescan.codefile import may_be_code
from sysqcache.attribution.imagescan.extmap import DamagedFileSystem
from sysqcache.attribution.imagescan.kernelplaces import may_matter
from sysqcache.attribution.imagescan.volume import FoundFile
from sysqcache.formats.access import RandomAccess
from sysqcache.formats.elf import HEAD
from sysqcache.machine.helper.channel import FRAME_BYTES, Channel, HelperError, RefusedError

_ENTRY: Final = struct.Struct("<QI")
_LARGEST: Final = 1 << 46
_AT_ONCE: Final = 128
"""Files whose first bytes are asked for together."""


class Line:
    """The channel as the volumes of one image use it: after a fault all of it reads as empty."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.fault = ""

    def read(self, *pieces: tuple[str, int, int]) -> list[bytes]:
        """Bytes of files, by path, offset and size; b"" for what can't be read."""
        if not self.fault:
            try:
                return self._channel.read(pieces)
            except HelperError as error:
                self.fault = str(error)
        return [b""] * len(pieces)

    def parts(self, what: bytes, *words: str, seconds: float) -> Iterator[bytes]:
        """The parts of an answer, as far as they come."""
        if self.fault:
            return
        try:
            yield from self._channel.ask_parts(what, *words, seconds=seconds)
        except HelperError as error:
            self.fault = str(error)
        except RefusedError:
            return


class RemoteFile:
    """Random access to a file of the helper's; ``head``: its first bytes, as far as known."""

    def __init__(self, line: Line, path: str, size: int, head: bytes = b"") -> None:
        self._line, self._path, self._size = line, path, size
        self._head = head

    @property
    def size(self) -> int:
        """Bytes altogether, as the file system claims."""
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from ``offset``; fewer at the end, or where nothing can be read."""
        size = max(0, min(size, self._size - offset))
        if offset + size <= len(self._head):
            return self._head[offset : offset + size]
        parts = []
        while size > 0:
            wanted = min(size, FRAME_BYTES)
            (part,) = self._line.read((self._path, offset, wanted))
            parts.append(part)
            if len(part) < wanted:
                break
            offset, size = offset + wanted, size - wanted
        return b"".join(parts)


class RemoteWalk:
    """Implements :class:`volume.Walk`. Each file's first bytes are fetched ahead of its turn."""

    def __init__(self, volume: RemoteVolume) -> None:
        self._volume = volume
        self.damaged = 0
        self.note = ""

    def __iter__(self) -> Iterator[FoundFile]:
        files = list(itertools.islice(self._of_use(), limits.CODE_FILES))
        for start in range(0, len(files), _AT_ONCE):
            some = files[start : start + _AT_ONCE]
            self._volume.fetch_heads(some)
            yield from some

    def _of_use(self) -> Iterator[FoundFile]:
        """The files that may be code or a kernel, of as many names as are looked at."""
        for number, file in enumerate(self._names()):
            if number == limits.DIRECTORY_ENTRIES:
                self._damage("there are too many names")
                self._volume.line.fault = "the rest of the names was not taken"
                return
            if _is_code(file) or may_matter(file.path):
                yield file

    def _names(self) -> Iterator[FoundFile]:
        """The whole answer has to be taken before anything else can be asked."""
        last = b""
        root = self._volume.root
        for part in self._volume.line.parts(b"W", root, seconds=limits.SCAN_SECONDS):
            last = part
            if len(part) > 4:
                yield from self._entries(part)
        damaged = int.from_bytes(last, "little") if len(last) == 4 else 0
        if damaged:
            self._damage("directories or names can't be read", damaged)

    def _entries(self, part: bytes) -> Iterator[FoundFile]:
        place = 0
        while place + _ENTRY.size < len(part):
            size, mode = _ENTRY.unpack_from(part, place)
            start = place + _ENTRY.size
            end = part.find(b"\0", start)
            if end < 0:
                return
            place = end + 1
            try:
                path = part[start:end].decode()
            except UnicodeDecodeError:
                continue  # no distribution has code under such a name
            if path.startswith("/") and len(path) <= limits.PATH_BYTES and size <= _LARGEST:
                yield FoundFile(path, mode, size, 0)

    def _damage(self, note: str, places: int = 1) -> None:
        self.damaged += places
        self.note = self.note or note


@dataclasses.dataclass(slots=True)
class RemoteVolume:
    """Implements :class:`volume.Volume`.

    :param root: the directory of the helper's that is the root of this file system.
    """

    origin: str
    root: str
    line: Line
    _heads: dict[str, tuple[int, bytes]] = dataclasses.field(default_factory=dict)

    def walk(self) -> RemoteWalk:
        """Its files."""
        return RemoteWalk(self)

    def fetch_heads(self, files: list[FoundFile]) -> None:
        """Have the first bytes of those files that are worth being opened; forget others."""
        wanted = [one for one in files if _is_code(one)]
        pieces = [(self.root + one.path, 0, min(one.size, HEAD)) for one in wanted]
        heads = self.line.read(*pieces) if pieces else []
        self._heads = {one.path: (one.size, head) for one, head in zip(wanted, heads, strict=True)}

    def open(self, path: str, place: int) -> RandomAccess:
        """The bytes of a file. Raises DamagedFileSystem."""
        size, head = self._heads.get(path, (-1, b""))
        if size < 0:
            size = self._size(path)
        return RemoteFile(self.line, self.root + path, size, head)

    def _size(self, path: str) -> int:
        (answer,) = list(self.line.parts(b"S", self.root + path, seconds=5.0)) or [b""]
        size = int.from_bytes(answer, "little")
        if len(answer) != 8 or size > _LARGEST:
            raise DamagedFileSystem(f"{path} can't be opened")
        return size

    def read(self, path: str, most: int) -> bytes:
        """A file by its path, b"" when there is none or a larger one."""
        try:
            file = self.open(path, 0)
        except DamagedFileSystem:
            return b""
        return file.read(0, file.size) if file.size <= most else b""

    def names(self, path: str) -> list[str]:
        """What a directory holds, sorted; nothing when there is none."""
        answer = b"".join(self.line.parts(b"N", self.root + path, seconds=5.0))
        return sorted(name.decode("utf-8", "replace") for name in answer.split(b"\0") if name)


def _is_code(file: FoundFile) -> bool:
    return may_be_code(file.path.rpartition("/")[2], file.mode)
