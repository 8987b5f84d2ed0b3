# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine's files that read what others wrote, built apart from QEMU and fed by libFuzzer.

``engine/tests/fuzz`` holds a program for each target, with what has to hold written down a
second time, and inputs that were worth keeping: few that reach what many do, and those that
find a planted fault (``planted-FAULT``). Others that runs have found are added with

    build/fuzz/engine/TARGET -merge=1 -use_counters=0 engine/tests/fuzz/corpus/TARGET \\
        build/fuzz/engine-TARGET-corpus

Packs of another format version are refused, and test nothing.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sysqcache.formats import block as bf
from sysqcache.setup import hostpackages

_ROOT: Final = Path(__file__).parents[2]
HERE: Final = _ROOT / "engine" / "tests" / "fuzz"
SOURCE: Final = _ROOT / "engine" / "src"
PROGRAMS: Final = _ROOT / "build" / "fuzz" / "engine"
_GOLDEN: Final = _ROOT / "tests" / "golden"
_LIBRARIES: Final = ("glib-2.0", "libxxhash")
_LIBRARY_PACKAGES: Final = ("pkg-config", "libglib2.0-dev", "libxxhash-dev")

_CFLAGS: Final = (
    *("-std=gnu11", "-D_GNU_SOURCE", "-O1", "-g", "-Wall", "-Werror"),
    *("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"),
)
_LIMITS: Final = ("-timeout=10", "-print_final_stats=1")
_MEMORY: Final = 1024
"""MiB that a program may take."""


@dataclass(frozen=True)
class Target:
    """One program.

    :param files: in ``engine/tests/fuzz``.
    :param share: of the time, beside the shares of the others.
    :param longest: bytes of an input.
    """

    name: str
    files: tuple[str, ...]
    share: int
    longest: int

    @property
    def corpus(self) -> Path:
        """Inputs that were worth keeping."""
        return HERE / "corpus" / self.name

    def inputs(self) -> list[Path]:
        """What it is given to begin with: folders and files."""
        golden = sorted(_GOLDEN.glob(f"v{bf.VERSION}*.pack")) if self.name == "pack" else []
        return [self.corpus, *golden]


TARGETS: Final = (
    Target("pack", ("pack.c", "pack-mutator.c"), share=10, longest=40_000),
    Target("touched", ("touched.c",), share=1, longest=4_096),
    Target("bootset", ("bootset.c",), share=1, longest=512),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a run of a program.

    :param coverage: edges of the tried code, and what goes for them, that were reached.
    :param found: how often the tried code had something to say: blocks, ranges, packs.
    :param output: of the program.
    """

    executions: int
    coverage: int
    found: int
    failed: bool
    output: str

    @classmethod
    def of(cls, done: subprocess.CompletedProcess[str]) -> Outcome:
        """Read off what a program wrote."""

        def last(pattern: str) -> int:
            numbers = re.findall(pattern, done.stderr)
            return int(numbers[-1]) if numbers else 0

        return cls(
            executions=last(r"stat::number_of_executed_units: (\d+)"),
            coverage=last(r"cov: (\d+)"),
            found=last(r"stat::found: (\d+)"),
            failed=done.returncode != 0,
            output=done.stderr,
        )


def missing() -> list[str]:
    """Debian packages without which nothing can be built."""
    names = [name for name in hostpackages.missing(["engine"]) if name in _LIBRARY_PACKAGES]
    if shutil.which("clang") is None:
        return [*names, "clang", "libclang-rt-dev"]
    asked = subprocess.run(
        ["clang", "-print-resource-dir"], check=True, capture_output=True, text=True
    )
    resources = Path(asked.stdout.strip())
    if not any(resources.glob("lib/*/libclang_rt.fuzzer*.a")):
        names.append(f"libclang-rt-{resources.name.partition('.')[0]}-dev")
    return names


def build(target: Target, source: Path = SOURCE, folder: Path = PROGRAMS) -> Path:
    """The program of a target, built unless it is newer than all that it is made of.

    :param source: another ``engine/src``.
    """
    program = folder / target.name
    made_of = [*HERE.glob("*.[ch]"), *HERE.glob("include/**/*.h"), *source.rglob("*.[ch]")]
    newest = max(path.stat().st_mtime for path in made_of)
    if program.exists() and program.stat().st_mtime > newest:
        return program
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / target.name
        subprocess.run(_command(target, source, made), check=True)
        made.rename(program)
    return program


def _command(target: Target, source: Path, made: Path) -> list[str]:
    asked = subprocess.run(
        ["pkg-config", "--cflags", "--libs", *_LIBRARIES],
        check=True,
        capture_output=True,
        text=True,
    )
    headers = [f"-I{path}" for path in (HERE / "include", source, source / "include")]
    files = [str(HERE / name) for name in target.files]
    return ["clang", *_CFLAGS, *headers, "-o", str(made), *files, *asked.stdout.split()]


def replay(program: Path, inputs: Sequence[Path]) -> Outcome:
    """Give a program all files of ``inputs``, folders and files, as they are."""
    with tempfile.TemporaryDirectory(prefix="sysqcache-fuzz-") as folder:
        return give(program, [Path(folder), *inputs], "-runs=0", f"-artifact_prefix={folder}/")


def give(program: Path, inputs: Sequence[Path], *options: str) -> Outcome:
    """Run a program with options of libFuzzer, which writes to the first folder of ``inputs``."""
    with tempfile.TemporaryDirectory(prefix="sysqcache-fuzz-") as folder:
        single = Path(folder)
        for path in inputs:
            if path.is_file():
                shutil.copy(path, single / path.name)
        folders = [path for path in inputs if path.is_dir()]
        done = subprocess.run(
            [program, *_LIMITS, _memory_limit(), *options, *folders, single],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
        )
    return Outcome.of(done)


def _memory_limit() -> str:
    """libFuzzer asks for the peak of its process, and Linux starts that of a child at ours."""
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return f"-rss_limit_mb={_MEMORY + ours}"


def run(seconds: float, seed: int, names: Sequence[str], keep: Path) -> bool:
    """Fuzz the targets of ``names`` (none: all), each for its share; whether nothing was found.

    Inputs that a program failed on are written to ``keep``, and so are those that led to code
    which the others do not reach.
    """
    chosen = [target for target in TARGETS if not names or target.name in names]
    if not chosen:
        return True
    if packages := missing():
        print(f"packages are missing: {hostpackages.install_command(packages)}", file=sys.stderr)
        return False
    shares = sum(target.share for target in chosen)
    failed = 0
    print(f"{'target':<10} {'executions':>12} {'a second':>9} {'coverage':>9} {'crashes':>8}")
    for target in chosen:
        time = max(1, round(seconds * target.share / shares))
        outcome = _fuzz(target, time, seed, keep)
        failed += outcome.failed
        print(
            f"{target.name:<10} {outcome.executions:>12,} {outcome.executions // time:>9,} "
            f"{outcome.coverage:>9,} {outcome.failed:>8}",
            flush=True,
        )
    return not failed


def _fuzz(target: Target, seconds: int, seed: int, keep: Path) -> Outcome:
    """One target; what it wrote is shown if it failed."""
    program = build(target)
    grown = keep / f"engine-{target.name}-corpus"
    grown.mkdir(parents=True, exist_ok=True)
    outcome = give(
        program,
        [grown, *target.inputs()],
        f"-max_total_time={seconds}",
        f"-seed={seed % 2**32 or 1}",
        f"-max_len={target.longest}",
        f"-artifact_prefix={keep}/engine-{target.name}-",
    )
    if outcome.failed:
        print("\n".join(outcome.output.splitlines()[-60:]), file=sys.stderr)
        for path in re.findall(r"Test unit written to (\S+)", outcome.output):
            print(f"again: {program} {path}", file=sys.stderr)
    return outcome
