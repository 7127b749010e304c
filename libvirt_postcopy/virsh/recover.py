"""``postcopy-recover``: resumes a broken migration until it is whole."""

from __future__ import annotations

from collections.abc import Mapping

from libvirt_postcopy.virsh.attach import follow
from libvirt_postcopy.virsh.grammar import Globals, Value
from libvirt_postcopy.virsh.interrupts import Signals
from libvirt_postcopy.virsh.terminal import Terminal

__all__ = ["run"]


def run(
    given: Mapping[str, Value], options: Globals, terminal: Terminal, signals: Signals
) -> None:
    """Resume, and stay until the end or until the user leaves.

    :raises PostcopyError: What has become of it if it did not come to its end; text for the operator.
    """
    follow(given, options, terminal, signals, only_broken=True)
