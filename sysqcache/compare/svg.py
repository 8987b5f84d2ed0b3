# SPDX-License-Identifier: GPL-2.0-or-later
"""Grouped bars with whiskers as SVG: pure functions from numbers to text.

Colours are left to the page's style sheet (classes ``off``, ``on``, ``grid``, ``whisker``),
so that one drawing fits light and dark pages.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from html import escape
from typing import Final

from sysqcache.compare.figures import Spread
from sysqcache.compare.texts import seconds, span

_WIDTH: Final = 720
_LABELS: Final = 84
"""Width of the column with the groups' names."""
_VALUES: Final = 74
"""Room right of the longest bar for its value."""
_BAR: Final = 18
_GAP: Final = 4
_GROUP_GAP: Final = 16
_AXIS: Final = 24
_CAP: Final = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Bar:
    """A bar: ``label`` for the words, ``style`` the class that colours it."""

    label: str
    style: str
    value: Spread


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Bars that belong together."""

    label: str
    bars: tuple[Bar, ...]


def ticks(largest: float, wanted: int = 5) -> list[float]:
    """Round numbers from 0 to the first one that is not below ``largest``."""
    if largest <= 0:
        return [0.0, 1.0]
    rough = largest / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * one for one in (1, 2, 5, 10) if power * one >= rough * 0.999)
    return [step * number for number in range(math.ceil(largest / step - 1e-9) + 1)]


def chart(key: str, title: str, groups: Sequence[Group]) -> str:
    """One drawing of seconds.

    :param key: unique in the page, for the references of screen readers.
    """
    scale = ticks(max((bar.value.max for group in groups for bar in group.bars), default=0.0))
    height = _height(groups)
    parts = [
        (
            f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" '
            f'aria-labelledby="{escape(key)}-title {escape(key)}-words">'
        ),
        f'<title id="{escape(key)}-title">{escape(title)}</title>',
        f'<desc id="{escape(key)}-words">{escape(describe(groups))}</desc>',
        *_grid(scale, height),
    ]
    top = _GROUP_GAP / 2
    for group in groups:
        parts += _group(group, top, scale[-1])
        top += _group_height(group) + _GROUP_GAP
    return "\n".join([*parts, "</svg>"])


def describe(groups: Sequence[Group]) -> str:
    """The drawing in words."""
    return "; ".join(
        f"{group.label}, {bar.label}: {seconds(bar.value.median)} ({span(bar.value)})"
        for group in groups
        for bar in group.bars
    )


def _group_height(group: Group) -> float:
    return len(group.bars) * (_BAR + _GAP) - _GAP


def _height(groups: Sequence[Group]) -> float:
    return sum(_group_height(group) + _GROUP_GAP for group in groups) + _AXIS


def _x(value: float, largest: float) -> float:
    return _LABELS + value / largest * (_WIDTH - _LABELS - _VALUES)


def _grid(scale: Sequence[float], height: float) -> list[str]:
    parts = []
    for tick in scale:
        x = _x(tick, scale[-1])
        bottom = height - _AXIS
        parts.append(
            f'<line class="grid" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{bottom:.1f}"/>'
            f'<text class="tick" x="{x:.1f}" y="{height - 7:.1f}">{tick:g} s</text>'
        )
    return parts


def _group(group: Group, top: float, largest: float) -> list[str]:
    middle = top + _group_height(group) / 2
    parts = [
        f'<text class="label" x="{_LABELS - 10}" y="{middle:.1f}">{escape(group.label)}</text>'
    ]
    for number, bar in enumerate(group.bars):
        parts += _bar(bar, top + number * (_BAR + _GAP), largest)
    return parts


def _bar(bar: Bar, top: float, largest: float) -> list[str]:
    end, low, high = (_x(v, largest) for v in (bar.value.median, bar.value.min, bar.value.max))
    middle = top + _BAR / 2
    width = max(1.0, end - _LABELS)
    return [
        (
            f'<rect class="{escape(bar.style)}" x="{_LABELS}" y="{top:.1f}" width="{width:.1f}" '
            f'height="{_BAR}" rx="2"/>'
        ),
        *(_whisker(low, high, middle) if low < high else ()),
        (
            f'<text class="value" x="{max(end, high) + 8:.1f}" y="{middle:.1f}">'
            f"{seconds(bar.value.median)}</text>"
        ),
    ]


def _whisker(low: float, high: float, middle: float) -> list[str]:
    top, bottom = middle - _CAP, middle + _CAP
    return [
        (
            f'<path class="whisker" d="M{low:.1f} {middle:.1f}H{high:.1f}'
            f'M{low:.1f} {top:.1f}V{bottom:.1f}M{high:.1f} {top:.1f}V{bottom:.1f}"/>'
        )
    ]
