# SPDX-License-Identifier: GPL-2.0-or-later
"""What of disks the engine was built with: in lists, in QMP's description, and tried."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sysqcache.libvirt import probe, tried
from sysqcache.libvirt.schema import Schema
from sysqcache.spec.engines import Engine

pytestmark = pytest.mark.qemu

DRIVERS = "bochs cloop dmg host_device luks parallels qcow qcow2 qed raw vdi vhdx vmdk vpc vvfat"


def opening(engine: Engine, disk: Mapping[str, Any]) -> str:
    secret = ("-object", "secret,id=key,data=none")
    node = json.dumps({**disk, "node-name": "n", "read-only": True})
    return probe.refusal(engine.binary, *secret, "-blockdev", node)


def test_nothing_is_lacking(x86_engine: Engine) -> None:
    assert set(DRIVERS.split()) <= tried.block_drivers(x86_engine.binary)
    asked: list[Mapping[str, Any]] = [
        {"driver": "luks"},
        {"aio": "native"},
        {"driver": "qcow2", "encrypt": {}},
    ]
    assert list(tried.lacking(x86_engine.binary, asked)) == []


def test_a_trial_gets_as_far_as_the_ciphers(x86_engine: Engine, tmp_path: Path) -> None:
    """An engine without them says so before it finds that the key is wrong."""
    file = tmp_path / "disk"
    file.write_bytes(tried.luks_header().ljust(2 << 20, b"\0"))
    plain = {"driver": "file", "filename": str(file)}
    said = opening(x86_engine, {"driver": "luks", "key-secret": "key", "file": plain})
    assert "Invalid password" in said
    assert not opening(x86_engine, plain | {"aio": "native", "cache": {"direct": True}})
    assert not opening(x86_engine, plain | {"aio": "io_uring"})


def test_members_and_values_that_are_not_known(x86_engine: Engine) -> None:
    schema = Schema(probe.answers(x86_engine.binary, ("query-qmp-schema", {}))[0])
    kind = schema.argument("blockdev-add")
    file = {"driver": "file", "filename": "x", "aio": "posix", "locking": "auto"}
    value = {
        "driver": "qcow2",
        "file": file,
        "backing": None,
        "encrypt": {"format": "luks", "z": 1},
    }
    assert list(schema.unknown(kind, value)) == ["file.aio=posix", "encrypt.z"]
    assert (
        list(schema.unknown(kind, {**value, "file": "node", "encrypt": {"format": "luks"}})) == []
    )
