# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the members of kernel structures lie: all that the walks need of the types.

A layout has a hundred numbers, so it is kept on disk for each kernel, and a machine
whose kernel was seen before is mapped without reading its types.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from sysqcache.guestmap.btf import Btf, BtfError, Kind
from sysqcache.guestmap.memory import UnreadableError

STRUCTS: Final[Mapping[str, str]] = {
    "address_space": "host nrpages i_pages",
    "bin_attribute": "attr.name size private",
    "dentry": "d_parent d_name.name d_name.len d_inode d_hash.pprev d_u.d_alias",
    "file": "f_path.mnt f_path.dentry",
    "file_system_type": "name",
    "inode": "i_ino i_mode i_sb i_data i_mapping i_size i_dentry i_rdev",
    "list_head": "next",
    "maple_arange_64": "pivot slot",
    "maple_range_64": "pivot slot",
    "mm_struct": "mm_mt.ma_root map_count start_brk brk start_stack pgd start_code end_code",
    "module": (
        "list name state mem core_layout.base core_layout.size core_layout.text_size"
        " init_layout.base init_layout.size init_layout.text_size notes_attrs sect_attrs"
        " mkobj.mod"
    ),
    "module_memory": "base size",
    "module_notes_attrs": "notes attrs",
    "module_sect_attr": "battr.attr.name address",
    "module_sect_attrs": "nsections attrs",
    "mount": "mnt.mnt_root mnt mnt_parent mnt_mountpoint mnt_instance",
    "page": "flags mapping index private compound_head _refcount page_type",
    "resource": "start end name sibling child",
    "super_block": "s_dev s_root s_type s_mounts s_id",
    "task_struct": "tasks pid tgid comm mm group_leader",
    "uts_namespace": "name.release",
    "vm_area_struct": "vm_start vm_end vm_flags vm_pgoff vm_file vm_ops vm_private_data",
    "vm_operations_struct": "name",
    "vm_special_mapping": "name",
}
"""Members that the walks read. A kernel lacks some of them; the walks know which."""

ENUMS: Final[Mapping[str, str]] = {
    "pageflags": "PG_reserved PG_slab PG_head",
    "mod_mem_type": "MOD_TEXT MOD_INIT_TEXT MOD_MEM_NUM_TYPES",
    "maple_type": "maple_dense maple_leaf_64 maple_range_64 maple_arange_64",
    "module_state": "MODULE_STATE_UNFORMED",
}


@dataclasses.dataclass(frozen=True, slots=True)
class KernelLayout:
    """Offsets as ``struct.member``, sizes of structures and members, enumerators."""

    offsets: Mapping[str, int]
    sizes: Mapping[str, int]
    enums: Mapping[str, int]

    @classmethod
    def from_btf(cls, btf: Btf) -> KernelLayout:
        """Look all members up; those that this kernel lacks are left out.

        Raises :class:`.btf.BtfError` when the types are damaged.
        """
        offsets: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for name, members in STRUCTS.items():
            found = btf.struct(name)
            if found is None or found.kind not in (Kind.STRUCT, Kind.UNION):
                continue
            sizes[name] = found.size
            for member in members.split():
                place = btf.member(found, member)
                if place is not None:
                    offsets[f"{name}.{member}"], sizes[f"{name}.{member}"] = place
        return cls(offsets, sizes, dict(_enumerators(btf)))

    def at(self, member: str) -> int:
        """Offset of ``struct.member``; raises :class:`UnreadableError` when there is none."""
        try:
            return self.offsets[member]
        except KeyError:
            raise UnreadableError(f"this kernel has no {member}") from None

    def has(self, member: str) -> bool:
        """True when this kernel has ``struct.member``."""
        return member in self.offsets

    def size(self, name: str) -> int:
        """Size of a structure or of ``struct.member``."""
        try:
            return self.sizes[name]
        except KeyError:
            raise UnreadableError(f"this kernel has no {name}") from None


def _enumerators(btf: Btf) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for name, wanted in ENUMS.items():
        an_enum = btf.find(Kind.ENUM, name) or btf.find(Kind.ENUM64, name)
        if an_enum is not None:
            names = wanted.split()
            found += [pair for pair in btf.enumerators(an_enum) if pair[0] in names]
    return found


__all__ = ["ENUMS", "STRUCTS", "BtfError", "KernelLayout"]
