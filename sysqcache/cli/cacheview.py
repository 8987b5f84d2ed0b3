# SPDX-License-Identifier: GPL-2.0-or-later
"""What the `cache` commands share: the store, sizes, names for terminals, progress.

Names come from guests. They may hold anything, so they are shown as :func:`plain` text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sysqcache.cli.loglines import note

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sysqcache.store.facade import Store

WIDTH: Final = 100
"""Columns that every table fits into, and that a pipe gets."""

BAR_AFTER: Final = 2.0
"""Seconds of work after which progress is shown."""


def open_store() -> Store:
    """The user's store. Raises StoreError."""
    from sysqcache.base.paths import store_dir
    from sysqcache.store.facade import Store

    return Store.open(store_dir())


def warn(store: Store) -> None:
    """What the store has to say, on stderr."""
    for warning in store.warnings:
        note(f"warning: {warning}")


def parse_size(text: str) -> int:
    """Bytes of "1048576" or "2GiB". Raises UsageError."""
    import re

    from sysqcache.base.errors import UsageError

    match = re.fullmatch(r"\s*(\d{1,18})\s*([KMGT]iB|B)?\s*", text)
    if match is None:
        raise UsageError(
            f"{text!r} is not a size", hint="write bytes as a number, or such as 512MiB or 2GiB"
        )
    unit = (match[2] or "B")[0]
    return int(match[1]) << (10 * "BKMGT".index(unit))


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def many(count: int, one: str, more: str = "") -> str:
    """A number with its noun: "1 pack", "2 packs"."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def moment(iso: str) -> str:
    """An ISO 8601 time for people, to the minute."""
    return iso[:16].replace("T", " ")


def plain(name: str) -> str:
    """A name without anything that a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)


def shorten(name: str, width: int) -> str:
    """At most ``width`` columns: of a path the start and the end, which tell most."""
    name = plain(name)
    if len(name) <= width:
        return name
    tail = len(name.rpartition("/")[2]) + 1
    keep = width // 2 if tail > width - 2 else max(tail, width // 2)
    return f"{name[: width - 1 - keep]}\N{HORIZONTAL ELLIPSIS}{name[-keep:]}"


def label(name: str, identity: str, width: int) -> str:
    """A module's name in at most ``width`` columns; some code has none in its guest."""
    return shorten(name, width) or f"(no name) {plain(identity)[: width - 10]}"


def short_id(identity: str) -> str:
    """The first characters of a module's id: enough for ``cache show``."""
    from sysqcache.formats.modules import UNPLACED

    return "" if identity.startswith(UNPLACED) else plain(identity.removeprefix("sha256:"))[:8]


def console() -> Console:
    """Where tables go: as wide as the terminal, at least 100 columns in a pipe."""
    from rich.console import Console

    found = Console(highlight=False)
    return found if found.is_terminal else Console(width=WIDTH, highlight=False)


def grid(left: int, right: int, *titles: str) -> Table:
    """A table without lines: ``left`` columns of text, then ``right`` ones of numbers."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=bool(titles))
    for number in range(left + right):
        title = titles[number] if titles else ""
        table.add_column(title, justify="right" if number >= left else "left", no_wrap=True)
    return table


def add(table: Table, *cells: str, style: str = "") -> None:
    """A row of plain text: brackets in names are no markup."""
    from rich.text import Text

    table.add_row(*(Text(plain(cell)) for cell in cells), style=style)


class Bar:
    """A progress bar with elapsed time on stderr, shown once work takes longer than 2 s."""

    def __init__(self, title: str) -> None:
        import time

        self._title, self._clock = title, time.monotonic
        self._started = self._clock()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, total: int) -> None:
        """So many bytes are done; starts the bar when it is time."""
        if self._bar is None:
            if self._clock() - self._started < BAR_AFTER or done >= total:
                return
            self._start()
        self._bar.update(self._task, completed=done, total=total)

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(True))
        self._bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
        self._task = self._bar.add_task(self._title)
        self._bar.start()
