# SPDX-License-Identifier: GPL-2.0-or-later
"""Text of guests, files and other programs as it may be shown on a terminal."""

from __future__ import annotations

import re
from typing import Final

# ECMA-48: CSI ... final; OSC, DCS, SOS, PM and APC up to their end; ESC with one more
_SEQUENCES: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c|(?=\n)|\Z)"
    r"|\x1b[ -/]*[0-~]"
)


def printable(text: str) -> str:
    """``text`` without anything that a terminal would obey, line by line.

    Whole escape sequences go, as colours do not matter; what is left of control characters,
    of marks that turn the writing round and of bytes that are no text is shown as ``\\x1b``.
    """
    return "".join(
        c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii")
        for c in _SEQUENCES.sub("", text)
    )
