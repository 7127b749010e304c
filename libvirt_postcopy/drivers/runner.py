"""The one loop: takes events off a queue, feeds the core, carries out what it asks for.

Everything that happens, whichever thread sees it, becomes a value on one queue together with the time at
which it was seen.  Readings of statistics may block on a busy daemon, so they are taken on a thread of
their own and come back through the queue too; the loop itself is never late for a switch because of them.  So is the
look whether a switch has come.  What a daemon never answers is given up after a while, and said.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from libvirt_postcopy.actions import (
    Abort,
    Action,
    Look,
    Note,
    Pause,
    ReadStats,
    Resume,
    Switch,
    VerifySwitch,
)
from libvirt_postcopy.drivers.workers import NEVER, Question, Worker
from libvirt_postcopy.errors import PostcopyError, StateError
from libvirt_postcopy.events import (
    AbortRefused,
    Ended,
    Event,
    Half,
    Looked,
    PauseRefused,
    Place,
    Remarked,
    Side,
    StatsSeen,
    SwitchHeld,
    SwitchNotSeen,
    SwitchUnanswered,
)
from libvirt_postcopy.journal import Journal
from libvirt_postcopy.migration import Migration
from libvirt_postcopy.policy import Policy
from libvirt_postcopy.recovery import Recovery
from libvirt_postcopy.shadow import Shadow

__all__ = ["Driver", "Observer", "Runner"]

LOG = logging.getLogger("libvirt_postcopy.drivers")

Observer = Callable[[object], None]
"""Is shown each event and each action, on the loop's thread, when it is taken or carried out."""

Sink = Callable[[Event], None]

_STUMBLE_S = 1.0
"""After an unexpected error in the loop, until what is due is tried again."""

READ_S = 30.0
"""How long a reading may take: a QEMU whose link is full may answer at the end of a pass only."""

VERIFY_S = 5.0
"""How long the look may take whether a switch has come."""

HAND_OVER_S = 5.0
"""How long the end waits until nothing of ours uses the guest's connection: a daemon may hang just then."""


class Driver(Protocol):
    """Carries out actions.  Its methods are called on the loop's thread unless said otherwise.

    An action that raises has failed: the core is told so, and may ask for it again.
    """

    def begin(self, sink: Sink) -> None:
        """Listen, then start the migration; hand everything seen to ``sink``, which never blocks.

        Must lead to one ``Ended`` event, or raise :class:`PostcopyError` if nothing was started.
        """

    def switch(self) -> Event:
        """Ask for the switch; say what came of it."""

    def verify_switch(self) -> Event:
        """Look whether the switch took effect.  Called on a thread of its own; may block."""

    def read_stats(self) -> list[Event]:
        """Read statistics and state.  Called on a thread of its own; may block."""

    def abort(self) -> Event | None:
        """Abort; say if it was refused."""

    def look(self, side: Side) -> Event:
        """Look at the domain on one host.  Called on a thread of its own; may block."""

    def pause(self) -> Event | None:
        """Make QEMU break a split migration; say if it was refused.  Called on a thread of its own; may block."""

    def resume(self) -> None:
        """Resume a broken migration; leads to another ``Ended`` event."""

    def hand_over(self) -> None:
        """Use nothing more of what the caller gets: the guest is on the destination.

        Called on a thread of its own; may block.
        """

    def close(self) -> None:
        """Listen no more.  Called once, after ``Ended`` and the end of :meth:`hand_over`."""


class Runner:
    """Runs one migration to its end on a thread of its own.

    :param observer: Is shown each event and action; what it raises is logged and does no harm.
    :param patience_s: How long a broken migration is tried to be resumed.
    :param journal: Is told of each event and action too.
    :param is_shadow: Send nothing, and say what would have been sent.
    """

    def __init__(
        self,
        driver: Driver,
        policy: Policy,
        observer: Observer | None = None,
        patience_s: float = 0.0,
        *,
        journal: Journal | None = None,
        is_shadow: bool = False,
    ) -> None:
        self._driver = driver
        self._observer = observer
        self._journal = journal
        self._queue: queue.SimpleQueue[tuple[float, Event]] = queue.SimpleQueue()
        recovery = Recovery(patience_s, random.random)
        kind = Shadow if is_shadow else Migration
        self._migration = kind(policy, time.monotonic(), recovery)
        self._over = threading.Event()
        self._when_over: Callable[[], None] = lambda: None
        self._questions: dict[type[Action], Question] = {
            ReadStats: Question("postcopy-reader", READ_S, self.put),
            VerifySwitch: Question("postcopy-verifier", VERIFY_S, self.put),
        }
        self._answered: dict[Action, list[Event]] = {}  # carried out before its turn
        self._has_told_silence = False
        self._lookouts: dict[Side, Worker] = {}

    @property
    def migration(self) -> Migration:
        """The core; other threads may read its properties."""
        return self._migration

    def start(self, when_over: Callable[[], None] = lambda: None) -> None:
        """Start the migration.

        :param when_over: Is called when it is over, on the loop's thread.
        :raises PostcopyError: If nothing was started.
        """
        self._when_over = when_over
        try:
            self._driver.begin(self.put)
        except BaseException:
            self._close_questions()
            self._driver.close()
            if self._journal is not None:
                self._journal.close()
            raise
        threading.Thread(target=self._run, name="postcopy-loop", daemon=True).start()

    def put(self, event: Event) -> None:
        """Hand an event to the loop; from any thread, never blocks."""
        self._queue.put((time.monotonic(), event))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end.

        :param timeout: Seconds; None waits for ever.
        :return: Whether the operation is over.
        """
        return self._over.wait(timeout)

    def _run(self) -> None:
        pause = 0.0
        while not self._migration.is_over:
            try:
                self._step(pause)
                pause = 0.0
            except Exception:  # a bug of ours must not leave the guest to itself
                LOG.exception("unexpected, going on")
                pause = _STUMBLE_S
        handing_over = threading.Thread(
            target=self._hand_over, name="postcopy-hand-over", daemon=True
        )
        handing_over.start()
        handing_over.join(HAND_OVER_S)
        self._close_journal()
        self._over.set()
        self._when_over()
        self._close_questions()
        for worker in self._lookouts.values():
            worker.close()
        # Either may hang on a dead host, when nobody waits any more.
        handing_over.join()
        self._driver.close()

    def _step(self, pause: float) -> None:
        """Take one event, or what has become due; act first and let others watch afterwards."""
        self._give_up_late_ones()
        deadline = self._migration.deadline()
        dues = [question.due for question in self._questions.values()]
        due = min(NEVER if deadline is None else deadline, *dues)
        wait = None if due == NEVER else max(due - time.monotonic(), pause)
        try:
            seen_at, event = self._queue.get(timeout=wait)
        except queue.Empty:
            seen: list[object] = []
            actions = self._migration.tick(time.monotonic())
        else:
            self._act_early(event, seen_at)
            seen = [event]
            actions = self._feed(event, seen_at)
        self._note(seen)  # the first switch waits for what this writes
        for action in actions:
            self._carry_out(action)
        for what in (*seen, *actions):
            self._show(what)
        self._note(actions)

    def _act_early(self, event: Event, seen_at: float) -> None:
        """Send what was decided beforehand: its moment may be over before this event is taken into account."""
        switch = self._migration.hasten(event, seen_at)
        if switch is not None:
            self._answered[switch] = _answers(switch, lambda: [self._switch()])

    def _give_up_late_ones(self) -> None:
        """Let the core go on without an answer that may never come."""
        for kind, question in self._questions.items():
            if time.monotonic() < question.due:
                continue
            question.give_up()
            if not self._has_told_silence:
                self._has_told_silence = True
                self.put(Remarked(_SILENCE.format(seconds=question.limit_s)))
            self.put(_FAILED[kind](_NO_ANSWER))

    def _close_questions(self) -> None:
        for question in self._questions.values():
            question.close()

    def _note(self, things: Iterable[object]) -> None:
        """Hand them to the journal, which does not wait for its disk."""
        if self._journal is None:
            return
        try:
            for what in things:
                self._journal.see(what)
            warning = self._journal.take_warning()
        except (
            Exception
        ):  # a bug of ours must not keep the actions from being carried out
            LOG.exception("the journal failed unexpectedly")
            return
        if warning:
            self._show(Note(warning))

    def _close_journal(self) -> None:
        """Before anybody is told of the end: the program may be gone then."""
        if self._journal is None:
            return
        migration = self._migration
        try:
            self._journal.end(migration.place, migration.phase, migration.given_up)
        except Exception:  # a bug of ours must not hide the end
            LOG.exception("the journal failed unexpectedly")

    def _hand_over(self) -> None:
        if self._migration.place is not Place.DESTINATION:
            return
        try:
            self._driver.hand_over()
        except Exception:  # a bug of ours must not hide the end
            LOG.exception("the guest's connection is still used by us")

    def _feed(self, event: Event, seen_at: float) -> list[Action]:
        before = self._migration.phase
        try:
            actions = self._migration.feed(event, seen_at)
        except StateError as error:  # the next QEMU's habits must not stop the loop
            LOG.warning("unexpected, ignored: %s", error)
            return []
        if self._migration.phase is not before:
            LOG.info("%s -> %s", before.value, self._migration.phase.value)
        return actions

    def _carry_out(self, action: Action) -> None:
        """Carry it out, or say that it has failed: the core must not wait for an answer in vain."""
        answers = self._answered.pop(action, None)
        if answers is None:
            answers = _answers(action, lambda: _some(self._perform(action)))
        for answer in answers:
            self.put(answer)

    def _perform(self, action: Action) -> Event | None:
        """Do it, or let it be done on a thread that may wait; say what came of it, if that is known by now."""
        if isinstance(action, ReadStats):
            self._ask(action, self._driver.read_stats)
        elif isinstance(action, Switch):
            return self._switch()
        elif isinstance(action, VerifySwitch):
            self._ask(action, lambda: [self._driver.verify_switch()])
        elif isinstance(action, Abort):
            return self._driver.abort()
        elif isinstance(action, Look):
            side = action.side
            self._on_lookout(side, action, lambda: self._driver.look(side))
        elif isinstance(action, Pause):
            self._on_lookout(Side.SOURCE, action, self._driver.pause)
        elif isinstance(action, Resume):
            self._driver.resume()
        elif isinstance(action, Note):
            LOG.warning("%s", action.text)
        return None

    def _switch(self) -> Event:
        """Not behind a question to the source that is not answered: this loop would wait with it."""
        if self._questions[VerifySwitch].is_open:
            return SwitchHeld(_NO_ANSWER)
        return self._driver.switch()

    def _ask(self, action: Action, ask: Callable[[], list[Event]]) -> None:
        """Ask what may never be answered."""
        self._questions[type(action)].ask(lambda: _answers(action, ask))

    def _on_lookout(
        self, side: Side, action: Action, ask: Callable[[], Event | None]
    ) -> None:
        """Ask something of a host that may be dead, on that host's own thread."""

        def run() -> None:
            for seen in _answers(action, lambda: _some(ask())):
                self.put(seen)

        if side not in self._lookouts:
            self._lookouts[side] = Worker(f"postcopy-lookout-{side.value}")
        self._lookouts[side].submit(run)

    def _show(self, what: object) -> None:
        if self._observer is None:
            return
        try:
            self._observer(what)
        except Exception:  # whoever watches must not endanger the guest
            LOG.exception("an observer failed on %s", what)


def _some(event: Event | None) -> list[Event]:
    return [] if event is None else [event]


def _answers(action: Action, ask: Callable[[], list[Event]]) -> list[Event]:
    """What comes of an action; never raises."""
    try:
        return ask()
    except PostcopyError as error:
        LOG.debug("%s failed: %s", action, error)
        return _some(_failed(action, str(error)))
    except Exception as error:  # a bug of ours must not leave the guest to itself
        LOG.exception("%s failed unexpectedly", action)
        return _some(_failed(action, f"unexpected: {error!r}"))


def _failed(action: Action, why: str) -> Event | None:
    """What the core is told of an action that has failed."""
    if isinstance(action, Look):
        return Looked(action.side, Half.UNKNOWN)
    return _FAILED[type(action)](why) if type(action) in _FAILED else None


_NO_ANSWER = "the source's daemon does not answer"
_SILENCE = "the source has not answered for {seconds:g} s: its daemon hangs, or its QEMU answers between two passes only"

_FAILED: Mapping[type[Action], Callable[[str], Event]] = {
    ReadStats: lambda why: StatsSeen(None),
    Switch: SwitchUnanswered,  # nobody knows whether it was sent
    VerifySwitch: lambda why: SwitchNotSeen(),
    Abort: AbortRefused,
    Pause: PauseRefused,
    Resume: lambda why: Ended(error=why),  # nor of this
}
