# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest protocols over real sockets, with a scripted other end."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sysqcache.base.errors import GuestCommandError, MachineDied, MachineError
from sysqcache.machine.guest.agent import GuestAgent
from sysqcache.machine.guest.ready import SerialProbe, TcpProbe
from sysqcache.machine.guest.serialshell import SerialShell
from sysqcache.machine.instances import InstanceState
from sysqcache.machine.shell import run_by
from sysqcache.machine.watch import Watch
from sysqcache.qmp.events import EventLog

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


class Lives:
    """A process that goes on."""

    def wait(self, timeout: float) -> int | None:
        return None

    def died(self) -> MachineDied:
        raise AssertionError


NEVER = {"return": {"pid": 7, "exited": False}}


@pytest.mark.parametrize("asked", [False, True], ids=["before", "under"])
def test_an_agent_whose_guest_is_reset_is_waited_for_no_longer(asked: bool) -> None:
    """The channel stays, and who asks anew would be told of a command that nobody knows."""
    events = EventLog()
    watch = Watch(InstanceState("tiny"), Lives(), events)

    def reply(request: dict[str, Any]) -> dict[str, Any]:
        if asked and request["execute"] == "guest-exec-status":
            events.add({"event": "RESET", "data": {"guest": True}})
        return NEVER

    if not asked:
        events.add({"event": "RESET", "data": {"guest": True}})

    def script(theirs: socket.socket) -> None:
        with suppress(BrokenPipeError):
            answers(theirs, reply)

    with other_end(script) as ours:
        agent = GuestAgent(ours)
        agent.synced = True
        with pytest.raises(GuestCommandError, match="tiny was reset while a command ran in it: w"):
            run_by(agent, watch, "work", 60.0)


def test_a_reset_before_the_guest_was_ready_is_no_end() -> None:
    events = EventLog()
    events.add({"event": "RESET", "data": {"guest": True}})
    watch = Watch(InstanceState("tiny"), Lives(), events).from_now()
    done = {"return": {"pid": 7, "exited": True}}
    with other_end(lambda theirs: answers(theirs, lambda request: done)) as ours:
        agent = GuestAgent(ours)
        agent.synced = True
        assert run_by(agent, watch, "work", 60.0).exit == 0


def test_what_a_guest_said_before_its_end_is_its_answer() -> None:
    """A command that has ended has, though the guest is reset before that is read."""
    events = EventLog()
    watch = Watch(InstanceState("tiny"), Lives(), events)

    def script(theirs: socket.socket) -> None:
        token = theirs.recv(65536).split(b'"')[3]
        theirs.sendall(b"<<" + token + b"\nall\n" + token + b":0>>\n")
        events.add({"event": "RESET", "data": {"guest": True}})

    with other_end(script) as ours:
        assert run_by(SerialShell(ours), watch, "work", 60.0).stdout == "all\n"


class Ends(Lives):
    """A process that ends."""

    def wait(self, timeout: float) -> int | None:
        return 0

    def died(self) -> MachineDied:
        return MachineDied("QEMU ended")


@pytest.mark.parametrize(
    ("argv", "data", "process", "error"),
    [
        ((), {"action": "poweroff"}, Ends(), MachineDied),
        (("-no-shutdown",), {"action": "poweroff"}, Lives(), GuestCommandError),
        ((), {"action": "pause"}, Lives(), GuestCommandError),
        ((), {"action": "run"}, Lives(), GuestCommandError),
    ],
)
def test_a_kernel_that_gives_up(
    argv: tuple[str, ...], data: dict[str, str], process: Lives, error: type[MachineError]
) -> None:
    """QEMU hears of it by a device, and ends, stops the guest, or lets it go on."""
    events = EventLog()
    watch = Watch(InstanceState("tiny", argv=argv), process, events)

    def script(theirs: socket.socket) -> None:
        theirs.recv(65536)
        theirs.sendall(b"Kernel panic - not syncing")
        events.add({"event": "GUEST_PANICKED", "data": data})

    with other_end(script) as ours, pytest.raises(error) as caught:
        run_by(SerialShell(ours), watch, "work", 60.0)
    assert caught.value.message == "tiny gave up (kernel panic) while a command ran in it: work"
    assert watch.stopped == (error is GuestCommandError and data["action"] != "run")


def test_a_machine_that_somebody_ends() -> None:
    """What QEMU's own end says is all there is to say."""
    events = EventLog()
    watch = Watch(InstanceState("tiny"), Ends(), events)

    def script(theirs: socket.socket) -> None:
        theirs.recv(65536)
        events.add({"event": "SHUTDOWN", "data": {"guest": False, "reason": "host-qmp-quit"}})

    with other_end(script) as ours, pytest.raises(MachineDied, match="QEMU ended"):
        run_by(SerialShell(ours), watch, "work", 60.0)
