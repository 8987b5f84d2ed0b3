# SPDX-License-Identifier: GPL-2.0-or-later
"""The file that carries blocks from one store to another: what is in it.

A tar, packed with zstd or not. Its members have fixed names and a fixed order: the list
of contents, then for each pack the pack and its columns. Each name holds the SHA-256 of
the member. docs/formats.md, "Bundle", says more.
"""

from __future__ import annotations

import tarfile
from collections.abc import Collection
from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sysqcache.base.errors import FormatError
from sysqcache.formats.modules import Module, ModuleKind

VERSION: Final = 1
MAX_CONTENTS: Final = 64 << 20
"""Bytes of the list of contents."""

MAX_BYTES: Final = 32 << 30
"""Bytes of all packs of a bundle; a boot of a whole system is a tenth of one GiB."""

MAX_PACKS: Final = 4096
MAX_TEXT: Final = 4096
"""Characters of a module's name."""

COLUMNS: Final = np.dtype([("uses", "<u4"), ("image", "<u4"), ("module", "<u4"), ("offset", "<u4")])
"""What is carried of each block besides the block; the rest is read from the pack."""

_Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Number = Annotated[int, Field(ge=0, lt=1 << 32)]
_Positive = Annotated[int, Field(ge=1, lt=1 << 32)]
_Size = Annotated[int, Field(ge=1, le=MAX_BYTES)]
_Text = Annotated[str, Field(max_length=MAX_TEXT)]
_Name = Annotated[str, Field(min_length=1, max_length=512)]
_Group = Annotated[
    str, Field(pattern=r"^(firmware|unknown|gathered|kernel:[^\x00]{1,512}|files:[0-9]{1,9})$")
]
_Time = Annotated[float, Field(ge=0, lt=1e11, allow_inf_nan=False)]


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class ImageEntry(_Entry):
    """An image; ``modules`` are pairs: number, and in which of its runs it was used last."""

    number: _Positive
    image_id: _Name
    runs: _Number
    fingerprints: Annotated[tuple[_Hash, ...], Field(max_length=64)]
    modules: tuple[tuple[_Positive, _Number], ...]


class ModuleEntry(_Entry):
    """A module, as in ``records.ModuleRow``."""

    number: _Positive
    kind: ModuleKind
    id: _Name
    name: _Text
    group: _Group
    first_seen: _Time
    last_used: _Time
    images: tuple[_Positive, ...]
    dead_unplaced: _Number

    @property
    def module(self) -> Module:
        """What every store knows it by."""
        return Module(self.kind, self.id, self.name)


class DeadEntry(_Entry):
    """A place where code rewrites itself, as in ``records.DeadRow``."""

    module: _Positive
    offset: _Number
    size: _Positive
    changes: _Number
    reason: _Text


class PackEntry(_Entry):
    """A pack: ``sha256`` of it, ``columns`` of its columns; blocks of one group."""

    sha256: _Hash
    columns: _Hash
    fingerprint: _Hash
    arch: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$")]
    group: _Group
    blocks: _Positive
    bytes: _Size


class Contents(_Entry):
    """The list of contents, the first member."""

    format: Literal["sysqcache bundle"] = "sysqcache bundle"
    version: Literal[1] = VERSION
    images: tuple[ImageEntry, ...]
    modules: tuple[ModuleEntry, ...]
    dead: tuple[DeadEntry, ...]
    packs: Annotated[tuple[PackEntry, ...], Field(max_length=MAX_PACKS)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        images = _numbers("image", [image.number for image in self.images])
        modules = _numbers("module", [module.number for module in self.modules])
        if len({image.image_id for image in self.images}) != len(images):
            raise ValueError("an image is listed twice")
        if len({module.module for module in self.modules}) != len(modules):
            raise ValueError("a module is listed twice")
        for image in self.images:
            _require(modules, [number for number, _ in image.modules])
        for module in self.modules:
            _require(images, module.images)
        _require(modules, [area.module for area in self.dead])
        groups = [m.group for m in self.modules] + [p.group for p in self.packs]
        _require(images, [int(g.removeprefix("files:")) for g in groups if g.startswith("files:")])
        if sum(pack.bytes for pack in self.packs) > MAX_BYTES:
            raise ValueError(f"packs of more than {MAX_BYTES} bytes")
        return self

    def encode(self) -> bytes:
        """The member's content; the same list gives the same bytes."""
        return self.model_dump_json(indent=1).encode() + b"\n"

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """The inverse. Raises FormatError."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            newer = place == "version"
            raise FormatError(
                "the bundle was made by another version of sysqcache"
                if newer
                else f"the bundle's list of contents is wrong: {place}: {first['msg']}",
                reason="version" if newer else "bounds",
            ) from error


def _numbers(what: str, numbers: list[int]) -> frozenset[int]:
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"two entries for one {what}")
    return frozenset(numbers)


def _require(known: Collection[int], used: Collection[int]) -> None:
    missing = set(used) - set(known)
    if missing:
        raise ValueError(f"number {min(missing)} is not listed")


def contents_name(digest: str) -> str:
    """Name of the first member."""
    return f"bundle-{digest}.json"


def pack_name(entry: PackEntry) -> str:
    """Name of a pack's member."""
    return f"{entry.sha256}.pack"


def columns_name(entry: PackEntry) -> str:
    """Name of the member with a pack's columns."""
    return f"{entry.columns}.columns"


def member_header(name: str, size: int) -> bytes:
    """The 512 bytes before a member; nothing of the host or the time is in it."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    header: bytes = info.tobuf(tarfile.GNU_FORMAT)
    return header


def padding(size: int) -> int:
    """Zero bytes behind a member of ``size`` bytes."""
    return -size % tarfile.BLOCKSIZE


def read_header(header: bytes) -> tuple[str, int]:
    """Name and size of a plain file in a tar.

    Raises FormatError for everything else, such as links, directories, and the headers
    with which a tar gives longer names.
    """
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise FormatError(f"not a bundle: {error}", reason="magic") from error
    if info.type != tarfile.REGTYPE or info.size < 0:
        raise FormatError(f"not a bundle: it holds {info.name!r}", reason="bounds")
    return info.name, info.size
