"""Which driver carries a migration out, and why."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import libvirt_postcopy.vir.calls as vir
from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.drivers.wishes import Wishes
from libvirt_postcopy.errors import LibvirtError, UsageError
from libvirt_postcopy.features import version_text
from libvirt_postcopy.vir.probe import installed_qemu_version
from libvirt_postcopy.vir.protocols import Connection, Domain

LOG = logging.getLogger("libvirt_postcopy.drivers")

__all__ = ["Choice", "DRIVERS", "choose"]

DRIVERS = ("auto", "native", "qemu")

_POSTCOPY_IN_LIBVIRT = 1_003_003
_PREEMPT_IN_LIBVIRT = 10_000_000
_RENAMED_IN_QEMU = 2_006_000


@dataclass(frozen=True)
class Choice:
    """The driver's name, and the reason in words for people."""

    driver: str
    reason: str


def choose(
    wanted: str, dom: Domain, flags: MigrateFlags, wishes: Wishes | None = None
) -> Choice:
    """Choose: libvirt's own migration wherever it can do what is asked.

    libvirt offers no list of what its migration can do, so versions decide: its own, and that of QEMU before one with
    another name for the capability.

    :param wanted: ``auto``, ``native`` or ``qemu``.
    :raises UsageError: If there is no such driver, or it cannot do what is asked.
    :raises LibvirtError: If the source's daemon does not answer.
    """
    if wanted not in DRIVERS:
        raise UsageError(
            f"there is no driver '{wanted[:40]}'",
            cure=f"give one of {', '.join(DRIVERS)}",
        )
    if wanted == "qemu":
        return Choice("qemu", "asked for")
    needed = _needs_qemu(dom, flags, wishes or Wishes())
    if not needed:
        reason = (
            "asked for" if wanted == "native" else "libvirt can do all that is asked"
        )
        return Choice("native", reason)
    if wanted == "native":
        raise UsageError(
            f"the driver native cannot do it: {needed}",
            side="source",
            cure="leave it out, or say --postcopy-driver qemu",
        )
    return Choice("qemu", needed)


def _needs_qemu(dom: Domain, flags: MigrateFlags, wishes: Wishes) -> str:
    """What only QEMU itself can give; empty if nothing."""
    if wishes.release_ram:
        return "libvirt does not know release-ram"
    if wishes.downtime_limit_ms is not None:
        return "libvirt's migration takes no downtime limit beforehand"
    connection = dom.connect()
    with vir.refusals("source"):
        libvirt, hypervisor = connection.getLibVersion(), connection.getVersion()
    if wishes.preempt and libvirt < _PREEMPT_IN_LIBVIRT:
        return f"libvirt {version_text(libvirt)} does not know postcopy-preempt (10.0 and later do)"
    if not flags & MigrateFlags.VIR_MIGRATE_POSTCOPY:
        return ""
    if libvirt < _POSTCOPY_IN_LIBVIRT:
        return (
            f"libvirt {version_text(libvirt)} has no post-copy (1.3.3 and later have)"
        )
    if hypervisor < _RENAMED_IN_QEMU and _is_qemu(connection):
        return f"libvirt does not know the name that QEMU {version_text(hypervisor)} has for post-copy"
    return ""


def _is_qemu(connection: Connection) -> bool:
    """Whether it is QEMU's driver; another says itself what it cannot do."""
    try:
        installed_qemu_version(connection)
    except LibvirtError as error:
        LOG.debug("%s", error)
        return False
    return True
