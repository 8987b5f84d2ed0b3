# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's own tests/tcg, built by their Makefile from QEMU's source, outside of its tree."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.base.errors import EngineBuildError
from sysqcache.setup.engine import source
from sysqcache.setup.hostpackages import install_command
from sysqcache.setup.work import Listener, Work, alone, published

_TREE: Final = "bench-qemu-tests"
_QEMU: Final = "@qemu@"
"""Stands for QEMU in the commands that make is asked for."""


@dataclass(frozen=True)
class Toolchain:
    """The compiler of a target and the packages that bring it."""

    prefix: str
    packages: tuple[str, ...]
    flags: str = ""

    @property
    def compiler(self) -> str:
        """Its name."""
        return f"{self.prefix}gcc"


TOOLCHAINS: Final = {
    "x86_64": Toolchain("", ("gcc", "libc6-dev"), "-m64"),
    "i386": Toolchain("", ("gcc", "libc6-dev-i386", "lib32gcc-12-dev"), "-m32"),
    "aarch64": Toolchain("aarch64-linux-gnu-", ("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross")),
    "riscv64": Toolchain(
        "riscv64-linux-gnu-", ("gcc-riscv64-linux-gnu", "libc6-dev-riscv64-cross")
    ),
}


def missing(target: str) -> str:
    """Why programs for ``target`` can't be built here, or ""."""
    tools = TOOLCHAINS[target]
    command = [tools.compiler, *tools.flags.split(), "-static", "-xc", "-", "-o", os.devnull]
    try:
        text = '#include <stdio.h>\nint main(void) { return puts(""); }\n'
        done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    except FileNotFoundError:
        done = None
    if done is not None and done.returncode == 0:
        return ""
    return f"no compiler for {target}: {install_command(tools.packages)}"


def kept() -> Path | None:
    """QEMU's source, if it was fetched before, for this or for the engine."""
    cache = paths.cache_dir()
    for directory in (cache / _TREE, cache / "trees" / "engine"):
        if (directory / "tests" / "tcg").is_dir():
            return directory
    return None


def tree(listener: Listener) -> Path:
    """QEMU's source with Debian's patches, fetched as the engine's is; kept in the cache."""
    if found := kept():
        return found
    target = paths.cache_dir() / _TREE
    with alone(paths.build_lock(), listener):
        work = Work(paths.logs_dir() / f"{_TREE}.log", EngineBuildError, listener)
        with work.step("fetch QEMU's source"), published(target) as output:
            output.rmdir()
            apt = source.debian_apt(work)
            apt.update()
            source.from_debian(source.fetch(apt), output, work)
    return target


@dataclass(frozen=True)
class Build:
    """A directory in which tests of one target are built.

    :param kind: ``softmmu``: bare machines; ``linux-user``: programs.
    """

    tree: Path
    directory: Path
    target: str
    kind: str

    def make(self, *arguments: str) -> str:
        """What QEMU's Makefile says; what can't be built is left out."""
        self.directory.mkdir(parents=True, exist_ok=True)
        # as QEMU's configure leaves them: options are tried out when the Makefile is newer
        for name in ("Makefile", "config-target.mak"):
            (self.directory / name).touch()
        tests, tools = self.tree / "tests" / "tcg", TOOLCHAINS[self.target]
        variables = {
            "TARGET": f"{self.target}-{self.kind}", "TARGET_NAME": self.target,
            "SRC_PATH": str(self.tree), "CC": tools.compiler, "LD": f"{tools.prefix}ld",
            "EXTRA_CFLAGS": tools.flags, "BUILD_STATIC": "y", "PYTHON": "python3", "QEMU": _QEMU,
        }  # fmt: skip
        # what is named last counts
        given = [f"{name}={value}" for name, value in variables.items()]
        command = ["make", "-r", "-k", "-f", str(tests / "Makefile.target"), *given, *arguments]
        done = subprocess.run(
            command, cwd=self.directory, capture_output=True, text=True, check=False
        )
        (self.directory / "make.log").write_text(done.stdout + done.stderr)
        return done.stdout

    def programs(self, only: Sequence[str] = ()) -> list[Path]:
        """Build everything, or ``only`` some; the programs, by name."""
        self.make(*(only or ("all",)))
        found = (path for path in self.directory.iterdir() if path.suffix != ".o")
        return sorted(path for path in found if path.is_file() and os.access(path, os.X_OK))

    def runs(self) -> dict[str, list[str]]:
        """Build everything; name -> QEMU's arguments for what ``make run`` runs."""
        self.make("run", "QEMU=true")
        return parse_runs(self.make("-n", "V=1", "run"))


def parse_runs(text: str) -> dict[str, list[str]]:
    """Test -> arguments of the commands for QEMU in what ``make -n run`` prints."""
    found = {}
    for line in text.splitlines():
        words = shlex.split(line) if _QEMU in line and "run-test.py" not in line else []
        if "timeout" in words and _QEMU in words:
            arguments = words[words.index(_QEMU) + 1 :]
            found[_name(arguments)] = arguments
    return found


def _name(arguments: Sequence[str]) -> str:
    """A test is named by the file that gets its output, or by what is loaded."""
    for argument in arguments:
        if match := re.search(r"path=([\w.-]+)\.out,", argument):
            return match[1]
    return arguments[-1].rpartition("=")[2]


def commands(
    build: Build, folder: Path, references: Mapping[str, Path], only: Sequence[str] = ()
) -> dict[str, str]:
    """Name -> command, for the programs of a build, which are put into ``folder``.

    :param only: names of some; none means all.
    :param references: what QEMU keeps as the right output of some tests; their status is that of
        the comparison.
    """
    found = {}
    (folder / "bin").mkdir()
    strip = f"{TOOLCHAINS[build.target].prefix}strip"
    for program in build.programs(only):
        subprocess.run([strip, "-o", folder / "bin" / program.name, program], check=True)
        command = f"/suite/bin/{program.name}"
        if reference := references.get(program.name):
            (folder / "bin" / reference.name).write_bytes(reference.read_bytes())
            command += f" > out; status=$?; cat out; cmp out /suite/bin/{reference.name} || exit 1"
            command += "; exit $status"
        found[program.name] = command
    return found


def references(tree: Path, target: str) -> dict[str, Path]:
    """Program -> QEMU's reference output."""
    return {path.stem: path for path in (tree / "tests" / "tcg" / target).glob("*.ref")}
