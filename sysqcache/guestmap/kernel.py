# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's kernel and its modules."""

from __future__ import annotations

from collections.abc import Iterator

from sysqcache.formats.elf import notes_build_id
from sysqcache.guestmap import limits
from sysqcache.guestmap.guest import Guest
from sysqcache.guestmap.memory import ExhaustedError, UnreadableError
from sysqcache.guestmap.result import KernelInfo, KernelModule


def kernel_info(guest: Guest) -> KernelInfo:
    """What is known of the kernel itself."""
    symbols = guest.symbols
    base = guest.translation.image_start or symbols["_text"]
    end = _end(guest)
    physical = guest.translation.image_physical(base)
    if not guest.translation.is_image(base, end) or not 0 <= physical < 1 << 52:
        raise UnreadableError("the kernel claims to lie where no kernel can")
    return KernelInfo(
        release=guest.info.release,
        build_id=guest.info.build_id or _own_build_id(guest),
        text=(symbols["_stext"], symbols["_etext"]),
        init_text=(symbols.get("_sinittext"), symbols.get("_einittext")),
        kaslr_offset=guest.info.kaslr_offset,
        base=base,
        end=end,
        physical=physical,
    )


def _end(guest: Guest) -> int:
    """Where the image ends; without types as far as symbols tell."""
    symbols = guest.symbols
    if not guest.layout.lacking:
        return guest.pointer(symbols["init_mm"], "mm_struct.brk")
    return max(symbols.get(name) for name in ("_end", "_einittext", "_etext"))


def _own_build_id(guest: Guest) -> str:
    """Kernels before 5.10 do not tell their build id: read their ELF notes."""
    start, end = guest.symbols.get("__start_notes"), guest.symbols.get("__stop_notes")
    if not 0 < end - start <= limits.ELF_NOTE_BYTES:
        return ""
    return notes_build_id(guest.memory.read(start, end - start))


class ModuleWalk:
    """Reads all kernel modules; what could not be read is counted in ``lost``."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self.lost = 0
        self.cut_short = ""

    def modules(self) -> tuple[KernelModule, ...]:
        """All loaded modules; raises :class:`UnreadableError` when there is no list of them."""
        found: list[KernelModule] = []
        if "modules" not in self._guest.symbols and self._has_no_memory():
            return ()
        head = self._guest.symbols["modules"]
        unformed = self._guest.layout.enums.get("MODULE_STATE_UNFORMED", 3)
        try:
            for module in self._guest.members(head, "module.list", limits.MODULES):
                try:
                    if self._guest.u32(module, "module.state") != unformed:
                        found.append(self._module(module))
                except UnreadableError:
                    self.lost += 1
        except ExhaustedError as error:
            self.cut_short = str(error)
        except UnreadableError as error:
            if not found:
                raise
            self.cut_short = f"the list of modules ends early: {error}"
        return tuple(found)

    def _has_no_memory(self) -> bool:
        """True when there is no code where that of modules would be."""
        guest = self._guest
        found = guest.translation.sweep(*guest.translation.modules, guest.memory.physical)
        return not any(
            one.executable and one.physical != guest.translation.image_physical(one.virtual)
            for one in found
        )

    def _module(self, module: int) -> KernelModule:
        guest = self._guest
        name = guest.memory.string(
            module + guest.layout.at("module.name"), guest.layout.size("module.name")
        )
        parts = self._parts(module)
        memory = tuple((base, base + size) for base, size, _ in parts.values() if base and size)
        text, init = parts["text"], parts["init_text"]
        return KernelModule(
            name=name,
            # as /proc/modules has it; since Linux 6.4 other areas may lie below
            start=text[0] or min((base for base, _ in memory), default=0),
            size=sum(end - base for base, end in memory),
            build_id=self._build_id(module),
            text=(text[0], text[0] + text[2]),
            init_text=(init[0], init[0] + init[2]),
            memory=memory,
            sections=self._sections(module),
        )

    def _parts(self, module: int) -> dict[str, tuple[int, int, int]]:
        """(start, size, size of code) of a module's areas, by purpose."""
        guest = self._guest
        if guest.layout.has("module.core_layout.base"):  # up to Linux 6.3
            parts = {
                purpose: (
                    guest.pointer(module, f"module.{area}.base"),
                    guest.u32(module, f"module.{area}.size"),
                    guest.u32(module, f"module.{area}.text_size"),
                )
                for purpose, area in (("text", "core_layout"), ("init_text", "init_layout"))
            }
        else:
            enums, size = guest.layout.enums, guest.layout.size("module_memory")
            names = {enums.get("MOD_TEXT", 0): "text", enums.get("MOD_INIT_TEXT", 4): "init_text"}
            first = module + guest.layout.at("module.mem")
            parts = {}
            for i in range(min(16, guest.layout.size("module.mem") // max(1, size))):
                base = guest.pointer(first + i * size, "module_memory.base")
                length = guest.u32(first + i * size, "module_memory.size")
                parts[names.get(i, str(i))] = (base, length, length)
        for base, length, code in parts.values():
            if length > limits.MODULE_BYTES or code > length or base + length >= 1 << 64:
                raise UnreadableError("a module of no sensible size")
        return {"text": (0, 0, 0), "init_text": (0, 0, 0)} | parts

    def _build_id(self, module: int) -> str:
        """From the ELF notes that the kernel keeps for /sys/module/NAME/notes."""
        guest = self._guest
        try:
            table = guest.pointer(module, "module.notes_attrs")
            if not table:
                return ""
            for attribute in self._note_attributes(table):
                size = guest.number(attribute, "bin_attribute.size")
                notes = guest.pointer(attribute, "bin_attribute.private")
                found = notes_build_id(guest.memory.read(notes, min(size, limits.ELF_NOTE_BYTES)))
                if found:
                    return found
        except UnreadableError:
            pass
        return ""

    def _note_attributes(self, table: int) -> Iterator[int]:
        guest = self._guest
        if not guest.layout.has("module_notes_attrs.notes"):
            return self._pointers(table, "module_notes_attrs.grp.bin_attrs", limits.MODULE_NOTES)
        count = min(guest.u32(table, "module_notes_attrs.notes"), limits.MODULE_NOTES)
        first = table + guest.layout.at("module_notes_attrs.attrs")
        size = guest.layout.size("bin_attribute")
        return iter(range(first, first + count * size, size))

    def _pointers(self, table: int, member: str, limit: int) -> Iterator[int]:
        """What the array of pointers in ``struct.member`` leads to, up to the zero at its end."""
        array = self._guest.pointer(table, member)
        for i in range(limit):
            found = self._guest.memory.u64(array + 8 * i)
            if not found:
                return
            yield found

    def _sections(self, module: int) -> tuple[tuple[str, int], ...]:
        """From what the kernel keeps for /sys/module/NAME/sections."""
        guest = self._guest
        try:
            table = guest.pointer(module, "module.sect_attrs")
            if not table:
                return ()
            if not guest.layout.has("module_sect_attrs.nsections"):
                return tuple(self._sections_since_6_14(table))
            count = min(guest.u32(table, "module_sect_attrs.nsections"), limits.MODULE_SECTIONS)
            first = table + guest.layout.at("module_sect_attrs.attrs")
            step = guest.layout.size("module_sect_attr")
            return tuple(
                (
                    guest.memory.string(
                        guest.pointer(first + i * step, "module_sect_attr.battr.attr.name")
                    ),
                    guest.pointer(first + i * step, "module_sect_attr.address"),
                )
                for i in range(count)
            )
        except UnreadableError:
            return ()

    def _sections_since_6_14(self, table: int) -> Iterator[tuple[str, int]]:
        """A section's address is what its attribute has for itself."""
        guest = self._guest
        limit = limits.MODULE_SECTIONS
        for attribute in self._pointers(table, "module_sect_attrs.grp.bin_attrs", limit):
            name = guest.memory.string(guest.pointer(attribute, "bin_attribute.attr.name"))
            yield name, guest.pointer(attribute, "bin_attribute.private")
