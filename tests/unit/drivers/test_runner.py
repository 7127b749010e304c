from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

import pytest

from libvirt_postcopy import events as ev
from libvirt_postcopy import migration
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
from libvirt_postcopy.drivers import runner as runner_module
from libvirt_postcopy.drivers.runner import Runner
from libvirt_postcopy.drivers.workers import Worker
from libvirt_postcopy.errors import LibvirtError, UsageError
from libvirt_postcopy.events import Ended, Event, Place, StatsSeen
from libvirt_postcopy.phases import Phase
from libvirt_postcopy.policy import parse
from unit.fakes import SRC, ended, reading, status, walk

PATIENCE_S = 10.0
"""Longer than any of these takes; nothing waits for it to pass."""


class FakeDriver:
    """A migration whose answers are set beforehand.

    :ivar calls: What was asked of it, with the thread that asked.
    """

    def __init__(self, *seen_at_once: Event) -> None:
        self.seen_at_once = seen_at_once
        self.calls: list[tuple[str, str]] = []
        self.called: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.on_switch: Callable[[], Event] = ev.SwitchAccepted
        self.on_verify: Callable[[], Event] = ev.SwitchNotSeen
        self.on_read: Callable[[], list[Event]] = lambda: [reading(1)]
        self.on_abort: Callable[[], Event | None] = lambda: None
        self.begin_error: Exception | None = None
        self.sink: Callable[[Event], None] = lambda event: None

    def _note(self, name: str) -> None:
        self.calls.append((name, threading.current_thread().name))
        self.called.put(name)

    def begin(self, sink: Callable[[Event], None]) -> None:
        self._note("begin")
        if self.begin_error is not None:
            raise self.begin_error
        self.sink = sink
        for event in self.seen_at_once:
            sink(event)

    def switch(self) -> Event:
        self._note("switch")
        return self.on_switch()

    def verify_switch(self) -> Event:
        self._note("verify_switch")
        return self.on_verify()

    def read_stats(self) -> list[Event]:
        self._note("read_stats")
        return self.on_read()

    def abort(self) -> Event | None:
        self._note("abort")
        return self.on_abort()

    def hand_over(self) -> None:
        self._note("hand_over")

    def close(self) -> None:
        self._note("close")

    def end(self, found: Place = Place.DESTINATION) -> None:
        self.sink(ended(found, None if found is Place.DESTINATION else "failed"))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def threads(self, name: str) -> set[str]:
        return {thread for called, thread in self.calls if called == name}

    def wait_for(self, name: str) -> None:
        while self.called.get(timeout=PATIENCE_S) != name:
            pass


def started(driver: FakeDriver, policy: str = "manual", observer=None) -> Runner:
    runner = Runner(driver, parse(policy), observer)
    runner.start()
    return runner


def finish(
    driver: FakeDriver, runner: Runner, found: Place = Place.DESTINATION
) -> None:
    driver.end(found)
    assert runner.wait(PATIENCE_S)


def test_events_reach_the_core_until_the_end() -> None:
    driver = FakeDriver(*walk("setup", "active", "postcopy-active", "completed"))
    runner = started(driver)
    finish(driver, runner)
    assert runner.migration.phase is Phase.COMPLETED
    assert runner.migration.is_over


def test_end_is_waited_for_only_so_long() -> None:
    driver = FakeDriver()
    runner = started(driver)
    assert runner.wait(0) is False
    finish(driver, runner)
    assert runner.wait(0) is True
    assert runner.wait() is True


def test_driver_is_closed_once_at_the_end() -> None:
    driver = FakeDriver()
    runner = started(driver)
    finish(driver, runner)
    assert driver.names.count("close") == 1


def test_start_that_fails_starts_nothing() -> None:
    driver = FakeDriver()
    driver.begin_error = UsageError("nothing was sent")
    before = threading.active_count()
    runner = Runner(driver, parse("manual"))
    with pytest.raises(UsageError):
        runner.start()
    assert driver.names == ["begin", "close"]
    assert runner.wait(0) is False
    for thread in threading.enumerate():
        if thread.name in ("postcopy-reader", "postcopy-verifier"):
            thread.join(PATIENCE_S)
    assert threading.active_count() <= before


def test_switch_is_carried_out_and_its_answer_fed_back() -> None:
    driver = FakeDriver(*walk("setup", "active"))
    driver.on_switch = lambda: ev.SwitchRefused("never", is_final=True)
    shown = queue.SimpleQueue()
    runner = started(driver, "after:0", shown.put)
    driver.wait_for("switch")
    while not isinstance(shown.get(timeout=PATIENCE_S), ev.SwitchRefused):
        pass
    finish(driver, runner)


def test_accepted_switch_is_verified_and_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(migration, "VERIFY_S", 0.001)
    driver = FakeDriver(*walk("setup", "active"))
    answers = iter([ev.SwitchNotSeen(), ev.SplitSeen(SRC)])
    driver.on_verify = lambda: next(answers)
    runner = started(driver, "after:0")
    driver.wait_for("verify_switch")
    driver.wait_for("verify_switch")
    finish(driver, runner)
    assert [name for name in driver.names if "switch" in name] == [
        "switch",
        "verify_switch",
    ] * 2
    assert runner.migration.summary().switch.attempts == 2


def test_switch_that_was_foreseen_is_sent_once_and_before_all_else() -> None:
    driver = FakeDriver(*walk("setup", "active"), ev.PassSeen(1), ev.PassSeen(2))
    shown: list[object] = []
    passes: list[int] = []
    can_be_left: list[bool] = []

    def switch() -> Event:
        passes.append(runner.migration.summary().passes)
        can_be_left.append(runner.migration.can_be_left_by_its_manager)
        return ev.SwitchAccepted()

    driver.on_switch = switch
    runner = Runner(driver, parse("after-precopy"), shown.append)
    runner.start()
    driver.wait_for("switch")
    driver.sink(status("postcopy-active"))
    finish(driver, runner)
    assert passes == [0], "the announcement was thought about first"
    assert can_be_left == [False]
    asked = Switch("the first pass is done", attempt=1)
    told = [it for it in shown if it in (ev.PassSeen(2), asked, ev.SwitchAccepted())]
    assert told == [ev.PassSeen(2), asked, ev.SwitchAccepted()]
    record = runner.migration.summary().switch
    assert record is not None
    assert (record.reason, record.attempts) == (asked.reason, 1)


def test_switch_that_was_foreseen_and_held_back_is_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(migration, "RETRY_S", 0.001)
    driver = FakeDriver(*walk("setup", "active"), ev.PassSeen(1), ev.PassSeen(2))
    answers = [ev.SwitchAccepted(), ev.SwitchHeld("the daemon is silent")]
    driver.on_switch = answers.pop
    runner = started(driver, "after-precopy")
    driver.wait_for("switch")
    driver.wait_for("switch")
    driver.sink(status("postcopy-active"))
    finish(driver, runner)
    assert answers == []


def test_switch_that_was_foreseen_and_fails_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(migration, "VERIFY_S", 0.001)
    driver = FakeDriver(*walk("setup", "active"), ev.PassSeen(1), ev.PassSeen(2))
    driver.on_switch = Stumbling(LibvirtError("no answer"), ev.SwitchAccepted())
    runner = started(driver, "after-precopy")
    for name in ("switch", "verify_switch", "switch"):
        driver.wait_for(name)
    finish(driver, runner)


def test_policy_by_time_fires_without_an_event() -> None:
    driver = FakeDriver(*walk("setup", "active"))
    runner = started(driver, "after:10ms")
    driver.wait_for("switch")
    finish(driver, runner)


def test_request_from_another_thread_is_carried_out_by_the_loop() -> None:
    driver = FakeDriver(*walk("setup", "active"))
    runner = started(driver)
    runner.put(ev.SwitchRequested("by hand"))
    driver.wait_for("switch")
    finish(driver, runner)
    assert driver.threads("switch") == {"postcopy-loop"}


def test_readings_are_taken_on_a_thread_of_their_own() -> None:
    driver = FakeDriver()
    runner = started(driver)
    driver.wait_for("read_stats")
    finish(driver, runner)
    assert driver.threads("read_stats") == {"postcopy-reader"}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "READ_S", 0.05)
    monkeypatch.setattr(runner_module, "VERIFY_S", 0.05)
    monkeypatch.setattr(migration, "VERIFY_S", 0.05)
    monkeypatch.setattr(migration, "POLL_S", 0.05)


class Hanging:
    """Does not come back before it is let."""

    def __init__(self, *answers: Event) -> None:
        self.answers = answers
        self.released = threading.Event()
        self.calls = 0

    def __call__(self) -> list[Event]:
        self.calls += 1
        assert self.released.wait(PATIENCE_S)
        return list(self.answers)


@pytest.mark.usefixtures("impatient")
def test_reading_that_is_never_answered_is_told_once_and_not_asked_again() -> None:
    driver = FakeDriver(*walk("setup", "active", "postcopy-active"))
    driver.on_read = hanging = Hanging(reading(1))
    shown: queue.SimpleQueue[object] = queue.SimpleQueue()
    runner = started(driver, "manual", shown.put)
    silent, told = 0, []
    while silent < 3:  # the core goes on, and asks again each time
        what = shown.get(timeout=PATIENCE_S)
        silent += what == StatsSeen(None)
        told += [what.text] if isinstance(what, Note) else []
    assert hanging.calls == 1
    (text,) = told
    assert text.startswith("the source has not answered for 0.05 s: its daemon hangs")
    hanging.released.set()
    while what != reading(1):  # it was late, and is taken all the same
        what = shown.get(timeout=PATIENCE_S)
    finish(driver, runner)


@pytest.mark.usefixtures("impatient")
def test_switch_does_not_wait_behind_a_look_that_is_never_answered() -> None:
    driver = FakeDriver(*walk("setup", "active"))
    hanging = Hanging()

    def verify() -> Event:
        hanging()
        return ev.SplitSeen(SRC)

    driver.on_verify = verify
    shown: queue.SimpleQueue[object] = queue.SimpleQueue()
    runner = started(driver, "after:0", shown.put)
    what: object = None
    while not isinstance(what, ev.SwitchHeld):
        what = shown.get(timeout=PATIENCE_S)
    assert what.reason == "the source's daemon does not answer"
    assert driver.names.count("switch") == 1, "the loop would hang with it"
    assert hanging.calls == 1
    hanging.released.set()
    while what != ev.SplitSeen(SRC):
        what = shown.get(timeout=PATIENCE_S)
    assert runner.migration.phase is Phase.POSTCOPY
    finish(driver, runner)


def test_loop_does_not_keep_a_program_from_ending() -> None:
    driver = FakeDriver(*walk("setup", "active"))
    runner = started(driver)
    (loop,) = (each for each in threading.enumerate() if each.name == "postcopy-loop")
    assert loop.daemon
    finish(driver, runner)


def test_reading_that_hangs_does_not_delay_the_switch() -> None:
    driver = FakeDriver(*walk("setup", "active"))
    release = threading.Event()
    driver.on_read = lambda: [release.wait(PATIENCE_S), reading(1)][1:]
    runner = started(driver)
    driver.wait_for("read_stats")
    runner.put(ev.SwitchRequested("by hand"))
    driver.wait_for("switch")
    finish(driver, runner)
    release.set()


@pytest.mark.parametrize(
    "error", [LibvirtError("no answer"), ZeroDivisionError("a bug")]
)
def test_reading_that_fails_is_told_as_none(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration, "POLL_S", 0.001)

    def fail() -> list[Event]:
        raise error

    driver = FakeDriver(*walk("setup", "active"))
    driver.on_read = fail
    shown: queue.SimpleQueue = queue.SimpleQueue()
    runner = started(driver, observer=shown.put)
    runner.put(ev.StatsWanted())
    while shown.get(timeout=PATIENCE_S) != StatsSeen(None):
        pass
    driver.wait_for("read_stats")
    driver.wait_for("read_stats")  # and it is tried again
    finish(driver, runner)


def test_abort_is_carried_out() -> None:
    driver = FakeDriver(*walk("setup", "active"))
    runner = started(driver)
    runner.put(ev.AbortRequested())
    driver.wait_for("abort")
    finish(driver, runner, Place.SOURCE)
    assert runner.migration.phase is Phase.CANCELLED


def test_refused_abort_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "RETRY_S", 0.001)
    driver = FakeDriver(*walk("setup", "active"))
    answers = iter([ev.AbortRefused("no job yet"), None])
    driver.on_abort = lambda: next(answers)
    runner = started(driver)
    runner.put(ev.AbortRequested())
    driver.wait_for("abort")
    driver.wait_for("abort")
    finish(driver, runner, Place.SOURCE)


def test_note_is_logged_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    driver = FakeDriver(*walk("setup", "active"), ev.SplitFailed(SRC))
    runner = started(driver)
    finish(driver, runner)
    assert ("libvirt_postcopy.drivers", logging.WARNING, "libvirt reports post-copy failed on the source") in (
        caplog.record_tuples
    )  # fmt: skip


def test_change_of_phase_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "libvirt_postcopy.drivers")
    driver = FakeDriver(*walk("setup", "active"))
    finish(driver, started(driver))
    assert "preparing -> pre-copy" in caplog.messages


def test_status_that_cannot_follow_does_not_stop_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    driver = FakeDriver(
        *walk("setup", "active"), status("postcopy-recover"), status("completed")
    )
    runner = started(driver)
    finish(driver, runner)
    assert runner.migration.phase is Phase.COMPLETED
    assert any("unexpected, ignored" in text for text in caplog.messages)


class Stumbling:
    """Raises the first time, and gives an answer from then on."""

    def __init__(self, error: Exception, answer: object) -> None:
        self.due = [error]
        self.answer = answer

    def __call__(self) -> object:
        if self.due:
            raise self.due.pop()
        return self.answer


FAILURES = [
    LibvirtError("no answer"),
    UsageError("cannot be"),
    ZeroDivisionError("bug"),
]


@pytest.mark.parametrize("error", FAILURES)
def test_switch_that_fails_is_asked_for_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration, "VERIFY_S", 0.001)
    driver = FakeDriver(*walk("setup", "active"))
    driver.on_switch = Stumbling(error, ev.SwitchAccepted())
    runner = started(driver, "after:0")
    for name in ("switch", "verify_switch", "switch"):
        driver.wait_for(name)
    finish(driver, runner)


@pytest.mark.parametrize("error", FAILURES)
def test_look_for_a_switch_that_fails_is_one_that_has_not_seen_it(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration, "VERIFY_S", 0.001)
    driver = FakeDriver(*walk("setup", "active"))
    driver.on_verify = Stumbling(error, ev.SplitSeen(SRC))
    runner = started(driver, "after:0")
    for name in ("switch", "verify_switch", "switch", "verify_switch"):
        driver.wait_for(name)
    finish(driver, runner)


@pytest.mark.parametrize("error", FAILURES)
def test_abort_that_fails_is_repeated(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration, "RETRY_S", 0.001)
    driver = FakeDriver(*walk("setup", "active"))
    driver.on_abort = Stumbling(error, None)
    runner = started(driver)
    runner.put(ev.AbortRequested())
    driver.wait_for("abort")
    driver.wait_for("abort")
    finish(driver, runner, Place.SOURCE)


@pytest.mark.parametrize(
    "action, told",
    [
        (ReadStats(), StatsSeen(None)),
        (Switch("now", 1), ev.SwitchUnanswered("no")),
        (VerifySwitch(), ev.SwitchNotSeen()),
        (Abort(), ev.AbortRefused("no")),
        (Look(SRC), ev.Looked(SRC, ev.Half.UNKNOWN)),
        (Pause(), ev.PauseRefused("no")),
        (Resume(1), ev.Ended(error="no")),
        (Note("no"), None),
    ],
)
def test_core_is_told_of_each_action_that_fails(action: Action, told: object) -> None:
    assert runner_module._failed(action, "no") == told


def test_core_is_told_of_all_actions_there_are() -> None:
    answered = {*runner_module._FAILED, Look, Note}
    assert answered == set(Action.__subclasses__())


def test_bug_in_the_core_does_not_leave_the_guest_to_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner_module, "_STUMBLE_S", 0.001)
    driver = FakeDriver(*walk("setup", "active"))
    runner = Runner(driver, parse("manual"))
    feed, errors = runner.migration.feed, [ZeroDivisionError("a bug")]

    def stumbling(event: Event, now: float) -> list[Action]:
        if isinstance(event, ev.StatsWanted) and errors:
            raise errors.pop()
        return feed(event, now)

    monkeypatch.setattr(runner.migration, "feed", stumbling)
    runner.start()
    runner.put(ev.StatsWanted())
    runner.put(status("completed"))
    finish(driver, runner)
    assert runner.migration.phase is Phase.COMPLETED
    assert "unexpected, going on" in caplog.messages


class Order:
    """A journal that notes what it is told, in the driver's own list."""

    def __init__(self, driver: FakeDriver) -> None:
        self.driver = driver

    def see(self, what: object) -> None:
        self.driver.calls.append((type(what).__name__, "journal"))

    def take_warning(self) -> str:
        return ""

    def end(self, *args: object) -> None:
        self.see(self)


def test_journal_is_told_of_the_beginning_before_the_switch_is_sent() -> None:
    driver = FakeDriver(*walk("setup", "active"))
    runner = Runner(driver, parse("after:0"), journal=Order(driver))  # type: ignore[arg-type]
    runner.start()
    driver.wait_for("switch")
    finish(driver, runner)
    driver.wait_for("close")
    until_switch = driver.names[: driver.names.index("switch")]
    assert until_switch.count("StatusSeen") == 2
    assert driver.names.index("switch") < driver.names.index("Switch")
    end = [name for name in driver.names if name != "read_stats"][-3:]
    assert end == ["hand_over", "Order", "close"]


def test_journal_that_fails_keeps_no_action_from_being_carried_out() -> None:
    driver = FakeDriver(*walk("setup", "active"))
    journal = Order(driver)
    journal.see = lambda what: 1 / 0  # type: ignore[assignment,return-value]
    runner = Runner(driver, parse("after:0"), journal=journal)  # type: ignore[arg-type]
    runner.start()
    driver.wait_for("switch")
    finish(driver, runner)


def test_end_is_told_once() -> None:
    driver = FakeDriver()
    told: queue.SimpleQueue[bool] = queue.SimpleQueue()
    runner = Runner(driver, parse("manual"))
    runner.start(lambda: told.put(runner.wait(0)))
    finish(driver, runner)
    driver.wait_for("close")
    assert told.get(timeout=PATIENCE_S) is True and told.empty()


def test_end_is_told_though_handing_over_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "HAND_OVER_S", 0.01)
    driver = FakeDriver()
    release = threading.Event()
    hand_over = driver.hand_over
    driver.hand_over = lambda: [hand_over(), release.wait(PATIENCE_S)][0]
    runner = started(driver)
    driver.end()
    driver.wait_for("hand_over")
    assert runner.wait(PATIENCE_S) and "close" not in driver.names
    release.set()
    driver.wait_for("close")


def test_end_is_told_though_closing_hangs() -> None:
    driver = FakeDriver()
    release = threading.Event()
    close = driver.close
    driver.close = lambda: [release.wait(PATIENCE_S), close()][1]
    runner = started(driver)
    driver.end()
    assert runner.wait(PATIENCE_S) and "close" not in driver.names
    release.set()
    driver.wait_for("close")


def test_observer_is_shown_events_and_actions_on_the_loops_thread() -> None:
    shown: list[tuple[object, str]] = []
    driver = FakeDriver(*walk("setup", "active"))
    driver.on_switch = lambda: ev.SwitchRefused("never", is_final=True)
    runner = started(
        driver,
        "after:0",
        lambda it: shown.append((it, threading.current_thread().name)),
    )
    driver.wait_for("switch")
    runner.put(ev.AbortRequested())
    driver.wait_for("abort")
    finish(driver, runner, Place.SOURCE)
    assert {thread for _, thread in shown} == {"postcopy-loop"}
    kinds = [type(it) for it, _ in shown]
    for kind in (
        ev.StatusSeen,
        ReadStats,
        Switch,
        ev.SwitchRefused,
        ev.AbortRequested,
        Abort,
        Ended,
    ):
        assert kind in kinds
    assert VerifySwitch not in kinds
    assert (
        kinds.index(ev.StatusSeen) < kinds.index(Switch) < kinds.index(ev.SwitchRefused)
    )


def test_observer_that_fails_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    def fail(what: object) -> None:
        raise ZeroDivisionError

    driver = FakeDriver(*walk("setup", "active"))
    runner = started(driver, "after:0", fail)
    driver.wait_for("switch")
    finish(driver, runner)
    assert runner.migration.phase is Phase.COMPLETED
    assert any("an observer failed" in text for text in caplog.messages)


# Worker


def test_worker_does_its_jobs_in_order_and_then_ends() -> None:
    done: list[int] = []
    worker = Worker("test-worker")
    for number in range(5):
        worker.submit(lambda number=number: done.append(number))
    worker.close()
    (thread,) = [
        each for each in threading.enumerate() if each.name == "test-worker"
    ] or [None]
    if thread is not None:
        thread.join(PATIENCE_S)
    assert done == [0, 1, 2, 3, 4]


def test_worker_does_not_keep_a_program_from_ending() -> None:
    release = threading.Event()
    worker = Worker("test-daemon")
    worker.submit(lambda: release.wait(PATIENCE_S))
    (thread,) = (each for each in threading.enumerate() if each.name == "test-daemon")
    assert thread.daemon
    release.set()
    worker.close()
    thread.join(PATIENCE_S)
