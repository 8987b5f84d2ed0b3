# SPDX-License-Identifier: GPL-2.0-or-later
"""Connecting to Unix sockets in directories with long names, and ending a wait at them."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path


def connect_unix(path: Path, timeout: float | None = None) -> socket.socket:
    """A connected stream socket; ``timeout`` in seconds stays set on it.

    A socket's path has at most 107 bytes, so it is reached through its directory's
    descriptor. Raises ``OSError``, such as ``FileNotFoundError`` before the listener
    exists.
    """
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(f"/proc/self/fd/{directory}/{path.name}")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(directory)
    return connection


def hang_up(connection: socket.socket) -> None:
    """End a connection that another thread may wait at: what has come can still be read there."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
