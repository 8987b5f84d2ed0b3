# SPDX-License-Identifier: GPL-2.0-or-later
"""Every place that a Debian boot's blocks got, against the bytes of the files themselves."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import io
import logging
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from debianhelp import DEBIAN, require_image
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from machinehelp import sysqcache

from sysqcache import paths, resolve
from sysqcache.attribution.attribute import attribute
from sysqcache.attribution.checkpoint import Checkpoint, checkpoint
from sysqcache.attribution.images import truths_of
from sysqcache.attribution.observation import Observation
from sysqcache.enginebuild.info import Engine
from sysqcache.guestmap import mapper
from sysqcache.guestmap.result import GuestMap, KernelModule
from sysqcache.guestmap.session import Session
from sysqcache.imagescan.blocks import Blocks as FileBytes
from sysqcache.imagescan.reader import ImageContents
from sysqcache.imagescan.scan import scan
from sysqcache.instances import ForeignProcess, Instance
from sysqcache.journal import Journal, read_journal
from sysqcache.modules import KINDS, Module, ModuleKind
from sysqcache.placement import NO_MODULE, Placements
from sysqcache.qmp.client import QmpClient

pytestmark = [pytest.mark.vm, pytest.mark.slow]

say = logging.getLogger("attribution").info
"""Figures; `pytest --log-cli-level=info` shows them."""

NAME = "attributed"
RELOCATED = {1: 8, 2: 4, 4: 4, 10: 4, 11: 4}
"""Bytes that a relocation of x86-64 changes, by its type (System V ABI, table 4.10)."""


@dataclasses.dataclass(frozen=True)
class Placed:
    """A block with a place: its row, its bytes, where they should be."""

    row: int
    pc: int
    offset: int
    code: bytes


@dataclasses.dataclass(frozen=True)
class Run:
    """A Debian guest at ready, recorded cold, and what was found out about it."""

    instance: Instance
    process: ForeignProcess
    journal: Journal
    look: Observation
    found: GuestMap
    contents: ImageContents
    firmware: Path
    places: Placements
    took_s: float

    def placed(self, kind: ModuleKind) -> Iterator[tuple[Module, list[Placed]]]:
        """Modules of a kind with their blocks."""
        blocks = self.journal.blocks
        # a record is 48 bytes, then comes the block
        assert np.array_equal(self.places.record, blocks.offsets - 48)
        for number, module in enumerate(self.places.modules):
            if module.kind is kind:
                rows = np.flatnonzero(self.places.module == number).tolist()
                yield module, [self._block(row) for row in rows]

    def _block(self, row: int) -> Placed:
        code = bytes(self.journal.blocks.guest_bytes(row))
        return Placed(row, int(self.journal.records["pc"][row]), int(self.places.offset[row]), code)


@pytest.fixture(scope="module")
def run(x86_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    require_image("debian12-x86_64")
    home = tmp_path_factory.mktemp("home")
    (home / "cache").symlink_to(paths.cache_dir(), target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv(paths.ENV_HOME, str(home))
        patch.delenv(paths.ENV_STORE, raising=False)
        sysqcache("boot", DEBIAN, "--detach", "--set", f"name={NAME}", timeout=550)
        instance = Instance(NAME)
        state = instance.read()
        process = ForeignProcess(state.process, instance.file(paths.INSTANCE_QEMU_LOG))
        stack.callback(process.signal, signal.SIGKILL)
        look = settled_look(instance, process, Path(state.journal), home / "run.journal")
        assert look.seen is not None, look.note
        journal = read_journal(home / "run.journal")
        contents = stack.enter_context(scan(resolve.load(DEBIAN)))
        started = time.perf_counter()
        firmware = x86_engine.dir / "share" / "qemu"
        truths = truths_of(contents, [look.seen], firmware)
        places = attribute(journal, [look.seen], truths)
        took = time.perf_counter() - started
        say(f"look {look.took_s:.2f} s, attribute {took:.2f} s, {len(places.record)} blocks")
        found = mapper.map_machine(instance.file(paths.INSTANCE_QMP_INTROSPECT), process)
        yield Run(instance, process, journal, look.seen, found, contents, firmware, places, took)
    shutil.rmtree(home / "state")


def settled_look(
    instance: Instance, process: ForeignProcess, journal: Path, copy: Path
) -> Checkpoint:
    """A look at what the journal holds now, kept as a copy: the guest runs on."""
    with QmpClient.connect(instance.file(paths.INSTANCE_QMP), process=process, timeout=10) as qmp:
        qmp.execute("tb-cache-checkpoint")
    shutil.copy(journal, copy)
    return checkpoint(instance, process, copy)


def test_nearly_all_blocks_are_placed(run: Run) -> None:
    counts = {str(kind): count for kind, count in run.places.counts().items()}
    total = len(run.places.record)
    say(f"{run.places.attributed / total:.4f} of {total} blocks, kinds {counts}")
    assert run.look.note == ""
    assert total >= 200_000
    assert run.places.attributed >= 0.97 * total
    assert counts["unknown"] <= 0.005 * total
    assert run.places.kernel == run.contents.kernel
    # 8 s are for all of keeping a run; packing takes 2 of them
    assert run.took_s < 6


def test_code_of_files_is_what_the_files_hold(run: Run) -> None:
    files = collections.defaultdict(list)
    for file in run.contents.files:
        files[file.module].append(file)
    checked = 0
    for module, blocks in run.placed(ModuleKind.FILE):
        # the initrd's copies of a file have the same build id and code
        for file in files[module]:
            content = whole(run.contents.open(file))
            for one in blocks:
                assert held(content, one.offset, one), (file, one)
        checked += len(blocks) if files[module] else 0
    lost = int(np.count_nonzero(run.places.kind == KINDS.index(ModuleKind.FILE))) - checked
    say(f"{checked} blocks of files have the bytes of the files; {lost} could not be compared")
    assert checked >= 100_000
    assert lost <= 200


def held(content: bytes, at: int, block: Placed) -> bool:
    return content[at : at + len(block.code)] == block.code


def whole(file: FileBytes) -> bytes:
    return file.read(0, file.size)


def test_code_of_processes_is_where_they_have_mapped_it(run: Run) -> None:
    """What the kernel says of live processes, which attribution does not look at.

    No two processes share an address by chance: it is random, 28 bits of it.
    """
    mappings = {
        (one.start, one.end, one.offset, one.build_id)
        for process in run.found.processes
        for one in process.maps
        if "x" in one.perms and one.build_id
    }
    starts = np.array(sorted(mapping[0] for mapping in mappings), np.uint64)
    ordered = sorted(mappings)
    agreed = 0
    for module, blocks in run.placed(ModuleKind.FILE):
        for one in blocks:
            at = int(np.searchsorted(starts, np.uint64(one.pc), "right")) - 1
            if at < 0 or one.pc >= ordered[at][1]:
                continue
            start, _, offset, build_id = ordered[at]
            assert (module.id, one.offset) == (build_id, one.pc - start + offset), one
            agreed += 1
    say(f"{agreed} blocks lie in mappings of live processes, all where these say")
    assert agreed >= 20_000


def test_kernel_code_is_the_kernels(run: Run) -> None:
    """As it was loaded, or, where the kernel has patched itself since, as it is now."""
    kernel = run.found.kernel
    ((module, blocks),) = run.placed(ModuleKind.KERNEL)
    assert module == run.contents.kernel
    file = run.contents.kernel_file(module)
    assert file is not None
    loaded = file.loaded(kernel.kaslr_offset).tobytes()
    patched = [one for one in blocks if not held(loaded, one.offset, one)]
    say(f"{len(blocks)} blocks of the kernel, {len(patched)} of them as patched since")
    assert len(blocks) >= 100_000
    with Session.open(run.instance.file(paths.INSTANCE_QMP_INTROSPECT), run.process) as session:
        start, end = (address - kernel.base for address in kernel.text)
        text = session.read_physical(kernel.physical + start, end - start)
    # the guest runs on, and may patch a place between the look and now
    late = [one for one in patched if not held(text, one.offset - start, one)]
    assert len(late) <= 5, late
    assert all(one.pc - one.offset in (kernel.base, kernel.physical) for one in blocks)


def test_code_of_kernel_modules_is_theirs(run: Run) -> None:
    """Except for relocated bytes and for the few places that the kernel patches."""
    loaded = {one.build_id: one for one in run.found.modules}
    compared = patched = 0
    for module, blocks in run.placed(ModuleKind.KERNEL_MODULE):
        sections = exec_sections(run, module, loaded[module.id])
        for one in blocks:
            assert one.pc - one.offset == loaded[module.id].text[0]
            name = max((n for n in sections if sections[n][0] <= one.pc), key=lambda n: sections[n])
            address, content, moved = sections[name]
            there = one.pc - address
            differs = [
                i
                for i, byte in enumerate(one.code)
                if byte != content[there + i] and there + i not in moved
            ]
            # an alternative or a jump label: one instruction, rarely two
            assert len(differs) <= 16, (module, one, differs)
            patched += bool(differs)
            compared += 1
    say(f"{compared} blocks of kernel modules, {patched} of them patched")
    assert compared >= 3_000
    assert patched <= compared // 25


def exec_sections(
    run: Run, module: Module, loaded: KernelModule
) -> dict[str, tuple[int, bytes, set[int]]]:
    """Sections of code of a module: address, bytes, and which of these are relocated."""
    file = run.contents.by_module[module]
    addresses = dict(loaded.sections)
    found = {}
    raw = whole(run.contents.open(file))
    elf = ELFFile(io.BytesIO(raw))
    for section in elf.iter_sections():
        if section["sh_flags"] & 4 and section.name in addresses:
            relocations = elf.get_section_by_name(f".rela{section.name}")
            moved: set[int] = set()
            if isinstance(relocations, RelocationSection):
                for one in relocations.iter_relocations():
                    size = RELOCATED.get(one["r_info_type"], 8)
                    # calls of ftrace and jumps to thunks lose their opcode as well
                    moved.update(range(one["r_offset"] - 1, one["r_offset"] + size))
            found[section.name] = (addresses[section.name], section.data(), moved)
    return found


def test_code_before_the_kernel_is_that_of_the_files(run: Run) -> None:
    spec = resolve.load(DEBIAN)
    assert spec.kernel is not None
    candidates = [spec.kernel, *run.firmware.iterdir()]
    known = {
        f"sha256:{hashlib.sha256(content).hexdigest()}": content
        for content in (path.read_bytes() for path in candidates if path.is_file())
    }
    checked = 0
    for module, blocks in run.placed(ModuleKind.FIRMWARE):
        content = known[module.id]
        for one in blocks:
            assert held(content, one.offset, one), (module, one)
        checked += len(blocks)
    say(f"{checked} blocks of firmware and boot stub")
    assert checked >= 2_000


def test_without_a_look_only_content_counts(run: Run) -> None:
    truths = truths_of(run.contents, [], run.firmware)
    found = attribute(run.journal, [], truths)
    both = (found.module != NO_MODULE) & (run.places.module != NO_MODULE)
    names = [np.array([m.id for m in places.modules]) for places in (found, run.places)]
    same = names[0][found.module[both]] == names[1][run.places.module[both]]
    same &= found.offset[both] == run.places.offset[both]
    say(f"{found.attributed} blocks by content alone, {np.count_nonzero(~same)} elsewhere")
    assert found.attributed >= 20_000


def test_a_machine_that_was_killed(run: Run) -> None:
    """Comes last: the machine is gone afterwards."""
    run.process.signal(signal.SIGKILL)
    run.process.wait(30)
    found = checkpoint(run.instance, run.process, run.firmware)
    assert found.seen is None
    assert found.note
