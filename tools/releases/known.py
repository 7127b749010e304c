"""The releases we know by name, and how a name is understood.

A release is named by its Debian suite (``trixie``), by the QEMU in it (``10.0``) or by the libvirt in it
(``libvirt-11.3``). The versions here are what the suites held when the table was written: they choose what to fetch.
What a fetched root really holds is read from the root, and a suite which has moved on is not taken for what it was.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from releases.errors import UnknownRelease

__all__ = [
    "KNOWN",
    "Flavour",
    "Release",
    "Wanted",
    "find",
    "known",
    "order",
    "parse",
    "upstream",
    "matches",
]


class Flavour(Enum):
    """How much of a release a root holds."""

    QEMU = "qemu"  #: QEMU alone, unpacked but not installed: light, and only to be run from the host
    FULL = "full"  #: a whole small Debian with QEMU and libvirt, for the lab's hosts


@dataclass(frozen=True)
class Release:
    """A suite of Debian, with the versions it is known for (empty when it is not in the table)."""

    suite: str
    qemu: str = ""
    libvirt: str = ""

    @property
    def base(self) -> str:
        """The suite which a backports suite stands on; else the suite itself."""
        return self.suite[: -len("-backports")] if self.is_backports else self.suite

    @property
    def is_backports(self) -> bool:
        return self.suite.endswith("-backports")


#: The order matters: a version that several releases have means the first of them.
KNOWN = (
    Release("bullseye", qemu="5.2", libvirt="7.0"),
    Release("bookworm", qemu="7.2", libvirt="9.0"),
    Release("trixie", qemu="10.0", libvirt="11.3"),
    Release("forky", qemu="11.1", libvirt="12.8"),
    Release("bookworm-backports", qemu="10.0", libvirt="11.3"),
    Release("trixie-backports", qemu="11.1", libvirt="11.3"),
)


@dataclass(frozen=True)
class Wanted:
    """A name as the user typed it, understood; exactly one of the three parts is set."""

    name: str
    suite: str = ""
    qemu: str = ""
    libvirt: str = ""

    def fits(self, suite: str, qemu: str, libvirt: str) -> bool:
        """Whether a release or a root with these versions is what was asked for."""
        if self.suite:
            return suite == self.suite
        if self.qemu:
            return matches(qemu, self.qemu)
        return matches(libvirt, self.libvirt)


def parse(name: str) -> Wanted:
    """Understand a release's name; whether there is such a release is another question.

    :raises UnknownRelease: If the name is neither a suite's nor a version's.
    """
    version = re.fullmatch(r"(?:(qemu|libvirt)-)?(\d+(?:\.\d+)*)", name)
    if version and version[1] == "libvirt":
        return Wanted(name, libvirt=version[2])
    if version:
        return Wanted(name, qemu=version[2])
    if re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        return Wanted(name, suite=name)
    raise UnknownRelease(name, [release.suite for release in KNOWN])


def known(wanted: Wanted) -> Release | None:
    """The table's release for a name, or None."""
    for release in KNOWN:
        if wanted.fits(release.suite, release.qemu, release.libvirt):
            return release
    return None


def find(wanted: Wanted) -> Release:
    """The table's release for a name.

    :raises UnknownRelease: If the table has none.
    """
    release = known(wanted)
    if release is None:
        raise UnknownRelease(wanted.name, [release.suite for release in KNOWN])
    return release


def order(suite: str) -> tuple[int, str]:
    """A key that sorts suites as the table has them, unknown ones last."""
    suites = [release.suite for release in KNOWN]
    return (suites.index(suite) if suite in suites else len(suites), suite)


def upstream(version: str) -> str:
    """The upstream part of a Debian version: ``1:7.2+dfsg-7+deb12u18`` is ``7.2``."""
    return re.split(r"[-+~]", version.split(":", 1)[-1])[0]


def matches(version: str, wanted: str) -> bool:
    """Whether a version is the wanted one or a point release of it: 10.0.13 is a 10.0, 11.10 is no 11.1."""
    parts = wanted.split(".")
    return version.split(".")[: len(parts)] == parts
