# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes packs: whole, synced, and only then under their name."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from sysqcache.base import paths
from sysqcache.base.errors import FormatError
from sysqcache.base.files import TEMPORARY, sync_directory
from sysqcache.formats import block as bf
from sysqcache.store import key
from sysqcache.store.pack import slots_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sysqcache.formats.blocktable import BlockTable, Offsets

_CHUNK: Final = 8 << 20


@dataclass(frozen=True)
class WrittenPack:
    """A pack that has just been published.

    :param sha256: of the whole file, hexadecimal; also its name.
    :param offsets: shape (n,), bytes from the file's start, in the order given.
    """

    path: Path
    sha256: str
    size: int
    offsets: Offsets


def nothing(_point: str) -> None:
    """The crash-point hook of normal runs."""


def new_seed() -> int:
    """A seed for a pack's index: as no guest knows it, none can fill one place of the index."""
    return int.from_bytes(os.urandom(8), "little")


def write_pack(
    directory: Path,
    fingerprint: bytes,
    text: str,
    tables: Sequence[BlockTable],
    *,
    seed: int | None = None,
    reached: Callable[[str], None] = nothing,
) -> WrittenPack:
    """Write all blocks of ``tables``, in order, into one new pack in ``directory``.

    Raises OSError (the disk is full, ...) or FormatError ("bounds": too big for
    the index); then at most a temporary file remains. ``reached`` is called with
    the names of the crash points of docs/formats.md.

    :param seed: of the index, a new one by default. The same blocks with the same seed
        give the same pack; ``store.crowding`` says which blocks one can have.
    """
    pieces = PackPieces.plan(fingerprint, text, tables, seed=seed)
    temporary = directory / f"{TEMPORARY}{os.getpid()}{paths.PACK_SUFFIX}"
    digest = hashlib.sha256()
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.fchmod(fd, 0o644)  # whatever the umask: the engine refuses more, VMs may share
        for chunk in pieces.chunks():
            digest.update(chunk)
            _write_all(fd, chunk)
        reached("pack-written")
        os.fsync(fd)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    reached("pack-synced")
    path = directory / f"{digest.hexdigest()}{paths.PACK_SUFFIX}"
    temporary.rename(path)
    sync_directory(directory)
    reached("pack-published")
    return WrittenPack(path, digest.hexdigest(), pieces.file_size, pieces.offsets)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@dataclass(frozen=True)
class PackPieces:
    """A pack before it is written: everything but the copied blocks."""

    header: bytes
    tables: Sequence[BlockTable]
    offsets: Offsets
    gap: int
    index: bytes
    file_size: int

    @classmethod
    def plan(
        cls,
        fingerprint: bytes,
        text: str,
        tables: Sequence[BlockTable],
        *,
        seed: int | None = None,
    ) -> PackPieces:
        """Place every block and build the index. Raises FormatError ("bounds").

        :param seed: as in :func:`write_pack`.
        """
        seed = new_seed() if seed is None else seed
        sizes = np.concatenate([np.zeros(0, np.int64), *(t.padded_sizes() for t in tables)])
        ends = np.cumsum(sizes) + bf.HEADER_SIZE
        blocks_end = int(ends[-1]) if len(ends) else bf.HEADER_SIZE
        index_offset = -(-blocks_end // bf.HEADER_SIZE) * bf.HEADER_SIZE
        offsets: Offsets = ends - sizes
        index = build_index(tables, offsets, seed)
        file_size = index_offset + index.nbytes
        if file_size > bf.ALIGN << 32:
            raise FormatError("a pack can't be larger than 64 GiB", reason="bounds")
        encoded = text.encode()[: bf.PACK_HEADER.dtype["text"].itemsize]
        header = bf.PACK_HEADER.pack(
            magic=bf.PACK_MAGIC,
            version=bf.VERSION,
            header_size=bf.HEADER_SIZE,
            fingerprint=fingerprint,
            page_bits=bf.PAGE_BITS,
            text_size=len(encoded),
            file_size=file_size,
            block_count=len(sizes),
            slot_count=slots_for(len(sizes)),
            index_entries=len(index),
            index_offset=index_offset,
            blocks_offset=bf.HEADER_SIZE,
            blocks_size=blocks_end - bf.HEADER_SIZE,
            flags_any=_reduce(np.bitwise_or, tables),
            flags_all=_reduce(np.bitwise_and, tables),
            seed=seed,
            text=encoded,
        )
        gap = index_offset - blocks_end
        return cls(bf.seal_header(header), tables, offsets, gap, index.tobytes(), file_size)

    def chunks(self) -> Iterator[bytes]:
        """The file's bytes, a few MiB at a time."""
        yield self.header
        for table in self.tables:
            yield from _copied_blocks(table)
        yield bytes(self.gap)
        yield self.index


def _reduce(operation: np.ufunc, tables: Sequence[BlockTable]) -> int:
    """The flags of all blocks, anded or ored; 0 for no blocks."""
    flags = [t.headers["flags"] for t in tables if len(t)]
    return int(operation.reduce(np.concatenate(flags))) if flags else 0


def _copied_blocks(table: BlockTable) -> Iterator[bytes]:
    """The bytes of a table's blocks; neighbours in the source are copied together."""
    if not len(table):
        return
    starts = table.offsets
    ends = starts + table.padded_sizes()
    apart = np.flatnonzero(starts[1:] != ends[:-1])
    first = starts[np.concatenate([[0], apart + 1])]
    last = ends[np.concatenate([apart, [len(ends) - 1]])]
    batch, held = [], 0
    for start, end in zip(first.tolist(), last.tolist(), strict=True):
        for position in range(start, end, _CHUNK):
            stop = min(position + _CHUNK, end)
            batch.append(table.buffer[position:stop])
            held += stop - position
            if held >= _CHUNK:
                yield b"".join(batch)
                batch, held = [], 0
    yield b"".join(batch)


def build_index(tables: Sequence[BlockTable], offsets: Offsets, seed: int) -> bf.Records:
    """The index of blocks that will lie at ``offsets`` of the file, all tables in order."""
    none = np.zeros(0, np.uint64)
    hashes = np.concatenate([none, *(key.index_hashes(t, seed) for t in tables)])
    sizes = np.concatenate([none.astype("<u2"), *(t.headers["guest_size"] for t in tables)])
    prefixes = np.concatenate([none, *(t.prefixes() for t in tables)])
    told = np.concatenate([none.astype("<u2"), *(_told(t) for t in tables)])
    slot_count = slots_for(len(offsets))
    # the home slot grows with the hash, so this is the order (home, hash, size descending)
    order = np.lexsort((-sizes.astype(np.int32), hashes))
    slots = place(key.home_slots(hashes[order], slot_count))
    length = max(slot_count, int(slots[-1]) + 1 if len(slots) else 0) + 1
    index = np.zeros(length, bf.INDEX_ENTRY.dtype)
    index["prefix"][slots] = prefixes[order]
    index["position"][slots] = offsets[order] // bf.ALIGN
    index["page_offset"][slots] = told[order]
    index["tag"][slots] = (hashes[order] & np.uint64(0xFFFF)).astype(np.uint16)
    return index


def _told(table: BlockTable) -> NDArray[np.uint16]:
    """What the index tells of the blocks' keys besides the prefix, shape (n,)."""
    long = key.long_keys(table) * bf.INDEX_LONG
    told: NDArray[np.uint16] = (table.headers["page_offset"] | long | bf.INDEX_TOLD).astype("<u2")
    return told


def place(homes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Slots of entries with ascending home slots: each its home, or the next free one."""
    ranks = np.arange(len(homes))
    slots: NDArray[np.int64] = np.maximum.accumulate(homes - ranks) + ranks
    return slots
