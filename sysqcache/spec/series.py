# SPDX-License-Identifier: GPL-2.0-or-later
"""What an engine is built from: our files, the series of patches, the options of QEMU's configure.

A start compares them with what a built engine was made of; the build applies them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

from sysqcache.base.errors import EngineBuildError

ENGINE_DIR: Final = Path(__file__).resolve().parents[2] / "engine"
SRC: Final = "src"
PATCHES: Final = "patches"


def series(engine_dir: Path = ENGINE_DIR) -> list[Path]:
    """The patches in the order in which they are applied.

    :raises EngineBuildError: a name does not begin with four digits, or two share a number.
    """
    patches = sorted((engine_dir / PATCHES).glob("*.patch"))
    numbers: dict[str, Path] = {}
    for path in patches:
        number = path.name[:4]
        if not re.match(r"\d{4}-", path.name):
            raise EngineBuildError(f"{path}: a patch is named NNNN-what-it-does.patch")
        if number in numbers:
            raise EngineBuildError(f"{path.name} and {numbers[number].name} share a number")
        numbers[number] = path
    return patches


def own_files(engine_dir: Path = ENGINE_DIR) -> list[Path]:
    """Files of ours, as paths relative to engine/src, which mirrors QEMU's tree."""
    root = engine_dir / SRC
    hidden = (".", "__")
    return sorted(
        path.relative_to(root)
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(hidden) and not path.name.endswith("~")
    )


def series_digest(engine_dir: Path = ENGINE_DIR, *, plain: bool = False) -> str:
    """Hex SHA-256 of all our changes to QEMU; of nothing when ``plain``."""
    digest = hashlib.sha256()
    if not plain:
        files = [engine_dir / SRC / path for path in own_files(engine_dir)]
        for path in files + series(engine_dir):
            data = path.read_bytes()
            name = str(path.relative_to(engine_dir)).encode()
            digest.update(b"%d:%s%d:" % (len(name), name, len(data)) + data)
    return digest.hexdigest()


OPTIONS: Final = (
    "--without-default-features",
    "--enable-system",
    "--enable-tcg",
    "--enable-fdt=system",
    "--enable-slirp",
    "--enable-tools",
    "--enable-pixman",
    "--enable-vnc",  # libvirt's domains usually have a display
    "--enable-seccomp",  # libvirt's sandbox around QEMU, where the engine can
    "--enable-plugins",
    "--enable-malloc-trim",  # what a start frees is half of the heap
    "--enable-trace-backends=log",
    # what images and domains may ask for: all of Debian's that need no daemon
    "--enable-bochs",
    "--enable-cloop",
    "--enable-dmg",
    "--enable-parallels",
    "--enable-qcow1",
    "--enable-qed",
    "--enable-vdi",
    "--enable-vhdx",
    "--enable-vmdk",
    "--enable-vpc",
    "--enable-vvfat",
    "--enable-bzip2",  # inside of dmg
    "--enable-zstd",  # inside of qcow2
    "--enable-linux-aio",
    "--enable-linux-io-uring",
    "--enable-nettle",  # the ciphers of LUKS
    # not vhost-user: a disk's daemon would write code behind the back of the translator
    "--enable-vhost-kernel",
    "--enable-vhost-net",
    "--disable-install-blobs",  # Debian's source holds none
    "--disable-docs",
    "--disable-werror",
    # the build id is part of every fingerprint: it has to be there
    "--extra-ldflags=-Wl,--build-id=sha1",
)


class Sanitizer(StrEnum):
    """What a compiler can add to an engine that is looked for faults."""

    THREAD = "thread"
    ADDRESS = "address"


_SANITIZERS: Final[Mapping[Sanitizer, tuple[str, ...]]] = {
    # GCC 12's runtime knows siglongjmp, but not what QEMU 10.0 makes of it with _FORTIFY_SOURCE:
    # stacks in reports would grow with each exception of the guest
    Sanitizer.THREAD: ("--enable-tsan", "--extra-cflags=-D_FORTIFY_SOURCE=0"),
    # stacks of allocations are taken along the frame pointers
    Sanitizer.ADDRESS: (
        "--enable-asan",
        "--enable-ubsan",
        "--extra-cflags=-fno-omit-frame-pointer",
    ),
}


def options(sanitize: Sanitizer | None = None) -> tuple[str, ...]:
    """The options of QEMU's configure."""
    return OPTIONS + (_SANITIZERS[sanitize] if sanitize else ())


def build_key(
    version: str,
    origin: str,
    series: str,
    targets: Sequence[str],
    *,
    plain: bool,
    sanitize: Sanitizer | None = None,
) -> str:
    """Name of a build: the version, and 16 hex digits of everything that changes the code.

    :param origin: exact package version or path of the source.
    :param series: digest of our patches.
    """
    parts = [version, origin, series, *sorted(targets), *options(sanitize)]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    kinds = [*(["plain"] if plain else []), *([sanitize] if sanitize else [])]
    return "-".join([version, *kinds, digest])
