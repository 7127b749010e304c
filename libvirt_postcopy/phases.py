"""The phases of a migration: legal moves as tables, and where the guest is in each.

Theory of operation
===================

Each side's QEMU walks its own path and announces it as ``MIGRATION`` events whose statuses (QAPI
``MigrationStatus``) differ from release to release.  Here they are folded into eleven phases a side.

Two rules:

1. A status is a *level*.  It may be seen again, and those before it may have been missed (a small guest
   is through in 0.3 s, libvirt reports some statuses only as a domain state).  So the tables also hold
   the moves that skip a status, as long as they go forward.
2. A status that no table knows is the next QEMU's: it is kept and shown, and changes nothing.  A known
   status in a phase that cannot lead to it raises :class:`StateError` and changes nothing either.

Where the guest is follows from both sides' phases, see :func:`place`.  Callers decide by it what may be
done to which half.

Source: QEMU ``qapi/migration.json``, ``migration/migration.c`` 2.5 to 11.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from libvirt_postcopy.errors import StateError
from libvirt_postcopy.events import Ended, Half, Place, Side

__all__ = [
    "Phase",
    "Place",
    "Status",
    "TRANSITIONS",
    "next_phase",
    "place",
    "whereabouts",
    "conclude",
]


class Status(str, Enum):
    """QAPI ``MigrationStatus``, every value of QEMU 2.5 to 11.1."""

    NONE = "none"
    SETUP = "setup"
    WAIT_UNPLUG = "wait-unplug"  #: since QEMU 4.2
    ACTIVE = "active"
    COLO = "colo"
    PRE_SWITCHOVER = "pre-switchover"  #: since QEMU 2.11
    DEVICE = "device"  #: since QEMU 2.11; in every flow since 10.0
    POSTCOPY_DEVICE = "postcopy-device"  #: since QEMU 10.2
    POSTCOPY_ACTIVE = "postcopy-active"
    POSTCOPY_PAUSED = "postcopy-paused"  #: since QEMU 3.0
    POSTCOPY_RECOVER_SETUP = "postcopy-recover-setup"  #: since QEMU 9.1, source only
    POSTCOPY_RECOVER = "postcopy-recover"  #: since QEMU 3.0
    COMPLETED = "completed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILING = "failing"  #: since QEMU 11.0
    FAILED = "failed"


class Phase(str, Enum):
    """Where one side is on its way."""

    PREPARING = "preparing"  #: set up, nothing sent yet
    PRECOPY = "pre-copy"  #: memory is copied while the guest runs on the source
    SWITCHING = "switching"  #: the vCPUs are stopped, the device state is on its way
    POSTCOPY = "post-copy"  #: the vCPUs are on the destination, pages follow
    BROKEN = "broken"  #: split, and the link is gone
    RECOVERING = "recovering"  #: split, and a new link is being set up
    GOING_BACK = "going back"  #: cancelled or failed, the source is being resumed
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    LOST = "lost"  #: a half is gone after the switch

    @property
    def is_split(self) -> bool:
        """The guest's memory is on both sides."""
        return self in (Phase.POSTCOPY, Phase.BROKEN, Phase.RECOVERING)

    @property
    def is_final(self) -> bool:
        """Nothing follows, unless a new attempt is made."""
        return self in _FINAL


_FINAL = frozenset((Phase.COMPLETED, Phase.CANCELLED, Phase.FAILED, Phase.LOST))


_Row = Mapping[Status, Phase]

#: How a switch ends, where a skipped status may have hidden the steps between.
_ONWARD: _Row = {
    Status.PRE_SWITCHOVER: Phase.SWITCHING,
    Status.DEVICE: Phase.SWITCHING,
    Status.POSTCOPY_DEVICE: Phase.SWITCHING,
    Status.POSTCOPY_ACTIVE: Phase.POSTCOPY,
    Status.COMPLETED: Phase.COMPLETED,
}
_BACK: _Row = {
    Status.CANCELLING: Phase.GOING_BACK,
    Status.FAILING: Phase.GOING_BACK,
    Status.CANCELLED: Phase.CANCELLED,
    Status.FAILED: Phase.FAILED,
}
_SPLIT: _Row = {
    Status.POSTCOPY_ACTIVE: Phase.POSTCOPY,
    Status.POSTCOPY_PAUSED: Phase.BROKEN,
    Status.POSTCOPY_RECOVER_SETUP: Phase.RECOVERING,
    Status.POSTCOPY_RECOVER: Phase.RECOVERING,
    Status.COMPLETED: Phase.COMPLETED,
    # QEMU < 10.0 accepts migrate_cancel after the switch: the source gives up its half.
    Status.CANCELLING: Phase.LOST,
    Status.CANCELLED: Phase.LOST,
    # No verdict: up to QEMU 2.12 the guest is lost, but 11.1 says the same where the destination rejected the
    # device state and the guest goes on here, libvirt having called it split early.  A look at both hosts tells.
    Status.FAILING: Phase.BROKEN,
    Status.FAILED: Phase.BROKEN,
}
_AGAIN: _Row = {Status.NONE: Phase.PREPARING, Status.SETUP: Phase.PREPARING}

SOURCE: Mapping[Phase, _Row] = MappingProxyType(
    {
        Phase.PREPARING: {
            **_AGAIN,
            Status.WAIT_UNPLUG: Phase.PREPARING,
            Status.ACTIVE: Phase.PRECOPY,
            **_ONWARD,
            **_BACK,
            Status.POSTCOPY_PAUSED: Phase.BROKEN,  # found like this by an attach
            Status.POSTCOPY_RECOVER_SETUP: Phase.RECOVERING,
            Status.POSTCOPY_RECOVER: Phase.RECOVERING,
        },
        Phase.PRECOPY: {
            Status.ACTIVE: Phase.PRECOPY,
            **_ONWARD,
            **_BACK,
            Status.POSTCOPY_PAUSED: Phase.BROKEN,  # postcopy-active was missed
        },
        Phase.SWITCHING: {
            **_ONWARD,
            **_BACK,
            Status.POSTCOPY_PAUSED: Phase.BROKEN,
        },
        Phase.POSTCOPY: _SPLIT,
        Phase.BROKEN: _SPLIT,
        Phase.RECOVERING: _SPLIT,
        Phase.GOING_BACK: {
            **_BACK,
            Status.COMPLETED: Phase.COMPLETED,  # the cancel came too late
            Status.POSTCOPY_PAUSED: Phase.BROKEN,  # and postcopy-active was missed
        },
        Phase.COMPLETED: {Status.COMPLETED: Phase.COMPLETED, **_AGAIN},
        Phase.CANCELLED: {Status.CANCELLED: Phase.CANCELLED, **_AGAIN},
        Phase.FAILED: {Status.FAILED: Phase.FAILED, **_AGAIN},
        Phase.LOST: {
            Status.CANCELLING: Phase.LOST,
            Status.CANCELLED: Phase.LOST,
            Status.FAILED: Phase.LOST,
            # The cancel came as the link broke: seen with QEMU 7.2, which waits for a resume then.
            Status.POSTCOPY_PAUSED: Phase.BROKEN,
        },
    }
)

#: A destination sees no switchover, cannot be cancelled, and goes through ``setup`` again when
#: ``migrate-recover`` is sent to a QEMU < 10.0.
_DESTINATION_SPLIT: _Row = {
    Status.POSTCOPY_ACTIVE: Phase.POSTCOPY,
    Status.POSTCOPY_PAUSED: Phase.BROKEN,
    Status.POSTCOPY_RECOVER: Phase.RECOVERING,
    Status.COMPLETED: Phase.COMPLETED,
    Status.FAILED: Phase.LOST,
}
#: ``setup`` then speaks of a recovery, also where the break before it was missed.
_DESTINATION_AWAY: _Row = {**_DESTINATION_SPLIT, Status.SETUP: Phase.BROKEN}
_DESTINATION_ONWARD: _Row = {
    Status.POSTCOPY_DEVICE: Phase.SWITCHING,
    **_DESTINATION_SPLIT,
    Status.FAILING: Phase.GOING_BACK,
    Status.FAILED: Phase.FAILED,
}

DESTINATION: Mapping[Phase, _Row] = MappingProxyType(
    {
        Phase.PREPARING: {
            **_AGAIN,
            Status.ACTIVE: Phase.PRECOPY,
            **_DESTINATION_ONWARD,
        },
        Phase.PRECOPY: {Status.ACTIVE: Phase.PRECOPY, **_DESTINATION_ONWARD},
        Phase.SWITCHING: _DESTINATION_ONWARD,
        Phase.POSTCOPY: _DESTINATION_AWAY,
        Phase.BROKEN: _DESTINATION_AWAY,
        Phase.RECOVERING: _DESTINATION_AWAY,
        Phase.GOING_BACK: {
            Status.FAILING: Phase.GOING_BACK,
            Status.FAILED: Phase.FAILED,
        },
        Phase.COMPLETED: {Status.COMPLETED: Phase.COMPLETED, **_AGAIN},
        Phase.CANCELLED: {},
        Phase.FAILED: {Status.FAILED: Phase.FAILED, **_AGAIN},
        Phase.LOST: {Status.FAILED: Phase.LOST},
    }
)

TRANSITIONS: Mapping[Side, Mapping[Phase, _Row]] = MappingProxyType(
    {Side.SOURCE: SOURCE, Side.DESTINATION: DESTINATION}
)


def next_phase(side: Side, phase: Phase, status: str) -> Phase:
    """Follow a side from ``phase`` on, now that its QEMU says ``status``.

    :return: The new phase; ``phase`` itself for a status that is not known.
    :raises StateError: If the status is known and cannot follow.
    """
    try:
        known = Status(status)
    except ValueError:
        return phase
    try:
        return TRANSITIONS[side][phase][known]
    except KeyError:
        raise StateError(
            f"status '{status}' cannot follow the phase '{phase.value}'",
            side=side.value,
        ) from None


_PLACE_BY_SOURCE: Mapping[Phase, Place] = MappingProxyType(
    {
        Phase.PREPARING: Place.SOURCE,
        Phase.PRECOPY: Place.SOURCE,
        # The destination is started only after postcopy-active, so all of the guest is still here.
        Phase.SWITCHING: Place.SOURCE,
        Phase.POSTCOPY: Place.SPLIT,
        Phase.BROKEN: Place.SPLIT,
        Phase.RECOVERING: Place.SPLIT,
        Phase.GOING_BACK: Place.SOURCE,
        Phase.COMPLETED: Place.DESTINATION,
        Phase.CANCELLED: Place.SOURCE,
        Phase.FAILED: Place.SOURCE,
    }
)


#: A source after the switch: a complete destination is the guest then.
_SWITCHED = frozenset(phase for phase in Phase if phase.is_split) | {
    Phase.COMPLETED,
    Phase.LOST,
}
_WENT_BACK = frozenset((Phase.GOING_BACK, Phase.CANCELLED, Phase.FAILED))


def place(source: Phase, destination: Phase) -> Place:
    """Say where the guest is when the sides are in these phases.

    In doubt the answer is *split*, because that is the one that forbids touching either half.
    """
    if destination is Phase.COMPLETED:
        # Either side may announce completion first, and the source's switch may have been missed.
        return Place.DESTINATION if source in _SWITCHED else Place.SPLIT
    if Phase.LOST in (source, destination):
        return Place.LOST
    is_completed = source is Phase.COMPLETED
    in_doubt = destination in _WENT_BACK if is_completed else destination.is_split
    return Place.SPLIT if in_doubt else _PLACE_BY_SOURCE[source]


def whereabouts(here: Half, there: Half) -> Place:
    """Say where the guest is, from what both daemons say of the domain after a call that failed.

    While a half is on either side, the guest is nowhere else: an ordinary domain on the other side is
    then one that was stopped for reasons of its own, or that was there before.

    A destination whose source is gone lacks memory if it has noticed the break; if it has not, it may have all
    of it and not have said so yet.

    What a completed post-copy has left on the source is all of the guest, though not the newest: nothing is lost by it.
    """
    if here.is_split:
        return Place.LOST if there.is_absent else Place.SPLIT
    if there.is_split:
        if not here.is_absent:
            return Place.SPLIT
        return Place.LOST if there is Half.SPLIT_FAILED else Place.UNKNOWN
    if here is Half.WHOLE or (here is Half.MIGRATING and there.is_absent):
        return Place.SOURCE
    if (here.is_absent or here is Half.LEFT) and there is Half.WHOLE:
        return Place.DESTINATION
    if here.is_absent and there.is_absent:
        return Place.LOST
    return Place.UNKNOWN


def conclude(before: Place, ended: Ended, *, has_died: bool = False) -> Place:
    """Say where the guest is at the end.

    :param before: Where it was by all that was seen until then.
    :param has_died: Whether the source's QEMU ended without being asked to.
    """
    if not ended.was_sent:
        return Place.SOURCE
    is_nowhere = ended.here.is_absent and ended.there.is_absent
    if ended.error is None:
        return Place.LOST if is_nowhere else Place.DESTINATION
    if is_nowhere and before is Place.SOURCE:
        # A guest that was shut down there during pre-copy is where it was.
        return Place.LOST if has_died else Place.SOURCE
    found = whereabouts(ended.here, ended.there)
    is_suspect = ended.here is Half.LEFT
    is_suspect |= ended.here is Half.WHOLE and before is not Place.SOURCE
    if is_suspect and ended.there in (Half.WHOLE, Half.UNKNOWN):
        found = Place.UNKNOWN  # maybe one on each host: looks are to tell
    return before if found is Place.UNKNOWN and before is Place.SPLIT else found
