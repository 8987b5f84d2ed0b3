# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers in the metadata that stand for nothing: found by verify, mended by rebuild."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from sysqcache.store.columns import Columns
from sysqcache.store.meta import Meta
from sysqcache.store.records import DeadRow, ImageRow, ModuleRow, PackRow


def problems(meta: Meta) -> list[str]:
    """What refers to modules or images that there are not, one line each.

    Reads the columns of all live packs; raises MetaDamaged.
    """
    modules = meta.modules()
    images = {row.number for row in meta.images().values()}
    nobody = {"modules": 0, "images": 0}
    for row in meta.packs().values():
        if row.live:
            columns = meta.columns(row)
            nobody["modules"] += _unknown(columns.module, modules)
            nobody["images"] += _unknown(columns.image, images)
    found = [
        f"{count} blocks belong to {what} that are not listed"
        for what, count in nobody.items()
        if count
    ]
    if dead := sum(area.module not in modules for area in meta.dead()):
        found.append(f"{dead} dead places lie in modules that are not listed")
    if used := sum(bool(row.modules.keys() - modules) for row in meta.images().values()):
        found.append(f"{used} images use modules that are not listed")
    if seen := sum(not images.issuperset(row.images) for row in modules.values()):
        found.append(f"{seen} modules were seen in images that are not listed")
    return found


def _unknown(numbers: np.ndarray[tuple[int], np.dtype[np.uint32]], known: Collection[int]) -> int:
    """Blocks with a number that is neither known nor 0, nobody's."""
    return int(np.count_nonzero(~np.isin(numbers, [0, *known])))


def only_known(columns: Columns, modules: Collection[int], images: Collection[int]) -> Columns:
    """The columns, with nobody's number for modules and images that there are not.

    A block without a module has no place in it either.
    """
    mine = np.isin(columns.module, list(modules))
    image = np.where(np.isin(columns.image, list(images)), columns.image, 0)
    return dataclasses.replace(
        columns,
        module=np.where(mine, columns.module, 0).astype("<u4"),
        offset=np.where(mine, columns.offset, 0).astype("<u4"),
        image=image.astype("<u4"),
    )


def known_dead(areas: Iterable[DeadRow], modules: Collection[int]) -> list[DeadRow]:
    """Dead places of modules that there are."""
    return [area for area in areas if area.module in modules]


def mended_image(row: ImageRow, modules: Collection[int]) -> ImageRow:
    """An image that uses only modules that there are."""
    used = {number: run for number, run in row.modules.items() if number in modules}
    return dataclasses.replace(row, modules=used)


def mended_module(row: ModuleRow, images: Collection[int], packs: Iterable[PackRow]) -> ModuleRow:
    """A module that was seen only in images that there are, in the group of its blocks.

    A row from the boot sets has no group; most of the module's blocks tell which it was.
    """
    seen = tuple(number for number in row.images if number in images)
    return dataclasses.replace(row, images=seen, group=row.group or _group(row.number, packs))


def _group(number: int, packs: Iterable[PackRow]) -> str:
    """The group of packs that has most blocks of a module; "unknown" without any."""
    blocks: dict[str, int] = {}
    for row in packs:
        share = row.shares.get(number)
        if share is not None and row.group:
            blocks[row.group] = blocks.get(row.group, 0) + share.blocks
    return max(blocks, key=lambda group: blocks[group], default="unknown")


def mended_shares(row: PackRow, modules: Mapping[int, ModuleRow]) -> PackRow:
    """A pack whose shares name only modules that there are; the others' are nobody's."""
    lost = [number for number in row.shares if number not in modules and number]
    if not lost:
        return row
    shares = {number: share for number, share in row.shares.items() if number not in lost}
    parts = [row.shares[number] for number in (0, *lost) if number in row.shares]
    nobody = dataclasses.replace(
        parts[0], blocks=sum(p.blocks for p in parts), bytes=sum(p.bytes for p in parts)
    )
    return dataclasses.replace(row, shares={0: nobody} | shares)
