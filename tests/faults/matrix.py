"""Which fault at which moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from faults.faults import FAULTS, Fault
from faults.moments import Moment

__all__ = ["CELLS", "Cell", "cells"]


@dataclass(frozen=True)
class Cell:
    """One migration, one moment, one fault."""

    moment: Moment
    fault: Fault

    def __str__(self) -> str:
        return f"{self.moment.value}, {self.fault.name}"

    @property
    def is_before_switch(self) -> bool:
        """The guest is wholly on the source."""
        return self.moment in _BEFORE

    @property
    def is_broken_first(self) -> bool:
        """The moment is one of a recovery, so the sockets are killed once before."""
        return self.moment in (Moment.BROKEN, Moment.RECOVERING, Moment.RECOVERED)

    @property
    def can_survive(self) -> bool:
        """Whether the guest can survive it: both QEMUs do, or it does not need the one that is killed."""
        if self.defect:
            return False
        if not self.fault.kills:
            return True
        return self.is_before_switch and self.fault.kills == "b"

    @property
    def defect(self) -> str:
        """The defect of QEMU that makes it fatal, if there is one."""
        return _DEFECTS.get((self.moment, self.fault.name), "")

    @property
    def needs_resume(self) -> bool:
        """Whether both QEMUs stand still until somebody resumes the migration."""
        return not self.is_before_switch and (
            self.is_broken_first or self.fault.name in _BREAK
        )


_BREAK = (
    "link cut until noticed",
    "link cut until TCP gives up, ss -K",
    "sockets killed",
    "black hole until noticed",
    "migrate-pause by somebody",
)
_DEFECTS = {
    (
        Moment.SWITCH,
        "client killed",
    ): "without the client that manages it libvirt destroys the destination's half before it runs; --p2p survives",
    (
        Moment.RECOVERING,
        "sockets killed",
    ): "the destination's QEMU 7.2 dies if the link breaks while it recovers",
}
_BEFORE = (Moment.BEFORE, Moment.PREPARE, Moment.FIRST_PASS, Moment.LATER_PASS)

_LINK = (
    "link cut for 2 s",
    "link cut until noticed",
    "sockets killed",
    "black hole until noticed",
)
_DAEMONS = ("destination's daemon killed", "source's daemon killed")
_QEMUS = ("destination's QEMU killed", "source's QEMU killed")

_SETTINGS = (
    "wrong migrate port",
    "userfaultfd forbidden",
    "destination out of memory",
)

_ROWS = {
    Moment.BEFORE: _SETTINGS,
    Moment.PREPARE: ("link cut for 2 s", "sockets killed", *_DAEMONS, "client killed"),
    Moment.FIRST_PASS: (*_LINK, *_DAEMONS, "client killed", *_QEMUS),
    Moment.LATER_PASS: ("sockets killed", *_DAEMONS, "client killed"),
    Moment.SWITCH: ("link cut for 2 s", "client killed"),
    Moment.SPLIT: (
        *_LINK,
        "link cut until TCP gives up, ss -K",
        *_DAEMONS,
        "client killed",
        "migrate-pause by somebody",
        *_QEMUS,
    ),
    Moment.BROKEN: (*_DAEMONS, "client killed"),
    Moment.RECOVERING: ("link cut for 2 s", "sockets killed", *_DAEMONS),
    Moment.RECOVERED: (
        "link cut for 2 s",
        "sockets killed",
        "black hole until noticed",
        "migrate-pause by somebody",
        *_DAEMONS,
        "client killed",
    ),
    Moment.FINISHING: ("link cut for 2 s", "sockets killed", *_DAEMONS),
}

CELLS = tuple(
    Cell(moment, FAULTS[name]) for moment, names in _ROWS.items() for name in names
)


def cells(text: str = "") -> Iterator[Cell]:
    """Those whose name contains a text."""
    return (cell for cell in CELLS if text in str(cell))
