"""What ``--verbose`` shows: both phases on one line, and the figures at the end.

The migration's own loop tells :class:`Progress` that something is new, nothing more; the line is made and
written by the main thread, so that a terminal which takes no output cannot delay a switch.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import shorten
from typing import Protocol

from libvirt_postcopy.actions import Abort, Note, Resume
from libvirt_postcopy.events import Died, Half, Looked, Resumed, Side, StatusSeen
from libvirt_postcopy.figures import Summary, SwitchRecord
from libvirt_postcopy.phases import Phase
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.units import MIB
from libvirt_postcopy.virsh.options import option_names
from libvirt_postcopy.virsh.terminal import Terminal

__all__ = ["Moment", "Progress", "Seen", "Viewed", "describe", "summarise"]

REFRESH_S = 0.5
"""Between two writings of the line."""

PLAIN_S = 5.0
"""Between two lines of the same phase where nobody looks."""


class Viewed(Protocol):
    """A migration as far as it is shown (:class:`libvirt_postcopy.api.Job`)."""

    @property
    def phase(self) -> Phase: ...

    @property
    def driver(self) -> str: ...

    def stats(self) -> Stats | None: ...

    def summary(self) -> Summary: ...


@dataclass(frozen=True)
class Moment:
    """What one line shows.

    :ivar passes: Passes over memory that are done.
    :ivar blackout_ms: From the source's STOP to the destination's RESUME, both as seen here; known from then on.
        Waits for single pages come later, and QEMU counts them (``blocktime``).
    :ivar runs_there: The guest was seen to run on the destination, though its stop may not have been seen.
    :ivar shown_percent: What has been shown: a pass or the switch finds more to be sent, and what people read
        as progress must not go back.
    """

    phase: Phase
    stats: Stats | None = None
    passes: int = 0
    blackout_ms: float | None = None
    runs_there: bool = False
    shown_percent: float = 0.0

    @property
    def percent(self) -> float:
        """The most that was reached, of the memory; never 100 before the end."""
        return max(self.present_percent, self.shown_percent)

    @property
    def present_percent(self) -> float:
        """As virsh counts: what is left of all, now."""
        if self.phase is Phase.COMPLETED:
            return 100.0
        stats = self.stats
        if stats is None or not stats.memory_total or stats.memory_remaining is None:
            return 0.0
        done = 1 - stats.memory_remaining / stats.memory_total
        return min(max(int(done * 10_000) / 100, 0.0), 99.99)


def describe(moment: Moment, columns: int | None = None) -> str:
    """Write one line.  It begins as virsh's does, so that who reads that can read this.

    :param columns: Leave out the figures that do not fit, the least telling first.
    """
    line = f"Migration: [{moment.percent:5.2f} %] {_phase(moment)}"
    for figure in _figures(moment):
        longer = f"{line}, {figure}"
        if columns is not None and len(longer) > columns:
            break
        line = longer
    return line


def _phase(moment: Moment) -> str:
    if moment.phase is Phase.PRECOPY:
        return f"pre-copy pass {moment.passes + 1}"
    if moment.phase is Phase.POSTCOPY and moment.runs_there:
        return f"{moment.phase.value}, guest on destination"
    return str(moment.phase.value)


_FLOWS = frozenset((Phase.PRECOPY, Phase.POSTCOPY))
"""Elsewhere QEMU goes on telling the speed at which it last sent something."""


def _figures(moment: Moment) -> Iterator[str]:
    """The most telling first."""
    stats = moment.stats
    if stats is None or not stats.memory_total:
        return
    if moment.phase is Phase.PREPARING or moment.phase.is_final:
        return
    if stats.memory_remaining is not None:
        yield f"{_size(stats.memory_remaining)} left"
    if moment.phase in _FLOWS and stats.bytes_per_s:
        yield f"{_size(stats.bytes_per_s)}/s"
    if moment.phase is Phase.PRECOPY and stats.dirty_bytes_per_s:
        yield f"dirty rate {_size(stats.dirty_bytes_per_s)}/s"
    if moment.phase.is_split:
        if moment.blackout_ms is not None:
            yield f"blackout {moment.blackout_ms:.0f} ms"
        yield _requests(stats.postcopy_requests or 0)


def summarise(result: Summary) -> list[str]:
    """Write the lines of the end: how long and how dark, when and why the switch came, how much."""
    total = "" if result.ended_ms is None else f" in {result.ended_ms / 1000:.1f} s"
    lines = [f"Migrated{total}: {', '.join(_outcome(result))}"]
    if result.switch is not None:
        lines.append(_switch(result.switch))
    sent = _sent(result)
    return [*lines, f"Sent {sent}"] if sent else lines


def _outcome(result: Summary) -> Iterator[str]:
    if result.downtime_ms is not None:
        yield f"downtime {result.downtime_ms:.0f} ms"
    passes = f"{result.passes} {'pass' if result.passes == 1 else 'passes'}"
    if result.switch is None:
        if result.passes:
            yield passes
        yield "completed as pre-copy"
    elif result.passes:
        yield f"switched after {passes}"
    else:
        yield "switched during the first pass"


def _switch(switch: SwitchRecord) -> str:
    end = ""
    if switch.took_effect_ms not in (None, switch.asked_ms):
        late_ms = (switch.took_effect_ms or 0) - switch.asked_ms
        end += f", in effect {late_ms:.0f} ms later"
    if switch.attempts > 1:
        end += f", {switch.attempts} attempts"
    head = f"Switch at {switch.asked_ms / 1000:.1f} s"
    room = _WIDTH - len(f"{head} (){end}")
    return f"{head} ({shorten(switch.reason, room, placeholder=' ...')}){end}"


def _sent(result: Summary) -> str:
    parts = []
    if result.precopy_bytes is not None:
        parts.append(f"{_size(result.precopy_bytes)} in pre-copy")
    if result.postcopy_bytes is not None:
        parts.append(f"{_size(result.postcopy_bytes)} in post-copy")
    text = " and ".join(parts)
    if not text or result.switch is None or result.postcopy_requests is None:
        return text
    return f"{text} ({_requests(result.postcopy_requests)})"


_WIDTH = 79
"""Of the lines at the end, which are not to be broken by a terminal of 80 columns."""


def _requests(number: int) -> str:
    return f"{number} page request{'' if number == 1 else 's'}"


def _size(count: float) -> str:
    mib = count / MIB
    if mib < 99.95:
        return f"{mib:.1f} MiB"
    if mib < 10_240:
        return f"{mib:.0f} MiB"
    gib = mib / 1024
    return f"{gib:.1f} GiB" if gib < 10_240 else f"{gib / 1024:.1f} TiB"


@dataclass
class Seen:
    """What explains a failure better than libvirt's words.

    :ivar is_prepared: The destination's QEMU has begun to wait for the migration.
    :ivar has_died_here: The source's QEMU ended unasked before the guest ran on the destination.
    """

    is_prepared: bool = False
    has_died_here: bool = False


class Progress:
    """Watches one migration and shows it.

    :param is_verbose: Show the line; what the operator should know is said in any case.
    """

    def __init__(self, terminal: Terminal, *, is_verbose: bool) -> None:
        self._terminal = terminal
        self._is_verbose = is_verbose
        self._notes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._is_new = False
        self._shown_at = self._asked_at = float("-inf")
        self._percent = 0.0
        self._shown: tuple[Phase, bool, bool, int, int] | None = None
        self._is_aborting = False
        self.seen = Seen()
        self.is_resumed = False  #: the guest was seen to run on the destination
        self._is_half_there = False  # by the destination's daemon

    def see(self, what: object) -> None:
        """Take note of an event or an action; on the loop's thread, never blocks."""
        if isinstance(what, Note):
            self._notes.put(f"note: {what.text}")
        elif isinstance(what, Abort) and not self._is_aborting:
            self._is_aborting = True  # it may be sent more than once
            self._notes.put("aborting: the guest stays on the source")
        elif isinstance(what, Resume) and what.attempt == 1:
            self._notes.put("note: the link broke: resuming the migration")
        elif isinstance(what, Resumed) and what.side is Side.DESTINATION:
            self.is_resumed = True
        elif isinstance(what, StatusSeen) and what.side is Side.DESTINATION:
            self.seen.is_prepared = True
        elif isinstance(what, Died) and what.side is Side.SOURCE:
            self.seen.has_died_here = not self.is_resumed
        elif isinstance(what, Looked) and what.side is Side.DESTINATION:
            self._is_half_there |= what.half is Half.SPLIT
        self._is_new = True

    def update(self, job: Viewed, now: float) -> None:
        """Show what is new, at most every :data:`REFRESH_S`."""
        self.say_notes()
        if not self._is_verbose or job.phase.is_final:
            return
        if now - self._asked_at >= REFRESH_S:
            self._asked_at = now
            job.stats()  # readings are taken while somebody asks for them
        if not self._is_new:
            return
        if now - self._shown_at < REFRESH_S:
            return
        self._is_new = False
        self._show(self._moment(job), now)

    def say_notes(self) -> None:
        """Say what the operator should know, verbose or not."""
        while not self._notes.empty():
            self._terminal.say(option_names(self._notes.get()))

    def finish(self, result: Summary) -> None:
        """Show the end of a migration that came to its end; see :func:`summarise`."""
        if not self._is_verbose:
            return
        done = describe(Moment(Phase.COMPLETED))
        if self._terminal.is_interactive:
            self._terminal.rewrite(done)
            self._terminal.end_line()
        else:
            self._terminal.say(done)
        for line in summarise(result):
            self._terminal.say(line)

    def _moment(self, job: Viewed) -> Moment:
        summary = job.summary()
        return Moment(
            phase=job.phase,
            stats=job.stats(),
            passes=summary.passes,
            # Ours: QEMU's own comes into the summary with the end only.
            blackout_ms=summary.downtime_ms if self.is_resumed else None,
            runs_there=self._runs_there(job),
            shown_percent=self._percent,
        )

    def _runs_there(self, job: Viewed) -> bool:
        """Where its start was missed libvirt tells, which has no such state for a guest that does not run yet.

        The driver qemu looks at what QEMU says, and starts the guest itself after that.
        """
        return self.is_resumed or (self._is_half_there and job.driver == "native")

    def _show(self, moment: Moment, now: float) -> None:
        if self._terminal.is_interactive:
            self._terminal.rewrite(describe(moment, self._terminal.columns))
        elif self._is_worth_a_line(moment, now):
            self._terminal.say(describe(moment))
        else:
            return
        self._percent = moment.percent
        self._shown_at = now
        self._shown = _step(moment)

    def _is_worth_a_line(self, moment: Moment, now: float) -> bool:
        """Each phase and the arrival of the guest, and in between each pass and each tenth, but not too many."""
        if self._shown is None or self._shown[:3] != _step(moment)[:3]:
            return True
        return now - self._shown_at >= PLAIN_S and self._shown != _step(moment)


def _step(moment: Moment) -> tuple[Phase, bool, bool, int, int]:
    return (
        moment.phase,
        moment.runs_there,
        moment.blackout_ms is not None,
        moment.passes,
        int(moment.present_percent / 10),
    )
