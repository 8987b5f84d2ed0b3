# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of functions for `cache show`, from the image of a machine that ran the module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sysqcache.base.errors import SysqcacheError
from sysqcache.formats.modules import Module, ModuleKind

if TYPE_CHECKING:
    from sysqcache.attribution.imagescan.symbols import SymbolTable
    from sysqcache.spec.spec import MachineSpec

NO_PLACE = "code without a place in a module has no names"


def symbols(module: Module | None, images: tuple[str, ...]) -> tuple[SymbolTable | None, str]:
    """The functions of a module, and why there are none ("" when there are).

    :param images: ids of the images that have the module; the first that a machine of
        this host still has is read, unless the names were kept from an earlier time.
    """
    from sysqcache.attribution.imagescan.symbols import symbols_of
    from sysqcache.machine.helper.scan import scan_image

    if module is None:
        return None, NO_PLACE
    if module.kind is ModuleKind.FIRMWARE:
        return None, "firmware has no symbol table, so functions have no names"
    found = symbols_of(module, None)
    if found is not None:
        return found, ""
    note = "no machine of this host has the image any more, so functions have no names"
    for spec in _machines(images):
        with scan_image(spec) as contents:
            if module not in contents.found.modules():
                note = "the image does not hold this module any more, so functions have no names"
                continue
            found = symbols_of(module, contents)
            if found is not None:
                return found, ""
            note = "the module has no symbol table, so functions have no names"
    return None, note


def _machines(images: tuple[str, ...]) -> Iterator[MachineSpec]:
    """Machines that start one of the images, as far as their files are still there."""
    from sysqcache.machine.instances import list_instances
    from sysqcache.spec import resolve

    for state in list_instances():
        if state.image_id not in images or not state.source:
            continue
        try:
            spec = resolve.load(Path(state.source))
        except (SysqcacheError, OSError):
            continue
        if spec.image_id == state.image_id:
            yield spec
