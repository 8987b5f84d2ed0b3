# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows of the store's metadata, each one JSON value in RocksDB. Times: Unix seconds."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self


class PackStatus(StrEnum):
    """What a pack file is good for."""

    LIVE = "live"
    SUPERSEDED = "superseded"
    """Every block is in a newer pack; ``compact`` removes the file."""
    DAMAGED = "damaged"
    MISSING = "missing"


@dataclass(frozen=True)
class Row:
    """Base of rows: JSON and back; keys that a newer version added are dropped."""

    def encode(self) -> bytes:
        """The row as JSON."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":")).encode()

    @classmethod
    def decode(cls, value: bytes) -> Self:
        """The inverse; raises ValueError, TypeError or KeyError for damage."""
        return cls.from_values(json.loads(value))

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """A row from its JSON object; raises TypeError when a field is absent."""
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in values.items() if k in names})


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
    :param shares: blocks and bytes by image id.
    """

    sha256: str
    fingerprint: str
    arch: str
    blocks: int
    bytes: int
    created: float
    last_used: float
    status: str = PackStatus.LIVE
    shares: dict[str, ModuleShare] = field(default_factory=dict)

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """A row from its JSON object; raises TypeError or AttributeError for damage."""
        shares = {k: ModuleShare(**v) for k, v in values.get("shares", {}).items()}
        return super().from_values({**values, "shares": shares})

    @property
    def live(self) -> bool:
        """Whether machines map the pack."""
        return self.status == PackStatus.LIVE


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
    """

    image_id: str
    number: int
    first_seen: float
    last_used: float
    fingerprints: tuple[str, ...] = ()

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """A row from its JSON object; raises TypeError for damage."""
        return super().from_values({**values, "fingerprints": tuple(values["fingerprints"])})


@dataclass(frozen=True)
class RunRow(Row):
    """One ingested journal; ``number`` stands for it in block columns."""

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
    pack: str


@dataclass(frozen=True)
class GlobalRow(Row):
    """Counters of the whole store; ``generation`` grows with each commit."""

    schema: int = 1
    generation: int = 0
    runs: int = 0
    images: int = 0


@dataclass(frozen=True)
class Module:
    """One line of ``cache list``; the fields are the JSON keys of CLI.md.

    :param bytes: of the blocks alone, without headers and indexes of packs.
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
