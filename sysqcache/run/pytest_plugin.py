# SPDX-License-Identifier: GPL-2.0-or-later
"""The fixture ``guest``: a fresh machine for each test (docs/run.md)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sysqcache.run.api import Guest, machine


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which machine tests get."""
    text = "vm.yaml or image of the fixture guest"
    parser.addoption("--guest", metavar="VM.yaml|IMAGE", default="", help=text)
    parser.addini("guest", text, default="")


def pytest_configure(config: pytest.Config) -> None:
    """Describe the mark that asks for another machine."""
    text = "guest(source, **overrides): the machine of the fixture guest"
    config.addinivalue_line("markers", text)


@pytest.fixture
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A machine from its template, which goes with the test."""
    mark = request.node.get_closest_marker("guest")
    config = request.config
    source = mark.args[0] if mark and mark.args else config.getoption("--guest")
    if not source and (written := config.getini("guest")):
        source = _from(config.rootpath, str(written))
    if not source:
        pytest.fail("no machine is named: --guest, guest in pytest's ini file, or a mark", False)
    with machine(source, **(mark.kwargs if mark else {})) as found:
        yield found


def _from(folder: Path, written: str) -> str:
    """A vm.yaml as pytest's ini file names it, or an image's name."""
    file = folder / written
    return str(file) if file.is_file() else written
