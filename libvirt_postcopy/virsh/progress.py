"""What ``--verbose`` shows: both phases on one line, and the figures at the end.

The migration's own loop tells :class:`Progress` that something is new, nothing more; the line is made and
written by the main thread, so that a terminal which takes no output cannot delay a switch.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import Protocol

from libvirt_postcopy.actions import Abort, Note
from libvirt_postcopy.events import Resumed, Side
from libvirt_postcopy.figures import Summary
from libvirt_postcopy.phases import Phase
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.units import MIB
from libvirt_postcopy.virsh.terminal import Terminal

__all__ = ["Moment", "Progress", "Viewed", "describe", "summarise"]

REFRESH_S = 0.5
"""Between two writings of the line."""

PLAIN_S = 5.0
"""Between two lines of the same phase where nobody looks."""


class Viewed(Protocol):
    """A migration as far as it is shown (:class:`libvirt_postcopy.api.Job`)."""

    @property
    def phase(self) -> Phase: ...

    def stats(self) -> Stats | None: ...

    def summary(self) -> Summary: ...


@dataclass(frozen=True)
class Moment:
    """What one line shows.

    :ivar passes: Passes over memory that are done.
    :ivar downtime_ms: Known from the moment at which the guest runs on the destination.
    """

    phase: Phase
    stats: Stats | None = None
    passes: int = 0
    downtime_ms: float | None = None

    @property
    def percent(self) -> float:
        """Of the memory, as virsh counts: what is left of all, never 100 before the end."""
        if self.phase is Phase.COMPLETED:
            return 100.0
        stats = self.stats
        if stats is None or not stats.memory_total or stats.memory_remaining is None:
            return 0.0
        done = 1 - stats.memory_remaining / stats.memory_total
        return min(max(int(done * 10_000) / 100, 0.0), 99.99)


def describe(moment: Moment) -> str:
    """Write one line.  It begins as virsh's does, so that who reads that can read this."""
    parts = [_phase(moment), *_figures(moment)]
    return f"Migration: [{moment.percent:5.2f} %] {', '.join(parts)}"


def _phase(moment: Moment) -> str:
    if moment.phase is Phase.PRECOPY:
        return f"pre-copy pass {moment.passes + 1}"
    return str(moment.phase.value)


def _figures(moment: Moment) -> list[str]:
    """The most telling first: a narrow terminal cuts the line off."""
    stats = moment.stats
    if stats is None or not stats.memory_total:
        return []
    if moment.phase is Phase.PREPARING or moment.phase.is_final:
        return []
    figures = []
    if stats.memory_remaining is not None:
        figures.append(f"{_size(stats.memory_remaining)} remaining")
    if moment.phase.is_split:
        if moment.downtime_ms is not None:
            figures.append(f"downtime {moment.downtime_ms:.0f} ms")
        figures.append(
            _count(stats.postcopy_requests or 0, "page request", "page requests")
        )
    elif moment.phase is Phase.PRECOPY and stats.dirty_bytes_per_s:
        figures.append(f"dirty rate {_size(stats.dirty_bytes_per_s)}/s")
    if stats.bytes_per_s:
        figures.append(f"{_size(stats.bytes_per_s)}/s")
    return figures


def summarise(result: Summary, *, is_peer2peer: bool) -> str:
    """Write the line of the end: how long, how dark, when and why the switch came, how much."""
    parts = []
    if result.downtime_ms is not None:
        parts.append(f"downtime {result.downtime_ms:.0f} ms")
    parts.append(_count(result.passes, "pass", "passes"))
    parts.append(_switch(result))
    if result.precopy_bytes is not None:
        parts.append(f"pre-copy {_size(result.precopy_bytes)}")
    if result.postcopy_bytes is not None:
        parts.append(f"post-copy {_size(result.postcopy_bytes)}")
    if result.switch is not None and result.postcopy_requests is not None:
        parts.append(_count(result.postcopy_requests, "page request", "page requests"))
    parts.append(f"managed by {'the daemons' if is_peer2peer else 'this client'}")
    total = "" if result.total_ms is None else f" in {result.total_ms / 1000:.1f} s"
    return f"Migrated{total}: {', '.join(parts)}"


def _switch(result: Summary) -> str:
    switch = result.switch
    if switch is None:
        return "completed as pre-copy"
    came_ms = switch.took_effect_ms
    if came_ms == switch.asked_ms:  # somebody else asked, and it was only seen
        return f"switch at {came_ms / 1000:.1f} s ({switch.reason})"
    text = f"switch asked for at {switch.asked_ms / 1000:.1f} s ({switch.reason})"
    if came_ms is not None:
        text += f" and came {came_ms - switch.asked_ms:.0f} ms later"
    if switch.attempts > 1:
        text += f", after {switch.attempts} attempts"
    return text


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _size(count: float) -> str:
    return (
        f"{count / MIB:.1f} MiB"
        if count < 10_240 * MIB
        else f"{count / MIB / 1024:.1f} GiB"
    )


class Progress:
    """Watches one migration and shows it.

    :param is_verbose: Show the line; what the operator should know is said in any case.
    """

    def __init__(self, terminal: Terminal, *, is_verbose: bool) -> None:
        self._terminal = terminal
        self._is_verbose = is_verbose
        self._notes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._is_new = False
        self._shown_at = float("-inf")
        self._shown: tuple[Phase, int, int] | None = None
        self._is_aborting = False
        self.is_resumed = False  #: the guest was seen to run on the destination

    def see(self, what: object) -> None:
        """Take note of an event or an action; on the loop's thread, never blocks."""
        if isinstance(what, Note):
            self._notes.put(f"note: {what.text}")
        elif isinstance(what, Abort) and not self._is_aborting:
            self._is_aborting = True  # it may be sent more than once
            self._notes.put("aborting: the guest stays on the source")
        elif isinstance(what, Resumed) and what.side is Side.DESTINATION:
            self.is_resumed = True
        self._is_new = True

    def update(self, job: Viewed, now: float) -> None:
        """Show what is new, at most every :data:`REFRESH_S`."""
        self.say_notes()
        if not self._is_verbose or not self._is_new or job.phase.is_final:
            return
        if now - self._shown_at < REFRESH_S:
            return
        self._is_new = False
        self._show(self._moment(job), now)

    def say_notes(self) -> None:
        """Say what the operator should know, verbose or not."""
        while not self._notes.empty():
            self._terminal.say(self._notes.get())

    def finish(self, result: Summary, *, is_peer2peer: bool) -> None:
        """Show the end of a migration that came to its end."""
        if not self._is_verbose:
            return
        done = describe(Moment(Phase.COMPLETED))
        if self._terminal.is_interactive:
            self._terminal.rewrite(done)
            self._terminal.end_line()
        else:
            self._terminal.say(done)
        self._terminal.say(summarise(result, is_peer2peer=is_peer2peer))

    def _moment(self, job: Viewed) -> Moment:
        summary = job.summary()
        return Moment(
            phase=job.phase,
            stats=job.stats(),
            passes=summary.passes,
            # before that it is QEMU's expectation
            downtime_ms=summary.downtime_ms if self.is_resumed else None,
        )

    def _show(self, moment: Moment, now: float) -> None:
        if self._terminal.is_interactive:
            self._terminal.rewrite(describe(moment))
        elif self._is_worth_a_line(moment, now):
            self._terminal.say(describe(moment))
        else:
            return
        self._shown_at = now
        self._shown = _step(moment)

    def _is_worth_a_line(self, moment: Moment, now: float) -> bool:
        """Each phase, and in it each pass and each tenth, but not too many."""
        if self._shown is None or self._shown[0] is not moment.phase:
            return True
        return now - self._shown_at >= PLAIN_S and self._shown != _step(moment)


def _step(moment: Moment) -> tuple[Phase, int, int]:
    return moment.phase, moment.passes, int(moment.percent / 10)
