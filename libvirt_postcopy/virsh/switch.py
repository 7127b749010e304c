"""``migrate-start-postcopy`` and ``migrate-postcopy``: one call of libvirt, explained where it refuses."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Mapping

from libvirt_postcopy.errors import MigrationUnknown
from libvirt_postcopy.vir import calls
from libvirt_postcopy.vir.protocols import Domain
from libvirt_postcopy.virsh.daemon import connect, find_domain, uri_of
from libvirt_postcopy.virsh.grammar import Globals, Value
from libvirt_postcopy.virsh.interrupts import Signals, easily_interrupted
from libvirt_postcopy.virsh.terminal import Terminal

__all__ = ["run"]

SLICE_S = 0.1
"""How soon an interrupt is seen to."""


def run(
    given: Mapping[str, Value], options: Globals, terminal: Terminal, signals: Signals
) -> None:
    """Send ``migrate-start-postcopy``.

    :raises MigrationUnknown: If the user would not wait for libvirt's answer.
    """
    name = str(given["domain"])
    with easily_interrupted():
        calls.silence_libvirt()
        connection = connect(options, for_call="virDomainMigrateStartPostCopy")
        dom = find_domain(connection, name)
        uri = uri_of(connection)
    signals.catch()
    call = _Call(dom)
    while not call.is_over(SLICE_S):
        if signals.take():
            look = shlex.join(["virsh", "-c", uri, "domstate", "--reason", name])
            raise MigrationUnknown(
                f"interrupted: the switch to post-copy of '{name}' may have been sent, and cannot be taken back",
                side="source",
                cure=f"look: {look}",
            )
    call.result()


class _Call:
    """The call on a thread of its own: libvirt blocks in C, where no interrupt is seen."""

    def __init__(self, dom: Domain) -> None:
        self._dom = dom
        self._error: Exception | None = None
        self._thread = threading.Thread(
            target=self._run, name="postcopy-switch", daemon=True
        )
        self._thread.start()

    def is_over(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def result(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            calls.start_postcopy(self._dom)
        except Exception as error:
            self._error = error
