"""What this machine tells by itself, which counts only where this program runs on the host in question."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from libvirt_postcopy.domxml import Disk
from libvirt_postcopy.preflight.facts import DiskPlace, Known, TlsFiles, Unknown

__all__ = [
    "connection_refusal",
    "disk_places",
    "is_here",
    "is_local",
    "is_resolved",
    "tls_files",
    "userfaultfd",
]

PORT_TIMEOUT_S = 2.0
"""A port that has not answered by then is taken for filtered."""

SYSCTL = Path("/proc/sys/vm/unprivileged_userfaultfd")
MOUNTS = Path("/proc/self/mountinfo")
QEMU_CONF = Path("/etc/libvirt/qemu.conf")


def is_local(uri: str) -> bool:
    """Whether a URI names the daemon of this machine.

    One at a socket of its own may live in another network and another file system, and does not count.
    """
    parts = urlsplit(uri)
    return not parts.hostname and "socket" not in parse_qs(parts.query)


def is_here(uri: str, hostname: str) -> bool:
    """Whether a daemon is that of the machine this program runs on."""
    ours = socket.gethostname().partition(".")[0]
    return is_local(uri) and hostname.partition(".")[0] == ours


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


def is_resolved(name: str) -> bool:
    """Whether a name can be resolved, or is an address."""
    try:
        socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return True


def connection_refusal(name: str, port: int) -> str:
    """Why a TCP connection cannot be made; empty if it can, or if only nobody listens."""
    try:
        with socket.create_connection((name, port), PORT_TIMEOUT_S):
            return ""
    except ConnectionRefusedError:
        return ""
    except TimeoutError:
        return f"no answer in {PORT_TIMEOUT_S:g} s"
    except socket.timeout:  # Python 3.9 has two of them
        return f"no answer in {PORT_TIMEOUT_S:g} s"
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or str(error)


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
