# SPDX-License-Identifier: GPL-2.0-or-later
"""Records and files of saved machines, without a machine."""

from __future__ import annotations

import dataclasses
import json
import os
import struct
from pathlib import Path

import pytest
from imagescanhelp import qemu_img

from sysqcache.base.errors import SavedStateError
from sysqcache.base.types import ArchName, DiskFormat, DiskMode
from sysqcache.formats import ramfile
from sysqcache.formats.ramfile import Checksums
from sysqcache.machine.launch.argv import Incoming, Launch, build
from sysqcache.machine.launch.overlay import prepare_disks
from sysqcache.qmp.blocknodes import BlockNode
from sysqcache.saved import disks
from sysqcache.saved.copies import Copy, copy_spec, wake_script
from sysqcache.saved.outside import Outside
from sysqcache.saved.qcow2snapshot import SnapshotSums
from sysqcache.saved.record import FileIdentity, Method, SavedDisk, SavedMachine
from sysqcache.saved.suspend import choose
from sysqcache.spec import resolve
from sysqcache.spec.spec import Disk, Forward, MachineSpec, Network

PAGE = 4096
NO_TOOL = Path("/nothing/needs/qemu-img")


@pytest.fixture
def spec(tmp_path: Path) -> MachineSpec:
    file = tmp_path / "vm.yaml"
    file.write_text("arch: x86_64\nmemory: 64MiB\n")
    return resolve.load(file)


def with_disks(spec: MachineSpec, *wanted: tuple[DiskMode, DiskFormat]) -> MachineSpec:
    made = tuple(Disk(Path(f"/disk{i}"), form, mode) for i, (mode, form) in enumerate(wanted))
    return dataclasses.replace(spec, disks=made)


def state_file(path: Path, ram: bytes, *, device: bytes = b"device") -> Path:
    """A file as QEMU writes it with mapped-ram: a small ROM and the memory."""
    rom = b"\x55" * PAGE
    total = len(ram) + len(rom)
    head = struct.pack(">II", 0x5145564D, 3) + b"\x07" + struct.pack(">I", 2) + b"pc"
    head += b"\x01" + struct.pack(">I", 2) + b"\x03ram" + struct.pack(">II", 0, 4)
    head += struct.pack(">Q", total | 4)
    content = bytearray(head)
    for name, pages in ((b"pc.rom", rom), (b"pc.ram", ram)):
        content += bytes([len(name)]) + name + struct.pack(">Q", len(pages))
        bitmap = len(content) + 28
        start = (bitmap + 64 + 0xFFFF) & ~0xFFFF
        content += struct.pack(">IQQQ", 1, PAGE, bitmap, start)
        content += b"\xff" * 64
        content += bytes(start - len(content)) + pages
    path.write_bytes(bytes(content) + device)
    return path


def test_blocks_of_memory_are_found(tmp_path: Path) -> None:
    file = state_file(tmp_path / "state", b"\x01" * 4 * PAGE)
    blocks = ramfile.read_blocks(file)
    assert set(blocks) == {"pc.rom", "pc.ram"}
    ram = blocks["pc.ram"]
    content = file.read_bytes()
    assert content[ram.offset : ram.offset + ram.size] == b"\x01" * 4 * PAGE


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"QEVM",
        b"\x51\x45\x56\x4d" + bytes(100),
        b"\x51\x45\x56\x4d\0\0\0\x03" + b"\x03ram" * 9,
    ],
)
def test_other_files_hold_no_machine(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "state"
    file.write_bytes(content)
    with pytest.raises(SavedStateError, match="state"):
        ramfile.read_blocks(file)


def test_list_of_blocks_that_runs_on_for_ever(tmp_path: Path) -> None:
    file = state_file(tmp_path / "state", b"\x01" * PAGE)
    content = bytearray(file.read_bytes())
    at = content.index(b"\x03ram") + 12
    content[at : at + 8] = struct.pack(">Q", (1 << 60) | 4)
    file.write_bytes(content)
    with pytest.raises(SavedStateError):
        ramfile.read_blocks(file)


def test_checksums_tell_memory_from_devices(tmp_path: Path) -> None:
    file = state_file(tmp_path / "state", b"\x01" * 4 * PAGE)
    sums = ramfile.checksums(file)
    assert ramfile.state_checksum(file) == sums.state
    other_memory = ramfile.checksums(state_file(tmp_path / "memory", b"\x02" * 4 * PAGE))
    assert other_memory.state == sums.state
    assert other_memory.whole != sums.whole
    other = ramfile.checksums(state_file(tmp_path / "dev", b"\x01" * 4 * PAGE, device=b"DEVICE"))
    assert other.state != sums.state
    assert other.whole != sums.whole


def test_holes_do_not_count(tmp_path: Path) -> None:
    ram = b"\x01" * PAGE + bytes(40 << 20) + b"\x02" * PAGE
    full = state_file(tmp_path / "full", ram)
    sparse = tmp_path / "sparse"
    content = full.read_bytes()
    with sparse.open("wb") as stream:
        for start in range(0, len(content), PAGE):
            part = content[start : start + PAGE]
            if part.strip(b"\0"):
                stream.seek(start)
                stream.write(part)
        stream.truncate(len(content))
    assert ramfile.allocated(sparse) < ramfile.allocated(full)
    assert ramfile.checksums(sparse) == ramfile.checksums(full)
    assert ramfile.file_checksum(sparse) == ramfile.file_checksum(full)


def record(spec: MachineSpec, saved: tuple[SavedDisk, ...] = ()) -> SavedMachine:
    return SavedMachine(
        id="20260101T000000-abcdef",
        name="vm",
        method=Method.TEMPLATE,
        created=1.5,
        spec=spec,
        engine="10.0.13-x",
        build_id="ab",
        fingerprint="cd",
        disks=saved,
        packs=("ee" * 32,),
        state=FileIdentity(1, 2, 3),
        checksums=Checksums("aa", "bb"),
        ram=("pc.ram", 64 << 20, 1 << 20),
        held={"/vars.fd": FileIdentity(7, 8, 9)},
        alone=("port 5900",),
    )


def test_record_and_back(spec: MachineSpec) -> None:
    identity = FileIdentity(4, 5, 6)
    disk = SavedDisk("disk0.qcow2", "/d", "qcow2", "ephemeral", "sum", identity, {"/d": identity})
    for snapshot in (None, SnapshotSums("t", "s", "d")):
        saved = dataclasses.replace(disk, snapshot=snapshot)
        one = record(with_disks(spec, (DiskMode.EPHEMERAL, DiskFormat.QCOW2)), (saved,))
        assert SavedMachine.decode(one.encode()) == one
    # versions that took no checksums of snapshots
    value = json.loads(one.encode())
    del value["disks"][0]["snapshot"]
    assert SavedMachine.decode(json.dumps(value).encode()).disks == (disk,)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"version": 2}', b'{"version": 1, "method": "no"}', b"\xff"]
)
def test_damaged_records_are_refused(content: bytes) -> None:
    with pytest.raises(SavedStateError):
        SavedMachine.decode(content)


def test_auto_takes_the_template_where_it_can(spec: MachineSpec) -> None:
    q, raw = DiskFormat.QCOW2, DiskFormat.RAW
    for disk in ((), ((DiskMode.EPHEMERAL, q),), ((DiskMode.READ_ONLY, raw),)):
        assert choose("auto", with_disks(spec, *disk), plain=False)[0] is Method.TEMPLATE
    method, why = choose("auto", with_disks(spec, (DiskMode.PERSISTENT, q)), plain=False)
    assert method is Method.FILE
    assert "persistent" in why
    method, why = choose("auto", with_disks(spec, (DiskMode.EPHEMERAL, q)), plain=True)
    assert method is Method.FILE
    assert "patches" in why


def test_methods_that_can_not_be(spec: MachineSpec) -> None:
    raw = with_disks(spec, (DiskMode.PERSISTENT, DiskFormat.RAW))
    with pytest.raises(SavedStateError, match="raw disk") as error:
        choose("internal", raw, plain=False)
    assert error.value.hint == "usable: file"
    with pytest.raises(SavedStateError, match="no disk"):
        choose("internal", spec, plain=False)
    with pytest.raises(SavedStateError, match="persistent"):
        choose("template", raw, plain=False)


def drive(file: Path, **changes: object) -> BlockNode:
    """A disk of ``qemu_args``, as QEMU tells of it."""
    image = {"filename": str(file), "format": "raw", **changes}
    return BlockNode.from_qmp({"node-name": "#block1", "drv": "raw", "ro": False, "image": image})


def test_writable_disks_of_qemu_args(spec: MachineSpec, tmp_path: Path) -> None:
    file = tmp_path / "vars.fd"
    file.touch()
    method, why = choose("auto", spec, plain=False, outside=Outside((drive(file),)))
    assert method is Method.FILE
    assert str(file) in why
    # as with snapshot=on: an overlay that has no name any more
    overlay = {"driver": "qcow2", "file": {"driver": "file", "filename": f"{tmp_path}/vl.X"}}
    node = drive(file, filename=f"json:{json.dumps(overlay)}")
    assert node.temporary
    for nowhere in (node, drive(file, filename="nbd://host/x")):
        with pytest.raises(SavedStateError, match="can't be saved"):
            choose("auto", spec, plain=False, outside=Outside((nowhere,)))
    below = drive(file, **{"backing-image": {"filename": "/base"}})
    assert below.files == (file, Path("/base"))
    memory = Outside(memory="its memory is made by qemu_args")
    assert choose("auto", spec, plain=False, outside=memory) == (
        Method.FILE,
        "not a template: its memory is made by qemu_args",
    )


def saved_disk(tmp_path: Path) -> tuple[SavedDisk, Path, Path]:
    base, own = tmp_path / "base.img", tmp_path / "slot" / "disk0.qcow2"
    own.parent.mkdir()
    base.write_bytes(b"base" * 1000)
    own.write_bytes(b"own" * 1000)
    disk = SavedDisk(
        own.name,
        str(base),
        "raw",
        "ephemeral",
        ramfile.file_checksum(own),
        FileIdentity.of(own),
        {str(base): FileIdentity.of(base)},
    )
    return disk, base, own


def test_disks_as_they_were(tmp_path: Path) -> None:
    disk, _, own = saved_disk(tmp_path)
    disks.check("vm", disk, own.parent, NO_TOOL)
    os.utime(own)  # moved or copied: the content decides
    disks.check("vm", disk, own.parent, NO_TOOL)


def test_changed_and_lost_disks_are_refused(tmp_path: Path) -> None:
    disk, base, own = saved_disk(tmp_path)
    own.write_bytes(b"OWN" * 1000)
    with pytest.raises(SavedStateError, match="not what was saved"):
        disks.check("vm", disk, own.parent, NO_TOOL)
    own.unlink()
    with pytest.raises(SavedStateError, match="missing"):
        disks.check("vm", disk, own.parent, NO_TOOL)
    base.write_bytes(b"BASE" * 1000)
    with pytest.raises(SavedStateError, match="was changed since") as error:
        disks.check("vm", disk, own.parent, NO_TOOL)
    assert "sysqcache boot" in error.value.hint
    base.unlink()
    with pytest.raises(SavedStateError, match="missing"):
        disks.check("vm", disk, own.parent, NO_TOOL)


def test_copies_differ(spec: MachineSpec) -> None:
    one = record(spec)
    first, second = Copy.number(one, 1), Copy.number(one, 2)
    assert (first.name, second.name) == ("vm-1", "vm-2")
    assert first.mac != second.mac
    assert first.mac.startswith("52:54:00:")
    network = Network(True, (Forward(8080, 80), Forward(0, 22)))
    spec = copy_spec(dataclasses.replace(spec, network=network), first)
    assert [forward.host for forward in spec.network.forwards] == [0, 0]
    assert spec.name == "vm-1"
    assert f"name=opt/sysqcache/mac,string={first.mac}" in spec.qemu_args
    assert first.mac in wake_script(first)


def test_command_lines_of_resumes(spec: MachineSpec, tmp_path: Path) -> None:
    def line(incoming: Incoming) -> list[str]:
        binary = Path("/e/qemu")
        return build(Launch(spec, binary, Path("/e/fw"), tmp_path, incoming=incoming))

    assert "-S" in line(Incoming(migration=False))
    read = line(Incoming(migration=True))
    assert read[read.index("-incoming") + 1] == "defer"
    mapped = line(Incoming(True, tmp_path / "a,b", 1 << 20, "pc.ram"))
    assert mapped[mapped.index("-machine") + 1] == "pc,memory-backend=pc.ram"
    memory = mapped[mapped.index("-object") + 1]
    assert "offset=1048576,share=off,readonly=on" in memory
    assert "a,,b" in memory
    assert spec.arch is ArchName.X86_64


@pytest.mark.parametrize("kind", ["data file", "extents"])
def test_every_file_that_a_disk_lies_over_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A qcow2 keeps its data elsewhere, a vmdk below it in several files."""
    base, slot, overlays = tmp_path / "base", tmp_path / "slot", tmp_path / "overlays"
    form, options, part = {
        "data file": ("qcow2", "data_file=data", "data"),
        "extents": ("vmdk", "subformat=twoGbMaxExtentFlat", "base-f001"),
    }[kind]
    slot.mkdir()
    monkeypatch.chdir(tmp_path)
    tool = qemu_img("create", "-f", form, "-o", options, base, "1M")
    top = tmp_path / "top.qcow2"
    qemu_img("create", "-f", "qcow2", "-F", form, "-b", base, top)
    disk = Disk(top, DiskFormat.QCOW2, DiskMode.EPHEMERAL)
    prepare_disks([disk], overlays, tool)
    (saved,) = disks.freeze([disk], overlays, slot, tool)
    disks.check("tiny", saved, slot, tool)
    with (tmp_path / part).open("r+b") as stream:
        stream.write(b"changed")
    with pytest.raises(SavedStateError, match=f"{part} was changed"):
        disks.check("tiny", saved, slot, tool)
