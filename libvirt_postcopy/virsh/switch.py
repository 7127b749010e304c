"""``migrate-start-postcopy`` and ``migrate-postcopy``: one call of libvirt, explained where it has no use."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping

from libvirt_postcopy.constants import ErrorNumber
from libvirt_postcopy.drivers.host import ANSWER_S
from libvirt_postcopy.errors import LibvirtError, MigrationUnknown, PostcopyError
from libvirt_postcopy.events import Half
from libvirt_postcopy.takeover import left_behind
from libvirt_postcopy.vir import calls
from libvirt_postcopy.vir.protocols import Connection, Domain
from libvirt_postcopy.virsh.any_driver import start_postcopy
from libvirt_postcopy.virsh.daemon import connect, find_domain, uri_of
from libvirt_postcopy.virsh.grammar import Globals, Value
from libvirt_postcopy.virsh.interrupts import Signals, easily_interrupted
from libvirt_postcopy.virsh.split import SplitDomain, look_command
from libvirt_postcopy.virsh.terminal import Terminal

__all__ = ["run"]

SLICE_S = 0.1
"""How soon an interrupt is seen to."""

_ELSEWHERE = "if it was migrating, look for it on the other host, and destroy nothing before you have found it"


def run(
    given: Mapping[str, Value], options: Globals, terminal: Terminal, signals: Signals
) -> None:
    """Send ``migrate-start-postcopy``, unless the domain is split already, and when the destination's daemon lives.

    :raises PostcopyBroken: If it is split, and libvirt calls its post-copy failed.
    :raises LibvirtError: If libvirt refuses, or the destination's daemon was silent and could not be asked then.
    :raises MigrationUnknown: If the user would not wait for libvirt's answer.
    """
    name = str(given["domain"])
    with easily_interrupted():
        calls.silence_libvirt()
        connection = connect(options)
        uri = uri_of(connection)
        dom = _find(connection, name)
        domain = SplitDomain(dom, name, uri)
        if _is_split(domain, terminal):
            return
        unchecked = _await_destination(dom, terminal)
    signals.catch()
    call = _Call(dom, domain)
    while not call.is_over(SLICE_S):
        if signals.take():
            terminal.interrupt()
            raise MigrationUnknown(
                f"interrupted: the switch to post-copy of '{name}' may have been sent, and cannot be taken back",
                side="source",
                cure=f"look: {look_command(uri, name)}",
            )
    if call.error is not None and not _is_split(domain, terminal, call.half):
        raise _explained(call.error, call.half, name, uri)
    if call.error is None and unchecked:
        terminal.say(f"note: {_UNCHECKED}: {unchecked}")


_UNCHECKED = (
    "the switch was sent without knowing whether the destination's daemon lives"
)
_SILENT = "the destination's daemon does not answer"


def _await_destination(dom: Domain, terminal: Terminal) -> str:
    """Wait until the destination's daemon has answered; give why it cannot be asked.

    libvirt kills the destination's half if its daemon cannot start it, and the source's is stopped by then.

    :raises LibvirtError: If it does not answer, and cannot be asked any more.
    """
    entry = left_behind(dom).entry
    uri = entry.facts.destination if entry is not None else None
    if uri is None:
        return "no journal names the destination"
    question = _Question(uri)
    if question.is_over(ANSWER_S):
        return "" if question.error is None else str(question.error)
    terminal.say(f"note: the switch waits: {_SILENT} ({uri})")
    question.is_over(None)
    if question.error is not None:
        raise LibvirtError(
            f"{_SILENT}, so the switch was not sent: {question.error}",
            side="destination",
            cure="run it again when that daemon answers; virsh migrate-postcopy does not ask it",
        ) from question.error
    return ""


def _find(connection: Connection, name: str) -> Domain:
    try:
        return find_domain(connection, name)
    except LibvirtError as error:
        if error.code == ErrorNumber.VIR_ERR_NO_DOMAIN:
            error.cure = _ELSEWHERE
        raise


def _is_split(
    domain: SplitDomain, terminal: Terminal, half: Half | None = None
) -> bool:
    """Say that it is, if nothing has failed.

    :param half: Where it has been looked at already.
    :raises PostcopyBroken: If libvirt calls its post-copy failed.
    """
    half = half or domain.half()
    if half is Half.SPLIT_FAILED:
        raise domain.broken()
    if half is Half.SPLIT:
        terminal.say(f"note: {domain.flowing()}")
    return half is Half.SPLIT


def _explained(error: Exception, half: Half | None, name: str, uri: str) -> Exception:
    """A domain that has ended here is no reason to start it."""
    if isinstance(error, PostcopyError) and half in (Half.INACTIVE, Half.GONE):
        return LibvirtError(
            f"domain '{name}' does not run on {uri}: there is nothing to switch",
            side="source",
            cure=_ELSEWHERE,
        )
    return error


class _Apart(ABC):
    """Something done on a thread of its own: libvirt blocks in C, where no interrupt is seen.

    :ivar error: Why it has failed.
    """

    def __init__(self, name: str) -> None:
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def is_over(self, timeout_s: float | None) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @abstractmethod
    def _run(self) -> None: ...


class _Call(_Apart):
    """The switch.

    :ivar half: What the domain is after a refusal.
    """

    def __init__(self, dom: Domain, domain: SplitDomain) -> None:
        self._dom = dom
        self._domain = domain
        self.half: Half | None = None
        super().__init__("postcopy-switch")

    def _run(self) -> None:
        try:
            start_postcopy(self._dom)
        except Exception as error:
            self.error = error
            self.half = self._domain.half()


class _Question(_Apart):
    """Whether a daemon answers."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        super().__init__("postcopy-question")

    def _run(self) -> None:
        try:
            connection = calls.open_connection(self._uri, "destination")
            with calls.refusals("destination"):
                connection.getLibVersion()
            calls.close_connections([connection])
        except LibvirtError as error:
            self.error = error
