# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of snapshots: one replaces another without a gap, whenever a command is killed."""

from __future__ import annotations

import pytest

from sysqcache.base.errors import UsageError
from sysqcache.qmp.blocknodes import BlockNode
from sysqcache.saved.tags import check_tag, next_name, others, tags


def disk(*names: str) -> BlockNode:
    entries = tuple({"name": name, "vm-state-size": 0} for name in names)
    return BlockNode("disk0", "qcow2", "/d", (), True, False, entries)


def test_the_highest_number_that_all_disks_have() -> None:
    assert tags([disk("A", "A~1", "B"), disk("A", "A~1", "B")]) == {"A": "A~1", "B": "B"}
    # killed before the second disk had it
    assert tags([disk("A", "A~1"), disk("A")]) == {"A": "A"}
    # killed before the old one was deleted everywhere
    assert tags([disk("A~1"), disk("A", "A~1")]) == {"A": "A~1"}
    assert tags([disk("A~9", "A~10")]) == {"A": "A~10"}
    assert tags([]) == {}


def test_a_new_name_is_in_no_disk() -> None:
    assert next_name([disk(), disk()], "A") == "A"
    assert next_name([disk("A"), disk("A")], "A") == "A~1"
    assert next_name([disk("A~1"), disk("A~1", "A~2")], "A") == "A~3"
    assert next_name([disk("A")], "A b") == "A b"
    assert others([disk("A", "B"), disk("A~2")], "A") == [("A", 0), ("A~2", 2)]


@pytest.mark.parametrize("tag", ["", "1", "a/b", "A~1", "a\nb", "\x1b[2J", "ä" * 101])
def test_what_can_not_be_a_tag(tag: str) -> None:
    with pytest.raises(UsageError):
        check_tag(tag)
    for good in ("a", "A b", "ä", "a~", "~", "a~1b", "v1.2"):
        check_tag(good)
