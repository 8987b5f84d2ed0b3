# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine's specification as JSON, for machines that outlive their vm.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sysqcache.base import paths
from sysqcache.base.errors import MachineError
from sysqcache.instances import Instance
from sysqcache.spec import MachineSpec


def to_json(spec: MachineSpec) -> dict[str, Any]:
    """The fields as JSON values."""
    from pydantic import TypeAdapter

    value: dict[str, Any] = TypeAdapter(MachineSpec).dump_python(spec, mode="json")
    return value


def from_json(value: object) -> MachineSpec:
    """The inverse; raises ValueError."""
    from pydantic import TypeAdapter

    return TypeAdapter(MachineSpec).validate_python(value)


def write_spec(instance: Instance, spec: MachineSpec) -> None:
    """Keep what a machine was started from. Raises OSError."""
    from pydantic import TypeAdapter

    text = TypeAdapter(MachineSpec).dump_json(spec, indent=1)
    instance.file(paths.INSTANCE_SPEC).write_bytes(text)


def read_spec(instance: Instance) -> MachineSpec:
    """What a machine was started from. Raises :class:`MachineError`."""
    from pydantic import TypeAdapter

    file: Path = instance.file(paths.INSTANCE_SPEC)
    try:
        return TypeAdapter(MachineSpec).validate_json(file.read_bytes())
    except (OSError, ValueError) as error:
        raise MachineError(
            f"what {instance.name} was started from can't be read: {error}"
        ) from None
