"""The libraries that are loaded into this process."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from libvirt_postcopy.bindings.elf import ElfError, Shared, read_shared
from libvirt_postcopy.bindings.ffi import CURE, NoCffi, new_ffi
from libvirt_postcopy.bindings.functions import SYMBOLS
from libvirt_postcopy.bindings.symbols import newest_release, own_release

__all__ = ["Library", "loaded", "loaded_files", "read"]

LOG = logging.getLogger("libvirt_postcopy.bindings")

MAPS = "/proc/self/maps"

DELETED = " (deleted)"
"""What the kernel adds to a file that an upgrade has replaced."""


@dataclass(frozen=True)
class Library:
    """A library, and what can be told about it.

    :ivar files: Where it was loaded from; more than one where it is there twice.
    :ivar shared: Its file's content; None where it cannot be read.
    :ivar error: Why it is not a library that can be used; empty if it is one.
    :ivar has: Looks a symbol up as the loader does; None where it is not loaded.
    """

    soname: str
    files: tuple[str, ...] = ()
    shared: Shared | None = None
    error: str = ""
    has: Callable[[str], bool] | None = None

    def version(self, symbol: str) -> str | None:
        """A symbol's version node; None where there is no such symbol, empty where the node is not known."""
        if self.has is not None and not self.has(symbol):
            return None
        if self.shared is None:
            return None if self.has is None else ""
        return self.shared.defined.get(symbol, None if self.has is None else "")

    def newest(self) -> str:
        """The newest release that brought a function; empty where that is not known."""
        return newest_release(self._nodes())

    def release(self) -> str:
        """The release that it is of, as its file tells, which the library itself says more exactly; empty if unknown."""
        return own_release(self._nodes()) or self.newest()

    def _nodes(self) -> Collection[str]:
        return () if self.shared is None else self.shared.defined.values()


def read(soname: str, path: str) -> Library:
    """Read a library from a file, without loading it."""
    try:
        shared = read_shared(path)
    except ElfError as error:
        return Library(soname, (path,), error=str(error))
    if shared.soname != soname:
        return Library(
            soname, (path,), error=f"it is no {soname}: it calls itself '{shared.soname}'"
        )  # fmt: skip
    return Library(soname, (path,), shared)


def loaded(soname: str, *, is_looked_up: bool = True) -> Library:
    """The library that libvirt-python has loaded, or would: the loader has one of a name.

    :param is_looked_up: Ask the loader for each symbol too, not only the file; without cffi it cannot be asked.
    """
    try:
        has = _lookup(soname) if is_looked_up else None
        files = loaded_files(soname)
        shared = _content(files)
        if shared is None and has is None:
            has = _lookup(soname)
    except OSError as error:
        return Library(soname, error=str(error))
    if shared is None and has is None:
        return Library(soname, files, error=_UNKNOWN)
    return Library(soname, files, shared, has=has)


_UNKNOWN = (
    f"its file cannot be read, and the loader cannot be asked without cffi ({CURE})"
)


def _content(files: Sequence[str]) -> Shared | None:
    if len(files) != 1:
        return None
    try:
        return read_shared(files[0])
    except ElfError as error:  # replaced by an upgrade while it is in use
        LOG.debug("%s: %s", files[0], error)
        return None


def loaded_files(soname: str) -> tuple[str, ...]:
    """Where a library was loaded from; empty where this system does not tell."""
    try:
        with open(MAPS, encoding="utf-8", errors="surrogateescape") as maps:
            return _files(soname, maps)
    except OSError as error:
        LOG.debug("%s: %s", MAPS, error)
        return ()


def _files(soname: str, maps: Iterable[str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for line in maps:
        path = "".join(line.rstrip("\n").split(maxsplit=5)[5:])
        path = path.removesuffix(DELETED)
        name = os.path.basename(path)
        if name == soname or name.startswith(f"{soname}."):  # libvirt.so.0.9000.0
            found[path] = None
    return tuple(found)


def _lookup(soname: str) -> Callable[[str], bool] | None:
    """Open a library; one of this name that is loaded already is the one that is found.  None without cffi.

    :raises OSError: If there is none.
    """
    try:
        ffi = new_ffi()
    except NoCffi as error:
        LOG.debug("%s: the loader is not asked: %s", soname, error)
        return None
    # Looked up only, never called: the prototypes are the compiler's to judge.
    ffi.cdef("".join(f"void {name}(void);" for name in SYMBOLS))
    library: Any = ffi.dlopen(soname)
    return lambda symbol: hasattr(library, symbol)
