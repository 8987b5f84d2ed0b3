# SPDX-License-Identifier: GPL-2.0-or-later
"""Free ports of the host for forwards that leave the choice to us."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from typing import Final

from sysqcache.base.errors import LaunchError
from sysqcache.base.system import refused_as
from sysqcache.spec.spec import Forward

RECENT: Final = 1000
"""How many ports are not given out again at once."""

_recent: deque[tuple[str, int]] = deque(maxlen=RECENT)
_lock = threading.Lock()


def free_port(forward: Forward) -> int:
    """A port that is free at the forward's address, and was not given to another machine just now.

    The port is free until QEMU takes it: copies of a template that start at once would
    otherwise be given the same one now and then.

    :raises LaunchError: the address is not one of this host, or no port is free.
    """
    kind = socket.SOCK_STREAM if forward.protocol == "tcp" else socket.SOCK_DGRAM
    with _lock, contextlib.ExitStack() as passed_over:
        while True:
            # bound as long as we look, so that the kernel names another one
            problem = f"no free {forward.protocol} port at {forward.address}"
            with refused_as(LaunchError, problem, "see network.forwards: in vm.yaml"):
                probe = passed_over.enter_context(socket.socket(socket.AF_INET, kind))
                probe.bind((forward.address, 0))
            port = int(probe.getsockname()[1])
            if (forward.protocol, port) not in _recent:
                _recent.append((forward.protocol, port))
                return port
