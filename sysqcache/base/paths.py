# SPDX-License-Identifier: GPL-2.0-or-later
"""Where files live: every file name of the state and cache directories.

``SYSQCACHE_HOME`` moves everything into one folder; ``SYSQCACHE_STORE`` moves the
block store alone. Without them the XDG directories are used. Functions that name one raise
ConfigError for a user without a home directory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from sysqcache.base.errors import ConfigError

ENV_HOME: Final = "SYSQCACHE_HOME"
ENV_STORE: Final = "SYSQCACHE_STORE"

# file names inside an instance directory
INSTANCE_STATE: Final = "state.json"
INSTANCE_LOCK: Final = "lock"
INSTANCE_QMP: Final = "qmp.sock"
INSTANCE_QMP_INTROSPECT: Final = "qmp2.sock"
INSTANCE_QMP_EVENTS: Final = "qmp3.sock"
INSTANCE_AGENT: Final = "agent.sock"
INSTANCE_SERIAL: Final = "serial.sock"
INSTANCE_SOCKETS: Final = (
    *(INSTANCE_QMP, INSTANCE_QMP_INTROSPECT, INSTANCE_QMP_EVENTS, INSTANCE_AGENT, INSTANCE_SERIAL),
)
INSTANCE_SERIAL_LOG: Final = "serial.log"
INSTANCE_QEMU_LOG: Final = "qemu.log"
INSTANCE_BOOT_SET: Final = "boot-set.txt"
INSTANCE_OVERLAYS: Final = "overlays"
INSTANCE_SPEC: Final = "spec.json"
INSTANCE_SNAPSHOTS: Final = "snapshots.json"
INSTANCE_SAVED: Final = "saved"
INSTANCE_SAVED_CURRENT: Final = f"{INSTANCE_SAVED}/current"

# name inside the state directory
KERNELS: Final = "kernels"

# names inside the store
STORE_FORMAT: Final = "FORMAT"
STORE_LOCK: Final = "lock"
STORE_IN_USE: Final = "in-use"
STORE_BOOT_SETS: Final = "boot-sets.json"
STORE_DAMAGED: Final = "damaged"
STORE_OUTDATED: Final = "outdated"
STORE_PACKS: Final = "packs"
STORE_JOURNALS: Final = "journals"
STORE_META: Final = "meta"
STORE_PINS: Final = "pins"
PACK_SUFFIX: Final = ".pack"
JOURNAL_SUFFIX: Final = ".journal"
JOURNAL_NOTE_SUFFIX: Final = ".json"
JOURNAL_PLACES_SUFFIX: Final = ".places"

# names inside the directory of what libvirt's machines use
LIBVIRT_ENGINES: Final = "engines"
LIBVIRT_DOMAINS: Final = "domains"
LIBVIRT_STORES: Final = "stores"
LIBVIRT_RUN: Final = "run"

# names inside the folder of a libvirt domain
DOMAIN_STATE: Final = "state.json"
DOMAIN_LOCK: Final = "lock"
DOMAIN_BOOT_SET: Final = "boot-set.txt"
DOMAIN_PACKS: Final = "packs"
DOMAIN_WAITING: Final = "waiting"
DOMAIN_JOURNAL: Final = "run.journal"
DOMAIN_QMP: Final = "qmp.sock"
DOMAIN_QMP_INTROSPECT: Final = "qmp2.sock"

# names inside the cache directory
ENGINES: Final = "engines"
IMAGES: Final = "images"
DOWNLOADS: Final = "downloads"
LOGS: Final = "logs"
SCANS: Final = "scans"
HELPER_STATES: Final = "helper"
BUILD_LOCK: Final = "build.lock"


def _named(folder: Path, variable: str) -> Path:
    """A folder that QEMU's protocol, which is UTF-8, and lists with one path a line can name.

    Raises :class:`ConfigError`.
    """
    text = str(folder)
    if all(c.isprintable() for c in text):
        return folder
    raise ConfigError(
        f"{variable} can't be used, it has bytes that are no printable UTF-8: {text!r}",
        hint=f"set {variable} to a folder with another name",
    )


def _xdg(variable: str, fallback: str) -> Path:
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else _home(variable) / fallback


def _home(variable: str) -> Path:
    try:
        return Path.home()
    except RuntimeError:  # no HOME, and the password file does not know the user
        raise ConfigError(
            f"user {os.getuid()} has no home directory",
            hint=f"set {ENV_HOME} to a directory of its own (or HOME, or {variable})",
        ) from None


def cache_dir() -> Path:
    """Directory of engines, images and downloads: big, can be made again."""
    home = os.environ.get(ENV_HOME)
    if home:
        return _named(Path(home).absolute() / "cache", ENV_HOME)
    return _named(_xdg("XDG_CACHE_HOME", ".cache") / "sysqcache", ENV_HOME)


def state_dir() -> Path:
    """Directory of instances and, by default, the store."""
    home = os.environ.get(ENV_HOME)
    if home:
        return _named(Path(home).absolute() / "state", ENV_HOME)
    return _named(_xdg("XDG_STATE_HOME", ".local/state") / "sysqcache", ENV_HOME)


def store_dir() -> Path:
    """Directory of the block store: packs, journals, metadata."""
    store = os.environ.get(ENV_STORE)
    return _named(Path(store).absolute(), ENV_STORE) if store else state_dir() / "store"


def libvirt_dir() -> Path:
    """Directory of what libvirt's machines use: QEMU's user must be able to get there."""
    home = os.environ.get(ENV_HOME)
    if home:
        return Path(home).absolute() / "libvirt"
    return Path("/var/lib/sysqcache/libvirt") if os.geteuid() == 0 else state_dir() / "libvirt"


def engines_dir() -> Path:
    """Directory of built engines, one folder a build key."""
    return cache_dir() / ENGINES


def images_dir() -> Path:
    """Directory of built guest images."""
    return cache_dir() / IMAGES


def downloads_dir() -> Path:
    """Directory of fetched source and firmware packages."""
    return cache_dir() / DOWNLOADS


def scans_dir() -> Path:
    """Directory of what was read from guest images: contents, unpacked kernels, symbols."""
    return cache_dir() / SCANS


def helper_dir() -> Path:
    """Directory of the saved state of the machine that reads other machines' disks."""
    return cache_dir() / HELPER_STATES


def logs_dir() -> Path:
    """Directory of the logs of engine and image builds."""
    return cache_dir() / LOGS


def build_lock() -> Path:
    """Lock file of engine and image builds: one at a time."""
    return cache_dir() / BUILD_LOCK


def instances_dir() -> Path:
    """Directory of running and saved machines, one folder a name."""
    return state_dir() / "machines"


def instance_dir(name: str) -> Path:
    """Directory of the machine ``name``."""
    return instances_dir() / name
