# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine's specification as JSON, for machines that outlive their vm.yaml."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sysqcache.base.errors import MachineError
from sysqcache.spec.spec import MachineSpec


def to_json(spec: MachineSpec) -> dict[str, Any]:
    """The fields as JSON values."""
    from pydantic import TypeAdapter

    value: dict[str, Any] = TypeAdapter(MachineSpec).dump_python(spec, mode="json")
    return value


def from_json(value: object) -> MachineSpec:
    """The inverse; raises ValueError."""
    from pydantic import TypeAdapter

    return TypeAdapter(MachineSpec).validate_python(value)


def write_spec(file: Path, spec: MachineSpec) -> None:
    """Keep what a machine was started from. Raises OSError."""
    # as ASCII: paths need not be UTF-8
    file.write_text(json.dumps(to_json(spec), indent=1), encoding="ascii")


def read_spec(file: Path) -> MachineSpec:
    """What the machine of a directory was started from. Raises :class:`MachineError`."""
    try:
        return from_json(json.loads(file.read_bytes()))
    except (OSError, ValueError) as error:
        raise MachineError(
            f"what {file.parent.name} was started from can't be read: {error}"
        ) from None
