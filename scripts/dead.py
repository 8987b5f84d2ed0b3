# SPDX-License-Identifier: GPL-2.0-or-later
"""Fails on dead code: names that nothing uses, and private constants that their file does not use.

vulture leaves names with an underscore alone.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from vulture import Vulture

ROOMS: Final = ("sysqcache", "bench", "scripts", "tests")

# what others call or read by its name
NAMES: Final = (
    "pytestmark", "pytest_*", "model_config",
    "handle_*", "*Handler", "optionxform", "list_commands", "format_help",  # of base classes
    "seekable", "readinto", "trace", "frame", "formatter", "__cause__",
    "mtime", "uname", "gname", "linkname",  # attributes of tarfile's
    "atexit",  # of weakref.finalize
    "__class__",  # of a module
)  # fmt: skip
DECORATORS: Final = ("@*.command", "@*.callback", "@pytest.fixture", "@model_validator")

# fields that are compared, or written by dataclasses.asdict and its like
FIELDS: Final = (
    "start_s", "ready_hit_rate", "command_s", "probe_s", "fingerprint_text", "mtime_ns", "ingested",
    "cr2", "NEITHER", "FUNC",  # one of a whole: results, and values that are chosen from
)  # fmt: skip


def dead(files: Sequence[str]) -> Iterator[str]:
    """What nothing in these files uses."""
    checker = Vulture(ignore_names=[*NAMES, *FIELDS], ignore_decorators=list(DECORATORS))
    checker.scavenge(list(files))
    for item in checker.get_unused_code(min_confidence=60):
        yield str(item.get_report())


def private(file: str) -> Iterator[str]:
    """Private constants of a file that it does not use itself."""
    tree = ast.parse(Path(file).read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    used = {node.id for node in nodes if isinstance(node, ast.Name) and type(node.ctx) is ast.Load}
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)):
                if name.startswith("_") and not name.startswith("__") and name not in used:
                    yield f"{file}:{statement.lineno}: unused constant '{name}'"


def main() -> int:
    """Print what is dead; the exit status is 1 if anything is."""
    files = sorted(str(path) for room in ROOMS for path in Path(room).rglob("*.py"))
    found = [*dead(files), *(line for file in files for line in private(file))]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
