# SPDX-License-Identifier: GPL-2.0-or-later
"""The line on a terminal that tells what goes on and for how long; nothing of it elsewhere."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, Self, TextIO

from sysqcache.base.terminal import tell
from sysqcache.cli.loglines import line, log_json

_INTERVAL: Final = 0.25
_CLEAR: Final = "\r\x1b[K"


class LiveLine:
    """Redraws a line while it is entered; lines that stay are printed above it.

    :param text: what the line says now; it may be asked by another thread.
    :param after: seconds from which on the line is shown, for work that is mostly quick.
    :param stream: by default stderr.
    """

    def __init__(
        self, text: Callable[[], str], *, after: float = 0.0, stream: TextIO | None = None
    ) -> None:
        self._text, self._after = text, after
        self._stream = sys.stderr if stream is None else stream
        self.terminal = self._stream.isatty() and not log_json()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.started = time.monotonic()

    def __enter__(self) -> Self:
        self.pause(False)
        return self

    def __exit__(self, *_: object) -> None:
        self.pause(True)

    def pause(self, paused: bool) -> None:
        """Take the line away, as for a console, or bring it back."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None
            self._write("")
        if self.terminal and not paused:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="live line", daemon=True)
            self._thread.start()

    def timed(self, text: str) -> str:
        """``text`` behind the seconds since this was made."""
        return f"{time.monotonic() - self.started:7.1f} s  {text}"

    def print(self, text: str) -> None:
        """A line that stays."""
        self._write(line(text))

    def draw(self) -> None:
        """Show the line as it is now, on a terminal."""
        if self.terminal:
            self._write(self._text()[: shutil.get_terminal_size().columns - 1])

    def _write(self, text: str) -> None:
        with self._lock:
            tell(f"{_CLEAR}{text}" if self.terminal else text, self._stream)

    def _run(self) -> None:
        while not self._stop.wait(_INTERVAL):
            if time.monotonic() - self.started >= self._after:
                self.draw()


class Phases(LiveLine):
    """Call it with what begins now; the line appears when work takes longer than 2 s."""

    def __init__(self, phase: str = "", *, after: float = 2.0) -> None:
        super().__init__(lambda: self.timed(self._phase), after=after)
        self._phase = phase

    def __call__(self, phase: str) -> None:
        """Something else begins."""
        self._phase = phase
