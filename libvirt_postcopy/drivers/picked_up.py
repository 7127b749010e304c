"""A migration of the driver ``qemu`` whose client is gone: nobody would start the guest on the destination."""

from __future__ import annotations

import time
from typing import Any

from libvirt_postcopy.drivers.course import in_background
from libvirt_postcopy.drivers.passthrough import QemuDriver
from libvirt_postcopy.drivers.runner import Sink
from libvirt_postcopy.errors import StateError
from libvirt_postcopy.events import Side, StatusSeen
from libvirt_postcopy.phases import Status
from libvirt_postcopy.vir import monitor
from libvirt_postcopy.vir.events import ensure_event_loop

__all__ = ["PickedUpDriver"]

_OVER = frozenset((Status.NONE, Status.FAILED, Status.FAILING, Status.CANCELLED))


class PickedUpDriver(QemuDriver):
    """Goes on where the client that has begun it was killed, to the same end.

    :param has_run_there: The destination's vCPUs were seen to run: if they stand still, somebody wants it.
    :param may_run_there: They may have been started, and nobody has seen it.
    :param resumed: When it was resumed last; seconds since 1970.
    """

    def __init__(
        self,
        *args: Any,
        has_run_there: bool,
        may_run_there: bool = False,
        resumed: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._has_run_there = has_run_there
        self._may_run_there = may_run_there
        self._resumed = resumed

    def begin(self, sink: Sink) -> None:
        """Find both halves, and go on; see :class:`libvirt_postcopy.drivers.runner.Driver`."""
        self._sink = sink
        ensure_event_loop()
        self._source.host.renew()
        self._setup.pick_up()
        self._course.was_sent = self._has_begun = True
        self._switching.assume_sent()
        self._source.host.watch(self._hear_source)
        self._destination.host.watch(self._hear_destination)
        status = self._source.control.status()
        if status in _OVER:
            raise StateError(
                f"the source's QEMU says '{status}': nothing goes on",
                side="source",
                cure="if the guest runs here, destroy the paused domain on the destination; else look at QEMU's log there",
            )
        rejoin = self._prepare_rejoin()
        self._pause.read_on_the_way()
        self._destination.half()  # so that no connection is opened while the guest stands still
        with self._destination.seat.domain() as dom:
            if self._has_run_there or monitor.is_running(dom):
                self._starter.hear_resumed()
        if self._may_run_there and not self._still_loads():
            self._starter.assume_run()
        self._see(status)
        if status == Status.POSTCOPY_PAUSED and self._resumed is not None:
            rejoin.assume_resumed(time.time() - self._resumed)
        in_background(self._run)

    def _still_loads(self) -> bool:
        told = self._destination.ask_vcpus()
        return told is not None and told[0] == "inmigrate"

    def _see(self, status: str) -> None:
        """What the events have said so far; the destination's QEMU may not answer."""
        info = self._destination.ask_migration() or {}
        if info.get("status"):
            there = str(info["status"])
            self._course.note(Side.DESTINATION, there)
            self._sink(StatusSeen(Side.DESTINATION, there))
        self._course.note(Side.SOURCE, status)
        self._sink(StatusSeen(Side.SOURCE, status))

    def _migrate(self) -> None:
        self._pulse.start()
        self._land()
