# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's maple tree, which holds the mappings of a process (since Linux 6.1)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from sysqcache.guestmap import limits
from sysqcache.guestmap.layout import KernelLayout
from sysqcache.guestmap.memory import ExhaustedError, GuestMemory, UnreadableError

_NODE: Final = 256
_TYPE_SHIFT: Final = 3
_TYPE_MASK: Final = 15
_LAST: Final = (1 << 64) - 1
_RESERVED: Final = 4096
"""Entries below are errors or internal values, not pointers."""


class MapleTree:
    """Reader of maple trees of one kernel, 64-bit."""

    def __init__(self, memory: GuestMemory, layout: KernelLayout) -> None:
        self._memory = memory
        leaf, ranges, ranges_with_gaps = (
            layout.enums.get(name, number)
            for name, number in (
                ("maple_leaf_64", 1),
                ("maple_range_64", 2),
                ("maple_arange_64", 3),
            )
        )
        shapes = {}
        for kind, name in (
            (leaf, "maple_range_64"),
            (ranges, "maple_range_64"),
            (ranges_with_gaps, "maple_arange_64"),
        ):
            pivot, slot = layout.at(f"{name}.pivot"), layout.at(f"{name}.slot")
            slots = layout.size(f"{name}.slot") // 8
            if pivot + 8 * (slots - 1) > _NODE or slot + 8 * slots > _NODE:
                raise UnreadableError(f"{name} does not fit in its node")
            shapes[kind] = struct.Struct(f"<{slots - 1}Q"), pivot, struct.Struct(f"<{slots}Q"), slot
        self._shapes = shapes
        self._leaf = leaf

    def entries(self, root: int, limit: int) -> Iterator[int]:
        """All entries below the root pointer of a tree, in order, at most ``limit``.

        Raises :class:`UnreadableError` for what is no tree, and :class:`ExhaustedError`
        when there are more.
        """
        if not _is_node(root):
            # a single entry, which mappings of a process never are
            return
        left = [limit]
        seen: set[int] = set()
        for entry in self._node(root, 0, (0, _LAST), seen):
            left[0] -= 1
            if left[0] < 0:
                raise ExhaustedError(f"a tree with more than {limit} entries")
            yield entry

    def _node(
        self, pointer: int, depth: int, bounds: tuple[int, int], seen: set[int]
    ) -> Iterator[int]:
        address = pointer & ~(_NODE - 1)
        shape = self._shapes.get((pointer >> _TYPE_SHIFT) & _TYPE_MASK)
        if shape is None or depth > limits.MAPLE_DEPTH or address in seen:
            raise UnreadableError("a broken maple tree")
        seen.add(address)
        pivot, pivot_at, slot, slot_at = shape
        data = self._memory.read(address, _NODE)
        slots = slot.unpack_from(data, slot_at)
        pivots = (*pivot.unpack_from(data, pivot_at), bounds[1])
        is_leaf = (pointer >> _TYPE_SHIFT) & _TYPE_MASK == self._leaf
        start = bounds[0]
        for i, entry in enumerate(slots):
            # a pivot of zero marks the unused rest of a node, except in the first slot
            end = pivots[i] if pivots[i] or not i else bounds[1]
            end = min(end, bounds[1])
            if is_leaf and entry >= _RESERVED and not entry & 3:
                yield entry
            elif not is_leaf and _is_node(entry):
                yield from self._node(entry, depth + 1, (start, end), seen)
            if end >= bounds[1]:
                return
            start = end + 1


def _is_node(entry: int) -> bool:
    return entry > _RESERVED
