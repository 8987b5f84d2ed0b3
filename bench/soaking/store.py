# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes on with a store while machines use it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from bench.soaking.host import TINY, Faults, Host, Said
from bench.soaking.machines import CHECK, Life

BUSY: Final = 22


class Upkeep:
    """Commands of the store, one after another, by chance."""

    def __init__(self, host: Host, faults: Faults, chance: random.Random) -> None:
        self._host, self._faults, self._chance = host, faults, chance
        self.all: list[Callable[[], None]] = [
            self.verify,
            self.compact,
            self.rebuild,
            self.travel,
        ]

    def one(self) -> None:
        """One of them."""
        self._chance.choice(self.all)()

    def verify(self) -> None:
        """Reads every byte."""
        self._run("cache", "verify")

    def compact(self) -> None:
        """Removes what is not needed, if no machine runs."""
        self._run("cache", "compact")

    def rebuild(self) -> None:
        """Makes the metadata anew; nothing was damaged."""
        said = self._run("cache", "rebuild", "--json")
        if said.value.get("moved") or said.value.get("lost"):
            self._faults.add(f"a rebuild found damage: {said.out}")

    def travel(self) -> None:
        """Exports all blocks, and imports them where they come from."""
        bundle = self._host.root / "bundle"
        self._run("cache", "export", str(bundle))
        if bundle.exists():
            self._run("cache", "import", str(bundle))
            bundle.unlink()

    def _run(self, *arguments: str) -> Said:
        said = self._host.run(*arguments)
        if said.code not in (0, BUSY):
            self._faults.add(f"{' '.join(arguments)}: exit code {said.code}: {said.err[-800:]}")
        self._faults.count(" ".join(arguments[:2]))
        return said


def hit_rates(host: Host, faults: Faults, boots: int) -> list[float]:
    """Hit rates of ``boots`` boots with nothing else in the way, ascending."""
    found = []
    for _ in range(boots):
        said = host.run(*_reference())
        if said.code:
            faults.add(f"a boot with the store: exit code {said.code}: {said.err[-800:]}")
        found.append(float(said.value.get("blocks", {}).get("hit_rate", 0.0)))
    return sorted(found)


def _reference() -> tuple[str, ...]:
    # read-only: what is compared is what the soak left, not what such a boot adds
    return (
        "boot",
        *TINY,
        "--set",
        "name=reference",
        "--task",
        CHECK,
        "--cache",
        "read-only",
        "--json",
    )


def warm(host: Host, faults: Faults) -> None:
    """Fill the store with what machines do most."""
    life = Life(host, faults, "warm", random.Random(0))
    life.live(life.task)
    life.live(life.saved)
