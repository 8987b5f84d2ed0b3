# SPDX-License-Identifier: GPL-2.0-or-later
"""Takes turns: what has to be done once, then every way in each round."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from sysqcache.base import interrupts
from sysqcache.base.errors import MachineError
from sysqcache.compare import events, host
from sysqcache.compare.events import Listener, Noted, StepBegan, StepEnded
from sysqcache.compare.figures import Sample
from sysqcache.compare.result import Result
from sysqcache.compare.ways import AnyWay, Way, turns
from sysqcache.machine import progress

_BUSY_SHARE: Final = 0.1

Measured = tuple[Sample, Sequence[str]]
"""One run, and what was warned of."""

Measure = Callable[[AnyWay, int, progress.Listener], Measured]
"""Starts a way in a round."""


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """Something to do before the rounds; gives its outcome in words.

    :param ways: those that can't be measured if it fails. None: nothing can, and the error of
        a machine is raised.
    """

    title: str
    do: Callable[[progress.Listener], str]
    ways: tuple[Way, ...] = ()


class Rounds:
    """One comparison: fills ``result`` and tells ``listener`` of every step."""

    def __init__(self, result: Result, listener: Listener, steps: Sequence[Step]) -> None:
        self.result, self._listener, self._steps = result, listener, steps
        self._total = len(steps) + result.asked * len(result.ways)
        self._number = 0

    def run(self, measure: Measure, check: Callable[[AnyWay], None] | None = None) -> None:
        """Do the steps, then the rounds; Ctrl-C ends them and is noted.

        A way of vm.yaml's machines that breaks is noted and left out from then on; a domain
        that does not start raises, and so does ``check`` of a way that was measured.
        """
        started = time.monotonic()
        try:
            for note in self.result.notes:
                self._listener(Noted(note))
            for step in self._steps:
                self._take(step.title, step.ways, step.do)
            for number, way in turns(self.result.ways, self.result.asked):
                self._turn(number, way, measure)
                if check is not None and way not in self.result.failed:
                    check(way)
        except KeyboardInterrupt:
            interrupts.take()
            self.result.interrupted = True
        self.result.took_s = time.monotonic() - started

    def note(self, text: str) -> None:
        """Something that the reader has to know, once."""
        if self.result.note(text):
            self._listener(Noted(text))

    def _turn(self, number: int, way: AnyWay, measure: Measure) -> None:
        def start(quiet: progress.Listener) -> str:
            # what earlier runs wrote is not to be written during this one
            os.sync()
            noise = host.Noise()
            sample, warnings = measure(way, number, quiet)
            sample = dataclasses.replace(sample, noise=noise.measure())
            self.result.samples.append(sample)
            for warning in warnings:
                self.note(f"{way}: {warning}")
            return _outcome(sample)

        ways = (way,) if isinstance(way, Way) else ()
        self._take(f"{way}, round {number + 1} of {self.result.asked}", ways, start)

    def _take(
        self, title: str, ways: tuple[Way, ...], do: Callable[[progress.Listener], str]
    ) -> None:
        self._number += 1
        if ways and ways[0] in self.result.failed:
            return
        self._listener(StepBegan(self._number, self._total, title))
        try:
            outcome = do(events.phases_only(self._listener))
        except MachineError as error:
            if not ways:
                raise
            self.result.failed |= dict.fromkeys(ways, error.message)
            outcome = f"failed: {error.message}"
        self._listener(StepEnded(title, outcome))


def _outcome(sample: Sample) -> str:
    text = (
        f"ready {sample.ready_s:.3f} s, first task {sample.first_task_s:.3f} s, "
        f"second {sample.second_task_s:.3f} s"
    )
    if sample.hit_rate:
        text += f", hits {sample.hit_rate:.1%}"
    others, took = sample.noise.get("others_cpu_s", 0.0), sample.noise.get("took_s", 0.0)
    return text + (f"  (others used {others:.1f} s CPU)" if others > _BUSY_SHARE * took else "")
