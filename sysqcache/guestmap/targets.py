# SPDX-License-Identifier: GPL-2.0-or-later
"""Which architecture a guest has, by the name of QEMU's target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from sysqcache.guestmap.arm64 import arm64_space
from sysqcache.guestmap.memory import UnreadableError
from sysqcache.guestmap.riscv import riscv_space
from sysqcache.guestmap.space import AddressSpace
from sysqcache.guestmap.vmcoreinfo import VmcoreInfo
from sysqcache.guestmap.x86 import X86Space, x86_space

SPACES: Final[Mapping[str, Callable[[VmcoreInfo], AddressSpace]]] = {
    "x86_64": x86_space,
    "aarch64": arm64_space,
    "riscv64": riscv_space,
}
"""By what `query-target` answers."""

VARIABLES: Final = X86Space.variables
"""All variables that any architecture asks for."""


def address_space(target: str, info: VmcoreInfo) -> AddressSpace:
    """The address space of a kernel; raises :class:`UnreadableError` when it tells too little."""
    make = SPACES.get(target)
    if make is None:
        raise UnreadableError(f"guests of {target} can't be looked into")
    return make(info)
