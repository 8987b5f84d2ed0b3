# SPDX-License-Identifier: GPL-2.0-or-later
"""What the engine costs whose cache is off: memory and speed beside QEMU without our patches."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from bench import tinyguest
from bench.figures import RATIO
from bench.session import Session
from sysqcache.spec import engines

COUNTS: Final = (1, 8)
STORM_BLOCKS: Final = 480 * 1024
RATIO_ENDING: Final = ", off/plain"
MIB: Final = 1 << 20


def pair(session: Session, files: Path, number: int, found: dict[str, list[float]]) -> None:
    """One boot and one storm of each engine for each number of vCPUs, in alternating order.

    :param number: of the round; every other one begins with the other engine.
    :raises EngineMissing: one of the engines is not built.
    """
    chosen = {
        kind: engines.find_engine("x86_64", plain=kind == "plain") for kind in ("off", "plain")
    }
    for count in COUNTS:
        values = {}
        for kind in list(chosen)[:: -1 if number % 2 else 1]:
            session.environment[engines.ENV_ENGINE] = str(chosen[kind].dir)
            values[kind] = _measure(session, files, count)
            sys.stderr.write(f"{kind}, {count} vCPU: {values[kind]}\n")
        for name, off in values["off"].items():
            plain = values["plain"][name]
            found[f"{name}, {count} vCPU, off"].append(off)
            found[f"{name}, {count} vCPU, plain"].append(plain)
            found[f"{name}, {count} vCPU{RATIO_ENDING}"].append(off / plain)
    del session.environment[engines.ENV_ENGINE]


def _measure(session: Session, files: Path, count: int) -> dict[str, float]:
    """Of a boot to ready, and of blocks that are all new: MiB and seconds."""
    store = session.root / "unused"
    ready = tinyguest.boot(session, store, files, count, "off", "true")
    task = f"storm {count} {STORM_BLOCKS}"
    storm = tinyguest.boot(session, store, files, count, "off", task)
    return {
        "own memory": ready["own_memory_bytes"] / MIB,
        "ready": ready["times"]["ready_s"],
        "host CPU": ready["times"]["host_cpu_s"],
        "storm": float(storm["times"]["tasks"][0]["stdout"].split()[2]),
    }


def unit(name: str) -> str:
    """Of a figure of this part, "" of any other."""
    if name.endswith(RATIO_ENDING):
        return RATIO
    if not name.endswith((", off", ", plain")):
        return ""
    return "MiB" if name.startswith("own memory") else "s"
