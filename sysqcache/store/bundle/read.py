# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads a bundle and believes nothing of it: names, sizes, hashes, every block.

What is unpacked goes into one file without a name, so that nothing remains however this
process ends, and nothing of a bundle ever becomes a path.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol

import numpy as np
import zstandard
from numpy.typing import NDArray

from sysqcache.base.errors import FormatError, UsageError
from sysqcache.base.files import TEMPORARY
from sysqcache.base.mapfile import open_private
from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import BlockTable
from sysqcache.store.bundle import form
from sysqcache.store.pack import Pack, PackHeader

_CHUNK: Final = 4 << 20
_HEADER: Final = 512
_END: Final = 1024
_STAGES: Final = 3
_WINDOW: Final = 128 << 20
"""Bytes of memory that unpacking may ask for."""

Progress = Callable[[int, int], None]


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class BundlePack:
    """A checked pack of a bundle; all tables share one buffer.

    :param columns: shape (n,), of ``form.COLUMNS``, of the n blocks of ``table``.
    """

    entry: form.PackEntry
    header: PackHeader
    table: BlockTable
    columns: NDArray[np.void]


@dataclass(frozen=True)
class Bundle:
    """A checked bundle. ``digest``: SHA-256 of its list of contents, which names all else.

    ``size``: bytes of the file.
    """

    contents: form.Contents
    digest: bytes
    packs: tuple[BundlePack, ...]
    size: int


def read_bundle(path: Path, scratch: Path, progress: Progress) -> Bundle:
    """Read and check all of a bundle.

    Raises FormatError for a file that other users could have written, or that is not
    what it says; UsageError when there is none; OSError when ``scratch`` is full.

    :param scratch: directory on whose disk it is unpacked; nothing remains there.
    """
    if not path.exists():
        raise UsageError(f"there is no file {path}")
    try:
        fd = open_private(path)
    except FormatError as error:
        if error.reason == "writable":
            error.hint = f"chmod go-w {path}, if you trust what is in it: it becomes host code"
        raise
    file_size = os.fstat(fd).st_size
    with os.fdopen(fd, "rb") as file, tempfile.TemporaryFile(prefix=TEMPORARY, dir=scratch) as out:
        members = _Members(file, file_size, stage(progress, 0, file_size))
        listed, digest = members.contents()
        contents = form.Contents.decode(listed)
        bases, columns = [], []
        for entry in contents.packs:
            bases.append(_align(out))
            members.copy(form.pack_name(entry), entry.bytes, entry.sha256, out)
            columns.append(members.columns(entry))
        members.end()
        out.flush()
        buffer = memoryview(mmap.mmap(out.fileno(), 0, access=mmap.ACCESS_READ) if bases else b"")
    names = _Names.of(contents)
    checked = stage(progress, 1, file_size)
    packs: list[BundlePack] = []
    for entry, base, rows in zip(contents.packs, bases, columns, strict=True):
        packs.append(_check(entry, buffer, base, rows, names))
        checked(base, len(buffer))
    return Bundle(contents, digest, tuple(packs), file_size)


def stage(progress: Progress, number: int, size: int) -> Progress:
    """The progress of one of the three stages of an import: reading, checking, keeping.

    :param size: bytes of the bundle, which all stages together count up to.
    """

    def step(done: int, total: int) -> None:
        progress(int(size * (number + done / max(total, 1)) / _STAGES), size)

    return step


def _align(out: IO[bytes]) -> int:
    """Go to the next multiple of 4096."""
    out.write(bytes(-out.tell() % bf.HEADER_SIZE))
    return out.tell()


class _Members:
    """The members of the tar, one after another."""

    def __init__(self, file: IO[bytes], size: int, progress: Progress) -> None:
        self._file, self._size, self._progress = file, size, progress
        magic = file.read(4)
        file.seek(0)
        self._source: _Reader = file
        if magic == zstandard.FRAME_HEADER:
            unpacker = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
            self._source = unpacker.stream_reader(file, closefd=False)

    def _exactly(self, size: int) -> bytes:
        parts, left = [], size
        while left:
            try:
                part = self._source.read(left)
            except zstandard.ZstdError as error:
                raise FormatError(f"the bundle can't be unpacked: {error}") from error
            if not part:
                raise FormatError("the bundle ends too early", reason="truncated")
            parts.append(part)
            left -= len(part)
        self._progress(self._file.tell(), self._size)
        return b"".join(parts)

    def _padding(self, size: int) -> None:
        if any(self._exactly(form.padding(size))):
            raise FormatError("the bundle holds more than it lists", reason="bounds")

    def _begin(self, name: str, size: int) -> None:
        """Read a header, which must be that of this member."""
        found = form.read_header(self._exactly(_HEADER))
        if found != (name, size):
            raise FormatError(
                f"the bundle holds {found[0][:80]!r} of {found[1]} bytes where "
                f"{name!r} of {size} bytes should be",
                reason="bounds",
            )

    def contents(self) -> tuple[bytes, bytes]:
        """The first member and its SHA-256."""
        name, size = form.read_header(self._exactly(_HEADER))
        if size > form.MAX_CONTENTS:
            raise FormatError("the bundle's list of contents is too long", reason="bounds")
        content = self._exactly(size)
        self._padding(size)
        digest = hashlib.sha256(content)
        if name != form.contents_name(digest.hexdigest()):
            raise FormatError(
                "the bundle's list of contents is not what its name says", reason="checksum"
            )
        return content, digest.digest()

    def copy(self, name: str, size: int, sha256: str, out: IO[bytes]) -> None:
        """Copy a member, which must have this name, size and hash, to the end of ``out``."""
        self._begin(name, size)
        digest, left = hashlib.sha256(), size
        while left:
            part = self._exactly(min(left, _CHUNK))
            digest.update(part)
            out.write(part)
            left -= len(part)
        self._padding(size)
        if digest.hexdigest() != sha256:
            raise FormatError(f"{name} is not what its name says", reason="checksum")

    def columns(self, entry: form.PackEntry) -> NDArray[np.void]:
        """The columns of a pack."""
        name, size = form.columns_name(entry), entry.blocks * form.COLUMNS.itemsize
        # a block has 64 bytes or more, so a pack's size limits this too
        if size > entry.bytes:
            raise FormatError(f"{name}: more blocks than the pack can hold", reason="bounds")
        self._begin(name, size)
        content = self._exactly(size)
        self._padding(size)
        if hashlib.sha256(content).hexdigest() != entry.columns:
            raise FormatError(f"{name} is not what its name says", reason="checksum")
        return np.frombuffer(content, form.COLUMNS)

    def end(self) -> None:
        """The end of the tar must come now."""
        if any(self._exactly(_END)):
            raise FormatError("the bundle holds more than it lists", reason="bounds")


@dataclass(frozen=True)
class _Names:
    """Numbers that columns may hold; 0 is nobody's."""

    images: frozenset[int]
    modules: frozenset[int]

    @classmethod
    def of(cls, contents: form.Contents) -> _Names:
        images = {0, *(image.number for image in contents.images)}
        return cls(frozenset(images), frozenset({0, *(m.number for m in contents.modules)}))


def _open(content: memoryview, name: str) -> Pack:
    try:
        return Pack(content, name=name)
    except FormatError as error:
        if error.reason == "version":
            error.hint = "export it anew, with the version of sysqcache that is to import it"
        raise


def _check(
    entry: form.PackEntry,
    buffer: memoryview,
    base: int,
    columns: NDArray[np.void],
    names: _Names,
) -> BundlePack:
    """Check a pack: header, sizes, the checksum of every block, its columns."""
    pack = _open(buffer[base : base + entry.bytes], form.pack_name(entry))
    head, table = pack.header, pack.blocks()
    if head.block_count != entry.blocks or not pack.holds_all_of(table):
        raise FormatError(f"{pack.name}: blocks are missing", reason="bounds")
    if not table.good_checksums().all():
        raise FormatError(f"{pack.name}: a block is damaged", reason="checksum")
    if head.fingerprint.hex() != entry.fingerprint:
        raise FormatError(f"{pack.name} is of another fingerprint", reason="fingerprint")
    for name, known in (("image", names.images), ("module", names.modules)):
        if not set(np.unique(columns[name]).tolist()) <= known:
            raise FormatError(f"{pack.name}: a block has no {name}", reason="bounds")
    there = BlockTable(buffer, table.offsets + base, table.headers)
    return BundlePack(entry, head, there, columns)
