# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs one step after another, with state and stores of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.figures import Run
from bench.plan import Kind, Step
from sysqcache.base import paths
from sysqcache.base.types import CacheMode
from sysqcache.compare.host import Noise
from sysqcache.compare.workshop import disk_bytes
from sysqcache.spec.engines import ENV_ENGINE

PROGRAM: Final = Path(sys.executable).with_name("sysqcache")
_TIMEOUT: Final = 900.0
_BLOCKS: Final = (
    *("requested", "adopted", "translated", "recorded", "hit_rate"),
    *("adopt_cycles", "translate_cycles", "translate_share"),
)

_MODES: Final = {
    Kind.FILL: CacheMode.ON,
    Kind.COLD: CacheMode.ON,
    Kind.WARM: CacheMode.ON,
    Kind.SECOND: CacheMode.ON,
    Kind.THIRD: CacheMode.ON,
    Kind.OFF: CacheMode.OFF,
    Kind.PLAIN: CacheMode.OFF,
    Kind.OPEN: CacheMode.READ_ONLY,
}


class StepFailed(Exception):
    """A run that gave no result; the message holds the end of its output."""


@dataclass
class Runner:
    """Runs steps.

    :param root: an empty directory, for state and stores; the caller removes it.
    :param files: the vm.yaml of each config.
    :param engine: directory of the engine to measure.
    :param plain: directory of the engine without patches, None when no step needs it.
    """

    root: Path
    files: Mapping[str, Path]
    engine: Path
    plain: Path | None = None
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        home = self.root / "home"
        home.mkdir()
        (home / "cache").symlink_to(paths.cache_dir(), target_is_directory=True)
        self.environment = {
            **os.environ,
            paths.ENV_HOME: str(home),
            ENV_ENGINE: str(self.engine),
        }

    def run(self, step: Step) -> Run:
        """One step. Raises StepFailed; an interrupted run leaves no process."""
        # what earlier runs wrote is not to be written during this one
        os.sync()
        noise = Noise()
        values = self._help() if step.kind is Kind.HELP else self._boot(step)
        return Run(
            str(step.section), str(step.kind), step.config, step.pair, values, noise.measure()
        )

    def _help(self) -> dict[str, float]:
        started = time.perf_counter()
        self._execute([str(PROGRAM), "--help"], {})
        return {"wall_s": time.perf_counter() - started}

    def filled(self, config: str) -> Path:
        """The store that warm runs of ``config`` start from."""
        return self.root / f"filled-{config}"

    def _boot(self, step: Step) -> dict[str, float]:
        store = self._store(step)
        if step.kind in (Kind.WARM, Kind.SECOND):
            shutil.copytree(self.filled(step.config), store)
            os.sync()
        command = [str(PROGRAM), "boot", str(self.files[step.config]), "--until", "ready"]
        command += ["--json", "--cache", str(_MODES[step.kind])]
        if step.kind is Kind.OPEN:
            # the engine has mapped the packs before the guest's first instruction
            command += ["--set", "ready.probe=none"]
        extra = {paths.ENV_STORE: str(store)}
        if step.kind is Kind.PLAIN:
            assert self.plain is not None
            extra[ENV_ENGINE] = str(self.plain)
        report = json.loads(self._execute(command, extra))
        found = values_of(report)
        if step.kind is Kind.FILL:
            found["disk_bytes"] = float(disk_bytes(store))
            found["bytes_per_block"] = found["disk_bytes"] / max(1.0, found["blocks"])
        elif step.kind is not Kind.OPEN and step.kind is not Kind.SECOND:
            shutil.rmtree(store, ignore_errors=True)
        return found

    def _store(self, step: Step) -> Path:
        """Where the run's store is; only a fill's and a second boot's outlive their run."""
        if step.kind in (Kind.FILL, Kind.OPEN):
            return self.filled(step.config)
        if step.kind in (Kind.SECOND, Kind.THIRD):
            return self.root / f"third-{step.config}"
        return self.root / "store"

    def _execute(self, command: list[str], extra: Mapping[str, str]) -> str:
        log = self.root / "stderr.log"
        with log.open("w") as errors:
            # its own session: Ctrl-C is for us, who end it then
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**self.environment, **extra},
                start_new_session=True,
            )
            try:
                output, _ = process.communicate(timeout=_TIMEOUT)
            except subprocess.TimeoutExpired:
                raise StepFailed(f"no result in {_TIMEOUT:.0f} s: {' '.join(command)}") from None
            finally:
                if process.poll() is None:
                    # QEMU ends with its controller
                    process.kill()
                    process.communicate()
        if process.returncode:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise StepFailed(f"exit code {process.returncode}: {' '.join(command)}\n{tail}")
        return output


def values_of(report: Mapping[str, Any]) -> dict[str, float]:
    """What is kept of a report of ``sysqcache boot``: counters as of ready.

    Raises StepFailed for a run with the cache off that should have had it on.
    """
    if report["warnings"]:
        raise StepFailed("the run can't be compared: " + "; ".join(report["warnings"]))
    times, blocks, cache = report["times"], report["blocks_at_ready"], report["cache"]
    found = {name: float(blocks[name]) for name in _BLOCKS}
    found |= {name: float(times[name]) for name in ("ready_s", "wall_s", "host_cpu_s")}
    found |= {name: float(cache[name]) for name in ("packs", "open_ms", "ingest_s")}
    found["blocks"] = float(cache["blocks_new"])
    found["rejected"] = float(sum(blocks["rejected"].values()))
    return found
