# SPDX-License-Identifier: GPL-2.0-or-later
"""Changes of files that readers may see: of bytes, of fields, of JSON values.

All chance comes from the ``random.Random`` that is given, so that a number, or hypothesis,
makes the same input again. Most changes of journals and packs put their checksums right
afterwards: what is behind a checksum is what is to be tried.
"""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from sysqcache.formats import block as bf

Mutation = Callable[[random.Random, bytes], bytes]

NUMBERS: Final = (
    *(0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 47, 48, 49, 63, 64, 255, 256, 511, 512, 513),
    *(4080, 4088, 4095, 4096, 4097, 4112, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x18000),
    *(2**31 - 1, 2**31, 2**32 - 16, 2**32 - 1, 2**32, 2**36, 2**63, 2**64 - 16, 2**64 - 1),
)
_VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, -1, 0, 1, 2**31, 2**32, 2**63, 2**64, 10**400, 0.5, -1.5, 1e300),
    *(float("inf"), float("-inf"), float("nan"), "", "x", "0" * 64, "\0", "../..", "é\ud800"),
    *([], {}, [None], [[]], {"": None}, [1, 2, 3], {"1": [1, 2]}, "x" * 5000),
)


def bytes_changed(rng: random.Random, content: bytes) -> bytes:
    """A few bytes set, removed, repeated, or the end cut off."""
    found = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        if not found:
            break
        at = rng.randrange(len(found))
        kind = rng.randrange(7)
        if kind <= 1:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice(NUMBERS) & ((1 << 8 * size) - 1)
            found[at : at + size] = number.to_bytes(size, "little")
        elif kind == 3:
            del found[at : at + rng.choice((1, 4, 16, 48, 64, 512))]
        elif kind == 4:
            found[at:at] = found[at : at + rng.choice((1, 16, 48, 64, 512))]
        elif kind == 5:
            size = rng.choice((1, 8, 16, 64))
            found[at : at + size] = rng.choice((b"\0", b"\xff", b"[", b"\x80")) * size
        elif rng.randrange(4) == 0:
            del found[at:]
    return bytes(found)


def _set_field(rng: random.Random, content: bytearray, layout: bf.Layout, at: int) -> None:
    """Set one field of the structure at ``at`` to a number that may hurt."""
    field = rng.choice(layout.fields)
    size = min(layout.dtype[field.name].itemsize, 8)
    spot = at + field.offset
    if spot + size > len(content):
        return
    old = int.from_bytes(content[spot : spot + size], "little")
    near = old + rng.choice((-64, -16, -4, -1, 1, 4, 16, 64))
    number = rng.choice((near, rng.choice(NUMBERS), old ^ 1 << rng.randrange(8 * size)))
    content[spot : spot + size] = (number & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def _seal(content: bytearray) -> None:
    if len(content) >= bf.HEADER_SIZE:
        content[: bf.HEADER_SIZE] = bf.seal_header(content[: bf.HEADER_SIZE])


def seal_block(content: bytearray, at: int) -> None:
    """Put the checksum of the block at ``at`` right, if all of it is there."""
    if at < 0 or at + bf.BLOCK.size > len(content):
        return
    head = bf.BLOCK.unpack(content, at)
    size = bf.BLOCK.size + sum(int(head[n]) for n in ("guest_size", "code_size", "search_size"))
    size += 4 * (int(head["block_flags"]) >> bf.BLOCK_IMMS_SHIFT & 0xFF)
    if at + size <= len(content):
        struct.pack_into("<Q", content, at, bf.checksum(memoryview(content)[at + 8 : at + size]))


def _records(content: bytearray) -> list[int]:
    """Where records begin, as far as sizes lead."""
    found, at = [], bf.HEADER_SIZE
    while at + bf.RECORD.size <= len(content):
        found.append(at)
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        if size < bf.RECORD.size:
            break
        at += size
    return found


def _imms_at(content: bytearray, at: int) -> tuple[int, int]:
    """Where the immediates of the block at ``at`` are said to be, and how many."""
    head = bf.BLOCK.unpack(content, at)
    sizes = sum(int(head[n]) for n in ("guest_size", "code_size", "search_size"))
    return at + bf.BLOCK.size + sizes, int(head["block_flags"]) >> bf.BLOCK_IMMS_SHIFT & 0xFF


def _change_block(rng: random.Random, content: bytearray, at: int) -> None:
    """Change a field of a block or of an immediate of it, then put the checksum right."""
    if at + bf.BLOCK.size > len(content):
        return
    start, count = _imms_at(content, at)
    if count and rng.randrange(2):
        _set_field(rng, content, bf.BLOCK_IMM, start + bf.BLOCK_IMM.size * rng.randrange(count))
    else:
        _set_field(rng, content, bf.BLOCK, at)
    seal_block(content, at)


def journal(rng: random.Random, content: bytes) -> bytes:
    """A journal with other fields in its header, records or blocks."""
    if rng.randrange(4) == 0:
        return bytes_changed(rng, content)
    found = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        places = _records(found)
        if not places or rng.randrange(8) == 0:
            _set_field(rng, found, bf.JOURNAL_HEADER, 0)
            _seal(found)
            continue
        at = rng.choice(places)
        kind = rng.randrange(4)
        if kind <= 1:
            _change_block(rng, found, at + bf.RECORD.size)
        elif kind == 2:
            _set_field(rng, found, bf.RECORD, at)
        else:
            other = rng.choice((bf.DEAD_AREA, bf.PACK_NAME, bf.ADOPTED, bf.RAM_RANGE))
            _set_field(rng, found, other, at + bf.RECORD.size)
        struct.pack_into("<Q", found, at + 40, bf.checksum(memoryview(found)[at : at + 40]))
    return bytes(found)


def pack(rng: random.Random, content: bytes) -> bytes:
    """A pack with other fields in its header, blocks or index."""
    if rng.randrange(4) == 0 or len(content) < bf.HEADER_SIZE:
        return bytes_changed(rng, content)
    found = bytearray(content)
    head = bf.PACK_HEADER.unpack(found)
    start, count = int(head["index_offset"]), int(head["index_entries"])
    for _ in range(rng.randint(1, 3)):
        kind = rng.randrange(4)
        if kind == 0:
            _set_field(rng, found, bf.PACK_HEADER, 0)
            _seal(found)
        elif kind == 1:
            _fill_index(rng, found, start, count)
        else:
            at = start + bf.INDEX_ENTRY.size * rng.randrange(max(count, 1))
            position = int.from_bytes(found[at + 8 : at + 12], "little")
            if kind == 2 or not position:
                _set_field(rng, found, bf.INDEX_ENTRY, at)
            else:
                _change_block(rng, found, position * bf.ALIGN)
    return bytes(found)


def _fill_index(rng: random.Random, content: bytearray, start: int, count: int) -> None:
    """Let a stretch of the index repeat one entry: no lookup comes to an empty one."""
    size, room = bf.INDEX_ENTRY.size, len(content) - start
    count = min(count, room // size)
    if count <= 0:
        return
    one = start + size * rng.randrange(count)
    first = rng.randrange(count)
    last = rng.randint(first, count)
    content[start + size * first : start + size * last] = bytes(content[one : one + size]) * (
        last - first
    )


def value(rng: random.Random, old: Any) -> Any:
    """A JSON value with something else somewhere in it."""
    if isinstance(old, dict) and old and rng.randrange(8):
        return _members(rng, old)
    if isinstance(old, list) and old and rng.randrange(8):
        at = rng.randrange(len(old))
        other = rng.choice(([], [old[at]] * 2, *[[value(rng, old[at])]] * 8))
        return [*old[:at], *other, *old[at + 1 :]]
    if isinstance(old, int | float) and rng.randrange(2):
        return rng.choice((old + 1, old - 1, -old, rng.choice(NUMBERS), str(old)))
    if isinstance(old, str) and rng.randrange(2):
        return rng.choice((old[:-1], old + "0", old.upper(), old[::-1], f"{old}/.."))
    return rng.choice(_VALUES)


def _members(rng: random.Random, old: dict[str, Any]) -> dict[str, Any]:
    """An object of which a member is another one, is gone, or stands under another's name."""
    name = rng.choice(sorted(old))
    changed = {**old, name: value(rng, old[name])}
    kind = rng.randrange(12)
    if kind == 0:
        del changed[name]
    elif kind == 1:
        changed[rng.choice(sorted(old))] = old[name]
    return changed


def json_text(rng: random.Random, content: bytes) -> bytes:
    """A JSON file with another value, or with other bytes."""
    kind = rng.randrange(50)
    if kind == 0:
        return rng.choice((b"[", b'{"a":', b'{"packs":[')) * 40_000
    if kind <= 8:
        return bytes_changed(rng, content)
    try:
        changed = value(rng, json.loads(content))
        return json.dumps(changed).encode()
    except (ValueError, RecursionError):
        return bytes_changed(rng, content)


def arrays(rng: random.Random, content: bytes) -> bytes:
    """A numpy archive with other bytes, or with another array in it."""
    if rng.randrange(3) == 0:
        return bytes_changed(rng, content)
    if rng.randrange(3) == 0:
        return _zip_fields(rng, content)
    try:
        return _other_array(rng, content)
    except Exception:  # it was changed before
        return bytes_changed(rng, content)


def _other_array(rng: random.Random, content: bytes) -> bytes:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        found = dict(file)
    name = rng.choice(sorted(found))
    kind = rng.randrange(5)
    if kind == 0:
        del found[name]
    elif kind == 1:
        found[name] = found[name].astype(rng.choice(("<u8", "<i8", "<f8", "S3", "?", "<M8[s]")))
    elif kind == 2:
        found[name] = found[name].reshape(rng.choice(((-1, 1), (1, -1))))
    elif kind == 3:
        found[name] = found[name][: len(found[name]) // 2]
    elif name == "about":
        found[name] = np.frombuffer(json_text(rng, found[name].tobytes()), np.uint8)
    elif len(found[name]):
        found[name][rng.randrange(len(found[name]))] = rng.choice((0, 1, 127, 255, 2**31 - 1)) & 127
    out = io.BytesIO()
    np.savez(out, **found)
    return out.getvalue()


def _zip_fields(rng: random.Random, content: bytes) -> bytes:
    """Another flag, method or size in a header of the archive."""
    found = bytearray(content)
    listed, own = (6, 8, 10, 16, 20, 24, 28, 30, 42), (4, 6, 8, 14, 18, 22, 26, 28)
    magic, offsets = rng.choice(((b"PK\1\2", listed), (b"PK\3\4", own)))
    places = [at for at in range(len(found) - 46) if found[at : at + 4] == magic]
    if places:
        at = rng.choice(places) + rng.choice(offsets)
        number = rng.choice((0, 1, 2, 8, 9, 12, 14, 93, 97, 255, 2**15, 2**16 - 1))
        struct.pack_into("<H", found, at, number)
    return bytes(found)
