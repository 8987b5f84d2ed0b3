#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Run one step of the Makefile and tell how long it takes.

    step.py [--quiet LOG] TEXT COMMAND...

With --quiet the command's output goes to LOG, whose tail is shown when it fails. The
elapsed time is shown while the step runs (on a terminal) and after it when it took
more than two seconds. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

SHOWN_FROM = 2.0
TAIL_LINES = 25


def main(arguments: list[str]) -> int:
    """Run the step; gives the command's exit code."""
    log: Path | None = None
    if arguments[:1] == ["--quiet"]:
        log = Path(arguments[1])
        arguments = arguments[2:]
    text, command = arguments[0], arguments[1:]
    started = time.monotonic()
    code = _run(text, command, log, started)
    elapsed = time.monotonic() - started
    if code:
        print(f"{elapsed:7.1f} s  {text} failed with exit code {code}", file=sys.stderr)
        if log is not None:
            print(
                "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:]),
                file=sys.stderr,
            )
    elif elapsed > SHOWN_FROM:
        print(f"{elapsed:7.1f} s  {text}", file=sys.stderr)
    return code


def _run(text: str, command: list[str], log: Path | None, started: float) -> int:
    if log is None:
        return subprocess.call(command)
    log.parent.mkdir(parents=True, exist_ok=True)
    live = sys.stderr.isatty()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while True:
            try:
                return process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                if live:
                    print(f"\r{time.monotonic() - started:7.1f} s  {text}", end="", file=sys.stderr)
            except KeyboardInterrupt:
                process.wait()
                return 130
            finally:
                if live and process.poll() is not None:
                    print("\r\x1b[K", end="", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
