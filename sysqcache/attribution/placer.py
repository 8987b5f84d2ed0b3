# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds out, at a machine's checkpoints, to which modules its recorded blocks belong.

Looking needs the living guest and is quick; placing can wait until QEMU has ended. The
answer is written beside the journal, so that whoever keeps the journal has it. A fault in
here costs the blocks their modules, and nothing else.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from sysqcache.base.errors import MachineError
from sysqcache.formats.modules import ModuleKind
from sysqcache.formats.places import Places
from sysqcache.formats.runfiles import RunFiles
from sysqcache.qmp import commands

if TYPE_CHECKING:
    from sysqcache.attribution.checkpoint import Files
    from sysqcache.attribution.imagescan.reader import ImageContents
    from sysqcache.attribution.observation import Observation
    from sysqcache.qmp.client import QmpClient, Watched
    from sysqcache.spec.spec import MachineSpec

LOOKING: Final = "looking into the guest"
"""What the phase is called in which a machine's code is put down to modules."""

Warn = Callable[[str], None]


class Visible(Protocol):
    """A running machine that can be looked into, whoever started it."""

    @property
    def instance(self) -> Files:
        """Where its spare QMP socket is."""

    @property
    def process(self) -> Watched:
        """Its QEMU."""

    @property
    def qmp(self) -> QmpClient:
        """A connection to it."""


@dataclasses.dataclass(slots=True)
class AttributionSummary:
    """Whose the recorded blocks are.

    :param blocks: recorded; ``attributed`` of them to a module and offset, confirmed.
    :param kinds: blocks by kind of module.
    :param look_s: seconds of looking into the living guest, ``place_s`` of the rest.
    :param note: what could not be found out, "" when nothing lacks.
    :param unseen: why nobody looked inside, "" when a kernel was found there.
    :param kept_under: what the machine was started from, under which its code is kept then.
    """

    blocks: int = 0
    attributed: int = 0
    kinds: dict[ModuleKind, int] = dataclasses.field(default_factory=dict)
    look_s: float = 0.0
    place_s: float = 0.0
    note: str = ""
    unseen: str = ""
    kept_under: str = ""

    def to_json(self) -> dict[str, Any]:
        """The ``attribution`` object."""
        return {
            "blocks": self.blocks,
            "attributed": self.attributed,
            "kinds": {str(kind): self.kinds.get(kind, 0) for kind in ModuleKind},
            "look_s": round(self.look_s, 4),
            "place_s": round(self.place_s, 4),
            "note": self.note,
            "unseen": self.unseen,
            "kept_under": self.kept_under,
        }


class Placer:
    """Looks into one machine, any number of times, then places its blocks once.

    :param scan: tells what the image of a machine holds.
    :param quiet: look without a command that other clients of QEMU hear about.
    :param patience: seconds that places are searched for at most; None for the usual.
    """

    def __init__(
        self,
        files: RunFiles,
        summary: AttributionSummary,
        warn: Warn,
        *,
        scan: Callable[[MachineSpec], ImageContents],
        quiet: bool = False,
        patience: float | None = None,
    ) -> None:
        self.files, self.summary = files, summary
        self._warn = warn
        self._scan = scan
        self._quiet = quiet
        self._patience = patience
        self._looks: list[Observation] = []

    def look(self, machine: Visible) -> None:
        """Take in what the guest holds now; a machine that has ended is left alone."""
        from sysqcache.attribution.checkpoint import checkpoint
        from sysqcache.guestmap.quiet import QuietSession
        from sysqcache.guestmap.session import GuestSession

        try:
            commands.tb_cache_checkpoint(machine.qmp)
        except MachineError:
            return
        try:
            attach = QuietSession.open if self._quiet else GuestSession.open
            found = checkpoint(machine.instance, machine.process, self.files, attach=attach)
        except Exception as error:
            self._warn(f"the guest was not looked into: {error!r}")
            return
        self.summary.look_s += found.took_s
        self.summary.note = found.note
        if found.seen is not None:
            if found.seen.unknown and not any(one.unknown for one in self._looks):
                self._warn(f"{found.seen.unknown}. Code is kept, but may not be found by others")
            self._looks.append(found.seen)

    def place(self, spec: MachineSpec | None, firmware: Path | None) -> None:
        """Write down whose the blocks are, as far as the looks and the image's files tell.

        :param spec: whose image may be read for code that has left memory.
        :param firmware: the engine's directory of firmware files.
        """
        if not self._looks:
            return
        started = time.monotonic()
        try:
            found = self._places(spec, firmware)
            self.files.write_places(found)
        except Exception as error:
            self._warn(f"blocks are kept without their modules: {error!r}")
            return
        self.summary.place_s = time.monotonic() - started
        self.summary.blocks = len(found.record)
        self.summary.attributed = found.attributed
        self.summary.kinds = dict(found.counts())
        if not any(seen.kernel.end for seen in self._looks):
            self.summary.unseen = self._looks[-1].note
            self.summary.kept_under = found.kernel.name if found.kernel else ""

    def _places(self, spec: MachineSpec | None, firmware: Path | None) -> Places:
        from sysqcache.attribution.attribute import SECONDS, attribute
        from sysqcache.attribution.images import truths_of

        journal = self.files.read_journal()
        truths = system = None
        if spec is not None:
            with self._scan(spec) as contents:
                truths = truths_of(contents, self._looks, firmware, spec.firmware)
                system = contents.found.system
        found = attribute(journal, self._looks, truths, seconds=self._patience or SECONDS)
        places = self.files.read_places().merged(found)
        return dataclasses.replace(places, kernel=places.kernel or system)
