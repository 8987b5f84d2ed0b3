# SPDX-License-Identifier: GPL-2.0-or-later
"""Symbols and layouts of kernels seen before, one small file for each build id.

A guest says itself which build id it has, so a file is used only for a guest whose
symbol table and types have the hash that the file names: a guest that claims the
identity of another one's kernel gains nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import xxhash

from sysqcache.base import paths
from sysqcache.base.files import make_directory, replace_file
from sysqcache.base.statefile import DAMAGED_JSON
from sysqcache.guestmap.kallsyms import NoSymbolTable, SymbolTable
from sysqcache.guestmap.layout import ENUMS, STRUCTS, KernelLayout
from sysqcache.guestmap.symbols import WANTED
from sysqcache.guestmap.targets import VARIABLES

_BUILD_ID: Final = re.compile(r"[0-9a-f]{2,128}")


@dataclasses.dataclass(frozen=True, slots=True)
class KnownKernel:
    """What we need to know of one kernel binary.

    ``symbols`` are addresses as linked, without the KASLR slide; ``hash`` identifies the
    symbol table and the types that all this was made from. ``roots`` says where the proof
    lies of each symbol that is not in the symbol table: see :mod:`.roots`. ``searched`` is
    true for kernels whose symbol table has no variables.
    """

    symbols: Mapping[str, int]
    layout: KernelLayout
    hash: str
    roots: Mapping[str, int] = dataclasses.field(default_factory=dict)
    searched: bool = False


def _wanted() -> str:
    """Changes when other symbols or members are asked for: older files are not used then."""
    text = json.dumps(
        [sorted((*WANTED, *VARIABLES)), sorted(STRUCTS.items()), sorted(ENUMS.items())]
    )
    return xxhash.xxh3_64_hexdigest(text)


def identity(table: SymbolTable | NoSymbolTable, btf: bytes) -> str:
    """Hash of the guest's symbol table and types; the KASLR slide does not enter."""
    digest = xxhash.xxh3_128(btf)
    for part in table.content():
        digest.update(part)
    return digest.hexdigest()


def file_of(build_id: str) -> Path | None:
    """The file of a kernel; None for what is no build id."""
    if not _BUILD_ID.fullmatch(build_id):
        return None
    return paths.state_dir() / paths.KERNELS / f"{build_id}.json"


def load(build_id: str) -> KnownKernel | None:
    """The kernel as it was kept; None when it is unknown or the file is not usable."""
    file = file_of(build_id)
    if file is None:
        return None
    try:
        value = json.loads(file.read_bytes())
        if value["wanted"] != _wanted():
            return None
        offsets, sizes, enums = (_numbers(value[key]) for key in ("offsets", "sizes", "enums"))
        layout = KernelLayout(offsets, sizes, enums)
        symbols, roots = _numbers(value["symbols"]), _numbers(value["roots"])
        searched = value["searched"] is True
        return KnownKernel(symbols, layout, str(value["hash"]), roots, searched)
    except (OSError, *DAMAGED_JSON):
        return None


def _numbers(value: Any) -> dict[str, int]:
    return {str(key): int(number) for key, number in value.items()}


def save(build_id: str, kernel: KnownKernel) -> None:
    """Keep a kernel; without a disk to write on nothing is kept."""
    file = file_of(build_id)
    if file is None:
        return
    value = {
        "wanted": _wanted(),
        "hash": kernel.hash,
        "searched": kernel.searched,
        "symbols": dict(kernel.symbols),
        "roots": dict(kernel.roots),
        "offsets": dict(kernel.layout.offsets),
        "sizes": dict(kernel.layout.sizes),
        "enums": dict(kernel.layout.enums),
    }
    with contextlib.suppress(OSError):
        make_directory(file.parent)
        replace_file(file, json.dumps(value).encode())
