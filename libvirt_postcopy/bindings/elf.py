"""What a shared library offers and what it wants, read from its file.

Nothing is loaded: a library that is truncated, or is no library, would take the process with it.

Source: System V ABI, "Dynamic Linking"; "ELF Symbol Versioning" (Ulrich Drepper).
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

__all__ = ["ElfError", "Shared", "read_shared"]

_LARGEST = 64 << 20
"""Bytes; a library that is larger is none."""

_MOST = 200_000
"""Symbols, version nodes or entries of a table; libvirt has some 7,000.  A damaged file may claim any number."""

_LONGEST = 4096
"""Bytes of a name."""

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_HASH, _DT_STRTAB, _DT_SYMTAB = 0, 1, 4, 5, 6
_DT_STRSZ, _DT_SONAME = 10, 14
_DT_GNU_HASH, _DT_VERSYM = 0x6FFFFEF5, 0x6FFFFFF0
_DT_VERDEF, _DT_VERDEFNUM, _DT_VERNEED, _DT_VERNEEDNUM = range(0x6FFFFFFC, 0x70000000)
_SHN_UNDEF = 0
_STB_LOCAL = 0
_HIDDEN = 0x8000


class ElfError(ValueError):
    """It is no shared library that can be loaded; the text says why."""


@dataclass(frozen=True)
class Shared:
    """A shared library.

    :ivar defined: Symbols that others can use, with their version node (``LIBVIRT_1.3.3``), empty where there is none.
    :ivar wanted: Version nodes that it wants, by the library's soname.
    """

    path: str
    soname: str = ""
    defined: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    wanted: Mapping[str, frozenset[str]] = field(
        default_factory=lambda: MappingProxyType({})
    )


def read_shared(path: str | Path) -> Shared:
    """Read a library.

    :raises ElfError: If it cannot be read, or is not whole.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise ElfError(error.strerror or str(error)) from error
    if len(content) > _LARGEST:
        raise ElfError("it is too large for a library")
    try:
        return _Reader(content).shared(str(path))
    except (struct.error, IndexError, OverflowError, UnicodeDecodeError) as error:
        raise ElfError(f"it is damaged: {error}") from error


def _machine(head: bytes) -> tuple[bytes, bytes]:
    """32 or 64 bits and the order of bytes; ``e_machine``."""
    return head[4:6], head[18:20]


@lru_cache(maxsize=1)
def _own_machine() -> tuple[bytes, bytes] | None:
    """That of this Python; None where it does not tell."""
    try:
        with open(sys.executable, "rb") as file:
            head = file.read(20)
    except OSError:
        return None
    return _machine(head) if head.startswith(b"\x7fELF") else None


def _bounded(count: int) -> int:
    if count > _MOST:
        raise ElfError(f"it claims {count} entries of a table")
    return count


@dataclass(frozen=True)
class _Layout:
    """Where fields are; the 64-bit one orders some of them differently."""

    word: str
    header: str
    program: str
    symbol: str
    dynamic: str


_32 = _Layout("I", "16xHHIIIIIHHHHHH", "IIIIIIII", "IIIBBH", "iI")
_64 = _Layout("Q", "16xHHIQQQIHHHHHH", "IIQQQQQQ", "IBBHQQ", "qQ")


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content
        if content[:4] != b"\x7fELF":
            raise ElfError("it is no ELF file")
        layouts = {1: _32, 2: _64}
        orders = {1: "<", 2: ">"}
        if content[4:5] not in (b"\1", b"\2") or content[5:6] not in (b"\1", b"\2"):
            raise ElfError("it is an ELF file of an unknown kind")
        self._is_64 = content[4] == 2
        self._layout, self._order = layouts[content[4]], orders[content[5]]
        header = self._unpack(self._layout.header, 0)
        self._type, self._programs = header[0], header[4]
        self._program_size, self._program_count = header[8], header[9]
        self._loads: list[tuple[int, int, int]] = []  # address, offset, size
        self._dynamic: dict[int, list[int]] = {}
        self._names = range(0)

    def shared(self, path: str) -> Shared:
        if self._type != 3:  # ET_DYN
            raise ElfError("it is an ELF file, but no shared library")
        if _own_machine() not in (None, _machine(self._content)):
            raise ElfError("it is for another machine than this Python")
        self._read_segments()
        strings = self._of(_DT_STRTAB)
        self._names = range(strings, strings + self._dynamic.get(_DT_STRSZ, [0])[0])
        return Shared(
            path,
            soname=self._text(strings + self._dynamic.get(_DT_SONAME, [0])[0]),
            defined=MappingProxyType(self._defined(strings)),
            wanted=MappingProxyType(self._wanted(strings)),
        )

    def _unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        return struct.unpack_from(self._order + layout, self._content, offset)

    def _read_segments(self) -> None:
        dynamic = None
        for number in range(self._program_count):
            found = self._unpack(
                self._layout.program, self._programs + number * self._program_size
            )
            if self._is_64:
                kind, _, offset, address, _, size = found[:6]
            else:
                kind, offset, address, _, size = found[:5]
            if kind not in (_PT_LOAD, _PT_DYNAMIC):
                continue
            if offset + size > len(self._content):
                raise ElfError(
                    f"it is truncated: {len(self._content)} bytes of at least {offset + size}"
                )
            if kind == _PT_LOAD:
                self._loads.append((address, offset, size))
            else:
                dynamic = offset, size
        if dynamic is None:
            raise ElfError("it has no dynamic section")
        self._read_dynamic(*dynamic)

    def _read_dynamic(self, offset: int, size: int) -> None:
        step = struct.calcsize(self._order + self._layout.dynamic)
        _bounded(size // step)
        for at in range(offset, offset + size - step + 1, step):
            tag, value = self._unpack(self._layout.dynamic, at)
            if tag == _DT_NULL:
                break
            self._dynamic.setdefault(tag, []).append(value)

    def _of(self, tag: int) -> int:
        """The place in the file of what an entry of the dynamic section points to."""
        if tag not in self._dynamic:
            raise ElfError(f"its dynamic section has no entry {tag:#x}")
        return self._offset(self._dynamic[tag][0])

    def _offset(self, address: int) -> int:
        for start, offset, size in self._loads:
            if start <= address < start + size:
                return address - start + offset
        raise ElfError(f"address {address:#x} is in no segment")

    def _text(self, offset: int) -> str:
        if offset not in self._names:
            raise ElfError("a name is not among the names")
        end = self._content.find(b"\0", offset, min(self._names.stop, offset + _LONGEST))  # fmt: skip
        if end < 0:
            raise ElfError("a name has no end")
        return self._content[offset:end].decode("utf-8")

    def _symbol_count(self) -> int:
        if _DT_GNU_HASH in self._dynamic:
            return self._gnu_count(self._of(_DT_GNU_HASH))
        return _bounded(self._unpack("II", self._of(_DT_HASH))[1])

    def _gnu_count(self, offset: int) -> int:
        """One more than the last symbol: the end of the chain that begins last."""
        buckets, first, blooms, _ = self._unpack("IIII", offset)
        word = struct.calcsize(self._order + self._layout.word)
        at = offset + 16 + blooms * word
        last = max(self._unpack(f"{_bounded(buckets)}I", at), default=0)
        if last < first:
            return first
        chain = at + buckets * 4
        while not self._unpack("I", chain + (_bounded(last) - first) * 4)[0] & 1:
            last += 1
        return last + 1

    def _symbols(self, strings: int) -> Iterator[tuple[int, str]]:
        """Number and name of each symbol that is defined here for others."""
        table = self._of(_DT_SYMTAB)
        step = struct.calcsize(self._order + self._layout.symbol)
        for number in range(1, self._symbol_count()):
            found = self._unpack(self._layout.symbol, table + number * step)
            info, section = (found[1], found[3]) if self._is_64 else (found[3], found[5])  # fmt: skip
            if section != _SHN_UNDEF and info >> 4 != _STB_LOCAL:
                yield number, self._text(strings + found[0])

    def _defined(self, strings: int) -> dict[str, str]:
        nodes = self._nodes(strings)
        versions = self._of(_DT_VERSYM) if _DT_VERSYM in self._dynamic else None
        found: dict[str, str] = {}
        for number, name in self._symbols(strings):
            node = 0 if versions is None else self._unpack("H", versions + number * 2)[0]  # fmt: skip
            if not node & _HIDDEN or name not in found:  # hidden: not the default one
                found[name] = nodes.get(node & ~_HIDDEN, "")
        return found

    def _nodes(self, strings: int) -> dict[int, str]:
        """Version nodes that are defined here, by their number; the first one is the file itself."""
        if _DT_VERDEF not in self._dynamic:
            return {}
        found, at = {}, self._of(_DT_VERDEF)
        for _ in range(_bounded(self._dynamic.get(_DT_VERDEFNUM, [0])[0])):
            _, flags, number, _, _, names, following = self._unpack("HHHHIII", at)
            if not flags & 1:  # VER_FLG_BASE
                found[number] = self._text(strings + self._unpack("I", at + names)[0])
            if not following:
                break
            at += following
        return found

    def _wanted(self, strings: int) -> dict[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = {
            self._text(strings + name): frozenset()
            for name in self._dynamic.get(_DT_NEEDED, [])
        }
        if _DT_VERNEED not in self._dynamic:
            return found
        at, nodes = self._of(_DT_VERNEED), 0
        for _ in range(_bounded(self._dynamic.get(_DT_VERNEEDNUM, [0])[0])):
            _, count, file, first, following = self._unpack("HHIII", at)
            nodes = _bounded(
                nodes + count
            )  # of all files: each may claim the same ones
            found[self._text(strings + file)] = frozenset(
                self._wanted_nodes(strings, at + first, count)
            )
            if not following:
                break
            at += following
        return found

    def _wanted_nodes(self, strings: int, at: int, count: int) -> Iterator[str]:
        for _ in range(count):
            _, _, _, name, following = self._unpack("IHHII", at)
            yield self._text(strings + name)
            if not following:
                break
            at += following
