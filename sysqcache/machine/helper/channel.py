# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said to the helper and what it answers: ``images/helper-x86_64/src/reader.c``.

The disks that it reads may have taken it over. So an answer is bytes with a bound on their
number and on the time that they may take, and whoever reads them believes nothing.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Self

from sysqcache.base.printable import printable
from sysqcache.base.sockets import connect_unix

FRAME_BYTES: Final = 1 << 20
_HEAD: Final = struct.Struct("<IB")
_PIECE: Final = struct.Struct("<QI")
_DONE, _MORE, _FAILED = range(3)
_SECONDS: Final = 20.0
_CONNECT_SECONDS: Final = 5.0
_RECEIVED: Final = 256 << 10
_REASON: Final = 200


class HelperError(Exception):
    """The helper does not answer, or says what makes no sense; in words."""


class RefusedError(Exception):
    """The helper could not do what it was asked for, with its reason."""


class Channel:
    """A connection to the helper's reader; one request at a time.

    All methods raise :class:`HelperError` when no answer of sense comes in time, and then
    nothing more can be asked.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._received = bytearray()

    @classmethod
    def connect(cls, path: Path) -> Self:
        """Connect to the port's socket."""
        try:
            return cls(connect_unix(path, _CONNECT_SECONDS))
        except OSError as error:
            raise HelperError(f"no connection: {error.strerror}") from None

    def ask(self, what: bytes, *words: str | bytes, seconds: float = _SECONDS) -> bytes:
        """An answer of one part. Raises :class:`RefusedError`."""
        return next(self.ask_parts(what, *words, seconds=seconds))

    def ask_parts(
        self, what: bytes, *words: str | bytes, seconds: float = _SECONDS
    ) -> Iterator[bytes]:
        """The parts of an answer as they come, at least one. Raises :class:`RefusedError`.

        :param seconds: for all of them together.
        """
        end = time.monotonic() + seconds
        self._send(what + b"".join(_text(word) for word in words), end)
        more = True
        while more:
            status, content = self._receive(end)
            more = status == _MORE
            yield content

    def read(self, pieces: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Bytes of files, by path, offset and size; of a file that can't be read there are none.

        :param pieces: few enough for a request, each no longer than a frame.
        """
        end = time.monotonic() + _SECONDS
        request = [_PIECE.pack(offset, size) + _text(path) for path, offset, size in pieces]
        self._send(b"R" + b"".join(request), end)
        found = []
        for _, _, size in pieces:
            try:
                _, content = self._receive(end)
            except RefusedError:
                content = b""
            if len(content) > size:
                raise HelperError("it answers with more than it was asked for")
            found.append(content)
        return found

    def _send(self, request: bytes, end: float) -> None:
        if len(request) > FRAME_BYTES:
            raise HelperError("the request is too long")
        try:
            self._socket.settimeout(max(0.001, end - time.monotonic()))
            self._socket.sendall(len(request).to_bytes(4, "little") + request)
        except OSError as error:
            raise HelperError(f"it does not listen: {error}") from None

    def _receive(self, end: float) -> tuple[int, bytes]:
        size, status = _HEAD.unpack(self._take(_HEAD.size, end))
        if size > FRAME_BYTES or status not in (_DONE, _MORE, _FAILED):
            raise HelperError("its answer makes no sense")
        content = self._take(size, end)
        if status == _FAILED:
            raise RefusedError(printable(content[:_REASON].decode("ascii", "replace")))
        return status, content

    def _take(self, size: int, end: float) -> bytes:
        while len(self._received) < size:
            try:
                self._socket.settimeout(max(0.001, end - time.monotonic()))
                received = self._socket.recv(_RECEIVED) if time.monotonic() < end else b""
            except TimeoutError:
                raise HelperError("it did not answer in time") from None
            except OSError as error:
                raise HelperError(f"it does not answer: {error.strerror}") from None
            if not received:
                late = time.monotonic() >= end
                raise HelperError("it did not answer in time" if late else "it ended")
            self._received += received
        content = bytes(self._received[:size])
        del self._received[:size]
        return content

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def _text(word: str | bytes) -> bytes:
    return word if isinstance(word, bytes) else word.encode() + b"\0"
