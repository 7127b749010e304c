"""A fetched root and what is in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from releases.known import Flavour, upstream

__all__ = ["Root", "read_status"]


@dataclass(frozen=True)
class Root:
    """One folder of the cache: ``root/`` the tree, ``qemu-system-x86_64`` the wrapper that runs its QEMU."""

    folder: Path
    suite: str
    flavour: Flavour

    @property
    def tree(self) -> Path:
        return self.folder / "root"

    @property
    def wrapper(self) -> Path:
        return self.folder / "qemu-system-x86_64"

    @property
    def qemu(self) -> str:
        """QEMU's version by its package, without Debian's parts."""
        return upstream(self.packages.get("qemu-system-x86", ""))

    @property
    def libvirt(self) -> str:
        """libvirt's version by its package; empty where there is none."""
        return upstream(self.packages.get("libvirt-daemon-driver-qemu", ""))

    @cached_property
    def packages(self) -> dict[str, str]:
        """Debian versions by package."""
        return read_status(
            (self.tree / "var/lib/dpkg/status").read_text(encoding="utf-8")
        )

    def size_bytes(self) -> int:
        """What the folder takes on disk."""
        seen = {
            (st.st_dev, st.st_ino): st.st_blocks * 512
            for st in (path.lstat() for path in _walk(self.folder))
        }
        return sum(seen.values())


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def read_status(text: str) -> dict[str, str]:
    """Versions of the packages which a dpkg status file has as installed or unpacked."""
    versions: dict[str, str] = {}
    for paragraph in re.split(r"\n\n+", text):
        fields = dict(
            re.findall(r"^(Package|Version|Status): (.*)$", paragraph, re.MULTILINE)
        )
        if fields.get("Status", "").endswith((" installed", " unpacked")):
            versions[fields["Package"]] = fields["Version"]
    return versions
