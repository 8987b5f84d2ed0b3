# SPDX-License-Identifier: GPL-2.0-or-later
"""What QEMU's user, a full disk or a killed program may leave: counted, and never in the way."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from daemonhelp import QEMU_UID, eventually
from domainhelp import Machine

from sysqcache.base import paths

pytestmark = pytest.mark.qemu

GOLDEN = Path(__file__).parents[1] / "golden" / "v2.journal"


def own(path: Path) -> None:
    os.chown(path, QEMU_UID, QEMU_UID, follow_symlinks=False)


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(100_000))
    own(path)


def cut_header(path: Path) -> None:
    path.write_bytes(GOLDEN.read_bytes()[:100])
    own(path)


def link_to_a_secret(path: Path) -> None:
    path.symlink_to("/etc/shadow")
    own(path)


def pipe(path: Path) -> None:
    os.mkfifo(path)
    own(path)


def directory(path: Path) -> None:
    path.mkdir()
    (path / "inside").write_bytes(b"x")
    own(path)


def second_name(path: Path) -> None:
    path.with_name("first").write_bytes(GOLDEN.read_bytes())
    own(path.with_name("first"))
    path.hardlink_to(path.with_name("first"))


def of_another_user(path: Path) -> None:
    path.write_bytes(GOLDEN.read_bytes())
    os.chown(path, QEMU_UID + 1, QEMU_UID + 1)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(3 << 30)
    own(path)


def journal(machine: Machine) -> Path:
    return machine.folder.run / paths.DOMAIN_JOURNAL


def still_starts(machine: Machine) -> None:
    machine.daemon.virsh("start", "tiny")
    assert machine.status()["blocks"] is not None
    machine.destroy()


@pytest.mark.parametrize(
    "plant",
    [garbage, cut_header, link_to_a_secret, pipe, directory, second_name, of_another_user, huge],
    ids=lambda plant: plant.__name__,
)
def test_what_is_no_journal_is_rejected_and_counted(
    machine: Machine, plant: Callable[[Path], None]
) -> None:
    machine.enable()
    plant(journal(machine))
    machine.sysqcache("follow", "tiny")
    found = machine.status()
    assert found["rejected_journals"] == 1
    assert found["warning"]
    assert found["waiting_journals"] == 0
    assert not os.path.lexists(journal(machine))
    assert not list((machine.store / "journals").iterdir())
    assert not list(machine.store.glob("damaged/*"))
    assert Path("/etc/shadow").stat().st_uid == 0


def test_a_start_over_garbage(machine: Machine) -> None:
    """The engine does not touch what is there; the domain starts all the same."""
    machine.enable()
    link_to_a_secret(journal(machine))
    still_starts(machine)
    assert journal(machine).is_symlink()


def test_damaged_records_are_left_out_and_counted(machine: Machine) -> None:
    """The golden journal has one damaged record by itself."""
    machine.enable()
    data = bytearray(GOLDEN.read_bytes())
    data[len(data) // 2] ^= 0xFF
    journal(machine).write_bytes(data)
    own(journal(machine))
    machine.sysqcache("follow", "tiny")
    found = machine.status()
    assert found["damaged_blocks"] == 2
    assert found["rejected_journals"] == 0
    assert found["waiting_journals"] == 0


def test_a_journal_becomes_packs_that_the_next_start_maps(machine: Machine) -> None:
    machine.enable()
    shutil.copyfile(GOLDEN, journal(machine))
    own(journal(machine))
    machine.sysqcache("follow", "tiny")
    packs = machine.folder.boot_set.read_text().split()
    assert packs
    for pack in packs:
        assert Path(pack).parent == machine.folder.packs
        assert Path(pack).stat().st_uid == 0
        assert Path(pack).stat().st_mode & 0o022 == 0


@contextlib.contextmanager
def full(directory: Path, where: Sequence[str] = (), owner: int = 0) -> Iterator[None]:
    """A directory on a file system without any room, as seen from ``where``."""
    options = f"size=4k,nr_inodes=16,mode=700,uid={owner}"
    subprocess.run([*where, "mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=True)
    try:
        fill = ["dd", "if=/dev/zero", f"of={directory}/filler", "bs=1k", "count=64"]
        subprocess.run([*where, *fill], check=False, stderr=subprocess.DEVNULL)
        yield
    finally:
        subprocess.run([*where, "umount", "-l", directory], check=True)


def test_a_store_on_a_full_disk(machine: Machine) -> None:
    """The journal waits, the domain starts, and later the blocks are kept."""
    machine.enable()
    shutil.copyfile(GOLDEN, journal(machine))
    own(journal(machine))
    stores = paths.libvirt_dir() / paths.LIBVIRT_STORES
    with full(stores):
        machine.sysqcache("follow", "tiny")
        found = machine.status()
        assert found["waiting_journals"] == 1
        assert found["rejected_journals"] == 0
        still_starts(machine)
    machine.sysqcache("follow", "tiny")
    assert machine.status()["waiting_journals"] == 0
    assert machine.folder.boot_set.read_text()


def test_a_run_directory_on_a_full_disk(machine: Machine) -> None:
    """QEMU can't write its journal: nothing is recorded, the domain runs."""
    machine.enable()
    with full(machine.folder.run, machine.daemon.inside, QEMU_UID):
        machine.daemon.virsh("start", "tiny")
        query = ("qemu-monitor-command", "tiny", '{"execute":"x-query-tb-cache"}')
        eventually(lambda: '"requested":0,' not in machine.daemon.virsh(*query))
        assert '"mode":"on"' in machine.daemon.virsh(*query)
        machine.destroy()


def test_packs_and_the_boot_set_may_vanish(machine: Machine) -> None:
    machine.enable()
    machine.folder.boot_set.unlink()
    machine.folder.packs.rmdir()
    still_starts(machine)
    machine.enable()
    assert machine.folder.boot_set.exists()


def test_a_damaged_state_file_is_said_and_mended(machine: Machine) -> None:
    machine.enable()
    (machine.folder.directory / paths.DOMAIN_STATE).write_text("{")
    assert "can't be read" in machine.status()["warning"]
    still_starts(machine)
    machine.enable()
    assert not machine.status()["warning"]
