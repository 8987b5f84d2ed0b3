# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the blocks of a run belong: what attribution found out, and its file.

The file lies beside a journal, so that the blocks of a run whose controller was
killed are still kept with their modules. It is numpy's npz without pickles; one that
can't be read is as good as none: the blocks are then kept by content alone.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from sysqcache.base.errors import FormatError
from sysqcache.base.mapfile import read_small
from sysqcache.formats.modules import KINDS, Module, ModuleKind

NO_MODULE: Final = -1
_MAX_BYTES: Final = 1 << 30
_VERSION: Final = 1


@dataclasses.dataclass(frozen=True)
class Places:
    """Modules and offsets of n recorded blocks.

    :param modules: those that ``module`` counts.
    :param record: shape (n,), int64, ascending: where the block's record begins in the
        journal, bytes. Blocks that are not listed are unknown.
    :param module: shape (n,), int32, into ``modules``; ``NO_MODULE`` for blocks that no
        module's bytes confirmed.
    :param offset: shape (n,), uint32, bytes inside of the module.
    :param kind: shape (n,), uint8, into ``modules.KINDS``; the module's kind, or what
        else is known of a block without one.
    :param kernel: the kernel that ran; of a guest that nobody could look into, what it was
        started from; None when neither is known.
    :param dead_ram: shape (d,), uint64: ``ram_addr`` of dead areas that have a module.
    :param dead_module: shape (d,), int32, and ``dead_offset``, uint32: where they lie.
    """

    modules: tuple[Module, ...]
    record: NDArray[np.int64]
    module: NDArray[np.int32]
    offset: NDArray[np.uint32]
    kind: NDArray[np.uint8]
    kernel: Module | None
    dead_ram: NDArray[np.uint64]
    dead_module: NDArray[np.int32]
    dead_offset: NDArray[np.uint32]

    def __post_init__(self) -> None:
        """Raises ValueError for arrays that do not fit together."""
        for names in (("record", "module", "offset", "kind"), _DEAD):
            if len({getattr(self, name).shape for name in names}) != 1:
                raise ValueError(f"arrays of different lengths: {', '.join(names)}")
        for places in (self.module, self.dead_module):
            if len(places) and not NO_MODULE <= places.min() <= places.max() < len(self.modules):
                raise ValueError("a block belongs to a module that is not listed")
        if len(self.kind) and self.kind.max() >= len(KINDS):
            raise ValueError("a block is of a kind that there is not")
        if (self.record[1:] <= self.record[:-1]).any():
            raise ValueError("records do not ascend")

    @classmethod
    def nothing(cls) -> Self:
        """For a run whose guest nobody looked into."""
        arrays: dict[str, Any] = {n: np.zeros(0, kind) for n, kind in _TYPES.items()}
        return cls(modules=(), kernel=None, **arrays)

    def merged(self, later: Places) -> Places:
        """What either of two looks at the same journal found; the later one goes first."""
        modules = (*later.modules, *self.modules)
        shift = len(later.modules)
        own = np.where(self.module == NO_MODULE, NO_MODULE, self.module + shift).astype(np.int32)
        record = np.concatenate([later.record, self.record])
        module = np.concatenate([later.module, own])
        # of a block's two rows the placed one stays, else the later one
        order = np.lexsort((module == NO_MODULE, record))
        first = np.ones(len(order), np.bool_)
        first[1:] = record[order][1:] != record[order][:-1]
        chosen = order[first]
        fresh = ~np.isin(self.dead_ram, later.dead_ram)
        dead = np.where(self.dead_module == NO_MODULE, NO_MODULE, self.dead_module + shift)
        return Places(
            modules=modules,
            record=record[chosen],
            module=module[chosen],
            offset=np.concatenate([later.offset, self.offset])[chosen],
            kind=np.concatenate([later.kind, self.kind])[chosen],
            kernel=later.kernel or self.kernel,
            dead_ram=np.concatenate([later.dead_ram, self.dead_ram[fresh]]),
            dead_module=np.concatenate([later.dead_module, dead[fresh].astype(np.int32)]),
            dead_offset=np.concatenate([later.dead_offset, self.dead_offset[fresh]]),
        )

    def counts(self) -> Mapping[ModuleKind, int]:
        """Blocks by kind."""
        found = np.bincount(self.kind, minlength=len(KINDS)).tolist()
        return dict(zip(KINDS, found, strict=True))

    @property
    def attributed(self) -> int:
        """Blocks that a module's bytes confirmed."""
        return int(np.count_nonzero(self.module != NO_MODULE))

    def encode(self) -> bytes:
        """The file's content."""
        about = {
            "version": _VERSION,
            "modules": [module.to_json() for module in self.modules],
            "kernel": self.kernel.to_json() if self.kernel else None,
            "kinds": [str(kind) for kind in KINDS],
        }
        out = io.BytesIO()
        arrays = {name: getattr(self, name) for name in (*_ARRAYS, *_DEAD)}
        np.savez(out, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
        return out.getvalue()

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """The inverse. Raises FormatError for whatever :meth:`encode` did not write."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                about: dict[str, Any] = json.loads(file["about"].tobytes())
                arrays = {name: _typed(file[name], name) for name in (*_ARRAYS, *_DEAD)}
            if about["version"] != _VERSION:
                raise ValueError(f"version {about['version']}")
            modules = tuple(Module.from_json(value) for value in about["modules"])
            kernel = Module.from_json(about["kernel"]) if about["kernel"] else None
            arrays["kind"] = _known_kinds(about["kinds"], arrays["kind"])
            return cls(modules=modules, kernel=kernel, **arrays)
        except Exception as error:  # zipfile and numpy list nowhere what damage makes them raise
            raise FormatError(f"the list of modules can't be read: {error}") from error


_TYPES: Final[dict[str, type[np.generic]]] = {
    "record": np.int64,
    "module": np.int32,
    "offset": np.uint32,
    "kind": np.uint8,
    "dead_ram": np.uint64,
    "dead_module": np.int32,
    "dead_offset": np.uint32,
}
_ARRAYS: Final = ("record", "module", "offset", "kind")
_DEAD: Final = ("dead_ram", "dead_module", "dead_offset")


def _typed(array: NDArray[Any], name: str) -> Any:
    if array.dtype != _TYPES[name] or array.ndim != 1:
        raise ValueError(f"{name} is of type {array.dtype}")
    return array


def _known_kinds(names: Sequence[str], kind: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Kinds as this version counts them; those of a newer one are unknown."""
    place = {str(one): number for number, one in enumerate(KINDS)}
    unknown = place[str(ModuleKind.UNKNOWN)]
    table = np.array([place.get(name, unknown) for name in names], np.uint8)
    return table[kind]


def read_places(path: Path) -> Places:
    """Read the file beside a journal. Raises FormatError, also for files of other users."""
    return Places.decode(read_small(path, _MAX_BYTES))
