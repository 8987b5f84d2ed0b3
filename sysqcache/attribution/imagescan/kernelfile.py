# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel files: what they are, and the bytes that they leave in a guest's memory.

An x86 bzImage holds a boot stub and a packed vmlinux with its relocations behind it:
Documentation/arch/x86/boot.rst, arch/x86/tools/relocs.c and handle_relocations() in
arch/x86/boot/compressed/misc.c of the kernel. Kernels of arm64 and RISC-V are flat images
(:mod:`flatkernel`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sysqcache.attribution.imagescan import keep, limits
from sysqcache.attribution.imagescan.flatkernel import FlatKernel, flat_kernel
from sysqcache.attribution.imagescan.kernelload import KernelFileError, Loader
from sysqcache.attribution.imagescan.unpack import PackedDataError, unpack
from sysqcache.formats.access import MemoryAccess
from sysqcache.formats.elf import MAGIC, read_code
from sysqcache.formats.modules import Module, ModuleKind

KEPT: Final = "kernels"
_HEADER: Final = 0x260
_WITH_PAYLOAD: Final = 0x208
_CLASS_32: Final = 1
_BANNER: Final = re.compile(rb"Linux version \d")


@dataclasses.dataclass(frozen=True, slots=True)
class KernelFile:
    """A kernel file.

    :param module: the kernel: its build id, or the hash of the file; name is the release.
    :param file: the file's own bytes: the boot stub runs in them, and so does firmware's
        view of it.
    :param vmlinux: the unpacked ELF file with its relocations, or the flat image; empty
        when there is none.
    :param text_address: virtual address of the image's first byte as linked.
    :param note: in words, what of it is not known.
    :param flat: what ``vmlinux`` is.
    :param code: of a kernel that no map can be made of, no Linux or one of 32 bits: what it
        runs in, wherever that is copied to. Its offsets count from the start of this.
    """

    module: Module
    file: bytes
    vmlinux: memoryview
    text_address: int
    note: str = ""
    flat: bool = False
    code: memoryview = dataclasses.field(default_factory=lambda: memoryview(b""))

    def loaded(self, kaslr_offset: int) -> NDArray[np.uint8]:
        """The image as it lies in memory when it begins to run, from its first byte on.

        :param kaslr_offset: bytes by which the kernel's virtual addresses are moved,
            as in a guest map; 0 for a kernel without KASLR.
        :returns: shape (bytes of the image in memory,). Alternatives, static keys and
            ftrace's places are still unpatched; bss is zero.
        :raises KernelFileError: the ELF file or its relocations make no sense, or there
            is none.
        """
        if self.flat:
            return FlatKernel(self.vmlinux).loaded(kaslr_offset)
        return Loader(self.vmlinux).image(kaslr_offset)


def read_kernel(file: bytes) -> KernelFile:
    """What a kernel file is; one that is not understood keeps its hash and a note.

    The unpacked kernel is kept in the cache directory under the hash of the file.
    """
    digest = hashlib.sha256(file).hexdigest()
    unknown = Module(ModuleKind.KERNEL, f"sha256:{digest}", "")
    if not _is_bzimage(file):
        if file[:4] == MAGIC:
            return _with_elf(unknown, file, memoryview(file), "")
        return _flat(unknown, file, digest)
    release = _release(file)
    module = dataclasses.replace(unknown, name=release)
    if not _names_payload(file):
        return _foreign(module, file)
    vmlinux = keep.load(KEPT, digest)
    if vmlinux is None:
        try:
            vmlinux = memoryview(_payload(file))
        except KernelFileError as error:
            return KernelFile(module, file, memoryview(b""), 0, f"kernel {release}: {error}")
        keep.save(KEPT, digest, vmlinux)
    return _with_elf(module, file, vmlinux, release)


def _is_bzimage(file: bytes) -> bool:
    return len(file) >= _HEADER and file[0x202:0x206] == b"HdrS"


def _flat(unknown: Module, file: bytes, digest: str) -> KernelFile:
    """A flat image, packed or not."""
    kept = keep.load(KEPT, digest)
    try:
        image = flat_kernel(file) if kept is None else FlatKernel(kept, packed=True)
    except KernelFileError as error:
        return KernelFile(unknown, file, memoryview(b""), 0, f"the kernel: {error}")
    if image is None:
        return _foreign(unknown, file, "the kernel file is of a kind that is not known")
    if image.packed and kept is None:
        keep.save(KEPT, digest, image.content)
    module = Module(ModuleKind.KERNEL, image.build_id or unknown.id, image.release)
    return KernelFile(module, file, image.content, image.address, flat=True)


def _foreign(module: Module, file: bytes, note: str = "") -> KernelFile:
    """What is started like Linux, and is none."""
    return KernelFile(module, file, memoryview(b""), 0, note, code=memoryview(file))


def _names_payload(file: bytes) -> bool:
    """Whether there is a packed vmlinux: boot protocol 2.08, Linux 2.6.26, and what is no Linux
    has none."""
    (version,) = struct.unpack_from("<H", file, 0x206)
    return version >= _WITH_PAYLOAD and any(file[0x248:0x250])


def _release(file: bytes) -> str:
    """The release in the boot header's version string, "" when there is none."""
    (place,) = struct.unpack_from("<H", file, 0x20E)
    text = file[place + 0x200 : place + 0x300].split(b"\0")[0] if place else b""
    return text.decode("ascii", "replace").split(" ")[0]


def _payload(file: bytes) -> bytes:
    """The unpacked payload of a bzImage. Raises KernelFileError."""
    offset, size = struct.unpack_from("<II", file, 0x248)
    start = ((file[0x1F1] or 4) + 1) * 512 + offset
    payload = memoryview(file)[start : start + size]
    if len(payload) < size or not size:
        raise KernelFileError("its payload lies outside of the file")
    try:
        return unpack(payload, limits.KERNEL_BYTES)[0]
    except PackedDataError as error:
        raise KernelFileError(str(error)) from error


def _with_elf(module: Module, file: bytes, vmlinux: memoryview, release: str) -> KernelFile:
    code = read_code(MemoryAccess(vmlinux))
    if code is None:
        note = f"kernel {release}: its payload is no ELF file"
        return KernelFile(module, file, memoryview(b""), 0, note)
    module = Module(ModuleKind.KERNEL, code.build_id or module.id, release)
    text = code.segments[0].address if code.segments else 0
    mapped = vmlinux[4] != _CLASS_32 and _BANNER.search(vmlinux)
    return KernelFile(
        module, file, vmlinux, text, code=memoryview(b"") if mapped else memoryview(vmlinux)
    )
