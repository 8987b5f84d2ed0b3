# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's processes and their mappings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from sysqcache.guestmap import limits
from sysqcache.guestmap.files import Files
from sysqcache.guestmap.guest import Guest
from sysqcache.guestmap.mapletree import MapleTree
from sysqcache.guestmap.memory import ExhaustedError, UnreadableError
from sysqcache.guestmap.result import Mapping, Process

# include/linux/mm.h
_READ: Final = 0x1
_WRITE: Final = 0x2
_EXEC: Final = 0x4
_MAY_SHARE: Final = 0x80


class ProcessWalk:
    """Reads all processes; what could not be read is counted in ``lost``."""

    def __init__(self, guest: Guest, files: Files) -> None:
        self._guest = guest
        self._files = files
        self._tree = (
            None if guest.layout.has("mm_struct.mmap") else MapleTree(guest.memory, guest.layout)
        )
        self._left = limits.ALL_MAPPINGS
        self._paths: dict[int, tuple[str, int, int]] = {}
        self.lost = 0
        self.cut_short = ""

    def processes(self) -> tuple[Process, ...]:
        """All processes by pid; raises :class:`UnreadableError` when there is no list of them."""
        found: dict[int, Process] = {}
        try:
            for task in self._tasks():
                try:
                    process = self._process(task)
                except UnreadableError:
                    self.lost += 1
                    continue
                found[process.pid] = process
        except ExhaustedError as error:
            self.cut_short = str(error)
        except UnreadableError as error:
            if not found:
                raise
            self.cut_short = f"the list of processes ends early: {error}"
        return tuple(found[pid] for pid in sorted(found))

    def _tasks(self) -> Iterator[int]:
        """Thread group leaders; init_task itself, which is idle, is not shown."""
        guest = self._guest
        head = guest.symbols["init_task"] + guest.layout.at("task_struct.tasks")
        yield from guest.members(head, "task_struct.tasks", limits.TASKS)

    def _process(self, task: int) -> Process:
        guest = self._guest
        pid = guest.u32(task, "task_struct.tgid")
        comm = guest.memory.string(
            task + guest.layout.at("task_struct.comm"), guest.layout.size("task_struct.comm")
        )
        mm = guest.pointer(task, "task_struct.mm")
        maps = self._mappings(mm) if mm else ()
        return Process(pid, comm, maps)

    def _mappings(self, mm: int) -> tuple[Mapping, ...]:
        guest = self._guest
        names = tuple(
            guest.pointer(mm, f"mm_struct.{name}") for name in ("start_brk", "brk", "start_stack")
        )
        limit = min(limits.MAPPINGS, self._left)
        maps = tuple(self._mapping(vma, names) for vma in self._areas(mm, limit))
        self._left -= len(maps)
        return tuple(sorted(maps, key=lambda one: one.start))

    def _areas(self, mm: int, limit: int) -> Iterator[int]:
        guest = self._guest
        if self._tree is None:
            first = mm + guest.layout.at("mm_struct.mmap")
            return guest.chain(first, "vm_area_struct.vm_next", limit)
        return self._tree.entries(guest.pointer(mm, "mm_struct.mm_mt.ma_root"), limit)

    def _mapping(self, vma: int, names: tuple[int, ...]) -> Mapping:
        guest = self._guest
        start = guest.pointer(vma, "vm_area_struct.vm_start")
        end = guest.pointer(vma, "vm_area_struct.vm_end")
        perms = _perms(guest.pointer(vma, "vm_area_struct.vm_flags"))
        file = guest.pointer(vma, "vm_area_struct.vm_file")
        if not file:
            return Mapping(start, end, perms, 0, 0, self._special(vma, (start, end), names))
        offset = guest.pointer(vma, "vm_area_struct.vm_pgoff") << guest.translation.page_bits
        path, number, inode = self._file(file)
        return Mapping(start, end, perms, offset, number, path, file=inode)

    def _file(self, file: int) -> tuple[str, int, int]:
        """Path, inode number and address of the inode."""
        known = self._paths.get(file)
        if known is None:
            guest = self._guest
            mount = guest.pointer(file, "file.f_path.mnt")
            dentry = guest.pointer(file, "file.f_path.dentry")
            inode = guest.pointer(dentry, "dentry.d_inode")
            path = self._files.path(mount, dentry)
            known = (path, guest.pointer(inode, "inode.i_ino"), inode)
            self._paths[file] = known
        return known

    def _special(self, vma: int, area: tuple[int, int], names: tuple[int, ...]) -> str:
        """The names in brackets that /proc/PID/maps shows."""
        guest = self._guest
        start_brk, brk, stack = names
        operations = guest.pointer(vma, "vm_area_struct.vm_ops")
        if operations and self._is_special(vma, operations):
            return self._own_name(vma)
        if area[0] <= brk and area[1] >= start_brk:
            return "[heap]"
        if area[0] <= stack <= area[1]:
            return "[stack]"
        return ""

    def _own_name(self, vma: int) -> str:
        mapping = self._guest.pointer(vma, "vm_area_struct.vm_private_data")
        return self._guest.memory.string(self._guest.pointer(mapping, "vm_special_mapping.name"))

    def _is_special(self, vma: int, operations: int) -> bool:
        """True when a mapping's name is in its own structure, as that of the vDSO is."""
        if not self._guest.layout.has("vm_operations_struct.name"):
            return False
        asked = self._guest.pointer(operations, "vm_operations_struct.name")
        known = self._guest.symbols.get("special_mapping_name")
        if known or not asked:
            return asked == known
        # of the functions that name a mapping, the others take the name from elsewhere
        with contextlib.suppress(UnreadableError):
            return self._own_name(vma).startswith("[v")
        return False


def _perms(flags: int) -> str:
    return (
        ("r" if flags & _READ else "-")
        + ("w" if flags & _WRITE else "-")
        + ("x" if flags & _EXEC else "-")
        + ("s" if flags & _MAY_SHARE else "p")
    )
