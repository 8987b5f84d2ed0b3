# SPDX-License-Identifier: GPL-2.0-or-later
"""How the engine is configured."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from sysqcache.base.errors import EngineBuildError
from sysqcache.setup.work import Work
from sysqcache.spec.series import Sanitizer, options

TARGETS: Final = ("x86_64", "aarch64", "riscv64")
"""Guest architectures; all are built unless some are asked for."""

_COMMAND: Final = "configured-by.txt"
"""In the build directory: the command line, one word a line."""


def meson_present() -> bool:
    """Whether the Python which runs us has meson."""
    return find_spec("mesonbuild") is not None


def require_meson() -> None:
    """Check that the Python which runs us has meson; QEMU's configure takes it from there.

    :raises EngineBuildError: it has not.
    """
    if not meson_present():
        raise EngineBuildError(
            f"{sys.executable} has no meson", hint="pip install 'sysqcache[engine-build]'"
        )


def configure(
    tree: Path, targets: Sequence[str], work: Work, sanitize: Sanitizer | None = None
) -> Path:
    """Run QEMU's configure; gives the build directory.

    A directory that was configured so is used again: ninja itself reruns meson when it has to.
    """
    build = tree / "build"
    command = [
        "../configure",
        f"--python={sys.executable}",
        f"--target-list={','.join(f'{target}-softmmu' for target in targets)}",
        # no path of this build in the binary: equal sources give an equal build id
        f"--extra-cflags=-ffile-prefix-map={tree}=.",
        *options(sanitize),
    ]
    if not _configured_by(build, command):
        shutil.rmtree(build, ignore_errors=True)
        build.mkdir()
        work.run(command, cwd=build, hint="the packages it needs are listed by: sysqcache doctor")
        (build / _COMMAND).write_text("\n".join(command), encoding="utf-8")
    return build


def _configured_by(build: Path, command: Sequence[str]) -> bool:
    try:
        known = (build / _COMMAND).read_text(encoding="utf-8")
    except OSError:
        return False
    return known == "\n".join(command) and (build / "build.ninja").is_file()
