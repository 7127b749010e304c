"""Which fault at which moment: every pair is a cell, or there is a reason why it is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from faults.faults import FAULTS, Fault
from faults.moments import Moment

__all__ = ["CELLS", "Cell", "FORGOTTEN", "NO_CELL", "cells", "reason_for_no_cell"]


@dataclass(frozen=True)
class Cell:
    """One migration, one moment, one fault.

    :ivar is_p2p: The source's daemon manages the migration, not the client.
    """

    moment: Moment
    fault: Fault
    is_p2p: bool = False

    def __str__(self) -> str:
        way = ", p2p" if self.is_p2p else ""
        return f"{self.moment.value}, {self.fault.name}{way}"

    @property
    def is_before_switch(self) -> bool:
        """The guest is wholly on the source."""
        return self.moment in _BEFORE

    @property
    def is_broken_first(self) -> bool:
        """The moment is one of a recovery, so the sockets are killed once before."""
        return self.moment in (Moment.BROKEN, Moment.RECOVERING, Moment.RECOVERED)

    @property
    def needs_both(self) -> bool:
        """Both QEMUs stand still until the migration is resumed: how long that takes is promised."""
        is_whole = self.moment is Moment.SPLIT
        return is_whole and self.fault.name in (_SOCKETS, _PAUSE)

    @property
    def kills_what_is_needed(self) -> bool:
        """It kills a QEMU without which the guest is no more, whoever migrates it."""
        if self.is_before_switch:
            return self.fault.kills == "a"
        return bool(self.fault.kills)

    @property
    def what_is_forgotten(self) -> frozenset[str]:
        """What libvirt forgets to put back, and nobody else can without a taint, as `left_behind` words it."""
        is_forgotten = self.fault.name == _DAEMON_THERE and not self.is_before_switch
        return FORGOTTEN if is_forgotten else frozenset()

    def defect(self, versions: Mapping[str, str]) -> str:
        """The defect of these versions of QEMU or libvirt that makes it fatal or final, if there is one."""
        found = (each.text for each in DEFECTS if each.applies(self, versions))
        return next(found, "")

    def can_survive(self, versions: Mapping[str, str]) -> bool:
        """Whether the guest must run afterwards."""
        return not self.kills_what_is_needed and not self.defect(versions)


_BEFORE = (Moment.BEFORE, Moment.PREPARE, Moment.FIRST_PASS, Moment.LATER_PASS)

_SHORT_CUT = "link cut for 2 s"
_CUT = "link cut until noticed"
_TCP = "link cut until TCP gives up, ss -K"
_SOCKETS = "sockets killed"
_BLACK_HOLE = "black hole until noticed"
_PAUSE = "migrate-pause by somebody"
_CLIENT = "client killed"
_DAEMON_THERE = "destination's daemon killed"
_DAEMONS = (_DAEMON_THERE, "source's daemon killed")
_SETTINGS = (
    "wrong migrate port",
    "userfaultfd forbidden",
    "destination out of memory",
)
_LINK = (_SHORT_CUT, _CUT, _SOCKETS, _BLACK_HOLE)


FORGOTTEN = frozenset(
    f"{capability}: False before, True now"
    for capability in (
        "late-block-activate",
        "postcopy-preempt",
        "postcopy-ram",
        "return-path",
        "switchover-ack",
    )
)


@dataclass(frozen=True)
class Defect:
    """What no client can make good.

    :ivar program: Whose, as the versions are named.
    :ivar since: First release that has it.
    :ivar before: First release that does not.
    :ivar ways: Whether managed by the client (False), peer to peer (True), or both.
    """

    text: str
    program: str
    since: tuple[int, ...]
    before: tuple[int, ...]
    moments: tuple[Moment, ...]
    faults: tuple[str, ...]
    ways: tuple[bool, ...] = (False, True)

    def applies(self, cell: Cell, versions: Mapping[str, str]) -> bool:
        is_of_it = (
            cell.moment in self.moments
            and cell.fault.name in self.faults
            and cell.is_p2p in self.ways
        )
        return is_of_it and self.since <= _numbers(versions[self.program]) < self.before


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


_NEVER = (1000,)
_SPLIT = (Moment.SPLIT, Moment.FINISHING)
_RECOVERY = (Moment.BROKEN, Moment.RECOVERING, Moment.RECOVERED)

_NO_WAY_BACK = (
    "QEMU before 10.2 does not go back to the source once that has switched (7.2 does where libvirt's cancel comes"
    " before the break)"
)

# Since QEMU 10.2 (qapi/migration.json, MigrationStatus) a source that has switched is in ``postcopy-device`` until the
# destination has all of the devices' state, and can go back until then.  libvirt starts the destination later.
DEFECTS = (
    Defect(
        "the destination's QEMU dies if the link breaks while it recovers (seen with 7.2.22 and 11.1.2)",
        "QEMU",
        (7, 2),
        (11, 2),
        (Moment.RECOVERING,),
        (_SOCKETS,),
    ),
    Defect(
        f"{_NO_WAY_BACK}, and a destination that has not got all"
        " of the devices' state by then cannot be resumed: it ends",
        "QEMU",
        (2, 5),
        (10, 2),
        (Moment.SWITCH,),
        (_SOCKETS, _PAUSE),
    ),
    Defect(
        f"{_NO_WAY_BACK}, and libvirt destroys the destination's"
        " half if the call that would start it does not come",
        "QEMU",
        (2, 5),
        (10, 2),
        (Moment.SWITCH,),
        (_CUT, "destination's daemon killed"),
    ),
    Defect(
        f"{_NO_WAY_BACK}, and without the client that manages it"
        " libvirt destroys the destination's half before it runs; --p2p survives",
        "QEMU",
        (2, 5),
        (10, 2),
        (Moment.SWITCH,),
        (_CLIENT,),
        ways=(False,),
    ),
    Defect(
        f"{_NO_WAY_BACK}, and libvirt destroys the destination's"
        " half when the source's daemon dies before it has said that the switch is made; started again, that one"
        " cancels what cannot be cancelled, and waits for the end of it for ever",
        "QEMU",
        (2, 5),
        (10, 2),
        (Moment.SWITCH,),
        ("source's daemon killed",),
    ),
    Defect(
        "no QEMU goes back to the source once the destination has all of the devices' state, and libvirt destroys the"
        " destination's half where it cannot start it",
        "QEMU",
        (10, 2),
        _NEVER,
        (Moment.SWITCH,),
        (_CUT, _SOCKETS, _PAUSE, *_DAEMONS),
    ),
    Defect(
        "no QEMU goes back to the source once the destination has all of the devices' state, and without the client that"
        " manages it libvirt destroys the destination's half before it runs; --p2p survives",
        "QEMU",
        (10, 2),
        _NEVER,
        (Moment.SWITCH,),
        (_CLIENT,),
        ways=(False,),
    ),
    Defect(
        "libvirt 11.2.0 to 11.3.0 crash when a migration is resumed through them, so it is never tried and both"
        " halves are kept; 11.4.0 can",
        "libvirt",
        (11, 2),
        (11, 4),
        _SPLIT,
        (_CUT, _TCP, _SOCKETS, _BLACK_HOLE, _PAUSE),
    ),
    Defect(
        "libvirt 11.2.0 to 11.3.0 crash when a migration is resumed through them, so it is never tried and both"
        " halves are kept; 11.4.0 can",
        "libvirt",
        (11, 2),
        (11, 4),
        _RECOVERY,
        tuple(FAULTS),
    ),
)

_NOTHING_YET = "nothing is under way that could break: a call to a host that does not answer fails like any other"
_LASTS = (
    "it is wrong from the beginning, so the migration ends in the cell 'before' and never comes so far;"
    " memory that runs out later kills the destination's QEMU, which has its own cells"
)
_NO_CONNECTION = "the two QEMUs are not connected yet"
_TCP_ELSEWHERE = (
    "it differs from 'link cut until noticed' only by whose kernel notices first; measured in 'split',"
    " where both ends matter"
)
_NO_PAUSE = "QEMU refuses migrate-pause outside post-copy"
_GONE = "broken means that the connection is gone; the one that comes next has its cells in 'recovering'"
_SEEN = (
    "broken means that it has been noticed; a link that stays dead for longer while the client tries to recover"
    " is 'broken, link cut for 2 s'"
)

_REASONS: Mapping[Moment, Mapping[str, str]] = {
    Moment.PREPARE: {
        _SOCKETS: _NO_CONNECTION,
        _BLACK_HOLE: _NO_CONNECTION,
        _PAUSE: _NO_PAUSE,
    },
    Moment.FIRST_PASS: {_PAUSE: _NO_PAUSE},
    Moment.LATER_PASS: {_PAUSE: _NO_PAUSE},
    Moment.BROKEN: {
        _CUT: _SEEN,
        _SOCKETS: _GONE,
        _BLACK_HOLE: _SEEN,
        _PAUSE: "it is paused already",
    },
    Moment.RECOVERING: {
        _PAUSE: "QEMU before 9.1 refuses it until the recovery is done; 'sockets killed' breaks it there",
    },
}


def reason_for_no_cell(moment: Moment, name: str) -> str:
    """Why a fault at a moment is impossible or means nothing; empty for a cell."""
    if moment is Moment.BEFORE:
        return "" if name in _SETTINGS else _NOTHING_YET
    if name in _SETTINGS:
        return _LASTS
    if name == _TCP and moment is not Moment.SPLIT:
        return _TCP_ELSEWHERE
    return _REASONS.get(moment, {}).get(name, "")


P2P = dict.fromkeys((Moment.SWITCH, Moment.SPLIT), (*_LINK, *_DAEMONS, _CLIENT))
"""Peer to peer, where it matters who waits for whom: whoever manages the migration ends the switch."""


def _cells() -> Iterator[Cell]:
    for moment in Moment:
        for name, fault in FAULTS.items():
            if not reason_for_no_cell(moment, name):
                yield Cell(moment, fault)
        for name in P2P.get(moment, ()):
            yield Cell(moment, FAULTS[name], is_p2p=True)


CELLS = tuple(_cells())

NO_CELL = {
    (moment, name): reason
    for moment in Moment
    for name in FAULTS
    if (reason := reason_for_no_cell(moment, name))
}


def cells(text: str = "") -> list[Cell]:
    """The one of this name, or those whose name contains it."""
    is_it = [cell for cell in CELLS if text == str(cell)]
    return is_it or [cell for cell in CELLS if text in str(cell)]
