"""The way to the destination, where a QEMU does not survive a resume that gets nowhere.

Up to QEMU 5.2 the source dies of the resume after one that reached nobody, and the destination can be told only once
to wait.  So the way is seen first.  As long as nobody has told the destination to wait nothing listens there: a
connection that is refused has got there, one that is not answered has not.  Where another client may have told it
already the way is not tried: the connection itself would end a QEMU that waits.  Nor where the destination's is newer:
from 7.1 on it goes on listening where the migration came in, and a stranger's connection ends its half of the guest
(seen with 7.2 and 11.1).
"""

from __future__ import annotations

from contextlib import suppress

import libvirt_postcopy.vir.calls as vir
import libvirt_postcopy.vir.here as machine
import libvirt_postcopy.vir.probe as ask
from libvirt_postcopy.drivers.host import Host
from libvirt_postcopy.errors import LibvirtError, PostcopyError
from libvirt_postcopy.events import Event, Side, StatusSeen
from libvirt_postcopy.obstacles import RESUME_FRAIL, frail
from libvirt_postcopy.phases import Status
from libvirt_postcopy.vir.protocols import Connection, Domain

__all__ = ["FrailWay"]

_THROUGH = frozenset((Status.POSTCOPY_RECOVER, Status.POSTCOPY_ACTIVE))


class FrailWay:
    """Sees to it that a resume gets to the destination, where one that does not would be the end.

    :param migrate_uri: That of the migration; empty for libvirt's choice.
    :param is_ours: Nobody but us can have told the destination to wait.
    :ivar obstacle: Why none may be sent any more; empty where one may.
    """

    def __init__(
        self,
        source: Host,
        destination: Host,
        uuid: str,
        migrate_uri: str,
        *,
        is_ours: bool,
    ) -> None:
        self._source = source
        self._destination = destination
        self._uuid = uuid
        self._migrate_uri = migrate_uri
        self._is_ours = is_ours
        self._frail = ""
        self._listens_on = False  # the destination's QEMU, at the port of before
        self._is_tried = False
        self.obstacle = ""

    def prove(self, dom: Domain) -> None:
        """Look whether a resume would get there, where that matters.

        :param dom: The source's half.
        :raises PostcopyError: If it would not, or nobody can tell; nothing was sent.
        """
        if self._is_tried:  # a try would end a destination that waits by now
            text = "takes one attempt to resume only, and one is under way"
            raise PostcopyError(f"{self._frail} {text}", side="source")
        versions = self._versions(dom)
        self._frail = frail(versions)
        self._listens_on = versions.get(Side.DESTINATION) not in RESUME_FRAIL
        if self._frail and not self._migrate_uri.startswith("unix:"):
            self._require_way()
        self._is_tried = bool(self._frail)

    def hear(self, event: Event) -> None:
        """Take what a QEMU announces: a resume that got there may be followed by another."""
        if isinstance(event, StatusSeen) and event.status in _THROUGH:
            self.got_there()

    def got_there(self) -> None:
        """The attempt has reached the destination."""
        self._is_tried = False

    def failed(self) -> None:
        """The call has failed."""
        if self._is_tried:
            text = "takes one attempt to resume only, and that has failed: another could end it"
            self.obstacle = f"{self._frail} {text}"

    def _versions(self, dom: Domain) -> dict[Side, int]:
        """What can be told: a destination that only the source can reach may be resumed all the same.

        The source's QEMU may be older than the one that is installed, but not everybody may ask it.
        """
        found = {}
        with suppress(LibvirtError):
            found[Side.SOURCE] = _installed(dom.connect(), Side.SOURCE)
            found[Side.SOURCE] = vir.running_qemu_version(dom)
        with suppress(LibvirtError), self._destination.line() as there:
            found[Side.DESTINATION] = _installed(there, Side.DESTINATION)
        return found

    def _require_way(self) -> None:
        self.obstacle = self._why_not_to_try()
        if self.obstacle:
            raise PostcopyError(self.obstacle, side="source")
        name, port = machine.address_of(self._migrate_uri)
        with self._destination.line() as there:
            self._require_nobody_else(there)
            name = name or ask.hostname(there)
        refusal = machine.connection_refusal(name, port)
        if refusal:
            text = f"{name}:{port} cannot be reached yet: {refusal}"
            raise PostcopyError(text, side="source")

    def _why_not_to_try(self) -> str:
        frail = f"{self._frail} does not survive a resume that gets nowhere"
        once = (
            "see that the source reaches the destination's port, and resume it once with"
            " virsh migrate --postcopy-resume"
        )
        if not self._is_ours:
            return f"{frail}, and another client may have told the destination to wait, which a try would end: {once}"
        if self._listens_on:
            return f"{frail}, and the destination's may listen on, which a try would end: {once}"
        if not self._is_here():
            return f"{frail}, and only a client on the source can tell whether one would: {once}"
        return ""

    def _require_nobody_else(self, there: Connection) -> None:
        """A QEMU that waits for its own source dies of our connection."""
        with vir.refusals("destination"):
            domains = there.listAllDomains()
        for dom in domains:
            if dom.UUIDString() != self._uuid and ask.may_wait_for_a_guest(dom):
                raise PostcopyError(
                    f"'{dom.name()}' is being taken in there: the way is not tried beside it",
                    side="destination",
                )

    def _is_here(self) -> bool:
        with self._source.line() as connection:
            uri = vir.uri_of(connection) or ""
            return machine.is_here(uri, ask.hostname(connection))


def _installed(connection: Connection, side: Side) -> int:
    with vir.refusals(side.value):
        return connection.getVersion()
