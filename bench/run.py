# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure cold and warm boots, recording, the patches, the store and the command.

    python -m bench.run [SECTION]... [--pairs N] [--config VM.yaml]...

Ratios are taken between runs that alternate in one session. Results go to
bench/results; docs/bench.md tells what each section measures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.figures import Figure, Run, figures
from bench.output import RESULTS, about, stamp
from bench.plan import Kind, Section, Step, plan
from bench.runner import Runner, StepFailed
from bench.session import CONFIGS, DEBIAN, command_line
from bench.table import HEADER, cells, grouped
from sysqcache.base.errors import SysqcacheError, UsageError
from sysqcache.cli.liveline import Phases
from sysqcache.compare import host
from sysqcache.spec import resolve
from sysqcache.spec.engines import Engine, find_engine

if TYPE_CHECKING:
    from rich.console import Console

MACHINES: Final = (DEBIAN, CONFIGS / "debian12-x86_64-nokaslr.yaml")
_INTERRUPTED: Final = 130


@dataclass
class Session:
    """What was asked and what was measured so far."""

    pairs: int
    kaslr: Mapping[str, bool]
    engine: Mapping[str, Any]
    host: dict[str, str | int | float] = field(default_factory=host.facts)
    started: float = field(default_factory=time.time)
    runs: list[Run] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    interrupted: bool = False

    def figures(self) -> list[Figure]:
        """From the runs so far."""
        return figures(self.runs, self.kaslr)

    def to_json(self) -> dict[str, Any]:
        """The results file."""
        return {
            **about(self.started, self.figures(), self.host, self.engine),
            "took_s": round(time.time() - self.started, 1),
            "options": {"pairs": self.pairs, "kaslr": dict(self.kaslr)},
            "interrupted": self.interrupted,
            "failures": self.failures,
            "runs": [asdict(run) for run in self.runs],
        }

    def save(self, directory: Path) -> Path:
        """Write the results file, the same one each time."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{stamp(self.started)}-{short_hash(self.host)}.json"
        path.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")
        return path


def short_hash(host: Mapping[str, str | int | float]) -> str:
    """The same for results that can be compared."""
    text = "\n".join(str(host[name]) for name in ("cpu", "cores", "kernel"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = command_line(__doc__)
    names = [str(section) for section in Section]
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"{', '.join(names)}; default: all"
    )
    parser.add_argument("--pairs", type=int, default=5, help="alternating runs (default 5)")
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        metavar="VM.yaml",
        help="machine to boot, repeatable; all sections use the first, boot uses all "
        "(default: Debian 12 with and without KASLR)",
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIR", help="default bench/results"
    )
    parser.add_argument(
        "--work-dir", type=Path, metavar="DIR", help="for stores while it runs, about 1 GB"
    )
    options = parser.parse_args(arguments)
    unknown = [name for name in options.sections if name not in names]
    if unknown:
        parser.error(f"no such section: {', '.join(unknown)} (there are {', '.join(names)})")
    if options.pairs < 1:
        parser.error("--pairs must be 1 or more")
    return options


def machines(files: Sequence[Path]) -> tuple[dict[str, Path], dict[str, bool], list[str]]:
    """The vm.yaml and whether the kernel moves, by machine name; the guests' architectures.

    Raises SysqcacheError.
    """
    by_name: dict[str, Path] = {}
    kaslr: dict[str, bool] = {}
    arches: list[str] = []
    for file in files:
        spec = resolve.load(file)
        by_name[spec.name] = file.absolute()
        kaslr[spec.name] = "nokaslr" not in spec.cmdline.split()
        arches.append(str(spec.arch))
    return by_name, kaslr, arches


def one_engine(arches: Sequence[str], *, plain: bool = False) -> Engine:
    """The engine that all guests run on. Raises SysqcacheError, UsageError for several."""
    engines = {engine.dir: engine for engine in (find_engine(arch, plain=plain) for arch in arches)}
    if len(engines) > 1:
        raise UsageError(
            f"these machines have engines of their own: {', '.join(map(str, engines))}",
            hint="measure them one after another, or sysqcache engine build",
        )
    return next(iter(engines.values()))


@dataclass(frozen=True)
class Prepared:
    """Steps and the files and engines that they need; ``plain`` only if a step does."""

    steps: Sequence[Step]
    session: Session
    files: Mapping[str, Path]
    engine: Engine
    plain: Engine | None


def outcome(run: Run) -> str:
    """A finished run in a few words."""
    values = run.values
    if run.kind == Kind.HELP:
        return f"{values['wall_s']:.3f} s"
    if run.kind == Kind.OPEN:
        return f"{values['open_ms']:.2f} ms"
    text = f"ready {values['ready_s']:.2f} s, CPU {values['host_cpu_s']:.2f} s"
    if values["requested"]:
        text += f", hits {100 * values['hit_rate']:.1f} %"
        text += f", share {100 * values['translate_share']:.1f} %"
    if run.noise.get("others_cpu_s", 0.0) > 0.1 * run.noise.get("took_s", 0.0):
        text += f"  (others used {run.noise['others_cpu_s']:.1f} s CPU)"
    return text


def execute(steps: Sequence[Step], session: Session, runner: Runner, console: Console) -> None:
    """Run all steps; a failed one is noted, and the rest of its section goes on."""
    begin = time.monotonic()
    for number, step in enumerate(steps, 1):
        text = f"{number}/{len(steps)} {step.title}"
        try:
            with Phases(text, after=0.0):
                run = runner.run(step)
        except StepFailed as error:
            session.failures.append(f"{step.title}: {error}")
            result = f"failed: {error}"
        else:
            session.runs.append(run)
            result = outcome(run)
        elapsed = time.monotonic() - begin
        line = f"{elapsed:7.1f} s  {text}: {result}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def show(session: Session, console: Console) -> None:
    """The figures as tables, a table for each machine."""
    from rich.table import Table

    for config, group in grouped(session.figures()).items():
        table = Table(*HEADER, title=config or None, title_justify="left")
        for figure in group:
            *texts, verdict = cells(figure)
            colour = {"yes": "green", "no": "red"}.get(verdict, "")
            mark = f"[{colour}]{verdict}[/]" if colour else ""
            table.add_row(*texts, mark)
        console.print(table)


def prepare(options: argparse.Namespace) -> Prepared:
    """What to run, on what. Raises SysqcacheError."""
    files, kaslr, arches = machines(options.config or MACHINES)
    sections = [Section(name) for name in options.sections] or list(Section)
    steps = plan(sections, list(files), options.pairs, single=list(files)[:1])
    engine = one_engine(arches)
    needs_plain = any(step.kind is Kind.PLAIN for step in steps)
    plain = one_engine(arches[:1], plain=True) if needs_plain else None
    about = {"key": engine.key, "build_id": engine.build_id, "current": engine.current}
    return Prepared(steps, Session(options.pairs, kaslr, about), files, engine, plain)


def measure(options: argparse.Namespace, console: Console) -> int:
    """Run everything and report; gives the exit code. Raises SysqcacheError."""
    what = prepare(options)
    session = what.session
    load = float(session.host["load"])
    if load > host.BUSY_LOAD:
        console.print(f"warning: the load is {load:.2f}; others disturb what is measured")
    with tempfile.TemporaryDirectory(prefix="sysqcache-bench-", dir=options.work_dir) as root:
        plain = what.plain.dir if what.plain is not None else None
        runner = Runner(Path(root), what.files, what.engine.dir, plain)
        try:
            execute(what.steps, session, runner, console)
        except KeyboardInterrupt:
            session.interrupted = True
    path = session.save(options.results)
    show(session, console)
    console.print(
        f"{time.time() - session.started:7.1f} s in all; {path}", highlight=False, soft_wrap=True
    )
    print(path)
    if session.interrupted:
        return _INTERRUPTED
    return 1 if session.failures else 0


def main() -> int:
    """Measure as the command line asks."""
    from rich.console import Console

    options = parse()
    try:
        return measure(options, Console(stderr=True, width=None if sys.stderr.isatty() else 110))
    except SysqcacheError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        print(f"error: {error.message}{hint}\n{error.detail}".rstrip(), file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
