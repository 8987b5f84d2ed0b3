# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole map of a guest. Whatever a guest holds, the answer is a map with a note."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sysqcache.guestmap import owners
from sysqcache.guestmap.files import Files
from sysqcache.guestmap.guest import Guest, open_guest
from sysqcache.guestmap.kernel import ModuleWalk, kernel_info
from sysqcache.guestmap.memory import (
    Budget,
    ExhaustedError,
    NoTypesError,
    UnknownShapeError,
    UnreadableError,
)
from sysqcache.guestmap.pagecache import PageCache
from sysqcache.guestmap.pages import PageWalk
from sysqcache.guestmap.process import ProcessWalk
from sysqcache.guestmap.quiet import QuietSession
from sysqcache.guestmap.resources import Resources
from sysqcache.guestmap.result import GuestMap, KernelInfo, KernelModule, Process
from sysqcache.guestmap.session import Attached, GuestSession
from sysqcache.qmp.client import Watched

_NONSENSE: Final = (ArithmeticError, LookupError, MemoryError, RecursionError, ValueError)
"""What arithmetic with numbers from a guest may raise where nobody thought of it."""


def map_machine(socket: Path, process: Watched | None = None, *, quiet: bool = False) -> GuestMap:
    """Attach to a running QEMU by its spare QMP socket and map its guest.

    :param quiet: so that other clients of QEMU hear nothing of it, see :mod:`.quiet`.
    Raises :class:`MachineDied` when QEMU ends meanwhile and :class:`QmpError` when the
    socket is not answered; nothing in the guest raises.
    """
    start = time.perf_counter()
    attach = QuietSession.open if quiet else GuestSession.open
    with attach(socket, process) as session:
        found = map_guest(session)
    return dataclasses.replace(found, took_s=time.perf_counter() - start)


def map_guest(session: Attached, budget: Budget | None = None, symbol_types: str = "") -> GuestMap:
    """Map the guest of an attached session; only the end of QEMU raises.

    ``symbol_types`` as in :func:`.guest.open_guest`.
    """
    start = time.perf_counter()
    mapping = _Mapping(session)
    try:
        mapping.run(open_guest(session, budget, symbol_types))
    except (UnreadableError, ExhaustedError) as error:
        mapping.lost("all", error)
        mapping.notes.append(str(error))
    except _NONSENSE as error:
        mapping.notes.append(f"the guest's data makes no sense: {error!r}")
    took = time.perf_counter() - start
    return mapping.result(took, session.paused_ms)


class _Mapping:
    """A map in the making; each part may fail without the others."""

    def __init__(self, session: Attached) -> None:
        self.notes: list[str] = []
        self._release = "" if session.info is None else session.info.release
        self._unknown: list[str] = []
        self._table = owners.TableBuilder(session.ranges)
        self._kernel = KernelInfo()
        self._modules: tuple[KernelModule, ...] = ()
        self._processes: tuple[Process, ...] = ()

    def run(self, guest: Guest) -> None:
        """All parts, the kernel first; raises when there is no kernel to start from."""
        self._kernel = kernel_info(guest)
        if guest.layout.lacking:
            owners.paint_text(self._table, self._kernel)
            raise NoTypesError(f"{guest.layout.lacking}: nothing but the kernel is known")
        files = Files(guest)
        build_ids: dict[int, str] = {}
        with self._noting("modules"):
            self._read_modules(guest)
        with self._noting("pages"):
            build_ids = self._read_pages(guest, files)
        with self._noting("processes"):
            self._read_processes(guest, files, build_ids)

    @contextlib.contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        try:
            yield
        except (UnreadableError, ExhaustedError) as error:
            self.lost(what, error)
            self.notes.append(f"{what}: {error}")
        except _NONSENSE as error:
            self.notes.append(f"{what}: the guest's data makes no sense: {error!r}")

    def lost(self, what: str, error: Exception) -> None:
        """Remember what of this guest can't be known because its kernel is not known."""
        if isinstance(error, UnknownShapeError):
            self._unknown.append(f"{what} ({error})")

    def _read_modules(self, guest: Guest) -> None:
        walk = ModuleWalk(guest)
        self._modules = walk.modules()
        self._note("modules", walk.lost, walk.cut_short)

    def _read_pages(self, guest: Guest, files: Files) -> dict[int, str]:
        resources = Resources.read(guest)
        self._note("pages", 0, resources.note)
        walk = PageWalk(guest, resources)
        pages = walk.pages()
        cache = PageCache(guest, files, pages)
        cache.read()
        self._note("pages", 0, walk.cut_short)
        # pages in motion look like file pages for a moment: nothing to tell about a few
        self._note("files", 0, cache.cut_short)
        owners.paint_pages(self._table, pages, cache)
        owners.paint_firmware(self._table, resources)
        owners.paint_kernel(self._table, self._kernel, pages, resources)
        self._note(
            "modules",
            0,
            owners.paint_modules(self._table, guest, self._kernel, self._modules),
        )
        return cache.build_ids

    def _read_processes(self, guest: Guest, files: Files, build_ids: dict[int, str]) -> None:
        walk = ProcessWalk(guest, files)
        self._processes = tuple(_with_build_ids(one, build_ids) for one in walk.processes())
        self._note("processes", walk.lost, walk.cut_short)

    def _note(self, what: str, lost: int, cut_short: str) -> None:
        if lost:
            self.notes.append(f"{what}: {lost} could not be read")
        if cut_short:
            self.notes.append(f"{what}: {cut_short}")

    def result(self, took: float, paused_ms: float) -> GuestMap:
        """What was found so far."""
        return GuestMap(
            self._kernel,
            self._modules,
            self._processes,
            self._table.table(),
            took,
            paused_ms,
            "; ".join(self.notes),
            self._unknown_kernel(),
        )

    def _unknown_kernel(self) -> str:
        if not self._unknown:
            return ""
        what = ", ".join(self._unknown)
        return f"Linux {self._release} has structures that are not known; not read: {what}"


def _with_build_ids(process: Process, build_ids: dict[int, str]) -> Process:
    maps = tuple(
        dataclasses.replace(one, build_id=build_ids[one.file]) if one.file in build_ids else one
        for one in process.maps
    )
    return dataclasses.replace(process, maps=maps)
