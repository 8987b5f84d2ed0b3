# SPDX-License-Identifier: GPL-2.0-or-later
"""Where saved machines lie, and how a new one takes the place of the one before.

::

    machines/NAME/saved/
      current            symbolic link to the directory of the saved machine
      <id>/saved.json    the record
      <id>/state         memory and devices (file, template), mode 0400
      <id>/disk0.qcow2   the machine's own disks
      <id>/touched       pages that the last machine from a template touched, if known

A directory is complete before the link names it, and the link is replaced atomically: a
kill leaves the saved machine before, or the new one. Directories that nothing needs any
more are removed by the next command that saves or deletes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sysqcache.base import paths, system
from sysqcache.base.errors import MachineBusy, NoSuchMachine, SavedStateError
from sysqcache.base.files import TEMPORARY, locked, replace_file, sync_directory
from sysqcache.machine.instances import Instance, list_instances
from sysqcache.saved import disks
from sysqcache.saved.record import SavedMachine

RECORD: Final = "saved.json"
STATE: Final = "state"
TOUCHED: Final = "touched"
LOCK: Final = ".lock"
"""Held by who saves a machine or takes it back."""
_QEMU_THREADS: Final = 8
"""More than a migration or a snapshot starts."""
_TAG: Final = re.compile(r"sysqcache-(\d{8}T\d{6}-[0-9a-f]{6})")
CURRENT: Final = Path(paths.INSTANCE_SAVED_CURRENT).name


@contextlib.contextmanager
def only_one(instance: Instance) -> Iterator[None]:
    """Hold what saving and going back need alone. Raises :class:`MachineError`."""
    instance.require_running()
    _require_threads(instance.name)
    directory = instance.file(paths.INSTANCE_SAVED)
    directory.mkdir(mode=0o700, exist_ok=True)
    with locked(directory / LOCK) as fd:
        if fd is None:
            raise MachineBusy(f"another command is saving {instance.name} or takes it back")
        yield


def _require_threads(name: str) -> None:
    """QEMU ends, and the guest with it, when a thread that moves its memory can't be started."""
    text = f"{name} can't be saved or taken back now, it runs on"
    with system.refused_as(SavedStateError, text):
        system.require_threads(_QEMU_THREADS)


def new_slot(instance: Instance) -> tuple[str, Path]:
    """The id of a machine that is about to be saved, and its empty directory."""
    directory = instance.file(paths.INSTANCE_SAVED)
    directory.mkdir(mode=0o700, exist_ok=True)
    for path in directory.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)
    one = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
    slot = directory / f"{TEMPORARY}{one}"
    slot.mkdir(mode=0o700)
    return one, slot


def tag(one: str) -> str:
    """The name of the snapshot of a machine that is saved inside its disks, by its id."""
    return f"sysqcache-{one}"


def id_of(tag: str) -> str:
    """The inverse of :func:`tag`; "" for the name of another snapshot."""
    found = _TAG.fullmatch(tag)
    return found[1] if found else ""


def tags() -> set[str]:
    """The names of the snapshots of all saved machines, whether or not they have one."""
    links = paths.instances_dir().glob(f"*/{paths.INSTANCE_SAVED}/{CURRENT}")
    return {tag(link.readlink().name) for link in links if link.is_symlink()}


def holds(instance: Instance, one: str) -> bool:
    """Whether the directory of the machine saved by this id is there, saved still or not."""
    return (instance.file(paths.INSTANCE_SAVED) / one).is_dir()


def publish(instance: Instance, slot: Path, record: SavedMachine) -> Path:
    """Make a filled directory the saved machine; its directory. Raises OSError."""
    replace_file(slot / RECORD, record.encode(), synced=True)
    final = slot.with_name(record.id)
    slot.rename(final)
    link = final.with_name(f"{TEMPORARY}{CURRENT}")
    link.unlink(missing_ok=True)
    link.symlink_to(record.id, target_is_directory=True)
    link.replace(final.with_name(CURRENT))
    sync_directory(final.parent)
    return final


def rewrite(directory: Path, record: SavedMachine) -> None:
    """Replace the record of a saved machine atomically. Raises OSError."""
    replace_file(directory / RECORD, record.encode(), synced=True)


def seal(name: str) -> SavedMachine:
    """Write down what disks with a snapshot are like after QEMU's end; the new record.

    Raises as :func:`current`, and OSError.
    """
    record, directory = current(name)
    if record.tag:
        record = dataclasses.replace(record, disks=disks.refresh(record.disks, directory))
        rewrite(directory, record)
    return record


def is_current(instance: Instance, one: str) -> bool:
    """Whether the saved machine is the one with this id."""
    link = instance.file(paths.INSTANCE_SAVED) / CURRENT
    return link.is_symlink() and link.readlink().name == one


def current(name: str) -> tuple[SavedMachine, Path]:
    """The saved machine of a name, and its directory.

    Raises :class:`SavedStateError` when there is none or its record is damaged,
    :class:`NoSuchMachine` when there is no such machine.
    """
    instance = Instance(name)
    link = instance.file(paths.INSTANCE_SAVED) / CURRENT
    try:
        directory = link.resolve(strict=True)
        content = (directory / RECORD).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        instance.read()  # an unknown name is another error
        raise SavedStateError(
            f"{name} is not saved", hint=f"sysqcache suspend {name} saves it while it runs"
        ) from None
    except OSError as error:
        raise SavedStateError(f"the saved machine {name} can't be read: {error}") from None
    try:
        return SavedMachine.decode(content), directory
    except SavedStateError as error:
        error.message = f"the saved machine {name} can't be used: {error.message}"
        raise


def users(directory: Path) -> list[str]:
    """Names of the running machines that were resumed from a saved machine's directory."""
    found = []
    for state in list_instances():
        if state.saved_from == str(directory) and Instance(state.name).is_held():
            found.append(state.name)
    return found


def forget(name: str) -> None:
    """Delete the saved machine of a name.

    Raises :class:`SavedStateError` while machines run from it.
    """
    instance = Instance(name)
    link = instance.file(paths.INSTANCE_SAVED) / CURRENT
    if not link.is_symlink():
        instance.read()
        raise SavedStateError(f"{name} is not saved")
    directory = link.parent / link.readlink()
    if running := users(directory):
        raise SavedStateError(
            f"{', '.join(running)} runs from the saved machine {name}",
            hint="stop these machines first",
        )
    link.unlink()
    sweep(instance)


def sweep(instance: Instance) -> None:
    """Remove directories that are neither the saved machine nor below one, nor in use."""
    directory = instance.file(paths.INSTANCE_SAVED)
    with contextlib.suppress(FileNotFoundError):
        needed = _needed(directory)
        for path in directory.iterdir():
            if path.is_dir() and not path.is_symlink() and path.name not in needed:
                shutil.rmtree(path, ignore_errors=True)


def _needed(directory: Path) -> set[str]:
    """Names of directories that hold disks which something lies over."""
    link = directory / CURRENT
    waiting = [link.readlink().name] if link.is_symlink() else []
    waiting += [path.name for path in directory.iterdir() if path.is_dir() and users(path)]
    needed: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        # what can't be read now may need others: an error is better than to remove them
        with contextlib.suppress(FileNotFoundError, SavedStateError):
            record = SavedMachine.decode((directory / name / RECORD).read_bytes())
            below = {Path(file).parent for disk in record.disks for file in disk.chain}
            waiting += [path.name for path in below if path.parent == directory]
    return needed


def names() -> list[str]:
    """Names of all saved machines."""
    found = []
    for folder in sorted(paths.instances_dir().glob(f"*/{paths.INSTANCE_SAVED}/{CURRENT}")):
        with contextlib.suppress(NoSuchMachine):
            found.append(folder.parent.parent.name)
    return found
