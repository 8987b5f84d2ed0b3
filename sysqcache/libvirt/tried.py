# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks: what an engine tells of in no list, and refuses when it opens one.

QMP's description has every driver and every way of input and output that the source knows,
whether they were built or not.
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sysqcache.libvirt import probe

_NOT_BUILT: Final = "in this build"
"""What QEMU's messages end with that speak of something which was left out."""
_LUKS: Final = struct.Struct(">6sH32s32s32sII20s32sI40s")
_SLOT: Final = struct.Struct(">II32sII")
_ACTIVE, _INACTIVE, _STRIPES, _SLOTS = 0x00AC71F3, 0x0000DEAD, 4000, 8
_FIRST, _STEP, _PAYLOAD = 8, 128, 2048
"""Sectors: of the first key, from one key to the next, of the data."""


def block_drivers(emulator: Path) -> set[str]:
    """The drivers of disks that were built."""
    first = probe.help_text(emulator, "-drive", "format=help").partition("\n")[0]
    return set(first.partition(":")[2].split())


def lacking(emulator: Path, disks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What disks ask for that an engine was built without.

    :param disks: what ``-blockdev`` has as JSON.
    """
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "disk"
        file.write_bytes(luks_header())
        with file.open("r+b") as stream:
            stream.truncate(_PAYLOAD * 2 * 512)
        plain = {"driver": "file", "filename": str(file)}
        trials = (
            (_is_native, plain | {"aio": "native", "cache": {"direct": True}}, "file,aio=native"),
            (
                _is_encrypted,
                {"driver": "luks", "key-secret": "key", "file": plain},
                "luks,key-secret",
            ),
        )
        for asks, disk, name in trials:
            if any(map(asks, disks)) and _refused(emulator, disk):
                yield f"-blockdev {name}"


def _is_native(disk: Mapping[str, Any]) -> bool:
    return disk.get("aio") == "native"


def _is_encrypted(disk: Mapping[str, Any]) -> bool:
    return disk.get("driver") == "luks" or "encrypt" in disk


def _refused(emulator: Path, disk: Mapping[str, Any]) -> bool:
    """Whether the engine was built without something; other faults are those of our file."""
    node = json.dumps({**disk, "node-name": "tried", "read-only": True})
    secret = ("-object", "secret,id=key,data=none")
    return _NOT_BUILT in probe.refusal(emulator, *secret, "-blockdev", node)


def luks_header() -> bytes:
    """Of a container that no key opens: QEMU tries the ciphers to find that out."""
    words = (b"LUKS\xba\xbe", 1, b"aes", b"cbc-plain64", b"sha256", _PAYLOAD, 16)
    head = _LUKS.pack(*words, b"", b"", 1, b"")
    slots = [
        _SLOT.pack(_INACTIVE if i else _ACTIVE, 1, b"", _FIRST + i * _STEP, _STRIPES)
        for i in range(_SLOTS)
    ]
    return head + b"".join(slots)
