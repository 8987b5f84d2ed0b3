# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of functions: for people, never for decisions."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from sysqcache.attribution.imagescan import keep, limits
from sysqcache.attribution.imagescan.elfsymbols import file_functions, module_functions
from sysqcache.attribution.imagescan.kallsyms import kernel_functions
from sysqcache.attribution.imagescan.kernelload import KernelFileError
from sysqcache.attribution.imagescan.reader import ImageContents
from sysqcache.formats.modules import Module, ModuleKind

KEPT: Final = "symbols"
_VERSION: Final = 1
_NAME: Final = re.compile(r"[0-9a-f:]{2,160}|sha256:[0-9a-f]{64}")
_SYSTEM_MAP: Final = re.compile(rb"^([0-9a-f]{8,16}) ([tTwW]) (\S+)", re.MULTILINE)
_FEWEST: Final = 100
"""Lines of a System.map that is one: Debian ships a file with one line instead."""


class SymbolTable:
    """Functions of one module, in ascending order.

    :param offsets: shape (n,), int64, where they begin, as offsets of :class:`Module`.
    :param sizes: shape (n,), int64, bytes; 0 where the file does not say.
    :param names: n names.
    """

    def __init__(
        self, offsets: NDArray[np.int64], sizes: NDArray[np.int64], names: Sequence[str]
    ) -> None:
        self.offsets = offsets
        self.sizes = sizes
        self.names = names

    @classmethod
    def of(cls, functions: Iterable[tuple[int, int, str]]) -> Self:
        """From (offset, size, name) in any order.

        Of several at one place the one with the fewest underscores in front counts, as
        those of implementations are many.
        """
        seen: dict[int, tuple[int, str]] = {}
        for offset, size, name in functions:
            other = seen.get(offset)
            if other is None or _underscores(name) < _underscores(other[1]):
                seen[offset] = (size, name)
        ordered = sorted(seen.items())
        return cls(
            np.array([offset for offset, _ in ordered], np.int64),
            np.array([size for _, (size, _) in ordered], np.int64),
            [name for _, (_, name) in ordered],
        )

    def __len__(self) -> int:
        return len(self.names)

    def find(self, offset: int) -> tuple[str, int]:
        """The function that holds an offset and how far inside it is; ("", 0) if none does.

        A function of unknown size ends where the next one begins.
        """
        row = int(np.searchsorted(self.offsets, offset, side="right")) - 1
        if row < 0:
            return "", 0
        inside = offset - int(self.offsets[row])
        size = int(self.sizes[row])
        if (size and inside >= size) or (not size and row + 1 == len(self.names) and inside):
            return "", 0
        return self.names[row], inside

    def lookup(self, offset: int) -> str:
        """Such as "memcpy+0x12"; "memcpy" for its first byte, "" for what has no name."""
        name, inside = self.find(offset)
        return f"{name}+{inside:#x}" if inside else name

    def encode(self) -> bytes:
        """The content of the file that is kept."""
        out = io.BytesIO()
        names = np.frombuffer(json.dumps([_VERSION, *self.names]).encode(), np.uint8)
        np.savez(out, offsets=self.offsets, sizes=self.sizes, names=names)
        return out.getvalue()

    @classmethod
    def decode(cls, content: bytes) -> Self | None:
        """The inverse; None for what another version wrote."""
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            version, *names = json.loads(file["names"].tobytes())
            table = cls(file["offsets"], file["sizes"], names)
        good = version == _VERSION and len(table.offsets) == len(table.sizes) == len(names)
        return table if good else None


def _underscores(name: str) -> int:
    return len(name) - len(name.lstrip("_"))


def symbols_of(module: Module, contents: ImageContents | None) -> SymbolTable | None:
    """The functions of a module, from what was kept or from the image; None if unknown.

    :param contents: an image that has the module; None: only what was kept.
    """
    kept = _load(module)
    if kept is not None or contents is None:
        return kept
    functions = _functions(module, contents)
    if not functions:
        return None
    table = SymbolTable.of(functions)
    if _NAME.fullmatch(module.id):
        keep.save(KEPT, _file(module), table.encode())
    return table


def _file(module: Module) -> str:
    return f"{module.kind}-{module.id}"


def _load(module: Module) -> SymbolTable | None:
    # an id from a damaged store must not become a path
    content = keep.load(KEPT, _file(module)) if _NAME.fullmatch(module.id) else None
    if content is None:
        return None
    try:
        return SymbolTable.decode(bytes(content))
    except (OSError, ValueError, KeyError):
        return None


def _functions(module: Module, contents: ImageContents) -> list[tuple[int, int, str]]:
    """Offset, size and name of each function of a module of the image."""
    if module.kind is ModuleKind.KERNEL:
        return _of_kernel(module, contents)
    file = contents.by_module.get(module)
    if file is None:
        return []
    blocks = contents.open(file)
    if blocks.size > limits.SYMBOL_FILE_BYTES:
        return []
    if module.kind is ModuleKind.KERNEL_MODULE:
        return module_functions(blocks)
    return file_functions(blocks)


def _of_kernel(module: Module, contents: ImageContents) -> list[tuple[int, int, str]]:
    """From System.map when the disk has a real one, else from the kernel's own table."""
    kernel = contents.kernel_file(module)
    release = kernel.module.name if kernel else module.name
    text = contents.read_file(f"/boot/System.map-{release}", limits.SYSTEM_MAP_BYTES)
    functions = system_map(text)
    if functions or kernel is None:
        return functions
    try:
        return kernel_functions(kernel)
    except KernelFileError:
        return []


def system_map(text: bytes) -> list[tuple[int, int, str]]:
    """Functions of a System.map, by offset from ``_text``; none of one that is too short."""
    rows = [
        (int(address, 16), name.decode("ascii", "replace"))
        for address, _, name in _SYSTEM_MAP.findall(text)
    ]
    start = next((address for address, name in rows if name == "_text"), None)
    if start is None or len(rows) < _FEWEST:
        return []
    return [(address - start, 0, name) for address, name in rows if address >= start]
