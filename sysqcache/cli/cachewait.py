# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache cache wait`: until the blocks of all ended runs are kept."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from sysqcache.cli.loglines import note
from sysqcache.cli.options import Json, print_json, say


def wait(
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", help="Give up after this; exit code 22."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Wait until the blocks of all runs that have ended are kept.

    A boot, a resume and a stop leave that to a keeper, a process of low priority, unless
    --wait or --json is given. What a keeper that was killed has left is kept now.
    """
    from sysqcache.base.errors import StoreError
    from sysqcache.machine import keeping

    began = time.monotonic(), time.time()
    left = keeping.wait(timeout=timeout)
    runs = keeping.kept()
    if as_json:
        print_json(
            {"waited_s": round(time.monotonic() - began[0], 3), "waiting": left, "runs": runs}
        )
    else:
        for run in runs:
            if run.get("ended", 0) >= began[1]:
                _show(run)
    if left:
        problems = runs[-1].get("warnings", []) if runs else []
        raise StoreError(
            f"the blocks of {len(left)} runs are not kept: {', '.join(left)}",
            hint="the next keeper tries again",
            detail="\n".join(map(str, problems)),
        )


def _show(run: dict[str, Any]) -> None:
    for warning in run.get("warnings", []):
        note(f"warning: {warning}")
    if "run" in run:
        say(
            f"{run['machine']}: kept {run['blocks_new']:,} new blocks, "
            f"{run['blocks_known']:,} were known, in {run['wall_s']:.2f} s"
        )
