# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot machines with four vCPUs on one processor again and again, until one ends by itself.

    python -m bench.endings [--boots N] [--config VM.yaml] [--keep DIR] [KIND...]

KIND: on (cache on, warm after the first boot), off, plain (QEMU of the same source without our
patches; `make plain-engine`); all unless some are given, in turns. Vcpus that are taken off the
processor in the middle of something are what makes rare interleavings. Of a boot that does not
become ready the folder of the machine stays: what QEMU said, the serial log, the core.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.figures import Figure, Limit
from bench.output import finish
from bench.session import NAME, TINY, Session, command_line, parse_parts
from sysqcache.base import paths
from sysqcache.spec import engines as info

KINDS: Final = ("on", "off", "plain")
VCPUS: Final = 4
PATIENT: Final = ("--set", "ready.timeout=600s")
"""A busy host is no hang."""


class Kind:
    """One way to boot, with a store and a state directory of its own."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        root.mkdir()
        self._session = Session(root)
        self._store = root / "store"
        self.ended = 0
        if name == "plain":
            engine = info.find_engine("x86_64", plain=True)
            self._session.environment[info.ENV_ENGINE] = str(engine.dir)

    def boot(self, config: Path, keep: Path) -> bool:
        """Whether the machine became ready and was stopped by us."""
        mode = "on" if self.name == "on" else "off"
        try:
            self._session.boot(
                self._store, config, "--set", f"vcpus={VCPUS}", *PATIENT, "--cache", mode
            )
        except subprocess.CalledProcessError as error:
            self.ended += 1
            self._keep(keep / f"{self.name}-{self.ended}", error)
            return False
        return True

    def _keep(self, target: Path, error: subprocess.CalledProcessError) -> None:
        home = Path(self._session.environment[paths.ENV_HOME])
        shutil.copytree(home / "state", target, dirs_exist_ok=True, ignore=_sockets)
        (target / "said").write_text(f"exit code {error.returncode}\n{error.stderr}")
        sys.stderr.write(f"{self.name}: exit code {error.returncode}, kept in {target}\n")


def _sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if Path(folder, name).is_socket()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Boot, print a table of how many ended early."""
    parser = command_line(__doc__)
    parser.add_argument("--boots", type=int, default=300, help="of each kind")
    parser.add_argument("--config", type=Path, default=TINY, metavar="VM.yaml")
    parser.add_argument("--keep", type=Path, default=Path("build/endings"), metavar="DIR")
    options = parse_parts(parser, KINDS, arguments)
    # the last one: the first takes the host's interrupts
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    started, done = time.time(), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="sysqcache-bench-") as directory:
        kinds = [Kind(name, Path(directory) / name) for name in options.parts]
        for number in range(options.boots):
            for kind in kinds:
                kind.boot(options.config.absolute(), options.keep)
                done[kind.name] += 1
            if number % 10 == 9:
                ended = ", ".join(f"{kind.name} {kind.ended}" for kind in kinds)
                sys.stderr.write(f"{number + 1} boots, {time.time() - started:.0f} s: {ended}\n")
    figures = [
        Figure("", f"ended early of {done[kind.name]}, {kind.name}", "", (kind.ended,), Limit(0.0))
        for kind in kinds
    ]
    early = {kind.name: kind.ended for kind in kinds}
    finish("endings", started, {"name": NAME, "boots": dict(done), "ended": early}, figures)
    return 1 if any(early.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
