"""Attaching: what is refused, what is taken from a journal, and a core that only watches."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import libvirt
import pytest

from libvirt_postcopy import events as ev
from libvirt_postcopy import journal as j
from libvirt_postcopy import shadow, takeover
from libvirt_postcopy.actions import Look, Note, Pause, ReadStats, Resume, Switch
from libvirt_postcopy.cli.commands import migrations
from libvirt_postcopy.drivers.attached import NO_DESTINATION
from libvirt_postcopy.drivers.runner import Runner
from libvirt_postcopy.errors import StateError
from libvirt_postcopy.events import Event, Half, Looked, Place, Side
from libvirt_postcopy.migration import Migration
from libvirt_postcopy.phases import Phase
from libvirt_postcopy.policy import parse
from libvirt_postcopy.recovery import CALM_LOOK_S, LOOK_S, REST_S, SETTLE_S, Recovery
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.units import MIB
from unit.fakes import (
    DST,
    ONLY_THERE,
    OTHER_UUID,
    READ_ONLY,
    RUNNING,
    SHUT_OFF,
    SPLIT_HERE,
    SPLIT_THERE,
    SRC,
    UUID,
    FakeConnection,
    FakeDomain,
    looked,
    status,
    walk,
)
from waiting import wait_until

OUTGOING = {"type": 2, "operation": 5, "memory_total": 1 << 30, "time_elapsed": 1000}
PAUSED = (3, 1)  # by its user
LEFT_BEHIND = (3, 2)
FAILED_HERE = (3, 13)
FAILED_THERE = (1, 11)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


# The core


def attached(
    policy: str = "manual",
    patience_s: float = 60.0,
    *,
    knows: bool = True,
    kind: type[Migration] = Migration,
) -> Migration:
    migration = kind(parse(policy), 0.0, Recovery(patience_s, lambda: 1.0))
    asked = migration.feed(ev.Attached(knows_destination=knows), 0.0)
    assert Look(SRC) in asked and Look(DST) in asked
    return migration


def flowing(elapsed_ms: int = 0, sent_mib: int = 1) -> Looked:
    """A look at a source in pre-copy."""
    stats = Stats(
        elapsed_ms=elapsed_ms, memory_total=1 << 30, memory_sent=sent_mib * MIB
    )
    return Looked(SRC, Half.WHOLE, "active", stats)


WAITS = looked(DST, Half.MIGRATING)
BROKEN = (
    looked(SRC, Half.SPLIT_FAILED, "postcopy-paused"),
    looked(DST, Half.SPLIT_FAILED),
)


def see(migration: Migration, now: float, *events: Event) -> list[object]:
    actions: list[object] = []
    for event in events:
        actions += migration.feed(event, now)
    return actions


def test_policy_counts_from_the_beginning_of_the_migration() -> None:
    migration = attached("after:10s")
    assert not any(
        isinstance(it, Switch) for it in see(migration, 10.0, flowing(8000), WAITS)
    )
    assert migration.phase is Phase.PRECOPY
    assert migration.deadline() is not None
    assert any(isinstance(it, Switch) for it in migration.tick(12.1))


def test_a_destination_that_never_answers_hides_nothing_that_flows() -> None:
    migration = attached()
    see(migration, 1.0, flowing(1))
    migration.tick(9e6)
    assert not migration.is_over


def test_precopy_is_looked_at_seldom_and_watched_for_ever() -> None:
    migration = attached(patience_s=0.0)
    see(migration, 1.0, flowing(1), WAITS)
    soon = migration.tick(1.0 + LOOK_S + 0.1)
    assert Look(SRC) not in soon
    later = migration.tick(1.0 + CALM_LOOK_S + 0.1)
    assert Look(SRC) in later
    see(migration, 9e5, flowing(1), WAITS)
    migration.tick(9e6)
    assert not migration.is_over


def test_nothing_that_flows_is_called_lost() -> None:
    migration = attached()
    see(migration, 0.0, flowing(1), WAITS)
    told = [it for it in migration.tick(30.0) if isinstance(it, Note)]
    assert told == []
    see(migration, 30.0, flowing(1), WAITS)
    due = migration.deadline()
    assert due is not None and due > 30.0  # or the loop would spin


@pytest.mark.parametrize(
    "here, there, place",
    [
        (Half.WHOLE, Half.GONE, Place.SOURCE),
        (Half.GONE, Half.WHOLE, Place.DESTINATION),
        (Half.INACTIVE, Half.WHOLE, Place.DESTINATION),
    ],
)
def test_the_end_is_seen_by_looks(here: Half, there: Half, place: Place) -> None:
    migration = attached()
    see(migration, 1.0, flowing(1), WAITS)
    see(migration, 6.0, looked(SRC, here), looked(DST, there))
    assert migration.is_over and migration.place is place


@pytest.mark.parametrize("here, there", [(Half.GONE, Half.SPLIT_FAILED), (Half.SPLIT_FAILED, Half.GONE)])  # fmt: skip
def test_it_is_known_which_half_has_gone(here: Half, there: Half) -> None:
    """No call of ours has ended that could tell."""
    migration = attached()
    see(migration, 1.0, *BROKEN, ev.Ended("refused"))
    found = looked(SRC, here, "postcopy-paused"), looked(DST, there)
    see(migration, 2.0, *found)
    see(migration, 2.1 + SETTLE_S, *found)
    assert migration.is_over and migration.place is Place.LOST
    assert migration.halves == (here, there)


def test_a_source_that_cannot_say_is_not_taken_for_the_end() -> None:
    migration = attached()
    see(migration, 1.0, flowing(1), WAITS)
    see(migration, 6.0, looked(SRC, Half.UNKNOWN), looked(DST, Half.GONE))
    assert not migration.is_over


def test_a_broken_one_is_resumed() -> None:
    migration = attached()
    assert Resume(1) in see(migration, 1.0, *BROKEN)
    see(migration, 5.0, ev.Ended(None, here=Half.GONE, there=Half.WHOLE))
    assert migration.is_over and migration.place is Place.DESTINATION


def test_a_broken_one_of_an_old_source_rests_first() -> None:
    migration = attached()
    found = replace(BROKEN[0], qemu=7_002_022), BROKEN[1]
    assert Resume(1) not in see(migration, 1.0, *found)
    assert Resume(1) not in see(migration, 1.0 + REST_S - 0.01, *found)
    assert Resume(1) in see(migration, 1.0 + REST_S, *found)


def test_one_that_libvirt_lets_go_before_qemu_has_decided_is_not_watched_for_ever() -> (
    None
):
    migration = attached()
    left = looked(SRC, Half.MIGRATING, "postcopy-device"), looked(DST, Half.GONE)
    see(migration, 1.0, *left)
    for second in range(2, 40):
        see(migration, float(second), *left)
    assert not migration.is_over
    for second in range(40, 4000, 5):
        if not migration.is_over:
            see(migration, float(second), *left)
    assert migration.is_over and migration.place is Place.UNKNOWN
    assert "waits for the destination" in migration.given_up


def test_without_a_destination_a_broken_one_is_told_at_once() -> None:
    migration = attached(knows=False)
    unknown = looked(DST, Half.UNKNOWN, obstacle=NO_DESTINATION)
    asked = see(migration, 1.0, BROKEN[0], unknown)
    assert not any(isinstance(it, Resume) for it in asked)
    assert migration.is_over and migration.place is Place.SPLIT
    assert migration.given_up == NO_DESTINATION


def test_without_a_destination_the_source_tells_of_completion() -> None:
    migration = attached(knows=False)
    unknown = looked(DST, Half.UNKNOWN, obstacle=NO_DESTINATION)
    see(migration, 1.0, looked(SRC, Half.SPLIT, "postcopy-active"), unknown)
    see(migration, 2.0, status("completed"), looked(SRC, Half.GONE))
    assert migration.is_over and migration.place is Place.DESTINATION


def test_without_a_destination_what_is_left_of_a_sent_guest_is_a_passing_moment() -> (
    None
):
    """libvirt says split until it has removed it, which takes it some tenths of a second; a silence before changes nothing."""
    migration = attached(knows=False)
    unknown = looked(DST, Half.UNKNOWN, obstacle=NO_DESTINATION)
    see(migration, 1.0, looked(SRC, Half.SPLIT, "postcopy-active"), unknown)
    see(migration, 2.0, looked(SRC, Half.UNKNOWN))
    left = looked(SRC, Half.SPLIT, "completed")
    see(migration, 10.0, status("completed"), left)
    see(migration, 10.0 + SETTLE_S - 0.1, left)
    assert not migration.is_over
    see(migration, 10.0 + SETTLE_S - 0.1, looked(SRC, Half.GONE))
    assert migration.is_over and migration.place is Place.DESTINATION


def test_without_a_destination_what_is_left_for_good_is_told() -> None:
    migration = attached(knows=False)
    unknown = looked(DST, Half.UNKNOWN, obstacle=NO_DESTINATION)
    left = looked(SRC, Half.SPLIT, "completed")
    see(migration, 1.0, left, unknown)
    see(migration, 1.0 + SETTLE_S + 0.1, left)
    assert migration.is_over and migration.place is Place.UNKNOWN
    assert migration.given_up == NO_DESTINATION


def test_without_a_destination_a_source_that_is_gone_is_no_proof() -> None:
    migration = attached(knows=False)
    unknown = looked(DST, Half.UNKNOWN, obstacle=NO_DESTINATION)
    see(migration, 1.0, looked(SRC, Half.GONE), unknown)
    assert not migration.is_over
    migration.tick(1.1 + SETTLE_S)
    assert migration.is_over and migration.place is Place.UNKNOWN


@pytest.mark.parametrize("read_first", [True, False])
def test_a_switch_before_it_was_attached_divides_no_bytes(read_first: bool) -> None:
    migration = attached()
    stats = Stats(memory_total=1 << 30, memory_sent=543 * MIB, postcopy_requests=597)
    look = Looked(SRC, Half.SPLIT_FAILED, "postcopy-active", stats)
    if read_first:
        see(migration, 0.1, ev.StatsSeen(stats))
    see(migration, 0.1, look)
    see(migration, 0.2, ev.StatsSeen(stats))
    summary = migration.summary()
    assert summary.switch is not None
    assert summary.switch.reason == "it came before this"
    assert (summary.precopy_bytes, summary.postcopy_bytes) == (None, None)
    assert summary.postcopy_requests == 597


# Shadow


class Recording:
    """A driver that fails on any call that sends something."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.hosts = {SRC: flowing(1), DST: WAITS}

    def begin(self, sink: Any) -> None:
        sink(ev.Attached())

    def _forbidden(self) -> Any:
        self.sent.append("something")
        raise AssertionError("sent")

    switch = abort = pause = resume = _forbidden

    def verify_switch(self) -> Event:
        return ev.SwitchNotSeen()

    def read_stats(self) -> list[Event]:
        return [ev.StatsSeen(None)]

    def look(self, side: Side) -> Event:
        return self.hosts[side]

    def hand_over(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_shadow_sends_nothing_and_says_what_it_would() -> None:
    driver = Recording()
    notes: list[str] = []

    def observe(what: object) -> None:
        if isinstance(what, Note):
            notes.append(what.text)
            if "switch" in what.text:
                driver.hosts = {each.side: each for each in BROKEN}
                runner.put(status("postcopy-active"))
            else:
                driver.hosts = {
                    SRC: looked(SRC, Half.GONE),
                    DST: looked(DST, Half.WHOLE),
                }

    runner = Runner(driver, parse("after:0"), observe, 60.0, is_shadow=True)
    runner.start()
    assert runner.wait(20)
    assert driver.sent == []
    assert notes == [
        "would switch to post-copy: at once, as asked",
        "would resume the migration",
    ]
    assert runner.migration.place is Place.DESTINATION
    switch = runner.migration.summary().switch
    assert switch is not None and switch.reason == "asked for by another client"


@pytest.mark.parametrize("event", [ev.AbortRequested(), ev.SwitchRequested("now")])
def test_a_shadow_does_not_send_what_it_is_asked_for_either(event: Event) -> None:
    migration = attached(kind=shadow.Shadow)
    see(migration, 1.0, flowing(1), WAITS)
    actions = see(migration, 2.0, event)
    assert any(isinstance(it, Note) for it in actions)
    assert all(isinstance(it, (Look, Note, ReadStats)) for it in actions)


def test_a_shadow_sends_nothing_before_its_turn_either() -> None:
    foreseen = {}
    for kind in (Migration, shadow.Shadow):
        migration = kind(parse("after-precopy"), 0.0)
        for event in (*walk("setup", "active"), ev.PassSeen(1)):
            migration.feed(event, 1.0)
        foreseen[kind] = migration.hasten(ev.PassSeen(2), 2.0)
    assert foreseen[Migration] is not None
    assert foreseen[shadow.Shadow] is None


def test_a_shadow_does_not_break_what_stalls() -> None:
    split = (
        looked(SRC, Half.SPLIT, "postcopy-active", memory_sent=1),
        looked(DST, Half.SPLIT),
    )
    asked: dict[type, list[object]] = {}
    for kind in (Migration, shadow.Shadow):
        migration = attached(kind=kind)
        see(migration, 1.0, *split)
        asked[kind] = see(migration, 40.0, *split)
    assert any(isinstance(it, Pause) for it in asked[Migration])
    assert not any(isinstance(it, Pause) for it in asked[shadow.Shadow])
    assert Note("would make QEMU notice the break") in asked[shadow.Shadow]


# What is refused


def domain(state: tuple[int, int] = RUNNING, **job: Any) -> FakeDomain:
    dom = FakeDomain(state=state)
    dom.job = job
    return dom


@pytest.mark.parametrize(
    "dom, complaint",
    [
        (domain(), "nothing to attach to: domain 'web1' runs, and no migration"),
        (domain(SHUT_OFF), "nothing to attach to: domain 'web1' does not run"),
        (domain(PAUSED), "domain 'web1' runs, and no migration"),
        (domain(LEFT_BEHIND), "is paused by a migration that does not go on"),
        (domain(LEFT_BEHIND, type=2, operation=9), "domain 'web1' has another job"),
        (domain(type=2, operation=9), "domain 'web1' has another job"),
        (domain(type=3, operation=5), "domain 'web1' has another job"),
        (domain(SPLIT_THERE), "this is the destination's half"),
        (domain(FAILED_THERE), "this is the destination's half"),
        (domain(type=2, operation=4), "this is the destination's half"),
    ],
)
def test_where_there_is_nothing_to_attach_to(dom: FakeDomain, complaint: str) -> None:
    for call in (takeover.attach, takeover.recover):
        with pytest.raises(StateError, match=complaint):
            call(dom)
    assert dom.calls == []


def test_shell_of_a_guest_that_has_gone_is_not_to_be_started_on_its_way_again() -> None:
    with pytest.raises(StateError) as caught:
        takeover.attach(domain(LEFT_BEHIND))
    assert "start one with migrate" not in caught.value.cure
    assert "neither resume nor migrate it" in caught.value.cure


def test_destination_is_known_by_its_refusal_of_statistics() -> None:
    dom = domain((3, 2))
    dom.errors["jobStats"] = ONLY_THERE
    with pytest.raises(StateError, match="run it against the source URI"):
        takeover.attach(dom)


@pytest.mark.parametrize(
    "dom, phase",
    [(domain(**OUTGOING), "pre-copy"), (domain(SPLIT_HERE), "post-copy")],
)
def test_what_is_not_broken_is_not_mended(dom: FakeDomain, phase: str) -> None:
    with pytest.raises(StateError, match=f"nothing is broken: .* is in {phase}"):
        takeover.recover(dom)


@pytest.mark.parametrize("call", [takeover.attach, takeover.recover])
def test_what_may_only_be_looked_at_is_not_mended(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "AttachedDriver", lambda *args, **options: pytest.fail("begun"))  # fmt: skip
    dom = domain(FAILED_HERE, **OUTGOING)
    dom.errors["migrateGetMaxSpeed"] = READ_ONLY
    with pytest.raises(libvirt.libvirtError, match="connection is read-only"):
        call(dom, "fake:///b")
    assert dom.calls == []


def test_what_may_only_be_looked_at_may_be_watched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dom = domain(**OUTGOING)
    dom.errors["migrateGetMaxSpeed"] = READ_ONLY
    monkeypatch.setattr(takeover, "Runner", lambda *args, **options: options)
    monkeypatch.setattr(takeover, "begin", lambda runner, driver, reason: runner)
    runner: Any = takeover.attach(dom, "fake:///b", shadow=True)
    assert runner["is_shadow"] is True


@pytest.fixture
def held() -> Iterator[j.Journal]:
    """The journal of a client that lives."""
    facts = j.Facts("web1", UUID, "fake:///a", "aaaa", "fake:///b", params={"bandwidth": 5})  # fmt: skip
    journal = j.Journal(facts)
    journal.start(source_host="aaaa", is_peer2peer=False)
    yield journal
    release(journal)


def release(journal: j.Journal) -> None:
    journal.close()
    assert journal._writer is not None
    journal._writer.join(10)


def test_what_is_driven_is_left_to_its_driver(held: j.Journal) -> None:
    dom = domain(**OUTGOING)
    with pytest.raises(StateError, match=r"is driven by process \d+"):
        takeover.attach(dom, "fake:///c")
    release(held)
    assert takeover.left_behind(dom).driver == 0


@pytest.mark.parametrize("is_driver_qemu", [False, True])
@pytest.mark.parametrize("fails", ["driver", "observer", "runner"])
def test_attach_that_fails_leaves_the_journal_to_the_next(
    held: j.Journal, monkeypatch: pytest.MonkeyPatch, fails: str, is_driver_qemu: bool
) -> None:
    release(held)
    if is_driver_qemu:
        was = takeover.left_behind(domain(**OUTGOING)).entry
        assert was is not None
        facts = replace(was.facts, driver="qemu", run="1", params={})
        journal = j.Journal(facts)  # the newest
        journal.start(source_host="aaaa", is_peer2peer=False)
        release(journal)
    dom = domain(**OUTGOING)

    def fail(*args: object, **more: object) -> Any:
        raise KeyboardInterrupt

    broken = {
        "driver": "PickedUpDriver" if is_driver_qemu else "AttachedDriver",
        "runner": "Runner",
    }
    if fails in broken:
        monkeypatch.setattr(takeover, broken[fails], fail)
    monkeypatch.setattr(takeover, "_held_back", lambda *args: ["beware"])
    observer = fail if fails == "observer" else None
    with pytest.raises(KeyboardInterrupt):
        takeover.attach(dom, observer=observer)
    wait_until(lambda: not takeover.left_behind(dom).driver, "nobody has it", 5.0)
    entry = takeover.left_behind(dom).entry
    assert entry is not None and not entry.is_held


def test_destination_names_the_source_that_the_journal_knows(held: j.Journal) -> None:
    dom = domain(SPLIT_THERE)
    dom.connection.uri = "fake:///b"
    with pytest.raises(StateError, match="the source URI, fake:///a"):
        takeover.attach(dom)


# What is taken from the journal


def test_journal_gives_what_was_not_given(held: j.Journal) -> None:
    release(held)
    dom = domain(**OUTGOING)
    entry = takeover.left_behind(dom).entry
    assert entry is not None
    target = takeover._target(None, entry, None)
    assert (target.uri, target.is_peer2peer) == ("fake:///b", False)
    assert target.was_reached
    assert takeover._target("fake:///b", entry, None).was_reached, "as the program asks"
    assert entry.facts.params == {"bandwidth": 5}


def test_what_is_given_wins(held: j.Journal) -> None:
    entry = takeover.left_behind(domain(**OUTGOING)).entry
    target = takeover._target("fake:///c", entry, True)
    assert (target.uri, target.is_peer2peer) == ("fake:///c", True)
    assert not takeover._target("fake:///c", entry, None).was_reached
    connection = FakeConnection("fake:///d")
    target = takeover._target(connection, entry, None)
    assert target.connection is connection and not target.is_peer2peer
    assert str(takeover._policy("after:5m", entry)) == "after:5m"
    assert str(takeover._policy(None, entry)) == "manual"


def test_journal_of_an_earlier_call_is_not_taken(
    held: j.Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(held)
    later = time.time() + 600
    monkeypatch.setattr(takeover.time, "time", lambda: later)
    assert takeover.left_behind(domain(**OUTGOING)).entry is None
    old = {**OUTGOING, "time_elapsed": 600_000}
    assert takeover.left_behind(domain(**old)).entry is not None


def test_journal_that_saw_the_end_is_not_taken(held: j.Journal) -> None:
    held.end(Place.SOURCE, Phase.FAILED)
    release(held)
    assert takeover.left_behind(domain(**OUTGOING)).entry is None


def test_flags_of_a_resume() -> None:
    peer2peer, live, postcopy, resume, unsafe = 1 << 1, 1, 1 << 15, 1 << 19, 1 << 9
    made = takeover._resume_flags(peer2peer | resume | unsafe | 1 << 30)
    assert int(made) == live | postcopy | unsafe


# migrations


def test_migrations_of_a_host(held: j.Journal, monitor: None) -> None:
    source = FakeConnection("fake:///a")
    leaving = FakeDomain(source)
    leaving.job = OUTGOING
    FakeDomain(source, uuid=OTHER_UUID)  # takes no part
    arriving = FakeDomain(source, uuid=OTHER_UUID, state=FAILED_THERE)
    arriving.name = lambda: "web2"  # type: ignore[method-assign]
    first, second = migrations.look(source, "fake:///a")
    assert (first.side, first.phase, first.guest) == ("outgoing", "pre-copy", "source")
    assert first.destination == "fake:///b" and first.driven_by and first.next == ""
    assert (second.domain, second.side, second.guest) == ("web2", "incoming", "split")
    release(held)
    first, _ = migrations.look(source, "fake:///a")
    assert first.next == "virsh-postcopy -c fake:///a postcopy-attach web1"
    assert first.driven_by == 0


@pytest.mark.parametrize(
    "state, said, phase, verb",
    [
        (FAILED_HERE, "postcopy-paused", "broken", "postcopy-recover"),
        (FAILED_HERE, "postcopy-active", "post-copy", "postcopy-attach"),
        (SPLIT_HERE, "a-later-status", "post-copy", "postcopy-attach"),
        (FAILED_HERE, None, "post-copy failed, says libvirt", "postcopy-recover"),
    ],
)
def test_a_split_guest_by_qemus_own_words(
    monitor: None, state: tuple[int, int], said: str | None, phase: str, verb: str
) -> None:
    dom = domain(state, **OUTGOING)
    dom.migrate_info = {"status": said} if said else {}
    (row,) = migrations.look(dom.connection, "fake:///a")
    assert (row.phase, row.guest) == (phase, "split")
    assert row.next == f"virsh-postcopy -c fake:///a {verb} web1 DESTURI"


def test_qemu_is_asked_only_where_the_guest_is_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        migrations.calls, "query_migration", lambda dom: pytest.fail("taints")
    )
    (row,) = migrations.look(domain(**OUTGOING).connection, "fake:///a")
    assert row.phase == "pre-copy"


def test_table_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    row = migrations.Row("web1", UUID, "outgoing", "broken", "split", next="do this")
    head, line = migrations._table([row], "fake:///a")
    assert head.split()[:3] == ["DOMAIN", "SIDE", "PHASE"]
    assert line.split("  ")[0] == "web1" and line.endswith("do this")
    assert list(migrations._table([], "u")) == ["no migration on u"]
    assert json.loads(json.dumps(migrations.asdict(row)))["driven_by"] == 0
    driven = replace(row, driven_by=7)
    assert "process 7" in list(migrations._table([driven], "u"))[1]
