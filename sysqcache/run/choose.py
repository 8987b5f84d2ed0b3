# SPDX-License-Identifier: GPL-2.0-or-later
"""Which template a run goes on from: the one that is there, or a new one.

Whoever makes a template holds the lock of its plan; others wait for it, or go on from the one
before where that may serve.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sysqcache.base.errors import SavedStateError
from sysqcache.base.files import is_locked, locked
from sysqcache.run import behind, plan
from sysqcache.run.plan import Plan
from sysqcache.run.words import Asked

if TYPE_CHECKING:
    from sysqcache.machine.progress import Listener
    from sysqcache.spec.spec import MachineSpec

ViewOf = Callable[[], contextlib.AbstractContextManager["Listener"]]
"""Who shows what is done, when something that takes long is."""

NEVER: Final = "never"
ALWAYS: Final = "always"


def ready_plan(asked: Asked) -> Plan | None:
    """The plan of a template that can be used as it is; None when more has to be looked at."""
    found = plan.read(asked)
    if asked.template == ALWAYS or found is None:
        return None
    return None if found.packs_changed() or found.changed() else found


def find(asked: Asked, view: ViewOf, say: Callable[[str], None]) -> Plan:
    """The plan to go on from; a template is made if there is none that serves.

    :param say: for lines about what happens.
    Raises all that a start raises, :class:`SavedStateError` when none serves and none may be
    made.
    """
    if (ready := ready_plan(asked)) is not None:
        return ready
    from sysqcache.run import template

    spec = template.fitting(_load(asked))
    engine = template.current_engine(spec)
    key = template.key_of(spec, engine)
    before = plan.read(asked)
    if asked.template != ALWAYS and (known := _known(asked, spec, key, say)) is not None:
        return known
    if asked.template == NEVER:
        raise SavedStateError(
            f"there is no template for {spec.name} as it is now, and none may be made",
            hint="--template auto makes one",
        )
    if asked.template != ALWAYS and before is not None and _serves(spec, before):
        if not is_locked(plan.lock_of(template.template_name(spec, key))):
            _make_in_background(asked)
        say("the engine is another one: a new template is being made, this run has the one before")
        return before
    return _made(asked, spec, key, view, say)


def _load(asked: Asked) -> MachineSpec:
    from sysqcache.run.imagevm import vm_yaml
    from sysqcache.spec import resolve

    file = Path(asked.source) if plan.is_file(asked.source) else vm_yaml(asked.source)
    return resolve.load(file, asked.overrides)


def _known(asked: Asked, spec: MachineSpec, key: str, say: Callable[[str], None]) -> Plan | None:
    """A plan for the template of this very machine, if that is there."""
    from sysqcache.run import template

    name = template.template_name(spec, key)
    if not template.is_usable(name):
        return None
    found = template.planned(spec, key, say)
    plan.write(asked, found)
    return found


def _serves(spec: MachineSpec, before: Plan) -> bool:
    """Whether the template before differs in its engine alone, and that is still there."""
    from sysqcache.run import template
    from sysqcache.saved import resume

    with contextlib.suppress(SavedStateError):
        found = resume.check(before.template)
        return template.key_of(spec, found.engine) == before.key
    return False


def _made(
    asked: Asked, spec: MachineSpec, key: str, view: ViewOf, say: Callable[[str], None]
) -> Plan:
    """Make the template, or wait for whoever makes it."""
    from sysqcache.run import template

    lock = plan.lock_of(template.template_name(spec, key))
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(locked(lock))
        waited = held is None
        if waited:
            say("another run makes the template; waiting for it")
            stack.enter_context(locked(lock, None))
        if waited and (known := _known(asked, spec, key, say)) is not None:
            return known
        with view() as listener:
            template.make(spec, key, say, listener)
        found = template.planned(spec, key, say)
        found = _tried(found, spec, key, say)
        plan.write(asked, found)
        template.sweep()
    return found


def _tried(found: Plan, spec: MachineSpec, key: str, say: Callable[[str], None]) -> Plan:
    """The plan after one resume, which tells what memory the next ones will touch first."""
    from sysqcache.run import template, trial

    return template.planned(spec, key, say) if trial.note_touched(found) else found


def _make_in_background(asked: Asked) -> None:
    """Let another process make the template."""
    words = ["-m", "sysqcache", "run", "--template", ALWAYS, asked.source]
    words += [part for one in asked.overrides for part in ("--set", one)]
    behind.begin([*words, "--", "true"])
