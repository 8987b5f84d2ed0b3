# SPDX-License-Identifier: GPL-2.0-or-later
"""The catalog of images, and the parts of the tiny one that need no package."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from sysqcache.base import paths
from sysqcache.base.errors import ImageMissing
from sysqcache.setup.images import tiny
from sysqcache.setup.images.cpio import CpioWriter
from sysqcache.spec import catalog
from sysqcache.spec.recipe import HOME, names

NAME = "tiny-x86_64"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(paths.ENV_HOME, str(tmp_path))


def publish(meta: str) -> Path:
    directory = paths.images_dir() / NAME
    directory.mkdir(parents=True)
    (directory / catalog.META).write_text(meta)
    (directory / catalog.KERNEL).write_bytes(b"kernel")
    return directory


def test_an_image_that_is_not_built_names_the_command() -> None:
    with pytest.raises(ImageMissing) as caught:
        catalog.resolve(NAME)
    assert caught.value.hint == f"sysqcache image build {NAME}"


def test_an_unknown_image_names_the_nearest() -> None:
    with pytest.raises(ImageMissing) as caught:
        catalog.resolve("debian12-x86-64")
    assert caught.value.hint == "did you mean debian12-x86_64?"


def test_a_built_image_has_those_files_that_are_there() -> None:
    directory = publish("{}")
    image = catalog.resolve(NAME)
    assert (image.disk, image.kernel, image.initrd) == (None, directory / "kernel", None)


def test_the_list_shows_unbuilt_and_damaged_images() -> None:
    publish("{ damaged")
    found = {image.name: image for image in catalog.list_images()}
    assert set(found) == set(names())
    assert catalog.META in found[NAME].error
    assert not found[NAME].built
    assert not found["debian12-x86_64"].error


def test_the_list_shows_what_was_built() -> None:
    publish(json.dumps({"created": "2026-01-01"}))
    assert next(i for i in catalog.list_images() if i.name == NAME).built


def test_module_dependencies_are_read_from_modinfo() -> None:
    assert tiny.dependencies(b"x\0license=GPL\0depends=virtio,virtio-ring\0y") == (
        "virtio",
        "virtio_ring",
    )
    assert tiny.dependencies(b"\0depends=\0") == ()
    assert tiny.dependencies(b"nothing") == ()


def test_modules_load_after_what_they_need(tmp_path: Path) -> None:
    needs = {"blk": "virtio,ring", "virtio": "ring", "ring": "", "net": "virtio,gone"}
    files = {}
    for name, before in needs.items():
        files[name] = tmp_path / f"{name}.ko"
        files[name].write_bytes(b"\0depends=" + before.encode() + b"\0")
    assert tiny.load_order(("blk", "net", "absent"), files) == ["ring", "virtio", "blk", "net"]


def test_an_archive_has_parents_once_and_ends_with_the_trailer() -> None:
    cpio = CpioWriter()
    cpio.file("a/b/file", b"12345", 0o755)
    cpio.symlink("a/b/link", "file")
    cpio.device("a/null", 1, 3)
    data = cpio.getvalue()
    assert len(data) % 4 == 0
    entries = read_cpio(data)
    assert [name for name, _, _ in entries] == ["a", "a/b", "a/b/file", "a/b/link", "a/null"]
    assert entries[2] == ("a/b/file", 0o100755, b"12345")
    assert entries[3] == ("a/b/link", 0o120777, b"file")


def read_cpio(data: bytes) -> list[tuple[str, int, bytes]]:
    """Name, mode and contents of each entry, read by the format's description."""
    position = 0
    entries: list[tuple[str, int, bytes]] = []
    while True:
        assert data[position : position + 6] == b"070701"
        fields = [int(data[position + 6 + 8 * i : position + 14 + 8 * i], 16) for i in range(13)]
        start = position + 110
        name = data[start : start + fields[11] - 1].decode()
        body = (start + fields[11] + 3) // 4 * 4
        if name == "TRAILER!!!":
            return entries
        entries.append((name, fields[1], data[body : body + fields[6]]))
        position = (body + fields[6] + 3) // 4 * 4


@pytest.mark.parametrize(
    "name",
    ["tiny-x86_64/files/init", "tiny-x86_64/files/usr/local/bin/work", "debian12-x86_64/setup.sh"],
)
def test_scripts_of_the_guests_are_well_formed(name: str) -> None:
    path = HOME / name
    subprocess.run(["sh", "-n", path], check=True)
    assert "@" not in path.read_text().replace("$@", "").replace("getty@tty", "")
