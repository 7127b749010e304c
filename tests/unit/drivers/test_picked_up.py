"""The driver ``qemu`` goes on where a client was killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import libvirt_postcopy as postcopy
from libvirt_postcopy import journal as journals
from libvirt_postcopy.actions import Note
from libvirt_postcopy.cli.commands.migrations import look
from libvirt_postcopy.drivers.native import Target
from libvirt_postcopy.drivers.picked_up import PickedUpDriver
from libvirt_postcopy.errors import StateError, UsageError
from libvirt_postcopy.events import Half, Place, StatusSeen, SwitchAccepted
from unit.drivers.plays import (
    LIVE,
    PATIENCE_S,
    Play,
    closed,
    hosts,
    impatient,
    pair,
    sent,
    until,
)
from unit.drivers.qemus import PAUSED_BY_USER, Hosts, Machine, Pair
from unit.fakes import NO_ANSWER, RUNNING, SRC

__all__ = ["closed", "hosts", "impatient", "pair"]  # fixtures

pytestmark = pytest.mark.usefixtures("monitor")

RUN = "the run"


def _killed(hosts: Hosts) -> None:
    """A client that has begun, and is gone."""
    play = Play(hosts, run=RUN).begin()
    play.until_status("active")
    play.driver.close()


def _picked_up(
    hosts: Hosts, *, run: str = RUN, has_run_there: bool = False, may_run_there: bool = False, resumed: float | None = None
) -> Play:  # fmt: skip
    play = Play(hosts)
    play.driver = PickedUpDriver(
        hosts.dom,
        Target(uri="fake:///b"),
        {"migrate_uri": "tcp://192.0.2.2"},
        LIVE,
        hosts.open,
        run=run,
        has_run_there=has_run_there,
        may_run_there=may_run_there,
        resumed=resumed,
    )
    return play


def test_guest_that_nobody_has_started(pair: Pair, hosts: Hosts) -> None:
    _killed(hosts)
    pair.switch()
    assert hosts.there.calls == []
    play = _picked_up(hosts).begin()
    assert StatusSeen(SRC, "postcopy-active") in play.so_far()
    until(lambda: hosts.there.calls == [("resume",)])
    pair.complete()
    assert play.ended().error is None
    assert hosts.dom.calls == [("destroy",)]


def test_guest_that_has_arrived_unseen(pair: Pair, hosts: Hosts) -> None:
    _killed(hosts)
    pair.switch()
    hosts.there.now = RUNNING
    pair.complete()
    assert _picked_up(hosts).begin().ended().error is None
    assert hosts.there.calls == [] and hosts.dom.calls == [("destroy",)]


def test_guest_is_switched_by_whoever_picks_it_up(pair: Pair, hosts: Hosts) -> None:
    _killed(hosts)
    play = _picked_up(hosts).begin()
    until(lambda: play.driver.switch() == SwitchAccepted())  # its daemon has answered
    pair.switch()
    pair.complete()
    assert play.ended().error is None


def test_no_connection_is_opened_while_the_guest_stands_still(
    pair: Pair, hosts: Hosts
) -> None:
    _killed(hosts)
    play = _picked_up(hosts)
    opened: list[str] = []

    def counted(uri: str, side: str) -> Any:
        opened.append(side)
        return hosts.open(uri, side)

    play.driver._destination.host._connect = counted
    play.begin()
    until(lambda: play.driver.switch() == SwitchAccepted())
    before = len(opened)
    pair.switch()
    until(lambda: hosts.there.calls == [("resume",)])
    assert before and len(opened) == before


def test_guest_that_was_paused_since_it_runs_there(pair: Pair, hosts: Hosts) -> None:
    _killed(hosts)
    pair.switch()
    hosts.there.now = PAUSED_BY_USER
    play = _picked_up(hosts, has_run_there=True).begin()
    pair.complete()
    assert play.ended().error is None
    assert hosts.there.calls == []


def test_guest_that_its_user_had_paused(pair: Pair, hosts: Hosts) -> None:
    _killed(hosts)
    pair.switch()
    hosts.dom.now = PAUSED_BY_USER
    play = _picked_up(hosts).begin()
    pair.complete()
    assert play.ended().error is None
    assert hosts.there.calls == []


@pytest.mark.parametrize(
    ("may_run_there", "run_state", "goes_back"),
    [(False, "paused", True), (True, "paused", False), (True, "inmigrate", True)],
)
def test_guest_that_may_have_run_there_goes_not_back(
    pair: Pair, hosts: Hosts, may_run_there: bool, run_state: str, goes_back: bool
) -> None:
    """The client was killed between the start and the word of it, and the destination ends."""
    _killed(hosts)
    pair.switch()
    pair.models["dst"].run_state = run_state
    play = _picked_up(hosts, may_run_there=may_run_there)
    play.driver._starter.begin = lambda: None  # type: ignore[method-assign]  # the end is faster
    play.begin()
    hosts.destination.domains.clear()
    assert (play.ended().here is Half.WHOLE) is goes_back
    assert (("resume",) in hosts.dom.calls) is goes_back


def test_broken_one_is_resumed(pair: Pair, hosts: Hosts) -> None:
    _killed(hosts)
    pair.switch()
    for peer in ("src", "dst"):
        pair.say(peer, "postcopy-paused")
    play = _picked_up(hosts).begin()
    assert play.ended().here is Half.SPLIT_FAILED
    pair.on["src", "migrate"] = lambda: pair.say("src", "postcopy-recover")
    play.driver.resume()
    play.until_status("postcopy-recover")
    pair.say("src", "postcopy-active")
    until(lambda: hosts.there.calls == [("resume",)])
    pair.complete()
    assert play.ended().error is None


@pytest.mark.parametrize(("ago_s", "is_resumed"), [(1.0, False), (1000.0, True)])
def test_resume_of_the_killed_client_gets_no_other_beside_it(
    pair: Pair, hosts: Hosts, ago_s: float, is_resumed: bool
) -> None:
    """Its QEMU may still be connecting."""
    _killed(hosts)
    pair.switch()
    for peer in ("src", "dst"):
        pair.say(peer, "postcopy-paused")
    play = _picked_up(hosts, has_run_there=True, resumed=time.time() - ago_s).begin()
    play.ended()
    play.driver.resume()
    error = str(play.ended().error)
    assert ("may still be connecting" in error) is not is_resumed
    assert len(sent(hosts.dom, "migrate")) == 1 + is_resumed


def test_domain_of_another_run_is_left_alone(pair: Pair, hosts: Hosts) -> None:
    _killed(hosts)
    pair.switch()
    with pytest.raises(StateError, match="no domain that this migration has created"):
        _picked_up(hosts, run="another").begin()
    assert hosts.there.calls == [] and hosts.dom.calls == []


@pytest.mark.parametrize("status", ["failed", "cancelled", None])
def test_what_does_not_go_on_is_left_alone(
    pair: Pair, hosts: Hosts, status: str | None
) -> None:
    _killed(hosts)
    pair.models["src"].status = status
    with pytest.raises(StateError, match="nothing goes on"):
        _picked_up(hosts).begin()
    assert hosts.there.calls == [] and hosts.dom.calls == []
    assert "cont" not in hosts.dom.commands


# By its journal


@pytest.fixture
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.mark.usefixtures("state_home")
def test_journal_says_what_it_takes(pair: Pair, hosts: Hosts) -> None:
    seen: list[object] = []
    job = _start(hosts, seen.append)
    until(lambda: StatusSeen(SRC, "active") in seen)
    [entry] = journals.entries()
    assert entry.facts.driver == "qemu" and entry.is_held and not entry.has_run_there
    assert entry.facts.run in hosts.destination.created[0]
    pair.switch()
    try:
        until(lambda: next(journals.entries()).has_run_there)
    finally:  # or the program could not end
        pair.complete()
        job.wait(PATIENCE_S)
    assert next(journals.entries()).is_over


def _start(hosts: Hosts, observer: Callable[[object], None]) -> postcopy.Job:
    return postcopy.start(
        hosts.dom,
        "fake:///b",
        driver="qemu",
        policy="manual",
        params={"migrate_uri": "tcp://192.0.2.2"},
        connect=hosts.open,
        observer=observer,
    )


@pytest.mark.usefixtures("state_home")
def test_journal_is_ahead_of_what_it_tells(pair: Pair, hosts: Hosts) -> None:
    start = hosts.destination.start
    began: list[int] = []

    def noted(machine: Machine) -> Any:
        began.append(len(list(journals.entries())))
        return start(machine)

    hosts.destination.start = noted
    seen: list[object] = []
    job = _start(hosts, seen.append)
    until(lambda: StatusSeen(SRC, "active") in seen)
    hosts.there.errors["resume"] = NO_ANSWER
    told_early = next(journals.entries()).may_run_there
    pair.switch()
    try:
        until(lambda: next(journals.entries()).may_run_there)
        assert not next(journals.entries()).has_run_there
    finally:  # or the program could not end
        hosts.there.errors.clear()
        pair.complete()
        job.wait(PATIENCE_S)
    assert began == [1] and not told_early


@pytest.mark.usefixtures("state_home")
def test_journal_says_what_is_left(pair: Pair, hosts: Hosts) -> None:
    seen: list[object] = []
    job = _start(hosts, seen.append)
    until(lambda: StatusSeen(SRC, "active") in seen)
    pair.switch()
    try:
        until(lambda: hosts.there.calls == [("resume",)])
    finally:
        hosts.dom.errors["state"] = hosts.dom.errors["monitor"] = NO_ANSWER
        pair.complete()
    assert job.wait(PATIENCE_S).notes
    [entry] = journals.entries()
    assert entry.end is Place.DESTINATION and not entry.is_over
    assert entry.left == "the source's daemon does not answer"
    # Whoever picks it up does that.
    until(lambda: not next(journals.entries()).is_held)
    hosts.dom.errors.clear()
    postcopy.attach(hosts.dom, connect=hosts.open).wait(PATIENCE_S)
    assert hosts.dom.calls == [("destroy",)]
    assert next(journals.entries()).is_over


def _left(hosts: Hosts, *, is_resumed: bool = False) -> None:
    """The journal of a client that is gone."""
    params = {"migrate_uri": "tcp://192.0.2.2", "persistent_xml": "<domain/>"}
    facts = journals.Facts(
        name="web1", uuid=hosts.dom.UUIDString(), source="fake:///a", destination="fake:///b",
        is_peer2peer=False, flags=int(LIVE), params=params, driver="qemu", run=RUN,
    )  # fmt: skip
    left = journals.Journal(facts)
    left.start(source_host="aaaa", is_peer2peer=False)
    if is_resumed:
        left.resume(is_peer2peer=False)
    left.close()
    until(lambda: not next(journals.entries()).is_held)


@pytest.mark.usefixtures("state_home")
def test_attach_goes_by_the_journal(pair: Pair, hosts: Hosts) -> None:
    _killed(hosts)
    pair.switch()
    _left(hosts)
    with pytest.raises(UsageError, match="cannot be watched only"):
        postcopy.attach(hosts.dom, connect=hosts.open, shadow=True)
    seen: list[object] = []
    job = postcopy.attach(hosts.dom, connect=hosts.open, observer=seen.append)
    assert seen[0] == Note("not in the journal, and not used: persistent_xml")
    try:
        until(lambda: hosts.there.calls == [("resume",)])
    finally:
        pair.complete()
        result: Any = job.wait(PATIENCE_S)
    assert result.driver == "qemu"
    assert hosts.dom.calls == [("destroy",)]
    assert next(journals.entries()).is_over


@pytest.mark.usefixtures("state_home")
def test_recover_mends_it(pair: Pair, hosts: Hosts) -> None:
    """libvirt does not call it broken, as it knows of none."""
    _killed(hosts)
    _left(hosts)
    pair.switch()
    hosts.there.now = RUNNING
    for peer in ("src", "dst"):
        pair.say(peer, "postcopy-paused")

    def go_on() -> None:
        pair.say("src", "postcopy-recover")
        pair.say("src", "postcopy-active")
        pair.complete()

    pair.on["src", "migrate"] = go_on
    assert postcopy.recover(hosts.dom, connect=hosts.open).driver == "qemu"
    assert hosts.there.commands.count("migrate-recover") == 1
    assert hosts.dom.calls == [("destroy",)]


@pytest.mark.usefixtures("state_home")
def test_resume_that_the_journal_tells_of_is_waited_for(
    pair: Pair, hosts: Hosts
) -> None:
    _killed(hosts)
    _left(hosts, is_resumed=True)
    pair.switch()
    hosts.there.now = RUNNING
    for peer in ("src", "dst"):
        pair.say(peer, "postcopy-paused")
    seen: list[object] = []
    job = postcopy.attach(hosts.dom, connect=hosts.open, observer=seen.append)
    try:
        until(lambda: any("may still be connecting" in str(it) for it in seen))
    finally:
        for status in ("postcopy-recover", "postcopy-active"):
            pair.say("src", status)
        pair.complete()
        job.wait(PATIENCE_S)
    assert len(sent(hosts.dom, "migrate")) == 1


@pytest.mark.usefixtures("state_home")
def test_it_is_among_the_migrations(pair: Pair, hosts: Hosts) -> None:
    """libvirt knows of none."""
    _killed(hosts)
    assert look(hosts.source, "fake:///a") == []
    _left(hosts)
    [row] = look(hosts.source, "fake:///a")
    assert (row.phase, row.guest, row.driven_by) == ("pre-copy", "source", 0)
    assert row.next == "virsh-postcopy -c fake:///a postcopy-attach web1"
    pair.switch()
    assert look(hosts.source, "fake:///a")[0].guest == "split"
    pair.complete()
    assert look(hosts.source, "fake:///a")[0].guest == "split"
    pair.say("src", "failed")
    assert look(hosts.source, "fake:///a") == []
