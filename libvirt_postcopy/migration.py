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

Statistics are read every :data:`POLL_S`, and once more right after the switch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatchmethod

from libvirt_postcopy import events as ev
from libvirt_postcopy.actions import (
    Abort,
    Action,
    Note,
    ReadStats,
    Switch,
    VerifySwitch,
)
from libvirt_postcopy.events import Event, Place, Side
from libvirt_postcopy.figures import Figures, Summary, SwitchRecord
from libvirt_postcopy.phases import Phase, Status, conclude, next_phase, place
from libvirt_postcopy.policy import Observation, Policy
from libvirt_postcopy.stats import Stats

__all__ = ["Migration", "POLL_S", "VERIFY_S", "RETRY_S"]

POLL_S = 0.5
"""Between readings of the statistics: libvirt asks QEMU's monitor for each, so not faster than 2 Hz."""

VERIFY_S = 1.0
"""From an accepted switch to the look whether it came; doubles with each further attempt, up to 8 s."""

RETRY_S = 0.5
"""From a refusal that time may cure to the next attempt."""

_LONGEST_VERIFY_S = 8.0
_SOONEST_S = (
    0.01  # a policy that always wants to be asked again must not make the loop spin
)

_CAN_ABORT = frozenset((Phase.PREPARING, Phase.PRECOPY))
_BEFORE_POSTCOPY = _CAN_ABORT | {Phase.SWITCHING}
_STOPPED = frozenset(phase for phase in Phase if phase.is_split) | {
    Phase.SWITCHING,
    Phase.COMPLETED,
}


class Migration:
    """One migration, seen from outside.

    :param policy: Says when to switch.
    :param now: The time at which it starts, on the caller's clock, in seconds.
    """

    def __init__(self, policy: Policy, now: float) -> None:
        self._policy = policy
        self._figures = Figures(now)
        self._source = Phase.PREPARING
        self._destination = Phase.PREPARING
        self._seen: Observation | None = None  # set when pre-copy begins
        self._switch: SwitchRecord | None = None
        self._wanted: str | None = None  # a switch asked for before pre-copy began
        self._can_switch = policy.enables_postcopy
        self._can_switch_by_policy = True
        self._verify_at: float | None = None
        self._retry_at: float | None = None
        self._look_again_at: float | None = None
        self._is_switch_out = False  # sent, and not refused: it may come at any moment
        self._abort_wanted = False
        self._abort_at: float | None = None
        self._failed_sides: set[Side] = set()
        self._is_reading = False
        self._read_at = now
        self._asked_at = now
        self._is_over = False
        self._found: Place | None = None
        self._error: str | None = None

    # What is known

    @property
    def phase(self) -> Phase:
        """The source's phase, which is the migration's."""
        return self._source

    @property
    def place(self) -> Place:
        """Where the guest is; at the end, where it was found."""
        return self._found or place(self._source, self._destination)

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
    def is_aborting(self) -> bool:
        """The caller has asked for an abort."""
        return self._abort_wanted

    @property
    def downtime_ms(self) -> float | None:
        """From the source's STOP to the destination's RESUME; None until both were seen."""
        return self._figures.downtime_ms

    def summary(self) -> Summary:
        """The figures so far."""
        passes = self._seen.passes_done if self._seen else 0
        return self._figures.summary(passes, self._switch)

    # Driving it

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
            times.append(self._read_at)
        return min((time for time in times if time is not None), default=None)

    def tick(self, now: float) -> list[Action]:
        """Do what has become due."""
        if self.is_over:
            return []
        return [
            *self._repeat_abort(now),
            *self._follow_switch(now),
            *self._decide(now),
            *self._read(now),
        ]

    # Events

    @singledispatchmethod
    def _take(self, event: Event, now: float) -> list[Action]:
        return []  # an event of a later version of ours, in a recording

    @_take.register
    def _(self, event: ev.StatusSeen, now: float) -> list[Action]:
        if event.side is Side.DESTINATION:
            self._destination = next_phase(event.side, self._destination, event.status)
            return []
        self._enter(next_phase(event.side, self._source, event.status), now)
        return []

    @_take.register
    def _(self, event: ev.SplitSeen, now: float) -> list[Action]:
        seen = self._source if event.side is Side.SOURCE else self._destination
        if seen not in _BEFORE_POSTCOPY:
            return []
        return self._take(ev.StatusSeen(event.side, Status.POSTCOPY_ACTIVE), now)

    @_take.register
    def _(self, event: ev.PassSeen, now: float) -> list[Action]:
        if self._source is Phase.PREPARING:
            self._enter(Phase.PRECOPY, now)
        is_running = self._source is Phase.PRECOPY and not self._figures.is_stopped
        if self._seen is not None and is_running:  # QEMU announces one more at its stop
            self._seen = replace(
                self._seen,
                announced_pass=max(self._seen.announced_pass, event.number),
                saw_pass_one=self._seen.saw_pass_one or event.number == 1,
            )
        return []

    @_take.register
    def _(self, event: ev.StatsSeen, now: float) -> list[Action]:
        self._is_reading = False
        if event.stats is not None:
            self._figures.read(event.stats, self._asked_at)
        # Counted from the answer: one that took long must not be followed by the next at once.
        self._read_at = now + POLL_S
        if event.stats is None:
            return []
        if self._figures.wants_reading:
            self._read_at = now
        if self._source is Phase.PREPARING and event.stats.memory_total:
            self._enter(Phase.PRECOPY, now)
        if self._source is Phase.PRECOPY and self._seen is not None:
            passes = self._seen.passes.advance(event.stats)
            self._seen = replace(
                self._seen,
                stats=event.stats,
                stats_at=max(self._asked_at, self._seen.since),
                passes=passes,
            )
        return []

    @_take.register
    def _(self, event: ev.Stopped, now: float) -> list[Action]:
        if event.side is Side.SOURCE:
            self._figures.stop(now)
        return []

    @_take.register
    def _(self, event: ev.Resumed, now: float) -> list[Action]:
        if event.side is Side.SOURCE:
            self._figures.go_on()
        else:
            self._figures.resume(now)
        return []

    @_take.register
    def _(self, event: ev.SplitFailed, now: float) -> list[Action]:
        actions = self._take(ev.SplitSeen(event.side), now)
        if event.side in self._failed_sides:  # a level: each reading tells it again
            return actions
        self._failed_sides.add(event.side)
        text = f"libvirt reports post-copy failed on the {event.side.value}"
        return [*actions, Note(text)]

    @_take.register
    def _(self, event: ev.SwitchRequested, now: float) -> list[Action]:
        if not self._can_switch:
            return [Note("post-copy is not enabled for this migration")]
        if self._source is Phase.PREPARING:
            self._wanted = event.reason  # sent now, libvirt would refuse or lose it
            return []
        return self._ask(event.reason, now)

    @_take.register
    def _(self, event: ev.SwitchAccepted, now: float) -> list[Action]:
        if self._switch is not None and self._source is Phase.PRECOPY:
            wait = VERIFY_S * 2 ** min(self._switch.attempts - 1, 8)
            self._verify_at = now + min(wait, _LONGEST_VERIFY_S)
        return []

    @_take.register
    def _(self, event: ev.SwitchRefused, now: float) -> list[Action]:
        self._is_switch_out = False
        if self._source is not Phase.PRECOPY:
            return []
        if self._abort_wanted:
            self._switch = None
            return [Abort() if self._can_abort else Note("the abort came too late")]
        if event.is_final:
            self._can_switch = False
            self._switch = None
            return [Note(f"the switch to post-copy was refused: {event.message}")]
        self._retry_at = now + RETRY_S
        return []

    @_take.register
    def _(self, event: ev.SwitchNotSeen, now: float) -> list[Action]:
        if self._source is not Phase.PRECOPY or self._switch is None:
            return []
        if self._abort_wanted:  # too dangerous now, and there is no use in asking again
            self._verify_at = now + _LONGEST_VERIFY_S
            return []
        return [
            Note("the switch to post-copy was accepted but has not come: asking again"),
            *self._ask_again(),
        ]

    @_take.register
    def _(self, event: ev.AbortRequested, now: float) -> list[Action]:
        if self._abort_wanted:
            return []
        if not self._can_abort:
            return [
                Note(f"too late to abort: the migration is {self._source.value} by now")
            ]
        self._abort_wanted = True
        if self._is_switch_out:
            return [
                Note(
                    "the switch to post-copy has been asked for: aborted only if it is refused"
                )
            ]
        return [Abort()]

    @_take.register
    def _(self, event: ev.AbortRefused, now: float) -> list[Action]:
        if self._abort_wanted:
            self._abort_at = now + RETRY_S
        return []

    @_take.register
    def _(self, event: ev.Finished, now: float) -> list[Action]:
        self._figures.finish(event.stats)
        return []

    @_take.register
    def _(self, event: ev.Ended, now: float) -> list[Action]:
        self._is_over = True
        self._figures.end(now)
        self._error = event.error
        found = conclude(self.place, event)
        self._source, self._found = self._final_phase(found), found
        return []

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
            self._seen = Observation(now=now, since=now)
        else:
            self._verify_at = self._retry_at = self._look_again_at = None
        if phase is Phase.POSTCOPY:
            self._record_switch(now)

    def _record_switch(self, now: float) -> None:
        """Note the first time only: after a recovery the source is in post-copy again."""
        ms = self._figures.ms(now)
        record = self._switch or SwitchRecord("somebody else asked", ms)
        if record.took_effect_ms is None:
            self._switch = replace(record, took_effect_ms=ms)
            self._figures.switch(now)
            self._read_at = now  # how much was sent before?

    def _decide(self, now: float) -> list[Action]:
        """Ask the policy, unless a switch or an abort is under way."""
        if self._source is not Phase.PRECOPY or self._seen is None:
            return []
        if self._switch or self._abort_wanted or not self._can_switch:
            self._look_again_at = None
            return []
        if self._wanted is not None:
            return self._ask(self._wanted, now)
        if not self._can_switch_by_policy:
            return []
        try:
            decision = self._policy.decide(replace(self._seen, now=now))
        except Exception as error:  # a policy of the caller's must not end the loop
            self._can_switch_by_policy = False
            return [Note(f"the policy failed and is not asked again: {error!r}")]
        if decision.look_again_at is None:
            self._look_again_at = None
        else:
            self._look_again_at = max(decision.look_again_at, now + _SOONEST_S)
        if decision.reason is not None:
            return self._ask(decision.reason, now)
        return []

    def _ask(self, reason: str, now: float) -> list[Action]:
        if self._source is not Phase.PRECOPY or self._switch or self._abort_wanted:
            return []
        self._look_again_at = None
        self._switch = SwitchRecord(reason, self._figures.ms(now))
        self._is_switch_out = True
        return [Switch(reason, attempt=1)]

    def _ask_again(self) -> list[Action]:
        if self._switch is None or self._abort_wanted:
            return []
        self._switch = replace(self._switch, attempts=self._switch.attempts + 1)
        self._is_switch_out = True
        return [Switch(self._switch.reason, attempt=self._switch.attempts)]

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
        if self.is_over or self._figures.is_resumed:
            return True
        is_stopped = self._figures.is_stopped or self._source in _STOPPED
        return not (is_stopped or self._is_switch_out)

    def _repeat_abort(self, now: float) -> list[Action]:
        if self._abort_at is None or now < self._abort_at:
            return []
        self._abort_at = None
        if not self._can_abort:
            return [Note("the abort came too late")]
        return [Abort()]

    @property
    def _wants_readings(self) -> bool:
        return not (self._is_reading or self._source.is_final)

    def _read(self, now: float) -> list[Action]:
        if not self._wants_readings or now < self._read_at:
            return []
        self._is_reading = True
        self._asked_at = now
        self._read_at = now + POLL_S
        return [ReadStats()]
