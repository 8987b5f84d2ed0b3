# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes blocks of a store, all or those of some modules, into one file."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np
import zstandard

from sysqcache.base import system
from sysqcache.base.errors import FormatError, SysqcacheError, UsageError
from sysqcache.base.files import replacing
from sysqcache.store.bundle import form
from sysqcache.store.columns import Columns, StorePlaces
from sysqcache.store.crowding import crowding_words, without_crowded
from sysqcache.store.deadareas import DeadAreas
from sysqcache.store.inspect import choose
from sysqcache.store.layout import StoreLayout
from sysqcache.store.live import LivePack, load_live
from sysqcache.store.meta import Meta
from sysqcache.store.records import ImageRow, ModuleRow
from sysqcache.store.references import known_dead, only_known
from sysqcache.store.summary import NOBODY, lines_of
from sysqcache.store.writer import PackPieces

ZSTD_SUFFIX: Final = ".zst"
"""A file of such a name is packed; blocks shrink to about a third."""

_LEVEL: Final = 3
_SEED: Final = 0
"""Nobody looks anything up in a bundle's packs, and the same store gives the same bytes."""

_FEWEST_HEX: Final = 4

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ExportReport:
    """What a bundle holds; ``file_bytes`` is its size, the others those of its content."""

    packs: int
    blocks: int
    bytes: int
    modules: int
    images: int
    file_bytes: int


@dataclass(frozen=True)
class _Pack:
    """One pack to be: the pieces of its file, and its columns."""

    fingerprint: str
    arch: str
    group: str
    pieces: PackPieces
    columns: Columns

    def entry(self, progress: Callable[[int], None]) -> form.PackEntry:
        """Its line of the contents; reads all of its bytes."""
        digest = hashlib.sha256()
        for chunk in self.pieces.chunks():
            digest.update(chunk)
            progress(len(chunk))
        return form.PackEntry(
            sha256=digest.hexdigest(),
            columns=hashlib.sha256(self.carried()).hexdigest(),
            fingerprint=self.fingerprint,
            arch=self.arch,
            group=self.group,
            blocks=len(self.columns),
            bytes=self.pieces.file_size,
        )

    def carried(self) -> bytes:
        """The member with its columns."""
        rows = np.zeros(len(self.columns), form.COLUMNS)
        for name in form.COLUMNS.names or ():
            rows[name] = getattr(self.columns, name)
        return rows.tobytes()


class Export:
    """What is to be written, collected from the metadata; packs stay mapped."""

    def __init__(
        self, layout: StoreLayout, meta: Meta, modules: Sequence[str], fingerprint: str
    ) -> None:
        """Choose. ``modules`` are names as for `cache show`, none: all.

        :param fingerprint: its first characters, "": all. Raises UsageError.
        """
        self.warnings: list[str] = []
        self._rows = meta.modules()
        self._images = {row.number: row for row in meta.images().values()}
        self._dead = known_dead(meta.dead(), self._rows)
        self._wanted = _wanted(meta, modules)
        self.packs: list[_Pack] = []
        self._crowded = 0
        for one in _fingerprints(meta, fingerprint):
            packs = load_live(layout, meta, one)
            self.warnings += packs.warnings()
            for group in sorted({pack.row.group for pack in packs.found}):
                self._collect([pack for pack in packs.found if pack.row.group == group])
        self.warnings += crowding_words(self._crowded)

    def _collect(self, live: list[LivePack]) -> None:
        """The chosen blocks of the packs of one group, as one pack."""
        dead = DeadAreas(self._dead)
        tables, parts = [], []
        for pack in live:
            try:
                table, columns = pack.intact()
            except (FormatError, OSError) as error:
                self.warnings.append(f"left out: {error}")
                continue
            chosen = ~dead.cover(StorePlaces(columns.module, columns.offset))
            if self._wanted is not None:
                chosen &= np.isin(columns.module, sorted(self._wanted))
            tables.append(table.select(chosen))
            parts.append(only_known(columns.select(chosen), self._rows, self._images))
        if not sum(map(len, tables)):
            return
        row, head = live[0].row, live[0].header
        tables, columns, left_out = without_crowded(tables, parts, _SEED)
        self._crowded += sum(left_out)
        pieces = PackPieces.plan(head.fingerprint, head.text, tables, seed=_SEED)
        self.packs.append(_Pack(row.fingerprint, row.arch, self._group(row.group), pieces, columns))

    def contents(self, progress: Callable[[int], None]) -> form.Contents:
        """The list of contents; reads every block."""
        modules = self._used_modules()
        fingerprints = {pack.fingerprint for pack in self.packs}
        return form.Contents(
            images=tuple(
                _image_entry(self._images[number], set(modules), fingerprints)
                for number in sorted(self._used_images(modules.values()))
            ),
            modules=tuple(self._module_entry(modules[number]) for number in sorted(modules)),
            dead=tuple(
                form.DeadEntry(**dataclasses.asdict(area))
                for area in self._dead
                if area.module in modules
            ),
            packs=tuple(pack.entry(progress) for pack in self.packs),
        )

    def _used_modules(self) -> dict[int, ModuleRow]:
        """Modules that have blocks, and those of which only dead places are known."""
        used = {int(n) for pack in self.packs for n in np.unique(pack.columns.module)}
        dead = {area.module for area in self._dead}
        used |= dead if self._wanted is None else dead & self._wanted
        return {number: row for number, row in self._rows.items() if number in used}

    def _used_images(self, modules: Iterable[ModuleRow]) -> set[int]:
        """Images that anything of the bundle refers to."""
        used = {int(n) for pack in self.packs for n in np.unique(pack.columns.image)}
        groups = {pack.group for pack in self.packs}
        for row in modules:
            used |= set(row.images)
            groups.add(self._group(row.group))
        used |= {int(g.removeprefix("files:")) for g in groups if g.startswith("files:")}
        return used & self._images.keys()

    def _module_entry(self, row: ModuleRow) -> form.ModuleEntry:
        return form.ModuleEntry(
            number=row.number,
            kind=row.module.kind,
            id=row.id,
            name=row.name[: form.MAX_TEXT],
            group=self._group(row.group),
            first_seen=row.first_seen,
            last_used=row.last_used,
            images=tuple(number for number in row.images if number in self._images),
            dead_unplaced=row.dead_unplaced,
        )

    def _group(self, group: str) -> str:
        number = group.removeprefix("files:")
        known = number == group or int(number) in self._images
        return group if group and known else "unknown"

    def write(self, path: Path, progress: Progress) -> ExportReport:
        """Write the file, all of it or nothing. Raises SysqcacheError."""
        done, total = 0, sum(pack.pieces.file_size for pack in self.packs)

        def step(count: int) -> None:
            nonlocal done
            done += count
            # each block is read twice: once for the names of the packs
            progress(min(done // 2, total), total)

        contents = self.contents(step)
        with _replacing(path) as file:
            for chunk in self._members(contents):
                file.write(chunk)
                step(len(chunk))
        progress(total, total)
        return ExportReport(
            packs=len(contents.packs),
            blocks=sum(pack.blocks for pack in contents.packs),
            bytes=sum(pack.bytes for pack in contents.packs),
            modules=len(contents.modules),
            images=len(contents.images),
            file_bytes=path.stat().st_size,
        )

    def _members(self, contents: form.Contents) -> Iterator[bytes]:
        """The bytes of the tar."""
        listed = contents.encode()
        yield from _member(form.contents_name(hashlib.sha256(listed).hexdigest()), listed)
        for entry, pack in zip(contents.packs, self.packs, strict=True):
            yield form.member_header(form.pack_name(entry), entry.bytes)
            yield from pack.pieces.chunks()
            yield bytes(form.padding(entry.bytes))
            yield from _member(form.columns_name(entry), pack.carried())
        yield bytes(1024)


def _member(name: str, content: bytes) -> Iterator[bytes]:
    yield form.member_header(name, len(content))
    yield content
    yield bytes(form.padding(len(content)))


def _image_entry(row: ImageRow, modules: set[int], fingerprints: set[str]) -> form.ImageEntry:
    return form.ImageEntry(
        number=row.number,
        image_id=row.image_id,
        runs=row.runs,
        fingerprints=tuple(f for f in row.fingerprints if f in fingerprints),
        modules=tuple(sorted(pair for pair in row.modules.items() if pair[0] in modules)),
    )


def _wanted(meta: Meta, modules: Sequence[str]) -> set[int] | None:
    """Numbers of the modules that were asked for; None for all. Raises UsageError."""
    if not modules:
        return None
    rows = {0: NOBODY} | meta.modules()
    kept = [rows[number] for number in lines_of(meta)]
    return {choose(kept, asked).number for asked in modules}


def _fingerprints(meta: Meta, asked: str) -> list[str]:
    """Fingerprints of live packs that begin with ``asked``. Raises UsageError."""
    known = sorted({row.fingerprint for row in meta.packs().values() if row.live})
    found = [one for one in known if one.startswith(asked.lower())]
    if asked and (len(asked) < _FEWEST_HEX or len(found) != 1):
        raise UsageError(
            f"{asked!r} names {len(found) or 'none'} of the fingerprints in the store",
            hint="`sysqcache cache list --json` shows them; four or more characters that name one",
            detail="\n".join(known),
        )
    return found


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``path``, whole, when all went well."""
    with system.refused_as(SysqcacheError, f"{path} can't be written"):
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is not a file")
        with replacing(path, synced=True) as file, _packing(file, path) as out:
            yield out


@contextlib.contextmanager
def _packing(file: IO[bytes], path: Path) -> Iterator[IO[bytes]]:
    if path.suffix != ZSTD_SUFFIX:
        yield file
        return
    packer = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
    with packer.stream_writer(file, closefd=False) as packed:
        yield packed
