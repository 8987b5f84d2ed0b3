# SPDX-License-Identifier: GPL-2.0-or-later
"""Streams that end with a token, and a command at the other end of socket pairs."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sysqcache.run import guestside
from sysqcache.run.serialtalk import SerialTalk
from sysqcache.run.streams import Hangup, PortTalk, Until

TOKEN = b"\x01abab\x01"


@given(st.lists(st.sampled_from([b"\x01", b"ab", b"a", b"\x01aba", b"x"])), st.data())
def test_all_up_to_the_token_and_nothing_of_it(parts: list[bytes], data: st.DataObject) -> None:
    text = b"".join(parts)
    expected = (text + TOKEN).partition(TOKEN)[0]
    whole = text + TOKEN
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    got: list[bytes] = []
    stream = Until(TOKEN, got.append)
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        if not stream.complete:
            stream.feed(whole[start:end])
    assert stream.complete
    assert b"".join(got) == expected


def test_what_only_began_like_the_token_is_passed_on() -> None:
    got: list[bytes] = []
    stream = Until(TOKEN, got.append)
    stream.feed(b"x" + TOKEN[:3])
    assert got == [b"x"]
    stream.flush()
    assert b"".join(got) == b"x" + TOKEN[:3]


class Guest:
    """The guest's ends of a command's streams."""

    def __init__(self) -> None:
        pairs = {name: socket.socketpair() for name in guestside.PORTS}
        self.host = {name: ours for name, (ours, _) in pairs.items()}
        self.guest = {name: theirs for name, (_, theirs) in pairs.items()}
        self.out: list[bytes] = []
        self.errors: list[bytes] = []
        self.talk = PortTalk(self.host, TOKEN, self.out.append, self.errors.append)

    def say(self, name: str, data: bytes) -> None:
        self.guest[name].sendall(data)

    def end(self, status: int) -> None:
        self.say(guestside.CONTROL, b"exit %d\n" % status)

    def close(self) -> None:
        for one in (*self.host.values(), *self.guest.values()):
            one.close()


@pytest.fixture
def guest() -> Iterator[Guest]:
    found = Guest()
    yield found
    found.close()


def test_the_status_waits_for_the_streams(guest: Guest) -> None:
    guest.end(7)
    guest.say(guestside.OUTPUT, b"out" + TOKEN)
    guest.say(guestside.ERRORS, b"err" + TOKEN)
    assert guest.talk.talk(None, None) == 7
    assert (b"".join(guest.out), b"".join(guest.errors)) == (b"out", b"err")


def test_a_child_that_goes_on_writing_does_not_hold_the_end_up(guest: Guest) -> None:
    guest.end(0)
    guest.say(guestside.OUTPUT, b"a daemon says" + TOKEN[:2])
    begin = time.monotonic()
    assert guest.talk.talk(None, None) == 0
    assert time.monotonic() - begin < 30
    assert b"".join(guest.out) == b"a daemon says" + TOKEN[:2]


def test_input_arrives_whole_and_ends(guest: Guest) -> None:
    content = os.urandom(3 << 20)
    read, write = os.pipe()
    got: list[bytes] = []

    def writes() -> None:
        with open(write, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(content)

    def reads() -> None:
        while data := guest.guest[guestside.INPUT].recv(1 << 16):
            got.append(data)
        for stream in (guestside.OUTPUT, guestside.ERRORS):
            guest.say(stream, TOKEN)
        guest.end(0)

    threads = [threading.Thread(target=one) for one in (writes, reads)]
    for thread in threads:
        thread.start()
    assert guest.talk.talk(read, None) == 0
    for thread in threads:
        thread.join()
    os.close(read)
    assert b"".join(got) == content


def test_a_machine_that_ends_first(guest: Guest) -> None:
    for end in guest.guest.values():
        end.close()
    with pytest.raises(Hangup):
        guest.talk.talk(None, None)


def test_the_time_is_over(guest: Guest) -> None:
    assert guest.talk.talk(None, time.monotonic() + 0.05) is None
    guest.talk.send_signal("TERM")
    assert guest.guest[guestside.SIGNALS].recv(100) == b"TERM\n"


def test_a_serial_line_that_echoes() -> None:
    ours, theirs = socket.socketpair()
    got: list[bytes] = []
    talk = SerialTalk(ours, got.append)
    talk.begin(b"echo hi\n")
    typed = theirs.recv(4096)
    token = typed.split(b'"')[3]
    theirs.sendall(typed.replace(b"\n", b"\r\n"))
    for part in (b"<<" + token[:5], token[5:] + b"\r\n", b"hi\r\n", token, b":12>>\r\n"):
        theirs.sendall(part)
    with ours, theirs:
        assert talk.talk(None, time.monotonic() + 30) == 12
    assert b"".join(got) == b"hi\n"
