"""The file system of a host, made from inside its new mount namespace.

The machine's own release: everything as on the machine, but ``/etc`` through an
overlay, and ``/run``, ``/dev``, ``/proc``, ``/sys`` and libvirt's folders below
``/var`` of its own. Another release: the same on top of an overlay of its root.

There is no cgroup mount on a host: libvirt would put its guests into the machine's
hierarchy, where they stay after the lab has gone and where two hosts' guests collide.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

from .config import etc_files
from .errors import LabError
from .layout import Node
from .process import call

__all__ = ["place_client", "place_host"]

MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_MOVE = 0x2000
MNT_DETACH = 0x2

#: KVM is left out: everything runs under TCG, on every machine alike.
DEVICES = ["null", "zero", "full", "random", "urandom", "tty", "userfaultfd"]
DEV_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}

_libc = ctypes.CDLL(None, use_errno=True)


def _mount(
    source: str, target: Path, kind: str = "", flags: int = 0, options: str = ""
) -> None:
    result = _libc.mount(
        source.encode(),
        os.fsencode(target),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    if result:
        why = os.strerror(ctypes.get_errno())
        raise LabError(f"cannot mount {kind or source} on {target}: {why}")


def _bind(source: Path, target: Path) -> None:
    if not target.exists():
        raise LabError(f"{target} is missing; run tools/setup to install libvirt")
    _mount(str(source), target, flags=MS_BIND)


def _overlay(lower: Path, target: Path, layers: Path) -> None:
    """Mount a writable view of a folder; what changes is kept in ``layers``."""
    upper, work = layers / "upper", layers / "work"
    upper.mkdir(parents=True)
    work.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    try:
        _mount("overlay", target, "overlay", options=options)
    except LabError as error:
        cure = "the state folder must be on tmpfs, ext4 or xfs, not on an overlay"
        raise LabError(f"{error}; {cure}") from None


def place_host(node: Node) -> None:
    """Make a host's file system and go there.

    Call it in new mount and PID namespaces; ``/proc`` changes to the new one's.
    """
    root = Path("/")
    if node.root:
        root = node.path / "root"
        root.mkdir()
        _overlay(Path(node.root), root, node.path / "layers")
    else:
        _overlay(Path("/etc"), Path("/etc"), node.path / "etc")
    shutil.rmtree(root / "etc/libvirt", ignore_errors=True)
    _write_etc(node, root)
    _make_dev(node.path / "dev", root / "dev")
    _make_sys(root)
    for name in ("lib", "log", "cache"):
        (node.path / name).mkdir(exist_ok=True)
        _bind(node.path / name, root / "var" / name / "libvirt")
    _make_run(node, root)
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    _mount("proc", root / "proc", "proc", flags)
    if node.root:
        _pivot(root)


def place_client(node: Node) -> None:
    """Make the client's file system: the machine's, with the lab's names."""
    _overlay(Path("/etc"), Path("/etc"), node.path / "etc")
    _write_etc(node, Path("/"))
    _make_sys(Path("/"))
    _make_run(node, Path("/"))


def _write_etc(node: Node, root: Path) -> None:
    etc = root / "etc"
    nsswitch = etc / "nsswitch.conf"
    found = nsswitch.read_text() if nsswitch.exists() else ""
    for name, text in etc_files(node, found).items():
        path = etc / name
        # resolv.conf is often a link to what the host cannot see.
        path.unlink(missing_ok=True)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    # One file for all: a host added later is known everywhere at once.
    _bind(node.lab / "hosts.txt", etc / "hosts")


def _make_dev(staging: Path, target: Path) -> None:
    # Built aside, since the devices come from the /dev that it will cover.
    staging.mkdir()
    _mount("tmpfs", staging, "tmpfs", MS_NOSUID, "mode=755")
    for name in DEVICES:
        device = Path("/dev") / name
        if device.exists():  # userfaultfd: Linux 6.1
            (staging / name).touch()
            _bind(device, staging / name)
    for name, to in DEV_LINKS.items():
        (staging / name).symlink_to(to)
    for name in ("pts", "shm"):
        (staging / name).mkdir()
    options = "newinstance,ptmxmode=0666,mode=620,gid=5"
    _mount("devpts", staging / "pts", "devpts", MS_NOSUID | MS_NOEXEC, options)
    _mount("tmpfs", staging / "shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    _mount(str(staging), target, flags=MS_MOVE)


def _make_sys(root: Path) -> None:
    if root == Path("/"):
        # Not only covered: libvirt reads /proc/mounts and would find the cgroups.
        _libc.umount2(b"/sys", MNT_DETACH)
    _mount("sysfs", root / "sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _make_run(node: Node, root: Path) -> None:
    """Give the host its own ``/run``, and the lab's folder its usual path.

    On a machine with systemd, libvirt would otherwise find systemd-machined through
    the machine's D-Bus and register the lab's guests there.
    """
    run = node.path / "run"
    run.mkdir(exist_ok=True)
    lab = os.open(node.lab, os.O_PATH)
    _bind(run, root / "run")
    seen = root / node.lab.relative_to("/")
    if not seen.exists():
        seen.mkdir(parents=True)
        _mount(f"/proc/self/fd/{lab}", seen, flags=MS_BIND)
    os.close(lab)


def _pivot(root: Path) -> None:
    """Make a folder the root of this mount namespace and drop the old one.

    With one folder for both arguments the old root ends up on top of the new one
    (pivot_root(2), notes), from where it is taken off.
    """
    os.chdir(root)
    call(["pivot_root", ".", "."])
    _libc.umount2(b".", MNT_DETACH)
