# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache cache why`: why a run's blocks were translated instead of adopted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sysqcache.cli import cacheview as view
from sysqcache.cli.options import Json, print_json

if TYPE_CHECKING:
    from sysqcache.machine.instances import InstanceState
    from sysqcache.store.facade import Store
    from sysqcache.store.misses import ModuleMisses, RunMisses

_MODULES: Final = 20
_REASONS: Final = 3

REASONS: Final[dict[str, tuple[str, str]]] = {
    "dead": (
        "the code there rewrites itself, so nothing of it is kept",
        "`cache show MODULE` lists the places; after 3 runs that leave one alone it counts again",
    ),
    "unmapped": (
        "kept, in a pack that this run did not map",
        "nothing to do: the next start of this image maps the packs of these modules",
    ),
    "refused": (
        "kept in a pack that was mapped: too late for this run, or refused by a check",
        "`sysqcache cache verify`, if it goes on: a damaged block is refused at each start",
    ),
    "fingerprint": (
        "kept for another engine, CPU model or set of options alone",
        "nothing to do, if the change was meant; `sysqcache engine info` shows this host's engine",
    ),
    "bytes": ("the module has other code at this place: patched while it ran, or changed", ""),
    "flags": ("the place is kept for another state of the CPU, such as another mode", ""),
    "absent": ("nothing was kept of this place: it ran for the first time", ""),
}
"""What each reason of the store means, and the next step, "" when there is none."""

COUNTERS: Final[dict[str, str]] = {
    "absent": "no mapped pack has a block for this place",
    "bytes": "a mapped block has the same key, but other guest bytes",
    "no-pack": "no pack was mapped",
    "rejected": "a block fitted, but failed a check",
    "io": "code outside of RAM",
    "count": "blocks of limited length, which are not kept",
    "single-step": "a debugger stepped",
    "breakpoint": "a debugger had a breakpoint there",
    "icount": "instructions were counted",
    "plugin": "a TCG plugin was loaded",
    "logging": "QEMU logged what it translated",
    "not-pcrel": "code for one virtual address alone",
    "page2": "the second page was not RAM, or moved",
    "buffer-full": "the code buffer was full",
    "disabled": "the engine can't keep blocks of this machine",
    "dead": "the code in this place kept rewriting itself",
    "parallel": "kept, but depends on whether there are several vCPUs, and is for the other case",
    "crowded": "more blocks than are looked at have the same key",
}
"""What the engine's counters of misses mean."""


def why(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A machine, of which the last kept run is meant, or the id of a run.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Show why a run's blocks were translated and not adopted.

    First what the engine counted while the machine ran, then what the store found out
    about the recorded blocks when it took them in, by reason and by module.
    """
    store = view.open_store()
    found = store.misses(name)
    view.warn(store)
    if found is None:
        note = _never_kept(name)
        if as_json:
            print_json({"machine": name, "run": None, "note": note})
        else:
            typer.echo(note)
        return
    later = _later(store, found) if name == found.run.machine else ""
    note = "\n".join(filter(None, [_note(found), later]))
    if as_json:
        print_json(_values(found, note))
        return
    _print(found, note)


def _never_kept(name: str) -> str:
    """What to say of a machine without a kept run. Raises NoSuchMachine for an unknown one."""
    from sysqcache.machine.instances import Instance

    state = Instance(name).current()
    return _unkept(state) or f"No run of {name} has been kept in this store."


def _later(store: Store, found: RunMisses) -> str:
    """A sentence about the machine's last run, if that is not in the store.

    Clocks may be set back, so they do not tell which of two runs is the later one: the state
    file is the last one's.
    """
    from sysqcache.base.errors import MachineError
    from sysqcache.machine.instances import Instance

    try:
        state = Instance(found.run.machine).current()
    except (MachineError, ValueError):
        return ""
    if state.run_id and store.misses(state.run_id) is not None:
        return ""
    return _unkept(state)


def _unkept(state: InstanceState) -> str:
    """Why the last run of a machine is in no store, "" for one that never ran."""
    last = f"The last run of {state.name}"
    if not state.pid:
        return ""
    if state.cache_reason:
        return f"{last} keeps no blocks: {state.cache_reason}."
    if state.cache_mode in ("off", "read-only"):
        return f"{last} keeps no blocks: its cache mode is {state.cache_mode}."
    if state.live:
        return f"{last} goes on: its blocks are kept when it ends."
    if state.journal and Path(state.journal).exists():
        return f"{last} is not kept yet: the next boot, list or stop takes {state.journal} in."
    return f"{last}, {state.run_id}, is not kept in this store."


def _note(found: RunMisses) -> str:
    if found.modules:
        return ""
    if not found.recorded:
        return "The run recorded nothing: all that it could keep was kept before."
    if found.first:
        return (
            "Nothing was kept for this engine and CPU before this run: it filled the store, "
            "and the next start adopts its blocks."
        )
    return "It was not written down why blocks of this run missed."


def _values(found: RunMisses, note: str) -> dict[str, Any]:
    from sysqcache.store.summary import iso_time

    run = found.run
    return {
        "machine": run.machine,
        "run": run.run_id,
        "image": run.image_id,
        "arch": run.arch,
        "mode": run.mode,
        "start": run.start,
        "started": iso_time(run.started),
        "fingerprint": run.fingerprint,
        "first": found.first,
        "counters": dict(run.counters),
        "blocks": {
            "recorded": found.recorded,
            "new": run.blocks_new,
            "known": run.blocks_known,
            "dead": run.blocks_dead,
            "crowded": run.crowded,
            "adopted": run.adopted,
        },
        "reasons": found.reasons,
        "modules": [_module(one) for one in found.modules],
        "meanings": {reason: REASONS[reason][0] for reason in found.reasons if reason in REASONS},
        "next": {r: REASONS[r][1] for r in found.reasons if r in REASONS and REASONS[r][1]},
        "note": note,
    }


def _module(one: ModuleMisses) -> dict[str, Any]:
    row = one.row
    about = {"id": row.id, "kind": row.kind, "name": row.name}
    return {**about, "blocks": one.blocks, "reasons": dict(one.reasons)}


def _print(found: RunMisses, note: str) -> None:
    from sysqcache.store.summary import iso_time

    run = found.run
    typer.echo(
        view.plain(
            f"Run {run.run_id} of {run.machine or 'no machine'}, "
            f"{view.moment(iso_time(run.started))} UTC"
        )
    )
    if run.image_id:
        typer.echo(view.plain(f"image {run.image_id}, engine {run.fingerprint[:8]}"))
    _print_counters(run.counters)
    if found.recorded:
        _print_reasons(found)
    if found.modules:
        _print_modules(found)
    if note:
        typer.echo(f"\n{note}")


def _print_counters(counters: dict[str, int]) -> None:
    requested, adopted = counters.get("requested", 0), counters.get("adopted", 0)
    if not requested:
        typer.echo("The engine's counters are not known: the run ended before it could be asked.")
        return
    typer.echo(
        f"\nThe engine was asked for {requested:,} blocks and adopted {adopted:,} "
        f"({adopted / requested:.1%}); it translated the others because"
    )
    table = view.grid(1, 1)
    table.add_column()
    for name, count in sorted(counters.items(), key=lambda c: -c[1]):
        reason = name.removeprefix("missed: ")
        if reason != name:
            view.add(table, f"  {reason}", f"{count:,}", COUNTERS.get(reason, ""))
    view.console().print(table)


def _print_reasons(found: RunMisses) -> None:
    run = found.run
    crowded = f", {run.crowded_new:,} have too many others with their key"
    typer.echo(
        f"\n{view.many(found.recorded, 'translated block')} could be kept: "
        f"{run.blocks_new:,} are new, {run.blocks_known:,} were kept or recorded already, "
        f"{run.blocks_dead:,} rewrite themselves{crowded if run.crowded_new else ''}."
    )
    reasons = found.reasons
    if not reasons:
        return
    typer.echo("They had not been adopted because")
    table = view.grid(1, 2)
    table.add_column()
    for reason, count in reasons.items():
        share = f"{count / sum(reasons.values()):.0%}"
        view.add(table, f"  {reason}", f"{count:,}", share, REASONS.get(reason, ("",))[0])
    view.console().print(table)
    steps = [(reason, REASONS[reason][1]) for reason in reasons if reason in REASONS]
    for reason, step in steps:
        if step:
            typer.echo(f"  {reason}: {step}")


def _print_modules(found: RunMisses) -> None:
    typer.echo()
    table = view.grid(2, 1, "module", "id", "blocks")
    table.add_column("because", no_wrap=True)
    for one in found.modules[:_MODULES]:
        row, reasons = one.row, sorted(one.reasons.items(), key=lambda r: -r[1])
        name = view.label(row.name, row.id, 32)
        because = ", ".join(f"{reason} {count:,}" for reason, count in reasons[:_REASONS])
        because += ", …" if len(reasons) > _REASONS else ""
        view.add(table, name, view.short_id(row.id), f"{one.blocks:,}", because)
    view.console().print(table)
    rest = found.modules[_MODULES:]
    if rest:
        typer.echo(
            f"and {view.many(sum(m.blocks for m in rest), 'block')} of "
            f"{view.many(len(rest), 'other module')}; --json has them all"
        )
