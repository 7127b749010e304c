"""Starting planned members together: holders, network, daemons."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from . import network
from .errors import LabError
from .host import Host
from .launch import Launch
from .layout import Folder, Node
from .process import Process

__all__ = ["launch"]

#: Seconds for namespaces and mounts; far more than they take.
PLACE_TIMEOUT = 20.0
#: Lines of each log that go with the error when a host does not start.
LAST_WORDS = 8


def launch(folder: Folder, nodes: Sequence[Node]) -> None:
    """Start members and return when their daemons answer.

    :raises LabError: If one does not; all of them end by themselves then.
    """
    for node in nodes:
        node.save()
    folder.write_hosts()
    with ExitStack() as undo:
        alive = folder.hold_alive()
        undo.callback(os.close, alive)
        launches: list[Launch] = []
        for node in nodes:
            launches.append(Launch(node, alive=alive))
            undo.callback(launches[-1].drop)
        holders: dict[Node, Process] = {}
        for each in launches:
            with _last_words_of(each.node):
                holders[each.node] = each.expect_placed(PLACE_TIMEOUT)
        _connect(folder, holders)
        for each in launches:
            each.start()
        for each in launches:
            if each.node.has_daemon:
                with _last_words_of(each.node):
                    Host(each.node).wait_ready(check=each.check)
        for each in launches:
            each.keep()


def _connect(folder: Folder, holders: dict[Node, Process]) -> None:
    for node, holder in holders.items():
        if node.role == "switch":
            network.create_switch(holder)
    members = [
        (node.name, node.address, holder)
        for node, holder in holders.items()
        if node.address
    ]
    if members:
        switch = folder.node("switch")
        assert switch is not None
        network.plug(Host(switch).holder, members)


@contextmanager
def _last_words_of(node: Node) -> Iterator[None]:
    """Add to an error what the daemon and the holder have written before it."""
    try:
        yield
    except LabError as error:
        lines: list[str] = []
        for path in (node.log, node.console):
            if path.exists():
                text = path.read_text(errors="replace")
                lines += text.splitlines()[-LAST_WORDS:]
        raise LabError("\n    ".join([str(error), *lines])) from None
