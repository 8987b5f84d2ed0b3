# SPDX-License-Identifier: GPL-2.0-or-later
"""State files: a JSON object with the fields of a dataclass, and the number of the format."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Final

_FORMAT: Final = 1
DAMAGED_JSON: Final = (
    ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip
"""What may be raised where values are made of the JSON of a damaged file."""


def to_json(state: Any) -> dict[str, Any]:
    """The contents of the file of a dataclass."""
    return {"format": _FORMAT, **dataclasses.asdict(state)}


def read_fields(text: str | bytes, kind: type) -> dict[str, Any]:
    """What the file of the dataclass ``kind`` holds; fields that it does not know are left out.

    Raises ``ValueError`` for what is no such file.
    """
    value = json.loads(text)
    if not isinstance(value, dict) or value.get("format") != _FORMAT:
        raise ValueError("made by another version of sysqcache")
    names = {field.name for field in dataclasses.fields(kind)}
    return {key: item for key, item in value.items() if key in names}
