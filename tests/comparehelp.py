# SPDX-License-Identifier: GPL-2.0-or-later
"""Made-up runs and machines for tests of comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sysqcache.base.types import ArchName, DiskFormat, DiskMode, GuestAccess
from sysqcache.compare.figures import Sample
from sysqcache.compare.result import Result, Saving
from sysqcache.compare.ways import Way
from sysqcache.saved.record import Method
from sysqcache.spec.spec import Disk, MachineSpec

HOST = {"cpu": "a <fast> CPU", "cores": 2, "memory_bytes": 1 << 30, "kernel": "6.1", "load": 0.1}
ENGINE = {"key": "10.0-abc", "build_id": "ff", "version": "10.0.13"}

READY = {
    Way.COLD: 20.0,
    Way.WARM: 17.0,
    Way.INTERNAL: 0.8,
    Way.INTERNAL_WARM: 0.75,
    Way.FILE: 0.6,
    Way.FILE_WARM: 0.55,
    Way.TEMPLATE: 0.16,
    Way.TEMPLATE_WARM: 0.13,
}


def sample(way: Way, number: int = 0, **values: Any) -> Sample:
    """A run that took as long as such runs may take."""
    defaults: dict[str, Any] = {
        "ready_s": READY[way],
        "command_s": READY[way] + 0.1,
        "first_task_s": 1.5 if way.cached else 3.0,
        "second_task_s": 0.75,
        "host_cpu_s": READY[way] + 2.0,
        "peak_rss_bytes": 300 << 20,
        "hit_rate": 0.97 if way.cached else 0.0,
    }
    return Sample(way=way, round=number, **(defaults | values))


def result(rounds: int = 3, ways: tuple[Way, ...] = tuple(Way)) -> Result:
    """A comparison in which every round is a little slower than the one before."""
    found = Result("debian12", "make <all> & test", rounds, HOST, ENGINE, ways, started=0.0)
    for number in range(rounds):
        for way in ways:
            found.samples.append(sample(way, number, ready_s=READY[way] * (1 + 0.05 * number)))
    for method in Method:
        found.savings[method] = Saving(0.9, 1.4, 280 << 20)
    found.store_bytes = 180 << 20
    return found


def spec(*disks: DiskMode, form: DiskFormat = DiskFormat.QCOW2, **values: Any) -> MachineSpec:
    """A machine with disks in these modes."""
    fields: dict[str, Any] = {"name": "vm", "arch": ArchName.X86_64, "machine": "pc", "cpu": "x"}
    fields |= {"memory": 1 << 30, "vcpus": 1, "image_id": "i", "source": Path("/vm.yaml")}
    fields |= {"agent": GuestAccess.GUEST_AGENT}
    made = tuple(Disk(Path(f"/d{number}"), form, mode) for number, mode in enumerate(disks))
    return MachineSpec(**(fields | {"disks": made} | values))
