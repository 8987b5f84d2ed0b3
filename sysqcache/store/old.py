# SPDX-License-Identifier: GPL-2.0-or-later
"""What can still be read of metadata that are about to be replaced."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sysqcache.base import system
from sysqcache.base.errors import FormatError, StoreError
from sysqcache.store.manifest import Manifest, read_manifest
from sysqcache.store.meta import Meta, MetaDamaged
from sysqcache.store.records import (
    DeadRow,
    FingerprintRow,
    GlobalRow,
    ImageRow,
    ModuleRow,
    PackRow,
    RunRow,
)

if TYPE_CHECKING:
    from sysqcache.store.columns import Columns
    from sysqcache.store.layout import StoreLayout


class OldMetadata:
    """Rows of the old RocksDB, or else of the boot sets; never raises for damage.

    Raises OSError and StoreError when the system refuses them: nothing may be made anew then.

    ``damaged`` becomes true when RocksDB is there and something in it can't be read.
    """

    def __init__(self, layout: StoreLayout) -> None:
        self.manifest = Manifest()
        with contextlib.suppress(FormatError):
            self.manifest = read_manifest(layout)
        self.counters = GlobalRow(generation=max(self.manifest.generation, 0))
        self.packs: dict[str, PackRow] = {p.sha256: p for p in self.manifest.packs}
        self.fingerprints: dict[str, FingerprintRow] = {
            f.fingerprint: f for f in self.manifest.fingerprints
        }
        self.images: dict[str, ImageRow] = {i.image_id: i for i in self.manifest.images}
        self.modules: dict[int, ModuleRow] = {
            number: ModuleRow(number, one.id, str(one.kind), one.name, "", 0.0, 0.0)
            for one, number in self.manifest.modules.items()
        }
        self.dead: list[DeadRow] = []
        self.damaged = False
        self._meta: Meta | None = None
        if layout.meta.exists():
            self._read(layout)

    def _read(self, layout: StoreLayout) -> None:
        with self._as_far_as_it_goes():
            self._meta = meta = Meta(layout.meta, read_only=True)
            self.counters = meta.counters
            self.packs |= meta.packs()
            self.fingerprints |= meta.fingerprints()
            self.images |= meta.images()
            self.modules |= meta.modules()
            self.dead += meta.dead()

    @contextlib.contextmanager
    def _as_far_as_it_goes(self) -> Iterator[None]:
        """Give up what the disk can't read; anything else will be there when asked again."""
        try:
            yield
        except MetaDamaged:
            self.damaged = True
        except StoreError as error:
            if system.refusal(error.message) != errno.EIO:
                raise
            self.damaged = True

    @property
    def generation(self) -> int:
        """The last commit that anything tells of."""
        return max(self.counters.generation, self.manifest.generation)

    def columns(self, row: PackRow | None) -> Columns | None:
        """The old columns of a live pack, if they can be read."""
        with self._as_far_as_it_goes():
            if self._meta is not None and row is not None and row.live:
                return self._meta.columns(row)
        return None

    def runs(self) -> list[tuple[bytes, RunRow]]:
        """Every run that can be read, with the identity of its journal."""
        with self._as_far_as_it_goes():
            if self._meta is not None:
                return list(self._meta.runs_with_journals())
        return []

    def why(self, run: int) -> dict[int, dict[str, int]]:
        """Why blocks of a run missed, if that can be read."""
        with self._as_far_as_it_goes():
            if self._meta is not None:
                return self._meta.why(run)
        return {}

    def close(self) -> None:
        """Close the old RocksDB."""
        if self._meta is not None:
            self._meta.close()
