# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways to start a machine, and the order in which they take turns: pure values."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from sysqcache.base.errors import SavedStateError, UsageError
from sysqcache.saved.record import Method
from sysqcache.saved.suspend import choose
from sysqcache.spec.spec import MachineSpec

_BOOTS: Final = ("cold", "warm")
_CACHED: Final = "+warm"


class AnyWay(enum.StrEnum):
    """A way to start a machine: a boot, or the name of what was saved; with kept blocks or not."""

    @property
    def cached(self) -> bool:
        """Whether blocks of an earlier run are used."""
        return self.value in _BOOTS[1:] or self.value.endswith(_CACHED)

    @property
    def saved(self) -> bool:
        """Whether it goes on where it was saved."""
        return self.value not in _BOOTS

    @property
    def group(self) -> str:
        """The same for a way with and without the cache."""
        return self.value.removesuffix(_CACHED) if self.saved else "boot"


class Way(AnyWay):
    """A way to start a machine of vm.yaml.

    ``COLD`` boots with the cache off, which is what there is without sysqcache; ``WARM``
    boots with the blocks of one earlier boot. The others go on where the machine was saved,
    with the cache off, or with the blocks of that boot and of one earlier resume.
    """

    COLD = "cold"
    WARM = "warm"
    INTERNAL = "internal"
    INTERNAL_WARM = "internal+warm"
    FILE = "file"
    FILE_WARM = "file+warm"
    TEMPLATE = "template"
    TEMPLATE_WARM = "template+warm"

    @property
    def method(self) -> Method | None:
        """How the machine was saved; None for a boot."""
        return Method(self.group) if self.saved else None


class DomainWay(AnyWay):
    """A way to start a domain of libvirt; the cold ones have the same engine, the cache off."""

    COLD = "cold"
    WARM = "warm"
    SAVED = "managedsave"
    SAVED_WARM = "managedsave+warm"


W = TypeVar("W", bound=AnyWay)


def named(text: str, known: Sequence[W]) -> tuple[W, ...]:
    """Those of ``known`` that a list with commas names, in their order; "" means all.

    Raises :class:`UsageError`.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in set(known)]
    if unknown:
        raise UsageError(
            f"no such way: {', '.join(unknown)}", hint=f"there are: {', '.join(known)}"
        )
    return tuple(way for way in known if not names or way in names)


def supported(
    ways: Iterable[Way], spec: MachineSpec, *, plain: bool
) -> tuple[tuple[Way, ...], dict[Way, str]]:
    """The ways that a machine can be started, and the others with the reason.

    :param plain: the engine was built without our patches.
    """
    possible: list[Way] = []
    left_out: dict[Way, str] = {}
    for way in ways:
        reason = _problem(way, spec, plain=plain)
        if reason:
            left_out[way] = reason
        else:
            possible.append(way)
    return tuple(possible), left_out


def _problem(way: Way, spec: MachineSpec, *, plain: bool) -> str:
    if way.cached and plain:
        return "this engine was built without the cache"
    if way.method is None:
        return ""
    try:
        choose(str(way.method), spec, plain=plain)
    except SavedStateError as error:
        return error.message
    return ""


def turns(ways: Sequence[W], rounds: int) -> list[tuple[int, W]]:
    """All runs as (round, way).

    Every round has all ways once, so that what changes slowly on the host changes all alike.
    Each round begins with another way and every other one goes backwards, so that none
    always comes after the same one.
    """
    found: list[tuple[int, W]] = []
    for number in range(rounds):
        start = number % len(ways) if ways else 0
        order = [*ways[start:], *ways[:start]]
        if number % 2:
            order[1:] = order[:0:-1]
        found += [(number, way) for way in order]
    return found
