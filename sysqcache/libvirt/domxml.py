# SPDX-License-Identifier: GPL-2.0-or-later
"""XML with places: elements know where they stand in the text, so that a change touches
nothing else.

Writing a parsed document out again would lose prefixes, comments or escapes of what other
programs keep in a domain's metadata. Here the text stays as it is, except for the pieces
that are cut out or put in.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Final
from xml.parsers import expat

from sysqcache.base.errors import LibvirtError

_MAX_DEPTH: Final = 64


@dataclasses.dataclass(slots=True)
class Element:
    """One element; positions count bytes of the text.

    ``name`` is as written, with its prefix; it reaches from ``start`` to ``end`` and its
    content from ``inner`` to ``inner_end`` (both are ``end`` when the element is empty and
    written as one tag). ``text`` is its own text, without that of its children.
    """

    name: str
    attributes: Mapping[str, str]
    start: int
    inner: int
    inner_end: int = 0
    end: int = 0
    text: str = ""
    children: list[Element] = dataclasses.field(default_factory=list)

    def get(self, attribute: str, default: str = "") -> str:
        """The value of an attribute."""
        return self.attributes.get(attribute, default)

    def all(self, name: str) -> Iterator[Element]:
        """Its children of this name."""
        return (child for child in self.children if child.name == name)

    def find(self, path: str) -> Element | None:
        """The first descendant whose names from here on are ``path``, as in "os/type"."""
        first, _, rest = path.partition("/")
        for child in self.all(first):
            found = child.find(rest) if rest else child
            if found is not None:
                return found
        return None

    def string(self, path: str) -> str:
        """The text of :meth:`find`, "" when there is no such element."""
        found = self.find(path)
        return found.text.strip() if found is not None else ""


@dataclasses.dataclass(frozen=True, slots=True)
class Edit:
    """Replace the bytes from ``start`` to ``end``."""

    start: int
    end: int
    content: str = ""


class Document:
    """A parsed text. Raises :class:`LibvirtError` for what is not XML."""

    def __init__(self, text: str) -> None:
        self._data = text.encode()
        self._stack: list[Element] = []
        self._roots: list[Element] = []
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._begin
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.StartDoctypeDeclHandler = _refuse_doctype
        try:
            self._parser.Parse(self._data, True)
        except expat.ExpatError as error:
            raise LibvirtError(f"this is not the XML of a domain: {error}") from None
        self.root = self._roots[0]

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._stack) > _MAX_DEPTH:
            raise LibvirtError("this is not the XML of a domain: too many levels")
        start = self._parser.CurrentByteIndex
        element = Element(name, attributes, start, self._tag_end(start))
        if self._stack:
            self._stack[-1].children.append(element)
        else:
            self._roots.append(element)
        self._stack.append(element)

    def _tag_end(self, start: int) -> int:
        """Behind the tag that begins at ``start``; values may hold ">"."""
        quote = b""
        for position in range(start, len(self._data)):
            character = self._data[position : position + 1]
            if quote:
                quote = b"" if character == quote else quote
            elif character in (b'"', b"'"):
                quote = character
            elif character == b">":
                return position + 1
        return len(self._data)

    def _end(self, name: str) -> None:
        element = self._stack.pop()
        here = self._parser.CurrentByteIndex
        if self._data[element.inner - 2 : element.inner] == b"/>":
            element.inner_end = element.end = element.inner
        else:
            element.inner_end = here
            element.end = self._tag_end(here)

    def _characters(self, text: str) -> None:
        self._stack[-1].text += text

    def indent(self, element: Element) -> str:
        """The blanks in front of an element, back to the end of the line before."""
        line = self._data.rfind(b"\n", 0, element.start)
        blanks = self._data[max(line, 0) : element.start]
        return "" if blanks.strip() else blanks.decode()

    def remove(self, element: Element) -> Edit:
        """Take an element out together with the line break and blanks in front of it."""
        return Edit(element.start - len(self.indent(element).encode()), element.end)

    def append(self, parent: Element, content: str) -> Edit:
        """Put ``content``, a line of its own, behind all that ``parent`` holds.

        ``parent`` must hold something already, or be written as two tags.
        """
        if parent.children:
            last = parent.children[-1]
            return Edit(last.end, last.end, self.indent(last) + content)
        return Edit(parent.inner, parent.inner, content)

    def remove_declaration(self, name: str) -> Edit | None:
        """Take an attribute of the root out, with the blank in front of it."""
        tag = self._data[self.root.start : self.root.inner]
        found = re.search(rb"\s+" + name.encode() + rb"=('[^']*'|\"[^\"]*\")", tag)
        if found is None:
            return None
        return Edit(self.root.start + found.start(), self.root.start + found.end())

    def apply(self, edits: list[Edit]) -> str:
        """The text with all changes; they must not overlap."""
        data = self._data
        # what is put in right before a replaced piece comes after it here
        for edit in sorted(edits, key=lambda e: (e.start, e.end), reverse=True):
            data = data[: edit.start] + edit.content.encode() + data[edit.end :]
        return data.decode()


def _refuse_doctype(*_: object) -> None:
    raise LibvirtError("this is not the XML of a domain: it has a document type")
