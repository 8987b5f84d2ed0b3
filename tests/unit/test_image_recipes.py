# SPDX-License-Identifier: GPL-2.0-or-later
"""Recipes of Debian images, their disks, and a package changed in a file system."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from sysqcache.base import paths
from sysqcache.base.errors import ConfigError, ImageBuildError, ImageMissing
from sysqcache.base.types import ArchName
from sysqcache.setup.images import debian, disk, foreign, upgraded
from sysqcache.setup.work import Work
from sysqcache.spec import catalog, vmyaml
from sysqcache.spec.arch import get_arch
from sysqcache.spec.recipe import (
    HOME,
    DebianRecipe,
    DiskLayout,
    TinyRecipe,
    UpgradedRecipe,
    find,
    names,
)

CONFIGS = Path(__file__).parents[2] / "configs"
MIB = 1 << 20
UUID = "5f2d1c0e-7c1b-4d57-9f6e-0d1f2a3b4c5d"
IMAGES = {name: find(name) for name in names()}
RECIPES = {name: image.recipe for name, image in IMAGES.items()}
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
    assert set(RECIPES) == {image.name for image in catalog.list_images()}
    for recipe in RECIPES.values():
        assert recipe.description
        if isinstance(recipe, UpgradedRecipe):
            base = RECIPES[recipe.base]
            assert isinstance(base, DebianRecipe)
            assert base.disk.swap == 0


@pytest.mark.parametrize("name", [n for n, r in RECIPES.items() if isinstance(r, DebianRecipe)])
def test_files_of_an_image(name: str) -> None:
    image = IMAGES[name]
    *_, task = (file for tree in image.files if (file := tree / "usr/local/bin/work").exists())
    subprocess.run(["sh", "-n", task], check=True)
    own = image.files[-1] / "etc"
    host = (own / "hostname").read_text().strip()
    assert f"127.0.1.1 {host}\n" in (own / "hosts").read_text()
    assert len((own / "machine-id").read_text()) == 33


@pytest.mark.parametrize(
    "name",
    [n for n, r in RECIPES.items() if not isinstance(r, UpgradedRecipe) and n != catalog.HELPER],
)
def test_an_image_has_a_configuration_that_starts_it(name: str) -> None:
    data = vmyaml.read(CONFIGS / f"{name}.yaml").data
    recipe = RECIPES[name]
    assert data["arch"] == recipe.arch
    assert (data["kernel"], data["initrd"]) == (f"image:{name}/kernel", f"image:{name}/initrd")
    if isinstance(recipe, DebianRecipe):
        assert data["disks"] == [{"file": f"image:{name}"}]
        assert data["agent"] == "guest-agent"
        assert "qemu-guest-agent" in recipe.packages
        work = {"gcc", "perl", "python3"}
        assert work <= set(recipe.packages) or (HOME / name / "files/usr/local/bin/work").exists()
        if recipe.suite != "bookworm":
            # or ldconfig and others run at each start, see debian13-x86_64/setup.sh
            assert any("/etc/.updated" in one.read_text() for one in IMAGES[name].scripts)
    if recipe.arch != ArchName.X86_64 and isinstance(recipe, DebianRecipe):
        assert foreign.rule(get_arch(recipe.arch)).name == f"qemu-{recipe.arch}.conf"


def test_images_differ_in_what_tells_machines_apart() -> None:
    systems = [name for name, recipe in RECIPES.items() if isinstance(recipe, DebianRecipe)]
    recipes = [recipe for recipe in RECIPES.values() if isinstance(recipe, DebianRecipe)]
    assert len({recipe.disk.uuid for recipe in recipes}) == len(recipes)
    for file in ("hostname", "machine-id"):
        texts = {(IMAGES[name].files[-1] / "etc" / file).read_text() for name in systems}
        assert len(texts) == len(recipes)


def test_partitions_do_not_overlap() -> None:
    text, start, size = disk.partitions(DiskLayout(size="512MiB", uuid=UUID, swap="64MiB"))
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
    layout = DiskLayout(size="64MiB", uuid=UUID, mkfs=("-b", "1024"), swap="16MiB")
    disk.make(layout, archive, raw, target, work)
    assert (target / "vmlinuz-1").read_bytes() == b"kernel"
    data = raw.read_bytes()
    assert data[512:520] == b"EFI PART"
    assert data[MIB + 4086 : MIB + 4096] == b"SWAPSPACE2"
    root = tmp_path / "root.raw"
    root.write_bytes(data[17 * MIB : 63 * MIB])
    subprocess.run([shutil.which("e2fsck", path="/usr/sbin:/sbin") or "", "-fn", root], check=True)
    assert upgraded.FileSystem(root, tmp_path, work).read("/boot/initrd.img-1") == b"initrd"


def test_the_machine_id_is_what_the_image_says(tmp_path: Path) -> None:
    tree, archive, out = tmp_path / "tree", tmp_path / "root.tar", tmp_path / "out"
    for folder in (tree / "etc", out):
        folder.mkdir(parents=True)
    for name in ("hostname", "machine-id"):
        (tree / "etc" / name).touch()
    files = IMAGES["debian12-x86_64-other"].files
    for trees, wanted in (([tree], ""), (files, (files[-1] / "etc/machine-id").read_text())):
        # as mmdebstrap leaves it
        subprocess.run(["tar", "-C", tree, "-cf", archive, "."], check=True)
        debian.restore(archive, trees)
        subprocess.run(["tar", "-C", out, "-xpf", archive], check=True)
        assert (out / "etc/machine-id").read_text() == wanted
        assert (out / "etc/machine-id").stat().st_mode & 0o777 == 0o644
        assert (out / "etc/hostname").read_text() == ""


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


def folder(tmp_path: Path, text: str, name: str = "my-image") -> str:
    """An image of a user's own."""
    made = tmp_path / name
    made.mkdir()
    (made / "image.yaml").write_text(text)
    return str(made)


TINY = "kind: tiny\nsuite: bookworm\nkernel: linux-image-cloud-amd64\nmodules: [virtio_blk]\n"


def test_a_copy_of_an_image_is_an_image(tmp_path: Path) -> None:
    shutil.copytree(HOME / "debian12-x86_64", tmp_path / "mine")
    image, ours = find(str(tmp_path / "mine")), find("debian12-x86_64")
    assert (image.name, image.own, ours.own) == ("mine", False, True)
    assert image.recipe == ours.recipe
    assert image.files == [tmp_path / "mine" / "files"]
    assert image.scripts == [tmp_path / "mine" / "setup.sh"]


def test_what_an_image_is_like_comes_first(tmp_path: Path) -> None:
    made = Path(folder(tmp_path, TINY + "like: tiny-x86_64\n"))
    (made / "files").mkdir()
    (made / "setup.sh").touch()
    image = find(str(made))
    assert image.files == [HOME / "tiny-x86_64" / "files", made / "files"]
    assert image.scripts == [made / "setup.sh"]


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("{}", ["1: kind: expected one of debian, tiny, upgraded"]),
        ("kind: [tiny]", ["1: kind: expected one of debian, tiny, upgraded"]),
        (
            TINY + "modulse: []\narch: arm64",
            [
                "6: arch: expected 'x86_64', 'aarch64' or 'riscv64'; found 'arm64'",
                "5: modulse: unknown key; did you mean 'modules'?",
            ],
        ),
        (
            "kind: debian\nsuite: -o\nkernel: k\npackages: []\ndisk: {sise: 1GiB, uuid: x}",
            [
                "2: suite: expected a word of letters, digits, '.', '_', '+' and '-'; found '-o'",
                "5: disk.size: this field is required",
                "5: disk.uuid: expected a UUID; found 'x'",
                "5: disk.sise: unknown key; did you mean 'size'?",
            ],
        ),
        (TINY + "like: debian12-arm64", ["5: like: debian12-arm64 is of the kind debian"]),
        (
            "kind: upgraded\nbase: debian12-x86_64-other\npackage: vim",
            ["2: base: the disk of debian12-x86_64-other has partitions"],
        ),
    ],
)
def test_every_problem_of_a_recipe_is_told(tmp_path: Path, text: str, problems: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        find(folder(tmp_path, text))
    file = f"{tmp_path}/my-image/image.yaml:"
    assert [line.removeprefix(file) for line in caught.value.detail.split("\n")] == problems
    assert "images/README.md" in caught.value.hint


def test_names_of_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is the name of an image of sysqcache"):
        find(folder(tmp_path, TINY, "tiny-x86_64"))
    with pytest.raises(ConfigError, match="can't be an image's name"):
        find(folder(tmp_path, TINY, "-x"))
    with pytest.raises(ImageMissing, match="no image 'tiny'"):
        find("tiny")


def test_an_image_of_a_user_is_listed_and_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(paths.ENV_HOME, str(tmp_path))
    directory = paths.images_dir() / "mine"
    directory.mkdir(parents=True)
    (directory / catalog.META).write_text(json.dumps({"description": "of my own"}))
    (directory / catalog.KERNEL).touch()
    assert catalog.resolve("mine").kernel == directory / catalog.KERNEL
    last = catalog.list_images()[-1]
    assert (last.name, last.description, last.built) == ("mine", "of my own", True)


def test_fields_of_recipes_are_documented() -> None:
    text = (HOME / "README.md").read_text()
    for kind in (DebianRecipe, TinyRecipe, UpgradedRecipe, DiskLayout):
        assert not [name for name in kind.model_fields if f"`{name}`" not in text]
