# SPDX-License-Identifier: GPL-2.0-or-later
"""What is written down about snapshots inside the disks: which machine each belongs to."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from sysqcache.base import paths
from sysqcache.base.files import replace_file
from sysqcache.machine.instances import Instance
from sysqcache.saved.identity import MachineIdentity

_Notes = dict[str, dict[str, Any]]


def keep(
    instance: Instance, entry: Mapping[str, Any], identity: MachineIdentity, known: Iterable[str]
) -> None:
    """Write down whose the snapshot ``entry`` is; notes of names not in ``known`` go.

    Raises OSError.
    """
    notes = {name: note for name, note in _read(instance).items() if name in set(known)}
    notes[str(entry["name"])] = {"at": _moment(entry), "machine": dataclasses.asdict(identity)}
    replace_file(instance.file(paths.INSTANCE_SNAPSHOTS), json.dumps(notes, indent=1).encode())


def find(instance: Instance, entry: Mapping[str, Any]) -> MachineIdentity | None:
    """Whose the snapshot ``entry`` is; None when nobody wrote that down."""
    note = _read(instance).get(str(entry["name"]), {})
    with contextlib.suppress(TypeError, KeyError):
        if note.get("at") == _moment(entry):
            return MachineIdentity.from_json(note["machine"])
    return None


def _moment(entry: Mapping[str, Any]) -> list[int]:
    """What two snapshots of the same name do not have in common."""
    keys = ("date-sec", "date-nsec", "vm-clock-sec", "vm-clock-nsec", "vm-state-size")
    return [int(entry[key]) for key in keys]


def _read(instance: Instance) -> _Notes:
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(instance.file(paths.INSTANCE_SNAPSHOTS).read_bytes())
        if isinstance(found, dict):
            return found
    return {}
