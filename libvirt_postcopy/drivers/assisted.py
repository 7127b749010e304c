"""libvirt's own migration, with a second monitor at the destination's QEMU for what libvirt does not know.

That is ``postcopy-blocktime``, and the way round a daemon that cannot resume: that of libvirt 11.2 and 11.3 crashes
when it is the destination, and none is answered by a QEMU whose main loop waits for a page.  There the destination's
QEMU is told to wait by the second monitor, and the source's to go on through libvirt's passthrough.  libvirt hears from
both what they do, and completes the migration, which nobody's call waits for any more.

Of a break after that libvirt may take no note on the destination, and then refuses to resume.  So where the source has
waited for a while, QEMU itself is asked there, and that way is gone again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import libvirt_postcopy.vir.calls as vir
from libvirt_postcopy.constants import MigrateFlags, MigrateParam
from libvirt_postcopy.drivers.channel import Channel, channel_of, host_of
from libvirt_postcopy.drivers.connecting import Connecting
from libvirt_postcopy.drivers.host import Connect, Host
from libvirt_postcopy.drivers.native import NativeDriver, Target
from libvirt_postcopy.drivers.second_monitor import SecondMonitor, Told, way_to
from libvirt_postcopy.drivers.wishes import Wishes
from libvirt_postcopy.errors import (
    LibvirtError,
    NotSupportedError,
    PostcopyError,
    UsageError,
)
from libvirt_postcopy.events import (
    Event,
    Half,
    Looked,
    Remarked,
    Side,
    StatusSeen,
)
from libvirt_postcopy.journal import Journal
from libvirt_postcopy.obstacles import crash_of
from libvirt_postcopy.phases import Status
from libvirt_postcopy.qmp.commands import MonitorStuck, Qemu
from libvirt_postcopy.qmp.passthrough import Passthrough
from libvirt_postcopy.units import MIB
from libvirt_postcopy.vir import monitor
from libvirt_postcopy.vir.protocols import Connection, Domain

__all__ = ["AssistedDriver"]

_GO_ON_S = 10.0
"""How long the source may take to leave ``postcopy-paused`` when it was told to go on."""

_LOOK_S = 0.05

_NUDGE_S = 5.0
"""How long a destination, or its daemon, may fail to notice what its source has noticed, until something is done."""

_SILENT_S = 150.0
"""How long a resume is put off where the second monitor is silent: where the link has been dead for long, the kernel may take
two minutes more until it tries again.  By libvirt a resume may hang then, and for good."""

_FRESH_S = 2.0
"""A look at the source that is older does not say that the link is still broken."""


class AssistedDriver(NativeDriver):
    """A :class:`NativeDriver` that has more to ask of the destination's QEMU than libvirt would.

    :param wishes: Of which ``blocktime`` and ``monitor_dir`` are of this driver.
    """

    def __init__(
        self,
        dom: Domain,
        target: Target,
        params: Mapping[str, Any],
        flags: MigrateFlags,
        connect: Connect = vir.open_connection,
        *,
        wishes: Wishes,
        recover_bandwidth: int | None = None,
        journal: Journal | None = None,
    ) -> None:
        super().__init__(
            dom,
            target,
            params,
            flags,
            connect,
            recover_bandwidth=recover_bandwidth,
            journal=journal,
        )
        given = target.connection
        self._there_uri = target.uri if given is None else vir.uri_of(given)
        way = way_to(self._there_uri, wishes.monitor_dir)
        self._second = SecondMonitor(way, counts_blocktime=wishes.blocktime)
        self._does_without = False
        self._must_go_round = False
        self._silent_since: float | None = None  # the second monitor, at each resume
        # The first and the last look that has seen the source wait, with no resume or other look since.
        self._broken: tuple[float, float] | None = None
        self._connecting = Connecting(lambda text: self._sink(Remarked(text)))

    @property
    def notes(self) -> list[str]:
        """What could not be had although the guest has moved."""
        return self._second.notes

    @property
    def blocktime(self) -> Mapping[str, Any]:
        """What QEMU has counted, by its own names and units."""
        return self._second.blocktime

    def look(self, side: Side) -> Looked:
        """Look at one host; a resume that its daemon does not survive is no obstacle here, nor one that cannot reach QEMU."""
        looked = super().look(side)
        if side is Side.SOURCE:
            self._connecting.hear(looked.status)
            self._note_break(looked)
            return looked
        if not looked.half.is_split or not self._second.is_there:
            return looked
        closer = self._look_closer(looked)
        is_untold = closer.half is not looked.half
        crashes = bool(looked.obstacle) and self._would_crash()
        self._must_go_round = crashes or is_untold
        return replace(closer, obstacle="") if crashes else closer

    def _note_break(self, source: Looked) -> None:
        if source.status != Status.POSTCOPY_PAUSED:
            self._broken = None
            return
        now, broken = time.monotonic(), self._broken
        self._broken = (now if broken is None else broken[0], now)

    def _look_closer(self, looked: Looked) -> Looked:
        """See what libvirt does not tell of a destination whose source waits, and tell it of the break if need be."""
        if self._broken is None:
            return looked
        try:
            told = self._second.look()
        except MonitorStuck:
            return looked  # nothing can be done from here
        looked = replace(looked, stands_still=told.stands_still)
        if looked.half is not Half.SPLIT or not self._waits_for_long():
            return looked
        if told.status == Status.POSTCOPY_PAUSED:
            return replace(looked, half=Half.SPLIT_FAILED)
        # What recovers, or may just begin to, must not be told: QEMU dies of a break then.
        if self._connecting.may_be:
            return looked
        if told.status == Status.POSTCOPY_ACTIVE or told.stands_still:
            self._second.pause()
        return looked

    def _waits_for_long(self) -> bool:
        """Whether the source does, and did so just now: or what flows would be broken."""
        if (broken := self._broken) is None:
            return False
        since, until = broken
        return until - since >= _NUDGE_S and time.monotonic() - until < _FRESH_S

    def pause(self) -> Event | None:
        """Make both QEMUs break the migration: on a link that swallows packets neither hears of the other's."""
        refused = super().pause()
        if refused is None:
            self._second.pause()
        return refused

    def _hear_source(self, event: Event) -> None:
        if isinstance(event, StatusSeen):
            self._connecting.hear(event.status)
        super()._hear_source(event)

    def hand_over(self) -> None:
        """Read the figures first: nobody asks that QEMU for anything yet."""
        self._second.read()
        super().hand_over()

    def close(self) -> None:
        """Listen no more."""
        self._second.close()
        super().close()

    def _would_crash(self) -> bool:
        try:
            with self._destination.line() as connection, vir.refusals("destination"):
                return bool(crash_of(connection.getLibVersion()))
        except LibvirtError:
            return False

    # The call

    def _prepared(self, dom: Domain) -> dict[str, Any]:
        if self._does_without:
            return super()._prepared(dom)
        wanted = self._second.offer(dom, self._params, self._flags)
        if not self._second.is_there:
            self._do_without()
        self._second.begin()
        return wanted

    def _do_without(self) -> None:
        self._does_without = True
        if self._connected.is_set():
            self._remark()

    def _remark(self) -> None:
        """What nobody could resume is mended from here."""
        if self._does_without:
            super()._remark()

    def _migrate(self) -> None:
        given = self._params
        try:
            super()._migrate()
        except LibvirtError as error:
            if not self._second.is_blamed(error):
                raise
            self._second.forgo(f"QEMU cannot make the socket: {error.what}")
            self._do_without()
            self._params = given
            super()._migrate()

    # The way round

    def _resume(self, lent: list[tuple[Host, Connection]]) -> None:
        self._connecting.require_over()
        # What is seen from here on is of another time, and that the source has waited says nothing any more.
        must_go_round, self._broken = self._must_go_round, None
        told = self._second.look()
        if self._is_put_off(told) or (must_go_round and told.is_silent):
            text = "the second monitor, which may be needed, is silent: waiting for it"
            raise PostcopyError(text, side="destination")
        if not (must_go_round or told.stands_still):
            super()._resume(lent)
            return
        try:
            self._go_round(lent)
        except (UsageError, NotSupportedError) as error:
            # These mean that nothing was begun, and the guest is split.
            raise PostcopyError(error.what, side=error.side) from error
        # A call that returned well would mean that the guest has arrived; this one does not wait for it.
        raise PostcopyError("QEMU goes on with it, and no call waits for its end")

    def _is_put_off(self, told: Told) -> bool:
        """Whether the second monitor is silent, and may still be heard."""
        if not told.is_silent:
            self._silent_since = None
            return False
        if self._silent_since is None:
            self._silent_since = time.monotonic()
        return time.monotonic() - self._silent_since < _SILENT_S

    def _go_round(self, lent: list[tuple[Host, Connection]]) -> None:
        connection = self._source.open()
        lent.append((self._source, connection))
        dom = vir.find_domain(connection, self._uuid)
        if dom is None:
            raise PostcopyError("the guest is gone from the source", side="source")
        self._way.prove(dom)
        if self._journal is not None:
            self._journal.resume(is_peer2peer=self.is_peer2peer)
        source = Qemu(Passthrough(lambda: nullcontext(dom), "source"))
        channel = self._channel()
        if self._recover_bandwidth is not None:
            limit = {"max-postcopy-bandwidth": self._recover_bandwidth * MIB}
            source.set_parameters(limit)
        port = self._second.recover(channel)
        uri = channel.connecting_uri(port)
        with self._connecting.trying(uri):
            source.migrate(uri, resume=True)
        self._await_flow(source)
        self._way.got_there()

    def _await_flow(self, source: Qemu) -> None:
        """Wait until the source has begun to go on: until then it looks as if it were to be resumed.

        :raises PostcopyError: If it does not.
        """
        end_at = time.monotonic() + _GO_ON_S
        while True:
            status = source.status()
            self._connecting.hear(status)
            if status not in _BEFORE:
                return
            if time.monotonic() >= end_at:
                raise PostcopyError("QEMU does not go on with it", side="source")
            time.sleep(_LOOK_S)

    def _channel(self) -> Channel:
        name = host_of(self._there_uri)
        uri = self._params.get(MigrateParam.VIR_MIGRATE_PARAM_URI)
        if not (name or uri):
            with self._destination.line() as connection:
                name = monitor.hostname(connection)
        address = self._params.get(MigrateParam.VIR_MIGRATE_PARAM_LISTEN_ADDRESS)
        return channel_of(
            name, migrate_uri=str(uri) if uri else None, listen_address=address
        )


_BEFORE = frozenset((Status.POSTCOPY_PAUSED, Status.POSTCOPY_RECOVER_SETUP))
