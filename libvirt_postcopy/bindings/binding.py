"""What libvirt-python says: its names, and the table of parameter types inside its C module."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from libvirt_postcopy.bindings.elf import ElfError, read_shared
from libvirt_postcopy.bindings.library import DELETED, MAPS
from libvirt_postcopy.bindings.parameters import PARAMETERS
from libvirt_postcopy.bindings.symbols import (
    LIBVIRT,
    QEMU,
    Symbol,
    newest_release,
)

__all__ = ["REBUILD", "Binding"]

LOG = logging.getLogger("libvirt_postcopy.bindings")

REBUILD = "pip install --force-reinstall --no-cache-dir --no-binary libvirt-python libvirt-python"  # fmt: skip
"""Builds libvirt-python against the libvirt that is here.

Since pip 23.1 ``--no-binary`` takes what pip itself has built earlier, against an older libvirt, from its cache.
"""

MEMORY = "/proc/self/mem"

_GLUES = {LIBVIRT: "libvirtmod", QEMU: "libvirtmod_qemu"}
"""The C modules, by the library that they call."""

_FIRST_KEY = "migrate_uri"
"""In every libvirt-python's table, and in no other table."""

_LONGEST = 200
"""Entries; no table of hints is longer."""

_KEY_LENGTH = max(map(len, PARAMETERS)) + 40
"""Bytes; no name of a parameter is longer."""


@dataclass(frozen=True)
class Binding:
    """libvirt-python.

    :ivar module: ``libvirt``.
    :ivar qemu: ``libvirt_qemu``; None where it is not there.
    :ivar version: Of the distribution; empty where it is not told.
    """

    module: Any
    qemu: ModuleType | None = None
    version: str = ""

    @property
    def file(self) -> str:
        """The C module; empty where it is not known."""
        return self.file_for(LIBVIRT)

    def file_for(self, library: str) -> str:
        """The C module that calls a library; empty where it is not known."""
        module = self.module if library == LIBVIRT else self.qemu
        glue = getattr(module, _GLUES[library], None)
        return getattr(glue, "__file__", None) or ""

    @property
    def libvirt(self) -> int:
        """The version of the library that it has loaded."""
        return int(self.module.getVersion())

    def has(self, symbol: Symbol) -> bool:
        """Whether it wraps a function: in Python and, where that can be seen, in its C module."""
        owner, _, method = symbol.binding.rpartition(".")
        module = self.module if symbol.library == LIBVIRT else self.qemu
        where = getattr(module, owner, None) if owner else module
        glue = getattr(module, _GLUES[symbol.library], None)
        return hasattr(where, method) and (
            glue is None or hasattr(glue, symbol.glue or symbol.name)
        )

    def numbers(self) -> dict[str, int]:
        """Its constants ``VIR_*``."""
        return {
            name: value
            for name, value in vars(self.module).items()
            if name.startswith("VIR_") and isinstance(value, int)
        }

    def strings(self) -> dict[str, str]:
        """Its names of parameters."""
        return {
            name: value
            for name, value in vars(self.module).items()
            if name.startswith("VIR_") and isinstance(value, str)
        }

    def postcopy_names(self) -> frozenset[str]:
        """All it has that speaks of post-copy: constants, and methods as ``CLASS.METHOD``."""
        constants = {
            name
            for name in vars(self.module)
            if name.startswith("VIR_") and "POSTCOPY" in name
        }
        methods = {
            f"{owner}.{name}"
            for owner in ("virDomain", "virConnect")
            for name in vars(getattr(self.module, owner, object))
            if "postcopy" in name.lower()
        }
        return frozenset(constants | methods)

    def newest(self, library: str = LIBVIRT) -> str:
        """The newest release whose functions its C module calls; empty where that cannot be seen."""
        file = self.file_for(library)
        if not file:
            return ""
        try:
            nodes = read_shared(file).wanted.get(library, frozenset())
        except ElfError as error:
            LOG.debug("%s: %s", file, error)
            return ""
        return newest_release(nodes)

    def hints(self) -> dict[str, int] | None:
        """Its table of parameter types; None where it cannot be found.

        The table is private to the C module, so it is looked for in memory: the entry of a key that all have, and
        from there both ways as long as there are more.
        """
        if not self.file:
            return None
        try:
            memory = _Memory.of(self.file)
        except (OSError, ValueError) as error:
            LOG.debug("%s: %s", self.file, error)
            return None
        found = memory.hints()
        # Beside it lie tables that speak of other calls.
        return found and {key: found[key] for key in found if key in PARAMETERS}


class _Memory:
    """A module as it is loaded: blocks of memory and their addresses."""

    def __init__(self, blocks: list[tuple[int, bytes]]) -> None:
        self._blocks = blocks
        self._pointer = struct.Struct("@P")
        self._entry = struct.Struct("@Pi0P")

    @classmethod
    def of(cls, path: str) -> _Memory:
        blocks, wanted = [], os.path.realpath(path)
        with open(MAPS, encoding="utf-8", errors="surrogateescape") as maps:
            places = [line.rstrip("\n").split(maxsplit=5) for line in maps]
        with open(MEMORY, "rb", buffering=0) as memory:
            for place in places:
                name = "".join(place[5:]).removesuffix(DELETED)
                # The kernel tells the file itself, Python the way to it: over /lib64, or a link.
                if place[1].startswith("r") and name and name in (path, wanted):
                    first, _, end = place[0].partition("-")
                    memory.seek(int(first, 16))
                    size = int(end, 16) - int(first, 16)
                    blocks.append((int(first, 16), memory.read(size)))
        return cls(blocks)

    def hints(self) -> dict[str, int] | None:
        for text in self._find(_FIRST_KEY.encode() + b"\0"):
            for entry in self._find(self._pointer.pack(text)):
                found = self._table(entry)
                if len(found) > 1:
                    return found
        return None

    def _find(self, wanted: bytes) -> Iterator[int]:
        for address, block in self._blocks:
            at = block.find(wanted)
            while at >= 0:
                yield address + at
                at = block.find(wanted, at + 1)

    def _table(self, entry: int) -> dict[str, int]:
        found: dict[str, int] = {}
        for step in (self._entry.size, -self._entry.size):
            for number in range(_LONGEST):
                read = self._read(entry + number * step)
                # A table that the linker has put beside this one speaks of other things.
                if read is None or (found.get(read[0]) is not None and number):
                    break
                found[read[0]] = read[1]
        return found

    def _read(self, address: int) -> tuple[str, int] | None:
        """A key and its type, if that is what is there."""
        entry = self._bytes(address, self._entry.size)
        if entry is None:
            return None
        pointer, kind = self._entry.unpack(entry)
        if not 1 <= kind <= 7:
            return None
        key = self._text(pointer)
        return (key, kind) if key else None

    def _bytes(self, address: int, size: int) -> bytes | None:
        for first, block in self._blocks:
            if first <= address and address + size <= first + len(block):
                return block[address - first : address - first + size]
        return None

    def _text(self, address: int) -> str:
        for first, block in self._blocks:
            if first <= address < first + len(block):
                text = block[address - first :].split(b"\0", 1)[0][:_KEY_LENGTH]
                return text.decode("ascii", "replace") if text.isascii() else ""
        return ""
