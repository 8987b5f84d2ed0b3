# SPDX-License-Identifier: GPL-2.0-or-later
"""A QEMU process: started, watched, ended, explained when it dies."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import os
import re
import select
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

from sysqcache.base import interrupts, paths, system
from sysqcache.base.errors import DiskError, LaunchError, MachineDied, MachineError
from sysqcache.base.files import held

_PR_SET_PDEATHSIG: Final = 1
_LOG_TAIL_LINES: Final = 15
_SILENT: Final = "(QEMU said nothing)"
_OTHER_PACK: Final = re.compile("tb-cache: pack .* refused: fingerprint$")
_OWN: Final = ("Pss_Anon:", "Pss_Shmem:")
"""Not what is private: mapped pages of a file are that as well while nobody else has them."""
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@dataclasses.dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that can't be mistaken: its number and its start time in clock ticks."""

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The identity of a running process, None when there is none."""
        fields = _stat_fields(pid)
        return None if fields is None or fields[0] in ("Z", "X") else cls(pid, int(fields[19]))

    def alive(self) -> bool:
        """True while this very process runs (a zombie does not)."""
        return ProcessId.of(self.pid) == self

    def cpu_seconds(self) -> float:
        """CPU time used so far by all its threads; 0.0 when it is gone."""
        fields = _stat_fields(self.pid)
        if fields is None or int(fields[19]) != self.start:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def waited_seconds(self) -> float:
        """How long the thread that waited longest for a processor has; 0.0 when it is gone.

        From the kernel's ``schedstat`` (Documentation/scheduler/sched-stats.rst).
        """
        waited = 0
        for file in Path(f"/proc/{self.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                waited = max(waited, int(file.read_text(encoding="ascii").split()[1]))
        return waited / 1e9 if self.alive() else 0.0

    def own_memory(self) -> int:
        """Bytes of memory that it wrote to, of what others have too its share; 0 when it is gone.

        Pages of a file that it maps are no part of it until it writes to them.
        """
        try:
            lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:
            return 0
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(_OWN))


def _stat_fields(pid: int) -> list[str] | None:
    """Fields 3.. of /proc/PID/stat (the command name may hold spaces); None when it has ended.

    Raises OSError: nobody knows then.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def log_tail(path: Path, lines: int = _LOG_TAIL_LINES) -> str:
    """The last lines of a log, "" when it is empty or missing."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 64 * 1024))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(line.rstrip("\r") for line in text.splitlines()[-lines:])


def messages(log: Path) -> str:
    """The end of QEMU's messages, but for packs of other engines and CPUs, which are no fault."""
    lines = log_tail(log).splitlines()
    return "\n".join(line for line in lines if not _OTHER_PACK.search(line))


def describe_exit(code: int) -> str:
    """``exit code 1`` or ``killed by SIGKILL`` for a :mod:`subprocess` return code."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def pasteable(argv: Sequence[str], directory: Path) -> str:
    """The command as one line for a shell; its sockets are relative to ``directory``."""
    return f"cd {shlex.quote(str(directory))} && {shlex.join(argv)}"


class QemuProcess:
    """One QEMU, as a context manager: the end of the scope is the end of the process.

    :param directory: working directory; holds ``qemu.log`` with QEMU's messages.
    :param keep_fds: descriptors that QEMU inherits and holds until it ends (locks).
    :param detached: the process may outlive this one and the ``with`` block.

    States: created -> running (:meth:`start`) -> ended. Calls in a wrong state raise
    :class:`MachineError`. After any failure no process is left, except a detached one.
    """

    def __init__(
        self,
        argv: Sequence[str],
        directory: Path,
        *,
        keep_fds: Sequence[int] = (),
        detached: bool = False,
    ) -> None:
        self.argv = list(argv)
        self.directory = directory
        self.log = directory / paths.INSTANCE_QEMU_LOG
        self.started_at = 0.0
        self._keep_fds = tuple(keep_fds)
        self._detached = detached
        self._popen: subprocess.Popen[bytes] | None = None
        self._identity: ProcessId | None = None
        self._rusage_cpu = 0.0
        self._reap_lock = threading.Lock()
        self._released = False
        self._memory_kills = 0

    @property
    def pid(self) -> int:
        """The process number; raises :class:`MachineError` before the start."""
        return self._running().pid

    @property
    def identity(self) -> ProcessId:
        """The identity to keep in a state file."""
        self._running()
        assert self._identity is not None
        return self._identity

    @property
    def command(self) -> str:
        """A line that can be pasted into a shell."""
        return pasteable(self.argv, self.directory)

    def start(self) -> None:
        """Start QEMU; raises :class:`LaunchError` when the binary can't be executed."""
        if self._popen is not None:
            raise MachineError("QEMU was started already")
        before_exec = None if self._detached else _die_with(os.getpid())
        self.started_at = time.monotonic()
        self._memory_kills = system.memory_kills()
        # a signal in between would leave a process that nobody knows
        with self.log.open("wb") as log, interrupts.deferred():
            try:
                self._popen = subprocess.Popen(
                    self.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.directory,
                    start_new_session=True,
                    pass_fds=self._keep_fds,
                    # one system call, no Python lock can be held in it
                    preexec_fn=before_exec,  # noqa: PLW1509
                )
            except OSError as error:
                raise LaunchError(
                    f"QEMU can't be started: {error.strerror}: {self.argv[0]}",
                    hint=system.hint(error.errno) or "sysqcache engine info",
                    command=self.command,
                ) from None
            self._identity = ProcessId.of(self._popen.pid) or ProcessId(self._popen.pid, 0)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._popen is None:
            raise MachineError("QEMU was not started")
        return self._popen

    def poll(self) -> int | None:
        """The return code (negative for signals), None while it runs."""
        popen = self._running()
        with self._reap_lock:
            if popen.returncode is None:
                # wait4 rather than Popen.poll: its CPU time comes with it
                pid, status, usage = os.wait4(popen.pid, os.WNOHANG)
                if pid:
                    popen.returncode = os.waitstatus_to_exitcode(status)
                    self._rusage_cpu = usage.ru_utime + usage.ru_stime
            return popen.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end; None when ``timeout`` seconds passed before it."""
        if self.poll() is None:
            wait_pid(self._running().pid, timeout)
        return self.poll()

    def cpu_seconds(self) -> float:
        """CPU time of the whole process, also after its end."""
        return self._rusage_cpu if self.poll() is not None else self.identity.cpu_seconds()

    def check_alive(self) -> None:
        """Raise :class:`MachineDied` if QEMU has ended."""
        if self.poll() is not None:
            raise self.died()

    def died(self) -> MachineDied:
        """The error that explains its end."""
        code = self.wait(1.0) or 0
        return MachineDied(
            f"QEMU ended unexpectedly ({describe_exit(code)})",
            hint=self._memory_hint(code) or "the blocks recorded so far are kept",
            detail=messages(self.log) or _SILENT,
            command=self.command,
        )

    def _memory_hint(self, code: int) -> str:
        """What to do if the kernel has ended it for want of memory, which nobody else tells."""
        short = code == -signal.SIGKILL and system.memory_kills() > self._memory_kills
        return system.hint(errno.ENOMEM) if short else ""

    def launch_error(self) -> LaunchError | DiskError:
        """The error for a process that ended before it answered."""
        code = self.wait(1.0)
        tail = messages(self.log)
        if "lock" in tail and "Is another process using the image" in tail:
            return DiskError(
                "a disk image is used by another machine",
                hint="stop that machine, or use mode: ephemeral or read-only in both",
                detail=tail,
            )
        ended = describe_exit(code) if code is not None else "still running"
        return LaunchError(
            f"QEMU did not start ({ended})",
            hint=self._memory_hint(code or 0)
            or _launch_hint(tail, own_firmware="-bios" in self.argv),
            detail=tail or _SILENT,
            command=self.command,
        )

    def terminate(self, grace: float = 5.0) -> int | None:
        """End it: SIGTERM, which lets QEMU close its files, then SIGKILL."""
        self.signal(signal.SIGTERM)
        try:
            ended = self.wait(grace)
        except KeyboardInterrupt:
            self.kill()
            raise
        if ended is None:
            self.kill()
        return self.wait(grace)

    def kill(self) -> None:
        """End it at once; the journal keeps what was written so far."""
        self.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._running().pid, number)

    def release(self) -> None:
        """Let a detached process live on after the ``with`` block."""
        if not self._detached:
            raise MachineError("only a detached QEMU can be left running")
        self._released = True

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._popen is None:
            return
        if self._released:
            # not ours any more: no ResourceWarning about a running child
            self._popen.returncode = self._popen.returncode or 0
            return
        self.terminate()


def wait_pid(pid: int, timeout: float | None) -> bool:
    """Wait until the process ``pid``, a child or not, has ended; False on timeout."""
    try:
        with held(os.pidfd_open(pid)) as fd:
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            return bool(poller.poll(None if timeout is None else max(0, int(timeout * 1000))))
    except ProcessLookupError:
        return True


def _die_with(parent: int) -> Callable[[], None]:
    """What a child does before it becomes QEMU, so that it ends with ``parent``."""

    def before_exec() -> None:
        # SIGTERM, not SIGKILL: QEMU then flushes the journal and ends within milliseconds
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            # it ended before the signal was asked for
            os._exit(1)

    return before_exec


# of firmware that they don't find; most is looked for before QEMU is started
_NO_FIRMWARE: Final = (
    *("could not load pc bios", "risc-v bios", "could not find rom image"),
    *("could not load rom image", "could not load firmware", "unable to load the firmware"),
)

_PORT: Final = (
    "a forwarded port is in use on this host, or is one of root's: change network.forwards, or "
    "use host: 0"
)

# what QEMU's targets and boards say of a CPU model that they don't have
CHANGE_CPU: Final = "change cpu: in vm.yaml"
_NO_MODEL: Final = ("find cpu model", "unable to find cpu", "invalid cpu model")


def _launch_hint(tail: str, *, own_firmware: bool = False) -> str:
    firmware = "the engine's firmware is not complete: sysqcache engine build --force"
    if own_firmware:
        firmware = "QEMU refuses this file as the machine's firmware: change firmware: in vm.yaml"
    known = (
        (("host forwarding rule",), _PORT),
        (
            ("cannot allocate memory", "cannot set up guest memory"),
            "there is not enough free memory on this host",
        ),
        (("qemu_thread_create: resource temp",), system.hint(errno.EAGAIN)),
        (_NO_MODEL, CHANGE_CPU),
        (_NO_FIRMWARE, firmware),
        (("unsupported machine type",), "change machine: in vm.yaml"),
    )
    hints = (hint for texts, hint in known if any(text in tail.lower() for text in texts))
    return next(hints, "--debug shows more")
