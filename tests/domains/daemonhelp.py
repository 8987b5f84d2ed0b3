# SPDX-License-Identifier: GPL-2.0-or-later
"""A libvirtd of the tests' own, with the QEMU driver, beside any other on this host.

It runs as root in a mount namespace where /etc/libvirt, /var/lib, /var/cache, /var/log and
/run are directories of the tests, and where the user exists that QEMU runs as. Its socket
can be reached from outside by the directory's real name.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt

libvirt.registerErrorHandler(lambda *_: None, None)  # else it prints each error

QEMU_UID = 64055  # libvirt-qemu on Debian

_CONFIG = {
    "qemu.conf": 'security_driver = "none"\ncgroup_controllers = []\nnamespaces = []\n',
    "libvirtd.conf": 'auth_unix_rw = "none"\nauth_unix_ro = "none"\n',
}
_SCRIPT = """
mount --bind "$1/etc" /etc/libvirt
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
for name in lib cache log; do mount --bind "$1/$name" "/var/$name"; done
mount --bind "$1/run" /run
# not /usr/bin: libvirtd would ask each emulator there what it can do
PATH="$1/bin:/usr/sbin:/sbin"
virtlogd &
exec libvirtd
"""


def missing() -> str:
    """Why no libvirtd can be started here, "" if one can."""
    if os.geteuid() != 0:
        return "a libvirtd of our own needs root"
    for program in ("libvirtd", "virtlogd", "virsh", "unshare"):
        if shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None:
            return f"{program} is not installed"
    done = subprocess.run(
        ["unshare", "-m", "mount", "--bind", "/etc", "/etc"], check=False, capture_output=True
    )
    return "" if done.returncode == 0 else "mounts are not allowed here"


class Daemon:
    """libvirtd and virtlogd in ``directory``; both end with :meth:`stop`.

    :param qemu_img: the tool that libvirtd finds.
    :param more: further lines of libvirtd.conf.
    """

    def __init__(self, directory: Path, qemu_img: Path, more: str = "") -> None:
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("bin", "etc/hooks", "lib/libvirt/qemu", "cache/libvirt", "log/libvirt", "run"):
            (directory / name).mkdir(parents=True)
        (directory / "bin" / "qemu-img").symlink_to(qemu_img)
        for name, text in _CONFIG.items():
            (directory / "etc" / name).write_text(text)
        with (directory / "etc" / "libvirtd.conf").open("a") as config:
            config.write(more)
        for name, line in (
            ("passwd", f"libvirt-qemu:x:{QEMU_UID}:{QEMU_UID}::/var/lib/libvirt:/bin/false\n"),
            ("group", f"libvirt-qemu:x:{QEMU_UID}:\n"),
        ):
            others = Path("/etc", name).read_text().splitlines(keepends=True)
            kept = [other for other in others if not other.startswith("libvirt-qemu:")]
            (directory / name).write_text("".join(kept) + line)

    @property
    def uri(self) -> str:
        """For virsh and sysqcache."""
        return f"qemu+unix:///system?socket={self.directory}/run/libvirt/libvirt-sock"

    @property
    def read_only_uri(self) -> str:
        """The socket that may only read."""
        return f"qemu+unix:///system?socket={self.directory}/run/libvirt/libvirt-sock-ro"

    def start(self) -> None:
        """Start both, and wait until libvirtd answers."""
        with (self.directory / "libvirtd.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", _SCRIPT, "sh", str(self.directory)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"},
            )
        eventually(self._answers, 30)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "libvirtd.log").read_text()
        with contextlib.suppress(libvirt.libvirtError):
            libvirt.open(self.uri).close()
            return True
        return False

    def stop(self) -> None:
        """End both; domains that run go on."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(20)
        self._process = None

    @property
    def inside(self) -> list[str]:
        """What to put before a command that shall see what libvirtd and QEMU see."""
        assert self._process is not None
        return ["nsenter", "--mount", "--target", str(self._process.pid)]

    def alive(self) -> bool:
        """Whether libvirtd still runs: a crash would go unnoticed otherwise."""
        return self._process is not None and self._process.poll() is None

    def virsh(self, *arguments: object, code: int | None = 0) -> str:
        """Run virsh; its output."""
        done = subprocess.run(
            ["virsh", "-q", "-c", self.uri, *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


def eventually(condition: Callable[[], Any], timeout: float = 60.0) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
