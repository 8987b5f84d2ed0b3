# SPDX-License-Identifier: GPL-2.0-or-later
"""Image files are told apart by their marks, and the error has the way to one that runs."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from imagescanhelp import MIB, qemu_img

from sysqcache.base.errors import ConfigError
from sysqcache.base.types import DiskFormat
from sysqcache.spec import resolve
from sysqcache.spec.imageformat import disk_format, find_format

CONTENT = random.Random(7).randbytes(MIB) + bytes(3 * MIB)
HEADS = {
    "vmdk": [b"KDMV", b"COWD", b"# Disk DescriptorFile\nversion=1\n"],
    "vdi": [b"<<< Oracle VM VirtualBox Disk Image >>>\n"],
    "bochs": [b"Bochs Virtual HD Image\0"],
    "cloop": [b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0\n"],
    "gzip": [b"\x1f\x8b\x08\0"],
    "bzip2": [b"BZh9"],
    "xz": [b"\xfd7zXZ\0"],
    "zstd": [b"\x28\xb5\x2f\xfd"],
    "zip": [b"PK\x03\x04"],
}
"""Beginnings of what qemu-img does not write, or writes in another way."""


def made(directory: Path, kind: str, *options: str) -> Path:
    """An image of the format with CONTENT in it; a name with what needs quotes."""
    raw, file = directory / "raw", directory / f"an, image.{kind}"
    raw.write_bytes(CONTENT)
    qemu_img("convert", "-f", "raw", "-O", kind, *options, raw, file)
    return file


def complaint(file: Path, wanted: str = "auto") -> str:
    with pytest.raises(ValueError, match=file.name) as caught:
        disk_format(file, wanted)
    return str(caught.value)


def run(line: str, directory: Path) -> None:
    command = shlex.split(line)
    command[0] = str(qemu_img())
    subprocess.run(command, check=True, capture_output=True, cwd=directory)


def converted(file: Path, line: str) -> bytes:
    """What is in the image that the line from an error makes."""
    run(line, file.parent)
    target, back = shlex.split(line)[-1], file.with_name("back")
    assert Path(target) != file
    assert disk_format(Path(target), "auto") is DiskFormat.QCOW2
    qemu_img("convert", "-f", "qcow2", "-O", "raw", target, back)
    return back.read_bytes()[: len(CONTENT)]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vmdk", ()),
        ("vmdk", ("-o", "subformat=twoGbMaxExtentFlat")),
        ("vdi", ()),
        ("vhdx", ()),
        ("vpc", ()),
        ("vpc", ("-o", "subformat=fixed")),
        ("qcow", ()),
        ("qed", ()),
        ("parallels", ()),
    ],
)
def test_the_line_in_the_error_makes_an_image_that_runs(
    tmp_path: Path, kind: str, options: tuple[str, ...]
) -> None:
    file = made(tmp_path, kind, *options)
    assert find_format(file) == kind
    for wanted in ("auto", "qcow2"):
        text = complaint(file, wanted)
    assert f"of the format {kind}, convert it: " in text
    assert converted(file, text.partition("convert it: ")[2]) == CONTENT


def test_a_container_of_luks(tmp_path: Path) -> None:
    settings = "key-secret=k,iter-time=10"
    file = made(tmp_path, "luks", "--object", "secret,id=k,data=sesame", "-o", settings)
    (tmp_path / "PASSWORD-FILE").write_text("sesame")
    line = complaint(file).partition("convert it: ")[2].partition(" (or ")[0]
    assert converted(file, line) == CONTENT
    assert disk_format(file, "raw") is DiskFormat.RAW


def test_an_encrypted_qcow2(tmp_path: Path) -> None:
    file = made(tmp_path, "qcow2")
    with file.open("r+b") as stream:
        stream.seek(32)
        stream.write(b"\0\0\0\2")
    line = complaint(file, "qcow2").partition("convert it: ")[2]
    assert "driver=qcow2,encrypt.key-secret=key,file.filename=" in line
    target = shlex.split(line)[-1]
    assert target != str(file)
    assert target.endswith(".plain.qcow2")


@pytest.mark.parametrize(("kind", "head"), [(k, h) for k, heads in HEADS.items() for h in heads])
def test_marks(tmp_path: Path, kind: str, head: bytes) -> None:
    file = tmp_path / "image"
    file.write_bytes(head + bytes(MIB))
    assert find_format(file) == kind
    assert "convert it: " in complaint(file) or "unpack it: " in complaint(file)
    assert disk_format(file, "raw") is DiskFormat.RAW


@pytest.mark.parametrize("packer", ["gzip", "bzip2", "xz", "zstd"])
@pytest.mark.parametrize("ending", [".qcow2", ".qcow2.gz", ".zst", ""])
def test_the_line_that_unpacks_does_so(tmp_path: Path, packer: str, ending: str) -> None:
    """Whatever the file is called: packers know their own endings only."""
    if shutil.which(packer) is None:
        pytest.skip(f"not installed: {packer}")
    content = bytes(range(256)) * 64
    file = tmp_path / f"an image{ending}"
    file.write_bytes(
        subprocess.run([packer], input=content, capture_output=True, check=True).stdout
    )
    line = complaint(file).partition("unpack it: ")[2]
    subprocess.run(["sh", "-c", line], check=True)
    assert Path(shlex.split(line)[-1]).read_bytes() == content


def test_an_image_of_macos(tmp_path: Path) -> None:
    file = tmp_path / "image.dmg"
    file.write_bytes(bytes(MIB) + b"koly" + bytes(508))
    assert "convert -f dmg -O qcow2" in complaint(file)


@pytest.mark.parametrize("size", [0, 1, 4, 100, 511, 512, 513, MIB])
def test_what_has_no_mark_is_raw(tmp_path: Path, size: int) -> None:
    file = tmp_path / "image"
    file.write_bytes(b"\xfa" * size)
    assert disk_format(file, "auto") is DiskFormat.RAW
    assert "no qcow2 image" in complaint(file, "qcow2")


@pytest.mark.parametrize("options", ["compat=0.10", "compression_type=zstd", "extended_l2=on"])
def test_every_qcow2_runs(tmp_path: Path, options: str) -> None:
    assert disk_format(made(tmp_path, "qcow2", "-c", "-o", options), "auto") is DiskFormat.QCOW2


def test_a_machine_names_the_disk_and_its_line(tmp_path: Path) -> None:
    file = tmp_path / "vm.yaml"
    (tmp_path / "a.vhdx").write_bytes(b"vhdxfile" + bytes(MIB))
    file.write_text("vcpus: 0\ndisks:\n  - {file: a.vhdx, mode: persistent}\n")
    with pytest.raises(ConfigError) as caught:
        resolve.load(file)
    assert "has 2 problems" in caught.value.message
    assert f"{file}:3: disks.0.file: {tmp_path}/a.vhdx is of the format vhdx, " in (
        caught.value.detail
    )
    assert (tmp_path / "a.vhdx").read_bytes() == b"vhdxfile" + bytes(MIB)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    file = tmp_path / "vm.yaml"
    file.write_text("disks: [{file: pipe}]\n")
    with pytest.raises(ConfigError, match="1 problem"):
        resolve.load(file)
