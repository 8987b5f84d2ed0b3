# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks into a guest as a file beside the journal, for who places the blocks later.

It is numpy's npz without pickles; one that can't be read is as good as none: the blocks are
then kept by content alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sysqcache.attribution.look import Look
from sysqcache.base.errors import FormatError
from sysqcache.base.files import replacing
from sysqcache.base.mapfile import open_private
from sysqcache.guestmap.result import KernelInfo, KernelModule
from sysqcache.guestmap.table import PAGE, Owner, OwnerKind, OwnerTable
from sysqcache.spec import specjson
from sysqcache.spec.spec import MachineSpec

_VERSION: Final = 1


@dataclasses.dataclass(frozen=True)
class Looks:
    """All looks into the guest of a run, and what else its blocks may be compared with.

    :param spec: whose image may be read, None when nobody knows.
    :param firmware: the engine's directory of firmware files.
    """

    looks: tuple[Look, ...]
    spec: MachineSpec | None = None
    firmware: Path | None = None


def write_looks(path: Path, found: Looks) -> None:
    """Write them down. Raises OSError; then the file is as before."""
    about = {
        "version": _VERSION,
        "spec": None if found.spec is None else specjson.to_json(found.spec),
        "firmware": None if found.firmware is None else str(found.firmware.absolute()),
        "looks": [_about(look) for look in found.looks],
    }
    arrays: dict[str, Any] = {
        f"{number}.{name}": array
        for number, look in enumerate(found.looks)
        for name, array in _arrays(look).items()
    }
    with replacing(path) as file:
        np.savez(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)


def read_looks(path: Path) -> Looks:
    """Read the file beside a journal. Raises OSError, FormatError, also for others' files."""
    with os.fdopen(open_private(path), "rb") as file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return _decoded(arrays)
        except Exception as error:  # zipfile and numpy list nowhere what damage makes them raise
            raise FormatError(f"the looks into the guest can't be read: {error}") from error


def _about(look: Look) -> dict[str, Any]:
    return {
        "end": look.end,
        "note": look.note,
        "unknown": look.unknown,
        "kernel": dataclasses.asdict(look.kernel),
        "modules": [dataclasses.asdict(module) for module in look.modules],
        "owners": [dataclasses.astuple(owner) for owner in look.table.owners],
    }


def _arrays(look: Look) -> dict[str, NDArray[Any]]:
    table = look.table
    values: list[NDArray[Any]] = [table.start, table.end, table.owner, table.offset]
    return dict(zip(_TYPES, [*values, look.generated, look.page, look.content], strict=True))


_TYPES: Final[dict[str, tuple[type[np.generic], tuple[int, ...]]]] = {
    "start": (np.uint64, ()),
    "end": (np.uint64, ()),
    "owner": (np.int64, ()),
    "offset": (np.uint64, ()),
    "generated": (np.uint64, (2,)),
    "page": (np.uint64, ()),
    "content": (np.uint8, (PAGE,)),
}
"""Of each array the numbers, and the shape of a row."""


def _decoded(arrays: Mapping[str, NDArray[Any]]) -> Looks:
    """Raises anything for what :func:`write_looks` did not write."""
    about: dict[str, Any] = json.loads(arrays["about"].tobytes())
    if about["version"] != _VERSION:
        raise ValueError(f"version {about['version']}")
    looks = tuple(_look(arrays, number, one) for number, one in enumerate(about["looks"]))
    firmware = about["firmware"]
    return Looks(
        looks,
        None if about["spec"] is None else specjson.from_json(about["spec"]),
        None if firmware is None else Path(firmware),
    )


def _look(arrays: Mapping[str, NDArray[Any]], number: int, about: dict[str, Any]) -> Look:
    found = {name: _typed(arrays[f"{number}.{name}"], name) for name in _TYPES}
    owners = tuple(_owner(*values) for values in about["owners"])
    rows = [found[name] for name in ("start", "end", "owner", "offset")]
    start, end, owner, _ = rows
    if len({len(row) for row in rows}) != 1 or len(found["page"]) != len(found["content"]):
        raise ValueError("arrays of different lengths")
    if len(owner) and not 0 <= owner.min() <= owner.max() < len(owners):
        raise ValueError("a page belongs to an owner that is not listed")
    if not (_ascend(start) and _ascend(found["page"]) and (end > start).all()):
        raise ValueError("pages do not ascend")
    return Look(
        end=int(about["end"]),
        table=OwnerTable(owners, *rows),
        kernel=_kernel(about["kernel"]),
        modules=tuple(_module(value) for value in about["modules"]),
        generated=found["generated"],
        page=found["page"],
        content=found["content"],
        note=str(about["note"]),
        unknown=str(about["unknown"]),
    )


def _typed(array: NDArray[Any], name: str) -> Any:
    kind, row = _TYPES[name]
    if array.dtype != kind or array.ndim != 1 + len(row) or array.shape[1:] != row:
        raise ValueError(f"{name} is of type {array.dtype} and shape {array.shape}")
    return array


def _ascend(numbers: NDArray[np.uint64]) -> bool:
    return bool((numbers[1:] > numbers[:-1]).all())


def _owner(kind: str, name: str, build_id: str, inode: int, device: int, file: int) -> Owner:
    return Owner(OwnerKind(kind), str(name), str(build_id), int(inode), int(device), int(file))


def _kernel(value: dict[str, Any]) -> KernelInfo:
    return KernelInfo(
        release=str(value["release"]),
        build_id=str(value["build_id"]),
        text=_range(value["text"]),
        init_text=_range(value["init_text"]),
        kaslr_offset=int(value["kaslr_offset"]),
        base=int(value["base"]),
        end=int(value["end"]),
        physical=int(value["physical"]),
    )


def _module(value: dict[str, Any]) -> KernelModule:
    return KernelModule(
        name=str(value["name"]),
        start=int(value["start"]),
        size=int(value["size"]),
        build_id=str(value["build_id"]),
        text=_range(value["text"]),
        init_text=_range(value["init_text"]),
        memory=tuple(_range(part) for part in value["memory"]),
        sections=tuple((str(name), int(address)) for name, address in value["sections"]),
    )


def _range(value: Sequence[int]) -> tuple[int, int]:
    start, end = value
    return int(start), int(end)
