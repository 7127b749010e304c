"""QEMU's monitor through libvirt, and the calls by which a domain is carried over without libvirt's migration job."""

from __future__ import annotations

import json
import logging
from typing import Any, Protocol, cast

import libvirt_qemu

from libvirt_postcopy.constants import (
    CreateFlags,
    DomainState,
    ErrorNumber,
    MaxSpeedFlags,
    PausedReason,
    UndefineFlags,
    XMLFlags,
)
from libvirt_postcopy.errors import LibvirtError
from libvirt_postcopy.events import Event, PassSeen, Side
from libvirt_postcopy.vir.calls import refusals
from libvirt_postcopy.vir.events import DomainWatch, from_monitor
from libvirt_postcopy.vir.protocols import Connection, Domain

__all__ = [
    "MonitorWatch",
    "create_paused",
    "define",
    "destroy",
    "hostname",
    "is_lock_timeout",
    "is_paused_by_others",
    "is_persistent",
    "is_running",
    "lift_postcopy_speed",
    "live_xml",
    "max_speed_mib_s",
    "migratable_xml",
    "persistent_xml",
    "postcopy_speed_mib_s",
    "read_event",
    "resume",
    "send",
    "undefine",
]

LOG = logging.getLogger("libvirt_postcopy.vir")

# Secure, because a display's password must reach the destination.
_LIVE_XML = XMLFlags.VIR_DOMAIN_XML_SECURE | XMLFlags.VIR_DOMAIN_XML_MIGRATABLE
_PERSISTENT_XML = XMLFlags.VIR_DOMAIN_XML_SECURE | XMLFlags.VIR_DOMAIN_XML_INACTIVE


class _Host(Connection, Protocol):
    """``libvirt.virConnect``, as far as only this driver uses it."""

    def getHostname(self) -> str: ...

    def createXML(self, xmlDesc: str, flags: int = 0) -> Domain: ...

    def defineXML(self, xml: str) -> Domain: ...


class _Domain(Domain, Protocol):
    """``libvirt.virDomain``, as far as only this driver uses it."""

    def XMLDesc(self, flags: int = 0) -> str: ...

    def isPersistent(self) -> int: ...

    def resume(self) -> int: ...

    def destroy(self) -> int: ...

    def undefineFlags(self, flags: int = 0) -> int: ...

    def migrateSetMaxSpeed(self, bandwidth: int, flags: int = 0) -> int: ...


# The monitor


def send(dom: Domain, command: str, side: str) -> str:
    """Send a QMP command, as JSON; give the reply, which may be an error of QEMU's.

    libvirt adds an ``id`` of its own, and marks the domain as tainted.

    :raises LibvirtError: If QEMU was not asked, or its answer did not arrive.
    """
    with refusals(side):
        return str(libvirt_qemu.qemuMonitorCommand(dom, command, 0))


def is_lock_timeout(error: LibvirtError) -> bool:
    """Whether QEMU was not asked because another job has held the domain for 30 s."""
    return error.code == ErrorNumber.VIR_ERR_OPERATION_TIMEOUT


class MonitorWatch(DomainWatch):
    """Hears of passes from QEMU itself: libvirt announces none without a migration job of its own."""

    _MONITOR_EVENTS = (  # type: ignore[assignment]
        *DomainWatch._MONITOR_EVENTS,
        "MIGRATION_PASS",
    )

    def _on_monitor(
        self,
        conn: Connection,
        dom: Domain,
        event: str,
        seconds: int,
        micros: int,
        details: str | None,
        opaque: Any,
    ) -> None:
        self._hand_on(dom, read_event(self._side, event, details))


def read_event(side: Side, event: str, details: str | None) -> list[Event]:
    """Read a QEMU monitor event as libvirt passes it on."""
    if event != "MIGRATION_PASS":
        return from_monitor(side, event, details)
    number = _pass_number(details)
    return [] if number is None or side is not Side.SOURCE else [PassSeen(number)]


def _pass_number(details: str | None) -> int | None:
    try:
        return int(json.loads(details or "{}")["pass"])
    except (ValueError, KeyError, TypeError):
        LOG.warning("a MIGRATION_PASS event without a number: %.200s", details)
        return None


# The domain


def migratable_xml(dom: Domain) -> str:
    """The running domain as another host can start it, a display's password included."""
    with refusals("source"):
        return cast(_Domain, dom).XMLDesc(int(_LIVE_XML))


def live_xml(dom: Domain) -> str:
    """The running domain of the destination, as it was started."""
    with refusals("destination"):
        return cast(_Domain, dom).XMLDesc(0)


def persistent_xml(dom: Domain) -> str:
    """What is started next time."""
    with refusals("source"):
        return cast(_Domain, dom).XMLDesc(int(_PERSISTENT_XML))


def is_persistent(dom: Domain) -> bool:
    """Whether the domain is defined, not only running."""
    with refusals("source"):
        return bool(cast(_Domain, dom).isPersistent())


def is_running(dom: Domain) -> bool:
    """Whether libvirt holds the vCPUs for running.

    :raises LibvirtError: If the daemon cannot say.
    """
    with refusals():
        return dom.state()[0] == DomainState.VIR_DOMAIN_RUNNING


_BY_MIGRATION = frozenset(
    (
        PausedReason.VIR_DOMAIN_PAUSED_UNKNOWN,
        PausedReason.VIR_DOMAIN_PAUSED_MIGRATION,
        PausedReason.VIR_DOMAIN_PAUSED_STARTING_UP,
        PausedReason.VIR_DOMAIN_PAUSED_POSTCOPY,
        PausedReason.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED,
    )
)


def is_paused_by_others(dom: Domain) -> bool:
    """Whether the vCPUs stand still for a reason that has nothing to do with the migration, as after a suspend.

    :raises LibvirtError: If the daemon cannot say.
    """
    with refusals():
        state, reason = dom.state()[:2]
    return state == DomainState.VIR_DOMAIN_PAUSED and reason not in _BY_MIGRATION


def max_speed_mib_s(dom: Domain) -> int:
    """The bandwidth that libvirt would migrate the domain with."""
    with refusals("source"):
        return int(dom.migrateGetMaxSpeed(0))


def postcopy_speed_mib_s(dom: Domain) -> int:
    """The same for the pages that follow after the switch; 0 for no limit."""
    try:
        with refusals("source"):
            limit = MaxSpeedFlags.VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY
            return int(dom.migrateGetMaxSpeed(int(limit)))
    except LibvirtError as error:  # libvirt < 5.1, or QEMU < 3.0
        LOG.debug("no limit for post-copy: %s", error)
        return 0


def lift_postcopy_speed(dom: Domain) -> None:
    """Take that limit off; libvirt's own call, which does not taint the domain.

    :raises LibvirtError: If libvirt refuses, as while a migration comes in.
    """
    with refusals("destination"):
        limit = MaxSpeedFlags.VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY
        cast(_Domain, dom).migrateSetMaxSpeed(0, int(limit))


def hostname(connection: Connection) -> str:
    """The name that the host gives itself."""
    with refusals("destination"):
        return cast(_Host, connection).getHostname()


def create_paused(connection: Connection, xml: str) -> Domain:
    """Start a domain whose vCPUs do not run.

    Not one that ends with this client's connection: it will hold the guest.
    """
    with refusals("destination"):
        return cast(_Host, connection).createXML(
            xml, int(CreateFlags.VIR_DOMAIN_START_PAUSED)
        )


def define(connection: Connection, xml: str) -> None:
    """Define a domain, running or not."""
    with refusals("destination"):
        cast(_Host, connection).defineXML(xml)


def resume(dom: Domain, side: str) -> None:
    """Start the vCPUs.  libvirt takes the locks of its lock manager first."""
    with refusals(side):
        cast(_Domain, dom).resume()


def destroy(dom: Domain, side: str) -> None:
    """End a domain's QEMU.  The caller has made sure that no part of the guest is in it."""
    with refusals(side):
        cast(_Domain, dom).destroy()


def undefine(dom: Domain) -> None:
    """Remove the definition of a domain that does not run."""
    with refusals("source"):
        # The file of its variables may lie on shared storage.
        cast(_Domain, dom).undefineFlags(
            int(UndefineFlags.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
        )
