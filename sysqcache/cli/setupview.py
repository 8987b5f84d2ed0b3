# SPDX-License-Identifier: GPL-2.0-or-later
"""Progress of set-up work on stderr: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Final, TextIO

from sysqcache.setup.work import Progress

_LIVE_EVERY: Final = 0.2
_PLAIN_EVERY: Final = 15.0


class SetupView:
    """A listener that prints each step with its elapsed time.

    On a terminal the step's line is redrawn; elsewhere a line is printed when a step
    begins to take long, every 15 seconds, and at its end.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._live = self._stream.isatty()
        self._last = 0.0

    def __call__(self, event: Progress) -> None:
        """Print what ``event`` says, if it is time to."""
        if event.state in ("done", "failed"):
            self._line(event, end="\n")
        elif event.state == "started":
            self._last = time.monotonic()
            if self._live:
                self._line(event, end="")
        elif time.monotonic() - self._last >= (_LIVE_EVERY if self._live else _PLAIN_EVERY):
            self._last = time.monotonic()
            self._line(event, end="" if self._live else "\n")

    def _line(self, event: Progress, end: str) -> None:
        count = f" [{event.done}/{event.total}]" if event.total else ""
        state = " failed" if event.state == "failed" else ""
        start = "\r\x1b[K" if self._live else ""
        text = f"{start}{event.elapsed:7.1f} s  {event.step}{count}{state}{end}"
        self._stream.write(text)
        self._stream.flush()
