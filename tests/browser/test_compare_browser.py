# SPDX-License-Identifier: GPL-2.0-or-later
"""The page of a comparison in a real browser: laid out, readable in light and dark."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from comparehelp import result

from sysqcache.compare.page import page
from sysqcache.compare.ways import Way

CHROMIUM = shutil.which("chromium")
WIDTH, HEIGHT = 1100, 3000

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="chromium is not installed: scripts/install-packages test"
)

# what the layout has to be like is asked by a script that only the test adds
PROBE = """<script>
const box = e => {
  const r = e.getBoundingClientRect();
  return [r.left, r.top, r.right, r.bottom];
};
const all = q => [...document.querySelectorAll(q)];
const style = (e, n) => getComputedStyle(e)[n];
const out = {
  title: document.title,
  width: document.documentElement.clientWidth,
  scroll: document.documentElement.scrollWidth,
  drawings: all("figure svg").map(s => ({
    box: box(s), name: s.querySelector("title").textContent,
    bars: [...s.querySelectorAll("rect")].map(box),
    texts: [...s.querySelectorAll("text")].map(t => ({words: t.textContent, box: box(t)})),
  })),
  rows: all("tbody tr").length,
  back: style(document.body, "backgroundColor"), text: style(document.body, "color"),
  off: style(document.querySelector("rect.off"), "fill"),
  on: style(document.querySelector("rect.on"), "fill"),
};
document.body.insertAdjacentHTML("beforeend", "<pre id=probe></pre>");
document.getElementById("probe").textContent = JSON.stringify(out);
</script>"""

COUNT = """<pre id="counts"></pre><img src="data:image/png;base64,PICTURE" onload="
  const c = document.createElement('canvas').getContext('2d');
  [c.canvas.width, c.canvas.height] = [this.width, this.height];
  c.drawImage(this, 0, 0);
  const d = c.getImageData(0, 0, this.width, this.height).data, counts = {};
  for (let i = 0; i < d.length; i += 4) {
    const key = [d[i], d[i + 1], d[i + 2]].join();
    counts[key] = (counts[key] || 0) + 1;
  }
  document.getElementById('counts').textContent = JSON.stringify(counts)">"""


def chromium(folder: Path, *arguments: str) -> str:
    """Run the browser without a network; its standard output."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", "--no-first-run"),
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={WIDTH},{HEIGHT}",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def probe(folder: Path, text: str, *arguments: str) -> dict[str, Any]:
    """What the browser makes of a page."""
    file = folder / "page.html"
    file.write_text(text.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    dom = chromium(folder, *arguments, "--dump-dom", file.as_uri())
    found = re.search(r'<pre id="probe">(.*?)</pre>', dom, re.DOTALL)
    assert found, dom[-2000:]
    value: dict[str, Any] = json.loads(unescape(found[1]))
    return value


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, as the accessibility guidelines define it."""
    parts = [int(one) / 255 for one in re.findall(r"\d+", colour)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def overlap(one: list[float], other: list[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_the_page_is_laid_out(tmp_path: Path) -> None:
    seen = probe(tmp_path, page(result(5)))
    assert seen["title"] == "Starting debian12: 8 ways compared"
    assert seen["scroll"] <= seen["width"]
    assert [drawing["name"] for drawing in seen["drawings"]] == [
        "Until the guest answers",
        "Until the guest answers, resumes alone",
        "The task's first run in this guest",
        "The task's second run",
    ]
    assert [len(drawing["bars"]) for drawing in seen["drawings"]] == [8, 6, 8, 8]
    assert seen["rows"] > len(Way)
    for drawing in seen["drawings"]:
        left, top, right, bottom = drawing["box"]
        assert right - left > 600
        for text in drawing["texts"]:
            x0, y0, x1, y1 = text["box"]
            assert left - 1 <= x0 < x1 <= right + 1, text
            assert top - 1 <= y0 < y1 <= bottom + 1, text


def test_no_words_lie_on_bars_or_on_each_other(tmp_path: Path) -> None:
    made = result(5)
    for drawing in probe(tmp_path, page(made))["drawings"]:
        boxes = [text["box"] for text in drawing["texts"]]
        for number, one in enumerate(boxes):
            assert not any(overlap(one, bar) for bar in drawing["bars"]), drawing["texts"][number]
            assert not any(overlap(one, other) for other in boxes[number + 1 :])


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_can_be_read(tmp_path: Path, dark: bool) -> None:
    flags = ("--blink-settings=preferredColorScheme=0",) if dark else ()
    seen = probe(tmp_path, page(result()), *flags)
    assert (luminance(seen["back"]) < 0.1) is dark
    assert contrast(seen["text"], seen["back"]) >= 7
    assert contrast(seen["off"], seen["back"]) >= 3
    assert contrast(seen["on"], seen["back"]) >= 3


def test_narrow_screens_do_not_scroll_sideways(tmp_path: Path) -> None:
    seen = probe(tmp_path, page(result()), "--window-size=520,2000")
    assert seen["scroll"] <= seen["width"]


def test_what_is_painted(tmp_path: Path) -> None:
    """Both colours of bars are on the picture, in about the shares that the figures say."""
    file, picture = tmp_path / "page.html", tmp_path / "page.png"
    file.write_text(page(result()), encoding="utf-8")
    chromium(tmp_path, f"--screenshot={picture}", file.as_uri())
    counts = colours(tmp_path, picture)
    off, on = counts["118,129,154"], counts["15,123,95"]
    assert off > 20_000
    assert 0.4 < on / off < 1.0
    assert counts["255,255,255"] > 0.5 * WIDTH * HEIGHT


def colours(folder: Path, picture: Path) -> dict[str, int]:
    """Number of pixels of each colour of a picture, counted by the browser."""
    encoded = base64.b64encode(picture.read_bytes()).decode()
    file = folder / "count.html"
    file.write_text(COUNT.replace("PICTURE", encoded), encoding="utf-8")
    dom = chromium(folder, "--dump-dom", file.as_uri())
    found = re.search(r'<pre id="counts">(.+?)</pre>', dom)
    assert found, dom[-500:]
    counts: dict[str, int] = json.loads(found[1])
    return counts
