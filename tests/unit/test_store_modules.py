# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocks by module: places, groups of packs, boot sets, dead areas, why blocks missed."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from storehelp import FINGERPRINT, OTHER_FINGERPRINT, TEXT, make_block, make_blocks, make_run

from bench.reference.journalwriter import BlockData, journal_header, record_header
from sysqcache.formats import block as bf
from sysqcache.formats.journal import read_journal
from sysqcache.formats.modules import KINDS, Module, ModuleKind
from sysqcache.formats.places import NO_MODULE, Places
from sysqcache.formats.runfiles import RunFiles
from sysqcache.store.deadareas import CLEAN_RUNS
from sysqcache.store.facade import Store
from sysqcache.store.meta import Meta
from sysqcache.store.recording import IngestResult
from sysqcache.store.records import DeadRow, RunRow
from sysqcache.store.registry import record_offsets

KERNEL = Module(ModuleKind.KERNEL, "aa" * 20, "6.1.0-test")
NEWER_KERNEL = Module(ModuleKind.KERNEL, "ab" * 20, "6.2.0-test")
DRIVER = Module(ModuleKind.KERNEL_MODULE, "bb" * 20, "virtio_blk")
LIBC = Module(ModuleKind.FILE, "cc" * 20, "/usr/lib/libc.so.6")
SHELL = Module(ModuleKind.FILE, "dd" * 20, "/usr/bin/dash")
BIOS = Module(ModuleKind.FIRMWARE, f"sha256:{'ee' * 32}", "bios.bin")

Place = tuple[BlockData, Module | ModuleKind, int]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def run(
    store: Store,
    places: Sequence[Place],
    *,
    image: str = "image",
    kernel: Module | None = KERNEL,
    fingerprint: bytes = FINGERPRINT,
    dead: Sequence[tuple[int, Module | None, int]] = (),
    adopted: Sequence[tuple[Path, int]] = (),
) -> IngestResult:
    """Ingest a run: blocks with what owns them, dead (ram, module, offset), adopted blocks."""
    run.count += 1  # type: ignore[attr-defined]
    info = make_run(f"run{run.count}")  # type: ignore[attr-defined]
    journal = store.new_journal(image_id=image, run=info)
    records = [block.record() for block, _, _ in places]
    records += [dead_record(ram) for ram, _, _ in dead]
    records += adoption_records(adopted)
    header = journal_header(fingerprint, TEXT, start_time=run.count, pid=1)  # type: ignore[attr-defined]
    journal.write_bytes(header + b"".join(records))
    journal.chmod(0o600)
    RunFiles(journal).write_places(placements(journal, places, kernel, dead))
    return store.ingest(journal, image_id=image, run=info)


run.count = 0  # type: ignore[attr-defined]


def dead_record(ram: int) -> bytes:
    payload = struct.pack("<QII", ram, 16, 20)
    return record_header(bf.RECORD_DEAD, len(payload), 0, (0, ram, bf.NO_RAM)) + payload


def adoption_records(adopted: Sequence[tuple[Path, int]]) -> list[bytes]:
    """The packs of ``adopted`` and the blocks (by their offset in the file) used of them."""
    names = sorted({path.stem for path, _ in adopted})
    records = [
        bytes(bf.PACK_NAME.pack(number=n, name=name.encode())) for n, name in enumerate(names)
    ]
    found = [record_header(bf.RECORD_PACK, len(payload)) + payload for payload in records]
    uses = b"".join(
        bf.ADOPTED.pack(position=offset // bf.ALIGN, pack=names.index(path.stem))
        for path, offset in adopted
    )
    return [*found, record_header(bf.RECORD_ADOPTED, len(uses)) + uses] if adopted else []


def placements(
    journal: Path,
    places: Sequence[Place],
    kernel: Module | None,
    dead: Sequence[tuple[int, Module | None, int]],
) -> Places:
    """What attribution would have written for ``places``; all blocks are intact."""
    modules: list[Module] = []

    def number(owner: Module | ModuleKind | None) -> int:
        if not isinstance(owner, Module):
            return NO_MODULE
        if owner not in modules:
            modules.append(owner)
        return modules.index(owner)

    kept = record_offsets(read_journal(journal))
    owners = list(places)[: len(kept)]
    kinds = [p[1].kind if isinstance(p[1], Module) else p[1] for p in owners]
    return Places(
        module=np.array([number(p[1]) for p in owners], np.int32),
        dead_module=np.array([number(d[1]) for d in dead], np.int32),
        modules=tuple(modules),
        record=kept,
        offset=np.array([p[2] for p in owners], np.uint32),
        kind=np.array([KINDS.index(kind) for kind in kinds], np.uint8),
        kernel=kernel,
        dead_ram=np.array([d[0] for d in dead], np.uint64),
        dead_offset=np.array([d[2] for d in dead], np.uint32),
    )


def placed(numbers: range, owner: Module | ModuleKind) -> list[Place]:
    """Blocks by number, each at 16 times its number in ``owner``."""
    return [(make_block(n), owner, 16 * n) for n in numbers]


def lines(store: Store) -> dict[str, tuple[str, int, int]]:
    """Kind, blocks and dead places by name."""
    return {m.name: (m.kind, m.blocks, m.dead) for m in store.list_modules()}


def last_run(store: Store) -> RunRow:
    with Meta(store.layout.meta, read_only=True) as meta:
        return meta.runs()[-1]


def why(store: Store) -> dict[str, dict[str, int]]:
    """Why blocks of the last run missed, by the name of their module."""
    with Meta(store.layout.meta, read_only=True) as meta:
        rows = meta.modules()
        return {rows[n].name: found for n, found in meta.why(meta.counters.runs).items()}


def dead_rows(store: Store) -> list[DeadRow]:
    with Meta(store.layout.meta, read_only=True) as meta:
        return meta.dead()


def boot(store: Store) -> list[Place]:
    """What a first boot records."""
    return [
        *placed(range(3), BIOS),
        *placed(range(3, 10), KERNEL),
        *placed(range(10, 12), DRIVER),
        *placed(range(12, 20), LIBC),
        *placed(range(20, 22), SHELL),
        *placed(range(22, 23), ModuleKind.JIT),
        *placed(range(23, 24), ModuleKind.UNKNOWN),
    ]


def test_blocks_are_listed_by_module(store: Store) -> None:
    result = run(store, boot(store))
    assert result.blocks_new == 24
    assert lines(store) == {
        "bios.bin": ("firmware", 3, 0),
        "6.1.0-test": ("kernel", 7, 0),
        "virtio_blk": ("kernel-module", 2, 0),
        "/usr/lib/libc.so.6": ("file", 8, 0),
        "/usr/bin/dash": ("file", 2, 0),
        "jit under 6.1.0-test": ("jit", 1, 0),
        "unknown under 6.1.0-test": ("unknown", 1, 0),
    }
    assert last_run(store).kinds["file"] == 10
    assert store.verify().good


def test_packs_are_those_of_firmware_kernel_and_files(store: Store) -> None:
    run(store, boot(store))
    groups = {p.group: p.blocks for p in store.packs()}
    assert groups == {"firmware": 3, f"kernel:{KERNEL.id}": 10, "files:1": 11}


def test_columns_hold_places_flags_and_sizes(store: Store) -> None:
    run(store, placed(range(5), LIBC))
    with Meta(store.layout.meta, read_only=True) as meta:
        (pack,) = meta.packs().values()
        columns = meta.columns(pack)
        assert meta.modules()[columns.module[0]].module == LIBC
    assert columns.offset.tolist() == [0, 16, 32, 48, 64]
    assert columns.size.tolist() == [len(b.guest) for b in make_blocks(*range(5))]
    assert set(columns.flags.tolist()) == {make_block(0).flags}


def test_image_that_never_ran_gets_the_packs_of_what_it_contains(store: Store) -> None:
    run(store, boot(store), image="one")
    run(store, placed(range(30, 34), NEWER_KERNEL), image="two", kernel=NEWER_KERNEL)
    of = {p.group: store.layout.pack(p.sha256) for p in store.packs()}
    kernel, firmware, files = of[f"kernel:{KERNEL.id}"], of["firmware"], of["files:1"]

    def boot_set(*contents: Module) -> set[Path]:
        return set(store.boot_set("never booted", "x86_64", lambda: list(contents)))

    assert boot_set(KERNEL, DRIVER, LIBC, BIOS) == {kernel, firmware, files}
    assert boot_set(LIBC) == {files}
    assert boot_set(NEWER_KERNEL, LIBC) == {of[f"kernel:{NEWER_KERNEL.id}"], files}
    # what ran under this kernel without a name is found by its content
    assert files in boot_set(KERNEL)
    assert boot_set() == set()
    assert set(store.boot_set("never booted", "x86_64")) == set(of.values())


@pytest.mark.parametrize("kind", [ModuleKind.KERNEL, ModuleKind.UNKNOWN], ids=["file", "disk"])
def test_what_no_linux_ran_is_found_by_what_it_was_started_from(
    store: Store, kind: ModuleKind
) -> None:
    """A copy of the image, which has another path, gets the packs of the first machine."""
    system, other = Module(kind, "disk:1", "os.img"), Module(kind, "disk:2", "other.img")
    run(store, placed(range(4), ModuleKind.UNKNOWN), image="one", kernel=system)
    run(store, placed(range(4, 8), ModuleKind.UNKNOWN), image="two", kernel=other)
    assert {m.name for m in store.list_modules()} == {
        "unknown under os.img",
        "unknown under other.img",
    }

    def found(module: Module) -> int:
        packs = store.boot_set("never booted", "x86_64", lambda: [module])
        return sum(p.blocks for p in store.packs() if store.layout.pack(p.sha256) in packs)

    assert (found(system), found(other), found(Module(kind, "disk:3"))) == (4, 4, 0)


def test_image_that_ran_is_not_looked_into(store: Store) -> None:
    run(store, boot(store), image="one")

    def never() -> list[Module]:
        raise AssertionError("nobody needs to look")

    assert len(store.boot_set("one", "x86_64", never)) == 3
    assert store.boot_set("other", "aarch64", never) == []


def test_image_maps_what_other_images_brought_of_its_modules(store: Store) -> None:
    run(store, boot(store), image="one")
    run(store, [*placed(range(12, 14), LIBC), *placed(range(40, 42), SHELL)], image="two")
    assert last_run(store).blocks_known == 2
    shared = {
        p.group
        for p in store.packs()
        if store.layout.pack(p.sha256) in store.boot_set("two", "x86_64")
    }
    assert shared == {"files:1"}
    assert {m.name: m.images for m in store.list_modules()}["/usr/lib/libc.so.6"] == 2


def test_adopted_blocks_are_used_blocks(store: Store) -> None:
    (pack,) = run(store, placed(range(4), LIBC)).packs
    with Meta(store.layout.meta, read_only=True) as meta:
        offsets = meta.columns(meta.packs()[pack.stem]).offsets().tolist()
    adopted = [(pack, offsets[1]), (pack, offsets[3]), (pack, offsets[3] + 16)]
    run(store, placed(range(7, 8), SHELL), image="two", adopted=adopted)
    with Meta(store.layout.meta, read_only=True) as meta:
        columns = meta.columns(meta.packs()[pack.stem])
        assert columns.uses.tolist() == [1, 2, 1, 2]
        assert columns.last.tolist() == [1, 2, 1, 2]
        assert meta.runs()[-1].adopted == 2  # what lies between blocks is none
        assert {meta.modules()[n].name for n in meta.images()["two"].modules} == {
            LIBC.name,
            SHELL.name,
        }


def test_damaged_list_of_places_leaves_blocks_unknown(store: Store) -> None:
    info = make_run("damaged")
    journal = store.new_journal(image_id="image", run=info)
    journal.write_bytes(journal_header(FINGERPRINT, TEXT) + make_block(1).record())
    journal.chmod(0o600)
    RunFiles(journal).places.write_bytes(b"PK\x03\x04 not a list")
    RunFiles(journal).places.chmod(0o600)
    assert store.ingest(journal, image_id="image", run=info).blocks_new == 1
    assert lines(store) == {"image": ("unknown", 1, 0)}
    assert list(store.layout.journals.iterdir()) == []


def test_dead_places_are_not_kept_and_live_again(store: Store) -> None:
    rewritten = [(make_block(50), LIBC, 0x500), (make_block(51), LIBC, 0x508)]
    quiet = [(make_block(52), LIBC, 0x510)]
    result = run(store, [*rewritten, *quiet], dead=[(0x7000, LIBC, 0x500)])
    assert (result.blocks_new, result.blocks_dead) == (1, 2)
    assert lines(store)[LIBC.name] == ("file", 1, 1)
    (row,) = dead_rows(store)
    assert (row.offset, row.size, row.changes, row.clean_runs) == (0x500, 16, 20, 0)
    assert run(store, rewritten).blocks_new == 0
    run(store, placed(range(3), SHELL))  # does not use libc: says nothing of it
    assert dead_rows(store)[0].clean_runs == 1
    for _ in range(CLEAN_RUNS - 1):
        run(store, quiet)
    assert dead_rows(store) == []
    assert run(store, rewritten).blocks_new == 2


def test_dead_again_starts_over(store: Store) -> None:
    place = (make_block(50), LIBC, 0x500)
    run(store, [place], dead=[(0x7000, LIBC, 0x500)])
    run(store, [place])
    run(store, [place], dead=[(0x9000, LIBC, 0x500)])
    (row,) = dead_rows(store)
    assert (row.changes, row.clean_runs, row.first_run, row.last_run) == (40, 0, 1, 3)


def test_dead_code_without_a_place_is_counted(store: Store) -> None:
    run(store, placed(range(3), LIBC), dead=[(0x7000, None, 0), (0x8000, None, 0)])
    run(store, placed(range(4), ModuleKind.JIT), dead=[(0x7000, None, 0), (0x8000, None, 0)])
    assert last_run(store).dead_areas == 2
    assert lines(store)["jit under 6.1.0-test"] == ("jit", 1, 2)


def test_why_blocks_missed(store: Store) -> None:
    run(store, placed(range(10, 20), LIBC))
    run(store, placed(range(60, 64), SHELL), fingerprint=OTHER_FINGERPRINT)
    other_bytes = (make_block(70), LIBC, 16 * 10)
    flags = BlockData(b"\x90" * 9, b"\xc3", flags=0x123, pc=0x3000)
    run(
        store,
        [
            other_bytes,
            (flags, LIBC, 16 * 11),
            *placed(range(12, 14), LIBC),
            *placed(range(60, 61), SHELL),
            *placed(range(80, 83), SHELL),
        ],
    )
    assert why(store) == {
        LIBC.name: {"bytes": 1, "flags": 1, "unmapped": 2},
        SHELL.name: {"fingerprint": 1, "absent": 3},
    }


def test_merge_leaves_generated_code_behind_that_came_once(store: Store) -> None:
    generated, code = placed(range(90, 94), ModuleKind.JIT), placed(range(3), KERNEL)
    run(store, [*generated, *code])
    run(store, [*generated[:1], *placed(range(3, 4), KERNEL)])
    for number in (4, 5):
        run(store, placed(range(number, number + 1), KERNEL))
    (pack,) = [p for p in store.packs() if p.live]
    found = {m.kind: m.blocks for m in store.list_modules()}
    assert (pack.blocks, found) == (7, {"kernel": 6, "jit": 1})


def test_rebuild_keeps_modules(store: Store) -> None:
    run(store, boot(store), dead=[(0x7000, LIBC, 0x5000)])
    before = lines(store)
    store.rebuild()
    assert lines(store) == before
    assert len(dead_rows(store)) == 1


def test_modules_of_boot_sets_survive_the_loss_of_the_metadata(store: Store) -> None:
    import shutil

    run(store, boot(store))
    before = lines(store)
    shutil.rmtree(store.layout.meta)
    store.rebuild()
    assert lines(store) == before
    contents = [KERNEL, LIBC]
    assert len(store.boot_set("never booted", "x86_64", lambda: contents)) == 2


def test_rows_of_the_first_schema_can_be_read(store: Store) -> None:
    """A store of the time before modules: shares by image, no later columns."""
    from sysqcache.store.records import ImageRow, PackRow

    old = b'{"sha256":"%s","fingerprint":"f","arch":"x86_64","blocks":2,' % (b"5a" * 32)
    old += b'"bytes":3,"created":1.0,"last_used":2.0,"status":"live",'
    old += b'"shares":{"image":{"blocks":2,"bytes":3}}}'
    assert PackRow.decode(old).shares == {}
    image = b'{"image_id":"i","number":1,"first_seen":1.0,"last_used":1.0,"fingerprints":["f"]}'
    assert ImageRow.decode(image).modules == {}
