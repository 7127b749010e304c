from __future__ import annotations

import subprocess
import sys

import libvirt
import pytest

from libvirt_postcopy.constants import EventID
from libvirt_postcopy.events import (
    Died,
    Finished,
    PassSeen,
    Resumed,
    Side,
    SplitFailed,
    SplitSeen,
    StatusSeen,
    Stopped,
)
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.vir import events as vir_events
from libvirt_postcopy.vir.events import DomainWatch, from_lifecycle, from_monitor
from unit.fakes import (
    DST,
    NO_ANSWER,
    OTHER_UUID,
    SRC,
    UUID,
    FakeConnection,
    FakeDomain,
    refused,
)

LIFECYCLE = EventID.VIR_DOMAIN_EVENT_ID_LIFECYCLE
ITERATION = EventID.VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION
JOB_COMPLETED = EventID.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED
MONITOR = ["MIGRATION", "STOP", "RESUME"]

SUSPENDED, RESUMED, STOPPED = 3, 4, 5


@pytest.mark.parametrize("side", Side)
def test_lifecycle_events_of_a_migration(side: Side) -> None:
    expected = {
        (SUSPENDED, 0): [Stopped(side)],  # paused by its user
        (SUSPENDED, 1): [Stopped(side)],  # migrated
        (SUSPENDED, 7): [SplitSeen(side)],
        (SUSPENDED, 8): [SplitFailed(side)],
        (RESUMED, 0): [Resumed(side)],
        (RESUMED, 1): [Resumed(side)],
        (RESUMED, 3): [SplitSeen(side), Resumed(side)],
        (RESUMED, 4): [SplitFailed(side)],
        (STOPPED, 0): [],  # shut down by the guest
        (STOPPED, 1): [],  # destroyed by somebody
        (STOPPED, 2): [Died(side)],  # crashed
        (STOPPED, 3): [],  # migrated
        (STOPPED, 5): [Died(side)],  # killed
    }
    for (event, detail), events in expected.items():
        assert from_lifecycle(side, event, detail) == events


@pytest.mark.parametrize("event", [0, 1, 2, 5, 6, 7, 8, 99])
def test_other_lifecycle_events_say_nothing(event: int) -> None:
    assert from_lifecycle(SRC, event, 0) == []
    assert from_lifecycle(SRC, event, 7) == []


@pytest.mark.parametrize(
    "event, details, events",
    [
        ("STOP", None, [Stopped(DST)]),
        ("RESUME", "{}", [Resumed(DST)]),
        ("MIGRATION", '{"status": "postcopy-active"}', [StatusSeen(DST, "postcopy-active")]),
        ("MIGRATION", '{"status": "postcopy-teleport"}', [StatusSeen(DST, "postcopy-teleport")]),
    ],
)  # fmt: skip
def test_monitor_event_is_read(event: str, details: str | None, events: list) -> None:
    assert from_monitor(DST, event, details) == events


@pytest.mark.parametrize(
    "details", [None, "", "{}", "[]", "7", "null", '"x"', "{", "nonsense"]
)
def test_monitor_event_without_a_status_is_left_out(details: str | None) -> None:
    assert from_monitor(SRC, "MIGRATION", details) == []


# Watching


class Watched:
    """A watch of one domain on a fake connection."""

    def __init__(self, side: Side = SRC, unsupported: tuple = ()) -> None:
        self.connection = FakeConnection()
        self.connection.unsupported = set(unsupported)
        self.dom = FakeDomain(self.connection)
        self.other = FakeDomain(self.connection, OTHER_UUID)
        self.seen: list = []
        self.watch = DomainWatch(self.connection, UUID, side, self.seen.append)


@pytest.fixture(autouse=True)
def _monitor(monitor: None) -> None:
    pass


def test_watch_listens_to_libvirt_and_to_qemu() -> None:
    watched = Watched()
    assert watched.connection.listened_to == [
        LIFECYCLE,
        ITERATION,
        JOB_COMPLETED,
        *MONITOR,
    ]


def test_watch_takes_back_exactly_what_it_registered() -> None:
    watched = Watched()
    numbers = set(watched.connection.callbacks)
    others = watched.connection.register("the application's own", print)
    watched.watch.close()
    assert set(watched.connection.deregistered) == numbers
    assert set(watched.connection.callbacks) == {others}


def test_watch_closed_twice_deregisters_once() -> None:
    watched = Watched()
    watched.watch.close()
    count = len(watched.connection.deregistered)
    watched.watch.close()
    assert len(watched.connection.deregistered) == count == 6


def test_watch_of_a_dead_connection_can_be_closed() -> None:
    watched = Watched()
    watched.connection.error = NO_ANSWER
    watched.watch.close()


@pytest.mark.parametrize(
    "unsupported, left",
    [
        ((ITERATION, JOB_COMPLETED), [LIFECYCLE, *MONITOR]),  # an older libvirt
        (
            ("MIGRATION",),
            [LIFECYCLE, ITERATION, JOB_COMPLETED],
        ),  # not QEMU, or read-only
        ((LIFECYCLE, ITERATION, JOB_COMPLETED, *MONITOR), []),
    ],
)
def test_watch_makes_do_with_what_there_is(unsupported: tuple, left: list) -> None:
    watched = Watched(unsupported=unsupported)
    assert watched.connection.listened_to == left
    watched.watch.close()
    assert watched.connection.listened_to == []


def test_events_become_values() -> None:
    watched = Watched()
    emit, dom = watched.connection.emit, watched.dom
    emit("MIGRATION", dom, "MIGRATION", 1, 2, '{"status": "active"}')
    emit(ITERATION, dom, 2)
    emit("STOP", dom, "STOP", 1, 2, None)
    emit(LIFECYCLE, dom, SUSPENDED, 7)
    emit("RESUME", dom, "RESUME", 1, 2, None)
    emit(JOB_COMPLETED, dom, {"memory_total": 7})
    assert watched.seen == [
        StatusSeen(SRC, "active"),
        PassSeen(2),
        Stopped(SRC),
        SplitSeen(SRC),
        Resumed(SRC),
        Finished(Stats(memory_total=7)),
    ]


def test_events_of_another_domain_are_left_out() -> None:
    watched = Watched()
    emit, other = watched.connection.emit, watched.other
    emit("MIGRATION", other, "MIGRATION", 1, 2, '{"status": "active"}')
    emit(ITERATION, other, 2)
    emit("STOP", other, "STOP", 1, 2, None)
    emit(LIFECYCLE, other, SUSPENDED, 7)
    emit(JOB_COMPLETED, other, {"memory_total": 7})
    assert watched.seen == []


def test_passes_and_final_figures_are_the_sources() -> None:
    """The destination's JOB_COMPLETED has figures of its own, which are not the migration's."""
    watched = Watched(DST)
    watched.connection.emit(ITERATION, watched.dom, 2)
    watched.connection.emit(JOB_COMPLETED, watched.dom, {"memory_total": 7})
    assert watched.seen == []
    watched.connection.emit(LIFECYCLE, watched.dom, RESUMED, 1)
    assert watched.seen == [Resumed(DST)]


# The event loop, of which a process has one: each test has a process of its own

PREAMBLE = """
import queue, threading
import libvirt
from libvirt_postcopy.events import Resumed, Side, Stopped
from libvirt_postcopy.vir.events import DomainWatch, ensure_event_loop

libvirt.registerErrorHandler(lambda context, error: None, None)

def deliveries():
    connection = libvirt.open("test:///default")
    dom = connection.lookupByName("test")
    seen = queue.Queue()
    watch = DomainWatch(connection, dom.UUIDString(), Side.SOURCE, seen.put)
    dom.suspend()
    assert seen.get(timeout=20) == Stopped(Side.SOURCE)
    dom.resume()
    assert seen.get(timeout=20) == Resumed(Side.SOURCE)
    watch.close()
    dom.suspend()
    connection.close()

def loops():
    return [each.name for each in threading.enumerate() if each.name == "libvirt-events"]
"""


def run(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PREAMBLE + program],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.programs
def test_loop_is_started_where_none_is() -> None:
    run(
        "assert ensure_event_loop() is True\n"
        "assert loops() == ['libvirt-events']\n"
        "deliveries()\n"
    )


@pytest.mark.programs
def test_loop_is_started_once_however_many_ask() -> None:
    run(
        "import sys\n"
        "sys.setswitchinterval(1e-6)\n"
        "answers = queue.Queue()\n"
        "threads = [threading.Thread(target=lambda: answers.put(ensure_event_loop())) for _ in range(20)]\n"
        "for each in threads: each.start()\n"
        "for each in threads: each.join()\n"
        "assert sorted(answers.queue) == [False] * 19 + [True]\n"
        "assert len(loops()) == 1\n"
        "deliveries()\n"
    )


def test_asking_for_a_loop_and_starting_one_is_one_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def is_registered() -> bool:
        assert vir_events._starting.locked()
        return True

    monkeypatch.setattr(vir_events, "_is_loop_registered", is_registered)
    assert vir_events.ensure_event_loop() is False


def test_timer_that_cannot_be_taken_away_again_has_answered_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen with libvirtaio on another thread while asyncio debugs: only that thread may change its timers."""

    def refuse(timer: int) -> None:
        raise refused(libvirt.VIR_ERR_INTERNAL_ERROR, "virEventRemoveTimeout() failed")

    monkeypatch.setattr(libvirt, "virEventAddTimeout", lambda *args: 7)
    monkeypatch.setattr(libvirt, "virEventRemoveTimeout", refuse)
    assert vir_events.ensure_event_loop() is False


@pytest.mark.programs
def test_loop_of_the_application_is_used() -> None:
    run(
        "libvirt.virEventRegisterDefaultImpl()\n"
        "def turn():\n"
        "    while True: libvirt.virEventRunDefaultImpl()\n"
        "threading.Thread(target=turn, daemon=True, name='mine').start()\n"
        "assert ensure_event_loop() is False\n"
        "assert loops() == []\n"
        "deliveries()\n"
    )


@pytest.mark.programs
def test_loop_registered_but_not_running_yet_is_left_alone() -> None:
    run(
        "libvirt.virEventRegisterDefaultImpl()\n"
        "assert ensure_event_loop() is False\n"
        "assert loops() == []\n"
    )
