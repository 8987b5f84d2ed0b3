# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands of ours that go on behind a run: nobody waits for them, nobody reads them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence


def begin(words: Sequence[str]) -> None:
    """Start this Python with these arguments; it outlives this process. Raises OSError."""
    # by a shell that ends at once: a process that lives long must not gather zombies
    subprocess.run(
        ["/bin/sh", "-c", '"$@" &', "sh", sys.executable, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        check=False,
    )
