# SPDX-License-Identifier: GPL-2.0-or-later
"""Small pure values that many modules share: enumerations and run descriptions."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, Final, Self

_END_OF_TIME: Final = 1e11
"""Seconds since 1970 that no clock shows, nor any calendar."""


class ArchName(enum.StrEnum):
    """Guest architectures, spelled as in QEMU's binary names."""

    X86_64 = "x86_64"
    AARCH64 = "aarch64"
    RISCV64 = "riscv64"


class CacheMode(enum.StrEnum):
    """What a machine does with the translation cache."""

    ON = "on"
    OFF = "off"
    READ_ONLY = "read-only"
    VERIFY = "verify"

    @property
    def records(self) -> bool:
        """True when a run in this mode writes a journal."""
        return self in (CacheMode.ON, CacheMode.VERIFY)


class DiskMode(enum.StrEnum):
    """What happens to the guest's writes."""

    EPHEMERAL = "ephemeral"
    PERSISTENT = "persistent"
    READ_ONLY = "read-only"


class DiskFormat(enum.StrEnum):
    """Image formats that the engine is built with."""

    QCOW2 = "qcow2"
    RAW = "raw"


class GuestAccess(enum.StrEnum):
    """How commands are run in the guest."""

    GUEST_AGENT = "guest-agent"
    SERIAL_SHELL = "serial-shell"
    NONE = "none"


class Probe(enum.StrEnum):
    """What tells that a machine is ready; ``NONE``: as soon as its CPUs run."""

    SERIAL = "serial"
    TCP = "tcp"
    GUEST_AGENT = "guest-agent"
    NONE = "none"


class OnPoweroff(enum.StrEnum):
    """What QEMU does when the guest powers off: end, or keep memory and wait."""

    QUIT = "quit"
    HOLD = "hold"


class MachineState(enum.StrEnum):
    """States of an instance; a call in the wrong state is refused by name."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    SAVED = "saved"
    DEAD = "dead"
    BROKEN = "broken"


@dataclasses.dataclass(frozen=True, slots=True)
class RunInfo:
    """One run of one machine, as kept beside its journal and in the store.

    ``started`` is Unix time in seconds, ``mode`` a :class:`CacheMode` value and
    ``run_id`` unique among all runs (it is also the journal's file name stem).
    """

    run_id: str
    machine: str
    arch: str
    mode: str
    started: float
    start: str = "boot"

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_json`.

        Raises ``KeyError``, ``TypeError``, or ``ValueError`` for a time that is none.
        """
        found = {f.name: value[f.name] for f in dataclasses.fields(cls)}
        started = found.pop("started")
        if not all(isinstance(text, str) for text in found.values()):
            raise TypeError("a name is not a text")
        if not isinstance(started, float | int) or not 0 <= started < _END_OF_TIME:
            raise ValueError(f"started is {started!r:.40}")
        return cls(**found, started=float(started))
