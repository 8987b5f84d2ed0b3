# SPDX-License-Identifier: GPL-2.0-or-later
"""The exception tree, its exit codes, and the documented table."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from sysqcache.base import errors
from sysqcache.base.errors import SysqcacheError
from sysqcache.cli.errors import report_error, unexpected

DOC = Path(__file__).parents[2] / "docs" / "errors.md"


def tree() -> dict[str, type[SysqcacheError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, SysqcacheError)
    }


def test_exit_codes_are_unique() -> None:
    codes = [cls.exit_code for cls in tree().values()]
    assert len(codes) == len(set(codes))
    assert all(0 < code < 126 for code in codes)


def test_each_class_owns_its_code_and_is_documented() -> None:
    for cls in tree().values():
        assert "exit_code" in vars(cls), cls
        assert cls.__doc__


def test_the_documented_table_is_true() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", DOC.read_text(), re.MULTILINE)
    assert {name: int(code) for code, name in rows} == {
        name: cls.exit_code for name, cls in tree().items()
    }


def test_the_drawn_tree_is_true() -> None:
    drawn = re.findall(r"(\w+) +(\d+)", errors.__doc__ or "")
    assert {name: int(code) for name, code in drawn} == {
        name: cls.exit_code for name, cls in tree().items()
    }


def test_an_error_as_the_user_sees_it(capsys: pytest.CaptureFixture[str]) -> None:
    error = errors.DiskError("it broke", hint="mend it", detail="line 1\nline 2")
    assert report_error(error) == 18
    assert capsys.readouterr().err == ("error: it broke\n  line 1\n  line 2\nhint: mend it\n")


def test_unexpected_errors_have_words_too() -> None:
    full = unexpected(OSError(28, "No space left on device", "/x"))
    assert full.message == "No space left on device: /x"
    assert full.exit_code == 1
    assert unexpected(ValueError("boom")).message == "internal error: ValueError: boom"
