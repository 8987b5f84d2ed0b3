# SPDX-License-Identifier: GPL-2.0-or-later
"""The bytes of a disk image: raw files, and qcow2 with its backing files.

QEMU's own ``qemu-img map`` says where each guest byte lies in which file; the bytes are
then read from these files. No daemon, no mount, no copy of the image.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sysqcache.attribution.imagescan import limits
from sysqcache.attribution.imagescan.qcow2 import CompressedClusters
from sysqcache.base.types import DiskFormat
from sysqcache.formats.access import FileAccess, UnreadableImage


@dataclass(frozen=True, slots=True)
class Extent:
    """Guest bytes that lie together.

    :param file: of the files of the image; None for zeros.
    :param offset: place in that file; -1 for compressed clusters.
    """

    start: int
    length: int
    file: int | None
    offset: int


class MappedBlocks:
    """An image whose bytes are spread over files, as a list of extents says."""

    def __init__(self, extents: Sequence[Extent], files: Sequence[FileAccess]) -> None:
        self._extents = sorted(extents, key=lambda extent: extent.start)
        self._starts = [extent.start for extent in self._extents]
        self._files = files
        self._clusters = [CompressedClusters(file) for file in files]
        last = self._extents[-1] if self._extents else Extent(0, 0, None, 0)
        self._size = last.start + last.length

    @property
    def size(self) -> int:
        """Bytes that the guest sees."""
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        """Guest bytes from ``offset``; fewer at the end and before unreadable ones."""
        parts: list[bytes] = []
        place = max(0, bisect.bisect_right(self._starts, offset) - 1)
        for extent in self._extents[place:] if size > 0 and offset >= 0 else ():
            skip = offset - extent.start
            wanted = min(size, extent.length - skip)
            if skip < 0 or wanted <= 0:
                break
            part = self._part(extent, skip, wanted)
            parts.append(part)
            offset, size = offset + wanted, size - wanted
            if size == 0 or len(part) < wanted:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _part(self, extent: Extent, skip: int, size: int) -> bytes:
        if extent.file is None:
            return bytes(size)
        if extent.offset < 0:
            return self._clusters[extent.file].read(extent.start + skip, size)
        part = self._files[extent.file].read(extent.offset + skip, size)
        return part + bytes(size - len(part))  # QEMU reads zeros behind a file's end

    def close(self) -> None:
        """Close all files."""
        for file in self._files:
            file.close()


@dataclass(frozen=True, slots=True)
class Image:
    """An opened disk image.

    :param files: what its bytes come from, the top of the chain first.
    """

    blocks: FileAccess | MappedBlocks
    files: tuple[Path, ...]


_READABLE: Final = {"qcow2", "raw"}


def open_image(path: Path, kind: DiskFormat, qemu_img: Path | None) -> Image:
    """Open a disk image of the host. Raises UnreadableImage.

    :param qemu_img: the tool, needed for qcow2.
    """
    if kind is DiskFormat.RAW:
        return Image(FileAccess(path), (path,))
    if qemu_img is None:
        raise UnreadableImage(f"{path} can't be read without an engine, which has qemu-img")
    chain = _chain(path, qemu_img)
    entries = _ask(qemu_img, "map", path, kind)
    with contextlib.ExitStack() as stack:
        files = []
        for file in chain:
            files.append(FileAccess(file))
            stack.callback(files[-1].close)
        extents = _extents(path, entries, len(files))
        stack.pop_all()
    return Image(MappedBlocks(extents, files), tuple(chain))


def _chain(path: Path, qemu_img: Path) -> list[Path]:
    """The files of a backing chain, the top first; encrypted and split ones are refused."""
    chain: list[Path] = []
    for link in _ask(qemu_img, "info", path, DiskFormat.QCOW2, "--backing-chain"):
        try:
            data = link.get("format-specific", {}).get("data", {})
            if link["format"] not in _READABLE:
                raise UnreadableImage(f"{path} needs an image of format {link['format']}")
            if link.get("encrypted") or "encrypt" in data:
                raise UnreadableImage(f"{path} is encrypted")
            if "data-file" in data:
                raise UnreadableImage(f"{path} keeps its data in another file")
            chain.append(Path(link["filename"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise UnreadableImage(f"qemu-img says nothing of use about {path}") from error
    if not 0 < len(chain) <= limits.BACKING_FILES:
        raise UnreadableImage(f"{path} has {len(chain)} files in its chain")
    return chain


def _extents(path: Path, entries: list[Any], files: int) -> list[Extent]:
    extents: list[Extent] = []
    try:
        for entry in entries:
            start, length = int(entry["start"]), int(entry["length"])
            if entry["zero"] or not entry["data"]:
                extents.append(Extent(start, length, None, 0))
                continue
            depth = int(entry["depth"])
            if not 0 <= depth < files:
                raise UnreadableImage(f"qemu-img names a file that {path} does not have")
            extents.append(Extent(start, length, depth, int(entry.get("offset", -1))))
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableImage(f"qemu-img's map of {path} can't be read") from error
    return extents


def _ask(qemu_img: Path, what: str, path: Path, kind: DiskFormat, *more: str) -> list[Any]:
    # -U: a running machine holds the lock, and reading does not hurt it
    command = [str(qemu_img), what, "-U", "--output=json", "-f", str(kind), *more, str(path)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=limits.TOOL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UnreadableImage(f"qemu-img did not answer about {path}: {error}") from error
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise UnreadableImage(f"{path} can't be read: {reason.splitlines()[-1][:300]}")
    try:
        answer = json.loads(done.stdout[: limits.TOOL_BYTES])
    except (ValueError, RecursionError) as error:
        raise UnreadableImage(f"qemu-img's answer about {path} can't be read") from error
    return answer if isinstance(answer, list) else [answer]
