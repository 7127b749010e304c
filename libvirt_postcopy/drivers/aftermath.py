"""What is left to do once the guest is wholly on the destination: the source's shell is removed, ours is put back.

Either that or a way back (``undoing``), never both.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import libvirt_postcopy.vir.calls as vir
from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.drivers.course import Ends
from libvirt_postcopy.drivers.landing import Landing, Starter
from libvirt_postcopy.drivers.setup import Order, Setup
from libvirt_postcopy.errors import LibvirtError, PostcopyError
from libvirt_postcopy.events import Half
from libvirt_postcopy.phases import Status
from libvirt_postcopy.vir import monitor

__all__ = ["Aftermath"]

LOG = logging.getLogger("libvirt_postcopy.drivers")


class Aftermath:
    """The end of one migration.

    :ivar blocktime: QEMU's own names and units.
    :ivar notes: What did not work although the guest has moved.
    """

    def __init__(
        self,
        order: Order,
        ends: Ends,
        setup: Setup,
        starter: Starter,
        landing: Landing,
    ) -> None:
        self._order = order
        self._source = ends.source
        self._destination = ends.destination
        self._setup = setup
        self._starter = starter
        self._landing = landing
        self._turn = threading.Lock()
        self._is_finished = self._is_forbidden = False
        self.blocktime: Mapping[str, Any] = {}
        self.notes: list[str] = []

    def forbid(self) -> bool:
        """Finish nothing from now on: the guest goes back; False if it is finished."""
        with self._turn:
            self._is_forbidden = not self._is_finished
            return self._is_forbidden

    def finish(self) -> str:
        """Remove the source's shell, define and undefine as asked, put the destination's settings back.

        Once, and only when both QEMUs have said that all is on the destination and it has been started.

        :return: Why it cannot be done yet; empty when it is done.
        """
        with self._turn:
            if self._is_finished:
                return ""
            reason = self._why_not()
            if reason:
                return reason
            self._is_finished = True
            if self._order.wishes.blocktime:
                self._read_blocktime()
            is_defined = self._define()
            self._remove_source(is_defined)
            self._destination.settings.put_back(self._destination.control)
            return ""

    def _why_not(self) -> str:
        if self._is_forbidden:
            return "it was taken back"
        if not self._starter.is_settled.is_set():
            return "its vCPUs are not started on the destination: virsh resume, there"
        here = self._source.half()
        if here is Half.UNKNOWN:
            return "the source's daemon does not answer"
        if not here.is_absent:
            info = self._source.ask_migration()
            if info is None:
                return "the source's QEMU does not answer"
            if info.get("status") != Status.COMPLETED:
                return f"the source's QEMU says {info.get('status')}"
        if not self._landing.is_complete_there():
            return "the destination does not confirm that it has all"
        return ""

    def _read_blocktime(self) -> None:
        # Only of the destination: a source that was one before still tells its own old figures.
        with suppress(PostcopyError):
            info = self._destination.control.migration()
            self.blocktime = {
                name: value
                for name, value in info.items()
                if name.startswith("postcopy-")
            }

    def _define(self) -> bool:
        """Define it there if that was asked for; whether it is."""
        xml = self._setup.persistent
        if xml is None:
            return False
        try:
            with self._destination.host.line() as connection:
                monitor.define(connection, xml)
        except LibvirtError as error:
            self.complain(
                f"the guest runs on the destination, but is not defined: {error}"
            )
            return False
        return True

    def _remove_source(self, is_defined_there: bool) -> None:
        """Remove what is left on the source: the memory and the disks are the destination's."""
        try:
            with self._source.seat.domain() as dom:
                if vir.half(dom) is not Half.INACTIVE:
                    monitor.destroy(dom, "source")
        except LibvirtError as error:
            if not self._source.has_ended():
                self.complain(
                    f"the guest runs on the destination; destroy what is left of it on the source: {error}"
                )
                return
        self._undefine(is_defined_there)

    def _undefine(self, is_defined_there: bool) -> None:
        if not self._order.flags & MigrateFlags.VIR_MIGRATE_UNDEFINE_SOURCE:
            return
        wanted = self._order.flags & MigrateFlags.VIR_MIGRATE_PERSIST_DEST
        if wanted and not is_defined_there:
            return  # or it would be defined nowhere
        try:
            with self._source.seat.domain() as dom:
                if monitor.is_persistent(dom):
                    monitor.undefine(dom)
        except LibvirtError as error:
            if self._source.half() is not Half.GONE:
                self.complain(f"still defined on the source: {error}")

    def complain(self, text: str) -> None:
        """Note what did not work."""
        LOG.warning("%s", text)
        self.notes.append(text)
