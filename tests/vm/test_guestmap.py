# SPDX-License-Identifier: GPL-2.0-or-later
"""Maps of real guests against what the guests say of themselves.

``test_attribution.py`` has the one of Debian 12, whose boot it needs anyway.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from guesttruth import trixie_guest
from machinehelp import TINY, Background, end_all, report, sysqcache
from maphelp import compare, compare_contents, compare_functions_only, process_of, socket_of
from required import require_image

from sysqcache.base import paths
from sysqcache.base.errors import ImageBuildError, MachineDied, MachineError, QmpError
from sysqcache.base.sockets import connect_unix
from sysqcache.formats.journal import read_journal
from sysqcache.guestmap import kernelcache, limits, mapper
from sysqcache.guestmap.guest import drgn_program, open_guest
from sysqcache.guestmap.kallsyms import TEXT_TYPES
from sysqcache.guestmap.memory import Budget
from sysqcache.guestmap.session import GuestSession
from sysqcache.guestmap.table import OwnerKind
from sysqcache.machine.instances import Instance
from sysqcache.qmp.client import QmpClient
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import Engine

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("x86_engine", "tiny_image", "own_state")]

DEBIAN = TINY.with_name("debian12-x86_64.yaml")


@contextlib.contextmanager
def running_tiny(cache: str) -> Iterator[str]:
    """A tiny guest that runs."""
    sysqcache("boot", TINY, "--detach", "--cache", cache)
    yield "tiny"
    end_all()


@pytest.fixture(scope="module")
def tiny_home(
    x86_engine: Engine, tiny_image: ImagePaths, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Where the guest runs that several tests look at; none of them changes or ends it."""
    home = tmp_path_factory.mktemp("home")
    (home / "cache").symlink_to(paths.cache_dir(), target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.ENV_HOME, str(home))
        patch.delenv(paths.ENV_STORE, raising=False)
        with running_tiny("on"):
            # not yet: each test says for itself where it is
            patch.undo()
            yield home
            patch.setenv(paths.ENV_HOME, str(home))
            patch.delenv(paths.ENV_STORE, raising=False)


@pytest.fixture
def machine(own_state: Path, tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The running tiny guest of all tests here."""
    monkeypatch.setenv(paths.ENV_HOME, str(tiny_home))
    return "tiny"


@pytest.fixture
def own_machine(own_state: Path) -> Iterator[str]:
    """A running tiny guest that the test may end."""
    with running_tiny("off") as name:
        yield name


def test_functions_are_symbols_enough(machine: str) -> None:
    compare_functions_only(machine)


def test_the_tiny_guest_agrees(machine: str) -> None:
    found, told = compare(machine)
    assert found.paused_ms <= 50
    assert found.kernel.kaslr_offset
    counts = found.table.counts()
    assert sum(counts.values()) * 4096 >= 255 << 20
    assert counts[OwnerKind.UNKNOWN] < sum(counts.values()) // 100
    text = found.kernel.text[1] - found.kernel.text[0]
    assert counts[OwnerKind.KERNEL] * 4096 > text
    assert counts[OwnerKind.KERNEL_MODULE] > 10
    assert compare_contents(machine, told) == 1


def test_the_command(own_machine: str) -> None:
    machine = own_machine
    first = report("map", machine)
    assert set(first) == {
        "kernel", "kernel_modules", "processes", "pages", "took_s", "paused_ms", "note",
    }  # fmt: skip
    assert set(first["processes"][0]["maps"][0]) == {
        "start", "end", "perms", "offset", "inode", "path", "build_id",
    }  # fmt: skip
    assert {"name", "start", "size", "build_id"} <= set(first["kernel_modules"][0])
    assert {"file", "kernel", "kernel-module", "anonymous", "free", "unknown"} <= set(
        first["pages"]
    )
    assert first["took_s"] <= 2
    # a busy host takes longer for some of them
    assert min(report("map", machine)["took_s"] for _ in range(3)) <= 0.6
    words = sysqcache("map", machine).stdout
    assert "virtio_blk" in words
    assert "busybox" not in words
    sysqcache("stop", machine, "--force")
    sysqcache("map", machine, code=10)


def test_the_text_of_the_kernel_is_where_the_table_says(machine: str) -> None:
    with GuestSession.open(socket_of(machine), process_of(machine)) as session:
        guest = open_guest(session)
        found = mapper.map_guest(session)
        step = 64 << 10
        places = np.arange(0, found.kernel.text[1] - found.kernel.base - 4096, step).astype(
            np.uint64
        )
        owned = found.table.lookup(places + np.uint64(found.kernel.physical))
        assert owned.offset.tolist() == places.tolist()
        owners = {found.table.owners[i] for i in owned.owner.tolist()}
        assert [(one.kind, one.name) for one in owners] == [(OwnerKind.KERNEL, "text")]
        for module in found.modules:
            for place in range(module.text[0], module.text[1], 4096):
                physical = np.array([guest.memory.translate(place)], np.uint64)
                one = found.table.lookup(physical)
                owner = found.table.owners[int(one.owner[0])]
                assert (owner.kind, owner.name) == (OwnerKind.KERNEL_MODULE, module.name)
                assert int(one.offset[0]) == place - module.text[0]


def test_drgn_s_own_helpers_agree(own_machine: str) -> None:
    machine = own_machine  # drgn may hold its socket for longer than the test
    with GuestSession.open(socket_of(machine), process_of(machine)) as session:
        from drgn.helpers.linux.fs import d_path
        from drgn.helpers.linux.mm import for_each_vma
        from drgn.helpers.linux.module import for_each_module
        from drgn.helpers.linux.pid import for_each_task

        prog = drgn_program(session, open_guest(session))
        found = mapper.map_guest(session)
        ours = {process.pid: process for process in found.processes}
        seen = 0
        for task in for_each_task(prog):
            pid = task.tgid.value_()
            if task.pid.value_() != pid or not task.mm or pid not in ours:
                continue
            paths_ = [
                d_path(vma.vm_file.f_path).decode() if vma.vm_file else ""
                for vma in for_each_vma(task.mm)
            ]
            assert paths_ == [one.path if one.file else "" for one in ours[pid].maps]
            seen += 1
        assert seen >= 3
        names = [module.name.string_().decode() for module in for_each_module(prog)]
        assert names == [module.name for module in found.modules]


def test_a_lying_kernel_file_is_not_believed(machine: str) -> None:
    first = mapper.map_machine(socket_of(machine))
    file = kernelcache.file_of(first.kernel.build_id)
    assert file is not None
    file.unlink()  # an earlier test may have made do without all symbols
    mapper.map_machine(socket_of(machine))
    known = kernelcache.load(first.kernel.build_id)
    assert known is not None
    good = file.read_text()
    file.write_text(good.replace(known.hash, "0" * 32))
    again = mapper.map_machine(socket_of(machine))
    assert again.processes == first.processes
    assert kernelcache.load(first.kernel.build_id) == known


def test_a_socket_that_is_in_use(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QMP_SECONDS", 0.5)
    with connect_unix(socket_of(machine)) as other:
        other.recv(1000)
        with pytest.raises(QmpError, match="no answer"):
            GuestSession.open(socket_of(machine), process_of(machine))
    assert mapper.map_machine(socket_of(machine)).note == ""


def test_a_guest_killed_while_it_is_mapped(own_machine: str) -> None:
    machine = own_machine
    process = process_of(machine)
    pid = Instance(machine).read().process.pid
    with GuestSession.open(socket_of(machine), process) as session:
        timer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
        timer.start()
        with pytest.raises(MachineDied):
            for _ in range(10_000):
                mapper.map_guest(session)
        timer.join()
    with pytest.raises((MachineDied, QmpError)):
        mapper.map_machine(socket_of(machine), process)


class Liar:
    """A session whose memory differs from the guest's: words are flipped, moved, made up."""

    def __init__(self, session: GuestSession, seed: int, one_in: int) -> None:
        self.info = session.info
        self.ranges = session.ranges
        self.target = session.target
        self.paused_ms = 0.0
        self._session = session
        self._choose = random.Random(seed)
        self._one_in = one_in
        self._last = bytes(8)

    def read_physical(self, address: int, size: int) -> bytes:
        data = bytearray(self._session.read_physical(address, size))
        choose = self._choose
        for _ in range(max(1, size // 4096)):
            if size < 8 or choose.randrange(self._one_in):
                continue
            place = choose.randrange(size // 8) * 8
            word = bytes(data[place : place + 8])
            lie = choose.choice([self._last, choose.randbytes(8), bytes(8), b"\xff" * 8])
            data[place : place + 8] = lie
            self._last = word
        return bytes(data)


def test_memory_that_lies(machine: str) -> None:
    """Whatever is read, the answer comes in bounded time and without an exception."""
    with GuestSession.open(socket_of(machine), process_of(machine)) as session:
        noted = 0
        for seed in range(60):
            liar = Liar(session, seed, 1 + seed * 3)
            start = time.thread_time()
            types = TEXT_TYPES if seed % 2 else ""
            found = mapper.map_guest(liar, Budget(seconds=3.0), types)
            assert time.thread_time() - start < 6.0
            noted += bool(found.note)
            assert sum(found.table.counts().values()) > 0
            assert found.to_json()
        assert noted > 10
        assert mapper.map_guest(session).note == ""


def test_maps_all_through_a_boot() -> None:
    """From the firmware over a kernel that unpacks itself to a ready guest."""
    notes: list[str] = []
    with Background("--until", "ready", "--task", "sleep 1") as boot:
        deadline = time.monotonic() + 60
        while not socket_of("tiny").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        while boot._process.poll() is None:
            try:
                notes.append(mapper.map_machine(socket_of("tiny")).note)
            except MachineError:  # QEMU does not listen yet, or has ended
                time.sleep(0.02)
        code, out, err = boot.finish()
        assert code == 0, out + err
    assert any("no running Linux kernel" in one for one in notes), notes[:5]
    assert "" in notes, notes[-5:]


def test_firmware_alone(x86_engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    command = [
        x86_engine.binary, "-nodefaults", "-display", "none", "-L", x86_engine.firmware_dir,
        "-m", "64M", "-qmp", f"unix:{path},server=on,wait=off",
    ]  # fmt: skip
    with subprocess.Popen(list(map(str, command))) as qemu:
        try:
            while not path.exists():
                time.sleep(0.01)
            time.sleep(0.5)
            found = mapper.map_machine(path)
        finally:
            qemu.kill()
    assert "no running Linux kernel" in found.note
    counts = found.table.counts()
    assert counts[OwnerKind.FIRMWARE] > 0
    assert counts[OwnerKind.UNKNOWN] > 16_000


def test_blocks_of_the_journal_have_owners(machine: str) -> None:
    """RAM addresses of recorded blocks lead to owners: the join that attribution makes."""
    from sysqcache.guestmap.table import NOWHERE, RamMap
    from sysqcache.qmp.commands import tb_cache_checkpoint

    with QmpClient.connect(socket_of(machine)) as qmp:
        tb_cache_checkpoint(qmp)
    found = mapper.map_machine(socket_of(machine))
    [journal] = (paths.store_dir() / paths.STORE_JOURNALS).glob("*.journal")
    records = read_journal(journal)
    ram = RamMap.from_records(records.ram_map)
    guest = ram.guest_physical(records.records["ram0"])
    assert (guest != np.uint64(NOWHERE)).mean() > 0.99
    kinds = [found.table.owners[i].kind for i in found.table.lookup(guest).owner.tolist()]
    known = sum(
        kind in (OwnerKind.KERNEL, OwnerKind.KERNEL_MODULE, OwnerKind.FILE) for kind in kinds
    )
    assert known > len(kinds) * 0.8


@pytest.fixture
def debian() -> Iterator[str]:
    """The Debian machine's name; the machine ends with the test."""
    require_image("debian12-x86_64")
    yield "debian12"
    end_all()


@pytest.fixture
def trixie() -> Path:
    """Debian 13's kernel."""
    try:
        return trixie_guest()
    except ImageBuildError as error:
        pytest.skip(error.message)


@pytest.mark.slow
def test_debian_with_the_kernel_of_debian_13_agrees(debian: str, trixie: Path) -> None:
    sysqcache(
        "boot", DEBIAN, "--detach", "--cache", "off",
        "--set", f"kernel={trixie / 'kernel'}", "--set", f"initrd={trixie / 'initrd-debian'}",
        timeout=300,
    )  # fmt: skip
    found, told = compare(debian)
    assert found.kernel.release.startswith("6.12.")
    assert len(found.modules) >= 8
    assert sum(bool(rows) for rows in told.maps.values()) >= 8
    assert compare_contents(debian, told) >= 30
    # the tiny guest with this kernel has what is planted
    compare_functions_only(debian, planted=False)


@pytest.mark.slow
def test_the_tiny_guest_with_the_kernel_of_debian_13_agrees(trixie: Path) -> None:
    sysqcache(
        "boot", TINY, "--detach", "--cache", "off",
        "--set", f"kernel={trixie / 'kernel'}", "--set", f"initrd={trixie / 'initrd'}",
    )  # fmt: skip
    try:
        found, told = compare("tiny")
        assert found.kernel.release.startswith("6.12.")
        assert len(found.modules) >= 5
        assert compare_contents("tiny", told) == 1
        compare_functions_only("tiny")
    finally:
        end_all()
