# SPDX-License-Identifier: GPL-2.0-or-later
"""Options and output that several commands share."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sysqcache.base.printable import printable
from sysqcache.base.types import CacheMode

if TYPE_CHECKING:
    from sysqcache.machine.guest.result import TaskResult

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
MachineName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the machine.")]
TaskTimeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", help="Give up on a command after this.")
]
CacheOption = Annotated[
    CacheMode | None, typer.Option("--cache", help="What to do with the cache.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a field, as in memory=2GiB."),
]
DomainConnect = Annotated[
    str, typer.Option("--connect", "-c", metavar="URI", help="With --libvirt: as for virsh.")
]


def reflow(text: str) -> str:
    """Paragraphs as single lines: the line breaks of a docstring mean nothing."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def print_json(value: Any) -> None:
    """One object on stdout."""
    # ASCII, so that the terminal's encoding and names that are no text do not matter
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
    sys.stdout.flush()
    _printed.append(True)


_printed: list[bool] = []


def json_printed() -> bool:
    """Whether this command has printed its object."""
    return bool(_printed)


def print_output(result: TaskResult) -> None:
    """What a command in the guest wrote, where it wrote it."""
    sys.stdout.write(result.stdout)
    sys.stderr.write(result.stderr)
    sys.stdout.flush()


def say(text: str) -> None:
    """A line on stdout."""
    sys.stdout.write(printable(text) + "\n")
