# SPDX-License-Identifier: GPL-2.0-or-later
"""Puts the cache into the XML of a domain, and takes it out again without a trace.

What was there before is kept in a metadata element of our own, so it moves with the domain
when that is renamed, dumped or defined anew. Everything works on the text as libvirt prints
it: see :mod:`.domxml`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from xml.sax import saxutils

from sysqcache.libvirt.domxml import Document, Edit, Element
from sysqcache.machine.launch.argv import escape

NAMESPACE: Final = "urn:sysqcache:libvirt:1"
QEMU_NAMESPACE: Final = "http://libvirt.org/schemas/domain/qemu/1.0"
_MARK: Final = "sysqcache:cache"
_COMMANDLINE: Final = "qemu:commandline"
_ARG: Final = "qemu:arg"
_OBJECT: Final = "tb-cache,id=tbcache0,"
_CAPABILITIES: Final = "qemu:capabilities"
_DEL: Final = "qemu:del"
_NO_ACPI: Final = ("-machine", "acpi=off")
_NO_ACPI_OPTION: Final = "no-acpi"
_CHANNELS: Final = ("sysqcache0", "sysqcache1")


@dataclasses.dataclass(frozen=True, slots=True)
class CachePaths:
    """What an enabled domain names: the engine, and files in the domain's folder."""

    emulator: Path
    journal: Path
    boot_set: Path
    monitor: Path
    introspection: Path


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """What our metadata element says about a domain before it was enabled.

    ``emulator`` is None when the domain named none; ``no_acpi`` tells that it has no ACPI, and
    that libvirt had to be kept from saying so with an option that QEMU 9.0 dropped.
    """

    emulator: str | None
    namespace: bool
    metadata: bool
    no_acpi: bool = False

    def element(self) -> str:
        """As XML."""
        values = {"qemu": self.namespace, "metadata": self.metadata, _NO_ACPI_OPTION: self.no_acpi}
        added = " ".join(name for name, value in values.items() if value)
        text = f"<{_MARK} xmlns:sysqcache={saxutils.quoteattr(NAMESPACE)}"
        if self.emulator is not None:
            text += f" emulator={saxutils.quoteattr(self.emulator)}"
        return f"{text} added={saxutils.quoteattr(added)}/>"

    @classmethod
    def of(cls, element: Element) -> Mark:
        """From the element."""
        added = element.get("added").split()
        return cls(
            element.attributes.get("emulator"),
            "qemu" in added,
            "metadata" in added,
            _NO_ACPI_OPTION in added,
        )


def cache_arguments(paths: CachePaths) -> list[str]:
    """What QEMU gets on top: the cache, and two QMP channels of our own."""
    cache = f"{_OBJECT}mode=on,journal={escape(paths.journal)},boot-set={escape(paths.boot_set)}"
    return ["-object", cache, *channel_arguments(paths)]


def measured_arguments(paths: CachePaths, *, cached: bool) -> list[str]:
    """The same for a machine that is measured: it records nothing, and may have no cache."""
    cache = f"{_OBJECT}mode=read-only,boot-set={escape(paths.boot_set)}"
    return [*(["-object", cache] if cached else []), *channel_arguments(paths)]


def channel_arguments(paths: CachePaths) -> list[str]:
    """Two QMP channels of our own."""
    arguments = []
    for name, path in zip(_CHANNELS, (paths.monitor, paths.introspection), strict=True):
        arguments += ["-chardev", f"socket,id={name},path={escape(path)},server=on,wait=off"]
        arguments += ["-mon", f"chardev={name},mode=control"]
    return arguments


def find_mark(xml: str) -> Mark | None:
    """What an enabled domain was before; None for one that is not enabled."""
    element = _mark_element(Document(xml).root)
    return None if element is None else Mark.of(element)


def _mark_element(root: Element) -> Element | None:
    metadata = root.find("metadata")
    for element in metadata.children if metadata is not None else ():
        # libvirt keeps prefixes, but somebody else may have chosen another one
        prefix = element.name.rpartition(":")[0]
        declared = element.get(f"xmlns:{prefix}" if prefix else "xmlns")
        if element.name.rpartition(":")[2] == "cache" and declared == NAMESPACE:
            return element
    return None


def enabled(
    xml: str, paths: CachePaths, arguments: list[str] | None = None, *, no_acpi: bool = False
) -> str:
    """The XML of a domain with the cache on; it must not be on already.

    :param arguments: what QEMU gets instead of :func:`cache_arguments`.
    :param no_acpi: switch ACPI off by a property of the machine, instead of the option
        ``-no-acpi``, which libvirt 9.0 gives.
    """
    document = Document(xml)
    root = document.root
    mark = Mark(
        emulator=root.string("devices/emulator") or None,
        namespace="xmlns:qemu" not in root.attributes,
        metadata=root.find("metadata") is None,
        no_acpi=no_acpi,
    )
    given = [*(arguments or cache_arguments(paths)), *(_NO_ACPI if no_acpi else ())]
    lines = [f"<{_ARG} value={saxutils.quoteattr(argument)}/>" for argument in given]
    without = [f"<{_DEL} capability='{_NO_ACPI_OPTION}'/>"]
    edits = [
        _with_metadata(document, mark),
        _with_emulator(document, paths.emulator),
        # before the arguments here, behind them in the text
        *([_with_elements(document, _CAPABILITIES, without)] if no_acpi else []),
        _with_elements(document, _COMMANDLINE, lines),
    ]
    if mark.namespace:
        place = root.inner - 1
        edits.append(Edit(place, place, f" xmlns:qemu='{QEMU_NAMESPACE}'"))
    return document.apply(edits)


def _with_metadata(document: Document, mark: Mark) -> Edit:
    metadata = document.root.find("metadata")
    if metadata is None:
        lines = f"\n  <metadata>\n    {mark.element()}\n  </metadata>"
        place = (document.root.find("uuid") or document.root.find("name") or document.root).end
        return Edit(place, place, lines)
    if metadata.inner == metadata.end:  # written as one tag
        return Edit(
            metadata.start, metadata.end, f"<metadata>\n    {mark.element()}\n  </metadata>"
        )
    return document.append(metadata, mark.element())


def _with_emulator(document: Document, emulator: Path) -> Edit:
    found = document.root.find("devices/emulator")
    text = saxutils.escape(str(emulator))
    if found is not None and found.inner != found.end:
        return Edit(found.inner, found.inner_end, text)
    devices = document.root.find("devices")
    element = f"<emulator>{text}</emulator>"
    if devices is None or devices.inner == devices.end:
        place = document.root.inner_end if devices is None else devices.start
        end = place if devices is None else devices.end
        return Edit(place, end, f"  <devices>\n    {element}\n  </devices>\n")
    return Edit(devices.inner, devices.inner, f"\n    {element}")


def _with_elements(document: Document, name: str, elements: list[str]) -> Edit:
    """Put elements into the block of this name, which is made where there is none."""
    block = document.root.find(name)
    if block is not None and block.children:
        return document.append(block, "\n    ".join(elements))
    text = "".join(f"\n    {element}" for element in elements)
    whole = f"<{name}>{text}\n  </{name}>"
    if block is not None:
        return Edit(block.start, block.end, whole)
    return Edit(document.root.inner_end, document.root.inner_end, f"  {whole}\n")


def disabled(xml: str) -> str:
    """The XML of an enabled domain as it would be without us; others' changes stay."""
    document = Document(xml)
    root = document.root
    element = _mark_element(root)
    if element is None:
        return xml
    mark = Mark.of(element)
    edits = [_without_metadata(document, mark, element), *_without_arguments(document, mark)]
    emulator = root.find("devices/emulator")
    if emulator is not None and mark.emulator is not None:
        edits.append(Edit(emulator.inner, emulator.inner_end, saxutils.escape(mark.emulator)))
    elif emulator is not None:
        edits.append(document.remove(emulator))
    return document.apply(edits)


def _without_metadata(document: Document, mark: Mark, element: Element) -> Edit:
    metadata = document.root.find("metadata")
    assert metadata is not None
    if len(metadata.children) > 1:
        return document.remove(element)
    if mark.metadata:
        return document.remove(metadata)
    return Edit(metadata.start, metadata.end, "<metadata/>")


def _without_arguments(document: Document, mark: Mark) -> Iterator[Edit]:
    """What is left in QEMU's namespace without us, and its declaration if anything is."""
    root = document.root
    gone = []
    for block, ours in _additions(root, mark):
        if len(ours) == len(block.children):
            gone.append(block)
            yield document.remove(block)
        else:
            yield from (document.remove(element) for element in ours)
    # another part of QEMU's namespace may still need its declaration
    needed = any(c.name.startswith("qemu:") and c not in gone for c in root.children)
    if mark.namespace and gone and not needed:
        declaration = document.remove_declaration("xmlns:qemu")
        if declaration is not None:
            yield declaration


def _additions(root: Element, mark: Mark) -> Iterator[tuple[Element, list[Element]]]:
    """Each block of QEMU's namespace, with those of its elements that are ours."""
    block = root.find(_COMMANDLINE)
    if block is not None:
        yield block, _our_arguments(list(block.all(_ARG)), mark)
    block = root.find(_CAPABILITIES)
    if block is not None and mark.no_acpi:
        yield block, [e for e in block.all(_DEL) if e.get("capability") == _NO_ACPI_OPTION]


def _our_arguments(arguments: list[Element], mark: Mark) -> list[Element]:
    """The pairs of an option and a value that :func:`enabled` gave."""
    starts = {
        "-object": (_OBJECT,),
        "-chardev": tuple(f"socket,id={name}," for name in _CHANNELS),
        "-mon": tuple(f"chardev={name}," for name in _CHANNELS),
    }
    found: list[Element] = []
    acpi: list[Element] = []
    for option, value in itertools.pairwise(arguments):
        if value.get("value").startswith(starts.get(option.get("value"), ("\0",))):
            found += [option, value]
        elif (option.get("value"), value.get("value")) == _NO_ACPI:
            acpi = [option, value]  # ours is behind all that were there
    return [*found, *(acpi if mark.no_acpi else [])]
