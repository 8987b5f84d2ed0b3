# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the members of kernel structures lie: all that the walks need of the types.

A layout has a hundred numbers, so it is kept on disk for each kernel, and a machine
whose kernel was seen before is mapped without reading its types.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from sysqcache.guestmap.btf import Btf, Kind
from sysqcache.guestmap.memory import UnknownShapeError

STRUCTS: Final[Mapping[str, str]] = {
    "address_space": "host nrpages i_pages",
    "bin_attribute": "attr.name size private",
    "dentry": "d_parent d_name.name d_name.len d_inode d_hash.pprev d_alias",
    "file": "f_path.mnt f_path.dentry",
    "file_system_type": "name",
    "inode": "i_ino i_mode i_sb i_data i_mapping i_size i_dentry i_rdev",
    "list_head": "next",
    "maple_arange_64": "pivot slot",
    "maple_range_64": "pivot slot",
    "mm_struct": "mm_mt.ma_root mmap map_count start_brk brk start_stack pgd start_code end_code",
    "module": (
        "list name state mem core_layout.base core_layout.size core_layout.text_size"
        " init_layout.base init_layout.size init_layout.text_size notes_attrs sect_attrs"
        " mkobj.mod"
    ),
    "module_memory": "base size",
    "module_notes_attrs": "notes attrs grp.bin_attrs",
    "module_sect_attr": "battr.attr.name address",
    "module_sect_attrs": "nsections attrs grp.bin_attrs",
    "mount": "mnt.mnt_root mnt mnt_parent mnt_mountpoint mnt_instance mnt_next_for_sb",
    "page": "flags mapping index private compound_head _refcount page_type",
    "resource": "start end name sibling child",
    "super_block": "s_dev s_root s_type s_mounts s_id",
    "task_struct": "tasks pid tgid comm mm group_leader",
    "uts_namespace": "name.release",
    "vm_area_struct": "vm_start vm_end vm_next vm_flags vm_pgoff vm_file vm_ops vm_private_data",
    "vm_operations_struct": "name",
    "vm_special_mapping": "name",
}
"""Members that the walks read. A kernel lacks some of them; the walks know which."""

NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    # v7.1: d_alias in an anonymous union
    "dentry.d_alias": ("d_alias", "d_u.d_alias"),
    # v6.16, "mm: rename page->index to page->__folio_index"
    "page.index": ("__folio_index", "index"),
    # v7.1, "mm: rename the 'compound_head' field in the 'struct page' to 'compound_info'"
    "page.compound_head": ("compound_info", "compound_head"),
}
"""Members that are the same by another name, the newest first, and what renamed them.

What changed more than its name are members of :data:`STRUCTS`, of which a kernel has one or
the other:

=====================================  ==========================================
``mm_struct.mmap``, ``vm_next``        up to v6.0: mappings are a list, not yet a maple tree
``module.core_layout``                 up to v6.3; then ``module.mem``
``module_sect_attrs.nsections``        up to v6.13; then a list of pointers that ends in zero
``mount.mnt_instance``                 up to v6.17; then ``mnt_next_for_sb``, which ends in zero,
                                       "struct mount: relocate MNT_WRITE_HOLD bit"
=====================================  ==========================================
"""

ENUMS: Final[Mapping[str, str]] = {
    "pageflags": "PG_reserved PG_slab PG_head",
    "mod_mem_type": "MOD_TEXT MOD_INIT_TEXT MOD_MEM_NUM_TYPES",
    "maple_type": "maple_dense maple_leaf_64 maple_range_64 maple_arange_64",
    "module_state": "MODULE_STATE_UNFORMED",
}


@dataclasses.dataclass(frozen=True, slots=True)
class KernelLayout:
    """Offsets as ``struct.member``, sizes of structures and members, enumerators.

    ``lacking`` says why there are none, if the kernel does not describe its structures.
    """

    offsets: Mapping[str, int]
    sizes: Mapping[str, int]
    enums: Mapping[str, int]
    lacking: str = ""

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
                names = NAMES.get(f"{name}.{member}", (member,))
                places = (btf.member(found, one) for one in names)
                place = next((one for one in places if one is not None), None)
                if place is not None:
                    offsets[f"{name}.{member}"], sizes[f"{name}.{member}"] = place
        return cls(offsets, sizes, dict(_enumerators(btf)))

    def at(self, member: str) -> int:
        """Offset of ``struct.member``; raises :class:`UnknownShapeError` when there is none."""
        try:
            return self.offsets[member]
        except KeyError:
            raise UnknownShapeError(f"this kernel has no {member}") from None

    def has(self, member: str) -> bool:
        """True when this kernel has ``struct.member``."""
        return member in self.offsets

    def size(self, name: str) -> int:
        """Size of a structure or of ``struct.member``."""
        try:
            return self.sizes[name]
        except KeyError:
            raise UnknownShapeError(f"this kernel has no {name}") from None


def _enumerators(btf: Btf) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for name, wanted in ENUMS.items():
        an_enum = btf.find(Kind.ENUM, name) or btf.find(Kind.ENUM64, name)
        if an_enum is not None:
            names = wanted.split()
            found += [pair for pair in btf.enumerators(an_enum) if pair[0] in names]
    return found
