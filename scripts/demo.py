# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot a Debian guest cold, then warm, from a store of its own, and compare."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
MACHINE: Final = ROOT / "configs" / "debian12-x86_64.yaml"
TASK: Final = "/usr/local/bin/work"
RUNS: Final = ("cold", "warm")


def boot(store: str) -> dict[str, Any]:
    """One boot to ready and one task; gives the report of `sysqcache boot --json`.

    The progress goes to stderr; a failure ends the demo with the command's exit code.
    """
    program = Path(sys.executable).with_name("sysqcache")
    command: list[str | Path] = [
        program,
        "boot",
        MACHINE,
        "--until",
        "ready",
        "--task",
        TASK,
        "--json",
    ]
    environment = {**os.environ, "SYSQCACHE_STORE": store}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


ROWS: Final[tuple[tuple[str, str, Callable[[dict[str, Any]], float]], ...]] = (
    ("time to ready", "s", lambda r: r["times"]["ready_s"]),
    (f"{TASK}", "s", lambda r: r["times"]["tasks"][0]["wall_s"]),
    ("host CPU", "s", lambda r: r["times"]["host_cpu_s"]),
    ("blocks asked for", "", lambda r: r["blocks"]["requested"]),
    ("blocks adopted", "", lambda r: r["blocks"]["adopted"]),
    ("blocks translated", "", lambda r: r["blocks"]["translated"]),
    ("hit rate", "%", lambda r: 100 * r["blocks"]["hit_rate"]),
    ("cycles a translation", "", lambda r: r["blocks"]["translate_cycles"]),
    ("cycles an adoption", "", lambda r: r["blocks"]["adopt_cycles"]),
    ("share of translation", "%", lambda r: 100 * r["blocks"]["translate_share"]),
)


def table(reports: list[dict[str, Any]]) -> str:
    """The comparison as text: a line for each of ROWS, a column for each run."""
    lines = [f"{'':24}" + "".join(f"{name:>14}" for name in RUNS) + f"{'warm/cold':>14}"]
    for title, unit, value in ROWS:
        values = [float(value(report)) for report in reports]
        cells = "".join(f"{_number(v, unit):>14}" for v in values)
        ratio = f"{values[1] / values[0]:14.2f}" if values[0] else f"{'':14}"
        lines.append(f"{title:24}{cells}{ratio}")
    return "\n".join(lines)


def _number(value: float, unit: str) -> str:
    return f"{value:,.0f}" if not unit else f"{value:.2f} {unit}"


def main() -> None:
    """Boot cold, boot warm, print the table."""
    reports = []
    with tempfile.TemporaryDirectory(prefix="sysqcache-demo-") as store:
        for name in RUNS:
            started = time.monotonic()
            reports.append(boot(store))
            print(f"{time.monotonic() - started:7.1f} s  {name} boot", file=sys.stderr)
    print(table(reports))


if __name__ == "__main__":
    main()
