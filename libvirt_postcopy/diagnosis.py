"""What looks at both hosts say together of a migration whose guest is not wholly on one of them.

What "post-copy failed" means is not said by libvirt, which uses the word for a lost control connection too.  So
both hosts are looked at, and what they say together is the :class:`Diagnosis`:

- *over*: the guest is wholly on one host.
- *flowing*: QEMU goes on by itself and will complete.  Nothing is done; libvirt would refuse a resume anyway.
- *paused*: both QEMUs wait for a new channel.  The migration is resumed, again and again with growing
  pauses, until it works or the caller's patience is at its end.
- *half paused*: the source waits, the destination has not noticed the break.  It does so when it next asks
  for a page; until then libvirt refuses a resume.
- *arrived*: all is on the destination, and the source still has what is left of it.  That is a moment of every
  completion too; where it lasts, libvirt has missed the end, or nobody can look at the source.  A daemon that was
  started again in the switch may even take what is left for an ordinary guest that is paused.
- *unreachable*: a daemon does not answer.  It is looked at again.
- *gone*: one half is gone.  That is also the last moment of every completion, so it must last.  A source whose QEMU
  is paused or recovers may stay so for ever then (seen with QEMU 7.2), and libvirt's call with it, so this is found out
  during a call too: where the destination's QEMU is said to have ended, the source's waits, or no page moves.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

from libvirt_postcopy.events import Half, Looked, Place
from libvirt_postcopy.phases import Status, whereabouts

__all__ = [
    "Diagnosis",
    "NOT_ON_THE_WAY",
    "ON_THE_WAY",
    "RUNS",
    "as_qemu_says",
    "diagnose",
]


class Diagnosis(str, Enum):
    """What both hosts say together."""

    OVER = "over"
    FLOWING = "flowing"
    PAUSED = "paused"
    HALF_PAUSED = "half paused"
    UNREACHABLE = "unreachable"
    GONE = "gone"
    ARRIVED = "arrived"
    UNCLEAR = "unclear"


def diagnose(here: Looked, there: Looked) -> Diagnosis:
    """Say what has become of a migration.

    :param here: A look at the source.
    :param there: A look at the destination.
    """
    if here.half in (Half.WHOLE, Half.MIGRATING) and here.status in ON_THE_WAY:
        return Diagnosis.FLOWING
    if here.half.is_split and here.status in _STILL_SENT and there.half.is_absent:
        return Diagnosis.FLOWING  # its pages go somewhere: we look at the wrong host
    if here.half is Half.LEFT:
        return _WHILE_LEFT.get(there.half, Diagnosis.FLOWING)
    found = whereabouts(here.half, there.half)
    if found in (Place.SOURCE, Place.DESTINATION):
        return Diagnosis.OVER
    if found is Place.LOST:
        return Diagnosis.GONE
    if here.half is Half.UNKNOWN:
        return Diagnosis.UNREACHABLE
    if not here.half.is_split or here.status is None:
        return Diagnosis.UNCLEAR
    if here.status in NOT_ON_THE_WAY:
        return Diagnosis.UNCLEAR
    if here.status != Status.POSTCOPY_PAUSED:
        return Diagnosis.FLOWING  # also by a status of a later QEMU
    if there.stands_still:
        return Diagnosis.PAUSED  # though libvirt may not have heard of it
    return _WHILE_PAUSED.get(there.half, Diagnosis.UNCLEAR)


def as_qemu_says(look: Looked) -> Looked:
    """Take half of a guest for what its source's QEMU says that it is, whatever libvirt calls it.

    One that has given up and runs the guest again has all of it; one that has completed has nothing to give any more; one
    that has sent the devices may still go back.
    """
    if not look.half.is_split:
        return look
    if look.run_state == RUNS and look.status in _GIVEN_UP:
        return replace(look, half=Half.WHOLE, status=None)
    if look.status == Status.COMPLETED:
        return replace(look, half=Half.LEFT)
    if look.status == Status.POSTCOPY_DEVICE:
        return replace(look, half=Half.MIGRATING)
    return look


RUNS = "running"  # QAPI RunState

#: A source that says so has somebody who takes its pages, or will be paused before long.
_STILL_SENT = frozenset((Status.POSTCOPY_ACTIVE,))

#: Before the switch.
ON_THE_WAY = frozenset(
    (
        Status.SETUP,
        Status.WAIT_UNPLUG,
        Status.ACTIVE,
        Status.PRE_SWITCHOVER,
        Status.DEVICE,
        Status.POSTCOPY_DEVICE,
    )
)

#: Said by a source that has half of the guest, these will not lead to its end: libvirt or somebody else must act.
NOT_ON_THE_WAY = frozenset(
    (
        Status.NONE,
        Status.CANCELLING,
        Status.CANCELLED,
        Status.FAILING,
        Status.FAILED,
    )
)

#: In which a source may run the guest again.
_GIVEN_UP = frozenset((Status.CANCELLED, Status.FAILED, Status.POSTCOPY_PAUSED))

#: While the source keeps what is left of a guest that it has sent, by what the destination's daemon says.
_WHILE_LEFT = {
    Half.WHOLE: Diagnosis.ARRIVED,
    Half.UNKNOWN: Diagnosis.UNREACHABLE,
    Half.GONE: Diagnosis.UNCLEAR,  # arrived, and ended since, or moved on
    Half.INACTIVE: Diagnosis.UNCLEAR,
}

#: While the source's QEMU is paused, by what the destination's daemon says.
_WHILE_PAUSED = {
    Half.SPLIT_FAILED: Diagnosis.PAUSED,
    Half.SPLIT: Diagnosis.HALF_PAUSED,
    Half.UNKNOWN: Diagnosis.UNREACHABLE,
}
