# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever a vm.yaml or --set says, it is refused in words or becomes the machine it names.

SYSQCACHE_FUZZ_EXAMPLES=100000 tries more than the usual few hundred.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sysqcache.base.errors import ConfigError, ImageMissing
from sysqcache.machine.launch import argv
from sysqcache.machine.launch.argv import Launch, TbCache
from sysqcache.spec import resolve, schema
from sysqcache.spec.spec import MachineSpec

EXAMPLES = int(os.environ.get("SYSQCACHE_FUZZ_EXAMPLES", "400"))
SLOW = 1.0
"""Seconds of the processor, so that a busy host proves nothing."""

FILES = ("disk.raw", "a,b=c.raw", "sp ace,readonly=on", "=,,", "d\u00e9,", "new\nline,")
STRANGE = (
    *("", " ", "\0", "a\0b", ",", ",,", "a,b=c", "x\n-snapshot", "-snapshot", "~nobody-here/x"),
    *("~", "\u00b2", "\u0663GiB", "\ud800", "x" * 300, "y" * 5000, "/dev/zero", "fifo", ".."),
    *("::1", "localhost", "1.2.3.4", "127.0.0.1", "127.0.0.1,hostfwd=tcp::99-:99", "0.0.0.0"),
    *("127.1", "255.255.255.255", "image:", "image:..", "image:a\0", f"image:{'z' * 300}"),
    *("image:nope/kernel", "image:tiny-x86_64/disk/x", "1GiB", "9" * 400 + "TiB", "0KiB", "1ms"),
    *("9" * 400 + "h", "(", "(?i)x", "a{99999999999}", "[[a]", "(" * 500, "on", "off", "auto"),
    *("none", "user", "efi", "tcp", "serial", "persistent", "raw", "qcow2", "max,pauth=off"),
    *("{json: 1}", "json:{}", "%s", "$HOME", "\x1b[31m", "\u202e", "/", "a/b", *FILES),
)
SCALARS = st.one_of(
    st.sampled_from(STRANGE),
    st.text(max_size=12),
    st.none() | st.booleans() | st.floats(),
    st.integers(-2, 300) | st.integers(),
)
FIELDS: dict[str, list[str]] = {
    str(name): sorted(one.get("properties", {}))
    for name, one in schema.json_schema()["$defs"].items()
}
TOP = sorted(schema.json_schema()["properties"])


def section(name: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(FIELDS[name]), SCALARS, max_size=4)


SECTIONS: dict[str, st.SearchStrategy[Any]] = {
    "disks": st.lists(
        st.fixed_dictionaries(
            {"file": st.sampled_from(FILES)},
            optional={"mode": st.sampled_from(["persistent", "read-only"]), "format": SCALARS},
        )
        | section("DiskFields"),
        max_size=3,
    ),
    "network": st.fixed_dictionaries(
        {},
        optional={
            "mode": SCALARS,
            "forwards": st.lists(
                st.fixed_dictionaries(
                    {"host": st.integers(0, 70000), "guest": st.integers(0, 70000)},
                    optional={"address": SCALARS, "protocol": st.sampled_from(["tcp", "udp"])},
                ),
                max_size=2,
            ),
        },
    ),
    **{
        name: section(f"{name.capitalize()}Fields")
        for name in ("serial", "ready", "cache", "accelerator")
    },
    "qemu_args": st.lists(SCALARS, max_size=3),
}
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner)
)
MACHINES = st.fixed_dictionaries(
    {},
    optional={
        name: SECTIONS.get(name, SCALARS) | VALUES if name in SECTIONS else SCALARS | VALUES
        for name in TOP
    },
)
FRAGMENTS = (
    *("&a ", "*a", "<<: *a\n", "<<: [*a, *a]\n", "!!binary ", "!x ", "%YAML 1.1\n---\n", "---\n"),
    *(
        "? ",
        "- ",
        "|\n ",
        ">",
        "\t",
        "{",
        "}",
        "[",
        "]",
        ": ",
        ",",
        "'",
        '"',
        "#",
        "\x85",
        "\ufeff",
    ),
    *("2001-99-99", "0x" + "f" * 5000, "9" * 5000, ".inf", "~", "\u2028", "[" * 300, "@", "\ufeff"),
)
KEYS = st.one_of(
    st.sampled_from([*TOP, *(f"{a}.{b}" for a in SECTIONS for b in ("0", "mode", "\u00b2", ""))]),
    st.sampled_from(["disks.0.file", "disks.\u00b2.mode", "disks.-1.mode", "a" + ".a" * 200]),
    st.text(max_size=10),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with names that options could be made of, and one that never ends."""
    made = tmp_path_factory.mktemp("inputs")
    for name in FILES:
        (made / name).write_bytes(bytes(512))
    os.mkfifo(made / "fifo")
    return made


def changed(rng: random.Random, text: str, times: int) -> str:
    for _ in range(times):
        at, end = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
        piece = rng.choice([*FRAGMENTS, text[at : min(end, at + 40)]])
        text = text[:at] + piece + text[at + rng.choice([0, 0, 1, 8]) :]
    return text


@given(
    machine=MACHINES,
    sets=st.lists(st.tuples(KEYS, st.sampled_from(STRANGE) | st.text(max_size=12)), max_size=2),
    rng=st.randoms(use_true_random=False),
    times=st.sampled_from([0, 0, 1, 3]),
)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_vm_yaml(
    folder: Path,
    machine: dict[str, Any],
    sets: list[tuple[str, str]],
    rng: random.Random,
    times: int,
) -> None:
    file = folder / "vm.yaml"
    text = changed(rng, json.dumps(machine), times)
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    begin = time.thread_time()
    try:
        spec = resolve.load(file, [f"{key}={value}" for key, value in sets])
    except (ConfigError, ImageMissing) as error:
        assert error.message
    else:
        require_what_was_written(spec, folder)
    assert time.thread_time() - begin < SLOW, text


def options(value: str) -> list[tuple[str, str]]:
    """A value as QEMU takes it apart: at commas, two of which stand for one."""
    parts = [""]
    position = 0
    while position < len(value):
        if value[position] != ",":
            parts[-1] += value[position]
        elif value[position : position + 2] == ",,":
            parts[-1] += ","
            position += 1
        else:
            parts.append("")
        position += 1
    return [(key, text) for key, _, text in (part.partition("=") for part in parts)]


def require_what_was_written(spec: MachineSpec, folder: Path) -> None:
    """Each value of the specification is where it belongs, and nowhere else."""
    cache = TbCache(spec.cache.mode, folder / "set,", folder / "journal=,", images=folder)
    args = argv.build(Launch(spec, folder / "q,", folder, folder / "r,", spec.disks, cache))
    args = args[: len(args) - len(spec.qemu_args)]
    assert all("\0" not in arg for arg in [*args, *spec.qemu_args])
    os.fsencode("".join(args))

    def of(option: str) -> list[dict[str, str]]:
        values = [args[n + 1] for n, arg in enumerate(args) if arg == option]
        return [dict(options(value)) for value in values]

    assert of("-name")[0] == {"guest": spec.name, "debug-threads": "on"}
    for disk, found in zip(spec.disks, of("-blockdev"), strict=True):
        assert found.pop("file.filename") == str(disk.file)
        known = {"driver", "node-name", "discard", "file.driver", "read-only", "cache.no-flush"}
        assert found.keys() <= known
    log = spec.serial_log or folder / "r," / "serial.log"
    serial = next(chardev for chardev in of("-chardev") if chardev["id"] == "serial0")
    assert serial.keys() == {"socket", "id", "path", "server", "wait", "logfile", "logappend"}
    assert serial["logfile"] == str(log)
    for network in of("-netdev"):
        assert network.keys() <= {"user", "id", "hostfwd"}
    if spec.cache.mode != "off":
        found = of("-object")[0]
        assert found["boot-set"] == str(folder / "set,")
        assert found["journal"] == str(folder / "journal=,")
    forwards = [v for a in args for k, v in options(a) if k == "hostfwd"]
    assert len(forwards) == (len(spec.network.forwards) if spec.network.enabled else 0)
