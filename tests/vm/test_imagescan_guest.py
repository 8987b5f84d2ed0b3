# SPDX-License-Identifier: GPL-2.0-or-later
"""What the files of a machine say, against the running guest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from guesttruth import in_guest, trixie_guest
from machinehelp import TINY, end_all, sysqcache

from sysqcache.attribution.imagescan.elfsymbols import module_functions
from sysqcache.attribution.imagescan.kallsyms import kernel_functions
from sysqcache.attribution.imagescan.reader import ImageContents
from sysqcache.attribution.imagescan.scan import scan
from sysqcache.base import paths
from sysqcache.base.errors import ImageBuildError
from sysqcache.formats.modules import Module, ModuleKind
from sysqcache.guestmap import mapper
from sysqcache.guestmap.session import GuestSession
from sysqcache.machine.instances import ForeignProcess, Instance
from sysqcache.spec.resolve import load

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("x86_engine", "tiny_image", "own_state")]

PATCHED = 0.05
"""Share of the text that a kernel may patch: returns, tracing, alternatives."""


@pytest.fixture(params=["Debian 12", pytest.param("Debian 13", marks=pytest.mark.slow)])
def settings(request: pytest.FixtureRequest) -> list[str]:
    """The tiny guest's own kernel, or the next release's."""
    if request.param == "Debian 12":
        return []
    try:
        guest = trixie_guest()
    except ImageBuildError as error:
        pytest.skip(f"{error.message}: {error.hint}")
    return [f"{part}={guest / part}" for part in ("kernel", "initrd")]


@pytest.fixture
def name(settings: list[str]) -> Iterator[str]:
    """A running guest."""
    options = [word for setting in settings for word in ("--set", setting)]
    sysqcache("boot", TINY, "--detach", "--cache", "off", *options)
    yield "tiny"
    end_all()


@pytest.fixture
def contents(settings: list[str]) -> Iterator[ImageContents]:
    """What its files hold."""
    with scan(load(TINY, settings)) as found:
        yield found


def test_the_kernel_in_memory_is_the_one_of_the_file(name: str, contents: ImageContents) -> None:
    instance = Instance(name)
    process = ForeignProcess(instance.read().process, instance.file(paths.INSTANCE_QEMU_LOG))
    with GuestSession.open(instance.file(paths.INSTANCE_QMP_INTROSPECT), process) as session:
        found = mapper.map_guest(session)
        kernel = found.kernel
        size = kernel.text[1] - kernel.base
        memory = np.frombuffer(session.read_physical(kernel.physical, size), np.uint8)
    assert contents.notes == ()
    assert contents.kernel == Module(ModuleKind.KERNEL, kernel.build_id)
    assert contents.kernel.name == kernel.release
    file = contents.kernel_file(contents.kernel)
    assert file is not None
    assert kernel.kaslr_offset
    image = file.loaded(kernel.kaslr_offset)[:size]
    differs = np.flatnonzero(image != memory)
    assert len(differs) < PATCHED * size
    # without the slide every absolute address differs as well
    assert len(differs) < np.count_nonzero(file.loaded(0)[:size] != memory)
    calls = np.flatnonzero((image[:-4] == 0xE8) & (memory[:-4] == 0x0F) & (memory[1:-3] == 0x1F))
    assert len(calls) > 10_000  # of __fentry__, for tracing
    known = {file.module for file in contents.files}
    for module in found.modules:
        assert Module(ModuleKind.KERNEL_MODULE, module.build_id) in known
    check_functions(name, contents, {one.name: one.text[0] for one in found.modules}, kernel.base)


def check_functions(name: str, contents: ImageContents, starts: dict[str, int], base: int) -> None:
    """The guest's own list of functions, of the kernel and of modules, agrees with ours."""
    script = "grep ' [tT] ' /proc/kallsyms | awk 'NF == 4 || NR % 50 == 0'"
    rows = [line.split() for line in in_guest(name, script).splitlines()]
    assert contents.kernel is not None
    file = contents.kernel_file(contents.kernel)
    assert file is not None
    known = {"": places(kernel_functions(file))}
    for one in contents.files:
        if one.module.kind is ModuleKind.KERNEL_MODULE and one.module.name in starts:
            known[one.module.name] = places(module_functions(contents.open(one)))
    checked = {"kernel": 0, "module": 0}
    for address, _, symbol, *owner in rows:
        of = owner[0].strip("[]") if owner else ""
        offset = int(address, 16) - starts.get(of, base)
        # BPF programs are listed as well, and labels of modules that are no functions
        if of not in known or (of and symbol not in known[of]):
            continue
        assert offset in known[of][symbol], f"{symbol} of {of or 'the kernel'}"
        checked["module" if of else "kernel"] += 1
    assert checked["kernel"] > 500
    assert checked["module"] > 100


def places(functions: list[tuple[int, int, str]]) -> dict[str, set[int]]:
    """Offsets by name: static functions of one name are many."""
    found: dict[str, set[int]] = {}
    for offset, _, name in functions:
        found.setdefault(name, set()).add(offset)
    return found
