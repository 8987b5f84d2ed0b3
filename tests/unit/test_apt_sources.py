# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading apt's configuration and deriving archives of another suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from sysqcache.setup.apt import sources
from sysqcache.setup.apt.sources import Source

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://vendor.example/linux/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
"""

LIST = """\
# deb http://commented.example/debian bookworm main
deb http://one.example/debian/ bookworm main contrib # trailing
deb-src [arch=amd64 signed-by=/k/debian-archive-keyring.gpg] http://two.example/debian bookworm main
deb http://security.example/debian-security bookworm-security main
deb [signed-by=/etc/apt/keyrings/vendor.gpg] http://vendor.example/debian bookworm main
deb http://vendor.example/apt vendor-suite main
nonsense
"""


def apt_dir(tmp_path: Path, **files: str) -> Path:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    for name, text in files.items():
        path = tmp_path / "sources.list" if name == "main" else parts / name.replace("__", ".")
        path.write_text(text)
    return tmp_path


def test_deb822_stanzas() -> None:
    found = sources.parse_deb822(DEB822)
    assert [s.uris for s in found] == [
        ("http://mirror.example/debian",),
        ("http://mirror.example/debian-security",),
        ("http://vendor.example/linux/debian",),
    ]
    assert found[0].types == ("deb", "deb-src")
    assert found[0].suites == ("bookworm", "bookworm-updates")
    assert "BEGIN PGP" in found[2].signed_by


def test_one_line_entries() -> None:
    found = sources.parse_list(LIST)
    assert len(found) == 5
    assert found[0] == Source(
        ("deb",), ("http://one.example/debian/",), ("bookworm",), ("main", "contrib")
    )
    assert found[1].types == ("deb-src",)
    assert found[1].signed_by.endswith("debian-archive-keyring.gpg")


def test_other_vendors_are_left_out() -> None:
    for text, parse in ((DEB822, sources.parse_deb822), (LIST, sources.parse_list)):
        uris = [uri for s in sources.debian_sources(parse(text)) for uri in s.uris]
        assert uris
        assert not any("vendor" in uri for uri in uris)


def test_mirrors_are_those_of_the_main_archive() -> None:
    assert sources.mirrors(sources.parse_deb822(DEB822)) == ["http://mirror.example/debian"]
    assert sources.mirrors(sources.parse_list(LIST)) == [
        "http://one.example/debian/",
        "http://two.example/debian",
    ]


def test_another_suite_uses_the_same_mirror() -> None:
    (source,) = sources.for_suite(sources.parse_deb822(DEB822), "trixie", "deb-src")
    assert source.deb822() == (
        "Types: deb-src\n"
        "URIs: http://mirror.example/debian\n"
        "Suites: trixie\n"
        "Components: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    )


def test_the_machines_own_release_keeps_updates_and_security() -> None:
    found = sources.for_release(sources.parse_deb822(DEB822), "bookworm")
    assert [(s.uris, s.suites) for s in found] == [
        (("http://mirror.example/debian",), ("bookworm", "bookworm-updates")),
        (("http://mirror.example/debian-security",), ("bookworm-security",)),
    ]
    assert {s.components for s in found} == {("main",)}


def test_another_release_comes_from_the_main_mirror() -> None:
    found = sources.for_release(sources.parse_deb822(DEB822), "trixie")
    assert [(s.uris, s.suites) for s in found] == [(("http://mirror.example/debian",), ("trixie",))]


def test_no_debian_mirror_gives_nothing() -> None:
    ubuntu = sources.parse_list("deb http://archive.example/ubuntu jammy main universe\n")
    assert sources.for_suite(ubuntu, "trixie", "deb-src") == []
    assert sources.for_release(ubuntu, "bookworm") == []


def test_both_notations_are_read_in_order(tmp_path: Path) -> None:
    root = apt_dir(tmp_path, main=LIST, a__sources=DEB822, b__list=LIST, c__disabled="deb x y z")
    assert len(sources.read_sources(root)) == 5 + 3 + 5


def test_a_missing_configuration_is_empty(tmp_path: Path) -> None:
    assert sources.read_sources(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ('Acquire::http::Proxy "http://proxy.example:3128/";', True),
        ('Acquire::Check-Valid-Until "false";', True),
        ('Acquire::Languages:: "none";', False),
        ('Acquire::IndexTargets::deb::Packages::MetaKey "x";', False),
        ('Acquire "";', False),
        ('Dir::Etc "etc/apt/";', False),
    ],
)
def test_options_for_fetching(line: str, kept: bool) -> None:
    assert bool(sources.acquire_options(line)) is kept


def test_round_trip_of_a_stanza() -> None:
    for source in sources.parse_list(LIST):
        assert sources.parse_deb822(source.deb822()) == [source]
