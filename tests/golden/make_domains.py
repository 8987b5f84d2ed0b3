# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes the golden files of enabled domains: run it when what is put in changes on purpose."""

from __future__ import annotations

from pathlib import Path

from sysqcache.libvirt.rewrite import CachePaths, enabled

DOMAINS = Path(__file__).parent / "domains"
LIBVIRT = Path("/var/lib/sysqcache/libvirt")
RUN = LIBVIRT / "run" / "libvirt-UUID"
PATHS = CachePaths(
    emulator=LIBVIRT / "engines" / "BUILD-ID" / "bin" / "qemu-system-ARCH",
    journal=RUN / "run.journal",
    boot_set=LIBVIRT / "domains" / "UUID" / "boot-set.txt",
    monitor=RUN / "qmp.sock",
    introspection=RUN / "qmp2.sock",
)


def plain() -> list[Path]:
    """The definitions as libvirt prints them, without the cache."""
    return sorted(path for path in DOMAINS.glob("*.xml") if not path.stem.endswith(".enabled"))


def enabled_path(path: Path) -> Path:
    """The same with the cache."""
    return path.with_name(f"{path.stem}.enabled.xml")


if __name__ == "__main__":
    for file in plain():
        enabled_path(file).write_text(enabled(file.read_text(), PATHS))
