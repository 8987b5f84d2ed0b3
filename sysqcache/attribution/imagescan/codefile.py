# SPDX-License-Identifier: GPL-2.0-or-later
"""Which files are code, and whose translations they hold."""

from __future__ import annotations

import hashlib
import io
from pathlib import PurePosixPath
from typing import Final

from sysqcache.attribution.imagescan import limits
from sysqcache.attribution.imagescan.contents import CodeFile
from sysqcache.attribution.imagescan.unpack import PackedDataError, unpack, unpack_until
from sysqcache.formats.access import AccessStream, MemoryAccess, RandomAccess
from sysqcache.formats.elf import HEAD, MAGIC, ElfCode, find_build_id, read_code
from sysqcache.formats.modules import Module, ModuleKind

_PACKED: Final = (".ko.xz", ".ko.zst", ".ko.gz")
_EXECUTABLE: Final = 0o111
_READ: Final = 16 << 10


def may_be_code(name: str, mode: int) -> bool:
    """Whether a file is worth being opened.

    Programs have an executable bit or nobody could start them; libraries and kernel
    modules often have none, and have names that tell.
    """
    return bool(mode & _EXECUTABLE) or ".so" in name or ".ko" in name


def unpacked_module(file: RandomAccess, path: str) -> RandomAccess:
    """A kernel module's ELF file, unpacked if it has to be. Raises PackedDataError."""
    if not path.endswith(_PACKED):
        return file
    content = file.read(0, limits.KERNEL_MODULE_BYTES)
    return MemoryAccess(unpack(content, limits.KERNEL_MODULE_BYTES)[0])


class Classifier:
    """Finds the module of each file; counts what is hashed."""

    def __init__(self) -> None:
        self._hashed = 0
        self.skipped = 0
        """Files without a build id that were too large to be hashed."""

    def code_file(self, file: RandomAccess, path: str, origin: str, place: int) -> CodeFile | None:
        """The file as code; None when it is none, or none that can be named."""
        if path.endswith(_PACKED):
            return self._packed(file, path, origin, place)
        head = file.read(0, HEAD)
        code = read_code(file, head) if head.startswith(MAGIC) else None
        if code is None:
            return None
        if code.relocatable:
            return self._kernel_module(file, path, origin, place, code)
        identity = code.build_id or (self._hash(file) if code.segments else "")
        if not identity or not code.segments:
            return None
        module = Module(ModuleKind.FILE, identity, path)
        return CodeFile(module, path, file.size, origin, place, code.segments)

    def _kernel_module(
        self, file: RandomAccess, path: str, origin: str, place: int, code: ElfCode
    ) -> CodeFile | None:
        if not path.endswith(".ko"):
            return None  # an object file of a compiler
        identity = code.build_id or self._hash(file)
        return _module_file(file, path, origin, place, identity)

    def _packed(self, file: RandomAccess, path: str, origin: str, place: int) -> CodeFile | None:
        """A packed kernel module: its build id is somewhere near its start, or in its middle."""
        try:
            stream = io.BufferedReader(AccessStream(file), _READ)
            identity = unpack_until(stream, find_build_id)
        except PackedDataError:
            return None
        return _module_file(file, path, origin, place, identity or self._hash(file))

    def _hash(self, file: RandomAccess) -> str:
        """The name of a file without a build id, "" when it is too large."""
        if file.size > limits.HASHED_BYTES or self._hashed + file.size > limits.HASHED_TOTAL:
            self.skipped += 1
            return ""
        self._hashed += file.size
        return f"sha256:{hashlib.sha256(file.read(0, file.size)).hexdigest()}"


def _module_file(
    file: RandomAccess, path: str, origin: str, place: int, identity: str
) -> CodeFile | None:
    if not identity:
        return None
    name = PurePosixPath(path).name.partition(".ko")[0].replace("-", "_")
    module = Module(ModuleKind.KERNEL_MODULE, identity, name)
    return CodeFile(module, path, file.size, origin, place)
