"""Brings a split guest back together: looks at both hosts, and does the one thing that is right.

Theory of operation
===================

:class:`Recovery` takes over when a migrate call has ended and the guest is not wholly on one host, and watches
over the flow of pages before that.  Like the rest of the core it knows neither clock nor libvirt.  What both hosts say
together is the :class:`Diagnosis`, and what is known at the end :mod:`libvirt_postcopy.verdict`.

Where nothing notices (a link that swallows packets), no byte and no page request for :data:`STALL_S` is a break
too: QEMU is told to pause, if the destination's daemon answers, so that the link is there again, and if nothing
speaks against resuming.

A call may never come back (:mod:`libvirt_postcopy.hanging`), so the hosts are looked at where one that resumes takes
long, and patience counts for it as for all else.  Nor does a source's daemon that is started again in the switch always
answer: it waits for a QEMU that waits itself.
"""

from __future__ import annotations

from collections.abc import Callable

from libvirt_postcopy.actions import Action, Look, Note, Pause, Resume
from libvirt_postcopy.diagnosis import (
    ON_THE_WAY,
    Diagnosis,
    as_qemu_says,
    diagnose,
)
from libvirt_postcopy.events import Half, Looked, Place, Side, StatusSeen
from libvirt_postcopy.features import after_rejection, rests_after_break
from libvirt_postcopy.hanging import HANGS_ON, STALLS, WAITS_FOR_NOBODY, Call
from libvirt_postcopy.phases import Status
from libvirt_postcopy.verdict import (
    MAY_BE_TWOFOLD,
    UNDECIDED,
    Known,
    judge,
    never_ran_there,
    why_unclear,
)

__all__ = [
    "Recovery",
    "CALM_LOOK_S",
    "HANG_S",
    "KERNELS_S",
    "LOOK_S",
    "REST_S",
    "SETTLE_S",
    "STALL_S",
    "TELL_S",
    "UNCLEAR_S",
]

LOOK_S = 0.5
"""From the answer to one look at a host to the next."""

CALM_LOOK_S = 5.0
"""The same for somebody else's migration in pre-copy: a look can delay the switch, and events tell most."""

STALL_S = 20.0
"""Without a byte or a page request for so long, a split migration does not flow any more."""

REST_S = 0.5
"""How long a source is left alone after each break where its QEMU could die of a resume that comes sooner."""

SETTLE_S = 5.0
"""How long a verdict that is also a passing moment must last until it is believed."""

TELL_S = 2.0
"""How long we wait for something until the operator is told: many a wait is over at once."""

HANG_S = 5.0
"""How long a call that resumes may take until the hosts are looked at meanwhile: most are through by then."""

UNCLEAR_S = 60.0
"""How long hosts are looked at that answer nothing by which the guest could be found."""

KERNELS_S = 1800.0
"""How long a call in which nothing moves is waited for where the operator names no patience: the kernels try for 16 minutes
by default (``net.ipv4.tcp_retries2``)."""

_NEVER = float("inf")
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0


_SHELL_IS_LEFT = (
    "the guest is on the destination; libvirt has missed that on the source, and keeps what is left of it there: a shell"
    " with old memory, which must not be resumed; once the guest is seen to run on the destination, virsh destroy on the"
    " source ends nothing but that shell"
)

_SOURCE_IS_UNSEEN = (
    "the guest is on the destination, all of it; the source cannot be looked at: if something of the guest is left there,"
    " it is a shell with old memory, which must not be resumed"
)

#: Of a source that sends nothing: a resume has made nothing of it yet, or never will.
_NOT_RESUMED = frozenset((None, Status.POSTCOPY_PAUSED, Status.FAILED))

#: In which QEMU can be told to break the migration.
_CAN_PAUSE = frozenset((Status.POSTCOPY_ACTIVE, Status.POSTCOPY_RECOVER))

#: Of a destination: it has all pages, or does not run the guest yet and may still get what it needs for that.
_NOT_TO_BE_BROKEN = frozenset((Half.WHOLE, Half.MIGRATING))

_WAITING = {
    Diagnosis.HALF_PAUSED: "the source has noticed that the link is broken, the destination has not yet:"
    " waiting for it (if it never does: on the destination, as root, ss -t -K with the port of its migration)",
    Diagnosis.UNREACHABLE: "the {side}'s daemon {silence}: waiting for it",
    Diagnosis.FLOWING: "only a control connection was lost, QEMU goes on by itself: waiting for its end",
}


class _Backoff:
    """Growing pauses between attempts: 0.2 s, doubling to 10 s, with jitter."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self.failures = 0

    def next_s(self) -> float:
        """The pause after one more failure: between half of it and all of it."""
        whole = min(_FIRST_PAUSE_S * 2.0 ** min(self.failures, 16), _LONGEST_PAUSE_S)
        self.failures += 1
        return whole * (1 + self._jitter()) / 2


class Recovery:
    """Watches over one migration once it is split.

    :param patience_s: How long the guest may stand still before it is left to the operator; 0: never resume.
    :param jitter: Gives a number from 0 to 1, anew each time.
    """

    def __init__(self, patience_s: float, jitter: Callable[[], float]) -> None:
        self._patience_s = patience_s
        self._backoff = _Backoff(jitter)
        self._seen: dict[Side, tuple[float, Looked]] = {}
        self._forgot_at = float("-inf")
        self._look_at = dict.fromkeys(Side, float("-inf"))
        self._looking: set[Side] = set()
        self._is_on = False  # no call of ours is under way, and it is not over
        self._is_attached = False  # somebody else has started it
        self._resume_at = 0.0
        self._rests_since: float | None = None  # the source, after each break
        self._undecided_since: float | None = None  # the source's QEMU
        self._waits_since: float | None = None  # the source, while a call is under way
        self._says_there = ""  # the destination's QEMU, by itself
        self._moved: tuple[int, int] | None = None
        self._moved_at: float | None = None  # None: not split yet
        self._paused_at = self._resumed_at = float("-inf")
        self._diagnosis = Diagnosis.UNCLEAR
        self._diagnosed_at = 0.0
        self._told: set[Diagnosis | str] = set()
        self._told_of_stall: set[str] = set()  # since a page has moved
        self._was_asked_for_pages = False
        self._has_died_there = False
        self._has_switched = False
        self._cancels_since: float | None = None  # the source, since a call has failed
        self._news, self._news_at = "", 0.0  # what is told of a call that hangs
        self._was_there_at = float("-inf")  # the destination's half, or it was not seen
        self.source_qemu = 0  #: its version, as it was known before anything broke
        self.has_run_there = False  #: the destination's vCPUs were seen to run
        self.attempts = 0  #: resumes that were sent
        self.found: Place | None = None  #: where the guest is; None while it goes on
        self.halves = (Half.UNKNOWN, Half.UNKNOWN)  #: here and there, at the end
        self.reason = ""  #: why it was given up

    @property
    def is_on(self) -> bool:
        """No call is under way: what goes on does so without us."""
        return self._is_on

    @property
    def is_in_doubt(self) -> bool:
        """A call has failed, and no look has told what became of the guest."""
        return self._is_on and self._situation is not Diagnosis.FLOWING

    def is_past(self, call: int | None) -> bool:
        """Whether a call was left to itself, so that its failure says nothing of the one that came after it."""
        return call is not None and call < self.attempts

    # What is seen

    def begin(self, now: float) -> None:
        """No call is under way (any more), and the guest is not wholly on one host as far as is known."""
        self._is_on = True
        self._waits_since = self._cancels_since = None
        if self.attempts:
            self._rests_since = None  # what was seen may be of the break before
        self._forget(now)
        if self._moved_at is None:
            self._moved_at = now
        self._resume_at = now + (self._backoff.next_s() if self.attempts else 0.0)

    def attach(self, now: float) -> None:
        """Somebody else's call is under way, or was, and the guest may be anywhere on its way."""
        self._is_on = self._is_attached = True
        self._forget(now)

    def look(self, event: Looked, now: float) -> None:
        """Take what was found on one host."""
        self._looking.discard(event.side)
        self._seen[event.side] = (now, as_qemu_says(event))
        if event.side is Side.SOURCE:
            self._see_rest(event.status, now)
            if event.status not in _NOT_RESUMED:
                self._waits_since = None
        if not self._known.is_undecided:
            self._undecided_since = None
        elif self._undecided_since is None:
            self._undecided_since = now
        if self._known.news != self._news:
            self._news, self._news_at = self._known.news, now
        if event.side is Side.DESTINATION and not event.half.is_absent:
            self._was_there_at = now
        if event.side is Side.SOURCE and not event.listens:
            self._cancels_since = None  # what became of it could not be heard
        found = self._diagnose(now)
        self._look_at[event.side] = now + (CALM_LOOK_S if self._is_calm else LOOK_S)
        if found is not self._diagnosis:
            self._diagnosis, self._diagnosed_at = found, now

    @property
    def _is_calm(self) -> bool:
        """Somebody else's migration is in pre-copy."""
        here = self._seen.get(Side.SOURCE)
        return self._is_attached and here is not None and here[1].status in ON_THE_WAY

    def _see_rest(self, status: str | None, now: float) -> None:
        """The source has noticed a break, or goes on."""
        if status == Status.POSTCOPY_PAUSED:
            if self._rests_since is None:
                self._rests_since = now
        elif status is not None:
            self._rests_since = None

    @property
    def _rested_at(self) -> float:
        """From when on the source can take a resume; one of unknown version is taken for an old one."""
        is_old = rests_after_break(self._last(Side.SOURCE).qemu)
        if self._rests_since is None or not is_old:
            return float("-inf")
        return self._rests_since + REST_S

    @property
    def _ready_at(self) -> float:
        return max(self._resume_at, self._rested_at)

    def die_there(self, now: float) -> None:
        """The destination's QEMU has ended: look, though a call may be under way."""
        self._has_died_there = True
        self.hurry(now)

    def run_there(self, now: float) -> None:
        """The destination's vCPUs run."""
        self.has_run_there = True
        if self._moved_at is None:
            self._moved_at = now  # the guest came with it

    def hear(self, event: StatusSeen, now: float) -> None:
        """Take what a QEMU announces."""
        self._has_switched |= event.status == Status.POSTCOPY_ACTIVE  # of either side
        if event.side is Side.DESTINATION:
            self._says_there = event.status
        else:
            is_cancelling = event.status == Status.CANCELLING
            self._cancels_since = now if is_cancelling else None
            is_paused = event.status == Status.POSTCOPY_PAUSED
            has_stopped = event.status in _NOT_RESUMED
            self._waits_since = now if has_stopped and not self._is_on else None
            self._see_rest(event.status, now)
            if is_paused and self._moved_at is None:
                self._moved_at = now  # no reading has told of a page before
        self.hurry(now)

    def hurry(self, now: float) -> None:
        """An event says that something has changed: look now."""
        for side, at in self._look_at.items():
            self._look_at[side] = min(at, now)

    def flow(self, sent: int | None, requests: int | None, now: float) -> None:
        """Take the figures that tell whether the guest's pages move, once it is split."""
        moved = (sent or 0, requests or 0)
        self._was_asked_for_pages |= bool(requests)
        if self._moved_at is not None and moved == self._moved:
            return
        if self._moved is not None:
            self._backoff.failures = 0
            self._told_of_stall.clear()
        self._moved, self._moved_at = moved, now

    def _diagnose(self, now: float) -> Diagnosis:
        """The side that never answers must not make unclear what the other says."""
        is_late = now >= self._forgot_at + SETTLE_S
        if len(self._seen) < len(Side) and not (self._is_attached or is_late):
            return Diagnosis.UNCLEAR
        if self._is_attached and Side.SOURCE not in self._seen and not is_late:
            return Diagnosis.UNCLEAR
        known = self._known
        if known.is_twofold:
            return Diagnosis.UNCLEAR
        if known.may_be_twofold:
            return Diagnosis.UNREACHABLE
        if known.has_arrived_unseen:
            return Diagnosis.ARRIVED
        return diagnose(known.here, known.there)

    @property
    def _known(self) -> Known:
        here, there = self._last(Side.SOURCE), self._last(Side.DESTINATION)
        return Known(here, there, self._has_switched, self._has_been_there)

    def _last(self, side: Side) -> Looked:
        seen = self._seen.get(side)
        return Looked(side, Half.UNKNOWN) if seen is None else seen[1]

    def _forget(self, now: float) -> None:
        """What was seen is of the time before."""
        self._seen.clear()
        self._forgot_at = now
        self._look_at = dict.fromkeys(Side, now)
        self._diagnosis, self._diagnosed_at = Diagnosis.UNCLEAR, now

    # What is to be done

    def deadline(self) -> float | None:
        """When to call :meth:`tick` at the latest; None if nothing is due before the next event."""
        if self.found is not None or not (self._is_on or self._moved_at is not None):
            return None
        looks = [at for side, at in self._look_at.items() if side not in self._looking]
        if not self._is_on:
            times = [*looks, *self._hang_times]
            due = max(self._suspect_at, min(times))
            return None if due == _NEVER else due
        times = [*looks, self._gives_up_at]
        if self._waiting:
            times.append(self._diagnosed_at + TELL_S)
        if self._diagnosis is Diagnosis.PAUSED and self._patience_s:
            times.append(self._ready_at)
        due = min(times)
        return None if due == _NEVER else due

    def tick(self, now: float) -> list[Action]:
        """Do what has become due."""
        if self.found is not None:
            return []
        is_split = self._moved_at is not None
        is_suspect = is_split and now >= self._suspect_at
        actions = self._break(now) if is_split and now >= self._stalls_at else []
        if self._is_on:
            actions += self._decide(now)
        elif is_suspect:
            actions += self._doubt(now)
        if self._is_on or (is_suspect and self.found is None):
            actions += self._look(now)
        return actions

    # A call that is under way

    @property
    def _doubtful_at(self) -> float:
        """From when on a call that is under way may be in vain."""
        if self._has_died_there:
            return float("-inf")
        if self._waits_since is None:
            return self._stalls_at
        return min(self._stalls_at, self._waits_since + HANG_S)

    @property
    def _suspect_at(self) -> float:
        """From when on the hosts are looked at during a call; a pause that was refused must not hide how it ends."""
        if self._call.is_stuck:
            return min(self._doubtful_at, self._stuck_ends_at)
        return self._doubtful_at

    def _doubt(self, now: float) -> list[Action]:
        """See whether the call that is under way can come to anything."""
        call = self._call
        is_settled = now >= self._diagnosed_at + SETTLE_S
        if call.waits_for_nobody and is_settled:
            return self._end(WAITS_FOR_NOBODY)
        if call.is_stuck:
            return self._doubt_stuck(now)
        if now >= self._is_left_at:
            return self._end_impatiently()
        if not call.hangs:
            return []
        if self._obstacle() and is_settled:
            return self._end(f"{HANGS_ON}; {self._obstacle()}")
        if now >= self._hang_ends_at:
            return self._end_impatiently()
        if self._can_go_round and self._patience_s:
            return self._resume(now)
        return self._tell(now)

    def _doubt_stuck(self, now: float) -> list[Action]:
        """Leave it when patience ends, by what is seen then: it may have come to its end meanwhile."""
        ends_at = self._stuck_ends_at
        is_seen = min(at for at, _ in self._seen.values()) >= ends_at
        if is_seen or now >= ends_at + UNCLEAR_S:
            return self._end_impatiently()
        if not self._news or now < self._news_at + TELL_S:
            return []
        return self._tell_of_stall(f"{self._news}; {STALLS}: waiting for it")

    def _end_impatiently(self) -> list[Action]:
        if self._diagnosis is Diagnosis.ARRIVED:
            return self._end_arrived()
        texts = self._impatience() or self._given_up, self._call.text or STALLS
        return self._end("; ".join(filter(None, texts)))

    @property
    def _call(self) -> Call:
        here, there = self._last(Side.SOURCE), self._last(Side.DESTINATION)
        return Call(self._diagnosis, here, there, self._says_there)

    @property
    def _can_go_round(self) -> bool:
        """The driver can recover a destination from which libvirt hears nothing."""
        return self._last(Side.DESTINATION).stands_still

    @property
    def _hang_ends_at(self) -> float:
        return max(self._patience_ends_at, self._diagnosed_at + SETTLE_S)

    @property
    def _stuck_ends_at(self) -> float:
        """Not before nothing has moved for so long that it counts as a stall, whatever was tried since."""
        kernels_s = 0.0 if self._patience_s else KERNELS_S
        stalls_at = max(self._moved_at or 0.0, self._resumed_at) + STALL_S
        return max(self._hang_ends_at, self._patience_ends_at + kernels_s, stalls_at)

    @property
    def _is_left_at(self) -> float:
        """When a call is left whatever the hosts say, and though they say nothing: not while a destination may need it."""
        runs_there = self._has_been_there or self._call.runs_there or self.attempts
        may_need_it = self._last(Side.DESTINATION).half is Half.MIGRATING
        is_left = runs_there and not may_need_it
        return self._stuck_ends_at + UNCLEAR_S if is_left else _NEVER

    @property
    def _hang_times(self) -> list[float]:
        """When something is due though no look is."""
        call = self._call
        if call.is_stuck:
            return [self._stuck_ends_at + UNCLEAR_S]
        times = [self._is_left_at]
        if not call.hangs:
            return times
        times.append(self._hang_ends_at)
        if self._obstacle():
            times.append(self._diagnosed_at + SETTLE_S)
        if self._can_go_round and self._patience_s:
            times.append(self._ready_at)
        elif self._waiting:
            times.append(self._diagnosed_at + TELL_S)
        return times

    def _look(self, now: float) -> list[Action]:
        due = [
            side
            for side, at in self._look_at.items()
            if now >= at and side not in self._looking
        ]
        self._looking.update(due)
        return [Look(side) for side in due]

    def _decide(self, now: float) -> list[Action]:
        diagnosis, since = self._diagnosis, self._diagnosed_at
        if diagnosis is Diagnosis.OVER:
            return self._end()
        if diagnosis is Diagnosis.GONE and now >= since + SETTLE_S:
            return self._end()
        if diagnosis is Diagnosis.ARRIVED and now >= since + SETTLE_S:
            return self._end_arrived()
        if diagnosis is Diagnosis.UNREACHABLE and self._is_lost_unsaid(now):
            return self._end_lost_unsaid()
        if now >= self._gives_up_at:
            return self._end(self._impatience())
        if diagnosis is Diagnosis.PAUSED and self._patience_s:
            return self._resume(now)
        if diagnosis is Diagnosis.UNREACHABLE and self._why_in_vain(now):
            return self._end(self._why_in_vain(now))
        return self._tell(now)

    def _tell(self, now: float) -> list[Action]:
        """Say what is waited for."""
        text = self._waiting
        if not text or now < self._diagnosed_at + TELL_S:
            return []
        self._told.add(self._situation)
        return [Note(text.format(side=self._silent_side(), silence=self._silence()))]

    @property
    def _situation(self) -> Diagnosis | str:
        """What the hosts say, or that the source's QEMU has not decided yet; each is told of once."""
        return self._diagnosis if self._undecided_since is None else UNDECIDED

    @property
    def _waiting(self) -> str:
        """What we wait for, to be told once, until something was done; empty where there is nothing to tell."""
        if not self._patience_s or self._situation in self._told:
            return ""
        if self._undecided_since is not None:
            return f"{UNDECIDED}: waiting for it"
        if self._known.may_be_twofold:
            return f"{MAY_BE_TWOFOLD}; waiting until somebody can"
        is_watched = self._diagnosis is Diagnosis.FLOWING and self._is_attached
        if is_watched and self._last(Side.SOURCE).half is not Half.SPLIT_FAILED:
            return ""  # nothing was lost
        if not self._is_on and self._call.hangs:
            if self._obstacle():
                return ""  # it is not waited for
            if self._call.text:
                return f"{self._call.text}: waiting for it"
        return _WAITING.get(self._diagnosis, "")

    def _resume(self, now: float) -> list[Action]:
        obstacle = self._obstacle()
        if obstacle:
            return self._end(obstacle)
        if now < self._ready_at:
            return []
        self.attempts += 1
        self._is_on = False
        self._rests_since = None  # it may break again before anybody has looked
        self._waits_since = now
        self._resumed_at = now  # the outage does not count against what comes now
        self._forget(now)
        self._told.clear()
        self._told_of_stall.clear()
        return [Resume(self.attempts)]

    def _obstacle(self) -> str:
        """Why it must not be resumed, as far as both hosts have been seen."""
        return next((it.obstacle for _, it in self._seen.values() if it.obstacle), "")

    def _why_in_vain(self, now: float) -> str:
        """Why no waiting for a daemon that does not answer comes to anything; empty where it may.

        What is left of a guest that was sent is resumed by nobody: only what hides its destination counts, and a guest
        that arrives looks so for a moment.
        """
        here, there = self._last(Side.SOURCE), self._last(Side.DESTINATION)
        if here.half is Half.LEFT:
            is_settled = now >= self._news_at + SETTLE_S
            return there.obstacle if is_settled else ""
        return self._obstacle() if here.status == Status.POSTCOPY_PAUSED else ""

    def _silent_side(self) -> str:
        for side in Side:
            if side not in self._seen or self._seen[side][1].half is Half.UNKNOWN:
                return side.value
        return ""

    def _silence(self) -> str:
        side = self._silent_side()
        is_away = any(
            it.side.value == side and not it.listens for _, it in self._seen.values()
        )
        return "cannot be reached" if is_away else "does not answer"

    # The end

    @property
    def _gives_up_at(self) -> float:
        """Patience counts from the last page that moved; a verdict has its time in any case."""
        if self._known.may_run_twice:
            return self._news_at + SETTLE_S
        if self._undecided_since is not None:
            since = self._undecided_since if self._moved_at is None else self._moved_at
            return max(since + self._patience_s, self._undecided_since + UNCLEAR_S)
        if self._diagnosis is Diagnosis.UNCLEAR:
            soonest = self._diagnosed_at + SETTLE_S
            latest = self._diagnosed_at + UNCLEAR_S
            if self._is_attached:
                return soonest if self._is_hopeless else latest
            return max(soonest, min(latest, self._patience_ends_at))
        if self._diagnosis in (Diagnosis.GONE, Diagnosis.ARRIVED):
            return self._diagnosed_at + SETTLE_S
        return self._patience_ends_at

    @property
    def _is_hopeless(self) -> bool:
        """Both hosts have been looked at, and no waiting tells more."""
        return len(self._seen) == len(Side) and bool(self._obstacle())

    @property
    def _patience_ends_at(self) -> float:
        if not self._is_attached:
            ends_at = (self._moved_at or 0.0) + self._patience_s
            since = self._rests_since
            if self._patience_s and since is not None and since < ends_at:
                # What was broken in time is resumed once.
                return max(ends_at, self._rested_at + LOOK_S)
            return ends_at
        is_watched = self._is_calm or not self._patience_s
        if self._diagnosis is Diagnosis.FLOWING and is_watched:
            return _NEVER
        since = self._diagnosed_at if self._moved_at is None else self._moved_at
        return max(since + self._patience_s, self._diagnosed_at + SETTLE_S)

    def _impatience(self) -> str:
        if self._diagnosis is Diagnosis.UNCLEAR:
            return why_unclear(self._known)
        return self._given_up

    @property
    def _given_up(self) -> str:
        if not self._patience_s:
            return ""
        return f"given up after {self._patience_s:.0f} s in which no page has moved"

    def _end(self, reason: str = "") -> list[Action]:
        known = self._known
        self.halves = known.here.half, known.there.half
        self.found, better_reason = judge(known)
        self.reason = better_reason or reason
        self._is_on = False
        return []

    def _end_arrived(self) -> list[Action]:
        """The guest has, and what is left on the source is removed by nobody, as far as is known."""
        is_unseen = self._known.has_arrived_unseen
        self._end()
        return [Note(_SOURCE_IS_UNSEEN if is_unseen else _SHELL_IS_LEFT)]

    # A source that does not answer

    def _is_lost_unsaid(self, now: float) -> bool:
        """A source that had switched cannot go back, and the destination's half is gone, whatever that one's daemon would say.

        A QEMU before 10.2 goes back where the cancel came before the link broke, and says so at once (seen with 7.2);
        cancelled when it is paused, it never ends that.  The daemon that cancels passes on what it says, though it
        answers nothing; a host that cannot be reached passes nothing on.
        """
        there = self._last(Side.DESTINATION).half
        if not there.is_absent or self._cancels_since is None:
            return False
        since = max(self._diagnosed_at, self._was_there_at, self._cancels_since)
        if now < since + UNCLEAR_S:
            return False
        if not self._has_switched or self._has_been_there or not self._says_there:
            return False  # it may have arrived, and ended since
        return after_rejection(self.source_qemu).can_go_on is False

    def _end_lost_unsaid(self) -> list[Action]:
        self._end()
        self.found, self.reason = Place.LOST, never_ran_there(self.source_qemu)
        return []

    @property
    def _has_been_there(self) -> bool:
        """The destination was seen to run the guest, or to ask for its pages."""
        return self.has_run_there or self._was_asked_for_pages

    # The flow of pages

    @property
    def _stalls_at(self) -> float:
        return max(self._moved_at or 0.0, self._paused_at, self._resumed_at) + STALL_S

    def _break(self, now: float) -> list[Action]:
        """Break what only seems to flow, where it can be put together again."""
        looks = [at for at, _ in self._seen.values() if at >= self._stalls_at]
        if not self._patience_s or len(looks) < len(Side) or self._obstacle():
            return []
        if self._silent_side() or self._last(Side.SOURCE).status not in _CAN_PAUSE:
            return []
        if self._last(Side.DESTINATION).half in _NOT_TO_BE_BROKEN:
            return []  # what a resume cannot mend must not be broken
        if self._diagnose(now) is not Diagnosis.FLOWING:
            return []
        if now >= self._patience_ends_at:
            return []  # nor what will not be resumed any more
        self._paused_at = now
        text = f"no page has moved for {STALL_S:.0f} s: making QEMU notice the break"
        return [*self._tell_of_stall(text), Pause()]

    def refuse_pause(self, message: str) -> list[Action]:
        """QEMU did not break the migration; it is asked again after a while."""
        return self._tell_of_stall(f"QEMU was not to be made to notice it: {message}")

    def _tell_of_stall(self, text: str) -> list[Action]:
        """Say it once until a page moves, or it is resumed."""
        if text in self._told_of_stall:
            return []
        self._told_of_stall.add(text)
        return [Note(text)]
