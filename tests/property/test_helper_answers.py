# SPDX-License-Identifier: GPL-2.0-or-later
"""A helper that a disk has taken over can say what it likes: nothing here fails or grows."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sysqcache.attribution.imagescan import limits
from sysqcache.attribution.imagescan.extmap import DamagedFileSystem
from sysqcache.machine.helper.channel import FRAME_BYTES, Channel, HelperError, RefusedError
from sysqcache.machine.helper.remote import Line, RemoteFile, RemoteVolume
from sysqcache.machine.helper.visit import _devices

_DONE, _MORE, _FAILED = range(3)


def frame(status: int, content: bytes) -> bytes:
    return struct.pack("<IB", len(content), status) + content


def entry(size: int, mode: int, name: bytes) -> bytes:
    return struct.pack("<QI", size, mode) + name + b"\0"


FRAMES = st.lists(
    st.builds(frame, st.integers(0, 255), st.binary(max_size=80))
    | st.binary(max_size=40)
    | st.builds(
        lambda entries: frame(_MORE, b"".join(entries)),
        st.lists(
            st.builds(
                entry,
                st.integers(0, (1 << 64) - 1),
                st.integers(0, (1 << 32) - 1),
                st.binary(max_size=20),
            )
        ),
    )
).map(b"".join)


@contextmanager
def answering(content: bytes) -> Iterator[Channel]:
    """A channel whose other end says this, whatever it is asked, and hangs up."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(content)
        theirs.shutdown(socket.SHUT_WR)
        channel = Channel(ours)
        yield channel
        channel.close()


@given(FRAMES)
def test_any_answer_to_a_walk(content: bytes) -> None:
    with answering(content) as channel:
        volume = RemoteVolume("disk0:1", "/mnt/0", Line(channel))
        for file in volume.walk():
            assert file.path.startswith("/")
            assert len(file.path) <= limits.PATH_BYTES
            try:
                assert len(volume.open(file.path, file.place).read(0, 4096)) <= 4096
            except DamagedFileSystem:
                continue


@given(FRAMES, st.integers(0, 1 << 62), st.integers(0, 1 << 21))
def test_any_answer_to_a_read(content: bytes, offset: int, size: int) -> None:
    with answering(content) as channel:
        got = RemoteFile(Line(channel), "/mnt/0/file", 1 << 40).read(offset, size)
        assert len(got) <= size


@given(st.binary())
def test_any_list_of_devices(content: bytes) -> None:
    for name, size, _ in _devices(content):
        assert name
        assert 0 <= size < 10**18


@given(FRAMES)
def test_any_answer_of_one_part(content: bytes) -> None:
    with answering(content) as channel, suppress(HelperError, RefusedError):
        assert len(channel.ask(b"B")) <= FRAME_BYTES


def test_an_answer_that_never_ends_is_cut() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(frame(_MORE, b"x") * 3)
        parts = Channel(ours).ask_parts(b"W", "/mnt/0", seconds=0.05)
        with pytest.raises(HelperError, match="in time"):
            for part in parts:
                assert part == b"x"
    ours.close()


def test_what_a_busy_host_takes_is_no_time_of_the_helper() -> None:
    ours, theirs = socket.socketpair()
    waited = iter([0.0, *[0.2] * 100])
    with ours, theirs:
        started = time.monotonic()
        with pytest.raises(HelperError, match="in time"):
            Channel(ours, lambda: next(waited)).ask(b"P", seconds=0.02)
        assert time.monotonic() - started >= 0.2


def test_a_frame_without_bounds_is_refused() -> None:
    with (
        answering(struct.pack("<IB", FRAME_BYTES + 1, _DONE)) as channel,
        pytest.raises(HelperError, match="makes no sense"),
    ):
        channel.ask(b"B")


def test_after_a_fault_nothing_is_asked_any_more() -> None:
    with answering(b"") as channel:
        line = Line(channel)
        assert line.read(("/a", 0, 1)) == [b""]
        assert line.fault == "it ended"
        assert list(line.parts(b"W", "/", seconds=1.0)) == []
        assert line.read(("/a", 0, 1), ("/b", 0, 1)) == [b"", b""]


def test_why_something_was_refused_is_told_in_few_words() -> None:
    with (
        answering(frame(_FAILED, b"it can't be mounted: " + b"x" * 10_000)) as channel,
        pytest.raises(RefusedError, match=r"^it can't be mounted: x{1,200}$"),
    ):
        channel.ask(b"M")
