"""libvirt's callbacks, turned into values.

A callback only makes an event and hands it on; a blocking call inside one would stall the process's only
event loop.  QEMU's own monitor events are listened to as well where the driver has them: they carry exact
statuses, known to libvirt or not, need no domain job, and come before libvirt's own events.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import libvirt
import libvirt_qemu

from libvirt_postcopy.constants import (
    EventID,
    LifecycleEvent,
    ResumedDetail,
    StoppedDetail,
    SuspendedDetail,
)
from libvirt_postcopy.events import (
    Died,
    Event,
    Finished,
    PassSeen,
    Resumed,
    Side,
    SplitFailed,
    SplitSeen,
    StatusSeen,
    Stopped,
)
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.vir.protocols import Connection, Domain

__all__ = ["DomainWatch", "ensure_event_loop", "from_lifecycle", "from_monitor"]

LOG = logging.getLogger("libvirt_postcopy.vir")

_starting = threading.Lock()


def ensure_event_loop() -> bool:
    """Start an event loop if this process has registered none.

    libvirt allows one implementation a process, and only connections opened after its registration
    deliver events.

    :return: Whether one was started, so that connections opened before deliver nothing.
    """
    with _starting:
        if _is_loop_registered():
            return False
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_run_loop, name="libvirt-events", daemon=True).start()
        return True


def _is_loop_registered() -> bool:
    """Adding a timer that never fires works only where there is an implementation."""
    try:
        timer = libvirt.virEventAddTimeout(-1, lambda timer, opaque: None, None)
    except libvirt.libvirtError:
        return False
    # libvirtaio's refuses any thread but its own while asyncio debugs.  The timer never fires, wherever it is.
    with suppress(libvirt.libvirtError):
        libvirt.virEventRemoveTimeout(timer)
    return True


def _run_loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def from_lifecycle(side: Side, event: int, detail: int) -> list[Event]:
    """Read a ``VIR_DOMAIN_EVENT_ID_LIFECYCLE`` event; what does not speak of migration gives nothing."""
    if event == LifecycleEvent.VIR_DOMAIN_EVENT_SUSPENDED:
        if detail == SuspendedDetail.VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY:
            return [SplitSeen(side)]
        if detail == SuspendedDetail.VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY_FAILED:
            return [SplitFailed(side)]
        return [Stopped(side)]
    if event == LifecycleEvent.VIR_DOMAIN_EVENT_RESUMED:
        if detail == ResumedDetail.VIR_DOMAIN_EVENT_RESUMED_POSTCOPY:
            return [SplitSeen(side), Resumed(side)]
        if detail == ResumedDetail.VIR_DOMAIN_EVENT_RESUMED_POSTCOPY_FAILED:
            return [SplitFailed(side)]
        return [Resumed(side)]
    if event == LifecycleEvent.VIR_DOMAIN_EVENT_STOPPED and detail in _UNASKED:
        return [Died(side)]
    return []


_UNASKED = frozenset(StoppedDetail)


def from_monitor(side: Side, event: str, details: str | None) -> list[Event]:
    """Read a QEMU monitor event as libvirt passes it on, its data as JSON text."""
    if event == "STOP":
        return [Stopped(side)]
    if event == "RESUME":
        return [Resumed(side)]
    try:
        status = json.loads(details or "{}")["status"]
    except (ValueError, KeyError, TypeError):
        LOG.warning("%s: a MIGRATION event without a status: %.200s", event, details)
        return []
    return [StatusSeen(side, str(status))]


class DomainWatch:
    """Listens to one domain on one host.

    :param uuid: The domain's; on the destination it need not exist yet.
    :param sink: Takes each event, on the event loop's thread.
    """

    _MONITOR_EVENTS = ("MIGRATION", "STOP", "RESUME")

    def __init__(
        self,
        connection: Connection,
        uuid: str,
        side: Side,
        sink: Callable[[Event], None],
    ) -> None:
        self._connection = connection
        self._uuid = uuid
        self._side = side
        self._sink = sink
        self._libvirt_ids: list[int] = []
        self._monitor_ids: list[int] = []
        self._register()

    def _register(self) -> None:
        for number, callback in (
            (EventID.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle),
            (EventID.VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION, self._on_iteration),
            (EventID.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, self._on_job_completed),
        ):
            try:
                self._libvirt_ids.append(
                    self._connection.domainEventRegisterAny(
                        None, number, callback, None
                    )
                )
            except libvirt.libvirtError as error:
                LOG.warning("no %s events: %s", number.name, error)
        for name in self._MONITOR_EVENTS:
            try:
                self._monitor_ids.append(
                    libvirt_qemu.qemuMonitorEventRegister(
                        self._connection, None, name, self._on_monitor, None
                    )
                )
            except libvirt.libvirtError as error:  # not QEMU, or read-only
                LOG.debug("no %s events from QEMU's monitor: %s", name, error)
                return

    def close(self) -> None:
        """Listen no more."""
        try:
            while self._libvirt_ids:
                self._connection.domainEventDeregisterAny(self._libvirt_ids.pop())
            while self._monitor_ids:
                libvirt_qemu.qemuMonitorEventDeregister(
                    self._connection, self._monitor_ids.pop()
                )
        except (
            libvirt.libvirtError
        ) as error:  # the connection is dead, and they with it
            LOG.debug("events not deregistered: %s", error)

    def _hand_on(self, dom: Domain, events: list[Event]) -> None:
        if dom.UUIDString() == self._uuid:
            for event in events:
                self._sink(event)

    def _on_lifecycle(
        self, conn: Connection, dom: Domain, event: int, detail: int, opaque: Any
    ) -> None:
        self._hand_on(dom, from_lifecycle(self._side, event, detail))

    def _on_iteration(
        self, conn: Connection, dom: Domain, iteration: int, opaque: Any
    ) -> None:
        if self._side is Side.SOURCE:
            self._hand_on(dom, [PassSeen(iteration)])

    def _on_job_completed(
        self, conn: Connection, dom: Domain, params: dict[str, Any], opaque: Any
    ) -> None:
        if self._side is Side.SOURCE:
            self._hand_on(dom, [Finished(Stats.from_job_stats(params))])

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
        self._hand_on(dom, from_monitor(self._side, event, details))
