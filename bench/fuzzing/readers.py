# SPDX-License-Identifier: GPL-2.0-or-later
"""What each of Python's readers has to hold, whatever it is given.

A check returns whether the input was read; it was refused else, with FormatError and a
reason of ``counters.REJECTS``. Every other exception is a fault, and so is an assertion
that fails: of a block that a reader returns the bounds of docs/formats.md are true.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.fuzzing import mutations
from bench.reference import lookup
from bench.reference.journalwriter import (
    BlockData,
    adopted_record,
    journal_header,
    pack_record,
    ram_map_record,
    record_header,
)
from bench.reference.lookup import Query
from sysqcache.base import statefile
from sysqcache.base.counters import REJECTS
from sysqcache.base.errors import FormatError
from sysqcache.base.types import RunInfo
from sysqcache.formats import block as bf
from sysqcache.formats.blocktable import BlockTable
from sysqcache.formats.journal import outdated_blocks, parse_journal
from sysqcache.formats.modules import KINDS, Module, ModuleKind
from sysqcache.formats.places import Places
from sysqcache.formats.runfiles import RunFiles
from sysqcache.store import dedupe, key, records
from sysqcache.store.bundle import form as bundle
from sysqcache.store.bundle.read import read_bundle
from sysqcache.store.crowding import crowded
from sysqcache.store.layout import StoreLayout
from sysqcache.store.manifest import Manifest
from sysqcache.store.pack import Pack, outdated_header
from sysqcache.store.pins import pinned
from sysqcache.store.summary import iso_time
from sysqcache.store.verify import unfindable
from sysqcache.store.writer import PackPieces

_FINGERPRINT: Final = b"\x33" * 32
_TEXT: Final = "arch=x86_64\n"
_BLOCK: Final = struct.Struct("<QQIIHHHHI2H2HI")
_MOST: Final = 12
"""So many blocks of an input are looked at one by one."""


@dataclass(frozen=True)
class Target:
    """One reader: what it is given to begin with, how that is changed, what must hold.

    ``check`` gets the content and a directory of its own.
    """

    name: str
    seeds: Callable[[], list[bytes]]
    mutate: mutations.Mutation
    check: Callable[[bytes, Path], bool]
    found: list[bytes] = field(default_factory=list, repr=False)

    def first(self) -> list[bytes]:
        """The seeds, made once."""
        if not self.found:
            self.found.extend(self.seeds())
        return self.found


def refused(error: FormatError) -> bool:
    """That an input was not read, for a reason that has a name."""
    assert error.reason in ("", *REJECTS), error.reason
    return False


# blocks, by the book: docs/formats.md, not the code that is tried


def require_block(content: memoryview, at: int, end: int) -> None:
    """What is documented of a block that begins at ``at``, nothing of it behind ``end``."""
    assert at % 16 == 0
    assert at + 48 <= end <= len(content)
    head = _BLOCK.unpack_from(content, at)
    cflags, page_offset, guest, icount, search, code = head[3:9]
    reset, insn, flags = head[9:11], head[11:13], head[13]
    imms = flags >> 8 & 0xFF
    size = 48 + guest + code + search + 4 * imms
    assert at + (size + 15) // 16 * 16 <= end
    assert size <= 96 << 10
    assert 1 <= guest <= 4096
    assert page_offset <= 4095
    assert 1 <= icount <= 512
    assert code > 0
    assert search > 0
    assert not flags & ~0xFF0F
    assert bool(flags & 1) == (page_offset + guest > 4096)
    assert not (flags & 4 and cflags & 0x8000)
    assert not (flags & 2 and not imms)
    for where, back in zip(insn, reset, strict=True):
        assert back == 0xFFFF or (where % 4 == 0 and where + 4 <= code and back <= code)
    assert imms <= 48
    assert not (imms and flags & 1)
    _require_imms(content, at + size - 4 * imms, imms, guest, code)


def _require_imms(content: memoryview, at: int, count: int, guest: int, code: int) -> None:
    before = -4
    for number in range(count):
        place, host = struct.unpack_from("<HH", content, at + 4 * number)
        place &= 0x7FFF
        assert place == before or place >= before + 4
        assert place + 4 <= guest
        assert host != 0xFFFF
        assert host + 4 <= code
        before = place


def _some(count: int) -> list[int]:
    """A few rows of many, the last among them."""
    return sorted({*range(min(count, _MOST)), *range(max(count - 2, 0), count)})


def _query(table: BlockTable, row: int) -> Query:
    head = table.headers[row]
    return Query(
        cs_base=int(head["cs_base"]),
        flags=int(head["flags"]),
        cflags=int(head["cflags"]),
        page_offset=int(head["page_offset"]),
        guest=bytes(table.guest_bytes(row)),
    )


def _require_lookups(pack: Pack, table: BlockTable) -> None:
    """Whatever a lookup finds is a block, and for what was asked."""
    end = 4096 + pack.header.blocks_size
    for row in _some(len(table)):
        asked = _query(table, row)
        for guest in (asked.guest, asked.guest + b"more", asked.guest[:1], b""):
            query = Query(asked.cs_base, asked.flags, asked.cflags, asked.page_offset, guest)
            at = lookup.find(pack, query)
            if at is None:
                continue
            require_block(pack.buffer, at, end)
            head = bf.BLOCK.unpack(pack.buffer, at)
            assert int(head["flags"]) == query.flags
            assert int(head["cs_base"]) == query.cs_base
            assert int(head["guest_size"]) <= len(guest)


# journals


def _blocks() -> list[BlockData]:
    far = b"\x90" * 9 + b"\x00\x00\x00\x81" + b"\xb8" + b"\x00\x00\x00\x82"
    crossing: dict[str, Any] = {"pc": 0x2FFA, "ram0": 0xFFA, "ram1": 0x7000}
    return [
        BlockData(guest=b"\x90\xc3", code=b"\x0f\x0b\xc3", pc=0x10),
        BlockData(guest=b"abcdefghijkl", code=b"\xc3" * 24, pc=0x10, cflags=0x200),
        BlockData(guest=b"abcdefgh", code=b"\xc3" * 20, pc=0x10, cflags=0x200, block_flags=4),
        BlockData(guest=b"0123456789", code=b"\xc3" * 17, **crossing),
        BlockData(guest=far, code=b"\xc3" * 40, pc=0x20, imms=((9, 4), (9, 12), (14, 36))),
        BlockData(guest=b"\xb8\0\0\0\x81" + far, code=b"\xc3" * 40, pc=0x20, imms=((1, 3),)),
        BlockData(guest=b"abcdefgh", code=b"\xc3" * 20, pc=0x10, cflags=0x8200, vcpu=1),
    ]


def _journals() -> list[bytes]:
    header = journal_header(_FINGERPRINT, _TEXT, start_time=5, pid=6)
    found = [block.record() for block in _blocks()]
    dead = struct.pack("<QII", 0xFFA, 16, 20)
    others = [
        ram_map_record([(0, 0, 0x8000), (0x8000, 1 << 32, 0x4000)]),
        pack_record(0, "ab" * 32),
        adopted_record([(256, 0, 0, 0x1000), (300, 1, 0, 0x2000)]),
        record_header(bf.RECORD_DEAD, len(dead)) + dead,
        record_header(77, 5) + bytes(16),
    ]
    return [header, header + b"".join(found), header + b"".join(others + found + found[:2])]


def check_journal(content: bytes, scratch: Path) -> bool:
    """Records stay inside, blocks are as documented, and a pack of them finds them all."""
    path = scratch / "run.journal"
    _write(path, content)
    outdated = outdated_blocks(path)
    try:
        journal = parse_journal(memoryview(content))
    except FormatError as error:
        return refused(error)
    assert outdated is None
    table, whole = journal.blocks, len(content) - journal.tail_bytes
    assert 4096 <= whole <= len(content)
    assert len(table) == len(journal.records)
    assert table.good_checksums().all()
    for row in _some(len(table)):
        at = int(table.offsets[row])
        require_block(table.buffer, at, at - 48 + int(journal.records["total_size"][row]))
        assert at - 48 + int(journal.records["total_size"][row]) <= whole
        table.imms(row)
    assert np.isin(journal.adopted["pack"], list(journal.packs)).all()
    assert not np.isin(journal.records["ram0"], journal.dead["ram_addr"]).any()
    _require_pack_of(table)
    return True


def _require_pack_of(table: BlockTable) -> None:
    """The blocks that a store would keep become a pack which is whole."""
    fresh = table.select(dedupe.split([], key.identities(table)).fresh)
    seed = len(fresh) * 0x9E3779B97F4A7C15 % 2**64
    kept = fresh.select(~crowded([fresh], None, seed)[0])
    pieces = PackPieces.plan(_FINGERPRINT, _TEXT, [kept], seed=seed)
    pack = Pack(memoryview(b"".join(pieces.chunks())))
    found = pack.blocks()
    assert pack.holds_all_of(found)
    assert np.array_equal(found.headers, kept.headers)
    assert unfindable(pack, found) == 0
    for row in _some(len(found)):
        if not found.imm_counts()[row]:
            assert lookup.find(pack, _query(found, row)) is not None


# packs


def _packs() -> list[bytes]:
    found = []
    for blocks in ([], _blocks()[:1], _blocks()):
        header = journal_header(_FINGERPRINT, _TEXT)
        journal = parse_journal(memoryview(header + b"".join(b.record() for b in blocks)))
        pieces = PackPieces.plan(_FINGERPRINT, _TEXT, [journal.blocks], seed=0x5EED)
        found.append(b"".join(pieces.chunks()))
    return found


def check_pack(content: bytes, scratch: Path) -> bool:
    """Blocks lie in the block area and are as documented, also those that lookups find."""
    path = scratch / "some.pack"
    _write(path, content)
    outdated = outdated_header(path)
    try:
        pack = Pack(memoryview(content))
    except FormatError as error:
        return refused(error)
    assert outdated is None
    table, end = pack.blocks(), 4096 + pack.header.blocks_size
    assert len(pack.header.text) <= 3960
    assert len(pack.index) == pack.header.index_entries
    for row in _some(len(table)):
        require_block(pack.buffer, int(table.offsets[row]), end)
        table.imms(row)
    good = table.select(table.good_checksums())
    pack.holds_all_of(table)
    lost = unfindable(pack, good)
    assert 0 <= lost <= len(good)
    for row in _some(len(good)):
        assert lost or good.imm_counts()[row] or lookup.find(pack, _query(good, row)) is not None
    _require_lookups(pack, good)
    key.identities(good)
    return True


# bundles


def _contents(packs: list[bundle.PackEntry]) -> bundle.Contents:
    module = bundle.ModuleEntry(
        number=5,
        kind=ModuleKind.FILE,
        id="aa" * 20,
        name="/bin/x",
        group="files:3",
        first_seen=1.0,
        last_used=2.0,
        images=(3,),
        dead_unplaced=0,
    )
    return bundle.Contents(
        images=(
            bundle.ImageEntry(
                number=3, image_id="i", runs=2, fingerprints=("33" * 32,), modules=((5, 1),)
            ),
        ),
        modules=(module,),
        dead=(bundle.DeadEntry(module=5, offset=16, size=16, changes=20, reason="x"),),
        packs=tuple(packs),
    )


def _member(name: str, content: bytes) -> bytes:
    return bundle.member_header(name, len(content)) + content + bytes(bundle.padding(len(content)))


def _bundle(packs: list[bytes], columns: list[bytes], listed: bytes | None = None) -> bytes:
    """A bundle with hashes and sizes that are right."""
    entries = [
        bundle.PackEntry(
            sha256=hashlib.sha256(one).hexdigest(),
            columns=hashlib.sha256(rows).hexdigest(),
            fingerprint="33" * 32,
            arch="x86_64",
            group="files:3",
            blocks=max(len(rows) // bundle.COLUMNS.itemsize, 1),
            bytes=max(len(one), 1),
        )
        for one, rows in zip(packs, columns, strict=False)
    ]
    content = _contents(entries).encode() if listed is None else listed
    parts = [_member(bundle.contents_name(hashlib.sha256(content).hexdigest()), content)]
    for entry, one, rows in zip(entries, packs, columns, strict=False):
        parts += [_member(bundle.pack_name(entry), one), _member(bundle.columns_name(entry), rows)]
    return b"".join(parts) + bytes(1024)


def _columns(count: int) -> bytes:
    rows = np.zeros(count, bundle.COLUMNS)
    rows["uses"], rows["image"], rows["module"], rows["offset"] = 1, 3, 5, 64
    return rows.tobytes()


def _bundles() -> list[bytes]:
    packs = _packs()[1:]
    counts = [1, len(_blocks())]
    return [_bundle([], []), _bundle(packs, [_columns(count) for count in counts])]


def _members(content: bytes) -> list[bytes]:
    """Contents of the members of a tar, as far as it can be read."""
    found = []
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            found = [file.read() for info in tar if (file := tar.extractfile(info)) is not None]
    except (tarfile.TarError, ValueError, OSError):
        pass
    return found


def _mutate_bundle(rng: random.Random, content: bytes) -> bytes:
    """Other bytes, another list of contents, or another pack with its hashes made right."""
    import zstandard

    members, kind = _members(content), rng.randrange(8)
    if kind <= 1 or len(members) < 3:
        changed = mutations.bytes_changed(rng, content)
    elif kind <= 4:
        listed = mutations.json_text(rng, members[0])
        changed = _bundle(members[1::2], members[2::2], listed)
    else:
        packs, columns = members[1::2], members[2::2]
        at = rng.randrange(len(columns))
        if kind == 5:
            columns[at] = mutations.bytes_changed(rng, columns[at])
        else:
            packs[at] = mutations.pack(rng, packs[at])
        changed = _bundle(packs, columns)
    if rng.randrange(4) == 0:
        packed = zstandard.compress(changed, 1)
        return mutations.bytes_changed(rng, packed) if rng.randrange(2) else packed
    return changed


def check_bundle(content: bytes, scratch: Path) -> bool:
    """Everything of a bundle that is taken is as listed and documented; no file remains."""
    path = scratch / "bundle"
    _write(path, content)
    before = sorted(scratch.iterdir())
    try:
        found = read_bundle(path, scratch, lambda *_: None)
    except FormatError as error:
        return refused(error)
    finally:
        assert sorted(scratch.iterdir()) == before
    known = {0, *(module.number for module in found.contents.modules)}
    for pack in found.packs:
        assert len(pack.table) == len(pack.columns) == pack.entry.blocks
        assert set(pack.columns["module"].tolist()) <= known
        for row in _some(len(pack.table)):
            require_block(pack.table.buffer, int(pack.table.offsets[row]), len(pack.table.buffer))
        key.identities(pack.table)
    return True


# small files: boot sets, notes, pins, lists of places, rows of the metadata


def _rows() -> dict[str, records.Row]:
    shares = {0: records.ModuleShare(1, 64), 5: records.ModuleShare(2, 128)}
    return {
        "PackRow": records.PackRow(
            "ab" * 32, "33" * 32, "x86_64", 3, 9000, 1.5, 2.5, "live", "files:1", shares, bf.VERSION
        ),
        "FingerprintRow": records.FingerprintRow("33" * 32, "x86_64", _TEXT, 1.0, 2.5),
        "ImageRow": records.ImageRow("i", 1, 1.0, 2.5, ("33" * 32,), 2, {5: 1}),
        "ModuleRow": records.ModuleRow(5, "aa" * 20, "file", "/bin/x", "files:1", 1.0, 2.5),
        "DeadRow": records.DeadRow(5, 16, 16, 20, "rewrites itself", 1, 2),
        "RunRow": records.RunRow(
            1, "r", "m", "x86_64", "on", "boot", 1.0, 2.0, "i", "33" * 32, 3, 0, 0, ("ab" * 32,)
        ),
        "GlobalRow": records.GlobalRow(generation=3, runs=1, images=1, modules=5),
    }


def _all_rows() -> list[bytes]:
    return [
        json.dumps({"kind": kind, "row": row.to_values()}).encode() for kind, row in _rows().items()
    ]


def check_row(content: bytes, scratch: Path) -> bool:
    """A row of the metadata is one that its users can work with, or damage."""
    try:
        outer = json.loads(content)
        kind, text = outer["kind"], json.dumps(outer["row"]).encode()
        decode = getattr(records, kind).decode
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        text, decode = content, records.PackRow.decode
    try:
        row = decode(text)
    except statefile.DAMAGED_JSON:
        return False
    assert decode(row.encode()) == row
    for name in ("created", "last_used", "first_seen", "started", "ingested"):
        if hasattr(row, name):
            iso_time(getattr(row, name))
    if isinstance(row, records.PackRow):
        assert StoreLayout(scratch).pack(row.sha256).parent == StoreLayout(scratch).packs
    if isinstance(row, records.ModuleRow):
        assert row.module.kind in KINDS
    return True


def _boot_sets() -> list[bytes]:
    row = _rows()
    other = records.PackRow("cd" * 32, "44" * 32, "x86_64", 3, 9000, 1.0, 2.0, version=bf.VERSION)
    module: Any = row["ModuleRow"]
    some: Any = [row["PackRow"], row["FingerprintRow"], row["ImageRow"]]
    full = Manifest.of(3, [some[0], other], [some[1]], [some[2]], [module])
    return [full.encode(), Manifest().encode()]


def check_boot_sets(content: bytes, scratch: Path) -> bool:
    """A start gets names of packs inside of the store, and nothing raises."""
    try:
        found = Manifest.decode(content)
    except FormatError as error:
        return refused(error)
    layout = StoreLayout(scratch)
    asked = [None, [Module(ModuleKind.KERNEL, "aa" * 20)], []]
    for image in ("i", "new", *(row.image_id for row in found.images[:2])):
        for modules in asked:
            rows = found.boot_set(image, "x86_64", modules)
            assert all(row.live for row in rows)
            assert {layout.pack(row.sha256).parent for row in rows} <= {layout.packs}
    assert Manifest.decode(found.encode()) == found
    return True


def _notes() -> list[bytes]:
    run = RunInfo("20250101T000000-m-0123", "m", "x86_64", "on", 1.5)
    return [json.dumps({"image_id": "i", "run": run.to_json()}).encode()]


def check_note(content: bytes, scratch: Path) -> bool:
    """A note beside a journal tells a run in words and a time."""
    files = RunFiles(scratch / "run.journal")
    _write(files.note, content)
    try:
        note = files.read_note()
    except FormatError as error:
        return refused(error)
    assert isinstance(note.image_id, str)
    assert all(isinstance(v, str) for n, v in note.run.to_json().items() if n != "started")
    iso_time(note.run.started)
    return True


def check_pins(content: bytes, scratch: Path) -> bool:
    """Names of packs, and nothing else, whatever is in the file."""
    layout = StoreLayout(scratch)
    layout.pins.mkdir(exist_ok=True)
    _write(layout.pins / "m.json", content)
    found = pinned(layout)
    assert all(len(name) == 64 and name.isalnum() for name in found)
    return bool(found)


def _places() -> list[bytes]:
    found = Places(
        modules=(Module(ModuleKind.FILE, "aa" * 20, "/bin/x"),),
        record=np.array([4096, 4240], np.int64),
        module=np.array([0, -1], np.int32),
        offset=np.array([16, 0], np.uint32),
        kind=np.array([0, 6], np.uint8),
        kernel=Module(ModuleKind.KERNEL, "bb" * 20, "6.1"),
        dead_ram=np.array([4096], np.uint64),
        dead_module=np.array([0], np.int32),
        dead_offset=np.array([32], np.uint32),
    )
    return [found.encode(), Places.nothing().encode()]


def check_places(content: bytes, scratch: Path) -> bool:
    """Arrays fit together and name modules that are listed."""
    del scratch
    try:
        found = Places.decode(content)
    except FormatError as error:
        return refused(error)
    assert sum(found.counts().values()) == len(found.record)
    both = found.merged(Places.decode(_places()[0]))
    assert len(both.record) >= len(found.record)
    assert all(0 <= n < len(found.modules) for n in found.module.tolist() if n != -1)
    return True


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)


TARGETS: Final = (
    Target("journal", _journals, mutations.journal, check_journal),
    Target("pack", _packs, mutations.pack, check_pack),
    Target("bundle", _bundles, _mutate_bundle, check_bundle),
    Target("boot-sets", _boot_sets, mutations.json_text, check_boot_sets),
    Target("row", _all_rows, mutations.json_text, check_row),
    Target("note", _notes, mutations.json_text, check_note),
    Target("pins", lambda: [json.dumps(["ab" * 32]).encode()], mutations.json_text, check_pins),
    Target("places", _places, mutations.arrays, check_places),
)


def named(name: str) -> Target:
    """The target of a name; raises KeyError."""
    return {target.name: target for target in TARGETS}[name]


def inputs(target: Target, rng: random.Random, corpus: list[bytes]) -> Iterator[bytes]:
    """Inputs without end: seeds and inputs of before, changed once or a few times."""
    while True:
        content = rng.choice([*target.first(), *corpus])
        for _ in range(rng.choice((1, 1, 2, 4))):
            content = target.mutate(rng, content)
        yield content
