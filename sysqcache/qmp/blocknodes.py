# SPDX-License-Identifier: GPL-2.0-or-later
"""Which disks QEMU has, whoever asked for them: by vm.yaml, ``qemu_args`` or a QMP command."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sysqcache.qmp.commands import Executes

_NOTHING: Final = ("null-co", "null-aio")
"""Drivers that keep nothing of what is written."""


@dataclass(frozen=True, slots=True)
class BlockNode:
    """A disk: the node that no other disk is made of.

    :param file: what QEMU calls its file, for messages.
    :param files: paths of its file and of those below it, as far as they are files.
    :param temporary: its writes go to a file without a name, which ends with QEMU.
    :param snapshots: as QEMU describes them.
    """

    name: str
    driver: str
    file: str
    files: tuple[Path, ...]
    writable: bool
    temporary: bool
    snapshots: tuple[Mapping[str, Any], ...] = ()

    @property
    def holds_snapshots(self) -> bool:
        """Whether internal snapshots can be made in it."""
        return self.driver == "qcow2"

    def snapshot(self, tag: str) -> Mapping[str, Any] | None:
        """The snapshot of a name."""
        return next((one for one in self.snapshots if one["name"] == tag), None)

    @classmethod
    def from_qmp(cls, node: Mapping[str, Any]) -> BlockNode:
        """From an entry of ``query-named-block-nodes``, not flat."""
        image = node["image"]
        names = [_file_name(one["filename"]) for one in _chain(image)]
        files = tuple(Path(name) for name in names if name.startswith("/"))
        return cls(
            node["node-name"],
            node["drv"],
            names[0],
            files,
            not node["ro"] and node["drv"] not in _NOTHING,
            names[0].startswith("/") and not files[0].exists(),
            tuple(image.get("snapshots", ())),
        )


def _chain(image: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    while image is not None:
        yield image
        image = image.get("backing-image")


def _file_name(name: str) -> str:
    """The path in ``json:{...}``, by which QEMU names what a path alone does not describe."""
    if not name.startswith("json:"):
        return name
    with contextlib.suppress(ValueError):
        options: Any = json.loads(name.removeprefix("json:"))
        while isinstance(options, dict):
            if "filename" in options:
                return str(options["filename"])
            options = options.get("file")
    return name


def disks(qmp: Executes) -> list[BlockNode]:
    """All disks, those that no device has included. Raises :class:`QmpError`."""
    graph = qmp.execute("x-debug-query-block-graph")
    nodes = {one["id"]: one["name"] for one in graph["nodes"] if one["type"] == "block-driver"}
    below = {nodes[edge["child"]] for edge in graph["edges"] if edge["parent"] in nodes}
    found = [BlockNode.from_qmp(one) for one in qmp.execute("query-named-block-nodes")]
    return [one for one in found if one.name in nodes.values() and one.name not in below]
