# SPDX-License-Identifier: GPL-2.0-or-later
"""What the measurements ran on, and what disturbed them."""

from __future__ import annotations

import os
import platform
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

BUSY_LOAD: Final = 0.5
"""Load average from which on a machine is not quiet."""


def cpu_model() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def facts() -> dict[str, str | int | float]:
    """The host, as kept with the results."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count() or 0,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "load": os.getloadavg()[0],
    }


@dataclass(frozen=True)
class CpuTimes:
    """Seconds of all processors since their start, and of this process's ended children."""

    busy: float
    steal: float
    ours: float

    @classmethod
    def now(cls) -> CpuTimes:
        """The counters as they are."""
        first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()
        tick = os.sysconf("SC_CLK_TCK")
        user, nice, system, _, _, irq, softirq, steal, *_ = (int(v) / tick for v in first[1:])
        ours = 0.0
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            ours += usage.ru_utime + usage.ru_stime
        return cls(user + nice + system + irq + softirq, steal, ours)


@dataclass
class Noise:
    """Watches what others do from its creation on."""

    load: float = field(default_factory=lambda: os.getloadavg()[0])
    started: float = field(default_factory=time.monotonic)
    before: CpuTimes = field(default_factory=CpuTimes.now)

    def measure(self) -> dict[str, float]:
        """The load before; CPU seconds of other processes and stolen ones since then.

        A child counts when it was waited for.
        """
        now = CpuTimes.now()
        others = (now.busy - self.before.busy) - (now.ours - self.before.ours)
        return {
            "load": round(self.load, 2),
            "others_cpu_s": round(max(0.0, others), 2),
            "steal_s": round(now.steal - self.before.steal, 2),
            "took_s": round(time.monotonic() - self.started, 2),
        }
