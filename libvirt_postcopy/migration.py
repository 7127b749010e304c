"""The core: decides what to do next in one migration, without doing any of it.

Theory of operation
===================

:class:`Migration` is fed events with the time at which each was seen, and answers with actions.  It never
reads a clock, waits, or calls libvirt: whoever runs it carries the actions out, feeds back what came of
them, and calls :meth:`Migration.tick` no later than :meth:`Migration.deadline`.  The same object serves a
live migration, a replay and a simulation.

The switch is asked for once the policy says so, and then *verified*: ``migrate-start-postcopy`` succeeds as
soon as QEMU has noted the wish, which takes effect at a later moment, or never when it came too early or
too late.  So after an accepted request the source is looked at, and asked again if nothing has come of it.
Asking twice is harmless (QEMU ignores it); a migration that completes as pre-copy meanwhile is a good end.

A request whose answer is lost counts as accepted.  Once QEMU may have noted a switch nothing is aborted any more,
even if the source still seems to be in pre-copy and later requests are refused: ``migrate_cancel`` in the instant of
the switch costs the guest with QEMU before 10.0, and no look can be as late as the abort itself.  libvirt refuses to
abort in post-copy, but learns of the switch later than QEMU does.

Statistics are read every :data:`POLL_S` where the policy needs them or somebody watches, and once right after
the switch.  Where QEMU announces its passes a policy need not read: a QEMU whose link is full may answer only at
the end of a pass, and a switch that is due at that moment would have to wait for the answer.  What a policy has decided
on the announcement of a pass before it comes is kept (:meth:`Migration.hasten`): whoever misses the moment between two
passes waits for the next, and half a millisecond of thinking can be too much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from libvirt_postcopy import events as ev
from libvirt_postcopy.actions import (
    Abort,
    Action,
    Note,
    ReadStats,
    Switch,
    VerifySwitch,
)
from libvirt_postcopy.errors import StateError
from libvirt_postcopy.events import Event, Half, Place, Side
from libvirt_postcopy.figures import Figures, Summary, SwitchRecord
from libvirt_postcopy.phases import Phase, Status, conclude, next_phase, place
from libvirt_postcopy.policy import Observation, OnPass, Policy, foresee
from libvirt_postcopy.recovery import Recovery
from libvirt_postcopy.stats import PassCount, Stats

__all__ = [
    "Migration",
    "ABORT_S",
    "IDLE_POLL_S",
    "POLL_S",
    "RETRY_S",
    "VERIFY_S",
    "WATCH_S",
]

POLL_S = 0.5
"""Between readings of the statistics: libvirt asks QEMU's monitor for each, so not faster than 2 Hz."""

WATCH_S = 5.0
"""How long somebody who has asked for statistics counts as watching."""

IDLE_POLL_S = 30.0
"""Between readings that neither the policy nor anybody else is known to need."""

VERIFY_S = 1.0
"""From an accepted switch to the look whether it came; doubles with each further attempt, up to 8 s."""

RETRY_S = 0.5
"""From a refusal that time may cure to the next attempt."""

ABORT_S = 5.0
"""From an accepted abort to the next, if the migration still goes on then."""

_LONGEST_VERIFY_S = 8.0
_TOLD_AT = 3
"""A refusal in a row that somebody should know of: the first may only mean that it was too early."""

_SOONEST_S = (
    0.01  # a policy that always wants to be asked again must not make the loop spin
)

_NOT_ENABLED = "post-copy is not enabled for this migration"
_UNCHECKED = (
    "the switch was sent without knowing whether the destination's daemon lives"
)

_CAN_ABORT = frozenset((Phase.PREPARING, Phase.PRECOPY))
_BEFORE_POSTCOPY = _CAN_ABORT | {Phase.SWITCHING}
_WENT_BACK = frozenset((Phase.GOING_BACK, Phase.CANCELLED, Phase.FAILED))
_WHOLE = frozenset((Place.SOURCE, Place.DESTINATION))
_STOPPED = frozenset(phase for phase in Phase if phase.is_split) | {
    Phase.SWITCHING,
    Phase.COMPLETED,
}


class _Precopy:
    """What was seen of pre-copy so far; made into an :class:`Observation` for the policy.

    Mutable, because :func:`dataclasses.replace` would delay a switch more than all the rest of its decision.
    """

    def __init__(self, since: float) -> None:
        self._since = since
        self._stats: Stats | None = None
        self._stats_at = 0.0
        self._passes = PassCount()
        self._announced_pass = 0
        self._saw_pass_one = False

    def announce(self, number: int) -> None:
        """QEMU says that this pass begins."""
        self._announced_pass = max(self._announced_pass, number)
        self._saw_pass_one |= number == 1

    def read(self, stats: Stats, asked_at: float) -> None:
        """Take a reading."""
        self._passes = self._passes.advance(stats)
        self._stats, self._stats_at = stats, max(asked_at, self._since)

    def observe(self, now: float) -> Observation:
        """Say what a policy sees."""
        return Observation(
            now,
            self._since,
            self._stats,
            self._stats_at,
            self._passes,
            self._announced_pass,
            self._saw_pass_one,
        )


class Migration:
    """One migration, seen from outside.

    :param policy: Says when to switch.
    :param now: The time at which it starts, on the caller's clock, in seconds.
    :param recovery: Brings it back together if it breaks; by default it is only looked at, for a verdict.
    """

    def __init__(
        self, policy: Policy, now: float, recovery: Recovery | None = None
    ) -> None:
        self._policy = policy
        self._recovery = recovery or Recovery(0.0, lambda: 0.0)
        self._figures = Figures(now)
        self._source = Phase.PREPARING
        self._destination = Phase.PREPARING
        self._precopy: _Precopy | None = None  # set when it begins
        self._switch: SwitchRecord | None = None
        self._wanted: str | None = None  # a switch asked for before pre-copy began
        self._cannot_switch = "" if policy.enables_postcopy else _NOT_ENABLED
        self._can_switch_by_policy = True
        self._verify_at: float | None = None
        self._retry_at: float | None = None
        self._look_again_at: float | None = None
        self._on_pass: OnPass | None = None  # decided beforehand
        self._is_switch_out = False  # sent, and not refused: it may come at any moment
        self._is_noted = False  # by QEMU, maybe: no later refusal takes that back
        self._abort_wanted = False
        self._abort_at: float | None = None
        self._has_died = False  # the source's QEMU, unasked
        self._is_attached = False  # somebody else has started it
        self._knows_destination = True
        self._began_at: float | None = None  # where we were not there
        self._failed_sides: set[Side] = set()
        self._needs_stats = True
        self._watched_until = now
        self._is_reading = False
        self._read_at = now
        self._asked_at = now
        self._is_over = False
        self._found: Place | None = None
        self._held_for = ""
        self._error: str | None = None

    # What is known

    @property
    def phase(self) -> Phase:
        """The source's phase, which is the migration's."""
        return self._source

    @property
    def place(self) -> Place:
        """Where the guest is; at the end, where it was found."""
        if self._found is not None:
            return self._found
        seen = place(self._source, self._destination)
        is_believed = seen is Place.SPLIT or not self._recovery.is_in_doubt
        return seen if is_believed else Place.UNKNOWN

    @property
    def stats(self) -> Stats | None:
        """The last reading."""
        return self._figures.stats

    @property
    def error(self) -> str | None:
        """What libvirt said when the operation failed."""
        return self._error

    @property
    def is_over(self) -> bool:
        """The operation has ended, well or not."""
        return self._is_over

    @property
    def downtime_ms(self) -> float | None:
        """From the source's STOP to the destination's RESUME; None until both were seen."""
        return self._figures.downtime_ms

    @property
    def cannot_switch(self) -> str:
        """Why no switch can be asked for, in this migration; empty if one can."""
        return self._cannot_switch

    @property
    def given_up(self) -> str:
        """Why a split guest was left as it is; empty if nothing was tried, or nothing had to be."""
        return self._recovery.reason

    @property
    def halves(self) -> tuple[Half, Half]:
        """What was found on the source and on the destination when recovery ended; else unknown."""
        return self._recovery.halves

    def summary(self) -> Summary:
        """The figures so far."""
        passes = self._precopy.observe(0.0).passes_done if self._precopy else 0
        return self._figures.summary(passes, self._switch)

    # Driving it

    def hasten(self, event: Event, now: float) -> Switch | None:
        """The switch that :meth:`feed` will ask for at this event, if that was decided before it came.

        It counts as sent from now on: carry it out at once, feed the event, and then what came of the switch.
        """
        switch = self._foreseen(event, now)
        self._is_switch_out |= switch is not None
        return switch

    def _foreseen(self, event: Event, now: float) -> Switch | None:
        order = self._on_pass
        if order is None or self._is_over or not isinstance(event, ev.PassSeen):
            return None
        if event.number < order.number or now < order.not_before:
            return None
        return Switch(order.reason, attempt=1)

    def feed(self, event: Event, now: float) -> list[Action]:
        """Take an event into account.

        :return: What to do now, in this order.
        :raises StateError: If a status was seen that cannot follow; nothing has changed then.
        """
        if self.is_over:
            return []
        return [*self._take(event, now), *self.tick(now)]

    def deadline(self) -> float | None:
        """When to call :meth:`tick` at the latest; None if nothing is due before the next event."""
        if self.is_over:
            return None
        times = [self._verify_at, self._retry_at, self._look_again_at, self._abort_at]
        if self._wants_readings:
            times.append(self._reading_due)
        times.append(self._recovery.deadline())
        return min((time for time in times if time is not None), default=None)

    def tick(self, now: float) -> list[Action]:
        """Do what has become due."""
        if self.is_over:
            return []
        return [
            *self._repeat_abort(now),
            *self._follow_switch(now),
            *self._decide(now),
            *self._recover(now),
            *self._read(now),
        ]

    # Events

    def _take(self, event: Event, now: float) -> list[Action]:
        take = _TAKE.get(type(event))
        # None: an event of a later version of ours, in a recording
        return [] if take is None else take(self, event, now)

    def _take_status_seen(self, event: ev.StatusSeen, now: float) -> list[Action]:
        if event.side is Side.DESTINATION:
            self._destination = next_phase(event.side, self._destination, event.status)
        else:
            self._enter(next_phase(event.side, self._source, event.status), now)
        self._recovery.hear(event, now)
        return []

    def _take_split_seen(self, event: ev.SplitSeen, now: float) -> list[Action]:
        seen = self._source if event.side is Side.SOURCE else self._destination
        if seen not in _BEFORE_POSTCOPY:
            return []
        return self._take(ev.StatusSeen(event.side, Status.POSTCOPY_ACTIVE), now)

    def _take_pass_seen(self, event: ev.PassSeen, now: float) -> list[Action]:
        foreseen = self._foreseen(event, now)
        if self._source is Phase.PREPARING:
            self._enter(Phase.PRECOPY, now)
        is_running = self._source is Phase.PRECOPY and not self._figures.is_stopped
        if self._precopy and is_running:  # QEMU announces one more at its stop
            self._precopy.announce(event.number)
        return [] if foreseen is None else self._ask(foreseen.reason, now)

    def _take_stats_seen(self, event: ev.StatsSeen, now: float) -> list[Action]:
        self._is_reading = False
        if event.stats is not None:
            self._figures.read(event.stats, self._asked_at)
            self._watch_flow(event.stats, now)
        # Counted from the answer: one that took long must not be followed by the next at once.
        self._read_at = now + POLL_S
        if event.stats is None:
            return []
        if self._figures.wants_reading:
            self._read_at = now
        self._learn_beginning(event.stats, now)
        if self._source is Phase.PREPARING and event.stats.memory_total:
            self._enter(Phase.PRECOPY, now)
        if self._source is Phase.PRECOPY and self._precopy is not None:
            self._precopy.read(event.stats, self._asked_at)
        return []

    def _take_stats_wanted(self, event: ev.StatsWanted, now: float) -> list[Action]:
        self._watched_until = now + WATCH_S
        return []

    def _take_stopped(self, event: ev.Stopped, now: float) -> list[Action]:
        if event.side is Side.SOURCE:
            self._figures.stop(now)
        return []

    def _take_resumed(self, event: ev.Resumed, now: float) -> list[Action]:
        if event.side is Side.SOURCE:
            self._figures.go_on()
        else:
            self._figures.resume(now)
            self._recovery.run_there(now)
        return []

    def _take_split_failed(self, event: ev.SplitFailed, now: float) -> list[Action]:
        actions = self._take(ev.SplitSeen(event.side), now)
        if event.side in self._failed_sides:  # a level: each reading tells it again
            return actions
        self._failed_sides.add(event.side)
        text = f"libvirt reports post-copy failed on the {event.side.value}"
        return [*actions, Note(text)]

    def _take_switch_requested(
        self, event: ev.SwitchRequested, now: float
    ) -> list[Action]:
        if self._cannot_switch:
            return [Note(self._cannot_switch)]
        if self._source is Phase.PREPARING:
            self._wanted = event.reason  # sent now, libvirt would refuse or lose it
            return []
        return self._ask(event.reason, now)

    def _take_switch_accepted(
        self, event: ev.SwitchAccepted, now: float
    ) -> list[Action]:
        if self._switch is None:
            return []
        attempts = self._await_switch(self._switch, now)
        if not event.unchecked or attempts > 1:
            return []
        return [Note(f"{_UNCHECKED}: {event.unchecked}")]

    def _take_switch_unanswered(
        self, event: ev.SwitchUnanswered, now: float
    ) -> list[Action]:
        if self._switch is None:
            return []
        attempts = self._await_switch(self._switch, now)
        if self._source is not Phase.PRECOPY or attempts > 1:
            return []
        so = ", so nothing is aborted" if self._abort_wanted else ""
        text = f"whether the switch to post-copy was accepted is not known{so}"
        return [Note(f"{text}: {event.message}")]

    def _await_switch(self, switch: SwitchRecord, now: float) -> int:
        """Look later whether it has come; say how many were sent."""
        self._is_noted = True
        attempts = self._count_attempt(switch)
        if self._source is Phase.PRECOPY:
            wait = VERIFY_S * 2 ** min(attempts - 1, 8)
            self._verify_at = now + min(wait, _LONGEST_VERIFY_S)
        return attempts

    def _count_attempt(self, switch: SwitchRecord) -> int:
        attempts = switch.attempts + 1
        self._switch = replace(switch, attempts=attempts)
        return attempts

    def _take_switch_refused(self, event: ev.SwitchRefused, now: float) -> list[Action]:
        self._is_switch_out = self._is_noted
        if self._switch is not None:
            self._count_attempt(self._switch)
        if self._source is not Phase.PRECOPY:
            return []
        if self._abort_wanted:
            return self._abort_instead(now)
        if event.is_final:
            self._switch = None
            self._cannot_switch = (
                f"the switch to post-copy was refused: {event.message}"
            )
            return [Note(self._cannot_switch)]
        self._retry_at = now + RETRY_S
        if self._switch is None or self._switch.attempts != _TOLD_AT:
            return []
        return [Note(f"the switch is refused, and asked for again: {event.message}")]

    def _take_switch_not_seen(
        self, event: ev.SwitchNotSeen, now: float
    ) -> list[Action]:
        if self._source is not Phase.PRECOPY or self._switch is None:
            return []
        if self._abort_wanted:  # too dangerous now, and there is no use in asking again
            self._verify_at = now + _LONGEST_VERIFY_S
            return []
        return [
            Note("the switch to post-copy was sent but has not come: asking again"),
            *self._ask_again(),
        ]

    def _take_abort_requested(
        self, event: ev.AbortRequested, now: float
    ) -> list[Action]:
        if self._abort_wanted:
            return []
        if not self._can_abort:
            return [
                Note(f"too late to abort: the migration is {self._source.value} by now")
            ]
        self._abort_wanted = True
        if self._is_noted:
            return [Note("the switch to post-copy may come at any moment: not aborted")]
        if self._is_switch_out:
            return [
                Note(
                    "the switch to post-copy has been asked for: aborted only if it is refused"
                )
            ]
        return self._abort(now)

    def _take_abort_refused(self, event: ev.AbortRefused, now: float) -> list[Action]:
        if self._abort_wanted and not self._is_switch_out:
            self._abort_at = now + RETRY_S
        return []

    def _take_remarked(self, event: ev.Remarked, now: float) -> list[Action]:
        return [Note(event.text)]

    def _take_finished(self, event: ev.Finished, now: float) -> list[Action]:
        self._figures.finish(event.stats)
        return []

    def _take_attached(self, event: ev.Attached, now: float) -> list[Action]:
        self._is_attached = True
        self._knows_destination = event.knows_destination
        self._recovery.attach(now)
        return []

    def _learn_beginning(self, stats: Stats, now: float) -> None:
        """A policy counts from the beginning of somebody else's migration too."""
        if self._is_attached and self._began_at is None and stats.elapsed_ms:
            self._began_at = now - stats.elapsed_ms / 1000

    def _take_ended(self, event: ev.Ended, now: float) -> list[Action]:
        if event.error is not None and self._recovery.is_past(event.call):
            return []
        self._error = event.error
        found = conclude(self.place, event, has_died=self._has_died)
        if found in _WHOLE:
            self._end(found, now)
            return []
        self._recovery.source_qemu = event.qemu or self._recovery.source_qemu
        self._recovery.begin(now)
        if event.here.is_split or event.there.is_split:
            self._enter_split(now)
        return []

    def _take_died(self, event: ev.Died, now: float) -> list[Action]:
        if event.side is Side.SOURCE:
            self._has_died = True
        else:
            self._recovery.die_there(now)
        return []

    def _take_looked(self, event: ev.Looked, now: float) -> list[Action]:
        if event.stats is not None:
            self._learn_beginning(event.stats, now)
        if self._recovery.is_on and event.half.is_split:
            self._enter_split(now)
        if event.side is Side.SOURCE and event.status is not None:
            # A look may be older than what an event has told.
            with suppress(StateError):
                self._enter(next_phase(event.side, self._source, event.status), now)
        if event.stats is not None:
            self._figures.read(event.stats, now)
            # Before the switch too: what goes on without us may be far from it.
            stats = event.stats
            self._recovery.flow(stats.memory_sent, stats.postcopy_requests, now)
        self._recovery.look(event, now)
        if self._is_completed_unseen(event):
            self._end(Place.DESTINATION, now)
        return []

    def _is_completed_unseen(self, event: ev.Looked) -> bool:
        """The source has said that all is sent, and is rid of the guest; nobody can look at the destination."""
        if self._knows_destination or event.side is Side.DESTINATION:
            return False
        is_rid = event.half.is_absent
        return is_rid and self._source is Phase.COMPLETED

    def _take_pause_refused(self, event: ev.PauseRefused, now: float) -> list[Action]:
        return self._recovery.refuse_pause(event.message)

    def _take_switch_held(self, event: ev.SwitchHeld, now: float) -> list[Action]:
        self._is_switch_out = self._is_noted
        if self._source is not Phase.PRECOPY:
            return []
        if self._abort_wanted:
            return self._abort_instead(now)
        self._retry_at = now + RETRY_S
        if event.reason == self._held_for:
            return []
        self._held_for = event.reason
        return [Note(f"the switch to post-copy waits: {event.reason}")]

    def _recover(self, now: float) -> list[Action]:
        actions = self._recovery.tick(now)
        if self._recovery.found is not None:
            self._end(self._recovery.found, now)
        return actions

    def _watch_flow(self, stats: Stats, now: float) -> None:
        if self._source.is_split:
            self._recovery.flow(stats.memory_sent, stats.postcopy_requests, now)

    def _enter_split(self, now: float) -> None:
        """libvirt says that a host has half of the guest, though no event has told of the switch."""
        if not (self._source.is_split or self._source is Phase.COMPLETED):
            self._enter(Phase.POSTCOPY, now)

    def _end(self, found: Place, now: float) -> None:
        self._is_over = True
        self._figures.end(now)
        self._source, self._found = self._final_phase(found), found

    def _final_phase(self, found: Place) -> Phase:
        if found is Place.DESTINATION:
            return Phase.COMPLETED
        if found is Place.LOST:
            return Phase.LOST
        if found is Place.SOURCE:
            return Phase.CANCELLED if self._abort_wanted else Phase.FAILED
        is_known = self._source.is_split or found is Place.UNKNOWN
        return self._source if is_known else Phase.POSTCOPY

    # Moves

    def _enter(self, phase: Phase, now: float) -> None:
        if phase is self._source:
            return
        self._source = phase
        if phase is Phase.PRECOPY:
            self._precopy = _Precopy(now if self._began_at is None else self._began_at)
        else:
            self._verify_at = self._retry_at = self._look_again_at = None
        if phase is Phase.POSTCOPY:
            self._record_switch(now)

    @property
    def _has_seen_precopy(self) -> bool:
        """Not if somebody else's migration had switched before; pages have been asked for then."""
        if not self._is_attached:
            return True
        has_asked = self.stats is not None and bool(self.stats.postcopy_requests)
        return self._precopy is not None and not has_asked

    def _record_switch(self, now: float) -> None:
        """Note the first time only: after a recovery the source is in post-copy again."""
        ms = self._figures.ms(now)
        was_seen = self._has_seen_precopy
        reason = "asked for by another client" if was_seen else "it came before this"
        record = self._switch or SwitchRecord(reason, ms)
        if record.took_effect_ms is None:
            self._switch = replace(record, took_effect_ms=ms)
            self._figures.switch(now, was_seen=was_seen)
            self._read_at = now  # how much was sent before?

    def _decide(self, now: float) -> list[Action]:
        """Ask the policy, unless a switch or an abort is under way."""
        self._on_pass = None
        if self._source is not Phase.PRECOPY or self._precopy is None:
            return []
        if self._switch or self._abort_wanted or self._cannot_switch:
            self._look_again_at = None
            self._needs_stats = False
            return []
        if self._wanted is not None:
            return self._ask(self._wanted, now)
        if not self._can_switch_by_policy:
            return []
        try:
            seen = self._precopy.observe(now)
            decision = self._policy.decide(seen)
            on_pass = foresee(self._policy, seen)
        except Exception as error:  # a policy of the caller's must not end the loop
            self._can_switch_by_policy = self._needs_stats = False
            return [Note(f"the policy failed and is not asked again: {error!r}")]
        self._needs_stats = decision.needs_stats
        if decision.look_again_at is None:
            self._look_again_at = None
        else:
            self._look_again_at = max(decision.look_again_at, now + _SOONEST_S)
        if decision.reason is not None:
            return self._ask(decision.reason, now)
        if self._can_ask and not self._figures.is_stopped:
            self._on_pass = on_pass
        return []

    @property
    def _can_ask(self) -> bool:
        """A switch makes sense, as far as either side has said."""
        is_here = self._source is Phase.PRECOPY and self.place is Place.SOURCE
        return is_here and not self._abort_wanted

    def _ask(self, reason: str, now: float) -> list[Action]:
        if not self._can_ask or self._switch:
            return []
        self._look_again_at = None
        self._needs_stats = False
        self._switch = SwitchRecord(reason, self._figures.ms(now))
        return self._ask_again()

    def _ask_again(self) -> list[Action]:
        if not self._can_ask or self._switch is None:
            return []
        self._is_switch_out = True
        return [Switch(self._switch.reason, attempt=self._switch.attempts + 1)]

    def _follow_switch(self, now: float) -> list[Action]:
        if self._verify_at is not None and now >= self._verify_at:
            self._verify_at = None
            return [VerifySwitch()]
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            return self._ask_again()
        return []

    @property
    def _can_abort(self) -> bool:
        """The switch is not under way, as far as either side has said."""
        return self._source in _CAN_ABORT and self.place is Place.SOURCE

    @property
    def can_be_left_by_its_manager(self) -> bool:
        """Whether the guest survives if the client that manages the migration goes away now.

        From the stop of its vCPUs to their start on the destination it does not: without the client's next
        call libvirt destroys the destination, and the source cannot go back.
        """
        if self.is_over or self._recovery.is_on or self._figures.is_resumed:
            return True
        is_stopped = self._figures.is_stopped or self._source in _STOPPED
        return not (is_stopped or self._is_switch_out)

    def _abort_instead(self, now: float) -> list[Action]:
        """Abort in place of a switch that was not taken, unless one before it may come yet."""
        if self._is_noted:
            self._verify_at = now + _LONGEST_VERIFY_S
            return []
        self._switch = None
        return self._abort(now)

    def _abort(self, now: float) -> list[Action]:
        """Abort, and see to it that it is done again if it has been accepted without effect."""
        self._abort_at = None
        if not self._can_abort:
            return [Note("the abort came too late")]
        self._abort_at = now + ABORT_S
        return [Abort()]

    def _repeat_abort(self, now: float) -> list[Action]:
        if self._abort_at is None or now < self._abort_at:
            return []
        self._abort_at = None
        return [] if self._source in _WENT_BACK else self._abort(now)

    @property
    def _wants_readings(self) -> bool:
        return not (self._is_reading or self._source.is_final)

    @property
    def _reading_due(self) -> float:
        """When to read next: at once where it decides or is looked at, else seldom."""
        is_idle = self._source is Phase.PRECOPY and not self._needs_stats
        is_idle |= self._source is Phase.SWITCHING  # the guest stands still meanwhile
        if not is_idle or self._read_at <= self._watched_until:
            return self._read_at
        return self._read_at + IDLE_POLL_S

    def _read(self, now: float) -> list[Action]:
        if not self._wants_readings or now < self._reading_due:
            return []
        self._is_reading = True
        self._asked_at = now
        self._read_at = now + POLL_S
        return [ReadStats()]


#: A table, because :func:`functools.singledispatchmethod` makes two functions at each call, and a switch waits.
_TAKE: Mapping[type[Event], Callable[[Migration, Any, float], list[Action]]] = {
    ev.StatusSeen: Migration._take_status_seen,
    ev.SplitSeen: Migration._take_split_seen,
    ev.PassSeen: Migration._take_pass_seen,
    ev.StatsSeen: Migration._take_stats_seen,
    ev.StatsWanted: Migration._take_stats_wanted,
    ev.Stopped: Migration._take_stopped,
    ev.Resumed: Migration._take_resumed,
    ev.SplitFailed: Migration._take_split_failed,
    ev.SwitchRequested: Migration._take_switch_requested,
    ev.SwitchAccepted: Migration._take_switch_accepted,
    ev.SwitchRefused: Migration._take_switch_refused,
    ev.SwitchUnanswered: Migration._take_switch_unanswered,
    ev.SwitchNotSeen: Migration._take_switch_not_seen,
    ev.AbortRequested: Migration._take_abort_requested,
    ev.AbortRefused: Migration._take_abort_refused,
    ev.Attached: Migration._take_attached,
    ev.Looked: Migration._take_looked,
    ev.PauseRefused: Migration._take_pause_refused,
    ev.SwitchHeld: Migration._take_switch_held,
    ev.Finished: Migration._take_finished,
    ev.Remarked: Migration._take_remarked,
    ev.Died: Migration._take_died,
    ev.Ended: Migration._take_ended,
}
