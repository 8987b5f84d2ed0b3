# SPDX-License-Identifier: GPL-2.0-or-later
"""An apt with lists and cache of its own, so that the machine's stay as they are."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sysqcache.setup.apt.sources import Source, acquire_options
from sysqcache.setup.work import Work

_SOURCES: Final = "debian.sources"


class PrivateApt:
    """Fetches packages of the given archives; signatures are checked by apt as always.

    :param root: directory for lists, cache and configuration; made when missing.
    :param work: runs apt and logs it.
    :param architecture: Debian's name of the one that packages are for; "" is the machine's.
    """

    def __init__(
        self, root: Path, sources: Sequence[Source], work: Work, architecture: str = ""
    ) -> None:
        self.root = root.absolute()
        self._work = work
        self._architecture = architecture
        for name in ("lists/partial", "cache/archives/partial", "download"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / _SOURCES).write_text("\n".join(s.deb822() for s in sources))
        (self.root / "status").touch()
        (self.root / "apt.conf").write_text(self._config())

    def _config(self) -> str:
        settings = {
            # the machine's own hooks and pins are not for this apt
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::Etc::sourcelist": str(self.root / _SOURCES),
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State": str(self.root),
            "Dir::State::lists": str(self.root / "lists"),
            "Dir::State::status": str(self.root / "status"),
            "Dir::Cache": str(self.root / "cache"),
            "APT::Get::List-Cleanup": "false",
            "APT::Sandbox::User": "root",  # the user _apt can't write below a private directory
            "Acquire::Languages": "none",
            **host_options(),
        }
        if self._architecture:
            settings["APT::Architecture"] = self._architecture
            # a list, which has to be emptied of what dpkg says first
            settings["APT::Architectures::"] = self._architecture
        text = "".join(f'{name} "{value}";\n' for name, value in settings.items())
        return f"#clear APT::Architectures;\n{text}" if self._architecture else text

    def _run(self, *argv: str, cwd: Path | None = None) -> str:
        env = {"APT_CONFIG": str(self.root / "apt.conf")}
        hint = "check the mirror in /etc/apt and the network"
        return self._work.run(argv, cwd=cwd, env=env, hint=hint)

    @property
    def has_lists(self) -> bool:
        """Whether package lists were fetched before."""
        return any(path.is_file() for path in (self.root / "lists").glob("*Release"))

    def update(self) -> None:
        """Fetch the package lists."""
        self._run("apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any")

    def depends(self, package: str) -> list[str]:
        """Names of the packages that ``package`` depends on directly."""
        text = self._run("apt-cache", "depends", "--important", "--no-recommends", package)
        words = (line.split() for line in text.splitlines())
        return [w[-1] for w in words if len(w) >= 2 and w[-2].lstrip("|") == "Depends:"]

    def names(self, start: str) -> list[str]:
        """Names of the packages that begin with ``start``, those of other architectures too."""
        return self._run("apt-cache", "pkgnames", start).split()

    def versions(self, package: str) -> list[str]:
        """Versions of a binary package that the archives have, newest first, without repeats."""
        text = self._run("apt-cache", "madison", package)
        rows = ([part.strip() for part in line.split("|")] for line in text.splitlines())
        return list(dict.fromkeys(row[1] for row in rows if len(row) >= 3 and row[0] == package))

    def download(self, *packages: str) -> list[Path]:
        """Fetch binary packages; gives the ``.deb`` files in the order of ``packages``.

        :param packages: names, each once; ``name=version`` for another version than the newest.
        """
        target = self.root / "download"
        self._run("apt-get", "download", "-q", *packages, cwd=target)
        names = [package.partition("=")[0] for package in packages]
        return [max(target.glob(f"{name}_*.deb")) for name in names]

    def download_source(self, package: str) -> Path:
        """Fetch a source package; gives its ``.dsc`` file."""
        target = self.root / "download"
        self._run(
            "apt-get", "source", "-q", "--download-only", "--only-source", package, cwd=target
        )
        return max(target.glob(f"{package}_*.dsc"), key=lambda p: p.stat().st_mtime_ns)

    def unpack(self, deb: Path, target: Path) -> None:
        """Unpack a ``.deb`` below ``target`` without installing it."""
        target.mkdir(parents=True, exist_ok=True)
        self._work.run(["dpkg-deb", "-x", deb, target])


def host_options() -> dict[str, str]:
    """The machine's own settings for fetching (proxy, dates, retries)."""
    dump = subprocess.run(
        ["apt-config", "dump"], capture_output=True, text=True, errors="replace", check=False
    )
    return acquire_options(dump.stdout)
