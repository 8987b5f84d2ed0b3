# SPDX-License-Identifier: GPL-2.0-or-later
"""The contract of layers names every room, and the documentation shows it in the same order."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CONTRACTS: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"][
    "importlinter"
]["contracts"]


def rooms(contract: dict[str, Any]) -> list[str]:
    """Dotted names, from the upper to the lower layers."""
    names = [name for layer in contract["layers"] for name in re.split(r" [|:] ", layer)]
    return [f"{container}.{name}" for container in contract["containers"] for name in names]


LAYERS = [contract for contract in CONTRACTS if contract["type"] == "layers"]


def test_the_table_of_rooms_is_the_contract() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    shown = re.findall(r"^\| `(\w+)/` \|", text, re.MULTILINE)
    assert [f"sysqcache.{name}" for name in shown] == rooms(LAYERS[0])


def test_the_contract_is_about_all_of_sysqcache() -> None:
    """An unknown room fails `lint-imports` then, and no exception is made."""
    assert LAYERS[0]["containers"] == ["sysqcache"]
    assert LAYERS[0]["exhaustive"]
    assert LAYERS[0]["exhaustive_ignores"] == ["__main__"]


def test_every_package_is_in_a_contract() -> None:
    known = {room for contract in LAYERS for room in rooms(contract)}
    packages = [path.parent for path in (ROOT / "sysqcache").rglob("__init__.py")]
    names = {".".join(path.relative_to(ROOT).parts) for path in packages} - {"sysqcache"}
    assert names <= known


def test_rooms_within_rooms_are_documented() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for contract in LAYERS:
        for room in rooms(contract):
            path = ROOT / room.replace(".", "/")
            if room.count(".") > 1 and path.is_dir():
                assert f"`{room.partition('.')[2].replace('.', '/')}/`" in text, room


def test_the_stations_of_a_record_are_files_and_counted() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    way = text.partition("## A record's way")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (formats|attribution|store) \| ([^|]+) \|", way, re.MULTILINE)
    files = [f"{room}/{name}" for room, names in rows for name in re.findall(r"`(\w+)`", names)]
    assert [name for name in files if not (ROOT / "sysqcache" / f"{name}.py").is_file()] == []
    shown = re.search(
        r"^(\d+) files .*: (\d+) of formats, (\d+) of attr\w+, (\d+) of", way, re.MULTILINE
    )
    assert shown is not None
    rooms_of = [name.partition("/")[0] for name in files]
    counts = [len(set(files)), *(rooms_of.count(r) for r in ("formats", "attribution", "store"))]
    assert [int(number) for number in shown.groups()] == counts
