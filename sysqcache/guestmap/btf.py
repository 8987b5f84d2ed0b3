# SPDX-License-Identifier: GPL-2.0-or-later
"""BTF, the type information that distribution kernels carry in their memory.

Format: Documentation/bpf/btf.rst of the kernel. The data comes from a guest, so every
offset, count and reference is checked, and :class:`BtfError` says what is wrong.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
from collections.abc import Iterator
from typing import Final

from sysqcache.guestmap import limits

_MAGIC: Final = 0xEB9F
_HEADER: Final = struct.Struct("<HBBIIIII")
_TYPE: Final = struct.Struct("<III")
_MEMBER: Final = struct.Struct("<III")
_POINTER: Final = 8


class BtfError(Exception):
    """The data is no usable BTF; stays inside this package."""


class Kind(enum.IntEnum):
    """Kinds of types, numbered as in the format."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


# bytes behind the 12 of every type: a fixed part and one for each of ``vlen`` entries
_EXTRA: Final = dict.fromkeys(Kind, (0, 0)) | {
    Kind.INT: (4, 0),
    Kind.ARRAY: (12, 0),
    Kind.STRUCT: (0, 12),
    Kind.UNION: (0, 12),
    Kind.ENUM: (0, 8),
    Kind.FUNC_PROTO: (0, 8),
    Kind.VAR: (4, 0),
    Kind.DATASEC: (0, 12),
    Kind.DECL_TAG: (4, 0),
    Kind.ENUM64: (0, 12),
}
_NAMED: Final = frozenset(
    {Kind.INT, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.TYPEDEF, Kind.FLOAT, Kind.ENUM64}
)
_WRAPPERS: Final = frozenset(
    {Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG}
)


@dataclasses.dataclass(frozen=True, slots=True)
class BtfType:
    """The common part of a type; ``size`` is a type id for kinds that refer to one."""

    id: int
    name: str
    kind: Kind
    vlen: int
    flag: bool
    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class BtfMember:
    """A member of a struct or union; ``bit_size`` is 0 unless it is a bit field."""

    name: str
    type_id: int
    bit_offset: int
    bit_size: int


class Btf:
    """Types by id and by name; nothing but the index is built ahead.

    Raises :class:`BtfError` when the data is damaged. Ids start at 1, 0 is void.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) < _HEADER.size or len(data) > limits.BTF_BYTES:
            raise BtfError(f"{len(data)} bytes can't be BTF")
        magic, version, _, size, type_at, type_size, text_at, text_size = _HEADER.unpack_from(data)
        if magic != _MAGIC or version != 1:
            raise BtfError("no BTF header, or a version that is not known")
        self._types = data[size + type_at : size + type_at + type_size]
        self._text = data[size + text_at : size + text_at + text_size]
        if len(self._types) != type_size or len(self._text) != text_size:
            raise BtfError("cut short")
        self._offsets: list[int] = [0]
        self._names: dict[tuple[int, bytes], int] = {}
        self._index()

    def __len__(self) -> int:
        return len(self._offsets)

    def _index(self) -> None:
        data, text, end = self._types, self._text, len(self._types)
        unpack, offsets, names = _TYPE.unpack_from, self._offsets, self._names
        extra = {int(kind): sizes for kind, sizes in _EXTRA.items()}
        named = {int(kind) for kind in _NAMED}
        offset = 0
        while offset + _TYPE.size <= end:
            name, info, _ = unpack(data, offset)
            kind = (info >> 24) & 31
            sizes = extra.get(kind)
            if sizes is None or not kind:
                raise BtfError(f"type {len(offsets)} has the unknown kind {kind}")
            if name and kind in named:
                stop = text.find(b"\0", name)
                names.setdefault((kind, text[name:stop]), len(offsets))
            offsets.append(offset)
            offset += 12 + sizes[0] + sizes[1] * (info & 0xFFFF)
        if offset != end:
            raise BtfError("the last type is cut short")

    def type(self, type_id: int) -> BtfType:
        """The type with this id."""
        if type_id == 0:
            return BtfType(0, "void", Kind.VOID, 0, False, 0)
        if not 0 < type_id < len(self._offsets):
            raise BtfError(f"there is no type {type_id}")
        name, info, size = _TYPE.unpack_from(self._types, self._offsets[type_id])
        kind = Kind((info >> 24) & 31)
        return BtfType(type_id, self.text(name), kind, info & 0xFFFF, bool(info >> 31), size)

    def text(self, offset: int) -> str:
        """A string of the string section."""
        stop = self._text.find(b"\0", offset)
        if stop < 0:
            raise BtfError(f"there is no string at {offset}")
        return self._text[offset:stop].decode("utf-8", "replace")

    def find(self, kind: Kind, name: str) -> BtfType | None:
        """The first type of this kind and name."""
        type_id = self._names.get((int(kind), name.encode()))
        return None if type_id is None else self.type(type_id)

    def words(self, a_type: BtfType, count: int) -> tuple[int, ...]:
        """The first ``count`` 32-bit words behind the common part."""
        return struct.unpack_from(f"<{count}I", self._types, self._offsets[a_type.id] + 12)

    def members(self, a_type: BtfType) -> Iterator[BtfMember]:
        """Members of a struct or union."""
        start = self._offsets[a_type.id] + 12
        for i in range(a_type.vlen):
            name, type_id, offset = _MEMBER.unpack_from(self._types, start + 12 * i)
            bits = offset >> 24 if a_type.flag else 0
            yield BtfMember(
                self.text(name), type_id, offset & 0xFFFFFF if a_type.flag else offset, bits
            )

    def enumerators(self, a_type: BtfType) -> Iterator[tuple[str, int]]:
        """Names and values of an enum."""
        if a_type.kind == Kind.ENUM:
            words = self.words(a_type, 2 * a_type.vlen)
            for name, value in zip(words[::2], words[1::2], strict=True):
                signed = value - (1 << 32) if a_type.flag and value >> 31 else value
                yield self.text(name), signed
        else:
            words = self.words(a_type, 3 * a_type.vlen)
            for name, low, high in zip(words[::3], words[1::3], words[2::3], strict=True):
                value = high << 32 | low
                yield self.text(name), value - (1 << 64) if a_type.flag and high >> 31 else value

    def strip(self, type_id: int) -> BtfType:
        """The type behind typedefs and qualifiers."""
        for _ in range(limits.BTF_DEPTH):
            found = self.type(type_id)
            if found.kind not in _WRAPPERS:
                return found
            type_id = found.size
        raise BtfError("typedefs in a circle")

    def size(self, type_id: int) -> int:
        """Size in bytes; 0 for what has none."""
        count = 1
        for _ in range(limits.BTF_DEPTH):
            found = self.strip(type_id)
            if found.kind == Kind.PTR:
                return count * _POINTER
            if found.kind != Kind.ARRAY:
                sized = found.kind in _NAMED
                return count * found.size if sized else 0
            type_id, _, length = self.words(found, 3)
            count *= length
        raise BtfError("arrays in a circle")

    def struct(self, name: str) -> BtfType | None:
        """The struct, union or typedef of one with this name."""
        found = self.find(Kind.STRUCT, name) or self.find(Kind.UNION, name)
        if found is None and (alias := self.find(Kind.TYPEDEF, name)) is not None:
            found = self.strip(alias.id)
        return found

    def member(self, a_type: BtfType, path: str) -> tuple[int, int] | None:
        """(offset, size) in bytes of a member; ``path`` as in ``tasks.next``."""
        offset = 0
        for name in path.split("."):
            if a_type.kind not in (Kind.STRUCT, Kind.UNION):
                return None
            found = self._named_member(a_type, name, 0)
            if found is None:
                return None
            offset += found[0]
            a_type = self.strip(found[1])
            last = found[1]
        return offset // 8, self.size(last)

    def _named_member(self, a_type: BtfType, name: str, depth: int) -> tuple[int, int] | None:
        """(bit offset, type id), looking into anonymous members too."""
        if depth > limits.BTF_DEPTH:
            raise BtfError("anonymous members nested too deep")
        for member in self.members(a_type):
            if member.name == name:
                return member.bit_offset, member.type_id
            if not member.name:
                inner = self.type(member.type_id)
                if inner.kind in (Kind.STRUCT, Kind.UNION):
                    found = self._named_member(inner, name, depth + 1)
                    if found is not None:
                        return member.bit_offset + found[0], found[1]
        return None
