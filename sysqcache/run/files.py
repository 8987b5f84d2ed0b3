# SPDX-License-Identifier: GPL-2.0-or-later
"""Files into a guest and out of it, through its agent: single ones, and folders as archives.

What arrives is complete or not there: it is written beside its place and moved there.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
import shlex
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from sysqcache.base.errors import GuestCommandError, UsageError
from sysqcache.machine.guest.agent import AgentCommands

_CHUNK: Final = 1 << 20
"""Bytes in a message of the agent, which takes some MiB at a time."""

_TIMEOUT: Final = 3600.0
_TEMPORARY: Final = "/tmp/.sysqcache-"  # noqa: S108 - in a guest, with a name that nobody knows


def write(agent: AgentCommands, parts: Iterable[bytes], file: str) -> None:
    """Write a file of the guest. Raises :class:`GuestCommandError`."""
    with _opened(agent, file, "wb") as handle:
        for part in parts:
            content = base64.b64encode(part).decode()
            _ask(agent, "guest-file-write", handle=handle, **{"buf-b64": content})


def read(agent: AgentCommands, file: str) -> Iterator[bytes]:
    """What a file of the guest holds, in parts. Raises :class:`GuestCommandError`."""
    with _opened(agent, file, "rb") as handle:
        while True:
            answer = _ask(agent, "guest-file-read", handle=handle, count=_CHUNK)
            yield base64.b64decode(answer["buf-b64"])
            if answer["eof"]:
                return


@contextlib.contextmanager
def _opened(agent: AgentCommands, file: str, mode: str) -> Iterator[int]:
    handle = _ask(agent, "guest-file-open", path=file, mode=mode)
    try:
        yield handle
    finally:
        _ask(agent, "guest-file-close", handle=handle)


def _ask(agent: AgentCommands, name: str, **arguments: Any) -> Any:
    return agent.execute(name, arguments, _TIMEOUT)


def copy_in(agent: AgentCommands, source: Path, to: str) -> None:
    """Copy a file or a folder of this host into the guest, as ``cp -a SOURCE TO`` would.

    Raises :class:`GuestCommandError`, :class:`UsageError` when there is no such file.
    """
    if not source.exists():
        raise UsageError(f"no such file or folder: {source}")
    archive = _new_name()
    with tempfile.TemporaryFile() as packed:
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(source, arcname=_NAME, filter=_as_root)
        packed.seek(0)
        write(agent, iter(lambda: packed.read(_CHUNK), b""), archive)
    target, name = shlex.quote(to), shlex.quote(source.resolve().name)
    _run(
        agent,
        f"set -e; trap 'rm -rf {archive} {archive}.d' EXIT; mkdir {archive}.d; "
        f"tar -xpf {archive} -C {archive}.d; to={target}; "
        f'if [ -d "$to" ]; then to=$to/{name}; fi; '
        f'if [ -d "$to" ]; then cp -a {archive}.d/{_NAME}/. "$to"; '
        f'else mv {archive}.d/{_NAME} "$to"; fi',
    )


def copy_out(agent: AgentCommands, source: str, to: Path) -> None:
    """Copy a file or a folder of the guest to this host; the inverse of :func:`copy_in`."""
    archive = _new_name()
    path = PurePosixPath(source)
    parent, name = shlex.quote(str(path.parent)), shlex.quote(path.name or ".")
    _run(agent, f"tar -cf {archive} -C {parent} -- {name} || {{ rm -f {archive}; exit 1; }}")
    try:
        with tempfile.TemporaryFile() as packed:
            for part in read(agent, archive):
                packed.write(part)
            packed.seek(0)
            _unpack(packed, path.name or ".", to)
    finally:
        _run(agent, f"rm -f {archive}")


_NAME: Final = "copied"


def _unpack(packed: IO[bytes], name: str, to: Path) -> None:
    """What is called ``name`` in an archive becomes ``to``, or a part of that folder."""
    target = to / name if to.is_dir() else to
    with (
        tarfile.open(fileobj=packed) as tar,
        tempfile.TemporaryDirectory(dir=target.absolute().parent) as made,
    ):
        tar.extractall(made, filter="data")
        if target.is_dir():
            for one in (Path(made) / name).iterdir():
                one.rename(target / one.name)
        else:
            (Path(made) / name).rename(target)


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Owners of this host mean nothing in the guest."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _new_name() -> str:
    return f"{_TEMPORARY}{secrets.token_hex(8)}"


def _run(agent: AgentCommands, code: str) -> None:
    done = agent.run(code, _TIMEOUT)
    if done.exit:
        raise GuestCommandError("the copy failed in the guest", detail=done.stderr.strip())
