# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said to the helper and what it answers: ``images/helper-x86_64/src/reader.c``.

The disks that it reads may have taken it over. So an answer is bytes with a bound on their
number and on the time that they may take, and whoever reads them believes nothing.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
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


class _Patience:
    """Seconds for an answer, without those in which the helper waited for a processor."""

    def __init__(self, seconds: float, waited: Callable[[], float]) -> None:
        self._waited, self._before = waited, waited()
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left; none or fewer: it is over."""
        left = self._end - time.monotonic()
        if left <= 0:
            # asked for only now, as that takes longer than most answers
            now = self._waited()
            self._end += now - self._before
            left, self._before = left + now - self._before, now
        return left


def _never() -> float:
    return 0.0


class Channel:
    """A connection to the helper's reader; one request at a time.

    :param waited: seconds for which the helper could not run so far, as the host was busy:
        they do not count.

    All methods raise :class:`HelperError` when no answer of sense comes in time, and then
    nothing more can be asked.
    """

    def __init__(self, connection: socket.socket, waited: Callable[[], float] = _never) -> None:
        self._socket = connection
        self._waited = waited
        self._received = bytearray()

    @classmethod
    def connect(cls, path: Path, waited: Callable[[], float]) -> Self:
        """Connect to the port's socket."""
        try:
            return cls(connect_unix(path, _CONNECT_SECONDS), waited)
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
        patience = _Patience(seconds, self._waited)
        self._send(what + b"".join(_text(word) for word in words), patience)
        more = True
        while more:
            status, content = self._receive(patience)
            more = status == _MORE
            yield content

    def read(self, pieces: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Bytes of files, by path, offset and size; of a file that can't be read there are none.

        :param pieces: few enough for a request, each no longer than a frame.
        """
        patience = _Patience(_SECONDS, self._waited)
        request = [_PIECE.pack(offset, size) + _text(path) for path, offset, size in pieces]
        self._send(b"R" + b"".join(request), patience)
        found = []
        for _, _, size in pieces:
            try:
                _, content = self._receive(patience)
            except RefusedError:
                content = b""
            if len(content) > size:
                raise HelperError("it answers with more than it was asked for")
            found.append(content)
        return found

    def _send(self, request: bytes, patience: _Patience) -> None:
        if len(request) > FRAME_BYTES:
            raise HelperError("the request is too long")
        content = memoryview(len(request).to_bytes(4, "little") + request)
        while content:
            self._require(patience)
            with contextlib.suppress(TimeoutError), _broken("it does not listen"):
                content = content[self._socket.send(content) :]

    def _receive(self, patience: _Patience) -> tuple[int, bytes]:
        size, status = _HEAD.unpack(self._take(_HEAD.size, patience))
        if size > FRAME_BYTES or status not in (_DONE, _MORE, _FAILED):
            raise HelperError("its answer makes no sense")
        content = self._take(size, patience)
        if status == _FAILED:
            raise RefusedError(printable(content[:_REASON].decode("ascii", "replace")))
        return status, content

    def _take(self, size: int, patience: _Patience) -> bytes:
        while len(self._received) < size:
            self._require(patience)
            with contextlib.suppress(TimeoutError), _broken("it does not answer"):
                received = self._socket.recv(_RECEIVED)
                if not received:
                    raise HelperError("it ended")
                self._received += received
        content = bytes(self._received[:size])
        del self._received[:size]
        return content

    def _require(self, patience: _Patience) -> None:
        """Wait no longer than that for what comes next."""
        left = patience.left()
        if left <= 0:
            raise HelperError("it did not answer in time")
        self._socket.settimeout(left)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


@contextlib.contextmanager
def _broken(what: str) -> Iterator[None]:
    """A connection that broke is a HelperError; that nothing came yet is none."""
    try:
        yield
    except TimeoutError:
        raise
    except OSError as error:
        raise HelperError(f"{what}: {error.strerror}") from None


def _text(word: str | bytes) -> bytes:
    return word if isinstance(word, bytes) else word.encode() + b"\0"
