# SPDX-License-Identifier: GPL-2.0-or-later
"""A persistent translation cache for machines emulated by QEMU.

What programs may rely on is :func:`machine` (docs/run.md); the rooms below are not promised.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sysqcache.run.api import machine as machine

__version__ = "0.1.0"
__all__ = ["__version__", "machine"]


class _Package(ModuleType):
    """``sysqcache.machine`` is a function for programs, and a room of this package for imports."""

    @property
    def machine(self) -> Any:
        from sysqcache.run.api import machine

        return machine

    @machine.setter
    def machine(self, room: ModuleType) -> None:
        """The import of the room sets this; it finds the room without."""


sys.modules[__name__].__class__ = _Package
