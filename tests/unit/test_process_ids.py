# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host's kernel says of a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from sysqcache.machine.launch.process import ProcessId

SPIN = "import os; os.sched_setaffinity(0, {int(os.sys.argv[1])})\nwhile True: pass"


def test_a_process_that_waits_for_a_processor_says_how_long() -> None:
    cpu = str(min(os.sched_getaffinity(0)))
    spinning = [subprocess.Popen([sys.executable, "-c", SPIN, cpu]) for _ in range(2)]
    try:
        identity = ProcessId.of(spinning[0].pid)
        assert identity is not None
        deadline = time.monotonic() + 60.0
        while identity.waited_seconds() < 0.2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        for process in spinning:
            process.kill()
            process.wait()
    assert identity.waited_seconds() == 0.0
