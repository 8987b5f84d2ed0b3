# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels that are flat images, made by hand."""

from __future__ import annotations

import gzip
import lzma
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from sysqcache.attribution.imagescan import flatkernel, kernelfile, limits
from sysqcache.attribution.imagescan.kernelfile import read_kernel
from sysqcache.attribution.imagescan.kernelload import KernelFileError
from sysqcache.formats.modules import ModuleKind

LINKED = 0xFFFF_8000_0800_0000
SIZE = 0x9000
"""Bytes of the image in memory, of which 0x8000 are in the file."""

OWN = b"\x42" * 20
VDSO = b"\x17" * 20
POINTERS = (0x5000, 0x5008, 0x5A10)
"""Places in the image that hold addresses of other places, behind them by 0x100."""

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def note(build_id: bytes) -> bytes:
    return struct.pack("<III", 4, len(build_id), 3) + b"GNU\0" + build_id


def vdso() -> bytes:
    """An ELF file with a build id of its own and a section table at its end."""
    content = bytearray(0x200)
    content[:7] = b"\x7fELF\x02\x01\x01"
    struct.pack_into("<Q", content, 40, 0x1C0)
    struct.pack_into("<HH", content, 58, 64, 1)
    content[0x100 : 0x100 + len(note(VDSO))] = note(VDSO)
    return bytes(content)


def flat(magic: bytes = b"ARM\x64", *, own: bytes = OWN, relocated: bool = False) -> bytes:
    """An image of 0x8000 bytes."""
    image = bytearray(random.Random(4).randbytes(0x8000))
    struct.pack_into("<8xQQQ", image, 0, 0, SIZE, 10)
    image[0x38:0x3C] = magic
    image[0x3000:0x3200] = vdso()
    image[0x4000 : 0x4000 + len(note(own))] = note(own) if own else b""
    banner = b"Linux version 6.1.0-56-test (debian-kernel@lists.debian.org)"
    image[0x4800 : 0x4800 + len(banner)] = banner
    for i, place in enumerate(POINTERS):
        struct.pack_into("<Q", image, place, LINKED + place + 0x100 if relocated else 0)
        entry = LINKED + place, 0x403, LINKED + place + 0x100
        struct.pack_into("<QQQ", image, 0x6000 + 24 * i, *entry)
    # a number that looks like part of an entry
    struct.pack_into("<QQQ", image, 0x7000, 5, 0x403, 7)
    return bytes(image)


def zboot(image: bytes, pack: Callable[[bytes], bytes]) -> bytes:
    """An EFI program that holds an image: drivers/firmware/efi/libstub/zboot-header.S."""
    payload = pack(image)
    head = struct.pack("<2sxx4sII8x6s", b"MZ", b"zimg", 0x1000, len(payload), b"packed")
    return head.ljust(0x1000, b"\0") + payload + bytes(64)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SYSQCACHE_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("magic", [b"ARM\x64", b"RSC\x05"])
def test_a_flat_image(magic: bytes) -> None:
    kernel = read_kernel(flat(magic))
    assert (kernel.module.kind, kernel.module.id) == (ModuleKind.KERNEL, OWN.hex())
    assert kernel.module.name == "6.1.0-56-test"
    assert kernel.note == ""
    assert kernel.text_address == (LINKED if magic[:1] == b"A" else 0xFFFF_FFFF_8000_0000)
    assert len(kernel.loaded(0)) == SIZE


def test_addresses_move_with_an_arm64_kernel() -> None:
    kernel = read_kernel(flat())
    assert kernel.loaded(0).tobytes() == flat(relocated=True) + bytes(SIZE - 0x8000)
    slide = 0x30F4_B5E0_0000
    loaded = kernel.loaded(slide)
    for place in POINTERS:
        found = int.from_bytes(loaded[place : place + 8].tobytes(), "little")
        assert found == LINKED + place + 0x100 + slide
    # a lone number is no relocation, and code stays as it is
    assert loaded[0x7000:0x7018].tobytes() == flat()[0x7000:0x7018]
    assert loaded[:0x5000].tobytes() == flat()[:0x5000]


def test_a_riscv_kernel_stays_as_it_is() -> None:
    image = flat(b"RSC\x05")
    assert read_kernel(image).loaded(0x200000).tobytes() == image + bytes(SIZE - 0x8000)


def test_an_image_without_relocations_or_build_id() -> None:
    image = flat(own=b"")
    kernel = read_kernel(image.replace(struct.pack("<Q", 0x403), bytes(8)))
    assert kernel.module.id.startswith("sha256:")
    assert kernel.text_address == 0
    assert len(kernel.loaded(1 << 21)) == SIZE


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("magic", [b"ARM\x64", b"RSC\x05"])
def test_packed_images(
    packer: str, magic: bytes, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = read_kernel(flat(magic))
    files = (PACKERS[packer](flat(magic)), zboot(flat(magic), PACKERS[packer]))
    for file in files:
        kernel = read_kernel(file)
        assert kernel.module == plain.module
        assert kernel.loaded(0).tobytes() == plain.loaded(0).tobytes()
        assert kernel.file == file
    assert len(list((own_cache / "sysqcache/scans/kernels").iterdir())) == 2
    monkeypatch.setattr(flatkernel, "unpack", lambda *_: pytest.fail("unpacked again"))
    monkeypatch.setattr(kernelfile, "unpack", lambda *_: pytest.fail("unpacked again"))
    for file in files:
        assert read_kernel(file).module == plain.module


def test_damaged_images() -> None:
    good = flat()
    for file, said in (
        (zboot(good, gzip.compress)[:-80], "outside"),
        (zboot(good, gzip.compress)[:40], "outside"),
        (zboot(good, lambda data: b""), "outside"),
        (zboot(good, lambda data: b"nothing known"), "not known"),
        (gzip.compress(good)[:-20], "damaged"),
        (gzip.compress(b"something else" * 99), "not known"),
        (good[:64], "not known"),
    ):
        kernel = read_kernel(file)
        assert said in kernel.note
        assert kernel.module.id.startswith("sha256:")
        with pytest.raises(KernelFileError):
            kernel.loaded(0)


def test_hostile_images(monkeypatch: pytest.MonkeyPatch) -> None:
    huge = bytearray(flat())
    struct.pack_into("<Q", huge, 16, 1 << 60)
    with pytest.raises(KernelFileError, match="too large"):
        read_kernel(bytes(huge)).loaded(0)
    # nothing but ELF files, notes or relocations
    for piece in (b"\x7fELF\x02\x01\x01\0", note(OWN), struct.pack("<QQQ", LINKED, 0x403, LINKED)):
        full = bytearray(flat()[:64] + piece * (200_000 // len(piece)))
        struct.pack_into("<Q", full, 16, SIZE)
        kernel = read_kernel(bytes(full))
        assert len(kernel.loaded(5)) == len(full)
    chance = random.Random(12)
    for _ in range(200):
        content = bytearray(flat())
        for _ in range(40):
            place = chance.choice((*range(64), *range(0x3000, 0x3240), *range(0x6000, 0x6048)))
            content[place] = chance.randrange(256)
        kernel = read_kernel(bytes(content))
        try:
            assert len(kernel.loaded(chance.getrandbits(64))) <= limits.KERNEL_BYTES
        except KernelFileError:
            continue
    monkeypatch.setattr(limits, "KERNEL_BYTES", 1000)
    assert "too much" in read_kernel(gzip.compress(flat())).note
