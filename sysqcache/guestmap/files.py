# SPDX-License-Identifier: GPL-2.0-or-later
"""Paths of the guest's files, from its dentries and mounts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Final

from sysqcache.guestmap import limits
from sysqcache.guestmap.guest import Guest
from sysqcache.guestmap.memory import ExhaustedError, UnreadableError

_DELETED: Final = " (deleted)"
_TYPE_MASK: Final = 0o170000
_REGULAR: Final = 0o100000


@dataclasses.dataclass(frozen=True, slots=True)
class FileInfo:
    """An inode: its number, its file system's device and what path is known of it."""

    address: int
    inode: int
    device: int
    mode: int
    path: str

    @property
    def is_regular(self) -> bool:
        """True for what may be an executable file."""
        return self.mode & _TYPE_MASK == _REGULAR


class Files:
    """Paths and inodes of one guest, each looked up once."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._mount_offset = guest.layout.at("mount.mnt")
        self._mounts: dict[int, int] = {}
        self._superblocks: dict[int, tuple[int, int]] = {}
        self._directories: dict[tuple[int, int], str] = {}

    def path(self, vfsmount: int, dentry: int) -> str:
        """The path as /proc/PID/maps shows it, with " (deleted)" for what was unlinked.

        Raises :class:`UnreadableError` or :class:`ExhaustedError`.
        """
        guest = self._guest
        mount = vfsmount - self._mount_offset
        parent = guest.pointer(dentry, "dentry.d_parent")
        name = self._name(dentry)
        if parent == dentry and guest.pointer(mount, "mount.mnt.mnt_root") == dentry:
            if guest.pointer(mount, "mount.mnt_parent") == mount and name != "/":
                return f"/{name}{_DELETED}"  # a file without a directory, such as a memfd
            return self._directory(mount, dentry)
        if parent == dentry:
            return f"/{name}{_DELETED}"
        text = f"{self._directory(mount, parent).rstrip('/')}/{name}"
        return text + (_DELETED if self._is_unlinked(dentry) else "")

    def _directory(self, mount: int, dentry: int) -> str:
        known = self._directories.get((mount, dentry))
        if known is None:
            known = self._climb(mount, dentry)
            self._directories[mount, dentry] = known
        return known

    def _climb(self, mount: int, dentry: int) -> str:
        """Names up to the root of the outermost mount."""
        guest = self._guest
        parts: list[str] = []
        for _ in range(limits.PATH_PARTS):
            if guest.pointer(mount, "mount.mnt.mnt_root") == dentry:
                outer = guest.pointer(mount, "mount.mnt_parent")
                if outer == mount:
                    return "/" + "/".join(reversed(parts))
                dentry = guest.pointer(mount, "mount.mnt_mountpoint")
                mount = outer
                continue
            parent = guest.pointer(dentry, "dentry.d_parent")
            if parent == dentry:
                # a mount that was detached, or one without a place
                return "/" + "/".join(reversed(parts))
            parts.append(self._name(dentry))
            dentry = parent
        raise ExhaustedError("a path without an end")

    def _name(self, dentry: int) -> str:
        return self._guest.memory.string(self._guest.pointer(dentry, "dentry.d_name.name"))

    def _is_unlinked(self, dentry: int) -> bool:
        return not self._guest.pointer(dentry, "dentry.d_hash.pprev")

    def info(self, inode: int) -> FileInfo:
        """What is known of an inode; raises :class:`UnreadableError` when it is none."""
        guest = self._guest
        superblock = guest.pointer(inode, "inode.i_sb")
        device, root = self._superblock(superblock)
        number = guest.pointer(inode, "inode.i_ino")
        mode = guest.number(inode, "inode.i_mode")
        try:
            path = self._inode_path(inode, superblock, root)
        except (UnreadableError, ExhaustedError):
            path = ""
        return FileInfo(inode, number, device, mode, path)

    def _superblock(self, superblock: int) -> tuple[int, int]:
        known = self._superblocks.get(superblock)
        if known is None:
            guest = self._guest
            known = (
                guest.u32(superblock, "super_block.s_dev"),
                guest.pointer(superblock, "super_block.s_root"),
            )
            self._superblocks[superblock] = known
        return known

    def _inode_path(self, inode: int, superblock: int, root: int) -> str:
        """A path by one of the inode's dentries, "" when none is left."""
        guest = self._guest
        alias = guest.pointer(inode, "inode.i_dentry")
        if not alias:
            return ""
        dentry = alias - guest.layout.at("dentry.d_alias")
        mount = self._mount_of(superblock, root)
        if mount:
            return self.path(mount + self._mount_offset, dentry).removesuffix(_DELETED)
        return ""

    def _mount_of(self, superblock: int, root: int) -> int:
        """The first mount of a whole file system."""
        mounts = self._mounts
        if superblock not in mounts:
            guest, found = self._guest, 0
            for mount in self._mounts_of(superblock):
                found = found or mount
                if guest.pointer(mount, "mount.mnt.mnt_root") == root:
                    found = mount
                    break
            mounts[superblock] = found
        return mounts[superblock]

    def _mounts_of(self, superblock: int) -> Iterator[int]:
        guest = self._guest
        head = superblock + guest.layout.at("super_block.s_mounts")
        if guest.layout.has("mount.mnt_instance"):
            return guest.members(head, "mount.mnt_instance", limits.MOUNTS)
        return guest.chain(head, "mount.mnt_next_for_sb", limits.MOUNTS)
