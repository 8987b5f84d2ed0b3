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
SLOW = 2.0
"""Seconds of the processor: a second, on a host whose caches others use as well."""

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
FIELDS: dict[str, list[str]] = {
    str(name): sorted(one.get("properties", {}))
    for name, one in schema.json_schema()["$defs"].items()
}
TOP = sorted(schema.json_schema()["properties"])
FRAGMENTS = (
    *("&a ", "*a", "<<: *a\n", "<<: [*a, *a]\n", "!!binary ", "!x ", "%YAML 1.1\n---\n", "---\n"),
    *("? ", "- ", "|\n ", ">", "\t", "{", "}", "[", "]", ": ", ",", "'", '"', "#", "\x85"),
    *("2001-99-99", "0x" + "f" * 5000, "9" * 5000, ".inf", "~", "\u2028", "[" * 300, "@", "\ufeff"),
)
KEYS = (
    *TOP,
    *(
        f"{a}.{b}"
        for a in ("disks", "ready", "cache", "network")
        for b in ("0", "mode", "\u00b2", "")
    ),
    *("disks.0.file", "disks.\u00b2.mode", "disks.-1.mode", "a" + ".a" * 200, "=", ""),
)


def text(rng: random.Random) -> str:
    if rng.random() < 0.8:
        return rng.choice(STRANGE)
    return "".join(chr(rng.randrange(rng.choice([0x80, 0x800, 0x11000]))) for _ in range(9))


def scalar(rng: random.Random) -> Any:
    numbers = (None, True, False, 0.5, float("inf"), rng.randint(-2, 70000), rng.getrandbits(99))
    return text(rng) if rng.random() < 0.7 else rng.choice(numbers)


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.random() if depth < 3 else 0.0
    if kind < 0.8:
        return scalar(rng)
    if kind < 0.9:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {text(rng): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def section(rng: random.Random, name: str) -> dict[str, Any]:
    return {rng.choice(FIELDS[name]): scalar(rng) for _ in range(rng.randrange(4))}


def forward(rng: random.Random) -> dict[str, Any]:
    ports = {"host": rng.randint(0, 70000), "guest": rng.randint(1, 70000)}
    more = {"address": text(rng), "protocol": rng.choice(["tcp", "udp", "x"])}
    return ports | dict(rng.sample(sorted(more.items()), rng.randrange(3)))


def disk(rng: random.Random) -> dict[str, Any]:
    mode = rng.choice(["persistent", "read-only", "ephemeral"])
    right = {"file": rng.choice(FILES), "mode": mode}
    return right if rng.random() < 0.7 else right | section(rng, "DiskFields")


def field(rng: random.Random, name: str) -> Any:
    """What could stand there, or anything."""
    if rng.random() < 0.2:
        return value(rng)
    match name:
        case "disks":
            return [disk(rng) for _ in range(rng.randrange(4))]
        case "network":
            forwards = [forward(rng) for _ in range(rng.randrange(3))]
            return {"forwards": forwards, "mode": rng.choice(["user", "none", "auto"])}
        case "serial" | "ready" | "cache" | "accelerator":
            return section(rng, f"{name.capitalize()}Fields")
        case "qemu_args":
            return [text(rng) for _ in range(rng.randrange(3))]
    return scalar(rng)


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


@given(seed=st.integers(0, 2**64))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_vm_yaml(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    machine = {name: field(rng, name) for name in rng.sample(TOP, rng.randrange(6))}
    sets = [(rng.choice(KEYS), text(rng)) for _ in range(rng.choice([0, 0, 1, 2]))]
    file = folder / "vm.yaml"
    written = changed(rng, json.dumps(machine), rng.choice([0, 0, 1, 3]))
    file.write_bytes(written.encode("utf-8", "surrogatepass"))
    begin = time.thread_time()
    try:
        spec = resolve.load(file, [f"{key}={value}" for key, value in sets])
    except (ConfigError, ImageMissing) as error:
        assert error.message
    else:
        require_what_was_written(spec, folder)
    assert time.thread_time() - begin < SLOW, written


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
    nets = [args[n + 1] for n, arg in enumerate(args) if arg == "-netdev"]
    forwards = [text for net in nets for key, text in options(net) if key == "hostfwd"]
    assert len(forwards) == (len(spec.network.forwards) if spec.network.enabled else 0)
