# SPDX-License-Identifier: GPL-2.0-or-later
"""What ThreadSanitizer, AddressSanitizer and UBSan write, as values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Final

_FENCE: Final = re.compile(r"^={18,}$", re.MULTILINE)
_HEAD: Final = re.compile(r"(?:WARNING|ERROR): (\w+Sanitizer): ([\w -]+?)(?: \(|$| on | in )", re.M)
_FRAME: Final = re.compile(
    r"^ +#\d+ (?:0x[0-9a-f]+ in )?(?P<function>.+?)"
    r" (?P<file>\S+?)(?::(?P<line>\d+))?(?::\d+)?(?: \(.*)?$"
)
_UNDEFINED: Final = re.compile(r"^(\S+?):(\d+):\d+: runtime error: (.+)$", re.MULTILINE)
_ACCESS: Final = re.compile(r"^(?:Previous )?(?:atomic )?(?:read|write) of size", re.IGNORECASE)
_INLINE_OF: Final = 6
"""Frames of a stack that may be one place in the source, with what is inlined there."""


@dataclass(frozen=True)
class Frame:
    """A function and the line that it was in; the file as the compiler named it."""

    function: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.function} {self.file}:{self.line}" if self.line else self.function


@dataclass(frozen=True)
class Stack:
    """A paragraph of a report that holds frames, the innermost first."""

    title: str
    frames: tuple[Frame, ...]

    @property
    def is_access(self) -> bool:
        """Whether it is what somebody was doing, and not how memory or a thread came to be."""
        return bool(_ACCESS.match(self.title))


@dataclass(frozen=True)
class Report:
    """One finding.

    :param tool: the sanitizer's name.
    :param kind: its name for the fault, such as "data race".
    """

    tool: str
    kind: str
    stacks: tuple[Stack, ...]
    text: str

    @property
    def accesses(self) -> tuple[Stack, ...]:
        """The stacks that tell where it is; the first when none says that it is an access."""
        found = tuple(stack for stack in self.stacks if stack.is_access and stack.frames)
        return found or self.stacks[:1]

    @property
    def place(self) -> tuple[str, ...]:
        """What equal reports have in common: the kind, and the innermost frame of each access."""
        return self.kind, *sorted(str(stack.frames[0]) for stack in self.accesses if stack.frames)

    def touches(self, files: Iterable[str]) -> bool:
        """Whether an access is in one of ``files``, or in what these have called just before."""
        ends = tuple(f"/{name}" for name in files)
        near = [frame for stack in self.accesses for frame in stack.frames[:_INLINE_OF]]
        return any(f"/{frame.file}".endswith(ends) for frame in near)


def _frames(lines: Sequence[str]) -> tuple[Frame, ...]:
    found = [match.groups() for line in lines if (match := _FRAME.match(line))]
    return tuple(Frame(function, file, int(line or 0)) for function, file, line in found)


def _stacks(text: str) -> Iterator[Stack]:
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.splitlines()
        first = next((i for i, line in enumerate(lines) if _FRAME.match(line)), None)
        if first is not None:
            title = lines[first - 1].strip() if first else ""
            yield Stack(title, _frames(lines[first:]))


def _fenced(text: str) -> Iterator[Report]:
    """Reports between lines of equals signs, or that begin with one."""
    for part in _FENCE.split(text):
        if head := _HEAD.search(part):
            yield Report(head[1], head[2].strip(), tuple(_stacks(part)), part.strip())


def _undefined(text: str) -> Iterator[Report]:
    heads = list(_UNDEFINED.finditer(text))
    for head, following in zip_longest(heads, heads[1:]):
        end = following.start() if following else len(text)
        body = text[head.start() : end].partition("=" * 18)[0]
        frames = _frames(body.splitlines()) or (Frame("?", head[1], int(head[2])),)
        # values differ from one to the next
        kind = re.sub(r"0x[0-9a-f]+|-?\d+", "N", head[3])
        yield Report("UndefinedBehaviorSanitizer", kind, (Stack("", frames),), body.strip())


def read(text: str) -> list[Report]:
    """The reports in a log; other lines are passed over."""
    return [*_fenced(text), *_undefined(text)]


def read_all(folder: Path) -> list[Report]:
    """The reports of all logs in ``folder``."""
    texts = [path.read_text(errors="replace") for path in sorted(folder.iterdir())]
    return [report for text in texts for report in read(text)]
