# SPDX-License-Identifier: GPL-2.0-or-later
"""A line with the elapsed time for work of a few seconds, on stderr, on terminals alone."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Final, Self

_SHOWN_AFTER: Final = 2.0
_INTERVAL: Final = 0.25


class Phases:
    """Call it with what begins now; the line appears when work takes longer than 2 s."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._phase = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="phases", daemon=True)
        self._shown = False

    def __call__(self, phase: str) -> None:
        """Something else begins."""
        self._phase = phase

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(1.0)
        if self._shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def _run(self) -> None:
        while not self._stop.wait(_INTERVAL):
            elapsed = time.monotonic() - self._started
            if elapsed >= _SHOWN_AFTER:
                self._shown = True
                sys.stderr.write(f"\r\033[K{elapsed:7.1f} s  {self._phase}")
                sys.stderr.flush()
