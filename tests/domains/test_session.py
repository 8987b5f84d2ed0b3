# SPDX-License-Identifier: GPL-2.0-or-later
"""qemu:///session: a libvirtd of a user without privileges, and sysqcache as that user."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemonhelp import eventually, missing
from domainhelp import COMMAND, Watching, definition

from sysqcache.base import paths
from sysqcache.spec.catalog import ImagePaths
from sysqcache.spec.engines import ENV_ENGINE, Engine

pytestmark = [pytest.mark.vm, pytest.mark.slow]

UID = 64123
NAME = "session-user"

_SCRIPT = """
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
exec setpriv --reuid "$2" --regid "$2" --clear-groups libvirtd
"""


class Session:
    """A user's libvirtd, in a mount namespace where the user exists."""

    def __init__(self, directory: Path, engine: Engine, image: ImagePaths) -> None:
        assert image.kernel is not None
        assert image.initrd is not None
        # short: a socket's path has at most 107 bytes
        self.directory = self.home = directory
        for name in (".config/libvirt", "run", "files", "bin"):
            (directory / name).mkdir(parents=True)
        shutil.copyfile(image.kernel, directory / "files" / "kernel")
        shutil.copyfile(image.initrd, directory / "files" / "initrd")
        shutil.copytree(engine.dir, directory / "files" / "own")
        (directory / "bin" / "qemu-img").symlink_to(directory / "files" / "own/bin/qemu-img")
        config = self.home / ".config" / "libvirt" / "qemu.conf"
        config.write_text('stdio_handler = "file"\n')  # without virtlogd
        for name, line in (
            ("passwd", f"{NAME}:x:{UID}:{UID}::{self.home}:/bin/sh\n"),
            ("group", f"{NAME}:x:{UID}:\n"),
        ):
            (directory / name).write_text(Path("/etc", name).read_text() + line)
        for path in (directory, directory / "run", *(directory / ".config").rglob("*")):
            os.chown(path, UID, UID)
        os.chown(directory / ".config", UID, UID)
        self.environment = {
            "PATH": f"{directory}/bin:{os.environ['PATH']}:/usr/sbin:/sbin",
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(directory / "run"),
            "LIBVIRT_DEFAULT_URI": "qemu:///session",
            ENV_ENGINE: str(directory / "files" / "own"),
            "LC_ALL": "C.UTF-8",
        }
        self.log = directory / "libvirtd.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", _SCRIPT, "sh", str(directory), str(UID)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                cwd="/",
            )

    def inside(self, *command: object) -> list[str]:
        """A command as the user, where the user is known."""
        enter = ["nsenter", "--mount", "--target", str(self.process.pid), "--wd=/"]
        become = ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "--"]
        return [*enter, *become, *map(str, command)]

    def run(self, *command: object, code: int | None = 0) -> str:
        """Run a command as the user; what it says."""
        done = subprocess.run(
            self.inside(*command),
            check=False,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=120,
        )
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def write(self, text: str) -> Path:
        """A file with a definition."""
        path = self.home / "domain.xml"
        path.write_text(text)
        return path

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run(*COMMAND, "status", "mine", "--json"))
        return found

    def start(self) -> None:
        """Start the domain and wait until its guest is ready."""
        serial = self.home / "serial.log"
        serial.unlink(missing_ok=True)
        self.run("virsh", "start", "mine")
        eventually(lambda: serial.exists() and b"sysqcache: ready" in serial.read_bytes(), 90)

    @contextlib.contextmanager
    def watched(self) -> Iterator[Watching]:
        """With the user's watcher beside it."""
        log = self.directory / "watch.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                self.inside(*COMMAND, "watch"),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=self.environment,
            )
        watching = Watching(log)
        try:
            watching.wait("watching the domains")
            yield watching
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, watching.text()


@pytest.fixture
def session(x86_engine: Engine, tiny_image: ImagePaths) -> Iterator[Session]:
    pytest.importorskip("libvirt")
    if why := missing():
        pytest.skip(why)
    directory = Path(tempfile.mkdtemp(prefix="sqc-"))
    directory.chmod(0o755)
    found = Session(directory, x86_engine, tiny_image)
    try:
        # a checkout in the home of root, say
        probe = found.inside(sys.executable, "-c", "import sysqcache")
        if subprocess.run(probe, check=False).returncode:
            pytest.skip(f"other users can't run {sys.executable} with this checkout")
        eventually((directory / "run/libvirt/libvirt-sock").exists, 30)
        yield found
    finally:
        found.run("virsh", "destroy", "mine", code=None)
        found.process.terminate()
        found.process.wait(20)
        shutil.rmtree(directory)


def may_trace() -> bool:
    """Whether a user may read the memory of the own processes."""
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    return not scope.exists() or scope.read_text().strip() == "0"


def test_a_user_s_domain_starts_warm(session: Session) -> None:
    xml = definition("mine", session.directory / "files", session.home)
    disk = session.home / "disk.qcow2"
    session.run("qemu-img", "create", "-q", "-f", "qcow2", disk, "64M")
    session.run("virsh", "define", session.write(xml))
    session.run("virsh", "define", session.write(session.run("virsh", "dumpxml", "mine")))
    before = session.run("virsh", "dumpxml", "mine")
    session.run(*COMMAND, "enable", "mine")
    with session.watched() as watching:
        session.start()
        recorded = session.status()["blocks"]["recorded"]
        assert recorded > 20_000
        eventually(lambda: watching.looked_after() > recorded - 1000)
        session.run("virsh", "destroy", "mine")
        watching.wait("new blocks")
        last = session.status()["last_run"]
        assert last["blocks_new"] > 20_000
        if may_trace():
            assert last["attributed"] > 0.9 * last["recorded"]
        session.start()
        assert session.status()["blocks"]["hit_rate"] > 0.9
        session.run("virsh", "destroy", "mine")
        watching.wait("new blocks", 2)
    session.run(*COMMAND, "disable", "mine")
    assert session.run("virsh", "dumpxml", "mine") == before
    left = session.home / ".local/state/sysqcache" / paths.libvirt_dir().name
    assert not left.exists()
