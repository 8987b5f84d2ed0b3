# SPDX-License-Identifier: GPL-2.0-or-later
"""Disk images, partitions and file systems, made and checked by the tools of others."""

from __future__ import annotations

import os
import random
import re
import struct
from pathlib import Path

import pytest
from imagescanhelp import MIB, debugfs, make_ext, qemu_img, with_gpt

from sysqcache.attribution.imagescan import limits
from sysqcache.attribution.imagescan.diskimage import open_image
from sysqcache.attribution.imagescan.ext import ROOT, ExtFileSystem
from sysqcache.attribution.imagescan.extmap import DamagedFileSystem
from sysqcache.attribution.imagescan.partitions import Partition, identify, partitions
from sysqcache.attribution.imagescan.walk import TreeWalk
from sysqcache.base.types import DiskFormat
from sysqcache.formats.access import FileAccess, MemoryAccess, UnreadableImage

KINDS = ("ext2", "ext3", "ext4")
BIG = 3 * MIB + 12345


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of all sizes, links, a directory of many blocks, names that are not UTF-8."""
    root = tmp_path / "tree"
    (root / "usr/lib/deep/er").mkdir(parents=True)
    (root / "usr/lib/big.so").write_bytes(random.Random(1).randbytes(BIG))
    (root / "usr/lib/deep/er/small").write_bytes(b"small")
    (root / "empty").touch()
    os.link(root / "usr/lib/big.so", root / "usr/lib/same.so")
    (root / "link").symlink_to("usr/lib/big.so")
    Path(os.fsdecode(bytes(root) + b"/\xff\xfe")).write_bytes(b"odd name")
    with (root / "holes").open("wb") as file:
        file.seek(2 * MIB)
        file.write(b"behind a hole")
    many = root / "many"
    many.mkdir()
    for number in range(500):
        (many / f"a-file-with-a-name-that-takes-some-space-{number}").write_bytes(b"%d" % number)
    return root


def files_of(image: Path, start: int = 0) -> dict[str, bytes]:
    files = ExtFileSystem(FileAccess(image), start)
    return {path: files.open(inode).read(0, inode.size) for path, inode in TreeWalk(files)}


def truth_of(tree: Path) -> dict[str, bytes]:
    found = (Path(folder) / name for folder, _, names in os.walk(tree) for name in names)
    return {f"/{p.relative_to(tree)}": p.read_bytes() for p in found if not p.is_symlink()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [1024, 4096])
def test_every_file_is_read_as_it_was_written(
    tmp_path: Path, tree: Path, kind: str, block: int
) -> None:
    image = make_ext(tmp_path / "image", tree, kind, "-b", str(block))
    assert files_of(image) == truth_of(tree)


@pytest.mark.parametrize(
    "features",
    ["^64bit,^flex_bg", "^extents,^64bit", "large_dir,bigalloc,^has_journal,^resize_inode"],
)
def test_features_of_ext4(tmp_path: Path, tree: Path, features: str) -> None:
    image = make_ext(tmp_path / "image", tree, "ext4", "-O", features)
    assert files_of(image) == truth_of(tree)


def test_small_files_inside_of_inodes(tmp_path: Path, tree: Path) -> None:
    for size in (1, 59, 60, 61, 100, 130):
        (tree / f"usr/of-{size}").write_bytes(b"%d" % size + b"." * size)
    image = make_ext(tmp_path / "image", tree, "ext4", "-O", "inline_data")
    for path in ("/usr/lib/deep", "/usr/of-100"):
        assert "Flags: 0x1" in debugfs(image, f"stat {path}")
    assert files_of(image) == truth_of(tree)


def test_a_feature_that_is_not_read_is_named(tmp_path: Path, tree: Path) -> None:
    image = make_ext(tmp_path / "image", tree, "ext4", "-O", "meta_bg,^resize_inode")
    with pytest.raises(DamagedFileSystem, match="features 0x10 are not known"):
        ExtFileSystem(FileAccess(image), 0)


def test_numbers_and_sizes_agree_with_debugfs(tmp_path: Path, tree: Path) -> None:
    image = make_ext(tmp_path / "image", tree)
    files = ExtFileSystem(FileAccess(image), 0)
    for path, inode in TreeWalk(files):
        if path.startswith("/usr"):
            said = debugfs(image, f"stat {path}")
            assert int(re.search(r"Inode: (\d+)", said)[1]) == inode.number  # type: ignore[index]
            assert int(re.search(r"Size: (\d+)", said)[1]) == inode.size  # type: ignore[index]
    found = files.find("/usr/lib/deep/er/small")
    assert found is not None
    assert found.size == 5
    assert files.find("/usr/lib/big.so/below") is None
    assert files.find("/usr/nothing") is None


def test_parts_of_a_file(tmp_path: Path, tree: Path) -> None:
    image = make_ext(tmp_path / "image", tree, "ext4", "-b", "1024")
    files = ExtFileSystem(FileAccess(image), 0)
    for name in ("usr/lib/big.so", "holes"):
        inode = files.find("/" + name)
        assert inode is not None
        reader, truth = files.open(inode), (tree / name).read_bytes()
        for offset, size in (
            (0, 1),
            (1023, 2),
            (4096, 5000),
            (BIG - 3, 100),
            (BIG + 5, 1),
            (-1, 4),
        ):
            wanted = truth[offset : offset + size] if offset >= 0 else b""
            assert reader.read(offset, size) == wanted


def test_a_directory_that_holds_its_parent_ends(tmp_path: Path, tree: Path) -> None:
    image = make_ext(tmp_path / "image", tree)
    debugfs(image, "link /usr /usr/lib/deep/er/up", "link / /usr/lib/root", write=True)
    paths = list(files_of(image))
    assert sorted(paths) == sorted(truth_of(tree))


def inode_place(image: Path, path: str) -> tuple[int, int]:
    """Where an inode lies in the image, and its first extent's block, by debugfs."""
    block, offset = re.search(  # type: ignore[union-attr]
        r"located at block (\d+), offset (0x[0-9a-f]+)", debugfs(image, f"imap {path}")
    ).groups()
    return int(block) * 1024 + int(offset, 16), 0


def test_an_extent_tree_that_holds_itself_ends(tmp_path: Path, tree: Path) -> None:
    image = make_ext(tmp_path / "image", tree, "ext4", "-b", "1024")
    place, _ = inode_place(image, "/usr/lib/big.so")
    loop = 9000
    node = struct.pack("<HHHHI", 0xF30A, 1, 4, 1, 0) + struct.pack("<IIHH", 0, loop, 0, 0)
    with image.open("r+b") as file:
        file.seek(place + 40)
        file.write(node.ljust(60, b"\0"))
        file.seek(loop * 1024)
        file.write(node)
    files = ExtFileSystem(FileAccess(image), 0)
    inode = files.find("/usr/lib/big.so")
    assert inode is not None
    with pytest.raises(DamagedFileSystem, match="extent tree"):
        files.open(inode)


def test_a_block_map_that_holds_itself_ends(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_ext(tmp_path / "image", tree, "ext2", "-b", "1024")
    place, _ = inode_place(image, "/usr/lib/big.so")
    loop = 9000
    with image.open("r+b") as file:
        file.seek(loop * 1024)
        file.write(struct.pack("<I", loop) * 256)
        file.seek(place + 40)
        file.write(struct.pack("<15I", *[loop] * 15))
        file.seek(place + 4)
        file.write(struct.pack("<I", 0x30000000))
    files = ExtFileSystem(FileAccess(image), 0)
    monkeypatch.setattr(limits, "EXTENTS", 5000)
    for size in (0x30000000, 5000 * 16 * 1024):
        with image.open("r+b") as file:
            file.seek(place + 4)
            file.write(struct.pack("<I", size))
        files = ExtFileSystem(FileAccess(image), 0)
        inode = files.find("/usr/lib/big.so")
        assert inode is not None
        if size == 0x30000000:
            with pytest.raises(DamagedFileSystem):
                files.open(inode)
        else:
            assert len(files.open(inode).read(0, MIB)) == MIB


@pytest.mark.parametrize("kind", KINDS)
def test_damage_anywhere_is_survived(tmp_path: Path, tree: Path, kind: str) -> None:
    image = make_ext(tmp_path / "image", tree, kind, "-b", "1024").read_bytes()
    chance = random.Random(4)
    for _ in range(25):
        content = bytearray(image)
        # the head holds the super block, the descriptors and the inodes
        for _ in range(chance.choice((1, 20, 2000))):
            content[chance.randrange(MIB // 2)] = chance.randrange(256)
        survives(MemoryAccess(bytes(content[: chance.choice((len(image), 700_000, 1500))])))


def survives(disk: MemoryAccess) -> None:
    try:
        files = ExtFileSystem(disk, 0)
    except DamagedFileSystem:
        return
    for _, inode in TreeWalk(files):
        try:
            assert len(files.open(inode).read(0, 8192)) <= 8192
        except DamagedFileSystem:
            continue


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (24, b"\x40", "no sense"),
        (40, b"\0\0\0\0", "no sense"),
        (0, b"\xff\xff\xff\xff", "block groups"),
        (88, b"\xff\xff", "inodes of 65535"),
        (96, b"\x01", "features 0x1 "),
        (56, b"\0\0", "no super block"),
    ],
)
def test_super_blocks_without_sense(
    tmp_path: Path, tree: Path, place: int, value: bytes, said: str
) -> None:
    content = bytearray(make_ext(tmp_path / "image", tree, "ext4", "-N", "4096").read_bytes())
    content[1024 + place : 1024 + place + len(value)] = value
    if said == "block groups":
        content[1024 + 40 : 1024 + 44] = struct.pack("<I", 1)
    with pytest.raises(DamagedFileSystem, match=said):
        ExtFileSystem(MemoryAccess(bytes(content)), 0)


@pytest.mark.parametrize("spare", [False, True])
def test_partitions_of_a_gpt(tmp_path: Path, tree: Path, spare: bool) -> None:
    parts = [make_ext(tmp_path / f"part{n}", tree) for n in range(2)]
    disk = FileAccess(with_gpt(tmp_path / "disk", parts, spare=spare))
    found = partitions(disk)
    assert found == [Partition(1, MIB, 32 * MIB), Partition(2, 33 * MIB, 32 * MIB)]
    assert [identify(disk, part) for part in found] == ["ext", "ext"]
    assert files_of(tmp_path / "disk", found[1].start) == truth_of(tree)


def mbr(*entries: tuple[int, int, int]) -> bytes:
    rows = b"".join(struct.pack("<B3sB3sII", 0, b"", k, b"", s, n) for k, s, n in entries)
    return bytes(446) + rows.ljust(64, b"\0") + b"\x55\xaa"


def test_logical_partitions_and_a_ring_of_them() -> None:
    disk = bytearray(100 * 512)
    disk[:512] = mbr((0x83, 10, 5), (0x05, 20, 70))
    disk[20 * 512 : 21 * 512] = mbr((0x83, 2, 8), (0x05, 20, 30))
    disk[40 * 512 : 41 * 512] = mbr((0x83, 2, 9), (0x05, 20, 30))
    found = partitions(MemoryAccess(bytes(disk)))
    assert [(p.number, p.start // 512, p.size // 512) for p in found] == [
        (1, 10, 5),
        (5, 22, 8),
        (6, 42, 9),
    ]


@pytest.mark.parametrize(
    ("name", "place", "magic"),
    [
        ("LUKS", 0, b"LUKS\xba\xbe"),
        ("LVM", 512, b"LABELONE"),
        ("btrfs", 65600, b"_BHRfS_M"),
        ("XFS", 0, b"XFSB"),
    ],
)
def test_what_else_lies_on_disks(name: str, place: int, magic: bytes) -> None:
    disk = MemoryAccess(bytes(place) + magic + bytes(MIB))
    assert identify(disk, partitions(disk)[0]) == name


def test_tables_full_of_noise() -> None:
    chance = random.Random(7)
    for _ in range(200):
        disk = bytearray(chance.randbytes(8192))
        disk[510:512] = b"\x55\xaa"
        disk[512:520] = b"EFI PART"
        found = partitions(MemoryAccess(bytes(disk)))
        assert 0 < len(found) <= limits.PARTITIONS
        assert all(0 <= part.start < len(disk) for part in found)


def test_qcow2_with_backing_files(tmp_path: Path) -> None:
    chance = random.Random(2)
    truth = bytearray(8 * MIB)
    raw = tmp_path / "raw"
    truth[MIB : 2 * MIB] = chance.randbytes(MIB)
    raw.write_bytes(truth)
    tool = qemu_img("convert", "-O", "qcow2", raw, tmp_path / "base")
    top = tmp_path / "base"
    for number in range(3):
        over = tmp_path / f"over{number}"
        qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", top, over)
        piece = tmp_path / "piece"
        truth[(2 + number) * MIB : (2 + number) * MIB + 70_000] = chance.randbytes(70_000)
        piece.write_bytes(truth)
        qemu_img("convert", "-n", "-O", "qcow2", piece, over)
        top = over
    image = open_image(top, DiskFormat.QCOW2, tool)
    assert [path.name for path in image.files] == ["over2", "over1", "over0", "base"]
    assert image.blocks.size == len(truth)
    assert image.blocks.read(0, len(truth)) == truth
    for _ in range(50):
        offset, size = chance.randrange(9 * MIB), chance.randrange(200_000)
        assert image.blocks.read(offset, size) == truth[offset : offset + size]
    image.blocks.close()
    assert image.blocks.read(MIB, 4096) != truth[MIB : MIB + 4096]


@pytest.mark.parametrize("options", ["compat=0.10", "cluster_size=4k", "compression_type=zstd"])
def test_compressed_clusters(tmp_path: Path, tree: Path, options: str) -> None:
    raw = make_ext(tmp_path / "raw", tree)
    truth = raw.read_bytes()
    packed, over = tmp_path / "packed", tmp_path / "over"
    tool = qemu_img("convert", "-c", "-O", "qcow2", "-o", options, raw, packed)
    qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", packed, over)
    image = open_image(over, DiskFormat.QCOW2, tool)
    assert image.blocks.read(0, len(truth)) == truth
    chance = random.Random(13)
    for _ in range(50):
        offset, size = chance.randrange(len(truth)), chance.randrange(200_000)
        assert image.blocks.read(offset, size) == truth[offset : offset + size]
    content = bytearray(packed.read_bytes())
    for _ in range(300):  # in clusters, as qemu-img itself reads the tables
        content[chance.randrange(len(content) // 3, len(content) // 2)] ^= 1
    packed.write_bytes(content)
    assert len(image.blocks.read(0, len(truth))) <= len(truth)


def test_a_shorter_base_reads_as_zeros_behind_its_end(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"x" * 5000)
    top = tmp_path / "top"
    tool = qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", tmp_path / "raw", top, "1M")
    image = open_image(top, DiskFormat.QCOW2, tool)
    assert image.blocks.size == MIB
    assert image.blocks.read(4990, 100) == b"x" * 10 + bytes(90)


def test_images_that_cannot_be_opened(tmp_path: Path) -> None:
    tool = qemu_img()
    with pytest.raises(UnreadableImage, match="No such file"):
        open_image(tmp_path / "missing", DiskFormat.RAW, None)
    (tmp_path / "noise").write_bytes(b"QFI\xfb" + random.Random(3).randbytes(5000))
    with pytest.raises(UnreadableImage):
        open_image(tmp_path / "noise", DiskFormat.QCOW2, tool)
    with pytest.raises(UnreadableImage, match="without an engine"):
        open_image(tmp_path / "noise", DiskFormat.QCOW2, None)
    with pytest.raises(UnreadableImage, match="did not answer"):
        open_image(tmp_path / "noise", DiskFormat.QCOW2, tmp_path / "no-tool")


def test_the_root_is_the_root(tmp_path: Path, tree: Path) -> None:
    files = ExtFileSystem(FileAccess(make_ext(tmp_path / "image", tree)), 0)
    names = {name for name, _ in files.entries(files.inode(ROOT))}
    assert {"usr", "many", "empty", "link", "holes", "lost+found"} <= names
