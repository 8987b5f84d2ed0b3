# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs one step after another, with state and stores of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.figures import Run
from bench.plan import Kind, Step
from bench.session import Session
from sysqcache.base.types import CacheMode
from sysqcache.compare.host import Noise
from sysqcache.compare.workshop import disk_bytes
from sysqcache.spec.engines import ENV_ENGINE

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

    def __post_init__(self) -> None:
        self._session = Session(self.root)

    def run(self, step: Step) -> Run:
        """One step. Raises StepFailed; an interrupted run leaves no process."""
        # what earlier runs wrote is not to be written during this one
        os.sync()
        noise = Noise()
        try:
            values = self._help() if step.kind is Kind.HELP else self._boot(step)
        except subprocess.CalledProcessError as error:
            tail = "\n".join(error.stderr.splitlines()[-15:])
            raise StepFailed(f"{error}\n{tail}") from None
        except subprocess.TimeoutExpired as error:
            raise StepFailed(f"no result: {error}") from None
        return Run(
            str(step.section), str(step.kind), step.config, step.pair, values, noise.measure()
        )

    def _help(self) -> dict[str, float]:
        started = time.perf_counter()
        self._session.output(self.root / "store", "--help")
        return {"wall_s": time.perf_counter() - started}

    def filled(self, config: str) -> Path:
        """The store that warm runs of ``config`` start from."""
        return self.root / f"filled-{config}"

    def _boot(self, step: Step) -> dict[str, float]:
        store = self._store(step)
        if step.kind in (Kind.WARM, Kind.SECOND):
            shutil.copytree(self.filled(step.config), store)
            os.sync()
        # of an engine that maps packs, it has done so before the guest's first instruction
        probe = ["--set", "ready.probe=none"] if step.kind is Kind.OPEN else []
        engine = self.plain if step.kind is Kind.PLAIN else self.engine
        self._session.environment[ENV_ENGINE] = str(engine)
        report = self._session.run(
            store, "boot", self.files[step.config], "--until", "ready",
            "--cache", _MODES[step.kind], *probe,
        )  # fmt: skip
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
