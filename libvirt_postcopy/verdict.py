"""Where the guest is at the end, and why it was left there: what is known, in words for the operator.

A destination that ends before it has asked for a page may have rejected the state of the devices.  The guest has
then never left the source, and what that can do depends on its QEMU: one goes on by itself, whatever libvirt calls its
half; another can be told to; the others never will (:func:`libvirt_postcopy.features.after_rejection`).
"""

from __future__ import annotations

from dataclasses import dataclass

from libvirt_postcopy.diagnosis import NOT_ON_THE_WAY, RUNS
from libvirt_postcopy.events import Half, Looked, Place
from libvirt_postcopy.features import GOES_ON_BY_ITSELF, after_rejection
from libvirt_postcopy.phases import Status, whereabouts

__all__ = [
    "MAY_BE_TWOFOLD",
    "UNDECIDED",
    "Known",
    "judge",
    "never_ran_there",
    "why_unclear",
]

_SENT_TO_NOBODY = (
    "the source's QEMU has sent all of the guest, and the destination has none: it may have run there and ended since"
    " (its log there tells); what is left on the source is as old as the switch: do not resume it if it has run there"
)

_IS_TWOFOLD = (
    "each host has the guest as a whole one, and the migration had switched: the newer is the destination's; see that"
    " they do not both run"
)

MAY_BE_TWOFOLD = (
    "the source has the guest as a whole one, it had run on the destination before, and nobody can look there now: see"
    " that they do not both run"
)

_RUNS_AGAIN = "the source's QEMU has given the migration up and runs the guest again"

_HALF_THERE = "the destination holds a half too: see that it does not run there as well"

_MAY_RUN_TWICE = f"{_RUNS_AGAIN}, while {_HALF_THERE}"

UNDECIDED = (
    "the source's QEMU still waits for the destination to say that it has the devices, and runs the guest on if it says"
    " that it has not"
)

_ALL_SENT = "QEMU has sent all of the guest"

_NEVER_RAN_THERE = (
    "the destination's half has ended before the guest ran there, and the source's daemon waits in vain for the end of a"
    " cancel"
)


@dataclass(frozen=True)
class Known:
    """What is known of a migration.

    :ivar here: The last look at the source.
    :ivar there: The last look at the destination.
    :ivar has_switched: A QEMU was heard to be in post-copy.
    :ivar has_been_there: The destination was seen to run the guest, or to ask for its pages.
    """

    here: Looked
    there: Looked
    has_switched: bool
    has_been_there: bool

    @property
    def is_twofold(self) -> bool:
        """Both hosts have a whole guest, which the destination had not before this migration."""
        are_whole = self.here.half is self.there.half is Half.WHOLE
        was_split = self.has_switched or self.has_been_there or self.runs_here_again
        return are_whole and was_split

    @property
    def may_be_twofold(self) -> bool:
        """The source has a whole guest again, and the destination, where it ran before, cannot be looked at."""
        is_whole_here = self.here.half is Half.WHOLE
        return is_whole_here and self.there.half is Half.UNKNOWN and self.has_been_there

    @property
    def is_undecided(self) -> bool:
        """The source's QEMU has sent the devices, and goes back or into post-copy by what becomes of them."""
        here = self.here
        return here.half is Half.MIGRATING and here.status == Status.POSTCOPY_DEVICE

    @property
    def has_arrived_unseen(self) -> bool:
        """The destination, where the guest ran, has all of it, and the source cannot be looked at."""
        is_whole_there = self.there.half is Half.WHOLE
        return is_whole_there and self.here.half is Half.UNKNOWN and self.has_been_there

    @property
    def may_run_twice(self) -> bool:
        """Both hosts may run the guest, and nothing that is waited for changes that."""
        runs_here = self.runs_here_again and self.there.half.is_split
        return self.is_twofold or runs_here

    @property
    def news(self) -> str:
        """What the operator should know while a call is waited for; a passing moment of many a migration."""
        if self.is_twofold:
            return _IS_TWOFOLD
        if self.runs_here_again:
            return _MAY_RUN_TWICE if self.may_run_twice else _RUNS_AGAIN
        return _ALL_SENT if self.here.half is Half.LEFT else ""

    @property
    def runs_here_again(self) -> bool:
        """The source's QEMU has given up and runs the guest."""
        return self.here.run_state == RUNS

    @property
    def may_have_been_rejected(self) -> bool:
        """By all that was seen, nothing of the guest has ever run on the destination."""
        here = self.here
        stands_here = here.half.is_split and here.run_state not in ("", RUNS)
        # A later QEMU breaks in post-copy only when the destination has said that it has all it needs.
        is_paused = here.status == Status.POSTCOPY_PAUSED
        was_loaded = is_paused and here.qemu >= GOES_ON_BY_ITSELF
        return stands_here and not (self.has_been_there or was_loaded)


def judge(known: Known) -> tuple[Place, str]:
    """Say where the guest is, and what is known of that; empty where there is nothing to add."""
    if known.is_twofold:
        return Place.UNKNOWN, _IS_TWOFOLD
    if known.may_be_twofold:
        return Place.UNKNOWN, MAY_BE_TWOFOLD
    if known.has_arrived_unseen:
        return Place.DESTINATION, ""
    if known.is_undecided:
        is_split = known.there.half.is_split
        return Place.UNKNOWN, f"{UNDECIDED}; {_HALF_THERE}" if is_split else UNDECIDED
    found = whereabouts(known.here.half, known.there.half)
    if found is Place.SOURCE and known.runs_here_again:
        return found, _RUNS_AGAIN
    if found is Place.LOST and known.may_have_been_rejected:
        return _judge_rejection(known.here.qemu)
    return found, ""


def _judge_rejection(qemu: int) -> tuple[Place, str]:
    """Say what the source can do, and call the guest lost only where that is known."""
    rejected = after_rejection(qemu)
    text = (
        "the destination's QEMU has ended before one page was asked for, as it does when it rejects the state of the"
        f" devices (its log there says then 'load of migration failed'); if so, {rejected.text}"
    )
    return Place.LOST if rejected.can_go_on is False else Place.UNKNOWN, text


def why_unclear(known: Known) -> str:
    """Say why no waiting tells more; empty where that is not known."""
    here, there = known.here, known.there
    if known.is_twofold:
        return _IS_TWOFOLD
    if here.half is Half.LEFT:
        return _SENT_TO_NOBODY
    if known.may_run_twice:
        return _MAY_RUN_TWICE
    if not here.half.is_split:
        return ""
    if here.status in NOT_ON_THE_WAY:
        text = f"the source's QEMU has given the migration up ({here.status}): it cannot be resumed"
        can = after_rejection(here.qemu).text
        return f"{text}; {can}" if known.may_have_been_rejected else text
    if here.status == Status.POSTCOPY_PAUSED and there.half is Half.MIGRATING:
        return "the destination has not taken the guest over, and cannot be resumed"
    return ""


def never_ran_there(qemu: int) -> str:
    """Say that the destination's half was destroyed in the switch, and what the source can do.

    :param qemu: The version of the source's.
    """
    return f"{_NEVER_RAN_THERE}: {after_rejection(qemu).text}"
