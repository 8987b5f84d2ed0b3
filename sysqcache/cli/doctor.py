# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache doctor`: is this host ready, and what is the next step."""

from __future__ import annotations

import typer

from sysqcache.cli.options import Json, print_json

app = typer.Typer()


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this host; ends with an error only when something that is needed is missing."""
    from dataclasses import asdict

    from sysqcache.base.errors import SetupError
    from sysqcache.cli import health
    from sysqcache.setup.doctor import run_checks

    checks = [*run_checks(), *health.checks()]
    ready = all(check.state != "missing" for check in checks)
    if as_json:
        print_json({"ready": ready, "checks": [asdict(check) for check in checks]})
    width = max(len(check.name) for check in checks)
    for check in () if as_json else checks:
        typer.echo(f"{check.state:8} {check.name:{width}}  {check.text}")
        if check.next_step:
            typer.echo(f"{'':8} {'':{width}}  -> {check.next_step}")
    if not ready:
        raise typer.Exit(SetupError.exit_code)
