# SPDX-License-Identifier: GPL-2.0-or-later
"""Typed QMP commands, QEMU's own and those of our engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, Protocol

from sysqcache.base.counters import MISSES, REJECTS, UNRECORDED, WRITES
from sysqcache.qmp.client import DEFAULT_TIMEOUT, CommandRefusedError

_FSYNC_TIMEOUT: Final = 60.0


class Executes(Protocol):
    """What these commands need of a connection."""

    def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout: float = ...
    ) -> Any:
        """The answer of one command."""


@dataclasses.dataclass(frozen=True, slots=True)
class Status:
    """Run state of the machine, such as ``running`` or ``shutdown``."""

    running: bool
    state: str


@dataclasses.dataclass(frozen=True, slots=True)
class MappedPack:
    """One pack of the boot set; ``status`` is ``mapped`` or the reject reason."""

    path: str
    status: str
    blocks: int
    bytes: int
    open_us: int


@dataclasses.dataclass(frozen=True, slots=True)
class TbCacheStats:
    """Counters of the translation cache since the start of QEMU.

    Cycles are totals in host TSC cycles, ``vcpu_ns`` is the CPU time of all vCPU threads,
    ``tsc_hz`` the measured TSC frequency. The four dictionaries have every name of
    :mod:`sysqcache.base.counters`.
    """

    mode: str = "off"
    reason: str = ""
    """Why the cache is not used although the engine was given one."""

    fingerprint: str = ""
    fingerprint_text: str = ""
    requested: int = 0
    adopted: int = 0
    translated: int = 0
    verified: int = 0
    mismatches: int = 0
    verify_prefix: int = 0
    verify_limits: int = 0
    """Blocks whose size differs because a buffer of the translator was full: no mismatches."""

    recorded: int = 0
    invalidated: int = 0
    dead: int = 0
    flushes: int = 0
    adopt_cycles: int = 0
    miss_cycles: int = 0
    translate_cycles: int = 0
    vcpu_ns: int = 0
    tsc_hz: int = 0
    misses: Mapping[str, int] = dataclasses.field(default_factory=lambda: _zeros(MISSES))
    rejected: Mapping[str, int] = dataclasses.field(default_factory=lambda: _zeros(REJECTS))
    unrecorded: Mapping[str, int] = dataclasses.field(default_factory=lambda: _zeros(UNRECORDED))
    writes: Mapping[str, int] = dataclasses.field(default_factory=lambda: _zeros(WRITES))
    packs: tuple[MappedPack, ...] = ()
    journal: str = ""
    journal_bytes: int = 0
    mismatch_log: tuple[str, ...] = ()

    @classmethod
    def from_qmp(cls, answer: Mapping[str, Any]) -> TbCacheStats:
        """From the answer of ``x-query-tb-cache``; members it lacks count as zero."""
        special = {"misses", "rejected", "unrecorded", "writes", "packs", "mismatch_log"}
        plain = {
            field.name: answer[name]
            for field in dataclasses.fields(cls)
            if field.name not in special and (name := field.name.replace("_", "-")) in answer
        }
        return cls(
            **plain,
            misses=_zeros(MISSES) | dict(answer.get("misses", {})),
            rejected=_zeros(REJECTS) | dict(answer.get("rejected", {})),
            unrecorded=_zeros(UNRECORDED) | dict(answer.get("unrecorded", {})),
            writes=_zeros(WRITES) | dict(answer.get("writes", {})),
            packs=tuple(_pack(pack) for pack in answer.get("packs", ())),
            mismatch_log=tuple(answer.get("mismatch-log", ())),
        )


def _zeros(names: tuple[str, ...]) -> dict[str, int]:
    return dict.fromkeys(names, 0)


def _pack(answer: Mapping[str, Any]) -> MappedPack:
    return MappedPack(
        answer["path"],
        answer["status"],
        answer.get("blocks", 0),
        answer.get("bytes", 0),
        answer.get("open-us", 0),
    )


def query_status(qmp: Executes) -> Status:
    """The machine's run state."""
    answer = qmp.execute("query-status")
    return Status(answer["running"], answer["status"])


def cont(qmp: Executes) -> None:
    """Let the guest run."""
    qmp.execute("cont")


def stop(qmp: Executes) -> None:
    """Pause the guest."""
    qmp.execute("stop")


def powerdown(qmp: Executes) -> None:
    """Press the power button: the guest may react, or not."""
    qmp.execute("system_powerdown")


def quit_qemu(qmp: Executes) -> None:
    """End QEMU in an orderly way, whatever the guest does."""
    qmp.execute("quit")


def query_tb_cache(qmp: Executes, timeout: float = DEFAULT_TIMEOUT) -> TbCacheStats | None:
    """Counters of the cache; None when the engine or the machine has none."""
    try:
        return TbCacheStats.from_qmp(qmp.execute("x-query-tb-cache", timeout=timeout))
    except CommandRefusedError:
        return None


def tb_cache_checkpoint(qmp: Executes) -> int:
    """Flush the journal to the disk; its size in bytes."""
    answer = qmp.execute("x-tb-cache-checkpoint", timeout=_FSYNC_TIMEOUT)
    return int(answer["journal-bytes"])
