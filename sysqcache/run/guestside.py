# SPDX-License-Identifier: GPL-2.0-or-later
"""What waits in a template for a command: shell processes at ports of the virtio-serial bus.

All of them are there when the template is saved, so that a resumed guest starts nothing but
the command. Any POSIX shell will do, with cat, mkfifo and setsid::

    input ───────► cat ─► pipe ─► COMMAND ─► pipe ─► cat ─► output, then the token
    control ─────► (its line)        │  └──► pipe ─► cat ─► errors, then the token
    control ◄── exit N ──────────────┘
    signals ─────► kill its process group, set its terminal's size

The pipes are between them as a port can be opened by one process alone, and commands open
/dev/stdout. The token is how the host knows that a stream is complete: a port has no end.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Iterable, Sequence
from typing import Final

CONTROL: Final = "run-control"
SIGNALS: Final = "run-signals"
INPUT: Final = "run-input"
OUTPUT: Final = "run-output"
ERRORS: Final = "run-errors"
PORTS: Final = (CONTROL, SIGNALS, INPUT, OUTPUT, ERRORS)
"""Names of the ports, behind ``org.sysqcache.``, and of their character devices."""

READY: Final = b"ready\n"
FOR_EVER: Final = "exec sleep 2000000000"
"""A command that only ends with its machine."""

VERSION: Final = 1
"""Of what waits: a template with another one is of no use."""

_FOLDER: Final = "/run/sysqcache-run"

_RUNNER: Final = f"""\
echo $$ > {_FOLDER}/group
nl='
'
echo ready >&3
until IFS= read -r line <&3; do sleep 1; done
exec <&4 >&6 2>&7 3>&- 4<&- 6>&- 7>&-
cd "$HOME" 2> /dev/null || cd /
eval "$line"
"""
"""The leader of the command's session, which becomes the command."""

_SUPERVISOR: Final = f"""\
for port in /sys/class/virtio-ports/*; do
    read -r name < "$port/name"
    case $name in
    org.sysqcache.run-*) eval "${{name#org.sysqcache.run-}}=/dev/${{port##*/}}" ;;
    esac
done
path=${{PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}}
mkdir -p -m 700 {_FOLDER}
cd {_FOLDER}
mkfifo in out err
exec 3<> "$control"
while IFS= read -r line; do
    case $line in
    size*) stty -F "$(cat tty)" ${{line#size}} ;;
    *) kill -s "$line" -- "-$(cat group)" ;;
    esac
done < "$signals" 3>&- > /dev/null 2>&1 &
exec 9<> in
exec 4< in 5> in 9>&-
cat < "$input" >&5 3>&- 4<&- 5>&- &
exec 5>&-
exec 9<> out
exec 5< out 6> out 9>&-
{{ cat <&5; printf %s "$token"; sleep 1000000; }} > "$output" 3>&- 4<&- 6>&- &
exec 5<&-
exec 9<> err
exec 5< err 7> err 9>&-
{{ cat <&5; printf %s "$token"; sleep 1000000; }} > "$errors" 3>&- 4<&- 6>&- 7>&- &
exec 5<&-
setsid env -i PATH="$path" LANG="${{LANG:-C.UTF-8}}" HOME="${{HOME:-/root}}" USER=root \\
    LOGNAME=root SHELL=/bin/sh /bin/sh -c "$runner" sh
status=$?
exec 4<&- 6>&- 7>&-
echo "exit $status" >&3
sleep 1000000
"""


def supervisor(token: str) -> str:
    """The script that waits in a template, for ``sh -c``."""
    return f"token={shlex.quote(token)}\nrunner={shlex.quote(_RUNNER)}\n{_SUPERVISOR}"


def new_token() -> str:
    """What no command writes."""
    return f"\x01{secrets.token_hex(16)}\x01"


_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_user(name: str) -> bool:
    """Whether a user can have this name, or number."""
    return _USER.fullmatch(name) is not None


def is_variable(name: str) -> bool:
    """Whether a shell can have a variable of this name."""
    return _NAME.fullmatch(name) is not None


def command_line(
    command: Sequence[str],
    *,
    env: Iterable[tuple[str, str]] = (),
    workdir: str = "",
    user: str = "",
    hostname: str = "",
    now: float = 0.0,
    size: tuple[int, int] | None = None,
) -> bytes:
    """The line that lets a runner become ``command``, with its end.

    :param command: words, or one word that is a line for a shell; none: a shell.
    :param user: a name or number that :func:`is_user`; "": root.
    :param now: Unix time that the guest's clock is set to, 0.0 to leave it.
    :param size: rows and columns of the terminal that the command shall have.
    """
    parts = [f"echo {secrets.token_hex(32)} > /dev/urandom"]
    if now:
        parts.append(f"date -u -s @{now:.0f} < /dev/null > /dev/null 2>&1")
    if hostname:
        parts.append(f"echo {shlex.quote(hostname)} > /proc/sys/kernel/hostname")
    if user:
        home = "/" if user.isdecimal() else f"~{user}"
        parts.append(f"USER={user} LOGNAME={user} HOME={home}")
    if user and not workdir:
        parts.append('cd "$HOME" 2> /dev/null || cd /')
    parts += ["unset OLDPWD", *_surroundings(env, workdir), _last(command, user, size)]
    return _one_line("; ".join(parts)).encode("utf-8", "surrogateescape") + b"\n"


def code_for(command: Sequence[str], *, env: Iterable[tuple[str, str]], workdir: str) -> str:
    """A command for ``sh -c`` of a guest."""
    return "; ".join([*_surroundings(env, workdir), _last(command, "", None)])


def _surroundings(env: Iterable[tuple[str, str]], workdir: str) -> list[str]:
    found = [f"export {name}={shlex.quote(value)}" for name, value in env]
    return [*found, f"cd -- {shlex.quote(workdir)} || exit 126"] if workdir else found


def _last(command: Sequence[str], user: str, size: tuple[int, int] | None) -> str:
    """What the runner becomes."""
    if not command:
        line = 'exec "$(command -v bash || command -v sh)" -l'
    elif len(command) == 1:
        line = command[0]
    else:
        line = "exec " + " ".join(map(shlex.quote, command))
    if user:
        switch = f"exec setpriv --reuid={user} {_groups(user)}"
        line = f"{switch} /bin/sh -c {shlex.quote(line)}"
    if size is not None:
        line = f"tty > {_FOLDER}/tty; stty sane rows {size[0]} cols {size[1]}; {line}"
        line = f"exec script -qefc {shlex.quote(line)} /dev/null"
    return line


def _groups(user: str) -> str:
    if user.isdecimal():
        return f"--regid={user} --clear-groups"
    return f'--regid="$(id -g {user})" --init-groups'


def _one_line(code: str) -> str:
    """The same code on one line, which is what a runner reads."""
    if "\n" not in code:
        return code
    return "eval " + shlex.quote(code).replace("\n", "'\"$nl\"'")
