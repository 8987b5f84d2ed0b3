# SPDX-License-Identifier: GPL-2.0-or-later
"""BTF as a type finder of drgn, so that drgn's own helpers work on a stock kernel.

A type is built when it is asked for, and the types of its members when those are: of a
hundred thousand types a helper uses a few dozen. drgn's helpers follow whatever they
find; where the guest may be hostile, the walks of this package are the ones to use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from sysqcache.guestmap.btf import Btf, BtfError, BtfMember, BtfType, Kind

if TYPE_CHECKING:
    import drgn

_SIGNED: Final = 1
_BOOL: Final = 4

# BTF has the names of DWARF, drgn those of a C declaration in its shortest form
_C_NAMES: Final = {
    "short int": "short",
    "short unsigned int": "unsigned short",
    "long int": "long",
    "long unsigned int": "unsigned long",
    "long long int": "long long",
    "long long unsigned int": "unsigned long long",
}
_DWARF_NAMES: Final = {short: long for long, short in _C_NAMES.items()}

VARIABLES: Final[Mapping[str, str]] = {
    "init_task": "struct task_struct",
    "init_mm": "struct mm_struct",
    "init_pid_ns": "struct pid_namespace",
    "init_uts_ns": "struct uts_namespace",
    "modules": "struct list_head",
    "super_blocks": "struct list_head",
    "max_pfn": "unsigned long",
    "page_offset_base": "unsigned long",
    "vmemmap_base": "unsigned long",
    "vmap_area_list": "struct list_head",
}
"""Variables that helpers need; BTF has types of per-CPU variables only."""


class BtfTypes:
    """The types of one kernel for one drgn program.

    ``address`` gives the address of a kernel symbol, None for none.
    """

    def __init__(self, prog: drgn.Program, btf: Btf, address: Callable[[str], int | None]) -> None:
        self._prog = prog
        self._btf = btf
        self._address = address
        self._made: dict[int, drgn.Type] = {}
        self._constants: dict[str, tuple[int, int]] | None = None

    def register(self) -> None:
        """Make types, constants and :data:`VARIABLES` known to the program."""
        self._prog.register_type_finder("btf", self._find_type, enable_index=0)
        self._prog.register_object_finder("btf", self._find_object, enable_index=-1)

    @property
    def made(self) -> int:
        """How many types were built so far."""
        return len(self._made)

    def _find_type(
        self, prog: drgn.Program, kinds: drgn.TypeKindSet, name: str, filename: str | None
    ) -> drgn.Type | None:
        import drgn

        if filename:
            return None
        for kind, ours in (
            (drgn.TypeKind.STRUCT, (Kind.STRUCT,)),
            (drgn.TypeKind.UNION, (Kind.UNION,)),
            (drgn.TypeKind.ENUM, (Kind.ENUM, Kind.ENUM64)),
            (drgn.TypeKind.TYPEDEF, (Kind.TYPEDEF,)),
            (drgn.TypeKind.INT, (Kind.INT,)),
            (drgn.TypeKind.BOOL, (Kind.INT,)),
            (drgn.TypeKind.FLOAT, (Kind.FLOAT,)),
        ):
            if kind not in kinds:
                continue
            for one in ours:
                found = self._btf.find(one, _DWARF_NAMES.get(name, name))
                if found is not None:
                    return self.type(found.id)
        return None

    def _find_object(
        self, prog: drgn.Program, name: str, flags: drgn.FindObjectFlags, filename: str | None
    ) -> drgn.Object | None:
        import drgn

        if flags & drgn.FindObjectFlags.CONSTANT:
            place = self._enumerators().get(name)
            if place is not None:
                return drgn.Object(prog, self.type(place[0]), value=place[1])
        if flags & drgn.FindObjectFlags.VARIABLE and name in VARIABLES:
            address = self._address(name)
            if address is not None:
                return drgn.Object(prog, VARIABLES[name], address=address)
        return None

    def _enumerators(self) -> dict[str, tuple[int, int]]:
        if self._constants is None:
            self._constants = {}
            for type_id in range(1, len(self._btf)):
                found = self._btf.type(type_id)
                if found.kind in (Kind.ENUM, Kind.ENUM64):
                    for name, value in self._btf.enumerators(found):
                        self._constants.setdefault(name, (type_id, value))
        return self._constants

    def type(self, type_id: int) -> drgn.Type:
        """The drgn type of a BTF type; raises :class:`.btf.BtfError` when it is damaged."""
        made = self._made.get(type_id)
        if made is None:
            found = self._btf.type(type_id)
            maker = _MAKERS.get(found.kind)
            if maker is None:
                raise BtfError(f"type {type_id} is no type of C")
            made = self._made[type_id] = maker(self, found)
        return made

    def _void(self, found: BtfType) -> drgn.Type:
        return self._prog.void_type()

    def _int(self, found: BtfType) -> drgn.Type:
        (word,) = self._btf.words(found, 1)
        name = _C_NAMES.get(found.name, found.name)
        if (word >> 24) & _BOOL:
            return self._prog.bool_type(name, found.size)
        return self._prog.int_type(name, found.size, bool((word >> 24) & _SIGNED))

    def _float(self, found: BtfType) -> drgn.Type:
        return self._prog.float_type(found.name, found.size)

    def _pointer(self, found: BtfType) -> drgn.Type:
        return self._prog.pointer_type(self.type(found.size))

    def _array(self, found: BtfType) -> drgn.Type:
        element, _, length = self._btf.words(found, 3)
        return self._prog.array_type(self.type(element), length or None)

    def _compound(self, found: BtfType) -> drgn.Type:
        import drgn

        members = [
            drgn.TypeMember(self._member(member), member.name or None, member.bit_offset)
            for member in self._btf.members(found)
        ]
        make: Any = self._prog.struct_type if found.kind == Kind.STRUCT else self._prog.union_type
        made: drgn.Type = make(found.name or None, found.size, members)
        return made

    def _member(self, member: BtfMember) -> Callable[[], Any]:
        def build() -> Any:
            import drgn

            its_type = self.type(member.type_id)
            if not member.bit_size:
                return its_type
            return drgn.Object(self._prog, its_type, bit_field_size=member.bit_size)

        return build

    def _enum(self, found: BtfType) -> drgn.Type:
        import drgn

        name = {1: "unsigned char", 2: "unsigned short", 8: "unsigned long"}.get(found.size, "int")
        if found.size == 4 and not found.flag:
            name = "unsigned int"
        compatible = self._prog.int_type(name, found.size, found.flag)
        values = [drgn.TypeEnumerator(*pair) for pair in self._btf.enumerators(found)]
        return self._prog.enum_type(found.name or None, compatible, values)

    def _forward(self, found: BtfType) -> drgn.Type:
        make: Any = self._prog.union_type if found.flag else self._prog.struct_type
        made: drgn.Type = make(found.name)
        return made

    def _typedef(self, found: BtfType) -> drgn.Type:
        return self._prog.typedef_type(found.name, self.type(found.size))

    def _qualified(self, found: BtfType) -> drgn.Type:
        import drgn

        qualifier = {
            Kind.CONST: drgn.Qualifiers.CONST,
            Kind.VOLATILE: drgn.Qualifiers.VOLATILE,
            Kind.RESTRICT: drgn.Qualifiers.RESTRICT,
        }[found.kind]
        inner = self.type(found.size)
        return inner.qualified(inner.qualifiers | qualifier)

    def _tagged(self, found: BtfType) -> drgn.Type:
        return self.type(found.size)

    def _function(self, found: BtfType) -> drgn.Type:
        import drgn

        words = self._btf.words(found, 2 * found.vlen)
        pairs = list(zip(words[::2], words[1::2], strict=True))
        variadic = bool(pairs) and pairs[-1] == (0, 0)
        parameters = [
            drgn.TypeParameter(self._parameter(type_id), self._btf.text(name) or None)
            for name, type_id in (pairs[:-1] if variadic else pairs)
        ]
        return self._prog.function_type(self.type(found.size), parameters, variadic)

    def _parameter(self, type_id: int) -> Callable[[], drgn.Type]:
        return lambda: self.type(type_id)


_MAKERS: Final[Mapping[Kind, Callable[[BtfTypes, BtfType], Any]]] = {
    Kind.VOID: BtfTypes._void,
    Kind.INT: BtfTypes._int,
    Kind.FLOAT: BtfTypes._float,
    Kind.PTR: BtfTypes._pointer,
    Kind.ARRAY: BtfTypes._array,
    Kind.STRUCT: BtfTypes._compound,
    Kind.UNION: BtfTypes._compound,
    Kind.ENUM: BtfTypes._enum,
    Kind.ENUM64: BtfTypes._enum,
    Kind.FWD: BtfTypes._forward,
    Kind.TYPEDEF: BtfTypes._typedef,
    Kind.CONST: BtfTypes._qualified,
    Kind.VOLATILE: BtfTypes._qualified,
    Kind.RESTRICT: BtfTypes._qualified,
    Kind.TYPE_TAG: BtfTypes._tagged,
    Kind.FUNC_PROTO: BtfTypes._function,
}
