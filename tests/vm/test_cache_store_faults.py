# SPDX-License-Identifier: GPL-2.0-or-later
"""A damaged or full store under the command line: the machine boots, the report tells."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import packhelp
import pytest
from machinehelp import NOKASLR, boot, stored_blocks
from packhelp import put, resize, small_disk

from sysqcache.base import paths
from sysqcache.store.facade import Store

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("x86_engine", "tiny_image", "own_state")]

TASK = ("--task", "work", "--set", NOKASLR)


def the_packs() -> list[Path]:
    """Those of the firmware, the kernel and the files."""
    packs = sorted((paths.store_dir() / paths.STORE_PACKS).glob(f"*{paths.PACK_SUFFIX}"))
    assert len(packs) == 3
    return packs


def damage(change: packhelp.Damage) -> Callable[[Path], None]:
    """Damage of a file in its place."""

    def apply(pack: Path) -> None:
        content = bytearray(pack.read_bytes())
        change(content)
        pack.write_bytes(content)

    return apply


# what is done to each pack, and the reason that the store gives
LEFT_OUT: dict[str, tuple[str, Callable[[Path], None]]] = {
    "truncated": ("truncated", lambda pack: os.truncate(pack, 50_000)),
    "header": ("header-checksum", damage(put("text", b"X", seal=False))),
    "version": ("version", damage(put("version", 3))),
    "fingerprint": ("not the pack of its name", damage(put("fingerprint", bytes(32)))),
    "writable": ("", lambda pack: pack.chmod(0o620)),
    "missing": ("", Path.unlink),
}


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_store")
def test_packs_that_the_store_leaves_out() -> None:
    contents = {pack: pack.read_bytes() for pack in the_packs()}
    for name, (reason, change) in LEFT_OUT.items():
        for pack in contents:
            change(pack)
        done = boot(*TASK, "--cache", "read-only")
        assert done["times"]["tasks"][0]["exit"] == 0, name
        assert done["cache"]["packs"] == 0, name
        assert done["blocks"]["adopted"] == 0, name
        assert len(done["warnings"]) == len(contents), name
        assert all("a pack is not used" in warning for warning in done["warnings"]), name
        assert all(reason in warning for warning in done["warnings"]), name
        for pack, content in contents.items():
            pack.write_bytes(content)
            pack.chmod(0o600)
    assert boot(*TASK, "--cache", "read-only")["blocks"]["hit_rate"] >= 0.85


@pytest.mark.usefixtures("tiny_store")
def test_damaged_blocks_are_translated_and_replaced() -> None:
    for pack in the_packs():
        damage(packhelp.flip_code)(pack)
    done = boot(*TASK)
    assert done["times"]["tasks"][0]["exit"] == 0
    assert done["blocks"]["adopted"] == 0
    assert done["blocks"]["rejected"]["checksum"] > 50_000
    assert len(done["warnings"]) == 3
    assert all("a damaged pack was set aside" in warning for warning in done["warnings"])
    with Store.open(paths.store_dir()) as store:
        assert store.verify().good
    assert boot(*TASK)["blocks"]["hit_rate"] >= 0.85


@pytest.mark.usefixtures("tiny_store")
def test_verify_finds_damage() -> None:
    damage(packhelp.flip_code)(the_packs()[0])
    with Store.open(paths.store_dir()) as store:
        assert not store.verify().good


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_store_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with small_disk(tmp_path / "disk", "6m") as disk:
        monkeypatch.setenv(paths.ENV_STORE, str(disk / "store"))
        done = boot(*TASK)
        assert done["times"]["tasks"][0]["exit"] == 0
        assert done["blocks"]["unrecorded"]["write-error"] > 10_000
        # the journal has taken all room: kept as soon as there is some
        assert any("this run's blocks are not kept yet" in text for text in done["warnings"])
        assert boot(*TASK)["times"]["tasks"][0]["exit"] == 0
        [journal] = (disk / "store" / paths.STORE_JOURNALS).glob(f"*{paths.JOURNAL_SUFFIX}")
        assert journal.stat().st_size > 1 << 20
        resize(disk, "200m")
        boot(*TASK, "--cache", "read-only")
        assert stored_blocks() > 1000
        assert not journal.exists()
