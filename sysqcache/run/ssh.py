# SPDX-License-Identifier: GPL-2.0-or-later
"""A way into a running machine for the user's own ssh: key, port and host keys.

The key is ours, one for all machines of this user, and is put into the guest by its own
command channel; so are the guest's host keys read. A machine without a port that leads to its
sshd is given one.
"""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.base.errors import GuestCommandError, SetupError, UsageError
from sysqcache.base.files import make_directory, replace_file
from sysqcache.machine.instances import Instance
from sysqcache.machine.launch.ports import free_port
from sysqcache.machine.running import Machine
from sysqcache.run.guestside import is_user
from sysqcache.spec.spec import Forward

_PORT: Final = 22
_KEY: Final = "id_ed25519"
_FOLDER: Final = "ssh"
_KNOWN_HOSTS: Final = "known_hosts"
_TIMEOUT: Final = 30.0
_NO_SSHD: Final = 3

_LET_IN: Final = """\
[ -x /usr/sbin/sshd ] || command -v sshd > /dev/null || exit 3
user={user}
home=~{user}
umask 77
mkdir -p "$home/.ssh"
grep -qxF {key} "$home/.ssh/authorized_keys" 2> /dev/null ||
    echo {key} >> "$home/.ssh/authorized_keys"
chown -R "$user:" "$home/.ssh"
cat /etc/ssh/ssh_host_*_key.pub
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Way:
    """How ssh gets into a machine."""

    name: str
    user: str
    address: str
    port: int
    key: Path
    known_hosts: Path

    @property
    def options(self) -> dict[str, str]:
        """Of ssh_config(5)."""
        return {
            "HostName": self.address,
            "Port": str(self.port),
            "User": self.user,
            "IdentityFile": f'"{self.key}"',
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": f'"{self.known_hosts}"',
            "HostKeyAlias": self.name,
            "StrictHostKeyChecking": "yes",
        }

    def config(self) -> str:
        """A part of an ssh_config file."""
        lines = [f"    {name} {value}" for name, value in self.options.items()]
        return "\n".join([f"Host {self.name}", *lines]) + "\n"

    def command(self, words: Sequence[str]) -> list[str]:
        """The command line of ssh, with a command for the guest or none."""
        options = [part for pair in self.options.items() for part in ("-o", "=".join(pair))]
        return ["ssh", *options, self.name, *words]


def way_into(name: str, user: str = "root") -> Way:
    """Let ssh into a running machine.

    Raises :class:`MachineError`, :class:`GuestCommandError` when the guest has no sshd or
    can't be told the key, :class:`SetupError` when this host has no ssh.
    """
    if not is_user(user):
        raise UsageError(f"no user can be called {user!r}")
    key = own_key()
    with Machine.attach(name) as machine:
        forward = _forward(machine)
        known = _let_in(machine, user, Path(f"{key}.pub").read_text(encoding="ascii").strip())
    return Way(name, user, forward.address, forward.host, key, known)


def own_key() -> Path:
    """Our private key, which is made when it is not there. Raises :class:`SetupError`."""
    folder = paths.state_dir() / _FOLDER
    file = folder / _KEY
    if file.exists():
        return file
    make_directory(folder)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "sysqcache"]
        new = Path(made) / _KEY
        try:
            subprocess.run([*command, "-f", new], check=True, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SetupError(
                f"no key for ssh can be made: {error}", hint="install openssh-client"
            ) from None
        # the private one last: who sees it finds both
        replace_file(folder / f"{_KEY}.pub", Path(f"{new}.pub").read_bytes())
        replace_file(file, new.read_bytes())
    return file


def _forward(machine: Machine) -> Forward:
    """The host port that leads to the guest's sshd; a new one if there is none."""
    for one in machine.state.forwards:
        if one["guest"] == _PORT and one["protocol"] == "tcp":
            return Forward(**one)
    forward = Forward(0, _PORT)
    forward = dataclasses.replace(forward, host=free_port(forward))
    rule = f"hostfwd_add net0 tcp:{forward.address}:{forward.host}-:{_PORT}"
    said = machine.qmp.execute("human-monitor-command", {"command-line": rule})
    if said:
        raise GuestCommandError(
            f"{machine.state.name} can't be given a port for ssh: {str(said).strip()}",
            hint="it needs network: user in vm.yaml",
        )
    forwards = (*machine.state.forwards, dataclasses.asdict(forward))
    machine.instance.update(forwards=forwards)
    return forward


def _let_in(machine: Machine, user: str, key: str) -> Path:
    """Tell the guest our key; the file with its host keys."""
    script = _LET_IN.format(user=user, key=shlex.quote(key))
    done = machine.run(script, _TIMEOUT)
    if done.exit == _NO_SSHD:
        raise GuestCommandError(
            f"{machine.state.name} has no sshd",
            hint=f"install openssh-server in it, or: sysqcache exec {machine.state.name} -- CMD",
        )
    keys = [line for line in done.stdout.splitlines() if line.startswith(("ssh-", "ecdsa-"))]
    if done.exit or not keys:
        raise GuestCommandError(
            f"ssh can't be let into {machine.state.name} as {user}", detail=done.stderr.strip()
        )
    lines = (f"{machine.state.name} {' '.join(line.split()[:2])}\n" for line in keys)
    file = _file_of(machine.instance)
    replace_file(file, "".join(lines).encode())
    return file


def _file_of(instance: Instance) -> Path:
    return instance.file(_KNOWN_HOSTS)
