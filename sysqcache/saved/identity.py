# SPDX-License-Identifier: GPL-2.0-or-later
"""Which machine a snapshot fits: what QEMU compares when it loads one, and what it should."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping
from typing import Any, Final, Self

from sysqcache.machine.running import Machine
from sysqcache.qmp.client import CommandRefusedError, QmpClient

_RAM: Final = re.compile(r"^ *(\S+) +\d+ \w+ +0x\w+ +0x\w+ +0x(\w+) ", re.MULTILINE)
"""Name and size of each block, of QEMU's table of them."""
_DEVICES: Final = ("/machine/peripheral", "/machine/peripheral-anon")
_CPU: Final = "-cpu"


@dataclasses.dataclass(frozen=True, slots=True)
class MachineIdentity:
    """What has to be the same; ``memory`` in bytes.

    :param cpu: the model and its options, as QEMU was told.
    :param features: of an x86 CPU, by CPUID leaf and register; empty for others.
    :param ram: sizes of all blocks of memory, firmware and video memory among them.
    :param devices: types of all devices that were asked for, by path.
    """

    machine: str
    cpu: str
    vcpus: int
    memory: int
    features: Mapping[str, int]
    ram: Mapping[str, int]
    devices: Mapping[str, str]

    @classmethod
    def of(cls, machine: Machine) -> Self:
        """Of a running machine, asked of QEMU. Raises :class:`QmpError`."""
        qmp = machine.qmp
        cpus = qmp.execute("query-cpus-fast")
        memory = qmp.execute("query-memory-size-summary")
        table = qmp.execute("x-query-ramblock")["human-readable-text"]
        argv = machine.state.argv
        options = [word for option, word in itertools.pairwise(argv) if option == _CPU]
        return cls(
            machine=qmp.execute("qom-get", {"path": "/machine", "property": "type"}),
            cpu=options[-1] if options else "",
            vcpus=len(cpus),
            memory=memory["base-memory"] + memory.get("plugged-memory", 0),
            features=_features(qmp, cpus[0]["qom-path"]),
            ram={name: int(size, 16) for name, size in _RAM.findall(table)},
            devices=devices(qmp),
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of ``dataclasses.asdict``; raises TypeError."""
        return cls(**value)

    def differences(self, other: MachineIdentity) -> list[str]:
        """What is different in ``other``, the machine that is there; empty when nothing is."""
        found = [
            f"{name}: saved with {_shown(name, old)}, the machine has {_shown(name, new)}"
            for name in ("machine", "cpu", "vcpus", "memory")
            if (old := getattr(self, name)) != (new := getattr(other, name))
        ]
        if not found and self.features != other.features:
            found.append("cpu: saved with other features than the machine has")
        if not found:
            found += _changes("memory block", self.ram, other.ram)
        return found + _changes("device", self.devices, other.devices)


def devices(qmp: QmpClient) -> dict[str, str]:
    """Types of the devices that options or commands made, by path. Raises :class:`QmpError`."""
    return {
        f"{path}/{one['name']}": one["type"].removeprefix("child<").removesuffix(">")
        for path in _DEVICES
        for one in qmp.execute("qom-list", {"path": path})
        if one["type"].startswith("child<")
    }


def _features(qmp: QmpClient, cpu: str) -> dict[str, int]:
    try:
        words = qmp.execute("qom-get", {"path": cpu, "property": "feature-words"})
    except CommandRefusedError:
        return {}  # not an x86
    return {_register(one): one["features"] for one in words if one["features"]}


def _register(word: Mapping[str, Any]) -> str:
    leaf, sub_leaf = word["cpuid-input-eax"], word.get("cpuid-input-ecx", 0)
    return f"{leaf:x}/{sub_leaf:x}/{word['cpuid-register']}"


def _changes(kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        f"{kind} {name}: saved with {old.get(name, 'none')}, the machine has "
        f"{new.get(name, 'none')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _shown(name: str, value: Any) -> str:
    return f"{value >> 20} MiB" if name == "memory" else str(value)
