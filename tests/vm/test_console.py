# SPDX-License-Identifier: GPL-2.0-or-later
"""Terminals: the live line, the console of ``boot`` and of ``console``."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from machinehelp import TINY, boot, report, sysqcache

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("x86_engine", "tiny_image", "own_state")]


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *arguments: object) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sysqcache", *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"},
        )
        os.close(slave)
        self.seen = b""

    def expect(self, text: bytes, timeout: float = 60.0) -> None:
        """Read until ``text`` appears, and forget all before its end."""
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.master], [], [], 0.1)[0]:
                # a terminal whose last user has gone says EIO
                with contextlib.suppress(OSError):
                    self.seen += os.read(self.master, 65536)
        self.seen = self.seen.partition(text)[2]

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def finish(self) -> int:
        while self.process.poll() is None:
            if select.select([self.master], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    self.seen += os.read(self.master, 65536)
        return self.process.returncode


@contextlib.contextmanager
def terminal(*arguments: object) -> Iterator[Terminal]:
    running = Terminal(*arguments)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait(10)
        os.close(running.master)


def test_boot_on_a_terminal_stays_on_the_console() -> None:
    with terminal("boot", TINY) as screen:
        screen.expect(b" s  booting")
        screen.expect(b"serial console; Ctrl-] leaves it")
        screen.expect(b"sysqcache: ready")
        screen.type(b"echo one''two\n")
        screen.expect(b"onetwo")
        screen.type(b"\x1d")
        screen.expect(b"hit rate")
        assert screen.finish() == 0
    assert report("list")["machines"][0]["state"] == "stopped"


def test_the_live_line_counts_blocks() -> None:
    with terminal("boot", TINY, "--until", "ready") as screen:
        screen.expect(b"translated ")
        screen.expect(b"hits ")
        assert screen.finish() == 0


def test_console_of_a_running_machine() -> None:
    boot("--cache", "off", "--detach")
    with terminal("console", "tiny") as screen:
        screen.expect(b"sysqcache: ready")
        screen.type(b"echo one''two\n")
        screen.expect(b"onetwo")
        screen.type(b"\x1d")
        screen.expect(b"left the console of tiny")
        assert screen.finish() == 0
    with terminal("console", "tiny") as screen:
        screen.expect(b"sysqcache: ready")
        sysqcache("stop", "tiny", "--force")
        screen.expect(b"tiny has ended")
        assert screen.finish() == 0


def test_console_needs_a_terminal() -> None:
    boot("--cache", "off", "--detach")
    try:
        done = sysqcache("console", "tiny", code=2)
        assert "needs a terminal" in done.stderr
    finally:
        sysqcache("stop", "tiny", "--force")
