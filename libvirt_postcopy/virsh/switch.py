"""``migrate-start-postcopy`` and ``migrate-postcopy``: one call of libvirt, explained where it refuses."""

from __future__ import annotations

from collections.abc import Mapping

from libvirt_postcopy.vir import calls
from libvirt_postcopy.virsh.daemon import connect, find_domain
from libvirt_postcopy.virsh.grammar import Globals, Value
from libvirt_postcopy.virsh.terminal import Terminal

__all__ = ["run"]


def run(given: Mapping[str, Value], options: Globals, terminal: Terminal) -> None:
    """Send ``migrate-start-postcopy``."""
    calls.silence_libvirt()
    connection = connect(options, for_call="virDomainMigrateStartPostCopy")
    calls.start_postcopy(find_domain(connection, str(given["domain"])))
