# SPDX-License-Identifier: GPL-2.0-or-later
"""Bytes of modules from outside of the guest, which attribution compares with."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable
from typing import Final, Self

import numpy as np

from sysqcache.attribution.blocks import I32, U8, U32
from sysqcache.attribution.patching import KernelPatches
from sysqcache.formats.modules import Module

PAGE: Final = 4096
MOST_PAGES: Final = 1 << 16
"""256 MiB."""


@dataclasses.dataclass(frozen=True)
class CodePages:
    """Pages of files that may be executed.

    :param modules: the files.
    :param module: shape (p,), int32, into ``modules``: whose page it is. Of equal pages the
        first is preferred, so the likeliest files come first.
    :param offset: shape (p,), uint32: where the page begins in its file, bytes.
    :param content: shape (p, 4096), uint8; a file's last page is filled up with zeros.
    """

    modules: tuple[Module, ...]
    module: I32
    offset: U32
    content: U8

    @classmethod
    def of(cls, pages: Iterable[tuple[Module, int, bytes]], limit: int = MOST_PAGES) -> Self:
        """From pages one by one: module, offset, 4096 bytes; at most ``limit`` of them."""
        numbers: dict[Module, int] = {}
        rows = []
        content = bytearray()
        for module, offset, data in itertools.islice(pages, limit):
            if len(data) == PAGE and offset < 1 << 32:
                rows.append((numbers.setdefault(module, len(numbers)), offset))
                content += data
        places = np.array(rows, np.int64).reshape(-1, 2)
        return cls(
            modules=tuple(numbers),
            module=places[:, 0].astype(np.int32),
            offset=places[:, 1].astype(np.uint32),
            content=np.frombuffer(content, np.uint8).reshape(-1, PAGE),
        )


@dataclasses.dataclass(frozen=True)
class KernelText:
    """The kernel as it was loaded, before it patched itself.

    :param module: the kernel; compared with the one that the guest ran.
    :param kaslr_offset: bytes by which its addresses were moved; compared as well.
    :param content: shape (s,), uint8, bytes from the image's first on with these addresses.
    """

    module: Module
    kaslr_offset: int
    content: U8

    @functools.cached_property
    def patches(self) -> KernelPatches:
        """What it may have made of its code."""
        return KernelPatches(self.content)


@dataclasses.dataclass(frozen=True)
class Blob:
    """Code that runs wherever it was copied to: firmware, the kernel's decompressor.

    :param module: whose code it is.
    :param content: shape (s,), uint8, the whole file.
    :param is_stub: what firmware hands over to.
    :param in_parts: not moved as a whole, but each of its parts for itself.
    :param is_system: what the machine runs for good, at high addresses too.
    """

    module: Module
    content: U8
    is_stub: bool = False
    in_parts: bool = False
    is_system: bool = False


@dataclasses.dataclass(frozen=True)
class Truths:
    """All that is known; without any, places are found by address alone.

    :param blobs: searched in this order, files as well: the likelier ones first.
    :param firmware_alone: the machine has nothing that firmware could start.
    """

    kernels: tuple[KernelText, ...] = ()
    blobs: tuple[Blob, ...] = ()
    files: tuple[CodePages, ...] = ()
    firmware_alone: bool = False
