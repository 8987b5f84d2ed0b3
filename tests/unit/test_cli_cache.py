# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache cache ...` on small real stores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from storehelp import ingest, make_blocks
from typer.testing import CliRunner, Result

from sysqcache.base.errors import StoreVersionError, UsageError, VerifyFailed
from sysqcache.cli.cache import app
from sysqcache.store.facade import Store

MODULE_KEYS = {
    "id", "kind", "name", "arch", "fingerprint", "blocks", "dead", "bytes", "last_used", "images",
}  # fmt: skip


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SYSQCACHE_STORE", str(tmp_path / "store"))
    return Store.open(tmp_path / "store")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def values(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def test_empty_store_says_what_to_do(store: Store) -> None:
    assert "sysqcache boot" in run("list").stdout
    assert values("list")["modules"] == []


def test_list(store: Store) -> None:
    ingest(store, make_blocks(*range(12)), image="debian")
    out = run("list").stdout
    assert "debian" in out
    assert "12 blocks in 1 pack," in out
    listed = values("list")
    assert set(listed["modules"][0]) == MODULE_KEYS
    assert listed["bytes"] > 4096
    assert listed["modules"][0]["last_used"].endswith("+00:00")


def test_list_tells_what_compact_would_remove(store: Store) -> None:
    for number in range(5):
        ingest(store, make_blocks(number))
    assert "3 packs are superseded" in run("list").stdout
    assert "3 packs removed" in run("compact").stdout
    assert "superseded" not in run("list").stdout


def test_verify(store: Store) -> None:
    pack = ingest(store, make_blocks(*range(12))).packs[0]
    assert "12 blocks in 1 packs checked" in run("verify").stdout
    assert values("verify")["good"] is True
    assert pack is not None
    content = bytearray(pack.read_bytes())
    content[4096 + 50] ^= 1
    pack.write_bytes(content)
    result = run("verify", "--json")
    assert isinstance(result.exception, VerifyFailed)
    assert "1 of 12 blocks damaged" in result.exception.detail
    assert json.loads(result.stdout)["packs"][0]["damaged"] == 1
    out = run("rebuild").stdout
    assert "1 packs with 11 blocks are in use" in out
    assert "11 blocks of damaged packs were kept, 1 are lost" in out
    assert values("verify")["good"] is True


def test_rebuild(store: Store) -> None:
    ingest(store, make_blocks(*range(12)))
    assert values("rebuild")["blocks"] == 12


def test_compact_sizes(store: Store) -> None:
    ingest(store, make_blocks(*range(12)))
    assert values("compact", "--max-bytes", "1GiB")["removed"] == 0
    assert isinstance(run("compact", "--max-bytes", "much").exception, UsageError)
    assert values("compact", "--max-bytes", "4KiB")["removed"] == 1


def test_compact_while_a_machine_runs(store: Store) -> None:
    ingest(store, make_blocks(*range(12)))
    held = store.hold()
    try:
        assert "nothing was removed" in run("compact", "--max-bytes", "0").stdout
    finally:
        os.close(held)


def test_newer_store(store: Store) -> None:
    store.layout.format.write_text("sysqcache store 9\n")
    for command in ("list", "verify", "rebuild", "compact"):
        assert isinstance(run(command).exception, StoreVersionError)


@pytest.mark.parametrize("command", ["list", "verify", "rebuild", "compact"])
def test_every_command_has_help(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_importing_the_command_is_cheap() -> None:
    heavy = ("numpy", "rocksdict", "rich.table")
    code = f"import sys, sysqcache.cli.cache; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"
