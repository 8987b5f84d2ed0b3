# SPDX-License-Identifier: GPL-2.0-or-later
"""``boot-sets.json``: which packs the next starts map, read without RocksDB.

RocksDB admits one writing process, and a boot must wait for nobody. Whoever
commits metadata replaces this file atomically afterwards. ``generation`` is the
commit that it shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sysqcache.base.errors import FormatError
from sysqcache.base.files import replace_file
from sysqcache.base.mapfile import read_small
from sysqcache.base.statefile import DAMAGED_JSON
from sysqcache.formats.block import MAX_PACKS
from sysqcache.formats.modules import UNPLACED, Module, ModuleKind
from sysqcache.store.layout import StoreLayout
from sysqcache.store.records import FingerprintRow, ImageRow, ModuleRow, PackRow

if TYPE_CHECKING:
    from sysqcache.store.meta import Meta

MAX_FINGERPRINTS: Final = 4
"""So many fingerprints of one architecture enter a boot set; others cost open(2) calls."""

_SYSTEMS: Final = (ModuleKind.KERNEL, ModuleKind.UNKNOWN)
"""Kinds of what code without a place is gathered under: a kernel, a disk."""

_MAX_BYTES: Final = 64 << 20


@dataclass(frozen=True)
class Manifest:
    """What the last commit left; ``packs`` are the live ones, oldest first.

    ``modules`` gives the number of each.
    """

    generation: int = -1
    packs: tuple[PackRow, ...] = ()
    fingerprints: tuple[FingerprintRow, ...] = ()
    images: tuple[ImageRow, ...] = field(default=())
    modules: Mapping[Module, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        generation: int,
        packs: Iterable[PackRow],
        fingerprints: Iterable[FingerprintRow],
        images: Iterable[ImageRow],
        modules: Iterable[ModuleRow],
    ) -> Manifest:
        """The manifest of all rows of the metadata."""
        live = sorted((p for p in packs if p.live), key=lambda p: (p.created, p.sha256))
        numbers = {row.module: row.number for row in modules}
        return cls(generation, tuple(live), tuple(fingerprints), tuple(images), numbers)

    def encode(self) -> bytes:
        """The file's content: one line a row."""
        rows: dict[str, list[Any]] = {
            "packs": [row.to_values() for row in self.packs],
            "fingerprints": [row.to_values() for row in self.fingerprints],
            "images": [row.to_values() for row in self.images],
            "modules": [{**module.to_json(), "number": n} for module, n in self.modules.items()],
        }
        lists = [
            f'"{name}": [\n' + ",\n".join(json.dumps(row) for row in found) + "]"
            for name, found in rows.items()
        ]
        head = f'{{"version": 1, "generation": {self.generation}'
        return (",\n".join([head, *lists]) + "}\n").encode()

    @classmethod
    def decode(cls, content: bytes) -> Manifest:
        """The inverse. Raises FormatError."""
        try:
            values: dict[str, Any] = json.loads(content)
            return cls(
                int(values["generation"]),
                tuple(PackRow.from_values(v) for v in values["packs"]),
                tuple(FingerprintRow.from_values(v) for v in values["fingerprints"]),
                tuple(ImageRow.from_values(v) for v in values["images"]),
                {Module.from_json(v): int(v["number"]) for v in values.get("modules", ())},
            )
        except DAMAGED_JSON as error:
            raise FormatError(f"the list of boot sets can't be read: {error}") from error

    def image(self, image_id: str) -> ImageRow | None:
        """An image that ran before."""
        return next((row for row in self.images if row.image_id == image_id), None)

    def ordered_fingerprints(self, image_id: str, arch: str) -> list[str]:
        """Fingerprints of ``arch``: those that the image ran with first, then the latest."""
        image = self.image(image_id)
        own = {f: rank for rank, f in enumerate(image.fingerprints if image else ())}
        rows = [f for f in self.fingerprints if f.arch == arch]
        rows.sort(key=lambda f: (own.get(f.fingerprint, len(own)), -f.last_used))
        return [f.fingerprint for f in rows]

    def boot_set(
        self, image_id: str, arch: str, modules: Iterable[Module] | None = None
    ) -> list[PackRow]:
        """Live packs of the first few fingerprints, in the order to be mapped.

        :param modules: what an image contains. A pack is left out when it has blocks of
            none of them, and of no module that the image ran before. None: nobody looked.
        """
        wanted = self._wanted(image_id, arch, modules)
        chosen = self.ordered_fingerprints(image_id, arch)[:MAX_FINGERPRINTS]
        found: list[PackRow] = []
        for fingerprint in chosen:
            packs = [p for p in self.packs if p.live and p.fingerprint == fingerprint]
            shares = [_share(pack, wanted) for pack in packs]
            order = sorted(range(len(packs)), key=lambda n: -shares[n])
            found += [packs[n] for n in order if shares[n]]
        return found

    @property
    def left_out(self) -> int:
        """Packs beyond those that an engine maps, in the start that has to do without most."""
        return max((beyond(len(self.boot_set(*start))) for start in self._starts()), default=0)

    def _starts(self) -> Iterator[tuple[str, str]]:
        """Images that ran and the architectures that they ran on."""
        of = {row.fingerprint: row.arch for row in self.fingerprints}
        for image in self.images if beyond(len(self.packs)) else ():
            ran_on = {of[one] for one in image.fingerprints if one in of}
            yield from ((image.image_id, arch) for arch in ran_on or set(of.values()))

    def _wanted(
        self, image_id: str, arch: str, modules: Iterable[Module] | None
    ) -> frozenset[int] | None:
        """Numbers of the modules that an image needs; None when nobody can tell."""
        image = self.image(image_id)
        found = set(image.modules) if image else set()
        if modules is None and not found & self._placed():
            return None
        for module in modules or ():
            asked = [module]
            if module.kind in _SYSTEMS:
                asked += [Module(kind, f"{UNPLACED}{module.id}") for kind in ModuleKind]
            found |= {self.modules[one] for one in asked if one in self.modules}
        firmware = Module(ModuleKind.FIRMWARE, f"{UNPLACED}{arch}")
        return frozenset(found | {self.modules.get(firmware, 0)})

    def _placed(self) -> set[int]:
        """Numbers of modules with a name that an image's contents can be compared with."""
        return {n for one, n in self.modules.items() if not one.id.startswith(UNPLACED)}


def beyond(packs: int) -> int:
    """How many of so many packs for one start are left out, whatever fingerprint they are of."""
    return max(0, packs - MAX_PACKS)


def _share(pack: PackRow, wanted: frozenset[int] | None) -> int:
    """How many blocks of a pack an image may want; all of a pack that nobody looked into."""
    if wanted is None or not pack.shares or 0 in pack.shares:
        return pack.blocks
    return sum(share.blocks for number, share in pack.shares.items() if number in wanted)


def read_manifest(layout: StoreLayout) -> Manifest:
    """The current manifest; an empty one (generation -1) when there is none.

    Raises FormatError when the file is damaged or not ours alone.
    """
    path: Path = layout.boot_sets
    if not path.exists():
        return Manifest()
    return Manifest.decode(read_small(path, _MAX_BYTES))


def write_manifest(layout: StoreLayout, manifest: Manifest) -> None:
    """Replace the manifest atomically. Raises OSError."""
    replace_file(layout.boot_sets, manifest.encode(), synced=True)


def publish(layout: StoreLayout, meta: Meta) -> Manifest:
    """After a commit: write its boot sets, unless they are there. Raises OSError."""
    try:
        current = read_manifest(layout)
    except FormatError:
        current = Manifest()
    if current.generation == meta.counters.generation:
        return current
    manifest = Manifest.of(
        meta.counters.generation,
        meta.packs().values(),
        meta.fingerprints().values(),
        meta.images().values(),
        meta.modules().values(),
    )
    write_manifest(layout, manifest)
    return manifest
