"""What a function of libvirt's is to this package, the releases that version nodes speak of, and types as C lays them out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

__all__ = [
    "LIBVIRT",
    "NEWEST_KNOWN",
    "QEMU",
    "TYPES",
    "Symbol",
    "newest_release",
    "own_release",
    "release_of",
    "version_number",
]

LIBVIRT, QEMU = "libvirt.so.0", "libvirt-qemu.so.0"

NEWEST_KNOWN = 12_008_000
"""The newest libvirt that this package was compared with; names that a later one adds are worth a note, no more."""

_NODES = {LIBVIRT: "LIBVIRT", QEMU: "LIBVIRT_QEMU"}


@dataclass(frozen=True)
class Symbol:
    """A function of libvirt.

    :ivar since: The release that brought it.
    :ivar prototype: Its declaration in C.
    :ivar binding: How libvirt-python calls it: ``CLASS.METHOD``, or a function of its module.
    :ivar is_needed: Whether there is no post-copy migration without it.
    :ivar purpose: What is lost without it.
    :ivar passthrough: QEMU's command for the same, where it may be sent instead.
    :ivar glue: What libvirt-python's C module calls it, where that is another name.
    """

    since: str
    prototype: str
    binding: str
    purpose: str
    is_needed: bool = False
    library: str = LIBVIRT
    passthrough: str = ""
    glue: str = ""

    @cached_property
    def name(self) -> str:
        """What C calls it."""
        return self.prototype.partition("(")[0].split()[-1].lstrip("*")

    @property
    def node(self) -> str:
        """Its version node in the library."""
        return f"{_NODES[self.library]}_{self.since}"


def version_number(text: str) -> int:
    """Write ``8.5.0`` as ``virConnectGetVersion`` does."""
    major, minor, release = (int(part) for part in text.split("."))
    return major * 1_000_000 + minor * 1000 + release


def newest_release(nodes: Iterable[str]) -> str:
    """The newest release among version nodes; empty if there is none."""
    return max(filter(None, map(release_of, nodes)), key=version_number, default="")


def release_of(node: str) -> str:
    """The release that a version node of one of the libraries speaks of; empty if it is none, or private."""
    found = _NODE.fullmatch(node)
    return found[1] if found else ""


def own_release(nodes: Iterable[str]) -> str:
    """The release that ``libvirt.so.0`` itself is of, which its private functions tell; empty if they do not."""
    return next((found[1] for found in map(_PRIVATE.fullmatch, nodes) if found), "")


_NODE = re.compile(r"LIBVIRT_(?:QEMU_)?(\d+\.\d+\.\d+)")
_PRIVATE = re.compile(r"LIBVIRT_PRIVATE_(\d+\.\d+\.\d+)")


TYPES = """
typedef struct _virConnect *virConnectPtr;
typedef struct _virDomain *virDomainPtr;
typedef struct _virTypedParameter {
    char field[80];
    int type;
    union {
        int i;
        unsigned int ui;
        long long int l;
        unsigned long long int ul;
        double d;
        char b;
        char *s;
    } value;
} virTypedParameter;
typedef virTypedParameter *virTypedParameterPtr;
typedef struct _virDomainJobInfo {
    int type;
    unsigned long long timeElapsed;
    unsigned long long timeRemaining;
    unsigned long long dataTotal;
    unsigned long long dataProcessed;
    unsigned long long dataRemaining;
    unsigned long long memTotal;
    unsigned long long memProcessed;
    unsigned long long memRemaining;
    unsigned long long fileTotal;
    unsigned long long fileProcessed;
    unsigned long long fileRemaining;
} virDomainJobInfo;
"""
"""The types as they are laid out in memory, which the compiler confirms."""
