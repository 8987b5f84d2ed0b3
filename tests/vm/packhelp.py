# SPDX-License-Identifier: GPL-2.0-or-later
"""Damaged copies of a pack, and disks without room."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from required import require_mount

from bench.fuzzing.mutations import seal_block
from sysqcache.formats import block as bf

Damage = Callable[[bytearray], None]


def damaged(pack: Path, copy: Path, damage: Damage) -> Path:
    """A copy of ``pack`` after ``damage``, with the mode that the store gives packs."""
    content = bytearray(pack.read_bytes())
    damage(content)
    copy.write_bytes(content)
    copy.chmod(0o600)
    return copy


def put(name: str, value: int | bytes, *, seal: bool = True) -> Damage:
    """Damage that sets a field of the header; ``seal``: the checksum is right again."""

    def change(content: bytearray) -> None:
        field = next(f for f in bf.PACK_HEADER.fields if f.name == name)
        size = bf.PACK_HEADER.dtype[name].itemsize
        data = value if isinstance(value, bytes) else value.to_bytes(size, "little")
        content[field.offset : field.offset + len(data)] = data
        if seal:
            content[: bf.HEADER_SIZE] = bf.seal_header(content[: bf.HEADER_SIZE])

    return change


def cut(size: int) -> Damage:
    """Damage that keeps the first ``size`` bytes."""

    def change(content: bytearray) -> None:
        del content[size:]

    return change


def index(content: bytearray) -> NDArray[np.void]:
    """The index of a pack, to be written to."""
    head = bf.PACK_HEADER.unpack(content)
    count, offset = int(head["index_entries"]), int(head["index_offset"])
    return np.frombuffer(content, bf.INDEX_ENTRY.dtype, count, offset)


def positions(content: bytearray) -> NDArray[np.int64]:
    """Where the blocks are, in bytes."""
    found = index(content)["position"]
    return found[found > 0].astype(np.int64) * bf.ALIGN


def flip_code(content: bytearray) -> None:
    """Flip a bit in the host code of every block."""
    data = np.frombuffer(content, np.uint8)
    at = positions(content)
    guest_size = data[at + 26].astype(np.int64) | data[at + 27].astype(np.int64) << 8
    data[at + bf.BLOCK.size + guest_size] ^= 0x10


def longer_guest_code(content: bytearray) -> None:
    """Let every block that ends shortly before its page does reach into the next one."""
    data = np.frombuffer(content, np.uint8)
    for at in positions(content).tolist():
        head = bf.BLOCK.unpack(content, at)
        left = 4096 - int(head["page_offset"]) - int(head["guest_size"])
        if 0 <= left < 32:
            size = int(head["guest_size"]) + left + 16
            data[at + 26 : at + 28] = np.frombuffer(size.to_bytes(2, "little"), np.uint8)


def wrong_in_two_ways(content: bytearray) -> None:
    """Change the host code of half of the blocks and the size of the others, checksums right."""
    for i, at in enumerate(positions(content).tolist()):
        head = bf.BLOCK.unpack(content, at)
        if i % 2:
            content[at + bf.BLOCK.size + int(head["guest_size"])] ^= 0x10
        else:
            content[at + 28 : at + 30] = (int(head["icount"]) % 512 + 1).to_bytes(2, "little")
        seal_block(content, at)


def flip_sizes(content: bytearray) -> None:
    """Make the host code of every block 2 GiB longer."""
    data = np.frombuffer(content, np.uint8)
    data[positions(content) + 35] ^= 0x80


def positions_outside(content: bytearray) -> None:
    """Let every index entry point behind the file."""
    entries = index(content)
    entries["position"][entries["position"] > 0] = 0xFFFFFFFF


def noise_in_index(content: bytearray) -> None:
    """Flip bits in every seventh index entry, empty ones and the last included."""
    entries = index(content).view(np.uint8).reshape(-1, bf.INDEX_ENTRY.size)
    chosen = entries[::-7]
    noise = np.random.default_rng(1).integers(0, 256, chosen.shape, np.uint8)
    chosen ^= noise


def full_index(content: bytearray) -> None:
    """Leave no empty entry at which a lookup would end."""
    entries = index(content)
    entries[entries["position"] == 0] = entries[entries["position"] > 0][0]


def shuffled_index(content: bytearray) -> None:
    """Let the index entries point to blocks other than their own."""
    entries = index(content)
    used = entries["position"] > 0
    entries["position"][used] = np.roll(entries["position"][used], 1)


def small_disk(folder: Path, size: str) -> AbstractContextManager[Path]:
    """A file system with little room."""
    return require_mount(folder, "tmpfs", f"size={size}")


def resize(folder: Path, size: str) -> None:
    """Give a :func:`small_disk` another size."""
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)
