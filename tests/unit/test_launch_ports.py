# SPDX-License-Identifier: GPL-2.0-or-later
"""Free host ports: none twice for machines that start at once."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from sysqcache.base.errors import LaunchError
from sysqcache.machine.launch.ports import free_port
from sysqcache.spec.spec import Forward

MACHINES = 400


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_no_port_twice(protocol: str) -> None:
    """By chance alone 400 ports out of some 28,000 hold a pair nine times out of ten."""
    forward = Forward(guest=22, host=0, protocol=protocol, address="127.0.0.1")
    with ThreadPoolExecutor(8) as pool:
        ports = list(pool.map(free_port, [forward] * MACHINES))
    assert len(set(ports)) == MACHINES


def test_what_is_taken_is_not_given() -> None:
    forward = Forward(guest=22, host=0, protocol="tcp", address="127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        assert taken not in {free_port(forward) for _ in range(MACHINES)}


def test_an_address_of_another_host() -> None:
    with pytest.raises(LaunchError, match=r"port at 192.0.2.1: .*assign"):
        free_port(Forward(guest=22, host=0, protocol="tcp", address="192.0.2.1"))
