"""``postcopy-check``: says beforehand whether a domain can move by post-copy."""

from __future__ import annotations

import json
from collections.abc import Mapping

from libvirt_postcopy.preflight import Report, examine, refuse_errors
from libvirt_postcopy.programs import printable
from libvirt_postcopy.vir import calls
from libvirt_postcopy.vir.events import ensure_event_loop
from libvirt_postcopy.virsh.daemon import connect, find_domain, login
from libvirt_postcopy.virsh.grammar import Globals, Value
from libvirt_postcopy.virsh.interrupts import Signals, easily_interrupted
from libvirt_postcopy.virsh.options import option_names
from libvirt_postcopy.virsh.terminal import Terminal

__all__ = ["run"]


def run(
    given: Mapping[str, Value], options: Globals, terminal: Terminal, signals: Signals
) -> None:
    """Look, and print the report.

    :raises NotSupportedError: If it has an error.
    """
    with easily_interrupted():
        report = _examine(given, options)
    terminal.print(_as_json(report) if "json" in given else _as_table(report))
    refuse_errors(report)


def _examine(given: Mapping[str, Value], options: Globals) -> Report:
    calls.silence_libvirt()
    ensure_event_loop()  # a connection opened before it has no keepalive
    connection = connect(options)
    return examine(
        connection,
        find_domain(connection, str(given["domain"])),
        str(given["desturi"]),
        probe="probe" in given,
        owns_source=True,
        connect=login(options).open,
    )


def _as_json(report: Report) -> str:
    return json.dumps(report.to_json(), indent=2) + "\n"


def _as_table(report: Report) -> str:
    lines = option_names(str(report)).splitlines()
    return "".join(f"{printable(line)}\n" for line in lines)
