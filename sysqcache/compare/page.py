# SPDX-License-Identifier: GPL-2.0-or-later
"""One self-contained HTML page about a comparison: no script, nothing from the network."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import Final

from sysqcache.compare.figures import FIRST, READY, SECOND, Spread
from sysqcache.compare.result import Result, Summary
from sysqcache.compare.svg import Bar, Group, chart
from sysqcache.compare.texts import advice, percent, rounds, seconds, size, span

_GROUPS: Final[tuple[str, ...]] = ("boot", "internal", "file", "template")
_STYLES: Final = {False: ("off", "without the cache"), True: ("on", "with the cache")}
_DWARFED: Final = 5.0
"""Boots this many times longer than resumes get a drawing without them beside."""

_HOW: Final = """\
Every way runs once in each round, and rounds begin with different ways, so that what changes on
the host changes all alike. Bars are medians, whiskers the smallest and the largest run. "Without
the cache" is what there is without sysqcache; "with the cache" uses the blocks of one earlier boot
that ran the same task, for a resume also those of one earlier resume, and records nothing. Ready:
from the start of the QEMU process until the guest has answered the command <code>true</code>; a
boot has passed its readiness probe before. The first and the second run of the task follow in the
same guest. Peak memory counts pages of mapped files too, which copies of a template share. Ratios
are taken within rounds; the table has their
medians."""

_NONCE: Final = """\
Every resumed guest gave back a random value that had been put into its memory before it was saved;
no booted one knew any."""


def page(result: Result) -> str:
    """The whole page."""
    summaries = result.summaries()
    title = f"Starting {result.machine}: {len(summaries)} ways compared"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="about">{escape(_about(result))}</p>',
        *_section("What to use", _list(advice(result))),
        *_section("How long it takes", [_legend(), *_charts(summaries)]),
        *_section("All figures", [_figures(summaries), _ratios(result)]),
        *_section("How it was measured", [f"<p>{_HOW}</p>", f"<p>{_nonce(result)}</p>"]),
        *_section("Notes", _list(_remarks(result))),
    ]
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
            *body,
            "</main></body></html>",
            "",
        ]
    )


def _about(result: Result) -> str:
    day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(result.started))
    host = result.host
    machine = f"{host['cpu']}, {host['cores']} cores, Linux {host['kernel']}"
    asked = f"{rounds(result.asked)}, task: {result.task}"
    return f"{day}. {asked}. Host: {machine}. QEMU {_engine(result)}."


def _engine(result: Result) -> str:
    return f"{result.engine.get('version', '')} ({result.engine.get('key', '')})"


def _nonce(result: Result) -> str:
    resumed = any(sample.way.method is not None for sample in result.samples)
    return _NONCE if resumed else "No way of this comparison resumes a saved machine."


def _section(title: str, content: Iterable[str]) -> list[str]:
    found = list(content)
    return [f"<section><h2>{escape(title)}</h2>", *found, "</section>"] if found else []


def _list(lines: Sequence[str]) -> list[str]:
    return ["<ul>", *(f"<li>{escape(line)}</li>" for line in lines), "</ul>"] if lines else []


def _remarks(result: Result) -> list[str]:
    lines = [f"{way} is left out: {reason}." for way, reason in result.left_out.items()]
    lines += [f"{way} failed: {reason}." for way, reason in result.failed.items()]
    lines += ["It was interrupted before its end."] if result.interrupted else []
    return lines + [f"{note[:1].upper()}{note[1:]}." for note in result.notes]


def _legend() -> str:
    entries = "".join(
        f'<span><svg class="key" viewBox="0 0 14 14" aria-hidden="true">'
        f'<rect class="{style}" width="14" height="14" rx="2"/></svg> {words}</span>'
        for style, words in _STYLES.values()
    )
    return f'<p class="legend">{entries}</p>'


def groups(summaries: Sequence[Summary], name: str, wanted: Sequence[str]) -> list[Group]:
    """Bars of one value, the ways with and without the cache side by side."""
    found = []
    for label in wanted:
        bars = tuple(
            Bar(_STYLES[one.way.cached][1], _STYLES[one.way.cached][0], one[name])
            for one in summaries
            if one.way.group == label
        )
        if bars:
            found.append(Group(label, bars))
    return found


def _charts(summaries: Sequence[Summary]) -> list[str]:
    drawings = [("ready", "Until the guest answers", READY, _GROUPS)]
    if _dwarfed(summaries):
        title = "Until the guest answers, resumes alone"
        drawings.append(("resumed", title, READY, _GROUPS[1:]))
    drawings.append(("first", "The task's first run in this guest", FIRST, _GROUPS))
    drawings.append(("second", "The task's second run", SECOND, _GROUPS))
    return [
        f"<figure><figcaption>{escape(title)}</figcaption>\n"
        f"{chart(key, title, groups(summaries, name, wanted))}</figure>"
        for key, title, name, wanted in drawings
        if summaries
    ]


def _dwarfed(summaries: Sequence[Summary]) -> bool:
    boots = [one[READY].median for one in summaries if one.way.method is None]
    resumes = [one[READY].max for one in summaries if one.way.method is not None]
    return bool(boots and resumes) and max(boots) > _DWARFED * max(resumes)


def _figures(summaries: Sequence[Summary]) -> str:
    heads: tuple[str, ...] = ("way", "ready", "first task", "second task", "host CPU")
    heads += ("suspend", "on disk", "peak memory", "hits", "runs")
    rows = [
        (
            str(one.way),
            *(_timed(one[name]) for name in (READY, FIRST, SECOND, "host_cpu_s")),
            "-" if one.suspend_s is None else seconds(one.suspend_s),
            size(one.disk_bytes),
            size(one.peak_rss_bytes),
            percent(one.hit_rate),
            str(one.runs),
        )
        for one in summaries
    ]
    return _table("Medians, and below them the spread", heads, rows)


def _timed(value: Spread) -> str:
    """The median, and in a second line the spread, if there is one."""
    spread = f"\n{span(value)}" if value.min < value.max else ""
    return seconds(value.median) + spread


def _ratios(result: Result) -> str:
    rows = [
        (name, f"{value.median:.3f}", f"{value.min:.3f} to {value.max:.3f}")
        for name, value in result.ratios().items()
    ]
    return _table("Ratios", ("ratio", "median", "spread"), rows) if rows else ""


def _cell(text: str) -> str:
    main, _, small = text.partition("\n")
    return f"<td>{escape(main)}" + (f"<small>{escape(small)}</small>" if small else "") + "</td>"


def _table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
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
