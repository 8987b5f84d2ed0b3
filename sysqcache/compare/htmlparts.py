# SPDX-License-Identifier: GPL-2.0-or-later
"""Pieces of one self-contained HTML page: no script, nothing from the network."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any, Final

from sysqcache.compare.figures import Spread
from sysqcache.compare.svg import Bar, Group, chart
from sysqcache.compare.texts import rounds, seconds, span

_STYLES: Final = {False: ("off", "without the cache"), True: ("on", "with the cache")}


def document(title: str, about: str, sections: Iterable[str]) -> str:
    """The whole page; ``sections`` as :func:`section` makes them."""
    style = resources.files("sysqcache.compare").joinpath("page.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{style}</style></head>",
            "<body><main>",
            f"<h1>{escape(title)}</h1>",
            f'<p class="about">{escape(about)}</p>',
            *sections,
            "</main></body></html>",
            "",
        ]
    )


def about(started: float, asked: int, task: str, host: Mapping[str, Any], engine: str) -> str:
    """What was measured when and where, in a line.

    :param started: Unix time.
    :param asked: rounds.
    """
    day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(started))
    machine = f"{host['cpu']}, {host['cores']} cores, Linux {host['kernel']}"
    return f"{day}. {rounds(asked)}, task: {task}. Host: {machine}. QEMU {engine}."


def section(title: str, content: Iterable[str]) -> list[str]:
    """A part with a title; nothing when there is nothing in it."""
    found = list(content)
    return [f"<section><h2>{escape(title)}</h2>", *found, "</section>"] if found else []


def bullets(lines: Sequence[str]) -> list[str]:
    """Sentences as a list."""
    return ["<ul>", *(f"<li>{escape(line)}</li>" for line in lines), "</ul>"] if lines else []


def legend() -> str:
    """What the colours of bars say."""
    entries = "".join(
        f'<span><svg class="key" viewBox="0 0 14 14" aria-hidden="true">'
        f'<rect class="{style}" width="14" height="14" rx="2"/></svg> {words}</span>'
        for style, words in _STYLES.values()
    )
    return f'<p class="legend">{entries}</p>'


def grouped(values: Iterable[tuple[str, bool, Spread]], wanted: Sequence[str]) -> list[Group]:
    """Bars of the groups ``wanted``, those with and without the cache side by side.

    :param values: of each way its group, whether it has the cache, and what is drawn.
    """
    known = list(values)
    found = []
    for label in wanted:
        bars = tuple(
            Bar(_STYLES[cached][1], _STYLES[cached][0], value)
            for group, cached, value in known
            if group == label
        )
        if bars:
            found.append(Group(label, bars))
    return found


def figure(key: str, title: str, groups: Sequence[Group]) -> str:
    """A drawing with its caption; ``key`` as in :func:`.svg.chart`."""
    drawing = chart(key, title, groups)
    return f"<figure><figcaption>{escape(title)}</figcaption>\n{drawing}</figure>"


def timed(value: Spread) -> str:
    """A cell: the median, and in a second line the spread, if there is one."""
    spread = f"\n{span(value)}" if value.min < value.max else ""
    return seconds(value.median) + spread


def ratios(found: dict[str, Spread]) -> list[str]:
    """A table of ratios by name, if there are any."""
    rows = [
        (name, f"{value.median:.3f}", f"{value.min:.3f} to {value.max:.3f}")
        for name, value in found.items()
    ]
    return [table("Ratios", ("ratio", "median", "spread"), rows)] if rows else []


def _cell(text: str) -> str:
    main, _, small = text.partition("\n")
    return f"<td>{escape(main)}" + (f"<small>{escape(small)}</small>" if small else "") + "</td>"


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; what stands behind a line break in a cell is shown below it, small."""
    head = "".join(f'<th scope="col">{escape(one)}</th>' for one in heads)
    lines = [
        f'<tr><th scope="row">{escape(first)}</th>{"".join(map(_cell, rest))}</tr>'
        for first, *rest in rows
    ]
    return "\n".join(
        [
            '<div class="wide" tabindex="0">',
            f"<table><caption>{escape(caption)}</caption>",
            f"<thead><tr>{head}</tr></thead>",
            f"<tbody>{''.join(lines)}</tbody></table></div>",
        ]
    )
