# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's tests for bare machines: each is a machine of its own, cold, filling, warm and verified.

The machine ends by itself, with the test's status; QEMU is told to pause then, and asked for the
counters. Semihosting ends QEMU at once, but with semihosting no block is kept anyway: the tests for
aarch64 and riscv64 that use it show that such a machine runs as it should with the cache given to
it. Those that need no more than a console and an end are run once more with those of the board
(``boot/``), and riscv64, for which QEMU leaves the multiarch tests out, runs them so as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.verdicts.guests import RUNS, VERIFY, WARM, say
from bench.verdicts.verdict import COLD, Outcome, Verdict
from sysqcache.base.errors import SysqcacheError
from sysqcache.base.types import RunInfo
from sysqcache.qmp import commands
from sysqcache.qmp.client import QmpClient
from sysqcache.qmp.commands import TbCacheStats
from sysqcache.spec.engines import find_engine
from sysqcache.store.facade import Store

SECONDS: Final = 120.0
_POLL: Final = 0.005
_ICOUNT: Final = "-icount"
_SHUTDOWN: Final = "shutdown"
_SAYS_END: Final = (b"exit: passed\n", b"exit: failed\n")
_SEMIHOSTING: Final = "-semihosting"


@dataclass(frozen=True)
class Bare:
    """The tests of a target for bare machines.

    :param runs: builds the tests; name -> QEMU's arguments.
    :param directory: where the arguments' files are.
    :param system: QEMU's target that runs them; i386's run on x86_64 too.
    """

    name: str
    runs: Callable[[], Mapping[str, Sequence[str]]]
    directory: Path
    system: str
    excluded: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """One test's machine in one run."""

    binary: Path
    arguments: Sequence[str]
    directory: Path
    """Where the test's program is; its output goes there."""
    scratch: Path

    def run(self, mode: str, packs: Sequence[Path]) -> tuple[int, str, TbCacheStats | None]:
        """Status, what the engine complained of, the last counters that were seen."""
        line = [str(self.binary), *self.arguments]
        if mode != "off":
            boot_set = self.scratch / "packs"
            boot_set.write_text("".join(f"{pack}\n" for pack in packs))
            cache = f"tb-cache,id=tbcache0,mode={mode},boot-set={boot_set}"
            if mode == "on":
                self.journal.unlink(missing_ok=True)
                cache += f",journal={self.journal}"
            line += ["-object", cache]
        asked = _ICOUNT not in self.arguments
        socket = self.scratch / "qmp"
        if asked:
            line += ["-qmp", f"unix:{socket},server=on,wait=off", "-S"]
        if asked and self.pauses:
            line += ["-action", "shutdown=pause"]
        with subprocess.Popen(
            line, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            stats = None
            try:
                stats = self._watch(socket, process) if asked else None
                out, err = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired as error:
                out, err = str(error), ""
            finally:
                process.kill()
        return process.returncode, out + err, stats

    @property
    def journal(self) -> Path:
        """Where the machine records."""
        return self.scratch / "journal"

    @property
    def pauses(self) -> bool:
        """Whether it can be asked when it has ended."""
        return not any(argument.startswith(_SEMIHOSTING) for argument in self.arguments)

    def _ended(self, qmp: QmpClient) -> bool:
        """Whether the test has; one that can't end its machine says so in its last line."""
        if commands.query_status(qmp).state == _SHUTDOWN:
            return True
        if self.output().endswith(_SAYS_END):
            commands.stop(qmp)
            return True
        return False

    def output(self) -> bytes:
        """What the test has said: the file of its chardev."""
        for argument in self.arguments:
            if argument.startswith("file,path="):
                path = self.directory / argument.removeprefix("file,path=").partition(",")[0]
                return path.read_bytes() if path.exists() else b""
        return b""

    def _watch(self, socket: Path, process: subprocess.Popen[str]) -> TbCacheStats | None:
        """Let it go, and ask until it ends."""
        stats, deadline = None, time.monotonic() + SECONDS
        with (
            contextlib.suppress(SysqcacheError),
            QmpClient.connect(socket, timeout=SECONDS) as qmp,
        ):
            commands.cont(qmp)
            while process.poll() is None and time.monotonic() < deadline:
                ended = self._ended(qmp)
                stats = commands.query_tb_cache(qmp)
                if ended:
                    commands.quit_qemu(qmp)
                    break
                time.sleep(_POLL)
        socket.unlink(missing_ok=True)
        return stats


def _verdict(status: int, output: bytes) -> Verdict:
    lines = output.decode(errors="replace").splitlines()
    digest = hashlib.sha256(output).hexdigest()
    return Verdict(status, digest, lines[-1][:100] if lines else "")


def _packs(machine: Machine, name: str, store: Path) -> list[Path]:
    """The journal as packs of the store."""
    if not machine.journal.exists():
        return []
    run = RunInfo(name, name, "bare", "on", time.time())
    with Store.open(store) as opened:
        return list(opened.ingest(machine.journal, image_id=name, run=run).packs)


def run(suite: Bare, root: Path, started: float, runs: Mapping[str, str] = RUNS) -> Outcome:
    """All runs of all tests."""
    begin = time.monotonic()
    outcome = Outcome(suite.name, excluded=suite.excluded)
    outcome.runs = {name: {} for name in runs}
    binary = find_engine(suite.system).binary
    for name, arguments in suite.runs().items():
        if name in suite.excluded:
            continue
        scratch = root / f"{suite.name}-{name}".replace(" ", "-").replace(",", "")
        scratch.mkdir()
        machine = Machine(binary, arguments, suite.directory, scratch)
        _one(machine, name, runs, outcome)
    outcome.seconds = time.monotonic() - begin
    say(f"{suite.name}: {outcome.tests} tests in each of {', '.join(runs)}", started)
    return outcome


def _one(machine: Machine, test: str, runs: Mapping[str, str], outcome: Outcome) -> None:
    """All runs of one test."""
    packs: list[Path] = []
    for name, mode in runs.items():
        status, said, stats = machine.run(mode, packs)
        outcome.runs[name][test] = _verdict(status, machine.output())
        if name == COLD and said.strip():
            outcome.notes.append(f"{test} said: {said.strip()[:200]}")
        if mode == "on":
            packs += _packs(machine, test, machine.scratch / "store")
        if stats is None:
            continue
        if stats.reason and stats.reason not in outcome.notes:
            outcome.notes.append(stats.reason)
        if name == WARM:
            outcome.adopted += stats.adopted
        if name == VERIFY:
            outcome.verified += stats.verified
            outcome.mismatches += stats.mismatches
            outcome.notes += [f"mismatch, {test}: {text}" for text in stats.mismatch_log]
