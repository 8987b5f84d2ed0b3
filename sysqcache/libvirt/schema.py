# SPDX-License-Identifier: GPL-2.0-or-later
"""What QMP's own description of an engine's commands allows: QEMU's docs/devel/qapi-code-gen.

Types have no names there, only numbers: they are looked up from the commands that use them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


class Schema:
    """The answer to ``query-qmp-schema``."""

    def __init__(self, entries: Sequence[Mapping[str, Any]]) -> None:
        self._types = {entry["name"]: entry for entry in entries}

    def argument(self, command: str) -> str:
        """The type of a command's argument."""
        return str(self._types[command]["arg-type"])

    def returned(self, command: str) -> str:
        """The type of what a command returns; of its elements, if it returns several."""
        found = str(self._types[command]["ret-type"])
        return str(self._types[found].get("element-type", found))

    def member(self, kind: str, name: str) -> str:
        """The type of a member of an object."""
        members = self._types[kind]["members"]
        return next(str(member["type"]) for member in members if member["name"] == name)

    def values(self, enumeration: str) -> set[str]:
        """The values of an enumeration."""
        return {member["name"] for member in self._types[enumeration]["members"]}

    def unknown(self, kind: str, value: Any) -> Iterator[str]:
        """What of a JSON value a type does not have: members, and values of enumerations.

        Values that are of another type altogether are left to the engine, as are the names
        that choose a variant.
        """
        entry = self._types[kind]
        match entry["meta-type"]:
            case "object" if isinstance(value, dict):
                yield from self._unknown_members(entry, value)
            case "alternate":
                yield from self._unknown_choice(entry, value)
            case "array" if isinstance(value, list):
                for element in value:
                    yield from self.unknown(entry["element-type"], element)
            case "enum" if isinstance(value, str) and value not in self.values(kind):
                yield f"={value}"

    def _unknown_members(self, entry: Mapping[str, Any], value: Mapping[str, Any]) -> Iterator[str]:
        tag = entry.get("tag", "")
        members = {member["name"]: member["type"] for member in entry["members"]}
        for variant in entry.get("variants", ()):
            if variant["case"] == value.get(tag):
                own = self._types[variant["type"]]["members"]
                members |= {member["name"]: member["type"] for member in own}
        for name, inner in value.items():
            if name not in members:
                yield name
            elif name != tag:
                for lacking in self.unknown(members[name], inner):
                    yield name + lacking if lacking.startswith("=") else f"{name}.{lacking}"

    def _unknown_choice(self, entry: Mapping[str, Any], value: Any) -> Iterator[str]:
        """Of an alternate only objects are looked into: a text may be any of its kinds."""
        if isinstance(value, dict):
            for member in entry["members"]:
                if self._types[member["type"]]["meta-type"] == "object":
                    yield from self.unknown(member["type"], value)
