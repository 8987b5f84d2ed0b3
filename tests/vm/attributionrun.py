# SPDX-License-Identifier: GPL-2.0-or-later
"""A recorded run whose blocks have places, and each place against the bytes of the files."""

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
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from machinehelp import sysqcache

from sysqcache.attribution.attribute import attribute
from sysqcache.attribution.checkpoint import Checkpoint, checkpoint
from sysqcache.attribution.images import truths_of
from sysqcache.attribution.imagescan.efi import unpacked_sections
from sysqcache.attribution.imagescan.reader import ImageContents
from sysqcache.attribution.imagescan.scan import scan
from sysqcache.attribution.observation import Observation
from sysqcache.attribution.patching import KernelPatches
from sysqcache.base import paths
from sysqcache.formats.access import RandomAccess as FileBytes
from sysqcache.formats.journal import Journal, read_journal
from sysqcache.formats.modules import KINDS, Module, ModuleKind
from sysqcache.formats.places import Places
from sysqcache.formats.runfiles import RunFiles
from sysqcache.guestmap import mapper
from sysqcache.guestmap.result import GuestMap, KernelModule
from sysqcache.guestmap.session import GuestSession
from sysqcache.machine.instances import ForeignProcess, Instance
from sysqcache.qmp.client import QmpClient
from sysqcache.spec import resolve
from sysqcache.spec.engines import Engine
from sysqcache.spec.spec import MachineSpec

say = logging.getLogger("attribution").info
"""Figures; `pytest --log-cli-level=info` shows them."""

NAME = "attributed"
RELOCATED = {
    "EM_X86_64": {1: 8, 2: 4, 4: 4, 10: 4, 11: 4},
    # instructions, and pointers that no code holds
    "EM_AARCH64": dict.fromkeys(range(263, 313), 4),
    # a call is two instructions, what is relaxed and aligned is nothing
    "EM_RISCV": {18: 8, 19: 8, 51: 0, 43: 0}
    | dict.fromkeys((16, 17, 20, 23, 24, 25, 26, 44, 45), 4),
}
"""Bytes that a relocation changes, by machine and type: System V ABI, table 4.10; ELF for
the Arm 64-bit architecture, 5.7; RISC-V ELF, 8.4."""

_MADE = (".plt", ".got", ".init.plt", ".text.ftrace_trampoline")
"""Sections of a module in which its loader writes code."""


@dataclasses.dataclass(frozen=True)
class Placed:
    """A block with a place: its row, its bytes, where they should be."""

    row: int
    pc: int
    offset: int
    code: bytes


@dataclasses.dataclass(frozen=True)
class Run:
    """A guest at ready, recorded cold, and what was found out about it."""

    spec: MachineSpec
    instance: Instance
    process: ForeignProcess
    journal: Journal
    look: Observation
    found: GuestMap
    contents: ImageContents
    firmware: Path
    places: Places
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


@contextlib.contextmanager
def recorded(config: Path, engine: Engine, home: Path) -> Iterator[Run]:
    """A machine at ready, recorded cold, with a state directory of its own."""
    (home / "cache").symlink_to(paths.cache_dir(), target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv(paths.ENV_HOME, str(home))
        patch.delenv(paths.ENV_STORE, raising=False)
        sysqcache("boot", config, "--detach", "--set", f"name={NAME}", timeout=550)
        instance = Instance(NAME)
        state = instance.read()
        process = ForeignProcess(state.process, instance.file(paths.INSTANCE_QEMU_LOG))
        stack.callback(process.signal, signal.SIGKILL)
        look = settled_look(instance, process, Path(state.journal), home / "run.journal")
        assert look.seen is not None, look.note
        journal = read_journal(home / "run.journal")
        spec = resolve.load(config)
        contents = stack.enter_context(scan(spec))
        started = time.perf_counter()
        firmware = engine.dir / "share" / "qemu"
        truths = truths_of(contents, [look.seen], firmware, spec.firmware)
        places = attribute(journal, [look.seen], truths)
        took = time.perf_counter() - started
        say(f"look {look.took_s:.2f} s, attribute {took:.2f} s, {len(places.record)} blocks")
        counts = {str(kind): count for kind, count in places.counts().items()}
        say(f"{places.attributed / len(places.record):.4f} placed, kinds {counts}")
        found = mapper.map_machine(instance.file(paths.INSTANCE_QMP_INTROSPECT), process)
        yield Run(
            spec, instance, process, journal, look.seen, found, contents, firmware, places, took
        )
    shutil.rmtree(home / "state")


def settled_look(
    instance: Instance, process: ForeignProcess, journal: Path, copy: Path
) -> Checkpoint:
    """A look at what the journal holds now, kept as a copy: the guest runs on."""
    with QmpClient.connect(instance.file(paths.INSTANCE_QMP), process=process, timeout=10) as qmp:
        qmp.execute("x-tb-cache-checkpoint")
    shutil.copy(journal, copy)
    return checkpoint(instance, process, RunFiles(copy))


def check_files(run: Run) -> tuple[int, int]:
    """Code of files is what the files hold; how many blocks, and how many could not be compared."""
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
    return checked, lost


def held(content: bytes, at: int, block: Placed) -> bool:
    return content[at : at + len(block.code)] == block.code


def whole(file: FileBytes) -> bytes:
    return file.read(0, file.size)


def check_processes(run: Run) -> int:
    """What the kernel says of live processes, which attribution does not look at.

    Processes that have ended may have had another file at the same address, above all on
    arm64 with its 18 random bits: then the block is not what the living one has there.

    :returns: blocks that are where a living process has them.
    """
    files = {one.module.id: one for one in run.contents.files}
    mappings = sorted(
        {
            (one.start, one.end, one.offset, one.build_id)
            for process in run.found.processes
            for one in process.maps
            if "x" in one.perms and one.build_id
        }
    )
    placed = sorted(
        (one.pc, module.id, one.offset, one.code)
        for module, blocks in run.placed(ModuleKind.FILE)
        for one in blocks
    )
    pcs = np.array([one[0] for one in placed], np.uint64)
    agreed, other = set(), collections.defaultdict(list)
    for start, end, offset, build_id in mappings:
        first, last = np.searchsorted(pcs, np.array((start, end), np.uint64)).tolist()
        for row in range(first, last):
            pc, identity, at, code = placed[row]
            here = pc - start + offset
            if (identity, at) == (build_id, here):
                agreed.add(row)
            elif (
                len(code) >= 16 and run.contents.open(files[build_id]).read(here, len(code)) == code
            ):
                other[row].append((build_id, here))
    wrong = {row: places for row, places in other.items() if row not in agreed}
    assert not wrong, [(placed[row], places) for row, places in wrong.items()][:5]
    say(f"{len(agreed)} blocks lie where living processes have mapped them, none elsewhere")
    return len(agreed)


def check_kernel(run: Run) -> int:
    """As it was loaded, or, where the kernel has patched itself since, as it is now."""
    kernel = run.found.kernel
    ((module, blocks),) = run.placed(ModuleKind.KERNEL)
    assert module == run.contents.kernel
    file = run.contents.kernel_file(module)
    assert file is not None
    loaded = file.loaded(kernel.kaslr_offset)
    patches = KernelPatches(loaded)
    patched = [one for one in blocks if not patches.explain(one.offset, one.code)]
    say(f"{len(blocks)} blocks of the kernel, {len(patched)} of them as patched since")
    with GuestSession.open(
        run.instance.file(paths.INSTANCE_QMP_INTROSPECT), run.process
    ) as session:
        start, end = (address - kernel.base for address in kernel.text)
        text = session.read_physical(kernel.physical + start, end - start)
    # the guest runs on, and may patch a place between the look and now
    late = [one for one in patched if not held(text, one.offset - start, one)]
    assert len(late) <= 5, late
    assert all(one.pc - one.offset in (kernel.base, kernel.physical) for one in blocks)
    return len(blocks)


def check_modules(run: Run) -> tuple[int, int]:
    """Code of modules is theirs but for relocated bytes and what the kernel patches.

    :returns: blocks that were compared, and those of them that were patched.
    """
    loaded = {one.build_id: one for one in run.found.modules}
    compared = patched = 0
    for module, blocks in run.placed(ModuleKind.KERNEL_MODULE):
        sections = exec_sections(run, module, loaded[module.id])
        for one in blocks:
            assert one.pc - one.offset == loaded[module.id].text[0]
            name = max((n for n in sections if sections[n][0] <= one.pc), key=lambda n: sections[n])
            if name in _MADE:
                continue
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
    return compared, patched


def exec_sections(
    run: Run, module: Module, loaded: KernelModule
) -> dict[str, tuple[int, bytes, set[int]]]:
    """Sections of code of a module: address, bytes, and which of these are relocated."""
    file = run.contents.by_module[module]
    addresses = dict(loaded.sections)
    found = {}
    raw = whole(run.contents.open(file))
    elf = ELFFile(io.BytesIO(raw))
    sizes = RELOCATED[elf["e_machine"]]
    for section in elf.iter_sections():
        if section["sh_flags"] & 4 and section.name in addresses:
            relocations = elf.get_section_by_name(f".rela{section.name}")
            moved: set[int] = set()
            if isinstance(relocations, RelocationSection):
                for one in relocations.iter_relocations():
                    size = sizes.get(one["r_info_type"], 8)
                    # calls of ftrace and jumps to thunks lose their opcode as well
                    before = 1 if sizes is RELOCATED["EM_X86_64"] else 0
                    moved.update(range(one["r_offset"] - before, one["r_offset"] + size))
            found[section.name] = (addresses[section.name], section.data(), moved)
    return found


def check_firmware(run: Run) -> int:
    """Code of firmware and boot stub is that of the files."""
    assert run.spec.kernel is not None
    candidates = [run.spec.kernel, *run.firmware.iterdir()]
    files = [path.read_bytes() for path in candidates if path.is_file()]
    files += [part for content in files for part in unpacked_sections(content)]
    known = {f"sha256:{hashlib.sha256(content).hexdigest()}": content for content in files}
    checked = 0
    for module, blocks in run.placed(ModuleKind.FIRMWARE):
        content = known[module.id]
        for one in blocks:
            assert held(content, one.offset, one), (module, one)
        checked += len(blocks)
    say(f"{checked} blocks of firmware and boot stub")
    return checked
