# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of a comparison: complete, escaped, of its own; the drawings' geometry."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from comparehelp import result

from sysqcache.compare import svg
from sysqcache.compare.figures import Spread
from sysqcache.compare.markdown import markdown
from sysqcache.compare.page import groups, page
from sysqcache.compare.ways import Way

VOID = {"meta", "br"}


class Strict(HTMLParser):
    """Checks that tags are closed in order; keeps tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_of_its_own() -> None:
    text = page(result())
    found = Strict(text)
    assert text.startswith("<!DOCTYPE html>")
    assert "script" not in found.tags
    assert "link" not in found.tags
    assert not [a for a in found.attributes if a[1] in ("src", "href", "onload", "style")]
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in text


def test_what_screen_readers_need() -> None:
    found = Strict(page(result()))
    assert ("html", "lang", "en") in found.attributes
    assert found.tags.count("title") == 1 + found.tags.count("desc")
    ids = [value for _, name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    references = [
        v for _, name, value in found.attributes if name == "aria-labelledby" for v in value.split()
    ]
    assert references
    assert set(references) == set(ids)
    assert found.tags.count("caption") == found.tags.count("table") == 2
    assert ("th", "scope", "row") in found.attributes


def test_every_way_and_figure_is_in_the_table() -> None:
    text = page(result())
    for way in Way:
        assert f'<th scope="row">{way}</th>' in text
    assert "<td>0.168 s<small>0.160 to 0.176 s</small></td>" in text
    assert "97.0 %" in text
    assert "300 MiB" in text


def test_names_and_tasks_are_escaped() -> None:
    made = result()
    made.machine = '<b>"vm"</b>'
    made.note("a </style><script>alert(1)</script> b")
    made.failed[Way.FILE] = "<img src=x>"
    made.left_out[Way.INTERNAL] = "a & b"
    text = page(made)
    found = Strict(text)
    assert not {"b", "script", "img", "all", "fast"} & set(found.tags)
    assert "make <all> & test" in found.text
    assert "a <fast> CPU" in found.text
    assert '<b>"vm"</b>' in found.text
    assert "<script>alert(1)</script>" in found.text
    assert "a & b" in found.text


def test_a_page_without_a_single_run() -> None:
    made = result(0)
    made.interrupted = True
    found = Strict(page(made))
    assert "svg" not in [tag for tag in found.tags if tag == "desc"]
    assert "interrupted" in found.text


def test_resumes_are_drawn_alone_when_boots_dwarf_them() -> None:
    assert page(result()).count("<figure>") == 4
    assert page(result(3, (Way.COLD, Way.WARM))).count("<figure>") == 3
    assert page(result(3, (Way.FILE, Way.TEMPLATE))).count("<figure>") == 3


@pytest.mark.parametrize("largest", [0.0, 0.0007, 0.13, 0.99, 1.0, 7.3, 20.0, 99.9, 1234.0])
def test_ticks_are_round_and_reach_the_largest(largest: float) -> None:
    found = svg.ticks(largest)
    assert found[0] == 0.0
    assert found[-1] >= largest
    assert 2 <= len(found) <= 8
    steps = {round(b - a, 9) for a, b in pairwise(found)}
    assert len(steps) == 1
    assert re.fullmatch(r"[125]e[+-]\d\d", f"{steps.pop():.0e}")


def test_bars_are_as_long_as_their_medians() -> None:
    bars = (
        svg.Bar("a", "off", Spread(10.0, 9.0, 12.0)),
        svg.Bar("b", "on", Spread(5.0, 5.0, 5.0)),
    )
    tree = ET.fromstring(svg.chart("k", "T & T", [svg.Group("g <x>", bars)]))
    long, short = (float(rect.attrib["width"]) for rect in tree.iter("rect"))
    assert long == pytest.approx(2 * short, abs=0.2)
    low, high = re.findall(r"[MH]([\d.]+)", next(tree.iter("path")).attrib["d"])[:2]
    assert float(high) - float(low) == pytest.approx(0.3 * long, abs=0.2)
    assert len(list(tree.iter("path"))) == 1  # a bar without a spread has no whisker
    left = float(next(tree.iter("rect")).attrib["x"])
    assert float(low) < left + long < float(high)
    assert [title.text for title in tree.iter("title")] == ["T & T"]
    assert "g <x>, a: 10.0 s (9.0 to 12.0 s)" in str(next(tree.iter("desc")).text)


def test_nothing_leaves_the_drawing() -> None:
    made = result()
    for name in ("ready_s", "first_task_s", "second_task_s"):
        wanted = ("boot", "internal", "file", "template")
        tree = ET.fromstring(svg.chart("k", "t", groups(made.summaries(), name, wanted)))
        width, height = (float(one) for one in tree.attrib["viewBox"].split()[2:])
        for rect in tree.iter("rect"):
            assert float(rect.attrib["x"]) + float(rect.attrib["width"]) < width
            assert float(rect.attrib["y"]) + float(rect.attrib["height"]) < height
        for text in tree.iter("text"):
            assert 0 <= float(text.attrib["x"]) < width
            assert 0 <= float(text.attrib["y"]) < height


def test_ways_with_and_without_the_cache_stand_together() -> None:
    found = groups(result().summaries(), "ready_s", ("boot", "internal", "file", "template"))
    assert [group.label for group in found] == ["boot", "internal", "file", "template"]
    assert [[bar.style for bar in group.bars] for group in found] == [["off", "on"]] * 4


def test_markdown_has_the_figures_of_the_json() -> None:
    made = result(3)
    made.left_out[Way.INTERNAL] = "no disk"
    text = markdown(made.to_json())
    assert "| way | ready | first task |" in text
    assert "| template+warm | 0.137 s (0.130 to 0.143 s) | 1.50 s | 0.750 s |" in text
    assert "| warm/cold ready | 0.850 | 0.850 to 0.850 |" in text
    assert "internal: left out, no disk" in text
    assert len({line.count("|") for line in text.splitlines() if "|" in line}) == 2
