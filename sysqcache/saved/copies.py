# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies of a template: alike in memory, told apart before anyone uses them.

The guest's memory holds the host name, the MAC address and the state of the random
number generator that all copies start with. The generation id (device vmgenid) makes a
guest's kernel reseed that has a driver for it; the rest is set through the guest's command
channel, where there is one, fresh entropy included, and lies in fw_cfg (opt/sysqcache/...)
for guests that look themselves.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

from sysqcache.base.errors import GuestCommandError, MachineError
from sysqcache.base.types import GuestAccess
from sysqcache.machine.launch.argv import escape
from sysqcache.machine.running import Machine
from sysqcache.saved.origin import SavedOrigin
from sysqcache.saved.record import SavedMachine
from sysqcache.spec.spec import MachineSpec

_TIMEOUT: Final = 20.0


@dataclasses.dataclass(frozen=True, slots=True)
class Copy:
    """One of several machines from one template; ``mac`` is locally administered."""

    index: int
    name: str
    hostname: str
    mac: str

    @classmethod
    def number(cls, record: SavedMachine, index: int) -> Self:
        """The copy number ``index``, from 1; the same number has the same address."""
        name = f"{record.name}-{index}"
        digest = hashlib.sha256(f"{record.id}/{index}".encode()).digest()
        mac = ":".join(f"{byte:02x}" for byte in (0x52, 0x54, 0x00, *digest[:3]))
        return cls(index, name, name.replace("_", "-").replace(".", "-").lower()[:63], mac)


def copy_spec(spec: MachineSpec, copy: Copy) -> MachineSpec:
    """The specification of a copy: a name and host ports of its own."""
    forwards = tuple(dataclasses.replace(one, host=0) for one in spec.network.forwards)
    told = {"name": copy.name, "hostname": copy.hostname, "mac": copy.mac}
    seeds = [
        argument
        for key, value in told.items()
        for argument in ("-fw_cfg", f"name=opt/sysqcache/{key},string={escape(value)}")
    ]
    return dataclasses.replace(
        spec,
        name=copy.name,
        serial_log=None,
        network=dataclasses.replace(spec.network, forwards=forwards),
        qemu_args=(*spec.qemu_args, *seeds),
    )


def wake_script(copy: Copy) -> str:
    """Shell commands that make a running guest the copy that it is."""
    host, mac = shlex.quote(copy.hostname), shlex.quote(copy.mac)
    return (
        f"echo {secrets.token_hex(64)} > /dev/urandom; "
        f"echo {host} > /proc/sys/kernel/hostname; "
        "for card in /sys/class/net/*; do "
        '[ -e "$card/device" ] || continue; card=${card##*/}; '
        f"ip link set dev $card address {mac} 2> /dev/null || "
        f"{{ ip link set dev $card down && ip link set dev $card address {mac}; "
        "ip link set dev $card up; }; break; done"
    )


@dataclasses.dataclass(frozen=True)
class CopyOrigin(SavedOrigin):
    """The template as the origin of one copy."""

    copy: Copy

    @property
    def touched(self) -> Path | None:
        """Nothing ahead: many copies leave no processor idle, and memory is to be shared."""
        return None

    @property
    def many(self) -> bool:
        """One of several, which share the host's memory."""
        return True

    def settled(self, machine: Machine) -> None:
        """A copy says nothing about how the template itself goes on."""

    @property
    def _same(self) -> str:
        return f"{self.copy.name} has the host name and the address of the others"

    def awake(self, machine: Machine) -> Iterable[str]:
        """Tell the guest who it is, if it can be told."""
        if machine.state.agent == GuestAccess.NONE:
            return [f"{self._same}: it takes no commands (agent: none)"]
        try:
            machine.run(wake_script(self.copy), _TIMEOUT)
        except MachineError as error:
            if isinstance(error, GuestCommandError) and error.forbidden:
                return [f"{self._same}: {error.message} ({error.hint})"]
            raise MachineError(
                f"{self.copy.name} runs, but can't be told its name: {error.message}"
            ) from error
        return []
