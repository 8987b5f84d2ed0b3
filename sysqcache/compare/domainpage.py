# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTML page about a comparison of a domain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sysqcache.compare import htmlparts as parts
from sysqcache.compare.domainresult import VALUES, DomainResult, DomainWay
from sysqcache.compare.texts import percent, seconds

_GROUPS: Final = ("boot", "managedsave")
_DRAWN: Final = {
    "ready_s": "Until the guest answers",
    "first_task_s": "The task's first run in this guest",
    "second_task_s": "The task's second run",
    "start_s": "libvirt's own part: the call that starts the domain",
}

_HOW: Final = """\
What was started is a copy of the domain with its disks behind overlays, by the same libvirt and the
same engine; the domain itself was neither started nor changed. Every way runs once in each round,
and rounds begin with different ways. Bars are medians, whiskers the smallest and the largest run.
"Without the cache" has the cache off; "with the cache" maps what the domain's next start would map,
and records nothing. A managed save is what <code>virsh save</code> writes. Ready: from the call to
libvirt until the guest agent has answered the command <code>true</code>. The first and the second
run of the task follow in the same guest. Ratios are taken within rounds; the table has their
medians."""


def page(result: DomainResult) -> str:
    """The whole page."""
    engine = f"{result.engine.get('version', '')} ({result.engine.get('key', '')})"
    return parts.document(
        f"Starting {result.domain}, a domain of libvirt: {', '.join(result.ways)}",
        parts.about(result.started, result.runs, result.task, result.facts, engine),
        [
            *parts.section("What came out", parts.bullets(list(_findings(result)))),
            *parts.section("How long it takes", [parts.legend(), *_drawings(result)]),
            *parts.section("All figures", [_figures(result), *parts.ratios(result.ratios())]),
            *parts.section("How it was measured", [f"<p>{_HOW}</p>"]),
        ],
    )


def _findings(result: DomainResult) -> Iterator[str]:
    """Sentences that follow from the figures."""
    for cold, warm in (
        (DomainWay.COLD, DomainWay.WARM),
        (DomainWay.SAVED, DomainWay.SAVED_WARM),
    ):
        if not {cold, warm} <= set(result.ways):
            continue
        start = "A boot" if cold is DomainWay.COLD else "A start from a managed save"
        changes = [
            f"{what} {seconds(result.spread(warm, value).median)} "
            f"instead of {seconds(result.spread(cold, value).median)}"
            for what, value in (
                ("ready after", "ready_s"),
                ("the first task takes", "first_task_s"),
            )
        ]
        yield f"{start} with the cache: {', '.join(changes)}."
    delay = result.start_delay()
    if delay is not None:
        yield f"libvirt's call that boots the domain takes {1000 * delay:+.0f} ms with the cache."


def _drawings(result: DomainResult) -> list[str]:
    return [
        parts.figure(
            name,
            title,
            parts.grouped(
                ((way.group, way.cached, result.spread(way, name)) for way in result.ways), _GROUPS
            ),
        )
        for name, title in _DRAWN.items()
    ]


def _figures(result: DomainResult) -> str:
    heads = ("way", "libvirt", "ready", "first task", "second task", "host CPU", "hits", "runs")
    rows = [
        (
            str(way),
            *(parts.timed(result.spread(way, name)) for name in VALUES),
            percent(result.spread(way, "hit_rate").median),
            str(len(result.of(way))),
        )
        for way in result.ways
    ]
    return parts.table("Medians, and below them the spread", heads, rows)
