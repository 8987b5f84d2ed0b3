# SPDX-License-Identifier: GPL-2.0-or-later
"""What `run` is asked for: by its own reader, and by the command line's library alike."""

from __future__ import annotations

import pytest
import typer

from sysqcache.cli import run
from sysqcache.run import words
from sysqcache.run.words import Asked, parse


def test_options_stand_before_and_behind_the_source() -> None:
    asked = parse(["-e", "A=1", "vm.yaml", "--timeout=2.5", "-t", "--", "ls", "-l", "--", "x"])
    assert asked == Asked("vm.yaml", ("ls", "-l", "--", "x"), ("A=1",), timeout=2.5, tty=True)


def test_lists_keep_their_order() -> None:
    asked = parse(["i", "--env", "A=1", "-e", "B", "--set", "memory=1GiB", "--vcpus", "2", "--"])
    assert asked is not None
    assert asked.env == ("A=1", "B")
    assert asked.overrides == ["memory=1GiB", "vcpus=2"]
    assert asked.command == ()


@pytest.mark.parametrize(
    "line",
    [
        "vm.yaml true",
        "vm.yaml --help --",
        "vm.yaml --unknown 1 -- true",
        "vm.yaml --timeout soon -- true",
        "vm.yaml --copies -1 -- true",
        "vm.yaml --copies 2 --tty -- true",
        "vm.yaml --template perhaps -- true",
        "vm.yaml other.yaml -- true",
        "vm.yaml --name",
        "vm.yaml --name --",
        "-- true",
    ],
)
def test_what_is_not_plain_is_left_to_the_long_way(line: str) -> None:
    assert parse(line.split()) is None


def test_both_readers_know_the_same_options() -> None:
    command = typer.main.get_command(run.app)
    known: dict[str, str] = {}
    flags: dict[str, str] = {}
    for parameter in command.params:
        for option in parameter.opts if parameter.param_type_name == "option" else []:
            if not option.endswith("completion"):
                (flags if parameter.is_flag else known)[option] = str(parameter.name)  # type: ignore[attr-defined]
    assert known == words.WITH_VALUE
    assert flags == words.FLAGS
