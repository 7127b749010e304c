"""Observers that remember, and can be waited on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from threading import Event
from typing import Any

import libvirt

import libvirt_postcopy as postcopy
from libvirt_postcopy.actions import Resume
from libvirt_postcopy.events import Ended, Side, StatusSeen
from libvirt_postcopy.stats import Stats
from scenes.stage import Stage
from waiting import wait_until

__all__ = [
    "Recorder",
    "Awaited",
    "Recovered",
    "all_of",
    "check_downtime",
    "check_resumes",
    "wait_until_pages_come",
    "wait_until_pages_flow",
]

_LONGEST_S = 30.0

ANSWERED = 8
"""After more requests than this, the first are answered."""


class Recorder:
    """Keeps what it was shown, with the time."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, object]] = []

    def __call__(self, what: object) -> None:
        self.seen.append((time.monotonic(), what))

    def of(self, kind: type) -> list[Any]:
        return [what for _, what in self.seen if isinstance(what, kind)]

    def times_of(self, kind: type) -> list[float]:
        return [when for when, what in self.seen if isinstance(what, kind)]


def wait_until_pages_flow(job: Any) -> None:
    """The destination has got pages that it has asked for: a vCPU asks for the next one only then.

    The first are an interrupt's stack: TCG pushes its frame with QEMU's big lock held, so a link that breaks before they
    have come stops the main loop, no monitor command but an out-of-band one is answered, and libvirt sends none (seen
    with QEMU 7.2 and libvirt 9.0: ``do_interrupt_all`` in ``handle_userfault``).
    """
    wait_until(
        lambda: _are_answered(job.stats()), "page requests", _LONGEST_S, pause=0.1
    )


def wait_until_pages_come(domain: libvirt.virDomain) -> None:
    """The same of a migration that another client drives, as the source's daemon tells it.

    That the guest runs on the destination is no sign of it: that is told before it has got a page.
    """
    wait_until(
        lambda: _are_answered(postcopy.job_stats(domain)), "page requests", _LONGEST_S
    )


def _are_answered(stats: Stats | None) -> bool:
    return stats is not None and (stats.postcopy_requests or 0) > ANSWERED


class Awaited(Recorder):
    """Can be waited on until it has been shown something."""

    def __init__(
        self, kind: type, test: Callable[[Any], bool] = lambda what: True
    ) -> None:
        super().__init__()
        self._kind = kind
        self._test = test
        self._seen = Event()

    def __call__(self, what: object) -> None:
        super().__call__(what)
        if isinstance(what, self._kind) and self._test(what):
            self._seen.set()

    def wait(self) -> None:
        assert self._seen.wait(_LONGEST_S), f"no {self._kind.__name__} was seen"


def all_of(*observers: Callable[[object], None]) -> Callable[[object], None]:
    """One observer that shows what it is shown to each of several."""

    def observe(what: object) -> None:
        for each in observers:
            each(what)

    return observe


def check_downtime(
    stage: Stage,
    result: postcopy.MigrationResult,
    blackout_ms: float,
    migrate: Callable[[libvirt.virDomain, str], postcopy.MigrationResult],
) -> None:
    """Asserts that the downtime that was told is no longer than the guest was silent.

    It is the time between two events, each of which a busy machine may tell late.  So the guest goes to and fro until more
    downtimes are right than too long, two at least, or three are too long, which is no chance any more.

    :param blackout_ms: That of this migration.
    :param migrate: Migrates the guest anew, to a host's URI.
    """
    right, too_long = 0, []
    for to in itertools.cycle("ab"):
        assert result.downtime_ms is not None and result.downtime_ms > 0
        if result.downtime_ms <= blackout_ms + 10:
            right += 1
        else:
            too_long.append(f"{result.downtime_ms:.0f} ms of {blackout_ms:.0f} ms")
        assert len(too_long) < 3, f"longer than the blackouts: {', '.join(too_long)}"
        if right > max(len(too_long), 1):
            return
        began = time.monotonic()
        result = migrate(result.domain, f"qemu+tcp://{to}/system")
        blackout_ms = stage.blackout_ms(began)


def check_resumes(seen: Recorder, breaks: int) -> None:
    """Asserts that the source's QEMU has gone on after each break, and that none was resumed more often than it had to be.

    That is once, and again only where the resume before has ended without bringing the guest back: a daemon may still be
    busy with the call before.  One beside another may cost the guest.
    """
    assert _recoveries(seen) == breaks
    attempt, refused = 0, 0  # the one that is under way, if any
    for _, what in seen.seen:
        if isinstance(what, Resume):
            assert not attempt, f"resume {what.attempt} beside resume {attempt}"
            attempt = what.attempt
        elif isinstance(what, Ended) and what.call in (None, attempt):
            refused += bool(attempt and what.error)
            attempt = 0
        elif what == StatusSeen(Side.SOURCE, "postcopy-active"):
            attempt = 0  # what ends it from here on is another break
    resumes = len(seen.of(Resume))
    assert breaks <= resumes <= breaks + refused, f"{resumes} resumes"


def _recoveries(seen: Recorder) -> int:
    """How often the source's QEMU has gone on after a break; what lies between the two may pass unseen."""
    ends = ("postcopy-paused", "postcopy-active")
    source = [it.status for it in seen.of(StatusSeen) if it.side is Side.SOURCE]
    told = [status for status in source if status in ends]
    return list(zip(told, told[1:])).count(ends)


class Recovered:
    """Whether the source's QEMU is in post-copy again after a break.

    Not sooner: a destination of QEMU 7.2 dies if the link breaks between the two.
    """

    def __init__(self) -> None:
        self._was_broken = False

    def __call__(self, seen: StatusSeen) -> bool:
        if seen.side is Side.DESTINATION:
            return False
        self._was_broken |= seen.status == "postcopy-paused"
        return self._was_broken and seen.status == "postcopy-active"
