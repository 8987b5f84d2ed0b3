# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTML page about a comparison, of a machine of vm.yaml or of a domain of libvirt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sysqcache.compare import htmlparts as parts
from sysqcache.compare.figures import FIRST, READY, SECOND
from sysqcache.compare.result import DOMAINS, MACHINES, Result, Summary
from sysqcache.compare.svg import Group
from sysqcache.compare.texts import advice, percent, seconds, size

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

_HOW_DOMAINS: Final = """\
What was started is a copy of the domain with its disks behind overlays, by the same libvirt and the
same engine; the domain itself was neither started nor changed. Every way runs once in each round,
and rounds begin with different ways. Bars are medians, whiskers the smallest and the largest run.
"Without the cache" has the cache off; "with the cache" maps what the domain's next start would map,
and records nothing. A managed save is what <code>virsh save</code> writes. Ready: from the call to
libvirt until the guest agent has answered the command <code>true</code>. The first and the second
run of the task follow in the same guest. Ratios are taken within rounds; the table has their
medians."""

_NONCE: Final = """\
Every resumed guest gave back a random value that had been put into its memory before it was saved;
no booted one knew any."""


def page(result: Result) -> str:
    """The whole page."""
    summaries = result.summaries()
    domain = result.subject is DOMAINS
    title = f"Starting {result.machine}: {len(summaries)} ways compared"
    if domain:
        title = f"Starting {result.machine}, a domain of libvirt: {', '.join(result.ways)}"
    how = [_HOW_DOMAINS] if domain else [_HOW, _nonce(result)]
    head = "What came out" if domain else "What to use"
    return parts.document(
        title,
        _about(result),
        [
            *parts.section(head, parts.bullets(advice(result))),
            *parts.section("How long it takes", [parts.legend(), *_charts(result, summaries)]),
            *parts.section("All figures", [_figures(summaries), *parts.ratios(result.ratios())]),
            *parts.section("How it was measured", [f"<p>{text}</p>" for text in how]),
            *parts.section("Notes", parts.bullets(_remarks(result))),
        ],
    )


def _about(result: Result) -> str:
    engine = f"{result.engine.get('version', '')} ({result.engine.get('key', '')})"
    return parts.about(result.started, result.asked, result.task, result.host, engine)


def _nonce(result: Result) -> str:
    resumed = any(sample.way.saved for sample in result.samples)
    return _NONCE if resumed else "No way of this comparison resumes a saved machine."


def _remarks(result: Result) -> list[str]:
    lines = [f"{way} is left out: {reason}." for way, reason in result.left_out.items()]
    lines += [f"{way} failed: {reason}." for way, reason in result.failed.items()]
    lines += ["It was interrupted before its end."] if result.interrupted else []
    return lines + [f"{note[:1].upper()}{note[1:]}." for note in result.notes]


def groups(summaries: Sequence[Summary], name: str, wanted: Sequence[str]) -> list[Group]:
    """Bars of one value, the ways with and without the cache side by side."""
    return parts.grouped(((one.way.group, one.way.cached, one[name]) for one in summaries), wanted)


def _charts(result: Result, summaries: Sequence[Summary]) -> list[str]:
    every = result.subject.groups
    drawings = [("ready", "Until the guest answers", READY, every)]
    if result.subject is MACHINES and _dwarfed(summaries):
        title = "Until the guest answers, resumes alone"
        drawings.append(("resumed", title, READY, every[1:]))
    drawings.append(("first", "The task's first run in this guest", FIRST, every))
    drawings.append(("second", "The task's second run", SECOND, every))
    if result.subject is DOMAINS:
        title = "libvirt's own part: the call that starts the domain"
        drawings.append(("start", title, "start_s", every))
    return [
        parts.figure(key, title, groups(summaries, name, wanted))
        for key, title, name, wanted in drawings
        if summaries
    ]


def _dwarfed(summaries: Sequence[Summary]) -> bool:
    boots = [one[READY].median for one in summaries if not one.way.saved]
    resumes = [one[READY].max for one in summaries if one.way.saved]
    return bool(boots and resumes) and max(boots) > _DWARFED * max(resumes)


def _figures(summaries: Sequence[Summary]) -> str:
    names = {"start_s": "libvirt"} if summaries and "start_s" in summaries[0].spreads else {}
    names |= {READY: "ready", FIRST: "first task", SECOND: "second task", "host_cpu_s": "host CPU"}
    saved = () if "start_s" in names else ("suspend", "on disk", "peak memory")
    rows = []
    for one in summaries:
        suspend = "-" if one.suspend_s is None else seconds(one.suspend_s)
        kept = (suspend, size(one.disk_bytes), size(one.peak_rss_bytes)) if saved else ()
        times = (parts.timed(one[name]) for name in names)
        rows.append((str(one.way), *times, *kept, percent(one.hit_rate), str(one.runs)))
    heads = ("way", *names.values(), *saved, "hits", "runs")
    return parts.table("Medians, and below them the spread", heads, rows)
