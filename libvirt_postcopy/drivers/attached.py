"""A migration that another client has started: its call is not ours, or nobody's any more."""

from __future__ import annotations

from dataclasses import replace

from libvirt_postcopy.drivers.native import NativeDriver
from libvirt_postcopy.drivers.runner import Sink
from libvirt_postcopy.events import AbortRefused, Attached, Event, Half, Looked, Side

__all__ = ["AttachedDriver", "NO_DESTINATION", "NOT_THERE"]

NO_DESTINATION = (
    "the URI of its destination is needed to resume it, and nothing tells it"
)

NOT_THERE = "the guest is not on the destination that is named: this migration went to another host"


class AttachedDriver(NativeDriver):
    """Looks and listens, switches, and resumes what has broken; its end is seen by looks.

    A target without URI and connection: what can be seen from the source is all that there is.
    """

    is_attached = True

    def begin(self, sink: Sink) -> None:
        """Listen; see :class:`libvirt_postcopy.drivers.runner.Driver`."""
        self._was_sent = self._has_begun = True
        self._listen(sink)
        sink(Attached(knows_destination=self.knows_destination))

    @property
    def knows_destination(self) -> bool:
        """Whether it can be looked at."""
        return (self._target.uri or self._target.connection) is not None

    def abort(self) -> Event | None:
        """Never: it is not ours."""
        return AbortRefused("another client has started it")

    def look(self, side: Side) -> Looked:
        """Look at one host."""
        if side is Side.SOURCE:
            return super().look(side)
        if not self.knows_destination:
            return Looked(side, Half.UNKNOWN, obstacle=NO_DESTINATION)
        looked = super().look(side)
        if looked.half is Half.WHOLE:
            self.domain, _ = self._destination.look_up()
        return looked

    def _doubt(self, found: Looked) -> Looked:
        doubted = super()._doubt(found)
        if doubted.half is found.half:
            return doubted
        return replace(doubted, obstacle=NOT_THERE)

    def _connect_destination(self) -> None:
        if self.knows_destination:
            super()._connect_destination()
        else:
            self._cannot_ask = "nothing tells which host it is"
            self._connected.set()
