# SPDX-License-Identifier: GPL-2.0-or-later
"""Maps of running machines, compared with what the guests say and with each other."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from guesttruth import (
    Truth,
    agree,
    build_ids,
    functions,
    functions_agree,
    segment_sha256,
    segments,
    truth,
)

from sysqcache.base import paths
from sysqcache.guestmap import kernelcache, mapper
from sysqcache.guestmap.guest import open_guest
from sysqcache.guestmap.kallsyms import TEXT_TYPES, SymbolTable
from sysqcache.guestmap.result import GuestMap
from sysqcache.guestmap.session import GuestSession
from sysqcache.guestmap.symbols import EXPORTS, VARIABLES
from sysqcache.guestmap.table import OwnerKind
from sysqcache.machine.instances import ForeignProcess, Instance
from sysqcache.qmp.client import QmpClient


def socket_of(name: str) -> Path:
    return Instance(name).file(paths.INSTANCE_QMP_INTROSPECT)


def process_of(name: str) -> ForeignProcess:
    instance = Instance(name)
    return ForeignProcess(instance.read().process, instance.file(paths.INSTANCE_QEMU_LOG))


def compare(name: str) -> tuple[GuestMap, Truth]:
    """Map a guest between two questions to it, and compare."""
    before = truth(name)
    found = mapper.map_machine(socket_of(name), process_of(name))
    assert agree(found, before, truth(name)) > 0
    assert all(
        len(one.build_id) == 40
        for process in found.processes
        for one in process.maps
        if "x" in one.perms and one.inode
    )
    return found, before


def compare_contents(name: str, told: Truth) -> int:
    """Functions, build ids, and all executable parts of files; the number of these."""
    parts = segments(name, told)
    symbols = functions(name)
    ids = build_ids(name, list(told.modules))
    with GuestSession.open(socket_of(name), process_of(name)) as session:
        assert functions_agree(session, symbols) >= 200
        found = mapper.map_guest(session)
        assert found.kernel.build_id == ids.pop("")
        assert {one.name: one.build_id for one in found.modules} == ids
        for part in parts:
            assert segment_sha256(session, found.table, part) == part.sha256, part.path
    return len(parts)


@contextlib.contextmanager
def paused(name: str) -> Iterator[None]:
    """The guest stands still, so that nothing differs between two maps of it."""
    with QmpClient.connect(Instance(name).file(paths.INSTANCE_QMP)) as qmp:
        qmp.execute("stop")
        try:
            yield
        finally:
            qmp.execute("cont")


def contents(found: GuestMap) -> dict[str, Any]:
    """All of a map that two maps of a paused guest have in common."""
    table = found.table
    rows = zip(table.start.tolist(), table.end.tolist(), table.owner.tolist(), strict=True)
    return {
        "kernel": found.kernel,
        "modules": found.modules,
        "processes": found.processes,
        "pages": [(start, end, table.owners[owner]) for start, end, owner in rows],
        "offsets": table.offset.tolist(),
        "note": found.note,
    }


def compare_tiny(name: str, target: str, bits: int, *, planted: bool = True) -> None:
    """Kernel, modules, processes, contents of pages; on riscv64 also without data symbols.

    :param bits: of the guest's page tables.
    """
    found, told = compare(name)
    counts = found.table.counts()
    assert sum(counts.values()) * 4096 >= 250 << 20
    assert counts[OwnerKind.UNKNOWN] < sum(counts.values()) // 100
    assert counts[OwnerKind.KERNEL_MODULE] > 10
    assert compare_contents(name, told) == 1
    with GuestSession.open(socket_of(name), process_of(name)) as session:
        assert session.target == target
        opened = open_guest(session)
        assert opened.translation.tables.address_bits == bits
        all_symbols = "init_task" in SymbolTable(opened.memory, opened.info).find(("init_task",))
    if all_symbols:
        compare_functions_only(name, planted=planted)


def compare_functions_only(name: str, *, planted: bool = True) -> None:
    """With no symbols but functions the map is the same, and so is what is kept of a kernel.

    ``planted``: also after :func:`compare_after_planting`, which takes long and is about the
    kernel alone: one guest of each kernel is enough.
    """
    with paused(name):
        full = mapper.map_machine(socket_of(name), process_of(name))
        assert full.note == ""
        file = kernelcache.file_of(full.kernel.build_id)
        assert file is not None
        with GuestSession.open(socket_of(name), process_of(name)) as session:
            # on a busy machine one may be late
            for _ in range(3):
                file.unlink()
                first = mapper.map_guest(session, symbol_types=TEXT_TYPES)
                if first.took_s <= 2:
                    break
            again = [mapper.map_guest(session, symbol_types=TEXT_TYPES) for _ in range(5)]
            guest = open_guest(session, symbol_types=TEXT_TYPES)
            variables = (*VARIABLES, *guest.translation.variables)
            told = SymbolTable(guest.memory, guest.info).find(variables)
            only = SymbolTable(guest.memory, guest.info, TEXT_TYPES)
            assert only.find(variables).keys() == {"_stext"}
        assert told == {one: guest.symbols[one] for one in (*variables, "_stext")}
        assert first.took_s <= 2
        assert min(one.took_s for one in again) <= 0.6
        for one in (first, again[0], mapper.map_machine(socket_of(name))):
            assert contents(one) == contents(full)
        if planted:
            compare_after_planting(name, full, guest.translation.variables)


def compare_after_planting(name: str, full: GuestMap, own: tuple[str, ...]) -> None:
    """What another guest made us believe of this kernel is found out, one by one."""
    good = kernelcache.load(full.kernel.build_id)
    assert good is not None
    assert good.roots.keys() == {*EXPORTS, *own, "init_mm", "modules"}
    for symbol, step in itertools.product(good.roots, (0, 12)):
        lie = {symbol: good.symbols[symbol] + 64}
        proof = {symbol: good.roots[symbol] + step}
        bad = dataclasses.replace(
            good, symbols={**good.symbols, **lie}, roots={**good.roots, **proof}
        )
        kernelcache.save(full.kernel.build_id, bad)
        with GuestSession.open(socket_of(name), process_of(name)) as session:
            found = mapper.map_guest(session, symbol_types=TEXT_TYPES)
        assert contents(found) == contents(full), symbol
        assert kernelcache.load(full.kernel.build_id) == good, symbol
    without = {name: at for name, at in good.symbols.items() if name not in good.roots}
    # a guest that hides something, or has no modules
    kernelcache.save(full.kernel.build_id, dataclasses.replace(good, symbols=without, roots={}))
    with GuestSession.open(socket_of(name), process_of(name)) as session:
        found = mapper.map_guest(session, symbol_types=TEXT_TYPES)
    assert contents(found) == contents(full)
    assert kernelcache.load(full.kernel.build_id) == good
