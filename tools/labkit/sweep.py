"""Ending a lab, or what is left of one, until nothing of it is there."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Collection, Iterator, Sequence, Set
from contextlib import ExitStack

from .errors import LabError
from .layout import ENVIRONMENT, Folder, Node
from .process import PROC, Process, processes

__all__ = ["clear", "remove"]

#: Seconds for a killed process to be gone, even on a machine that swaps.
GONE_TIMEOUT = 30.0
#: Seconds for the holder of a session daemon to kill its children.
POLITE_TIMEOUT = 5.0


def clear(folder: Folder) -> None:
    """End all members of a lab and empty its locked state folder.

    :raises LabError: If something does not end, or the caller is one of them.
    """
    if not folder.is_ours():
        return
    _end(folder.nodes())
    if (folder.path / "alive").exists() and not folder.wait_all_gone(GONE_TIMEOUT):
        raise LabError(
            f"a process of the lab in {folder.path} does not end;"
            f" `fuser {folder.path}/alive` names it"
        )
    folder.remove()


def remove(folder: Folder, node: Node) -> None:
    """End one member and delete what it has."""
    _end([node])
    shutil.rmtree(node.path)
    folder.write_hosts()


def _end(nodes: Sequence[Node]) -> None:
    with ExitStack() as pins:
        pinned = {number for node in nodes for number in _pin(node, pins)}
        if Process.current().network() in pinned:
            raise LabError("this would end its caller; run it outside of the lab")
        for node in nodes:
            _kill_holder(node)
        _kill_members(nodes, pinned)


def _pin(node: Node, pins: ExitStack) -> Iterator[int]:
    """Keep a node's network namespace, if it has one, until we have searched it.

    Once it is gone, the kernel may give its number to somebody else's.
    """
    holder = node.holder()
    if holder is None or node.network() is None:
        return
    try:
        fd = os.open(PROC / str(holder.pid) / "ns/net", os.O_RDONLY)
    except OSError:
        return
    pins.callback(os.close, fd)
    if holder.is_alive():
        yield os.fstat(fd).st_ino


def _kill_holder(node: Node) -> None:
    holder = node.holder()
    if holder is None:
        return
    if node.role == "session":
        # Without a PID namespace, only the holder knows what is to go with it.
        holder.kill(signal.SIGTERM)
        holder.wait(POLITE_TIMEOUT)
    holder.kill()
    if not holder.wait(GONE_TIMEOUT):
        raise LabError(f"host {node.name}: process {holder.pid} does not end")
    for stray in _strays(node):
        stray.kill()


def _strays(node: Node) -> Iterator[Process]:
    """What a session daemon's holder has left because it was killed itself."""
    if node.role != "session":
        return
    run = node.path / "run"
    for file in [run / "libvirtd.pid", *run.glob("libvirt/qemu/run/*.pid")]:
        try:
            found = Process.of(int(file.read_text()))
            argv = (PROC / str(found.pid) / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if f"{node.folder}/".encode() in argv:
            yield found


def _kill_members(nodes: Sequence[Node], pinned: Collection[int]) -> None:
    """Kill what runs in the nodes' network namespaces, until nothing does.

    On a host that is only what is just ending with process 1. In the client it is
    all that `lab exec client` has left in the background.
    """
    unpinned = {number for node in nodes if (number := node.network())} - set(pinned)
    marks = {f"{ENVIRONMENT}={node.lab}".encode() for node in nodes}
    deadline = time.monotonic() + GONE_TIMEOUT
    while members := list(_members(pinned, unpinned, marks)):
        if time.monotonic() > deadline:
            raise LabError(f"process {members[0].pid} of the lab does not end")
        for member in members:
            member.kill()
        for member in members:
            member.wait(1)


def _members(
    pinned: Collection[int], unpinned: Collection[int], marks: Set[bytes]
) -> Iterator[Process]:
    for process in processes():
        number = process.network()
        if number in pinned:
            yield process
        elif number in unpinned and marks & set(process.environment()):
            # The holder died before us. A number alone could be a new namespace's.
            yield process
