# SPDX-License-Identifier: GPL-2.0-or-later
"""One program in one machine, under the engine alone: neither pipeline nor store chooses packs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.moving_programs.image import MEMORY_MIB, RESULT, Program, write
from sysqcache.base import paths
from sysqcache.base.types import CacheMode, RunInfo
from sysqcache.machine.launch import argv
from sysqcache.machine.launch.argv import Launch, TbCache
from sysqcache.machine.launch.process import QemuProcess
from sysqcache.qmp import commands
from sysqcache.qmp.client import QmpClient
from sysqcache.qmp.commands import TbCacheStats
from sysqcache.spec import resolve
from sysqcache.spec.engines import find_engine
from sysqcache.store.facade import Store

SOURCE: Final = Path(__file__).with_name("kernel.S")
AMD, INTEL = "AuthenticAMD", "GenuineIntel"
_LINE: Final = "moving: "
_JOURNAL_MAX: Final = 1 << 30
_TIMEOUT_S: Final = 120.0
_STEP_S: Final = 0.01


class ProgramHung(Exception):
    """A snippet does not end, or has broken the kernel."""


@dataclass(frozen=True)
class Settings:
    """The machine, as far as it is no part of the program.

    :param vcpus: how many; they all translate as one of several does if it is more than 1.
    :param vendor: of the processor, which decides what some jumps are.
    :param tb_size_mib: size of the code buffer.
    """

    vcpus: int = 1
    vendor: str = AMD
    small_pages: bool = False
    tb_size_mib: int = 0


@dataclass(frozen=True)
class Result:
    """What a snippet left: the exception that ended it, and sums of all registers and memory.

    :param turn: the how manieth it was to run, from 1.
    """

    vector: int
    error: int
    rip: int
    cr2: int
    flags: int
    general: int
    vectors: int
    arena: int
    turn: int


@dataclass(frozen=True)
class Run:
    """What a machine said at its end.

    :param line: what it printed: a sum of all results.
    :param results: by the snippets' numbers.
    :param stats: counters of the cache; None when it was off.
    """

    line: str
    results: Sequence[Result]
    stats: TbCacheStats | None
    journal: Path | None


def assemble(directory: Path) -> Path:
    """``kernel.S`` as it lies in memory."""
    kernel = directory / "moving-kernel"
    options = ("-nostdlib", "-static", "-Wl,-Ttext=0x100000,-N,--oformat=binary,-e,start")
    command = ["gcc", *options, "-Wl,--build-id=none", "-o", str(kernel), str(SOURCE)]
    subprocess.run(command, check=True)
    return kernel


def _command_line(
    directory: Path, kernel: Path, settings: Settings, cache: TbCache | None
) -> list[str]:
    config = directory / "vm.yaml"
    config.write_text(
        f"name: moving\nmemory: {MEMORY_MIB}MiB\nkernel: {kernel}\nvcpus: {settings.vcpus}\n"
        f"cpu: max,vendor={settings.vendor}\n"
    )
    spec = resolve.load(config)
    engine = find_engine("x86_64")
    line = argv.build(Launch(spec, engine.binary, engine.firmware_dir, directory, (), cache))
    if settings.tb_size_mib:
        line[line.index("-accel") + 1] += f",tb-size={settings.tb_size_mib}"
    return line


def run(
    program: Program,
    kernel: Path,
    directory: Path,
    mode: CacheMode,
    *,
    settings: Settings = Settings(),
    packs: Sequence[Path] = (),
) -> Run:
    """Run a program to its end. In the modes that record there is a journal.

    Raises :class:`ProgramHung`.
    """
    directory.mkdir()
    image = directory / "program"
    write(image, kernel, program)
    journal = directory / "journal" if mode.records else None
    cache = None
    if mode is not CacheMode.OFF:
        boot_set = directory / paths.INSTANCE_BOOT_SET
        boot_set.write_text("".join(f"{pack}\n" for pack in packs))
        cache = TbCache(mode, boot_set, journal, _JOURNAL_MAX, small_pages=settings.small_pages)
    line = _command_line(directory, image, settings, cache)
    with QemuProcess(line, directory) as process:
        qmp_socket = directory / paths.INSTANCE_QMP
        with QmpClient.connect(qmp_socket, process=process, timeout=60.0) as qmp:
            printed = _wait(process, directory / paths.INSTANCE_SERIAL_LOG)
            commands.stop(qmp)
            stats = commands.query_tb_cache(qmp) if cache else None
            if journal:
                commands.tb_cache_checkpoint(qmp)
            results = _results(qmp, program, directory)
    image.unlink()
    if not printed.startswith(f"{_LINE}done"):
        last = max(result.turn for result in results)
        raise ProgramHung(f"{printed or 'nothing was printed'}; the last result is number {last}")
    return Run(printed, results, stats, journal)


def _wait(process: QemuProcess, log: Path) -> str:
    """The line that the kernel prints at its end, or "" when time is up."""
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        text = log.read_text(errors="replace") if log.exists() else ""
        lines = [line for line in text.splitlines(keepends=True) if line.startswith(_LINE)]
        if lines and lines[0].endswith("\n"):
            return lines[0].strip()
        process.check_alive()
        time.sleep(_STEP_S)
    return ""


def _results(qmp: QmpClient, program: Program, directory: Path) -> list[Result]:
    file = directory / "results"
    size = program.count * RESULT.size
    qmp.execute("pmemsave", {"val": program.results, "size": size, "filename": str(file)})
    found = [Result(*fields) for fields in RESULT.iter_unpack(file.read_bytes())]
    by_number = dict(zip(program.sequence, found, strict=True))
    return [by_number[number] for number in range(program.count)]


def make_pack(journal: Path, root: Path) -> Path:
    """A journal as the only pack of a new store. The store takes the journal away."""
    about = RunInfo("run", "moving", "x86_64", "on", time.time())
    with Store.open(root) as store:
        result = store.ingest(journal, image_id="moving", run=about)
    assert result.damaged == 0
    [pack] = result.packs
    return pack
