# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine that runs for the whole soak: what it holds must not grow."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Final, Self

from bench.soaking.host import TINY, Faults, Host
from bench.soaking.machines import CHECK

GROWTH: Final = 1.05
NAME: Final = "resident"
EVERY_S: Final = 5
ENOUGH: Final = 9
"""Samples; with fewer nothing is said of growth."""


class Resident:
    """Runs from entry to exit; :meth:`look` lets it work and notes its memory and descriptors."""

    def __init__(self, host: Host, faults: Faults, seconds: float) -> None:
        self._host, self._faults, self._seconds = host, faults, seconds
        self._samples: list[tuple[float, int, int]] = []
        self._pid = 0

    def __enter__(self) -> Self:
        said = self._host.run("boot", *TINY, "--set", f"name={NAME}", "--detach", "--json")
        self._pid = int(self._host.run("status", NAME, "--json").value.get("pid") or 0)
        if said.code or not self._pid:
            self._faults.add(f"{NAME}: exit code {said.code}: {said.err[-800:]}")
        self._started = time.monotonic()
        return self

    def look(self) -> None:
        """Let it do its work, and note what it holds."""
        self._host.run("exec", NAME, "--", "sh", "-c", CHECK)
        process = Path("/proc") / str(self._pid)
        try:
            resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
            files = len(list((process / "fd").iterdir()))
        except OSError:
            self._faults.add(f"{NAME} ended")
            time.sleep(EVERY_S)
            return
        self._samples.append((time.monotonic() - self._started, resident, files))
        time.sleep(EVERY_S)

    def __exit__(self, *_: object) -> None:
        """End it, and compare the begin of the last two thirds with their end."""
        said = self._host.run("stop", NAME, "--force")
        if said.code:
            self._faults.add(f"{NAME}: stop: {said.err[-400:]}")
        last = [sample for sample in self._samples if sample[0] >= self._seconds / 3]
        if len(last) < ENOUGH:
            return
        third = len(last) // 3
        for what, column in (("memory", 1), ("descriptors", 2)):
            first, final = (
                statistics.median(sample[column] for sample in part)
                for part in (last[:third], last[-third:])
            )
            self._faults.count(f"{NAME} {what} {first:g} -> {final:g}")
            if final > first * GROWTH:
                self._faults.add(f"{NAME}: {what} grew from {first:g} to {final:g}")
