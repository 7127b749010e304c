"""What is to be started: names, addresses, releases, and who may do it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from . import network
from .errors import LabError, NoRootError
from .layout import Folder, Node
from .process import call

__all__ = ["another", "check_caller", "nodes", "order", "shape"]

DEFAULT_HOSTS = ("a", "b")
CLIENT = "client"
SWITCH = "switch"
#: Names that mean something else in ``/etc/hosts`` or on the bridge.
RESERVED = {CLIENT, SWITCH, "localhost", "br0", "lo", "eth0"}
#: As long as an interface's name may be.
NAME = re.compile(r"[a-z][a-z0-9-]{0,13}[a-z0-9]|[a-z]")
MOST_HOSTS = 64
#: Longest path of a socket that libvirtd and QEMU make, below the host's folder, and
#: what the kernel allows (unix(7)).
LONGEST_SOCKET = "config/libvirt/qemu/lib/domain-100-a-name-of-20-letters/monitor.sock"
SOCKET_LIMIT = 107

USERFAULTFD = Path("/proc/sys/vm/unprivileged_userfaultfd")
QEMU_VERSIONS = Path(__file__).resolve().parents[1] / "qemu-versions"


def check_caller(*, session: bool) -> None:
    """See that the caller can make this kind of lab.

    :raises NoRootError: With what can be had instead.
    """
    root = os.geteuid() == 0
    if session and root:
        raise LabError("--session is for users without root; leave it out")
    if root or session:
        return
    need = "a lab of network namespaces needs root"
    if _userfaultfd_is_free():
        raise NoRootError(
            f"{need}; run it with sudo, or `lab up --session` for session daemons"
        )
    raise NoRootError(
        f"{need}; run it with sudo. `lab up --session` makes session daemons without"
        " it, but the kernel refuses post-copy to them until root sets"
        " vm.unprivileged_userfaultfd=1"
    )


def _userfaultfd_is_free() -> bool:
    try:
        return USERFAULTFD.read_text().strip() == "1"
    except OSError:
        return False


def nodes(
    folder: Folder,
    names: Sequence[str],
    *,
    releases: Sequence[str],
    unprivileged: Sequence[str],
    session: bool,
) -> list[Node]:
    """Plan a whole lab.

    :param releases: For the hosts in turn; a single one is for all.
    """
    _check_names(names)
    _check_asked(names, releases, unprivileged)
    if session:
        if releases or unprivileged:
            raise LabError("a session lab has the installed release, unprivileged")
        return [_session_node(folder, name) for name in names]
    turn = list(releases) * (len(names) if len(releases) == 1 else 1)
    turn += [""] * (len(names) - len(turn))
    roots = {release: _root(release) for release in dict.fromkeys(turn) if release}
    path = folder.path / "hosts"
    client = Node(CLIENT, "client", str(path / CLIENT), network.CLIENT_ADDRESS)
    planned = [Node(SWITCH, "switch", str(path / SWITCH)), client]
    for index, (name, release) in enumerate(zip(names, turn)):
        planned.append(
            Node(
                name,
                "host",
                str(path / name),
                network.address(index),
                release=release or None,
                root=roots.get(release),
                unprivileged=name in unprivileged,
            )
        )
    return planned


def another(folder: Folder, name: str, release: str | None, unprivileged: bool) -> Node:
    """Plan a host more for a lab that is up."""
    known = folder.nodes()
    _check_names([*(node.name for node in known if node.role == "host"), name])
    used = {node.address for node in known}
    free = (network.address(index) for index in range(MOST_HOSTS))
    return Node(
        name,
        "host",
        str(folder.path / "hosts" / name),
        next(address for address in free if address not in used),
        release=release,
        root=_root(release) if release else None,
        unprivileged=unprivileged,
    )


def shape(planned: Iterable[Node]) -> set[Node]:
    """What makes two labs the same, whatever the order they are listed in."""
    return set(planned)


def order(node: Node) -> tuple[list[int], str]:
    """Key that sorts nodes by address, and by name without one."""
    return [int(part) for part in (node.address or "0").split(".")], node.name


def _session_node(folder: Folder, name: str) -> Node:
    path = folder.path / "hosts" / name
    if len(str(path / LONGEST_SOCKET)) > SOCKET_LIMIT:
        raise LabError(f"{folder.path}: too long for the paths of sockets below it")
    return Node(name, "session", str(path))


def _check_names(names: Sequence[str]) -> None:
    if not 1 <= len(names) <= MOST_HOSTS:
        raise LabError(f"{len(names)} hosts: give 1 to {MOST_HOSTS}")
    for name in names:
        if not NAME.fullmatch(name) or name in RESERVED:
            raise LabError(
                f"host name {name!r}: take up to 15 letters, digits and dashes,"
                f" and none of {' '.join(sorted(RESERVED))}"
            )
        if names.count(name) > 1:
            raise LabError(f"host name {name!r} is given twice")


def _check_asked(
    names: Sequence[str], releases: Sequence[str], unprivileged: Sequence[str]
) -> None:
    if len(releases) > len(names):
        raise LabError(f"{len(releases)} releases for {len(names)} hosts")
    for name in unprivileged:
        if name not in names:
            raise LabError(f"--unprivileged {name}: no such host")


def _root(release: str) -> str:
    """The folder with a release's root, fetched if it has to be."""
    # Minutes: it may have to be downloaded.
    return call([str(QEMU_VERSIONS), "root", release], timeout=900).strip()
