# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest protocols over real sockets, with a scripted other end."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sysqcache.base.errors import GuestCommandError
from sysqcache.machine.guest.agent import GuestAgent
from sysqcache.machine.guest.ready import SerialProbe, TcpProbe
from sysqcache.machine.guest.serialshell import SerialShell

Script = Callable[[socket.socket], None]


@contextmanager
def other_end(script: Script) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=script, args=(theirs,))
    thread.start()
    try:
        yield ours
    finally:
        ours.close()
        thread.join(5)
        theirs.close()


def answers(theirs: socket.socket, reply: Callable[[dict[str, Any]], Any]) -> None:
    with theirs.makefile("rwb") as stream:
        for line in stream:
            request = json.loads(line.lstrip(b"\xff"))
            stream.write(json.dumps(reply(request)).encode() + b"\n")
            stream.flush()


def test_sync_skips_what_an_earlier_client_left() -> None:
    def script(theirs: socket.socket) -> None:
        with theirs.makefile("rwb") as stream:
            request = json.loads(stream.readline().lstrip(b"\xff"))
            stream.write(b'{"return": 1}\n{"ret')
            reply = json.dumps({"return": request["arguments"]["id"]}).encode()
            stream.write(b"\xff" + reply + b"\n")
            stream.flush()
            stream.readline()

    with other_end(script) as ours:
        assert GuestAgent(ours).sync(5.0)


def test_sync_without_an_agent() -> None:
    with other_end(lambda theirs: None) as ours:
        assert not GuestAgent(ours).sync(0.1)


def test_run_polls_until_the_command_has_ended() -> None:
    polls = 0

    def reply(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal polls
        if request["execute"] == "guest-exec":
            assert request["arguments"]["arg"] == ["-c", "work"]
            return {"return": {"pid": 7}}
        polls += 1
        if polls < 3:
            return {"return": {"exited": False}}
        out = base64.b64encode("grün".encode()).decode()
        return {"return": {"exited": True, "exitcode": 3, "out-data": out}}

    with other_end(lambda theirs: answers(theirs, reply)) as ours:
        result = GuestAgent(ours).run("work", 5.0)
    assert (result.exit, result.stdout, result.stderr) == (3, "grün", "")
    assert polls == 3


def test_a_killed_command_has_a_shell_exit_status() -> None:
    def reply(request: dict[str, Any]) -> dict[str, Any]:
        if request["execute"] == "guest-exec":
            return {"return": {"pid": 7}}
        return {"return": {"exited": True, "signal": 9}}

    with other_end(lambda theirs: answers(theirs, reply)) as ours:
        assert GuestAgent(ours).run("work", 5.0).exit == 137


def test_agent_errors_and_timeouts() -> None:
    def refuse(request: dict[str, Any]) -> dict[str, Any]:
        return {"error": {"class": "GenericError", "desc": "no such file"}}

    with (
        other_end(lambda theirs: answers(theirs, refuse)) as ours,
        pytest.raises(GuestCommandError, match="no such file"),
    ):
        GuestAgent(ours).run("work", 5.0)

    def never(request: dict[str, Any]) -> dict[str, Any]:
        return {"return": {"pid": 7, "exited": False}}

    with (
        other_end(lambda theirs: answers(theirs, never)) as ours,
        pytest.raises(GuestCommandError, match=r"longer than 0\.05 s"),
    ):
        GuestAgent(ours).run("work", 0.05)


@pytest.mark.parametrize(
    "why",
    [
        "The command guest-exec has been disabled for this instance",
        "Command guest-exec has been disabled: the command is not allowed",
    ],
)
def test_an_agent_that_must_not_run_commands(why: str) -> None:
    def forbid(request: dict[str, Any]) -> dict[str, Any]:
        return {"error": {"class": "CommandNotFound", "desc": why}}

    with (
        other_end(lambda theirs: answers(theirs, forbid)) as ours,
        pytest.raises(GuestCommandError, match="disabled") as caught,
    ):
        GuestAgent(ours).run("work", 5.0)
    assert caught.value.forbidden
    assert "qemu-ga.conf" in caught.value.hint


def test_agent_hangs_up() -> None:
    with (
        other_end(lambda theirs: theirs.shutdown(socket.SHUT_RDWR)) as ours,
        pytest.raises(GuestCommandError, match=r"closed|broke"),
    ):
        GuestAgent(ours).run("work", 5.0)


@pytest.mark.parametrize("echo", [True, False])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r\r\n"])
def test_serial_shell(echo: bool, newline: bytes) -> None:
    def script(theirs: socket.socket) -> None:
        line = theirs.recv(65536)
        token = line.split(b'"')[3]
        if echo:
            theirs.sendall(b"/ # " + line.rstrip() + newline)
        theirs.sendall(b"<<" + token + newline)
        theirs.sendall(b"one" + newline + b"two" + newline)
        theirs.sendall(token + b":4>>" + newline)

    with other_end(script) as ours:
        result = SerialShell(ours).run("x", 5.0)
    assert (result.exit, result.stdout) == (4, "one\ntwo\n")


def test_serial_shell_timeout_shows_what_came() -> None:
    with (
        other_end(lambda theirs: theirs.sendall(b"login: ")) as ours,
        pytest.raises(GuestCommandError) as caught,
    ):
        SerialShell(ours).run("x", 0.1)
    assert caught.value.detail == "login: "


def test_serial_shell_refuses_what_a_console_would_cut() -> None:
    with (
        other_end(lambda theirs: None) as ours,
        pytest.raises(GuestCommandError, match="too long"),
    ):
        SerialShell(ours).run("x" * 5000, 0.1)


def test_serial_probe_follows_the_log(tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    probe = SerialProbe(log, "^ready [0-9]+$")
    assert not probe.wait(0.01)
    log.write_bytes(b"booting\r\nrea")
    assert not probe.wait(0.01)
    with log.open("ab") as stream:
        stream.write(b"dy 12\r\n")
    assert probe.wait(0.01)


def test_tcp_probe_wants_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not TcpProbe("127.0.0.1", port, "").wait(0.1)

        def serve() -> None:
            while True:
                connection, _ = server.accept()
                with connection:
                    if connection.recv(100) == b"hello":
                        connection.sendall(b"x")
                        return

        thread = threading.Thread(target=serve)
        thread.start()
        assert TcpProbe("127.0.0.1", port, "hello").wait(5.0)
        thread.join(5)
    assert not TcpProbe("127.0.0.1", port, "").wait(0.05)
