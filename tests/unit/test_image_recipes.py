# SPDX-License-Identifier: GPL-2.0-or-later
"""Recipes of Debian images, their disks, and a package changed in a file system."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib import resources
from pathlib import Path, PurePosixPath

import pytest

from sysqcache.base.errors import ImageBuildError
from sysqcache.setup.images import disk, upgraded
from sysqcache.setup.images.recipes import RECIPES, DebianRecipe, DiskLayout, UpgradedRecipe
from sysqcache.setup.work import Work
from sysqcache.spec import catalog

MIB = 1 << 20
UUID = "5f2d1c0e-7c1b-4d57-9f6e-0d1f2a3b4c5d"
STATUS = """\
Package: libone
Status: install ok installed
Version: 1.0-1
Description: one
 of several lines

Package: linux-image-6.1.0-9-cloud-amd64
Status: install ok installed
Version: 6.1-1
"""


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path / "log", ImageBuildError)


def needs(*programs: str) -> None:
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    for program in programs:
        if not shutil.which(program, path=path):
            pytest.skip(f"{program} is not installed")


def test_every_recipe_is_in_the_catalog() -> None:
    assert set(RECIPES) == set(catalog.KNOWN)
    for recipe in RECIPES.values():
        if isinstance(recipe, UpgradedRecipe):
            base = RECIPES[recipe.base]
            assert isinstance(base, DebianRecipe)
            assert base.layout.swap == 0


@pytest.mark.parametrize("name", [n for n, r in RECIPES.items() if isinstance(r, DebianRecipe)])
def test_files_of_an_image(name: str) -> None:
    recipe = RECIPES[name]
    assert isinstance(recipe, DebianRecipe)
    with resources.as_file(resources.files("sysqcache.setup.images") / "data") as data:
        [task] = [
            file for name in recipe.files if (file := data / name / "usr/local/bin/work").exists()
        ]
        subprocess.run(["sh", "-n", task], check=True)
        own = data / recipe.files[-1] / "etc"
        host = (own / "hostname").read_text().strip()
        assert f"127.0.1.1 {host}\n" in (own / "hosts").read_text()
        assert len((own / "machine-id").read_text()) == 33


def test_images_differ_in_what_tells_machines_apart() -> None:
    recipes = [recipe for recipe in RECIPES.values() if isinstance(recipe, DebianRecipe)]
    assert len({recipe.layout.uuid for recipe in recipes}) == len(recipes)
    data = resources.files("sysqcache.setup.images") / "data"
    for file in ("hostname", "machine-id"):
        texts = {(data / recipe.files[-1] / "etc" / file).read_text() for recipe in recipes}
        assert len(texts) == len(recipes)


def test_partitions_do_not_overlap() -> None:
    text, start, size = disk.partitions(DiskLayout(512 * MIB, UUID, swap=64 * MIB))
    assert (start, size) == (65 * MIB, 446 * MIB)
    assert "start=2048, size=131072, type=swap" in text
    assert f"start={start // 512}, size={size // 512}, type=linux" in text


def test_a_disk_with_partitions(tmp_path: Path, work: Work) -> None:
    needs("sfdisk", "mkswap", "mkfs.ext4", "debugfs")
    if os.geteuid():
        pytest.skip("files of root are only root's to make without a user namespace")
    boot = tmp_path / "system" / "boot"
    boot.mkdir(parents=True)
    (boot / "vmlinuz-1").write_bytes(b"kernel")
    (boot / "initrd.img-1").write_bytes(b"initrd")
    archive, raw, target = tmp_path / "root.tar", tmp_path / "disk.raw", tmp_path / "target"
    target.mkdir()
    subprocess.run(["tar", "-C", boot.parent, "-cf", archive, "."], check=True)
    layout = DiskLayout(64 * MIB, UUID, options=("-b", "1024"), swap=16 * MIB)
    disk.make(layout, archive, raw, target, work)
    assert (target / "vmlinuz-1").read_bytes() == b"kernel"
    data = raw.read_bytes()
    assert data[512:520] == b"EFI PART"
    assert data[MIB + 4086 : MIB + 4096] == b"SWAPSPACE2"
    root = tmp_path / "root.raw"
    root.write_bytes(data[17 * MIB : 63 * MIB])
    subprocess.run([shutil.which("e2fsck", path="/usr/sbin:/sbin") or "", "-fn", root], check=True)
    assert upgraded.FileSystem(root, tmp_path, work).read("/boot/initrd.img-1") == b"initrd"


def test_a_file_is_replaced(tmp_path: Path, work: Work) -> None:
    needs("mkfs.ext4", "debugfs", "e2fsck")
    tree, raw = tmp_path / "tree", tmp_path / "fs.raw"
    (tree / "usr/lib").mkdir(parents=True)
    (tree / "usr/lib/libone.so.1").write_bytes(b"old" * 5000)
    (tree / "usr/lib/libone.so").symlink_to("libone.so.1")
    raw.touch()
    os.truncate(raw, 16 * MIB)
    work.run(["mkfs.ext4", "-q", "-F", "-d", tree, raw])
    files = upgraded.FileSystem(raw, tmp_path, work)
    new, link = tmp_path / "new", tmp_path / "link"
    new.write_bytes(os.urandom(3 * MIB))
    link.symlink_to("libone.so.2")
    files.replace(PurePosixPath("/usr/lib/libone.so.1"), new)
    files.replace(PurePosixPath("/usr/lib/libone.so"), link)
    assert files.read("/usr/lib/libone.so.1") == new.read_bytes()
    shown = work.run(["debugfs", "-R", "stat /usr/lib/libone.so", raw])
    assert 'Fast link dest: "libone.so.2"' in shown
    assert "Mode:  0644" in work.run(["debugfs", "-R", "stat /usr/lib/libone.so.1", raw])
    work.run(["e2fsck", "-fn", raw])
    with pytest.raises(ImageBuildError, match="has no /usr/lib/libtwo"):
        files.read("/usr/lib/libtwo.so")
    with pytest.raises(ImageBuildError, match="has no /nowhere/file"):
        files.replace(PurePosixPath("/nowhere/file"), new)


def test_the_database_names_the_new_version() -> None:
    control = "Package: libone\nVersion: 1.1-1\nDescription: one\n"
    assert upgraded.installed_version(STATUS, "libone") == "1.0-1"
    changed = upgraded.with_control(STATUS, "libone", control)
    assert upgraded.installed_version(changed, "libone") == "1.1-1"
    assert changed.count("Status: install ok installed") == 2
    assert changed.endswith(STATUS.split("\n\n")[1] + "\n")
    with pytest.raises(ImageBuildError, match="no package libtwo"):
        upgraded.installed_version(changed, "libtwo")


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/x86_64-linux-gnu/libc.so.6"),
        ("/usr/lib/libone.so", "/usr/lib/libone.so"),
        ("/etc/one", "/etc/one"),
    ],
)
def test_paths_on_a_system_with_merged_usr(path: str, place: str) -> None:
    assert upgraded.merged(PurePosixPath(path)) == PurePosixPath(place)
