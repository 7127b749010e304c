"""What this machine tells by itself, which counts only where this program runs on the host in question."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from libvirt_postcopy.domxml import Disk
from libvirt_postcopy.preflight.facts import DiskPlace, Known, TlsFiles, Unknown
from libvirt_postcopy.vir.here import (
    connection_refusal,
    is_here,
    is_local,
    is_resolved,
)

__all__ = [
    "connection_refusal",
    "disk_places",
    "is_here",
    "is_local",
    "is_resolved",
    "tls_files",
    "userfaultfd",
]

SYSCTL = Path("/proc/sys/vm/unprivileged_userfaultfd")
MOUNTS = Path("/proc/self/mountinfo")
QEMU_CONF = Path("/etc/libvirt/qemu.conf")


def userfaultfd() -> Known[bool]:
    """Whether the kernel lets every process use userfaultfd."""
    try:
        return SYSCTL.read_text(encoding="ascii").strip() == "1"
    except (OSError, ValueError) as error:
        return Unknown(f"{SYSCTL}: {error}")


def disk_places(disks: Iterable[Disk]) -> Known[tuple[DiskPlace, ...]]:
    """The file systems that disks lie on."""
    try:
        mounts = dict(_mounts(MOUNTS.read_text(encoding="utf-8")))
        return tuple(
            DiskPlace(disk.target, _file_system(mounts, disk.source))
            for disk in disks
            if disk.kind == "file"
        )
    except (OSError, ValueError, IndexError) as error:
        return Unknown(f"{MOUNTS}: {error}")


def _mounts(text: str) -> Iterator[tuple[str, str]]:
    """Mount points and their types; a later one covers an earlier one."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), before.split()[4])
        yield point, after.split()[0]


def _file_system(mounts: dict[str, str], path: str) -> str:
    folder = os.path.realpath(path)
    while folder not in mounts and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return mounts.get(folder, "")


_SETTING = re.compile(
    r'^\s*(migrate_tls|default_tls)_x509_cert_dir\s*=\s*"([^"]*)"', re.MULTILINE
)


def tls_files() -> Known[TlsFiles]:
    """Where QEMU's certificates for migrations are to be, and which are missing."""
    try:
        chosen = dict(_SETTING.findall(QEMU_CONF.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        return Unknown(f"{QEMU_CONF}: {error}")
    default = Path(chosen.get("default_tls", "/etc/pki/qemu"))
    own = Path("/etc/pki/libvirt-migrate")
    folder = Path(chosen.get("migrate_tls") or (own if _is_there(own) else default))
    wanted = ("ca-cert.pem", "client-cert.pem", "client-key.pem")
    missing = tuple(name for name in wanted if not _is_there(folder / name))
    return TlsFiles(str(folder), missing)


def _is_there(path: Path) -> bool:
    """Whether it is there; what may not be looked at counts as there."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
