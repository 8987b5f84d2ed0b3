# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocks as columns: where they lie in a buffer and their headers, without copies.

Nothing here makes a Python object per block except the checksum loop; a table of
300,000 blocks is a handful of numpy arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from sysqcache.formats import block as bf

Offsets = NDArray[np.int64]
Mask = NDArray[np.bool_]

_UNIT = np.dtype("V16")


def whole_units(buffer: bf.Buffer) -> int:
    """Bytes of ``buffer`` that whole units of 16 bytes cover."""
    return len(buffer) // bf.ALIGN * bf.ALIGN


def gather(buffer: bf.Buffer, offsets: Offsets, layout: bf.Layout) -> bf.Records:
    """Structures of ``layout`` at ``offsets`` (bytes, multiples of 16), copied.

    :returns: array of shape (n,); raises IndexError when one leaves the buffer.
    """
    count = layout.size // bf.ALIGN
    units = np.frombuffer(buffer, _UNIT, count=len(buffer) // bf.ALIGN)
    rows = units[(offsets // bf.ALIGN)[:, None] + np.arange(count)]
    return np.ascontiguousarray(rows).view(layout.dtype).reshape(len(offsets))


@dataclass(frozen=True)
class BlockTable:
    """n blocks inside ``buffer``.

    :param buffer: a journal, a pack, or a part of one.
    :param offsets: shape (n,), bytes from the start of ``buffer``, multiples of 16.
    :param headers: shape (n,), of ``block.BLOCK.dtype``.
    """

    buffer: memoryview
    offsets: Offsets
    headers: bf.Records

    def __len__(self) -> int:
        return len(self.offsets)

    @classmethod
    def at(cls, buffer: memoryview, offsets: Offsets) -> BlockTable:
        """The blocks at ``offsets``, each with 48 bytes or more before the end."""
        return cls(buffer, offsets, gather(buffer, offsets, bf.BLOCK))

    def select(self, chosen: Mask | Offsets) -> BlockTable:
        """The blocks that a mask or an index array chooses, in its order."""
        return BlockTable(self.buffer, self.offsets[chosen], self.headers[chosen])

    def sizes(self) -> Offsets:
        """Bytes of each block without padding, shape (n,)."""
        parts = [self.headers[name].astype(np.int64) for name in _SIZE_FIELDS]
        imms = self.imm_counts() * bf.BLOCK_IMM.size
        total: Offsets = parts[0] + parts[1] + parts[2] + imms + bf.BLOCK.size
        return total

    def any_context(self) -> Mask:
        """Which blocks serve machines with one vCPU and with several, shape (n,)."""
        chosen: Mask = self.headers["block_flags"] & bf.BLOCK_ANY_CONTEXT != 0
        return chosen

    def imm_counts(self) -> Offsets:
        """How many immediates each block does not depend on, shape (n,)."""
        counts: Offsets = (self.headers["block_flags"] >> bf.BLOCK_IMMS_SHIFT).astype(np.int64)
        return counts & 0xFF

    def imms(self, row: int) -> bf.Records:
        """The moving immediates of block ``row``, of ``block.BLOCK_IMM.dtype``."""
        head = self.headers[row]
        count = int(head["block_flags"]) >> bf.BLOCK_IMMS_SHIFT & 0xFF
        start = int(self.offsets[row]) + bf.BLOCK.size
        start += sum(int(head[name]) for name in _SIZE_FIELDS)
        return np.frombuffer(self.buffer, bf.BLOCK_IMM.dtype, count=count, offset=start)

    def padded_sizes(self) -> Offsets:
        """Bytes of each block with padding, multiples of 16, shape (n,)."""
        sizes: Offsets = (self.sizes() + bf.ALIGN - 1) & -bf.ALIGN
        return sizes

    def in_bounds(self, room: Offsets) -> Mask:
        """Which blocks are what docs/formats.md says and fit, padding included, into ``room``.

        Nothing behind a block's ``room`` bytes is read; they must lie in the buffer.
        """
        good = self._sane_headers() & (self.padded_sizes() <= room)
        rows = np.flatnonzero(good & (self.imm_counts() > 0))
        if len(rows):
            good[rows] = self.select(rows)._sane_imms()
        return good

    def _sane_headers(self) -> Mask:
        """Which blocks have fields that agree with each other."""
        head = self.headers
        good: Mask = (head["guest_size"] >= 1) & (head["guest_size"] <= bf.PAGE_SIZE)
        good &= head["page_offset"] < bf.PAGE_SIZE
        good &= (head["icount"] >= 1) & (head["icount"] <= bf.MAX_INSNS)
        good &= (head["code_size"] > 0) & (head["search_size"] > 0)
        end = head["page_offset"].astype(np.int64) + head["guest_size"]
        two_pages = head["block_flags"] & bf.BLOCK_TWO_PAGES
        good &= two_pages == np.where(end > bf.PAGE_SIZE, bf.BLOCK_TWO_PAGES, 0)
        good &= head["block_flags"] & ~np.uint32(bf.BLOCK_FLAGS_KNOWN) == 0
        short = head["block_flags"] & bf.BLOCK_SHORT_KEY != 0
        good &= ~short | (self.imm_counts() > 0)
        good &= ~self.any_context() | (head["cflags"] & bf.CF_PARALLEL == 0)
        good &= (self.imm_counts() == 0) | (two_pages == 0)
        good &= (self.imm_counts() <= bf.MAX_IMMS) & (self.sizes() <= bf.MAX_BLOCK)
        good &= self._sane_jumps()
        return good

    def _sane_jumps(self) -> Mask:
        """Which blocks have jumps that QEMU can patch inside of their code."""
        insn = self.headers["jmp_insn_offset"].astype(np.int64)
        reset = self.headers["jmp_reset_offset"].astype(np.int64)
        size = self.headers["code_size"].astype(np.int64)[:, None]
        inside = (insn % 4 == 0) & (insn + 4 <= size) & (reset <= size)
        sane: Mask = ((reset == bf.NO_JUMP) | inside).all(axis=1)
        return sane

    def _sane_imms(self) -> Mask:
        """Which blocks, all with immediates inside of the buffer, have them in order and inside.

        Two are apart from each other, or one immediate that the host code has twice.
        """
        counts = self.imm_counts()
        of = np.repeat(np.arange(len(self)), counts)
        imms = self._all_imms()
        guest = (imms["guest"] & ~np.uint16(bf.IMM_RELATIVE)).astype(np.int64)
        host = imms["host"].astype(np.int64)
        good = guest + bf.IMM_BYTES <= self.headers["guest_size"][of]
        good &= host + bf.IMM_BYTES <= self.headers["code_size"][of]
        good &= host != bf.IMM_NOWHERE
        step = np.diff(guest)
        good[1:] &= (of[1:] != of[:-1]) | (step == 0) | (step >= bf.IMM_BYTES)
        sane = np.ones(len(self), np.bool_)
        sane[of[~good]] = False
        return sane

    def _all_imms(self) -> bf.Records:
        """The immediates of all blocks, which must lie in the buffer, one after another."""
        counts = self.imm_counts()
        size = bf.BLOCK_IMM.size
        first = self.offsets + self.sizes() - counts * size
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        starts = np.repeat(first, counts) + within * size
        data = np.frombuffer(self.buffer, np.uint8)
        found = data[starts[:, None] + np.arange(size)]
        imms: bf.Records = found.view(bf.BLOCK_IMM.dtype).reshape(len(starts))
        return imms

    def good_checksums(self) -> Mask:
        """Which blocks hold what was written; only for blocks that are in bounds."""
        digest, view = xxhash.xxh3_64_intdigest, self.buffer
        ends = (self.offsets + self.sizes()).tolist()
        found = [
            digest(view[start:end])
            for start, end in zip((self.offsets + 8).tolist(), ends, strict=True)
        ]
        match: Mask = np.array(found, np.uint64) == self.headers["checksum"]
        return match

    def prefixes(self) -> NDArray[np.uint64]:
        """The first min(8, guest_size) guest bytes as a number, shape (n,)."""
        words = np.frombuffer(self.buffer, "<u8", count=len(self.buffer) // 8)
        raw = words[(self.offsets + bf.BLOCK.size) // 8].astype(np.uint64)
        unused = np.maximum(8 - self.headers["guest_size"].astype(np.int64), 0) * 8
        keep = np.uint64(0xFFFFFFFFFFFFFFFF) >> unused.astype(np.uint64)
        prefix: NDArray[np.uint64] = raw & keep
        return prefix

    def guest_bytes(self, row: int) -> memoryview:
        """The guest code of block ``row``."""
        start = int(self.offsets[row]) + bf.BLOCK.size
        return self.buffer[start : start + int(self.headers["guest_size"][row])]


_SIZE_FIELDS = ("guest_size", "code_size", "search_size")
