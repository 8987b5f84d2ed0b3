# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands with state and stores of their own; what the parts of bench begin with."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sysqcache.base import paths

ROOT: Final = Path(__file__).resolve().parents[1]
CONFIGS: Final = ROOT / "configs"
DEBIAN: Final = CONFIGS / "debian12-x86_64.yaml"
TINY: Final = CONFIGS / "tiny-x86_64.yaml"
PROGRAM: Final = Path(sys.executable).with_name("sysqcache")
NAME: Final = "bench-modules"
"""Of the machines that are booted."""

WORK: Final = "/usr/local/bin/work"
_TIMEOUT: Final = 900.0

Values = dict[str, list[float]]
"""Figure name to what was measured, a value a round."""


class Session:
    """Commands with state in the directory ``root``, which is empty; the user's engines."""

    def __init__(self, root: Path) -> None:
        self.root = root
        home = root / "home"
        home.mkdir()
        (home / "cache").symlink_to(paths.cache_dir(), target_is_directory=True)
        self.environment = {**os.environ, paths.ENV_HOME: str(home)}

    def output(self, store: Path, *arguments: object, timeout: float | None = _TIMEOUT) -> str:
        """What a command prints. Raises CalledProcessError, with what it said beside it.

        Raises TimeoutExpired; a command that is interrupted has ended then, and its machine too.
        """
        try:
            done = subprocess.run(
                [PROGRAM, *map(str, arguments)],
                env={**self.environment, paths.ENV_STORE: str(store)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=True,
                timeout=timeout,
                start_new_session=True,  # Ctrl-C is for us
            )
        except subprocess.CalledProcessError as error:
            error.add_note(error.stderr)
            raise
        return done.stdout

    def run(self, store: Path, *arguments: object, timeout: float | None = _TIMEOUT) -> Any:
        """The JSON of a command. Raises as :meth:`output`."""
        return json.loads(self.output(store, *arguments, "--json", timeout=timeout))

    def boot(self, store: Path, config: Path, *arguments: object) -> dict[str, Any]:
        """The report of one boot to ready."""
        os.sync()
        found: dict[str, Any] = self.run(
            store, "boot", config, "--set", f"name={NAME}", "--until", "ready", *arguments
        )
        return found

    def forget_kernels(self) -> None:
        """Make the next map of each kernel a first one."""
        shutil.rmtree(self.root / "home" / "state" / paths.KERNELS, ignore_errors=True)


@contextmanager
def fresh_session(directory: Path | None = None) -> Iterator[Session]:
    """A session whose files go afterwards; below ``directory``, or where temporary files are."""
    with tempfile.TemporaryDirectory(prefix="sysqcache-bench-", dir=directory) as root:
        yield Session(Path(root))


def command_line(about: str | None) -> argparse.ArgumentParser:
    """A command line with the lines of a module's docstring as they are."""
    return argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def parse_parts(
    to: argparse.ArgumentParser,
    known: Sequence[str],
    given: Sequence[str] | None,
    default: Sequence[str] = (),
) -> argparse.Namespace:
    """The command line, with ``parts`` that may be named, else ``default`` or all.

    Ends the program for an unknown one.
    """
    names = ", ".join(known)
    usual = f"{names}; default: {', '.join(default) or 'all'}"
    to.add_argument("parts", nargs="*", metavar="PART", help=usual)
    options = to.parse_args(given)
    if unknown := set(options.parts) - set(known):
        to.error(f"no such part: {', '.join(sorted(unknown))} (there are {names})")
    options.parts = options.parts or list(default or known)
    return options
