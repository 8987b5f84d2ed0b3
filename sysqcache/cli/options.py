# SPDX-License-Identifier: GPL-2.0-or-later
"""Options and output that several commands share."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from sysqcache.base.printable import printable
from sysqcache.cli.loglines import note

__all__ = ["note"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
MachineName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the machine.")]
TaskTimeout = Annotated[
    float, typer.Option("--timeout", metavar="SECONDS", help="Give up on a command after this.")
]
DomainConnect = Annotated[
    str, typer.Option("--connect", "-c", metavar="URI", help="With --libvirt: as for virsh.")
]


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


def say(text: str) -> None:
    """A line on stdout."""
    sys.stdout.write(printable(text) + "\n")
