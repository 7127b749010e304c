"""``postcopy-policy``: shows or changes the policy that a domain carries in its XML."""

from __future__ import annotations

from collections.abc import Mapping

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.policy import parse
from libvirt_postcopy.vir import calls
from libvirt_postcopy.vir.metadata import read_policy, write_policy
from libvirt_postcopy.virsh.daemon import connect, find_domain
from libvirt_postcopy.virsh.grammar import Globals, Value
from libvirt_postcopy.virsh.interrupts import Signals, easily_interrupted
from libvirt_postcopy.virsh.terminal import Terminal

__all__ = ["run"]


def run(
    given: Mapping[str, Value], options: Globals, terminal: Terminal, signals: Signals
) -> None:
    """Show the policy, or set it, or take it away.

    :raises UsageError: If it is none.
    :raises LibvirtError: If libvirt refuses.
    """
    if "set" in given and "unset" in given:
        raise UsageError("Options --set and --unset are mutually exclusive")
    wanted = parse(str(given["set"])) if "set" in given else None
    with easily_interrupted():
        calls.silence_libvirt()
        connection = connect(options)
        dom = find_domain(connection, str(given["domain"]))
        if "set" in given or "unset" in given:
            write_policy(dom, wanted)
            return
        found = read_policy(dom)
    terminal.print("none\n" if found is None else f"{found}\n")
