# SPDX-License-Identifier: GPL-2.0-or-later
"""Bytes of modules from outside of the guest, which attribution compares with."""

from __future__ import annotations

import dataclasses
from typing import Self

import numpy as np

from sysqcache.attribution.blocks import I32, U8, U32
from sysqcache.modules import Module


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
    def nothing(cls) -> Self:
        """No pages."""
        none = np.zeros((0, 4096), np.uint8)
        return cls((), np.zeros(0, np.int32), np.zeros(0, np.uint32), none)


@dataclasses.dataclass(frozen=True)
class KernelText:
    """The kernel as it was loaded, before it patched itself.

    :param module: the kernel; compared with the one that the guest ran.
    :param content: shape (s,), uint8, bytes from ``_text`` with this run's addresses.
    """

    module: Module
    content: U8


@dataclasses.dataclass(frozen=True)
class Blob:
    """Code that runs wherever it was copied to: firmware, the kernel's decompressor.

    :param module: whose code it is.
    :param content: shape (s,), uint8, the whole file.
    """

    module: Module
    content: U8


@dataclasses.dataclass(frozen=True)
class Truths:
    """All that is known; without any, places are found by address alone."""

    kernel: KernelText | None = None
    blobs: tuple[Blob, ...] = ()
    files: CodePages = dataclasses.field(default_factory=CodePages.nothing)
