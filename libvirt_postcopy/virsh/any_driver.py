"""The switch of a migration, whoever carries it out: libvirt's own job, or the driver qemu."""

from __future__ import annotations

from contextlib import nullcontext, suppress

from libvirt_postcopy.errors import PostcopyError
from libvirt_postcopy.phases import Status
from libvirt_postcopy.qmp.commands import MonitorError, Qemu
from libvirt_postcopy.qmp.passthrough import Passthrough
from libvirt_postcopy.vir import calls
from libvirt_postcopy.vir.protocols import Domain

__all__ = ["start_postcopy"]


def start_postcopy(dom: Domain) -> None:
    """Ask libvirt, and QEMU itself where it migrates and libvirt knows of no job: the driver qemu has none.

    :raises PostcopyError: libvirt's refusal.
    """
    try:
        calls.start_postcopy(dom)
    except PostcopyError:
        if calls.has_job(dom) or not _is_switched(dom):
            raise


def _is_switched(dom: Domain) -> bool:
    qemu = Qemu(Passthrough(lambda: nullcontext(dom), "source"))
    with suppress(MonitorError):
        if qemu.status() == Status.ACTIVE:
            qemu.start_postcopy()
            return True
    return False
