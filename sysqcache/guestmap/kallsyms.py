# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own symbol table, as scripts/kallsyms.c of the kernel packs it.

drgn reads it as well, without limits on what a table may claim, and makes an object of
each symbol; here, only the names that are wanted are kept.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from typing import Final

import numpy as np

from sysqcache.guestmap import limits
from sysqcache.guestmap.memory import PAGE, GuestMemory, UnknownShapeError, UnreadableError
from sysqcache.guestmap.vmcoreinfo import VmcoreInfo

TEXT_TYPES: Final = "tTwW"
"""Types of the symbols that kernels without CONFIG_KALLSYMS_ALL keep."""

_TOKENS = 256
_WORD = 1 << 64


class SymbolTable:
    """The packed table of one kernel, checked for its sizes.

    Needs the addresses that Linux 6.0 and newer put into VMCOREINFO. Raises
    :class:`UnreadableError` when they lack or lead nowhere. ``types`` are the types of
    symbols, as nm prints them, that are looked at; all when it is empty.
    """

    def __init__(self, memory: GuestMemory, info: VmcoreInfo, types: str = "") -> None:
        symbols = info.symbols
        self._types = types.encode()
        try:
            count = memory.u32(symbols["kallsyms_num_syms"])
            names, tokens = symbols["kallsyms_names"], symbols["kallsyms_token_table"]
            index, self._stext = symbols["kallsyms_token_index"], symbols["_stext"]
            self._offsets_at = symbols["kallsyms_offsets"]
        except KeyError as missing:
            raise UnknownShapeError(f"no symbol table: VMCOREINFO has no {missing}") from None
        if count > limits.SYMBOLS or not 0 < tokens - names < limits.BULK_BYTES:
            raise UnreadableError("the symbol table has no sensible size")
        self._budget = memory.budget
        # gone since Linux 7.0, where an offset counts from its own place
        base = symbols.get("kallsyms_relative_base")
        self._base = None if base is None else memory.u64(base)
        # the one absolute address that may lie between the names and the tokens
        self._base_at = -1 if base is None else base - names
        self.names = memory.bulk(names, tokens - names)
        self.offsets = memory.bulk(self._offsets_at, 4 * count)
        self.tokens = _tokens(memory, tokens, index)

    def content(self) -> Iterator[bytes]:
        """All that the table is made of but for the KASLR slide, to be hashed."""
        names = self.names
        if 0 <= self._base_at < len(names):
            names = names[: self._base_at] + bytes(8) + names[self._base_at + 8 :]
        yield names
        yield self.offsets
        yield b"\0".join(self.tokens)

    def find(self, wanted: Collection[str]) -> dict[str, int]:
        """Addresses of the wanted symbols; of several with one name, that of the first."""
        places: dict[str, int] = {}
        left = {name.encode() for name in wanted} | {b"_stext"}
        types = self._types
        for row, name in enumerate(self._names()):
            # the first character is the type of the symbol
            if name[1:] in left and len(name) > 1 and (not types or name[:1] in types):
                places.setdefault(name[1:].decode(), row)
        addresses = self._addresses()
        return {name: addresses[row] for name, row in places.items()}

    def _names(self) -> Iterator[bytes]:
        names, tokens = self.names, self.tokens
        pick = tokens.__getitem__
        place = 0
        for row in range(len(self.offsets) // 4):
            if not row & 1023:
                self._budget.check()
            if place + 2 > len(names):
                raise UnreadableError("the symbol table ends early")
            size = names[place]
            place += 1
            if size & 0x80:  # a long name, since Linux 6.1
                size = (size & 0x7F) | names[place] << 7
                place += 1
            if size <= limits.NAME_BYTES:
                yield b"".join(map(pick, names[place : place + size]))
            else:
                yield b""
            place += size

    def _addresses(self) -> list[int]:
        """Addresses of all symbols; there are three encodings, and _stext tells which."""
        signed = np.frombuffer(self.offsets, "<i4").astype(np.int64)
        base = self._base
        if base is None:
            places = self._offsets_at + 4 * np.arange(len(signed), dtype=np.uint64)
            return [int(one) for one in places + signed.astype(np.uint64)]
        percpu = [one if one >= 0 else (base - 1 - one) % _WORD for one in signed.tolist()]
        if self._stext in percpu:
            return percpu
        plain = np.frombuffer(self.offsets, "<u4").tolist()
        return [(base + one) % _WORD for one in plain]


class NoSymbolTable:
    """Of a kernel before Linux 6.0, whose VMCOREINFO does not say where its table is."""

    def __init__(self, info: VmcoreInfo) -> None:
        self._stext = info.symbols.get("_stext", 0)

    def content(self) -> Iterator[bytes]:
        """Nothing to be hashed."""
        return iter(())

    def find(self, wanted: Collection[str]) -> dict[str, int]:
        """The one symbol that VMCOREINFO has; all others have to be searched for."""
        del wanted
        return {"_stext": self._stext} if self._stext else {}


def symbol_table(
    memory: GuestMemory, info: VmcoreInfo, types: str = ""
) -> SymbolTable | NoSymbolTable:
    """The kernel's own table if it says where that is; ``types`` as of :class:`SymbolTable`."""
    if any(name.startswith("kallsyms_") for name in info.symbols):
        return SymbolTable(memory, info, types)
    return NoSymbolTable(info)


def _tokens(memory: GuestMemory, table: int, index: int) -> list[bytes]:
    """The 256 pieces of which names are made."""
    places = struct.unpack(f"<{_TOKENS}H", memory.bulk(index, 2 * _TOKENS))
    if list(places) != sorted(places) or places[-1] > 16 * PAGE:
        raise UnreadableError("the tokens of the symbol table are not in order")
    text = memory.bulk(table, places[-1] + limits.NAME_BYTES)
    ends = [text.find(b"\0", place) for place in places]
    if min(ends) < 0:
        raise UnreadableError("the tokens of the symbol table have no end")
    return [
        text[place : min(end, place + limits.NAME_BYTES)]
        for place, end in zip(places, ends, strict=True)
    ]
