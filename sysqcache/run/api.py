# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines for programs: ``with sysqcache.machine("vm.yaml") as vm: vm.run(["make", "test"])``."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sysqcache.base.errors import GuestCommandError, UsageError
from sysqcache.machine.guest.agent import GuestAgent
from sysqcache.machine.progress import ignore
from sysqcache.run import choose, command, files, guestside, throwaway
from sysqcache.run.throwaway import ThrowAway
from sysqcache.run.words import Asked

_SYNC_S: Final = 30.0
_POLL_S: Final = 0.005
_SLOWEST_POLL_S: Final = 0.2
_POLL_SHARE: Final = 0.05


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended: its exit status (128 + the number for a signal), what it wrote."""

    exit: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """What it wrote to standard output, as text."""
        return self.stdout.decode("utf-8", "replace")


class Guest:
    """A machine that goes with the scope that it was made for.

    Commands go through the guest's agent, one after another. All methods raise
    :class:`GuestCommandError` when the agent refuses or does not answer, and
    :class:`MachineDied` when the machine has ended.
    """

    def __init__(self, machine: ThrowAway, agent: GuestAgent) -> None:
        self._machine, self._agent = machine, agent

    @property
    def name(self) -> str:
        """What `sysqcache list` calls it."""
        return self._machine.name

    def run(
        self,
        words: str | Sequence[str],
        *,
        input: bytes = b"",
        env: Mapping[str, str] | None = None,
        workdir: str = "",
        timeout: float = 3600.0,
        check: bool = False,
    ) -> Done:
        """Run a command, and wait for it.

        :param words: a program and its arguments, or one line for a shell.
        :param input: what it reads.
        :param timeout: seconds; then :class:`GuestCommandError`, and the command goes on.
        :param check: raise :class:`GuestCommandError` when it fails.
        """
        told = [words] if isinstance(words, str) else list(words)
        code = guestside.code_for(told, env=list((env or {}).items()), workdir=workdir)
        done = self._finished(self._begun(code, input), timeout, told)
        if check and done.exit:
            raise GuestCommandError(
                f"exit {done.exit}: {shlex.join(told)}",
                detail=done.stderr.decode("utf-8", "replace"),
            )
        return done

    def put(self, source: Path | str, to: str) -> None:
        """Copy a file or a folder of this host into the guest, as ``cp -a`` would."""
        with self._alive():
            files.copy_in(self._agent, Path(source), to)

    def get(self, source: str, to: Path | str) -> None:
        """Copy a file or a folder of the guest to this host."""
        with self._alive():
            files.copy_out(self._agent, source, Path(to))

    def _begun(self, code: str, given: bytes) -> int:
        more = {"input-data": base64.b64encode(given).decode()} if given else {}
        shell = {"path": "/bin/sh", "arg": ["-c", code], "capture-output": True}
        return int(self._ask("guest-exec", **shell, **more)["pid"])

    def _finished(self, pid: int, timeout: float, told: Sequence[str]) -> Done:
        begin = time.monotonic()
        while True:
            status = self._ask("guest-exec-status", pid=pid)
            passed = time.monotonic() - begin
            if status["exited"]:
                code = 128 + status["signal"] if "signal" in status else status.get("exitcode", 0)
                out, err = (base64.b64decode(status.get(f"{one}-data", "")) for one in _OUTPUTS)
                return Done(code, out, err)
            if passed > timeout:
                raise GuestCommandError(
                    f"the command took longer than {timeout:g} s and goes on: {shlex.join(told)}"
                )
            time.sleep(min(max(_POLL_S, passed * _POLL_SHARE), _SLOWEST_POLL_S))

    def _ask(self, name: str, **arguments: Any) -> Any:
        with self._alive():
            return self._agent.execute(name, arguments)

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        """An agent that does not answer as its machine has ended is the machine's end."""
        try:
            yield
        except GuestCommandError:
            if self._machine.process.wait(0.2) is not None:
                raise self._machine.died() from None
            raise


_OUTPUTS: Final = ("out", "err")


@contextlib.contextmanager
def machine(source: str | Path, *, name: str = "", **overrides: object) -> Iterator[Guest]:
    """A fresh machine of a vm.yaml or an image, from its template, until the end of the scope.

    The first time for a machine takes a boot, as for `sysqcache run`.

    :param name: what other commands call it; default: a new one.
    :param overrides: fields of vm.yaml, such as ``memory="2GiB"``.
    Raises the errors of :mod:`sysqcache.base.errors`.
    """
    sets = tuple(f"{field}={value}" for field, value in overrides.items())
    asked = Asked(str(source), sets=sets)
    throwaway.sweep()
    plan = choose.find(asked, lambda: contextlib.nullcontext(ignore), lambda _: None)
    if not plan.token:
        raise UsageError(f"{source} has no guest agent", hint="set agent: guest-agent in vm.yaml")
    chosen = name or throwaway.new_name(plan.state["name"])
    more = (throwaway.AGENT,)
    with throwaway.started(plan, chosen, any_port=True, more=more) as started:
        agent = GuestAgent(started.ends[throwaway.AGENT])
        waiting = Asked("", (guestside.FOR_EVER,))
        command.begun(started, plan, waiting, (_nothing, _nothing), hostname=name)
        if not agent.sync(_SYNC_S):
            raise GuestCommandError(f"the guest agent of {chosen} does not answer")
        yield Guest(started, agent)


def _nothing(_: bytes) -> None:
    """What waits for ever says nothing."""
