# SPDX-License-Identifier: GPL-2.0-or-later
"""AppArmor's rules, compiled by its own parser; what the result allows, path by path.

No kernel with AppArmor is needed: the parser prints the automaton that it would load.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sysqcache.base import paths
from sysqcache.libvirt import publish, service
from sysqcache.libvirt.folder import DomainFolder, run_directory
from sysqcache.spec.engines import FIRMWARE

PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
PARSER = shutil.which("apparmor_parser", path=PATH)
pytestmark = pytest.mark.skipif(PARSER is None, reason="apparmor is not installed")

UUID = "7a3f1f0c-52a6-4d6b-9b1c-1d8f6c1c9d11"
OTHER = "7a3f1f0c-52a6-4d6b-9b1c-1d8f6c1c9d12"

PROFILE = """#include <tunables/global>
profile {name} flags=(attach_disconnected) {{
  #include <abstractions/base>
{rules}
}}
"""
BITS = {"x": 1, "w": 2, "r": 4, "l": 0x10, "k": 0x20, "m": 0x40}
OTHERS = 14  # the same bits for files of other users than the process's own

ACCEPTING = re.compile(r"^\{(\d+)\} \(0x ([0-9a-f]+)/", re.MULTILINE)
STATE = re.compile(r"^\{(\d+)\} perms:")
EDGE = re.compile(r"^ {4}.* 0x([0-9a-f]{1,2}) -> \{(\d+)\}")
REST = re.compile(r"^ {4}\[\^(.*)\] -> \{(\d+)\}")
MEMBER = re.compile(r"\\x([0-9a-f]{1,2})|\\(.)|(.)")


def parse(profile: Path, *options: str) -> str:
    done = subprocess.run(
        [str(PARSER), "--skip-kernel-load", "--skip-cache", *options, str(profile)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


class Automaton:
    """What a profile allows for files."""

    def __init__(self, dump: str) -> None:
        # accepting states, then all that have edges; behind them what is not about files
        accepting, states, *_ = dump.split("\n\n")
        self.permissions = {int(n): int(bits, 16) for n, bits in ACCEPTING.findall(accepting)}
        self.edges: dict[tuple[int, int], int] = {}
        self.rest: dict[int, tuple[set[int], int]] = {}
        here = 0
        for line in states.splitlines():
            if found := STATE.match(line):
                here = int(found.group(1))
            elif found := EDGE.match(line):
                self.edges[here, int(found.group(1), 16)] = int(found.group(2))
            elif found := REST.match(line):
                members = MEMBER.findall(found.group(1))
                without = {int(code, 16) if code else ord(a or b) for code, a, b in members}
                self.rest[here] = without, int(found.group(2))
        assert self.edges

    def may(self, path: Path, *, owner: bool) -> str:
        """Letters of what a process may do with ``path``, which is a file of its own user's."""
        state = 1
        for byte in os.fsencode(path):
            without, default = self.rest.get(state, (set(), 0))
            state = self.edges.get((state, byte), 0 if byte in without else default)
        allowed = self.permissions.get(state, 0) >> (0 if owner else OTHERS)
        return "".join(letter for letter, bit in BITS.items() if allowed & bit)


@pytest.fixture(params=["/var/lib/plain", "/srv/a b/{x}*[y]@"])
def home(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(paths.ENV_HOME, request.param)
    return Path(request.param)


def compiled(tmp_path: Path, name: str, rules: str) -> Automaton:
    profile = tmp_path / "profile"
    profile.write_text(PROFILE.format(name=name, rules=rules))
    return Automaton(parse(profile, "--dump=dfa-states"))


def test_what_a_domain_may_do(tmp_path: Path, home: Path) -> None:
    domain, other = DomainFolder(UUID), DomainFolder(OTHER)
    found = compiled(tmp_path, f"libvirt-{UUID}", service.apparmor("qemu"))

    def may(path: Path, *, owner: bool = False) -> str:
        return found.may(path, owner=owner)

    engine = publish.emulator("0123", "x86_64")
    assert may(engine) == "xrm"
    assert may(engine.parents[1] / FIRMWARE / "keymaps" / "en-us") == "r"
    assert may(domain.boot_set) == "r"
    assert may(domain.packs / "abc.pack") == "r"
    for file in (paths.DOMAIN_JOURNAL, paths.DOMAIN_QMP, paths.DOMAIN_QMP_INTROSPECT):
        assert may(domain.run / file, owner=True) == "wrk"
        # as the same user, but of another domain: nothing
        assert may(other.run / file, owner=True) == ""
        assert may(domain.run / file) == ""
    for path in (domain.packs / "abc.pack", domain.boot_set, engine):
        assert "w" not in may(path, owner=True)
    for path in (
        domain.packs,
        domain.waiting / "a.journal",
        domain.directory / paths.DOMAIN_STATE,
        paths.libvirt_dir() / paths.LIBVIRT_STORES / UUID / "packs" / "abc.pack",
        run_directory(domain.copy_uuid) / paths.DOMAIN_QMP,
        home / "libvirt",
    ):
        assert may(path, owner=True) == "", path


def test_the_copy_that_is_measured_has_a_folder_of_its_own(tmp_path: Path, home: Path) -> None:
    del home
    domain = DomainFolder(UUID)
    found = compiled(tmp_path, f"libvirt-{domain.copy_uuid}", service.apparmor("qemu"))
    copied = run_directory(domain.copy_uuid) / paths.DOMAIN_QMP
    assert found.may(copied, owner=True) == "wrk"
    assert found.may(domain.boot_set, owner=False) == "r"
    assert found.may(domain.run / paths.DOMAIN_JOURNAL, owner=True) == ""


def test_libvirt_may_ask_the_engine(tmp_path: Path, home: Path) -> None:
    del home
    found = compiled(tmp_path, "libvirtd", service.apparmor("libvirtd"))
    assert "x" in found.may(publish.emulator("0123", "aarch64"), owner=False)
    assert "w" not in found.may(publish.emulator("0123", "aarch64"), owner=True)


def test_the_command_names_what_it_takes() -> None:
    command = [sys.executable, "-m", "sysqcache", "libvirt", "apparmor"]
    done = subprocess.run([*command, "kvm"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "qemu or libvirtd" in done.stderr
    done = subprocess.run([*command, "qemu"], check=True, capture_output=True, text=True)
    assert done.stdout == service.apparmor("qemu")
