# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures as words for people: digits that mean something, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from sysqcache.compare.figures import FIRST, READY, Sample, Spread, of_way
from sysqcache.compare.result import DOMAINS, Result, Summary
from sysqcache.compare.ways import AnyWay, DomainWay, Way

_FEW_RUNS: Final = 3


def seconds(value: float) -> str:
    """``0.131 s``, ``2.25 s``, ``20.3 s``."""
    return f"{value:.{_digits(value)}f} s"


def _digits(value: float) -> int:
    return 3 if value < 0.9995 else 2 if value < 9.995 else 1


def size(value: int) -> str:
    """``182 MiB``, ``-`` for nothing."""
    return f"{value / (1 << 20):,.0f} MiB" if value else "-"


def span(value: Spread) -> str:
    """``0.120 to 0.142 s``."""
    digits = _digits(value.max)
    low, high = f"{value.min:.{digits}f}", f"{value.max:.{digits}f} s"
    return high if f"{low} s" == high else f"{low} to {high}"


def percent(value: float) -> str:
    """``97.1 %``, ``-`` for nothing."""
    return f"{100 * value:.1f} %" if value else "-"


def rounds(count: int) -> str:
    """``1 round``, ``5 rounds``."""
    return f"{count} round" + ("" if count == 1 else "s")


def first_result(samples: Iterable[Sample], way: AnyWay) -> Spread | None:
    """Seconds from the start of QEMU to the end of the task's first run."""
    totals = [sample.ready_s + sample.first_task_s for sample in of_way(samples, way)]
    return Spread.of(totals) if totals else None


def advice(result: Result) -> list[str]:
    """What to use, as sentences that follow from the figures alone."""
    if result.subject is DOMAINS:
        return list(_of_domain(result))
    summaries = {summary.way: summary for summary in result.summaries()}
    parts = (
        _fastest(result),
        _boots(result, summaries),
        _cached(result, summaries),
        _cost(list(summaries.values())),
        _copies(summaries),
        _doubts(result),
    )
    return [text for text in parts if text]


def _of_domain(result: Result) -> Iterator[str]:
    found = {one.way: one for one in result.summaries()}
    for start, cold, warm in (
        ("A boot", DomainWay.COLD, DomainWay.WARM),
        ("A start from a managed save", DomainWay.SAVED, DomainWay.SAVED_WARM),
    ):
        if {cold, warm} <= found.keys():
            changes = [
                f"{what} {seconds(found[warm][value].median)} "
                f"instead of {seconds(found[cold][value].median)}"
                for what, value in (("ready after", READY), ("the first task takes", FIRST))
            ]
            yield f"{start} with the cache: {', '.join(changes)}."
    delay = result.start_delay()
    if delay is not None:
        yield f"libvirt's call that boots the domain takes {1000 * delay:+.0f} ms with the cache."


def _fastest(result: Result) -> str:
    totals = {way: first_result(result.samples, way) for way in result.ways}
    known = {way: total for way, total in totals.items() if total is not None}
    if len(known) < 2:
        return ""
    best = min(known, key=lambda way: known[way].median)
    text = f"Soonest to a first result: {best}, {seconds(known[best].median)} from the start "
    text += "of QEMU to the end of the task's first run"
    if best is not Way.COLD and Way.COLD in known:
        text += f"; a boot without the cache takes {seconds(known[Way.COLD].median)}"
    close = [way for way in known if way is not best and known[way].min <= known[best].max]
    if close:
        text += f". Not clearly slower, as the spreads overlap: {', '.join(close)}"
    return text + "."


def _boots(result: Result, summaries: Mapping[AnyWay, Summary]) -> str:
    found = result.ratios().get("warm/cold ready")
    if found is None:
        return ""
    cold, warm = summaries[Way.COLD][READY], summaries[Way.WARM][READY]
    both = f"ready after {seconds(warm.median)} instead of {seconds(cold.median)}"
    if found.max >= 1:
        return f"Boots: with the cache {both}, which is not more than the spread of single runs."
    return (
        f"When the image changes often: boot with the cache, {both}. Nothing has to be saved "
        "again after a change, and what did not change stays known."
    )


def _cached(result: Result, summaries: Mapping[AnyWay, Summary]) -> str:
    """What the cache is worth after a resume."""
    found = result.ratios()
    parts = []
    for way in (Way.INTERNAL_WARM, Way.FILE_WARM, Way.TEMPLATE_WARM):
        plain = Way(way.group)
        value = found.get(f"{way}/{plain} first task")
        if value is not None:
            now, before = summaries[way][FIRST].median, summaries[plain][FIRST].median
            parts.append(f"{seconds(now)} instead of {seconds(before)} ({plain})")
    return f"The first task after a resume, with the cache: {', '.join(parts)}." if parts else ""


def _cost(summaries: Sequence[Summary]) -> str:
    saved = {s.way.group: s for s in summaries if s.suspend_s is not None}
    if not saved:
        return ""
    parts = [
        f"{group} {seconds(one.suspend_s or 0.0)} and {size(one.disk_bytes)}"
        for group, one in saved.items()
    ]
    return (
        "A saved machine fits the disks that it was saved with: after a change of the image it "
        f"has to be booted and suspended again. Suspending takes {'; '.join(parts)}."
    )


def _copies(summaries: Mapping[AnyWay, Summary]) -> str:
    if Way.TEMPLATE not in summaries and Way.TEMPLATE_WARM not in summaries:
        return ""
    return (
        "For many machines at once: template, as its copies share their memory until they write "
        "to it."
    )


def _doubts(result: Result) -> str:
    counts = [summary.runs for summary in result.summaries()]
    if not counts or min(counts) >= _FEW_RUNS:
        return ""
    return f"With {min(counts)} of each these are first impressions; take 5 runs or more."
