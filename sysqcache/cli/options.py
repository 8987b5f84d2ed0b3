# SPDX-License-Identifier: GPL-2.0-or-later
"""Options and output that several commands share."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

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
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A line on stdout."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """A line on stderr: progress and warnings."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
