# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of docs/formats.md about metadata are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from sysqcache.formats import places
from sysqcache.store import batch, meta
from sysqcache.store.bundle import form
from sysqcache.store.columns import COLUMNS
from sysqcache.store.key import IDENTITY
from sysqcache.store.why import Why

TEXT = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()


def table(title: str) -> list[list[str]]:
    """Cells of the table whose head begins with ``title``."""
    lines = TEXT[TEXT.index(f"| {title} |") :].splitlines()
    rows = []
    for line in lines[2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def test_columns() -> None:
    types = {"u32": np.dtype("<u4"), "2 x u64": IDENTITY}
    rows = {row[0].strip("`"): types[row[1]] for row in table("column")}
    assert rows == dict(COLUMNS)


def test_keys() -> None:
    documented = {row[0].strip("`").partition("/")[0] for row in table("key")}
    used = set(re.findall(r'f?b?"([a-z])/', Path(batch.__file__).read_text())) | {"g"}
    assert documented == used
    in_module = re.findall(r"^    ([a-z])[ /]", meta.__doc__ or "", re.MULTILINE)
    assert documented == set(in_module)


def test_reasons() -> None:
    assert [row[0].strip("`") for row in table("reason")] == [str(reason) for reason in Why]


def test_arrays_of_places() -> None:
    rows = {row[0].strip("`"): row[1] for row in table("array")}
    assert set(rows) == {"about", *places._ARRAYS, *places._DEAD}
    short = {"i64": np.int64, "i32": np.int32, "u32": np.uint32, "u8": np.uint8, "u64": np.uint64}
    for name, kind in places._TYPES.items():
        assert short[rows[name].partition(",")[0]] is kind


def test_columns_of_bundles() -> None:
    names = ", ".join(f"`{name}`" for name in form.COLUMNS.names or ())
    assert f"four u32: {names}" in TEXT
    assert f"version` ({form.VERSION})" in TEXT
    assert f"at most {form.MAX_CONTENTS >> 20} MiB" in TEXT
    assert f"at most {form.MAX_BYTES >> 30} GiB" in TEXT
