# SPDX-License-Identifier: GPL-2.0-or-later
"""The names of counters, in the engine's schema and in Python."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from sysqcache.base import counters

SCHEMA = Path(__file__).parents[2] / "engine" / "src" / "qapi" / "tb-cache.json"


def members(struct: str) -> list[str]:
    """The members of a struct in the order of the schema, all of them counters."""
    # QAPI's JSON has single quotes and comments, which Python's literals have as well
    code = re.sub(r"^\s*#.*$", "", SCHEMA.read_text(), flags=re.MULTILINE)
    found = re.search(rf"\{{ 'struct': '{struct}',.*?\}} \}}", code, re.DOTALL)
    assert found, struct
    fields = ast.literal_eval(found[0])["data"]
    assert set(fields.values()) == {"uint64"}
    return list(fields)


@pytest.mark.parametrize(
    ("struct", "names"),
    [
        ("TbCacheMisses", counters.MISSES),
        ("TbCacheRejects", counters.REJECTS),
        ("TbCacheUnrecorded", counters.UNRECORDED),
        ("TbCacheWrites", counters.WRITES),
    ],
)
def test_names_and_order_are_those_of_the_schema(struct: str, names: tuple[str, ...]) -> None:
    assert list(names) == members(struct)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "struct", ["TbCacheMisses", "TbCacheRejects", "TbCacheUnrecorded", "TbCacheWrites"]
)
def test_every_member_is_documented_in_order(struct: str) -> None:
    comment = SCHEMA.read_text().partition(f"# @{struct}:\n")[2].partition("##\n")[0]
    assert re.findall(r"^# @([\w-]+):", comment, re.MULTILINE) == members(struct)


@pytest.mark.parametrize("reason", counters.REJECTS)
def test_a_run_tells_of_damage_by_some_of_its_rejects(reason: str) -> None:
    assert counters.saw_damage({reason: 1}) == (reason in counters.DAMAGE)
    assert not counters.saw_damage(dict.fromkeys(counters.REJECTS, 0) | {"owner": 3})
