"""What Ctrl-C means while a guest moves.

Before the switch it undoes the migration: the abort is asked for, and its confirmation waited for.  After it
the guest is on both hosts and cannot go back, so the first only explains that, and a second leaves the
migration to the daemons.  The same goes while it cannot be told where the guest is.  Nothing is ever aborted after
the switch, and nothing killed.

SIGTERM and SIGHUP mean the same as Ctrl-C, each time they come: whoever sends them wants the program to end,
and the guest must not pay for it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from types import FrameType
from typing import Any

from libvirt_postcopy.events import Place

__all__ = ["Answer", "Interrupts", "Signals", "easily_interrupted"]


class Answer(Enum):
    """What to do about an interrupt."""

    ABORT = "ask for the abort and wait for its confirmation"
    STILL_ABORTING = "the abort was asked for; go on waiting"
    LEAVE = "stop waiting for the confirmation"
    TOO_LATE = "the switch came before the abort; explain, go on"
    EXPLAIN = "the guest is split: explain, go on"
    IN_DOUBT = "it cannot be told where the guest is: explain, go on looking"
    NOT_YET = "detach as soon as the guest runs on the destination"
    NEEDED = "detach as soon as the guest, wherever it is, survives that"
    DETACH = "leave the migration to itself"
    ENDING = "it is as good as over; go on"


_EXPLAINED = {Place.SPLIT: Answer.EXPLAIN, Place.UNKNOWN: Answer.IN_DOUBT}
_HELD = {Place.SPLIT: Answer.NOT_YET, Place.UNKNOWN: Answer.NEEDED}
_ABORTED_IN_VAIN = {Place.SPLIT: Answer.TOO_LATE, Place.UNKNOWN: Answer.IN_DOUBT}


class Interrupts:
    """Decides.  Knows neither signals nor time nor libvirt."""

    def __init__(self) -> None:
        self._aborts = 0
        self._explained: set[Place] = set()
        self._wants_out = False

    @property
    def is_aborting(self) -> bool:
        """Whether the abort was asked for."""
        return self._aborts > 0

    def press(self, guest: Place, *, can_leave: bool) -> Answer:
        """Take an interrupt.

        :param can_leave: Whether the guest would survive the end of this program at this moment.
        """
        if guest is Place.SOURCE:
            return self._abort(can_leave)
        if guest not in _EXPLAINED:
            return Answer.ENDING
        if not self._explained:  # each text says what the next one does
            self._explained.add(guest)
            return _EXPLAINED[guest]
        self._wants_out = True
        return Answer.DETACH if can_leave else _HELD[guest]

    def look(self, guest: Place, *, can_leave: bool) -> Answer | None:
        """Say what has become of earlier interrupts, now that time has passed."""
        if guest not in _EXPLAINED:
            return None
        if self._wants_out and can_leave:
            return Answer.DETACH
        if self.is_aborting and guest not in self._explained:
            self._explained.add(guest)
            return _ABORTED_IN_VAIN[guest]
        return None

    def _abort(self, can_leave: bool) -> Answer:
        self._aborts += 1
        if self._aborts == 1:
            return Answer.ABORT
        return Answer.LEAVE if self._aborts > 2 and can_leave else Answer.STILL_ABORTING


@contextmanager
def easily_interrupted() -> Iterator[None]:
    """Let Ctrl-C end the program, also while libvirt blocks in C; nothing has been started yet."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Signals:
    """Counts SIGINT, SIGTERM and SIGHUP, once it has been told to catch them.

    The handler only counts.  Whoever waits does so in slices, and takes the count after each.  A program
    never gives them back: between the end of a migration and its exit status nothing may interrupt it.
    """

    _CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._seen = 0
        self._taken = 0
        self._before: dict[signal.Signals, Any] = {}

    def catch(self) -> None:
        """Count them from now on."""
        for number in self._CAUGHT:
            before = signal.getsignal(number)
            if number in self._before or before is signal.SIG_IGN:
                continue  # caught already; or nohup, or a background job of a shell
            self._before[number] = before
            signal.signal(number, self._count)

    def release(self) -> None:
        """Give them back to whom they belonged; for who goes on after :func:`main`."""
        while self._before:
            signal.signal(*self._before.popitem())

    def take(self) -> int:
        """How many came since the last call."""
        new = self._seen - self._taken
        self._taken += new
        return new

    def _count(self, number: int, frame: FrameType | None) -> None:
        self._seen += 1
