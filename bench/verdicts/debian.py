# SPDX-License-Identifier: GPL-2.0-or-later
"""Suites that Debian's packages bring: stress-ng's methods, python's and perl's own tests."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bench.verdicts import image
from sysqcache.base import paths
from sysqcache.base.errors import ImageBuildError
from sysqcache.setup.apt import sources
from sysqcache.setup.apt.private import PrivateApt
from sysqcache.setup.work import Listener, Work, alone, published, scratch

_STRESS: Final = Path(__file__).with_name("stress-ng.txt")
_PERL: Final = Path(__file__).with_name("perl.txt")
_PYTHON: Final = Path(__file__).with_name("python.txt")

_OPS: Final = {
    "cpu": 1, "vm": 1, "matrix": 5, "str": 5, "wcs": 5, "zlib": 1, "hash": 5, "memcpy": 2
}  # fmt: skip
_SIZES: Final = {"vm": " --vm-bytes 1M", "matrix": " --matrix-size 32"}

STRESS_FILTER: Final = (
    # a line is "stress-ng: level: [pid] text"; times and what the machine's load makes of them go
    "sed -n -E -e 's/^stress-ng: (fail|error|warn|info): *\\[[0-9]+\\] */\\1 /' "
    "-e '/passed:|failed:|skipped:|^fail|^error|unsuccessful|successful run/ {"
    "s/ (in|completed in) [0-9].*//; s/[0-9]+\\.[0-9]+//g; p }' | sort -u"
)
"""Which stressors passed, failed and were skipped; failures with what they say."""


def stressors(text: str) -> dict[str, list[str]]:
    """Stressor -> its methods; those without are the methods of ""."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in _words(text):
        if word.endswith(":"):
            name = word[:-1]
        else:
            found.setdefault(name, []).append(word)
    return found


def _words(text: str) -> list[str]:
    """Of all lines but comments."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return [word for line in lines for word in line.split()]


def stress(_folder: Path) -> dict[str, str]:
    """Each method of a stressor as a test, and each other stressor."""
    found = {}
    for stressor, methods in stressors(_STRESS.read_text()).items():
        for method in methods:
            if stressor:
                more = f" --{stressor}-method {method}"
                found[f"{stressor}:{method}"] = _stress(stressor, more)
            else:
                found[method] = _stress(method, "")
    return found


def _stress(stressor: str, more: str) -> str:
    ops, size = _OPS.get(stressor, 2), _SIZES.get(stressor, "")
    return (
        f"stress-ng --verify --no-rand-seed --timeout 60 --temp-path . "
        f"--{stressor} 1 --{stressor}-ops {ops}{more}{size}"
    )


PYTHON_FILTER: Final = "sed -n -E '/^(Ran|OK|FAIL|ERROR)/ { s/ in [0-9.]+s$//; p }'"
"""How many tests ran and passed, and the names of those that did not."""


def python(_folder: Path) -> Mapping[str, str]:
    """Each module as a test."""
    return {
        name: f"PYTHONHASHSEED=0 python3 -m unittest -q test.{name}"
        for name in _words(_PYTHON.read_text())
    }


_PERL_TREE: Final = "bench-perl-tests"
PERL_FILTER: Final = "sed -n -E 's/^((not )?ok [0-9]+|1\\.\\.[0-9]+).*/\\1/p'"
"""Which of a file's tests passed; what they are called may have addresses in it."""

_PERL_SETUP: Final = """\
# Lays out perl's tests as in its source, with the installed libraries in place of its own.
[ -d /tmp/perl ] && exit
mkdir -p /tmp/perl/lib
cp -r /suite/perl/t /tmp/perl
cp -rsf /usr/lib/x86_64-linux-gnu/perl-base/. /tmp/perl/lib
cp -rsf /usr/lib/x86_64-linux-gnu/perl/5.36/. /tmp/perl/lib
cp -rsf /usr/share/perl/5.36/. /tmp/perl/lib
"""


def perl_tree(listener: Listener) -> Path:
    """The tests of perl's source package, fetched once; kept in the cache.

    :raises ImageBuildError: Debian's mirror has no such package.
    """
    target = paths.cache_dir() / _PERL_TREE
    with alone(paths.build_lock(), listener):
        if (target / "t").is_dir():
            return target
        work = Work(paths.logs_dir() / f"{_PERL_TREE}.log", ImageBuildError, listener)
        archives = sources.for_suite(sources.read_sources(), image.recipe().suite, "deb", "deb-src")
        sources.require(archives, ImageBuildError)
        with (
            work.step("fetch perl's source"),
            scratch(paths.downloads_dir(), "perl") as rough,
            published(target) as output,
        ):
            apt = PrivateApt(rough / "apt", archives, work)
            apt.update()
            dsc = apt.download_source("perl")
            work.run(["dpkg-source", "--no-check", "-x", dsc, rough / "perl"])
            shutil.copytree(rough / "perl" / "t", output / "t", symlinks=True)
    return target


def perl(folder: Path) -> dict[str, str]:
    """Each file of tests as a test."""
    tree = paths.cache_dir() / _PERL_TREE
    shutil.copytree(tree, folder / "perl", symlinks=True)
    (folder / "perl.sh").write_text(_PERL_SETUP)
    return {
        name: f"sh /suite/perl.sh; cd /tmp/perl/t && perl {name.replace(':', '/')}.t"
        for name in _words(_PERL.read_text())
    }
