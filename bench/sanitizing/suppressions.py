# SPDX-License-Identifier: GPL-2.0-or-later
"""Which reports are known, and why: the lists in engine/tests/sanitizers.

A list has the sanitizers' own format, so that it can be given to them as well
(``TSAN_OPTIONS=suppressions=FILE``). It is applied to their logs here, and more strictly: of a
race both sides must be known. The comment above an entry is its reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.sanitizing.reports import Report, Stack

_KINDS: Final = {
    "race": "data race",
    "race_top": "data race",
    "mutex": "mutex",
    "signal": "signal",
    "thread": "thread leak",
    "deadlock": "lock-order",
}
"""What a report's kind must hold; others are what UBSan calls its checks, and match anything."""


@dataclass(frozen=True)
class Suppression:
    """One entry.

    :param kind: a sanitizer's word for a kind of reports.
    :param pattern: part of a function's or a file's name; ``*``, ``^`` and ``$`` as usual.
    :param reason: why it is no fault, or not ours.
    """

    kind: str
    pattern: str
    reason: str

    def knows(self, stack: Stack) -> bool:
        """Whether it names a frame; of ``race_top`` the innermost."""
        parts = [re.escape(part) for part in self.pattern.strip("^$").split("*")]
        begin = "^" if self.pattern.startswith("^") else ""
        end = "$" if self.pattern.endswith("$") else ""
        expression = re.compile(begin + ".*".join(parts) + end)
        frames = stack.frames[:1] if self.kind == "race_top" else stack.frames
        return any(expression.search(name) for f in frames for name in (f.function, f.file))

    def fits(self, report: Report) -> bool:
        """Whether it is about reports of this kind."""
        return _KINDS.get(self.kind, "") in report.kind


def read(path: Path) -> list[Suppression]:
    """The entries of a list.

    :raises ValueError: an entry has no kind, or no reason above it.
    """
    found, reason, open_ = [], "", False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("#"):
            reason = f"{reason} {line[1:].strip()}".strip() if open_ else line[1:].strip()
            open_ = True
            continue
        open_ = False
        if not line.strip():
            reason = ""
            continue
        kind, colon, pattern = line.partition(":")
        if not colon or not reason:
            raise ValueError(f"{path}:{number}: {'no reason' if colon else 'no kind'}: {line}")
        found.append(Suppression(kind, pattern.strip(), reason))
    return found


def known(report: Report, entries: Sequence[Suppression]) -> Suppression | None:
    """The entry that says why a report is none of ours: each of its accesses is named by some."""
    named = [
        next((e for e in entries if e.fits(report) and e.knows(stack)), None)
        for stack in report.accesses
    ]
    return named[0] if named and all(named) else None
