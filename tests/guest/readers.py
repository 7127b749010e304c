"""Ways to read a guest's physical memory from outside."""

import os
import tempfile
from collections.abc import Mapping
from typing import Any, Callable, Protocol

__all__ = ["Reader", "PeekedDomain", "peek_reader", "pmemsave_reader"]

Reader = Callable[[int, int], bytes]

# libvirt carries 1 MiB in one peek since 0.9.11; later releases carry more.
_PEEK_BYTES = 1 << 20
_VIR_MEMORY_PHYSICAL = 2


class PeekedDomain(Protocol):
    """What is used of a ``virDomain``."""

    def memoryPeek(self, start: int, size: int, flags: int = ..., /) -> bytes: ...


def peek_reader(dom: PeekedDomain) -> Reader:
    """Read through ``virDomainMemoryPeek``."""

    def read(address: int, size: int) -> bytes:
        return b"".join(
            dom.memoryPeek(
                at, min(_PEEK_BYTES, address + size - at), _VIR_MEMORY_PHYSICAL
            )
            for at in range(address, address + size, _PEEK_BYTES)
        )

    return read


def pmemsave_reader(
    execute: Callable[[str, Mapping[str, Any]], Any],
    *,
    folder: "os.PathLike[str] | str",
) -> Reader:
    """Read through the monitor command ``pmemsave``.

    :param execute: Runs a monitor command and raises if it fails.
    :param folder: Where QEMU may write.
    """

    def read(address: int, size: int) -> bytes:
        with tempfile.NamedTemporaryFile(dir=folder) as dump:
            execute("pmemsave", {"val": address, "size": size, "filename": dump.name})
            # By name: QEMU may have replaced the file.
            with open(dump.name, "rb") as written:
                return written.read()

    return read
