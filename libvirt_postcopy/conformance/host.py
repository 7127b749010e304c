"""What this machine has, asked before anything is run on it; what is missing here says nothing of a QEMU."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["VFIO", "VMADDR_CID_LOCAL", "file_system", "missing", "userfaultfd_missing"]

#: asm/unistd.h
_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
VMADDR_CID_LOCAL = 1  #: linux/vm_sockets.h: this machine itself
VFIO = "LIBVIRT_POSTCOPY_VFIO"


def userfaultfd_missing(version: tuple[int, ...]) -> str:
    """Why no post-copy can come in here, or empty.

    :param version: Of the destination: it opens /dev/userfaultfd since 8.0 (commit c40c046341); before, there is the system
        call alone.
    """
    if _can_call():
        return ""
    if os.access("/dev/userfaultfd", os.R_OK | os.W_OK):
        if version >= (8, 0):
            return ""
        return "this user may open /dev/userfaultfd, but QEMU before 8.0 needs the system call: run as root, or sysctl vm.unprivileged_userfaultfd=1"
    return "this user may not use userfaultfd: run as root, or sysctl vm.unprivileged_userfaultfd=1"


def _can_call() -> bool:
    """Whether the system call gives this user what a QEMU asks of it."""
    number = _USERFAULTFD.get(os.uname().machine)
    if number is None:
        return os.geteuid() == 0
    found: int = ctypes.CDLL(None, use_errno=True).syscall(number, os.O_CLOEXEC | os.O_NONBLOCK)  # fmt: skip
    if found < 0:
        return False
    os.close(found)
    return True


def file_system(path: str) -> str:
    """The kind of the file system on which a path lies."""
    with suppress(OSError):
        rows = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        real = os.path.realpath(path)
        under = [
            (len(row[1]), row[2])
            for row in rows
            if len(row) > 2 and (real + "/").startswith(row[1].rstrip("/") + "/")
        ]
        return max(under)[1] if under else ""
    return ""


def missing(what: str, qemu: str = "") -> str:
    """Why a scenario that needs something of the machine cannot run here, or empty.

    :param what: ``unprivileged``, ``hugepages``, ``ipv6``, ``vsock``, ``rdma`` or ``vfio``.
    :param qemu: Its path.
    """
    if what == "unprivileged":
        return _unprivileged(qemu)
    if what == "hugepages":
        return "" if _free_hugepages() else "no free huge pages of 2 MiB: sysctl vm.nr_hugepages=64"  # fmt: skip
    if what == "ipv6":
        return _can_listen(socket.AF_INET6, ("::1", 0))
    if what == "vsock":
        return _can_listen(getattr(socket, "AF_VSOCK", -1), (VMADDR_CID_LOCAL, 0)) and "no vsock to this machine itself: modprobe vsock_loopback"  # fmt: skip
    if what == "rdma":
        return _rdma()
    assert what == "vfio", what
    return "" if os.environ.get(VFIO) else f"no device for it: bind one to vfio-pci and name its address in {VFIO}"  # fmt: skip


def _can_listen(family: int, address: Sequence[object]) -> str:
    try:
        with socket.socket(family) as listener:
            listener.bind(tuple(address))
            listener.listen(1)
            with socket.socket(family) as client:
                client.connect(listener.getsockname())
    except (OSError, OverflowError) as error:
        return f"not on this machine: {error}"
    return ""


def _rdma() -> str:
    with suppress(OSError):
        if any(Path("/sys/class/infiniband").iterdir()):
            return ""
    return "no RDMA device: /sys/class/infiniband is empty"


def _free_hugepages() -> int:
    with suppress(OSError, ValueError):
        return int(
            Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").read_text()
        )
    return 0


def _unprivileged(qemu: str) -> str:
    """Why no ordinary user can run this QEMU without userfaultfd."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        return "needs root, and setpriv, to run a QEMU as another user"
    with suppress(OSError):
        if Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() == "1":
            return "this machine lets everybody use userfaultfd"
    with suppress(OSError):
        if os.stat("/dev/userfaultfd").st_mode & 0o006:
            return "this machine lets everybody use /dev/userfaultfd"
    real = Path(os.path.realpath(qemu))
    for folder in (real, *real.parents):
        if not folder.stat().st_mode & 0o001:
            return f"an ordinary user cannot reach {qemu}: {folder}"
    return ""
