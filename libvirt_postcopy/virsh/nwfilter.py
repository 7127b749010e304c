"""``nwfilter-define --keep-uuid``: redefines a network filter whose UUID differs in the file."""

from __future__ import annotations

from collections.abc import Mapping

from libvirt_postcopy.vir import calls
from libvirt_postcopy.vir.nwfilter import define_keeping_uuid
from libvirt_postcopy.virsh.daemon import connect
from libvirt_postcopy.virsh.grammar import Globals, Value
from libvirt_postcopy.virsh.interrupts import Signals, easily_interrupted
from libvirt_postcopy.virsh.plan import read_file
from libvirt_postcopy.virsh.terminal import Terminal

__all__ = ["run"]


def run(
    given: Mapping[str, Value], options: Globals, terminal: Terminal, signals: Signals
) -> None:
    """Define the filter, and say so in virsh's words.

    :raises UsageError: If the file is not a filter's.
    :raises LibvirtError: If libvirt refuses.
    """
    name = str(given["file"])
    xml = read_file(name)
    with easily_interrupted():
        calls.silence_libvirt()
        connection = connect(options)
        defined = define_keeping_uuid(connection, xml, validate="validate" in given)
    if not options.is_quiet:
        terminal.print(f"Network filter {defined.name} defined from {name}\n")
