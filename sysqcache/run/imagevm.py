# SPDX-License-Identifier: GPL-2.0-or-later
"""A vm.yaml for an image that has none: what its recipe and its files tell."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sysqcache.base.errors import ImageMissing
from sysqcache.base.files import make_directory, replace_file
from sysqcache.run.plan import runs_dir
from sysqcache.spec import catalog, recipe
from sysqcache.spec.arch import get_arch
from sysqcache.spec.recipe import DebianRecipe, Recipe, TinyRecipe, UpgradedRecipe

_READY: Final = "sysqcache: ready"
"""What the guests of all recipes say on their serial line."""

_QUIET: Final = "no_timer_check"
"""The kernel's check of the timer takes a second now and then under emulation; x86 alone has it."""


def vm_yaml(name: str) -> Path:
    """A vm.yaml for a built image, which is written if it is not there as it should be.

    Raises :class:`ImageMissing`, OSError.
    """
    built = catalog.resolve(name)
    if name not in recipe.names():
        raise ImageMissing(
            f"{name} was built from a folder of yours: sysqcache does not know how it starts",
            hint="write a vm.yaml for it and name that: docs/vm-yaml.md",
        )
    text = describe(name, recipe.find(name).recipe, built)
    folder = runs_dir() / "images"
    make_directory(folder)
    file = folder / f"{name}.yaml"
    if not file.exists() or file.read_text() != text:
        replace_file(file, text.encode())
    return file


def describe(name: str, made: Recipe, built: catalog.ImagePaths) -> str:
    """The text of a vm.yaml for an image."""
    base = recipe.find(made.base).recipe if isinstance(made, UpgradedRecipe) else made
    assert not isinstance(base, UpgradedRecipe)
    arch = get_arch(base.arch)
    tiny = isinstance(base, TinyRecipe)
    root = "/dev/vda2" if isinstance(base, DebianRecipe) and base.disk.swap else "/dev/vda"
    words = [] if tiny else [f"root={root}", "rw"]
    words.append(f"console={arch.console}")
    words += [_QUIET] if arch.console == "ttyS0" and arch.debian_name == "amd64" else []
    lines = [
        f"name: {name}",
        f"arch: {arch.name}",
        f"memory: {'256MiB' if tiny else '1GiB'}",
        f"kernel: image:{name}/kernel",
        f"initrd: image:{name}/initrd",
        f"cmdline: {' '.join([*words, 'quiet'] if tiny else words)}",
        *([f"disks:\n  - file: image:{name}"] if built.disk else []),
        "network:\n  forwards:\n    - {host: 0, guest: 22}",
        f'ready:\n  pattern: "{_READY}"\n  timeout: 400s',
        f"agent: {'serial-shell' if tiny else 'guest-agent'}",
    ]
    return "\n".join(lines) + "\n"
