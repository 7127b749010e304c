"""A migration without libvirt's migration job: QEMU is driven through the monitor passthrough on both hosts.

Theory of operation
===================

libvirt starts a domain on the destination whose QEMU waits (``-incoming defer``) and whose vCPUs do not run; it holds
both domains for ordinary ones, so their monitors can be reached throughout.  Capabilities and parameters are set on
both and read back, the destination listens, the source migrates (``setup``).  The destination's vCPUs are started when
the guest is there (``landing``).

Up to the switch every failure goes back (``undoing``): what still goes on is cancelled, the source's vCPUs are started
if QEMU had stopped them, the destination's domain, which is ours, is destroyed, and what was set is put back.  Not so
where the source has sent all or has ended, and the destination may have all: it is the only guest there is.  From the
switch on (``switching``) neither half is touched until both QEMUs say ``completed``; then the source's shell is
destroyed (``aftermath``).  ``migrate_cancel`` is never sent after the switch.  One way leads back from there: if the
destination has ended before the guest ran, all of its memory is on the source.  A migration that breaks gets a new
channel (``rejoin``).

The client is needed until the end: nobody else starts the destination's vCPUs, or removes the source's shell.  What it
has left, if it was killed, another one picks up (``picked_up``).
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import libvirt_postcopy.vir.calls as vir
from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.drivers.aftermath import Aftermath
from libvirt_postcopy.drivers.course import (
    SPLIT,
    Course,
    Ends,
    UsersPause,
    in_background,
)
from libvirt_postcopy.drivers.ends import End, half_of_destination, half_of_source
from libvirt_postcopy.drivers.host import Connect, Pulse
from libvirt_postcopy.drivers.landing import Landing, Starter
from libvirt_postcopy.drivers.native import Target
from libvirt_postcopy.drivers.rejoin import Rejoin
from libvirt_postcopy.drivers.runner import Sink
from libvirt_postcopy.drivers.setup import Order, Setup
from libvirt_postcopy.drivers.switching import Switching
from libvirt_postcopy.drivers.undoing import Undoing
from libvirt_postcopy.drivers.wishes import Wishes, check_flags, check_params
from libvirt_postcopy.errors import LibvirtError, PostcopyError
from libvirt_postcopy.events import (
    Ended,
    Event,
    Finished,
    Half,
    Looked,
    PauseRefused,
    Remarked,
    Resumed,
    Side,
    SplitSeen,
    StatsSeen,
    StatusSeen,
)
from libvirt_postcopy.journal import Journal
from libvirt_postcopy.obstacles import PAUSE_TOO_LATE
from libvirt_postcopy.phases import Status
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.vir.events import ensure_event_loop
from libvirt_postcopy.vir.protocols import Domain

__all__ = ["QemuDriver"]

LOG = logging.getLogger("libvirt_postcopy.drivers")

_HAND_OVER_S = 4.0
"""How long the end is tried to be tidied up when the guest has arrived."""

_RETRY_S = 0.5


class QemuDriver:
    """Carries a migration out by QEMU's own commands.

    :param flags: libvirt's own only; see :mod:`libvirt_postcopy.drivers.wishes` for those that it can do.
    :param params: Typed parameters of ``virDomainMigrate3``; likewise.
    :param connect: Opens the connections of ours.
    :param recover_bandwidth: Post-copy's limit in MiB/s from the first recovery on; None keeps the one before.
    :param run: A name that no other run has, for what is created on the destination.
    :param journal: Is told of each call before it is made.
    """

    name = "qemu"
    is_attached = False
    is_peer2peer = False

    def __init__(
        self,
        dom: Domain,
        target: Target,
        params: Mapping[str, Any],
        flags: MigrateFlags,
        connect: Connect = vir.open_connection,
        *,
        wishes: Wishes | None = None,
        recover_bandwidth: int | None = None,
        run: str = "",
        journal: Journal | None = None,
    ) -> None:
        check_flags(flags)
        check_params(params)
        source, given = dom.connect(), target.connection
        there = target.uri if given is None else vir.uri_of(given)
        order = Order(
            uuid=dom.UUIDString(),
            name=dom.name(),
            there=there,
            flags=flags,
            params=dict(params),
            wishes=wishes or Wishes(),
            run=run or uuid.uuid4().hex,
        )
        self._journal = journal
        here = vir.uri_of(source)
        self._source = End(Side.SOURCE, order.uuid, here, connect, source)
        self._destination = End(Side.DESTINATION, order.uuid, there, connect, given)
        self._course = Course()
        self._ends = Ends(self._source, self._destination, self._course)
        self._pause = UsersPause(self._source, self._course)
        self._setup = Setup(order, self._ends)
        tell = (lambda: None) if journal is None else journal.may_run
        self._starter = Starter(self._ends, self._pause, tell)
        self._landing = Landing(self._ends, self._starter)
        self._pulse = Pulse(self._destination.host)
        self._switching = Switching(self._ends, self._pulse, journal)
        self._aftermath = Aftermath(
            order, self._ends, self._setup, self._starter, self._landing
        )
        self._undoing = Undoing(
            order,
            self._ends,
            self._setup,
            self._switching,
            self._pause,
            self._starter,
            self._landing,
            self._aftermath,
        )
        self._recover_bandwidth = recover_bandwidth
        self._rejoin: Rejoin | None = None
        self._sink: Sink = lambda event: None
        self._has_begun = False  # QEMU's answers are about this migration
        self._has_sent_all = False  # at the last reading
        self.domain: Domain | None = None  #: on the destination, once it is there
        self.error: PostcopyError | None = None

    @property
    def blocktime(self) -> Mapping[str, Any]:
        """QEMU's own names and units."""
        return self._aftermath.blocktime

    @property
    def notes(self) -> list[str]:
        """What did not work although the guest has moved."""
        return self._aftermath.notes

    # Driver

    def begin(self, sink: Sink) -> None:
        """Prepare and start the migration; see :class:`libvirt_postcopy.drivers.runner.Driver`."""
        self._sink = sink
        ensure_event_loop()
        self._source.host.renew()
        self._source.host.watch(self._hear_source)
        in_background(self._run)

    def switch(self) -> Event:
        """Send ``migrate-start-postcopy``, if the destination lives."""
        return self._switching.switch()

    def verify_switch(self) -> Event:
        """Ask the source's QEMU."""
        return self._switching.verify()

    def read_stats(self) -> list[Event]:
        """Read the source's statistics."""
        if not self._has_begun:  # QEMU still tells those of an earlier migration
            return [StatsSeen(None)]
        info = self._source.readings.migration()
        status = str(info.get("status", Status.NONE.value))
        self._course.note(Side.SOURCE, status)
        stats = Stats.from_query_migrate(info)
        self._has_sent_all = stats.has_sent_all
        seen: list[Event] = [StatsSeen(stats)]
        return [*seen, SplitSeen(Side.SOURCE)] if status in SPLIT else seen

    def abort(self) -> Event | None:
        """Send ``migrate_cancel``, but never after the switch."""
        return self._switching.abort()

    def look(self, side: Side) -> Looked:
        """Look at one host."""
        is_source = side is Side.SOURCE
        end = self._source if is_source else self._destination
        if not end.is_reachable():
            return Looked(side, Half.UNKNOWN)
        half = end.half()
        if half in (Half.GONE, Half.INACTIVE, Half.UNKNOWN):
            return Looked(side, half)
        info = end.ask_migration()
        if is_source:
            return self._look_at_source(half, info)
        return self._look_at_destination(half, info)

    def _look_at_source(self, half: Half, info: Mapping[str, Any] | None) -> Looked:
        if info is None:
            return Looked(Side.SOURCE, Half.UNKNOWN)
        status = str(info.get("status", Status.NONE.value))
        self._course.note(Side.SOURCE, status)
        if self._has_begun:  # or it speaks of an earlier migration
            self._landing.see(status)
        found = half_of_source(half, status, was_split=self._course.was_split)
        if found is Half.INACTIVE and not self._starter.is_settled.is_set():
            found = Half.SPLIT  # all is sent, but the guest runs nowhere yet
        stats = Stats.from_query_migrate(info)
        self._has_sent_all = stats.has_sent_all
        is_half = found.is_split
        told = (self._source.ask_vcpus() if is_half else None) or ("", 0)
        return Looked(Side.SOURCE, found, status, stats, self._obstacle(), *told)

    def _look_at_destination(
        self, half: Half, info: Mapping[str, Any] | None
    ) -> Looked:
        if info is not None and info.get("status"):
            self._course.note(Side.DESTINATION, str(info["status"]))
        status = self._course.status(Side.DESTINATION)
        if self._rejoin is not None:
            self._rejoin.nudge(status)
        found = half_of_destination(half, status)
        if found is Half.WHOLE and not self._starter.is_settled.is_set():
            found = Half.SPLIT
        return Looked(Side.DESTINATION, found)

    def _obstacle(self) -> str:
        """Why it must not be resumed."""
        late = "" if self._rejoin is None else self._rejoin.obstacle
        return self._setup.obstacle or late

    def pause(self) -> Event | None:
        """Make both QEMUs break the migration."""
        if self._rejoin is None:
            return PauseRefused("nothing has been sent yet")
        if self._has_sent_all:
            return PauseRefused(PAUSE_TOO_LATE)
        if self._journal is not None:
            self._journal.pause()
        try:
            self._rejoin.break_both()
        except PostcopyError as error:
            return PauseRefused(error.what)
        return None

    def resume(self) -> None:
        """Give the broken migration a new channel."""
        in_background(self._run_resume)

    def hand_over(self) -> None:
        """Finish what is left to do, and leave the destination's domain to whoever gets it."""
        self._note_left("what is left on the source may not be removed")
        end_at = time.monotonic() + _HAND_OVER_S
        while reason := self._aftermath.finish():
            if time.monotonic() >= end_at:
                text = f"the guest is on the destination, but not all is done: {reason}"
                self._aftermath.complain(text)
                break
            self._course.over.wait(_RETRY_S)
        self._note_left(reason)
        self._pulse.stop()
        self.domain = self._destination.host.domain_for_caller()
        self._destination.host.release()

    def close(self) -> None:
        """Listen no more."""
        self._course.over.set()
        self._pulse.stop()
        self._source.close()
        self._destination.close()

    # What is heard

    def _hear_source(self, event: Event) -> None:
        self._pause.hear(event)
        if self._course.was_sent:  # or it speaks of what went on before
            if isinstance(event, StatusSeen):
                self._course.note(event.side, event.status)
            self._sink(event)

    def _hear_destination(self, event: Event) -> None:
        if isinstance(event, StatusSeen):
            self._course.note(event.side, event.status)
        if isinstance(event, Resumed):
            self._starter.hear_resumed()
        self._sink(event)

    # The call

    def _run(self) -> None:
        error = _failure(self._migrate)
        if error is not None and self._landing.has_landed_alone():
            LOG.warning("the guest is on the destination, and only there: %s", error)
            error = _failure(self._land_alone)
        self._end_with(error)

    def _run_resume(self) -> None:
        self._end_with(_failure(self._go_on))

    def _migrate(self) -> None:
        setup = self._setup
        self._pause.read()
        setup.check_source()
        setup.connect()
        self._destination.host.watch(self._hear_destination)
        self._note_start()
        setup.start_destination()
        uri = setup.listen()
        setup.set_up_source()
        self._prepare_rejoin()
        with self._switching.beginning():
            self._course.forget_source()
            self._course.was_sent = True
        self._pulse.start()
        self._source.control.migrate(uri)
        self._has_begun = True
        self._land()

    def _prepare_rejoin(self) -> Rejoin:
        self._rejoin = Rejoin(
            self._ends,
            self._setup.channel,
            is_frail=self._setup.is_frail,
            bandwidth=self._recover_bandwidth,
            tell=lambda text: self._sink(Remarked(text)),
        )
        return self._rejoin

    def _note_start(self) -> None:
        if self._journal is None:
            return
        host = None
        with suppress(LibvirtError), self._source.host.line() as connection:
            host = vir.host_uuid(connection)
        self._journal.start(source_host=host, is_peer2peer=False)

    def _note_resume(self) -> None:
        if self._journal is not None:
            self._journal.resume(is_peer2peer=False)

    def _note_left(self, what: str) -> None:
        if self._journal is not None:
            self._journal.leave(what)

    def _go_on(self) -> None:
        assert self._rejoin is not None, "nothing is resumed that was not sent"
        self._rejoin.require_over()
        self._rejoin.go_on(self._landing, self._note_resume)
        self._conclude()

    def _land(self) -> None:
        self._landing.follow()
        self._conclude()

    def _land_alone(self) -> None:
        self._landing.confirm()
        self._conclude()

    def _conclude(self) -> None:
        if self._course.over.is_set():
            return
        info = self._source.ask_migration()
        if info is not None:
            self._sink(Finished(Stats.from_query_migrate(info)))
        self._aftermath.finish()  # or at the hand-over

    def _end_with(self, error: PostcopyError | None) -> None:
        if self._course.over.is_set():
            return  # nobody listens, and nothing may be undone unseen
        self.error = error
        if error is None:
            self._sink(Ended(here=Half.INACTIVE, there=Half.WHOLE))
            return
        here = there = Half.UNKNOWN
        try:
            here, there = self._undoing.undo(error)
        except Exception:  # a bug of ours must not leave the caller waiting
            LOG.exception("it was not undone")
        if self._course.was_sent:
            self._sink(Ended(error=str(error), here=here, there=there))
        else:
            self._sink(Ended(error=str(error), was_sent=False))


def _failure(call: Callable[[], None]) -> PostcopyError | None:
    try:
        call()
    except PostcopyError as error:
        return error
    except Exception as error:  # a bug of ours must not leave the caller waiting
        LOG.exception("the driver failed unexpectedly")
        return PostcopyError(f"unexpected: {error!r}")
    return None
