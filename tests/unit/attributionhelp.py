# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest in which everything is known: its pages, their owners, its journal."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import numpy as np
from guestmaphelp import FakeMemory

from bench.reference.journalwriter import BlockData, journal_header, ram_map_record, record_header
from sysqcache.attribution.attribute import attribute
from sysqcache.attribution.observation import Observation, observe
from sysqcache.attribution.truths import Truths
from sysqcache.formats import block as bf
from sysqcache.formats.journal import Journal, parse_journal
from sysqcache.formats.modules import KINDS, Module, ModuleKind
from sysqcache.formats.places import NO_MODULE, Places
from sysqcache.guestmap.result import GuestMap, KernelInfo, KernelModule, Process
from sysqcache.guestmap.table import UNKNOWN, Owner, OwnerKind, OwnerTable

PAGE = 4096
RAM_BASE = 1 << 30
"""RAM addresses are guest-physical ones plus this much."""

LIBC = Owner(OwnerKind.FILE, "/lib/libc.so.6", "c" * 40, file=1)
SHELL = Owner(OwnerKind.FILE, "/bin/sh", "5" * 40, file=2)
KERNEL = KernelInfo(
    release="6.1.0-test",
    build_id="e" * 40,
    text=(0xFFFFFFFF81000000, 0xFFFFFFFF81400000),
    init_text=(0xFFFFFFFF81800000, 0xFFFFFFFF81900000),
    base=0xFFFFFFFF81000000,
    end=0xFFFFFFFF82000000,
    physical=0x1000000,
)
TEXT = Owner(OwnerKind.KERNEL, "text", KERNEL.build_id)
EXT4 = KernelModule(
    "ext4", 0xFFFFFFFFC0000000, 0x8000, "d" * 40, (0xFFFFFFFFC0000000, 0xFFFFFFFFC0004000)
)
EXT4_OWNER = Owner(OwnerKind.KERNEL_MODULE, "ext4", EXT4.build_id)


def code(seed: int, size: int) -> bytes:
    """Bytes that occur nowhere else."""
    return random.Random(seed).randbytes(size)


@dataclasses.dataclass(frozen=True)
class Place:
    """What an answer says of one block."""

    module: str
    offset: int
    kind: ModuleKind


class World:
    """Memory, owners and recorded blocks; addresses are guest-physical."""

    def __init__(self, kernel: KernelInfo = KERNEL, modules: Sequence[KernelModule] = ()) -> None:
        self.memory = FakeMemory()
        self.kernel = kernel
        self.modules = tuple(modules)
        self.processes: list[Process] = []
        self.ranges = [(RAM_BASE, 0, 1 << 36)]
        self._pages: dict[int, tuple[Owner, int]] = {}
        self._records: list[bytes] = []

    def page(self, address: int, owner: Owner, offset: int, content: bytes = b"") -> None:
        """Give a page to an owner, with these bytes in it."""
        self._pages[address // PAGE] = owner, offset
        self.memory.write(address, content.ljust(PAGE, b"\0"))

    def run(self, address: int, pc: int, guest: bytes, second: int | None = None) -> None:
        """Record a block that began at ``address``, its second page at ``second``."""
        assert address % PAGE == pc % PAGE
        number = len(self._records)
        block = BlockData(
            guest=guest,
            code=number.to_bytes(4, "little") * 4,
            pc=pc,
            ram0=RAM_BASE + address,
            ram1=bf.NO_RAM if second is None else RAM_BASE + second,
        )
        self._records.append(block.record())

    def die(self, address: int) -> None:
        """Record a dead area."""
        area = bf.DEAD_AREA.pack(ram_addr=RAM_BASE + address, size=4, changes=16)
        header = record_header(bf.RECORD_DEAD, len(area))
        self._records.append(header + bytes(area))

    def journal(self) -> Journal:
        """What the engine has written so far."""
        head = journal_header(b"\x11" * 32, "test")
        return parse_journal(
            memoryview(head + ram_map_record(self.ranges) + b"".join(self._records))
        )

    def table(self) -> OwnerTable:
        """The owners of all pages now."""
        owners = [UNKNOWN]
        rows = []
        for page, (owner, offset) in sorted(self._pages.items()):
            if owner not in owners:
                owners.append(owner)
            rows.append((page, owners.index(owner), offset))
        columns = np.array(rows, np.uint64).reshape(-1, 3).T
        return OwnerTable.from_pages(owners, columns[0], columns[1].astype(np.int64), columns[2])

    def look(self, seconds: float = 5.0) -> Observation:
        """Observe the guest now."""
        found = GuestMap(
            self.kernel, self.modules, tuple(self.processes), self.table(), 0.0, 0.0, ""
        )
        return observe(self.memory, found, self.journal(), seconds=seconds)

    def places(self, *looks: Observation, truths: Truths | None = None) -> list[Place]:
        """What attribution says of each block; by one look, now, if none is given."""
        return as_places(attribute(self.journal(), looks or (self.look(),), truths))


def as_places(found: Places) -> list[Place]:
    """An answer block by block."""
    places = []
    for number, offset, kind in zip(
        found.module.tolist(), found.offset.tolist(), found.kind.tolist(), strict=True
    ):
        name = "" if number == NO_MODULE else found.modules[number].name
        places.append(Place(name, offset, KINDS[kind]))
    return places


def open_as(kind: ModuleKind) -> Place:
    """A block without a place."""
    return Place("", 0, kind)


def module_of(owner: Owner) -> Module:
    """The module that a file is."""
    return Module(ModuleKind.FILE, owner.build_id, owner.name)
