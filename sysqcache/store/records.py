# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the store's metadata, each one JSON value in RocksDB. Times: Unix seconds."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from sysqcache.formats.block import VERSION
from sysqcache.formats.modules import Module, ModuleKind

_SHA256: Final = re.compile(r"[0-9a-f]{64}")

SCHEMA: Final = 2
"""Version of the rows; those of version 1 knew no modules, and are read as such."""


class PackStatus(StrEnum):
    """What a pack file is good for."""

    LIVE = "live"
    SUPERSEDED = "superseded"
    """Every block is in a newer pack; ``compact`` removes the file."""
    DAMAGED = "damaged"
    MISSING = "missing"
    OUTDATED = "outdated"
    """Of an earlier format version, which no engine reads; ``compact`` removes the file."""


@dataclass(frozen=True)
class Row:
    """Base of rows: JSON and back; keys that a newer version added are dropped."""

    def encode(self) -> bytes:
        """The row as JSON."""
        return json.dumps(self.to_values(), separators=(",", ":")).encode()

    def to_values(self) -> dict[str, Any]:
        """The row's JSON object."""
        return dataclasses.asdict(self)

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """The inverse; raises one of ``DAMAGED_JSON`` for damage."""
        return cls.from_values(json.loads(value))

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """A row from its JSON object.

        Raises TypeError when a field is absent or of another type, ValueError for a number
        that none of the rows can hold.
        """
        kinds = {f.name: str(f.type) for f in dataclasses.fields(cls)}
        for name in values.keys() & kinds.keys():
            _check(name, kinds[name], values[name])
        return cls(**{k: v for k, v in values.items() if k in kinds})


def _check(name: str, kind: str, value: object) -> None:
    """Refuse a value of a field of type ``kind`` that no writer of rows would have written."""
    expected = _TYPES.get(kind, object)
    if not isinstance(value, expected) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r:.40}")
    if isinstance(value, float | int) and not 0 <= value < _LIMITS[kind]:
        raise ValueError(f"{name} is {value!r:.40}")


_TYPES: Final[dict[str, Any]] = {"str": str, "int": int, "float": (int, float)}
_LIMITS: Final = {"int": 1 << 64, "float": 1e11}
"""Beyond which a count, or a time in seconds, means nothing; NaN is beyond all."""


@dataclass(frozen=True)
class ModuleShare:
    """How much of a pack belongs to one module."""

    blocks: int
    bytes: int


@dataclass(frozen=True)
class PackRow(Row):
    """One pack file.

    :param sha256: of the file, hexadecimal; ``<sha256>.pack`` is its name.
    :param fingerprint: hexadecimal.
    :param bytes: of the whole file.
    :param group: packs of one group are merged with each other, see ``store.modules``.
    :param shares: blocks and bytes by module number.
    :param version: of the file's format; rows of before do not tell, and mean version 1.
    """

    sha256: str
    fingerprint: str
    arch: str
    blocks: int
    bytes: int
    created: float
    last_used: float
    status: str = PackStatus.LIVE
    group: str = ""
    shares: dict[int, ModuleShare] = field(default_factory=dict)
    version: int = 1

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """A row from its JSON object; raises TypeError, ValueError or AttributeError."""
        shares = {}
        if values.get("group"):  # older rows count by image
            shares = {int(k): ModuleShare(*map(int, v)) for k, v in values["shares"].items()}
        if not _SHA256.fullmatch(values["sha256"]):  # it becomes the name of a file
            raise ValueError(f"sha256 is {values['sha256']!r:.40}")
        return super().from_values({**values, "shares": shares})

    def to_values(self) -> dict[str, Any]:
        """The row's JSON object; shares are pairs, as there are hundreds."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        shares = {str(k): [v.blocks, v.bytes] for k, v in self.shares.items()}
        return {**values, "shares": shares}

    @property
    def live(self) -> bool:
        """Whether machines map the pack."""
        return self.status == PackStatus.LIVE and not self.outdated

    @property
    def outdated(self) -> bool:
        """Whether no engine reads the pack any more, whatever its status was."""
        return self.version < VERSION


@dataclass(frozen=True)
class FingerprintRow(Row):
    """One engine-and-CPU combination; ``text`` is what the hash was made from."""

    fingerprint: str
    arch: str
    text: str
    first_seen: float
    last_used: float


@dataclass(frozen=True)
class ImageRow(Row):
    """One guest image; ``number`` stands for it in block columns.

    :param fingerprints: hexadecimal, those it ran with, the latest first.
    :param runs: how often it ran.
    :param modules: numbers of the modules that it ran code of, and in which of its runs
        it did so last.
    """

    image_id: str
    number: int
    first_seen: float
    last_used: float
    fingerprints: tuple[str, ...] = ()
    runs: int = 0
    modules: dict[int, int] = field(default_factory=dict)

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """A row from its JSON object; raises TypeError or ValueError for damage."""
        modules = {int(k): int(v) for k, v in values.get("modules", {}).items()}
        fingerprints = tuple(map(str, values["fingerprints"]))
        return super().from_values({**values, "fingerprints": fingerprints, "modules": modules})


@dataclass(frozen=True)
class ModuleRow(Row):
    """One piece of guest code, or what a kernel's unplaced code is gathered under.

    :param number: stands for it in block columns; 0 is nobody's.
    :param group: of the packs that its blocks go to.
    :param images: numbers of the images that it was seen in.
    :param dead_unplaced: areas of code without a place that were dead in the last run.
    """

    number: int
    id: str
    kind: str
    name: str
    group: str
    first_seen: float
    last_used: float
    images: tuple[int, ...] = ()
    dead_unplaced: int = 0

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """A row from its JSON object; raises TypeError or ValueError for damage."""
        ModuleKind(values["kind"])
        return super().from_values({**values, "images": tuple(map(int, values["images"]))})

    @property
    def module(self) -> Module:
        """What the number stands for."""
        return Module(ModuleKind(self.kind), self.id, self.name)


@dataclass(frozen=True)
class DeadRow(Row):
    """A place of a module where code rewrites itself: nothing is kept there.

    :param offset: bytes inside of the module, ``size`` bytes long.
    :param changes: how often other code was found there, all runs together.
    :param last_run: number of the last run in which it was dead.
    :param clean_runs: runs since then that used the module and left the place alone.
    """

    module: int
    offset: int
    size: int
    changes: int
    reason: str
    first_run: int
    last_run: int
    clean_runs: int = 0


@dataclass(frozen=True)
class RunRow(Row):
    """One ingested journal; ``number`` stands for it in block columns.

    :param packs: names of the packs that it brought.
    :param blocks_dead: recorded blocks that were left out, as they began in a dead area.
    :param dead_areas: places that it found dead.
    :param crowded: blocks that were left out, as too many share a key of the index;
        ``crowded_new`` of them were recorded by the run, the others lay in merged packs.
    :param adopted: different blocks that it took from packs.
    :param counters: requests, adoptions and misses of the engine by name, if known.
    :param kinds: recorded blocks by kind of module.
    """

    number: int
    run_id: str
    machine: str
    arch: str
    mode: str
    start: str
    started: float
    ingested: float
    image_id: str
    fingerprint: str
    blocks_new: int
    blocks_known: int
    damaged: int
    packs: tuple[str, ...] = ()
    blocks_dead: int = 0
    crowded: int = 0
    crowded_new: int = 0
    dead_areas: int = 0
    adopted: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """A row from its JSON object; raises TypeError or ValueError for damage."""
        packs = tuple(values.get("packs", ())) or tuple(filter(None, [values.get("pack")]))
        counted = {n: _counts(values.get(n, {})) for n in ("counters", "kinds")}
        return super().from_values({**values, "packs": tuple(map(str, packs)), **counted})


def _counts(values: dict[str, Any]) -> dict[str, int]:
    return {str(name): int(count) for name, count in values.items()}


@dataclass(frozen=True)
class GlobalRow(Row):
    """Counters of the whole store; ``generation`` grows with each commit."""

    schema: int = SCHEMA
    generation: int = 0
    runs: int = 0
    images: int = 0
    modules: int = 0


@dataclass(frozen=True)
class ModuleLine:
    """One line of ``cache list``; the fields are the JSON keys of docs/cli.md.

    :param bytes: of the blocks alone, without headers and indexes of packs.
    :param dead: places where its code rewrites itself.
    :param images: how many images it was seen in.
    """

    id: str
    kind: str
    name: str
    arch: str
    fingerprint: str
    blocks: int
    dead: int
    bytes: int
    last_used: str
    images: int
