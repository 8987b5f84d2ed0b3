# SPDX-License-Identifier: GPL-2.0-or-later
"""Is the firmware there that a machine starts with?"""

from __future__ import annotations

from pathlib import Path

from sysqcache.base.errors import LaunchError
from sysqcache.spec.arch import get_arch
from sysqcache.spec.spec import MachineSpec


def require_firmware(spec: MachineSpec, firmware_dir: Path) -> None:
    """Check that the engine has the firmware of its own that ``spec`` needs.

    A file that the user named was checked when vm.yaml was read.
    :raises LaunchError: it has not.
    """
    name = get_arch(spec.arch).firmware if spec.firmware is None else str(spec.firmware)
    if not name or "/" in name or (firmware_dir / name).is_file():
        return
    raise LaunchError(
        f"this engine has no firmware {name}",
        hint="sysqcache engine build --force",
        detail=f"looked for in {firmware_dir}",
    )
