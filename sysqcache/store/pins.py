# SPDX-License-Identifier: GPL-2.0-or-later
"""Packs that saved machines rely on: ``compact`` leaves them alone."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from typing import Final

from sysqcache.base.errors import FormatError
from sysqcache.base.files import replace_file
from sysqcache.base.mapfile import read_small
from sysqcache.base.statefile import DAMAGED_JSON
from sysqcache.store.layout import StoreLayout

_MAX_BYTES: Final = 1 << 20
_PACK: Final = re.compile(r"[0-9a-f]{64}")


def pin(layout: StoreLayout, machine: str, packs: Iterable[str]) -> None:
    """Say which packs a saved machine relies on, instead of those before. Raises OSError."""
    layout.pins.mkdir(mode=0o700, exist_ok=True)
    replace_file(layout.pins / f"{machine}.json", json.dumps(sorted(packs)).encode(), synced=True)


def unpin(layout: StoreLayout, machine: str) -> None:
    """A saved machine is gone. Raises OSError."""
    (layout.pins / f"{machine}.json").unlink(missing_ok=True)


def pinned(layout: StoreLayout) -> set[str]:
    """Names of all packs that a saved machine relies on; damaged files are passed over.

    Raises OSError.
    """
    found: set[str] = set()
    for path in layout.pins.glob("*.json"):
        with contextlib.suppress(FileNotFoundError, FormatError, *DAMAGED_JSON):
            names = json.loads(read_small(path, _MAX_BYTES))
            found |= {name for name in names if _PACK.fullmatch(name)}
    return found
