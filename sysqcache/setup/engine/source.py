# SPDX-License-Identifier: GPL-2.0-or-later
"""Obtaining QEMU's source: Debian's source package, a release archive, or a directory."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.base.errors import EngineBuildError
from sysqcache.setup.apt import sources
from sysqcache.setup.apt.private import PrivateApt
from sysqcache.setup.work import Work

SUITE: Final = "trixie"
SERIES: Final = "10.0"
_APT_ROOT: Final = f"apt-{SUITE}"
_OTHER_SOURCE: Final = "give QEMU's source yourself: sysqcache engine build --source DIR|TARBALL"


@dataclass(frozen=True)
class SourceTree:
    """An unpacked source.

    :param version: from its VERSION file, such as "10.0.13".
    :param origin: where it is from: Debian's version, or the path given.
    """

    directory: Path
    version: str
    origin: str


def debian_apt(work: Work) -> PrivateApt:
    """An apt for the suite that holds the source, at this machine's own mirrors.

    Its files stay in the cache directory, so that nothing is fetched twice.
    :raises EngineBuildError: no Debian mirror is configured, or its keyring is missing.
    """
    archives = sources.for_suite(sources.read_sources(), SUITE, "deb", "deb-src")
    sources.require(archives, EngineBuildError, _OTHER_SOURCE)
    if not sources.DEBIAN_KEYRING.is_file():
        raise EngineBuildError(
            f"{sources.DEBIAN_KEYRING} is missing: apt can't check signatures",
            hint="apt-get install debian-archive-keyring",
        )
    return PrivateApt(paths.downloads_dir() / _APT_ROOT, archives, work)


def fetch(apt: PrivateApt) -> Path:
    """Fetch Debian's source package of QEMU; gives its ``.dsc`` file.

    :raises EngineBuildError: the mirror has no such package.
    """
    try:
        return apt.download_source("qemu")
    except EngineBuildError as err:
        # the second is what apt says when the mirror has no list of sources at all
        if not any(text in err.detail for text in ("find a source package", "'deb-src' URIs")):
            raise
        raise EngineBuildError(
            f"the mirror has no source package of QEMU in {SUITE}",
            hint=_OTHER_SOURCE,
            detail=err.detail,
        ) from None


def from_debian(dsc: Path, target: Path, work: Work) -> SourceTree:
    """Unpack Debian's source package, with Debian's own patches applied.

    :raises EngineBuildError: it is not 10.0.x.
    """
    # apt has checked the hashes against the signed index already
    work.run(["dpkg-source", "--no-check", "-x", dsc, target])
    return SourceTree(target, check_version(target), dsc.stem.removeprefix("qemu_"))


def from_path(source: Path, target: Path, work: Work) -> SourceTree:
    """Copy a source directory, or unpack a source archive, into ``target``.

    :raises EngineBuildError: it is neither, or not QEMU 10.0.x.
    """
    if source.is_dir():
        check_version(source)
        ignored = shutil.ignore_patterns(".git", "build", "build-*")
        shutil.copytree(source, target, symlinks=True, ignore=ignored)
    elif source.is_file():
        target.mkdir()
        work.run(["tar", "-C", target, "--strip-components=1", "-xf", source])
    else:
        raise EngineBuildError(f"{source}: there is no such directory or archive")
    return SourceTree(target, check_version(target), str(source))


def check_version(tree: Path) -> str:
    """The version of a source tree.

    :raises EngineBuildError: it is not QEMU's, or not a 10.0.x release.
    """
    try:
        version = (tree / "VERSION").read_text().strip()
    except OSError:
        raise EngineBuildError(f"{tree} is not a source tree of QEMU: no VERSION file") from None
    match = re.fullmatch(r"10\.0\.(\d+)", version)
    if not match or int(match.group(1)) >= 50:
        raise EngineBuildError(
            f"the source is QEMU {version}, but the patches are for {SERIES}.x",
            hint=f"use a {SERIES}.x release with --source DIR|TARBALL",
        )
    return version
