# SPDX-License-Identifier: GPL-2.0-or-later
"""Checksums of snapshots in images that qemu-img made: they outlive writes, damage shows."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from imagescanhelp import qemu_img

from sysqcache.base.errors import SavedStateError
from sysqcache.saved.qcow2snapshot import DamagedImage, SnapshotSums, is_at_snapshot, snapshot_sums

MIB = 1 << 20
SIZE = 8 * MIB
TAG = "saved"
FORMATS = {
    "usual": "compat=1.1",
    "old": "compat=0.10",
    "small clusters": "cluster_size=512",
    "big clusters": "cluster_size=2M",
    "subclusters": "cluster_size=64k,extended_l2=on",
}


def content(seed: int, *, of: int = 3) -> bytes:
    """Some MiB of data with gaps."""
    some = random.Random(seed)
    parts = [some.randbytes(MIB // 2) + bytes(MIB // 2) for _ in range(of)]
    return b"".join(parts).ljust(SIZE, b"\0")


def write(disk: Path, data: bytes) -> None:
    """Write all of a disk."""
    raw = disk.with_suffix(".raw")
    raw.write_bytes(data)
    qemu_img("convert", "-n", "-f", "raw", "-O", "qcow2", raw, disk)


def with_snapshot(directory: Path, options: str = "compat=1.1", seed: int = 1) -> Path:
    """A disk with data and a snapshot of it."""
    disk = directory / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, disk, str(SIZE))
    write(disk, content(seed))
    qemu_img("snapshot", "-c", TAG, disk)
    return disk


def sums(disk: Path, tag: str = TAG) -> SnapshotSums:
    return snapshot_sums(disk, tag, data=True)


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_they_hold_whatever_is_written(tmp_path: Path, options: str) -> None:
    disk = with_snapshot(tmp_path, options)
    before = sums(disk)
    write(disk, content(2, of=5))
    assert sums(disk) == before
    qemu_img("snapshot", "-c", "other", disk)
    assert sums(disk) == before
    assert sums(disk, "other").data != before.data
    qemu_img("snapshot", "-a", TAG, disk)
    write(disk, content(3, of=4))
    qemu_img("snapshot", "-d", "other", disk)
    assert sums(disk) == before


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_a_disk_of_which_nothing_was_written_since(tmp_path: Path, options: str) -> None:
    """Whatever happens to the file: a second snapshot, and going back to the first."""
    disk = with_snapshot(tmp_path, options)
    assert is_at_snapshot(disk, TAG)
    qemu_img("snapshot", "-c", "other", disk)
    assert is_at_snapshot(disk, TAG)
    write(disk, content(2, of=5))
    assert not is_at_snapshot(disk, TAG)
    qemu_img("snapshot", "-a", TAG, disk)
    assert is_at_snapshot(disk, TAG)
    write(disk, bytes(512))
    assert not is_at_snapshot(disk, TAG)
    with pytest.raises(DamagedImage):
        is_at_snapshot(disk, "none")


def test_what_the_disk_held_is_read_on_request(tmp_path: Path) -> None:
    disk = with_snapshot(tmp_path)
    quick = snapshot_sums(disk, TAG, data=False)
    assert (quick.tables, quick.state, quick.data) == (sums(disk).tables, sums(disk).state, "")


def test_packed_images(tmp_path: Path) -> None:
    plain = with_snapshot(tmp_path)
    disk = tmp_path / "packed.qcow2"
    qemu_img("convert", "-c", "-O", "qcow2", plain, disk)
    qemu_img("snapshot", "-c", TAG, disk)
    before = sums(disk)
    write(disk, content(2))
    assert sums(disk) == before


def flipped(disk: Path, place: int, bit: int = 1) -> Path:
    """A copy that differs in one bit."""
    damaged = bytearray(disk.read_bytes())
    damaged[place] ^= bit
    copy = disk.with_name("damaged.qcow2")
    copy.write_bytes(damaged)
    return copy


def test_flipped_data_show(tmp_path: Path) -> None:
    disk = with_snapshot(tmp_path)
    before, kept = sums(disk), content(1)
    for place in (0, MIB // 2 - 1, 2 * MIB + 77):
        damaged = flipped(disk, disk.read_bytes().index(kept[place & -4096 :][:64]) + place % 4096)
        after = sums(damaged)
        assert (after.tables, after.state) == (before.tables, before.state)
        assert after.data != before.data


def snapshot_entry(disk: Path) -> tuple[int, int, int]:
    """Place of the first snapshot's entry, of its L1, of its first L2."""
    image = disk.read_bytes()
    (entry,) = struct.unpack_from(">Q", image, 64)
    (l1,) = struct.unpack_from(">Q", image, entry)
    (l2,) = struct.unpack_from(">Q", image, l1)
    return entry, l1, l2 & 0x00FFFFFFFFFFFE00


def refused_or_other(disk: Path, before: SnapshotSums) -> bool:
    try:
        return sums(disk) != before
    except DamagedImage:
        return True


def test_flipped_tables_show(tmp_path: Path) -> None:
    disk = with_snapshot(tmp_path)
    before = sums(disk)
    entry, l1, l2 = snapshot_entry(disk)
    for place in (*range(entry, entry + 12), l1 + 1, l1 + 6, l2 + 2, l2 + 5, l2 + 8 * 16 + 7):
        assert refused_or_other(flipped(disk, place), before), place
    assert sums(flipped(disk, l2, 0x80)) == before  # "referred to once" comes and goes


def test_no_damage_does_anything_else(tmp_path: Path) -> None:
    """Any bit of the tables, and any truncation: a checksum or the one error."""
    disk = with_snapshot(tmp_path, "cluster_size=4k")
    before, size = sums(disk), disk.stat().st_size
    entry, l1, l2 = snapshot_entry(disk)
    some = random.Random(4)
    for start, length in ((0, 112), (entry, 80), (l1, 16), (l2, 512)):
        for _ in range(60):
            place = start + some.randrange(min(length, size - start))
            refused_or_other(flipped(disk, place, 1 << some.randrange(8)), before)
    for kept in (0, 3, 71, 100, entry + 20, l1 + 4, l2 + 100, size // 2):
        copy = flipped(disk, 0, 0)
        with copy.open("r+b") as stream:
            stream.truncate(kept)
        assert refused_or_other(copy, before), kept


def test_tables_that_lead_in_circles(tmp_path: Path) -> None:
    """Every entry leads to the same table or cluster: refused before long."""
    disk = with_snapshot(tmp_path, "cluster_size=4k")
    image = bytearray(disk.read_bytes())
    entry, _, l2 = snapshot_entry(disk)
    end = len(image)
    struct.pack_into(">QI", image, entry, end, (32 << 20) // 8)
    image += struct.pack(">Q", l2) * ((32 << 20) // 8)
    disk.write_bytes(image)
    with pytest.raises(DamagedImage, match="more clusters"):
        sums(disk)
    struct.pack_into(">QI", image, entry, end, (64 << 20) // 8)
    disk.write_bytes(image)
    with pytest.raises(DamagedImage, match="too big"):
        sums(disk)


def test_snapshots_and_images_that_are_none(tmp_path: Path) -> None:
    disk = with_snapshot(tmp_path)
    with pytest.raises(SavedStateError, match="does not hold its snapshot"):
        sums(disk, "another")
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(4096))
    with pytest.raises(SavedStateError, match="no qcow2"):
        sums(raw)
