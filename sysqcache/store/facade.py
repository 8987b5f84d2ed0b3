# SPDX-License-Identifier: GPL-2.0-or-later
"""The block store as others see it; everything behind it can be replaced."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

from sysqcache.base import system
from sysqcache.base.errors import FormatError, StoreError
from sysqcache.base.files import held, share
from sysqcache.base.types import RunInfo
from sysqcache.formats.modules import Module
from sysqcache.formats.runfiles import Note, RunFiles
from sysqcache.store import inspect, journals, pins, summary
from sysqcache.store.bundle.merge import ImportResult, Merge
from sysqcache.store.bundle.read import read_bundle
from sysqcache.store.bundle.write import Export, ExportReport
from sysqcache.store.change import ingest_recording
from sysqcache.store.compact import CompactReport, compact, make_room
from sysqcache.store.health import degraded
from sysqcache.store.layout import (
    LOCK_TIMEOUT,
    StoreLayout,
    move_aside,
    open_layout,
    remove_temporary,
    writing,
)
from sysqcache.store.live import is_damage, require_same
from sysqcache.store.manifest import beyond, read_manifest
from sysqcache.store.meta import Meta, MetaDamaged
from sysqcache.store.misses import RunMisses, misses
from sysqcache.store.outdated import set_aside
from sysqcache.store.rebuild import Progress, RebuildReport, open_meta, rebuild, silent
from sysqcache.store.recording import IngestResult, Recording
from sysqcache.store.records import ModuleLine, PackRow
from sysqcache.store.summary import StoreStats
from sysqcache.store.verify import VerifyReport, verify
from sysqcache.store.writer import nothing

_T = TypeVar("_T")


def _nobody_looked() -> None:
    """What an image contains that nobody looked into."""


class Store:
    """A block store in one directory. Several processes may use it at once.

    Errors are StoreError and its subclasses, whatever the system or RocksDB said;
    after one, the store is as before the call. Damage of metadata is repaired from
    the packs, and told in ``warnings``.
    """

    def __init__(self, layout: StoreLayout, *, timeout: float = LOCK_TIMEOUT) -> None:
        self.layout = layout
        self.timeout = timeout
        self.warnings: list[str] = []
        self.damage_seen = False
        """Whether a boot set left a pack out for its content."""
        self.packs_left_out = 0

    @classmethod
    def open(cls, root: Path, *, timeout: float = LOCK_TIMEOUT) -> Store:
        """Open, or make, the store in ``root``; ``timeout``: seconds to wait for its lock.

        Raises StoreVersionError for a newer store, FormatError or StoreError; then
        nothing was touched.
        """
        return cls(open_layout(root), timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held between calls."""

    def boot_set(
        self,
        image_id: str,
        arch: str,
        contents: Callable[[], Iterable[Module] | None] = _nobody_looked,
    ) -> list[Path]:
        """Packs to map for the next start, those of the image's last engine first.

        Waits for nobody, takes a few milliseconds, and never raises: a pack that is
        missing, foreign, not what it was or can't be opened now is left out, with a warning.

        ``packs_left_out`` is the number of packs beyond ``block.MAX_PACKS``: those that
        have least of what the image wants.

        :param contents: what an image contains that never ran, asked for when that can
            make a difference; None when nobody can tell.
        """
        self.packs_left_out = 0
        try:
            manifest = read_manifest(self.layout)
        except (FormatError, OSError) as error:
            self.warnings.append(f"no pack is used: {error}")
            return []
        modules = None
        if manifest.image(image_id) is None and any(
            p.live and p.arch == arch for p in manifest.packs
        ):
            modules = contents()
        rows = manifest.boot_set(image_id, arch, modules)
        found = []
        for row in rows:
            path = self.layout.pack(row.sha256)
            try:
                require_same(path, row)
            except (FormatError, OSError) as error:
                self.warnings.append(f"a pack is not used: {error}")
                self.damage_seen |= isinstance(error, FormatError) and is_damage(error)
            else:
                found.append(path)
        self.packs_left_out = beyond(len(found))
        return found[: len(found) - self.packs_left_out]

    def hold(self) -> int:
        """A descriptor that keeps ``compact`` from removing packs until it is closed.

        It is not inheritable; pass it to QEMU (``pass_fds``) to protect a detached
        machine for as long as it runs. Raises StoreError.
        """
        with _as_store_errors(self.layout):
            return share(self.layout.in_use)

    def new_journal(self, *, image_id: str, run: RunInfo) -> Path:
        """Where the engine shall write this run's journal; it does not exist yet.

        A note beside it says whose it is, so that :meth:`recover` can ingest it
        when this process is killed. Raises StoreError.
        """
        path = journals.journal_path(self.layout, run.run_id)
        with _as_store_errors(self.layout):
            RunFiles(path).write_note(Note(image_id, run))
        return path

    def ingest(
        self,
        journal: RunFiles | Path,
        *,
        image_id: str,
        run: RunInfo,
        counters: Mapping[str, int] | None = None,
        reached: Callable[[str], None] = nothing,
    ) -> IngestResult:
        """Keep a finished run's new blocks, then remove the journal.

        ``journal`` is its path, or its files as somebody has read them already.

        Where they belong is read from the file beside the journal, if there is one;
        ``counters`` are what the engine counted, kept for ``cache why``.

        An empty journal is removed, one of an earlier format version moved to ``outdated/``;
        one whose header is damaged is moved to ``damaged/`` and FormatError raised. Raises
        StoreBusy, StoreError; the journal is kept then. ``reached`` is told the crash points
        of docs/formats.md.
        """
        started = time.monotonic()
        files = RunFiles(journal) if isinstance(journal, Path) else journal
        with _as_store_errors(self.layout):
            if files.path.exists() and files.path.stat().st_size == 0:
                files.remove()
                return IngestResult(seconds=time.monotonic() - started)
            outdated = set_aside(self.layout, files)
            if outdated is not None:
                blocks, warning = outdated
                seconds = time.monotonic() - started
                return IngestResult(seconds=seconds, warnings=(warning,), outdated=blocks)
            recording = self._read(files, image_id, run, counters)
            reached("journal-read")
            result, warnings = self._writing(
                lambda meta: ingest_recording(self.layout, meta, recording, reached=reached)
            )
            files.remove()
            reached("journal-removed")
        seconds = time.monotonic() - started
        everything = (*warnings, *result.warnings)
        return dataclasses.replace(result, seconds=seconds, warnings=everything)

    def _read(
        self, files: RunFiles, image_id: str, run: RunInfo, counters: Mapping[str, int] | None
    ) -> Recording:
        try:
            return Recording.read(files, image_id, run, counters)
        except FormatError as error:
            if files.path.exists():
                moved = move_aside(self.layout, files.path)
                files.remove_beside()
                error.hint = f"moved to {moved}; nothing else is affected"
            raise

    def recover(self) -> list[IngestResult]:
        """Ingest journals of runs whose controller was killed and whose QEMU has ended.

        A journal that can't be used is moved to ``damaged/`` or ``outdated/`` with a warning,
        and has no result. Raises StoreBusy, StoreError.
        """
        results = []
        with _as_store_errors(self.layout):
            waiting = journals.leftovers(self.layout)
        for path in waiting:
            try:
                note = RunFiles(path).read_note()
            except (FormatError, FileNotFoundError):
                continue  # not started by us, or the note is still to come
            except OSError as error:
                self.warnings.append(f"{path.name} waits, its note can't be read: {error}")
                continue
            try:
                result = self.ingest(
                    path, image_id=note.image_id, run=note.run, counters=note.counters
                )
            except FormatError as error:
                self.warnings.append(f"{error.message} ({error.hint})")
                continue
            self.warnings += result.warnings
            if result.outdated is None:
                results.append(result)
        return results

    def list_modules(self) -> list[ModuleLine]:
        """What the live packs hold, by module and fingerprint. Raises StoreError."""
        return self._reading(summary.modules, [])

    def module(self, asked: str) -> inspect.ModuleDetail:
        """One module with its blocks, by any of its names, see ``store.inspect``.

        Raises UsageError for no module or several of this name, StoreError.
        """
        found = self._reading(lambda meta: inspect.detail(meta, asked), None)
        if found is None:
            raise inspect.no_such_module((), asked)
        return found

    def misses(self, name: str) -> RunMisses | None:
        """Why blocks of a run, or of a machine's last kept run, missed. Raises StoreError."""
        return self._reading(lambda meta: misses(meta, name), None)

    def packs(self) -> list[PackRow]:
        """Every pack that the metadata know. Raises StoreError."""
        return self._reading(lambda meta: list(meta.packs().values()), [])

    def stats(self) -> StoreStats:
        """Sizes on disk and counts. Raises StoreError."""
        rows = self.packs()
        runs = self._reading(lambda meta: meta.counters.runs, 0)
        with _as_store_errors(self.layout):
            return summary.stats(self.layout, rows, runs)

    def degraded(self) -> list[tuple[str, str]]:
        """What makes machines translate more than they need, each with its remedy.

        Looks at names and metadata alone; ``verify`` reads every pack. Raises StoreError.
        """
        rows = self.packs()
        with _as_store_errors(self.layout):
            return degraded(self.layout, rows)

    def verify(self, progress: Progress = silent) -> VerifyReport:
        """Read everything and say what is wrong; changes nothing. Raises StoreError."""
        with _as_store_errors(self.layout), held(share(self.layout.in_use)):
            return verify(self.layout, progress)

    def rebuild(self, progress: Progress = silent) -> RebuildReport:
        """Make the metadata anew from the packs; damaged files go to ``damaged/``.

        Raises StoreBusy, StoreError.
        """
        with _as_store_errors(self.layout), writing(self.layout, self.timeout):
            remove_temporary(self.layout)
            return rebuild(self.layout, progress)

    def compact(self, max_bytes: int | None = None) -> CompactReport:
        """Remove packs that are not needed, see ``store.compact``. Raises StoreError.

        On a full disk files go before the metadata, which have no room until then.
        """
        with _as_store_errors(self.layout):
            try:
                report, warnings = self._compact(max_bytes)
            except (StoreError, OSError) as error:
                if not system.is_full(error):
                    raise
                report, warnings = self._compact_full(max_bytes, error)
        self.warnings += warnings
        return report

    def _compact(self, max_bytes: int | None) -> tuple[CompactReport, list[str]]:
        return self._writing(lambda meta: compact(self.layout, meta, max_bytes))

    def _compact_full(
        self, max_bytes: int | None, error: StoreError | OSError
    ) -> tuple[CompactReport, list[str]]:
        """Compact once more when what nobody needs is gone."""
        with writing(self.layout, self.timeout):
            room = make_room(self.layout, max_bytes)
        try:
            report, warnings = self._compact(max_bytes)
        except (StoreError, OSError) as again:
            if not system.is_full(again):
                raise
            raise StoreError(
                f"the store {self.layout.root} can't be compacted, {os.strerror(errno.ENOSPC)}: "
                f"{room.bytes_freed:,} bytes could be freed",
                hint="stop the machines that map its packs, then try again"
                if room.in_use
                else "free some space elsewhere, or let --max-bytes remove packs in use",
            ) from error
        removed, freed = room.removed + report.removed, room.bytes_freed + report.bytes_freed
        return dataclasses.replace(report, removed=removed, bytes_freed=freed), warnings

    def export(
        self,
        path: Path,
        modules: Sequence[str] = (),
        fingerprint: str = "",
        progress: Progress = silent,
    ) -> ExportReport:
        """Write kept blocks into a bundle for other stores, see ``store.bundle.write``.

        Raises UsageError for unknown modules or fingerprints, SysqcacheError when
        ``path`` can't be written, StoreError.
        """
        with _as_store_errors(self.layout):
            fd = share(self.layout.in_use)
        with held(fd):
            what = self._reading(lambda meta: Export(self.layout, meta, modules, fingerprint), None)
            if what is None or not what.packs:
                raise StoreError("the store holds nothing that could be exported")
            self.warnings += what.warnings
            return what.write(path, progress)

    def import_bundle(
        self,
        path: Path,
        progress: Progress = silent,
        reached: Callable[[str], None] = nothing,
    ) -> ImportResult:
        """Take in the blocks of a bundle; machines will run this code.

        Raises UsageError, FormatError for a bundle that is not what it says or that other
        users could have written, StoreBusy, StoreError; then the store is as before.
        """
        with _as_store_errors(self.layout):
            found = read_bundle(path, self.layout.packs, progress)
            reached("bundle-read")
            result, warnings = self._writing(
                lambda meta: Merge(self.layout, meta, found, reached, progress).apply()
            )
        self.warnings += [*warnings, *result.warnings]
        return result

    def pin(self, machine: str, packs: Iterable[str]) -> None:
        """Keep ``compact`` away from packs that a saved machine relies on. Raises StoreError."""
        with _as_store_errors(self.layout):
            pins.pin(self.layout, machine, packs)

    def unpin(self, machine: str) -> None:
        """A saved machine is gone. Raises StoreError."""
        with _as_store_errors(self.layout):
            pins.unpin(self.layout, machine)

    def _writing(self, action: Callable[[Meta], _T]) -> tuple[_T, list[str]]:
        """Do ``action`` with the metadata open for writing, repaired if they must be."""
        warnings: list[str] = []
        with writing(self.layout, self.timeout):
            remove_temporary(self.layout)
            try:
                with open_meta(self.layout, warnings) as meta:
                    return action(meta), warnings
            except MetaDamaged as error:
                warnings.append(f"the store's metadata were rebuilt from its packs: {error}")
            rebuild(self.layout)
            try:
                with open_meta(self.layout, warnings) as meta:
                    return action(meta), warnings
            except MetaDamaged as error:
                raise StoreError(f"the metadata can't be repaired: {error}") from error

    def _reading(self, action: Callable[[Meta], _T], nothing_yet: _T) -> _T:
        """Do ``action`` with the metadata as of now; others may write meanwhile."""
        with _as_store_errors(self.layout):
            if not self.layout.meta.exists() and not self.layout.pack_files():
                return nothing_yet
            for _ in range(3):
                # a writer may remove files between the opening and the reading
                with contextlib.suppress(MetaDamaged), Meta(self.layout.meta, read_only=True) as m:
                    return action(m)
            result, warnings = self._writing(action)
        self.warnings += warnings
        return result


@contextlib.contextmanager
def _as_store_errors(layout: StoreLayout) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        refused = system.shortage(error)
        if refused is None:
            raise
        where = f": {refused.filename}" if refused.filename else ""
        raise StoreError(
            f"the store {layout.root} can't be used: {refused.strerror or refused}{where}",
            hint=system.hint(refused.errno),
        ) from error
