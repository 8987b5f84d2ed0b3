# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines that live and die on one store for long, and what must be as it was afterwards.

    python -m bench.soak [--machines N] [--seconds S] [--seed N] [--keep DIR]
    python -m bench.soak --kills N [--seed N]

Machines boot, run tasks, are suspended, resumed and copied, and are killed, as are their commands,
while the store is verified, compacted, rebuilt, exported and imported. Afterwards no process, file,
socket or lock of theirs is left, a machine that ran all the time has grown by at most 5 % in the
last two thirds, the store verifies, and boots find no fewer blocks in it than at the start.
``--kills`` kills writers of a store, as fast as it goes, and looks after each kill whether the
store is whole.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from bench.session import command_line
from bench.soaking.host import Faults, Host
from bench.soaking.kills import kills
from bench.soaking.machines import Life
from bench.soaking.resident import Resident
from bench.soaking.store import Upkeep, hit_rates, warm

MACHINES: Final = 16
SECONDS: Final = 1800
ROUNDS: Final = 3

SPREAD: Final = 0.005
"""So much do hit rates of boots with one store differ: the kernel's addresses are by chance."""


def soak(root: Path, machines: int, seconds: float, seed: int, rounds: int = ROUNDS) -> Faults:
    """All of it, below ``root``; the faults, none when all is well.

    :param rounds: boots before and after, whose hit rates are compared.
    """
    host, faults = Host(root), Faults()
    for _ in range(rounds):
        warm(host, faults)
    before = hit_rates(host, faults, rounds)
    resident = Resident(host, faults, seconds)
    loops: list[Callable[[], None]] = [resident.look]
    loops += [Upkeep(host, faults, random.Random(seed)).one]
    for number in range(machines - 1):
        chance = random.Random(f"{seed}/{number}")
        loops.append(Life(host, faults, f"soak{number}", chance).one)
    with resident:
        _together(loops, seconds)
    host.run("list")
    for text in host.left():
        faults.add(f"left behind: {text}")
    after = hit_rates(host, faults, rounds)
    _say(f"hit rates before {before}, after {after}; {dict(faults.counts)}")
    if after[-1] < before[0] - SPREAD:
        faults.add(f"hit rates fell from {before} to {after}")
    said = host.run("cache", "verify")
    if said.code:
        faults.add(f"the store does not verify: {said.err}")
    return faults


def _together(loops: Sequence[Callable[[], None]], seconds: float) -> None:
    end = time.monotonic() + seconds

    def repeat(action: Callable[[], None]) -> None:
        while time.monotonic() < end:
            action()

    threads = [threading.Thread(target=repeat, args=(one,)) for one in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak; 1 when there was a fault."""
    parser = command_line(__doc__)
    parser.add_argument("--machines", type=int, default=MACHINES, help="at once, copies besides")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="boots before and after")
    parser.add_argument("--kills", type=int, default=0, help="of a store's writers, and no machine")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--keep", type=Path, help="keep the state here, to look into it")
    options = parser.parse_args(arguments)
    root = Path(tempfile.mkdtemp(prefix="sysqcache-soak-"))
    _say(f"seed {options.seed}, in {root}")
    if options.kills:
        faults = kills(root, options.kills, options.seed)
    else:
        faults = soak(root, options.machines, options.seconds, options.seed, options.rounds)
    _say(f"{len(faults.found)} faults")
    if options.keep:
        shutil.copytree(root, options.keep, ignore_dangling_symlinks=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(root)
    return bool(faults.found)


if __name__ == "__main__":
    sys.exit(main())
