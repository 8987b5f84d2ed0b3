# SPDX-License-Identifier: GPL-2.0-or-later
"""The tb-cache object without a guest: made on the command line or by QMP, golden packs."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from qemuhelp import info, qemu

from sysqcache.base import paths
from sysqcache.formats import block as bf
from sysqcache.qmp.client import CommandRefusedError
from sysqcache.spec.engines import Engine

pytestmark = pytest.mark.qemu

GOLDEN = Path(__file__).parents[1] / "golden" / "v2.pack"
OUTDATED = GOLDEN.with_name("v1.pack")


def golden_copy(directory: Path, fingerprint: bytes | None = None, golden: Path = GOLDEN) -> Path:
    """A golden pack, as ours; ``fingerprint`` replaces its own."""
    content = bytearray(golden.read_bytes())
    if fingerprint is not None:
        content[16:48] = fingerprint
        content[: bf.HEADER_SIZE] = bf.seal_header(content[: bf.HEADER_SIZE])
    copy = directory / f"{len(list(directory.iterdir()))}.pack"
    copy.write_bytes(content)
    copy.chmod(0o600)
    return copy


def test_without_one_and_too_late_for_one(x86_engine: Engine, tmp_path: Path) -> None:
    with qemu(x86_engine, tmp_path) as client:
        with pytest.raises(CommandRefusedError, match="no tb-cache object"):
            info(client)
        with pytest.raises(CommandRefusedError, match="before the machine starts"):
            client.execute("object-add", {"qom-type": "tb-cache", "id": "late"})


def test_made_by_qmp_and_reads_golden_packs(x86_engine: Engine, tmp_path: Path) -> None:
    with qemu(x86_engine, tmp_path, "-preconfig") as client:
        client.execute("object-add", {"qom-type": "tb-cache", "id": "own", "mode": "read-only"})
        client.execute("x-exit-preconfig")
        state = info(client)
        assert (state["id"], state["mode"], state["active"]) == ("own", "read-only", True)
        assert "target=x86_64\n" in state["fingerprint-text"]

        foreign = client.execute("x-tb-cache-add-pack", {"path": str(golden_copy(tmp_path))})
        assert foreign["status"] == "fingerprint"
        ours = golden_copy(tmp_path, bytes.fromhex(state["fingerprint"]))
        mapped = client.execute("x-tb-cache-add-pack", {"path": str(ours)})
        assert mapped["status"] == "mapped"
        assert mapped["blocks"] == bf.PACK_HEADER.unpack(GOLDEN.read_bytes())["block_count"]
        before = golden_copy(tmp_path, bytes.fromhex(state["fingerprint"]), OUTDATED)
        outdated = client.execute("x-tb-cache-add-pack", {"path": str(before)})
        assert outdated["status"] == "version"
        missing = client.execute("x-tb-cache-add-pack", {"path": str(tmp_path / "none.pack")})
        assert missing["status"] == "unreadable"
        rejected = {name: n for name, n in info(client)["rejected"].items() if n}
        assert rejected == {"fingerprint": 1, "version": 1, "unreadable": 1}


@pytest.mark.parametrize("name", ["fifo", "folder", "missing", "endless", "huge"])
def test_a_boot_set_that_can_not_be_read(x86_engine: Engine, tmp_path: Path, name: str) -> None:
    """The machine runs without it, and neither waits for a FIFO nor reads what has no end."""
    made = tmp_path / name
    match name:
        case "fifo":
            os.mkfifo(made)
        case "folder":
            made.mkdir()
        case "endless":
            made.symlink_to("/dev/zero")
        case "huge":
            made.touch()
            os.truncate(made, 1 << 40)
    with qemu(x86_engine, tmp_path, "-object", f"tb-cache,id=c,boot-set={made}") as client:
        state = info(client)
    assert (state["active"], state["packs"]) == (True, [])
    assert f"can't read {made}" in (tmp_path / paths.INSTANCE_QEMU_LOG).read_text()


def test_an_audit_of_a_machine_without_vcpus(x86_engine: Engine, tmp_path: Path) -> None:
    with qemu(x86_engine, tmp_path) as client:
        found = client.execute("x-tb-audit")
    assert (found["blocks"], found["stale"], found["unknown"]) == (0, 0, 0)


def test_pages_to_touch_in_memory_of_several_parts(x86_engine: Engine, tmp_path: Path) -> None:
    """The memory of a machine with NUMA nodes is that of several objects: nothing is touched."""
    touched = tmp_path / "touched"
    touched.write_bytes(b"sqctouch" + struct.pack("<II", 0, 16))
    touched.chmod(0o600)
    memory = []
    for node in ("m0", "m1"):
        memory += ["-object", f"memory-backend-ram,id={node},size=64M"]
        memory += ["-numa", f"node,memdev={node}"]
    own = ("-object", f"tb-cache,id=c,touched={touched}")
    with qemu(x86_engine, tmp_path, "-machine", "pc", "-m", "128M", *memory, *own) as client:
        assert info(client)["active"]


def test_there_is_one_and_it_stays(x86_engine: Engine, tmp_path: Path) -> None:
    journal = tmp_path / "a.journal"
    with qemu(x86_engine, tmp_path, "-object", f"tb-cache,id=c,journal={journal}") as client:
        with pytest.raises(CommandRefusedError, match="only one"):
            client.execute("object-add", {"qom-type": "tb-cache", "id": "second"})
        with pytest.raises(CommandRefusedError, match="in use"):
            client.execute("object-del", {"id": "c"})
        with pytest.raises(CommandRefusedError, match="can't be changed"):
            client.execute("qom-set", {"path": "/objects/c", "property": "mode", "value": "verify"})
        client.execute("x-tb-cache-freeze", {"freeze": True})
        checkpoint = client.execute("x-tb-cache-checkpoint")
        assert checkpoint["journal-bytes"] == journal.stat().st_size >= bf.HEADER_SIZE
        assert journal.stat().st_mode & 0o777 == 0o600


def test_a_journal_is_never_written_over(x86_engine: Engine, tmp_path: Path) -> None:
    journal = tmp_path / "a.journal"
    journal.write_text("precious")
    with qemu(x86_engine, tmp_path, "-object", f"tb-cache,id=c,journal={journal}") as client:
        assert info(client)["active"]
        assert info(client)["journal-bytes"] == 0
    assert journal.read_text() == "precious"
