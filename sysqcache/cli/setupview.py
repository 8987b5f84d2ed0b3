# SPDX-License-Identifier: GPL-2.0-or-later
"""Progress of set-up work on stderr: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Final, TextIO

from sysqcache.cli.liveline import LiveLine
from sysqcache.setup.work import Progress

_LIVE_EVERY: Final = 0.2
_PLAIN_EVERY: Final = 15.0


class SetupView:
    """A listener that prints each step with its elapsed time.

    On a terminal the step's line is redrawn; elsewhere a line is printed when a step
    begins to take long, every 15 seconds, and at its end.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._line = LiveLine(lambda: self._text, stream=stream)
        self._text = ""
        self._last = 0.0

    def __call__(self, event: Progress) -> None:
        """Print what ``event`` says, if it is time to."""
        count = f" [{event.done}/{event.total}]" if event.total else ""
        state = " failed" if event.state == "failed" else ""
        self._text = f"{event.elapsed:7.1f} s  {event.step}{count}{state}"
        if event.state in ("done", "failed"):
            self._line.print(self._text)
        elif event.state == "started":
            self._last = time.monotonic()
            self._line.draw()
        elif time.monotonic() - self._last >= (
            _LIVE_EVERY if self._line.terminal else _PLAIN_EVERY
        ):
            self._last = time.monotonic()
            if self._line.terminal:
                self._line.draw()
            else:
                self._line.print(self._text)
