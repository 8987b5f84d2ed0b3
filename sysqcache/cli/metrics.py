# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache metrics`: counters of machines, domains and the store for Prometheus."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

from sysqcache.cli.options import Json, print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

app = typer.Typer()


class _All:
    """Every family, collected when it is asked for."""

    def collect(self) -> Iterator[Metric]:
        """All families."""
        from sysqcache.cli import metricfamilies as families

        yield families.about()
        yield from families.store()
        yield from families.machines()


@app.command()
def metrics(as_json: Json = False) -> None:
    """Print counters in Prometheus' text format, for a textfile collector or a scrape.

    Nothing is waited for: a machine that does not answer has its state alone.
    """
    from prometheus_client import CollectorRegistry, generate_latest

    if as_json:
        print_json({"metrics": [_values(family) for family in _All().collect()]})
        return
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_All())
    sys.stdout.write(generate_latest(registry).decode())


def _values(family: Metric) -> dict[str, Any]:
    samples = [{"name": s.name, "labels": s.labels, "value": s.value} for s in family.samples]
    about = {"name": family.name, "type": family.type, "help": family.documentation}
    return {**about, "samples": samples}
