"""The start of the destination, and the wait for its end."""

from __future__ import annotations

import threading

import pytest

from libvirt_postcopy.constants import ErrorNumber
from libvirt_postcopy.drivers import ends, landing
from libvirt_postcopy.errors import LibvirtError
from libvirt_postcopy.events import Ended, Half, SwitchAccepted
from unit.drivers.plays import (
    PATIENCE_S,
    Play,
    begun,
    closed,
    hosts,
    impatient,
    moved,
    no_thread_is_left,
    pair,
    split,
    until,
)
from unit.drivers.qemus import PAUSED_BY_USER, Daemon, Hosts, Machine, Pair, ok
from unit.fakes import DST, NO_ANSWER, RUNNING, SRC, refused

__all__ = ["closed", "hosts", "impatient", "pair"]  # fixtures

pytestmark = pytest.mark.usefixtures("monitor")


def test_destination_is_resumed_once_the_source_is_in_postcopy(
    pair: Pair, hosts: Hosts
) -> None:
    moved(pair, hosts)
    assert pair.resumed_at in (["postcopy-active"], ["completed"])


def test_destination_that_still_loads_is_not_resumed(pair: Pair, hosts: Hosts) -> None:
    """``cont`` would undo ``-S`` there."""
    play = begun(hosts)
    pair.say("src", "postcopy-active")
    play.until_status("postcopy-active")
    until(lambda: hosts.there.commands.count("query-status") > 3)
    assert pair.models["dst"].run_state == "inmigrate"
    assert hosts.there.calls == []
    pair.models["dst"].run_state = "paused"
    until(lambda: hosts.there.calls == [("resume",)])


def test_start_that_is_refused_is_tried_again(pair: Pair, hosts: Hosts) -> None:
    """The guest runs nowhere meanwhile."""
    play = begun(hosts)
    there = hosts.there
    there.errors["resume"] = NO_ANSWER
    pair.switch()
    until(lambda: there.calls.count(("resume",)) > 1)
    del there.errors["resume"]
    until(lambda: pair.models["dst"].run_state == "running")
    pair.complete()
    assert play.ended().error is None


def test_guest_that_its_user_has_paused_is_not_resumed(
    pair: Pair, hosts: Hosts
) -> None:
    play = begun(hosts)
    hosts.dom.now = PAUSED_BY_USER
    hosts.dom.emit("STOP")
    pair.say("src", "postcopy-active")
    pair.models["dst"].run_state = "paused"
    pair.say("dst", "postcopy-active")
    play.until_status("postcopy-active")
    pair.complete()
    assert play.ended().error is None
    assert pair.models["dst"].machine.calls == []


@pytest.mark.parametrize("is_announced", [True, False])
def test_start_whose_answer_was_lost(
    pair: Pair, hosts: Hosts, is_announced: bool
) -> None:
    """libvirt refuses another: it is running already."""
    play = begun(hosts)
    there = hosts.there
    start = there.resume

    def lost() -> int:
        if there.now == RUNNING:
            raise refused(ErrorNumber.VIR_ERR_OPERATION_INVALID, "already running")
        start()
        raise NO_ANSWER

    there.resume = lost  # type: ignore[method-assign]
    if not is_announced:
        pair.models["dst"].has_resumed = lambda: None  # type: ignore[method-assign]
    pair.switch()
    until(lambda: there.calls == [("resume",)])
    pair.complete()
    assert play.ended().error is None
    assert hosts.dom.calls == [("destroy",)]


def test_nothing_is_started_once_nobody_listens(pair: Pair, hosts: Hosts) -> None:
    play = begun(hosts)
    pair.say("src", "postcopy-active")
    until(lambda: hosts.there.commands.count("query-status") > 3)
    play.driver.close()
    pair.models["dst"].run_state = "paused"
    no_thread_is_left("postcopy-start_vcpus")
    assert hosts.there.calls == []


def test_destination_is_started_only_with_its_device_state(
    pair: Pair, hosts: Hosts
) -> None:
    """Up to QEMU 10.1 it says ``postcopy-active`` before it has that."""
    play = begun(hosts)
    pair.say("src", "postcopy-active")
    pair.say("dst", "postcopy-active")
    play.until_status("postcopy-active")
    until(lambda: hosts.there.commands.count("query-status") > 3)
    assert hosts.there.calls == []
    pair.models["dst"].run_state = "paused"
    until(lambda: hosts.there.calls == [("resume",)])


def test_destination_that_tells_of_its_loading_is_not_asked(
    pair: Pair, hosts: Hosts
) -> None:
    play = begun(hosts)
    asked = hosts.there.commands.count("query-status")
    pair.say("dst", "postcopy-device")
    pair.say("dst", "postcopy-active")
    pair.say("src", "postcopy-active")
    play.until_status("postcopy-active")
    until(lambda: hosts.there.calls == [("resume",)])
    assert hosts.there.commands.count("query-status") == asked


def test_no_connection_is_opened_while_the_guest_stands_still(
    pair: Pair, hosts: Hosts
) -> None:
    opened: list[str] = []
    play = Play(hosts)
    connect = hosts.open

    def counted(uri: str | None, side: str = "") -> Daemon:
        opened.append(side)
        return connect(uri, side)

    play.driver._destination.host._connect = counted
    play.begin().until_status("active")
    until(lambda: play.driver.switch() == SwitchAccepted())  # its daemon has answered
    before = len(opened)
    pair.switch()
    until(lambda: hosts.there.calls == [("resume",)])
    assert before and len(opened) == before


def test_guest_that_its_user_resumes_in_precopy_is_started(
    pair: Pair, hosts: Hosts
) -> None:
    hosts.dom.now = PAUSED_BY_USER
    play = begun(hosts)
    hosts.dom.now = RUNNING
    hosts.dom.emit("RESUME")
    pair.switch()
    until(lambda: hosts.there.calls == [("resume",)])
    pair.complete()
    assert play.ended().error is None


def test_guest_that_its_user_resumes_in_precopy_goes_on_after_a_failure(
    pair: Pair, hosts: Hosts
) -> None:
    hosts.dom.now = PAUSED_BY_USER
    play = begun(hosts)
    hosts.dom.now = RUNNING
    hosts.dom.emit("RESUME")
    pair.models["src"].announce("STOP", None)
    pair.say("src", "failed")
    assert play.ended().here is Half.WHOLE
    assert hosts.dom.calls == [("resume",)]


def test_source_that_does_not_answer_does_not_hold_the_switch_up(
    pair: Pair, hosts: Hosts
) -> None:
    """From QEMU 10.0 on it stops before it says that it is in post-copy."""
    play = begun(hosts)
    answers = threading.Event()
    state = hosts.dom.state
    hosts.dom.state = lambda flags=0: answers.wait(PATIENCE_S) and state()  # type: ignore[method-assign]
    pair.models["src"].announce("STOP", None)
    pair.switch()
    until(lambda: hosts.there.calls == [("resume",)])
    assert not answers.is_set()
    answers.set()
    pair.complete()
    assert play.ended().error is None


def test_events_of_a_restarted_daemon_are_heard(pair: Pair, hosts: Hosts) -> None:
    play = begun(hosts)
    old, hosts.source = hosts.source, Daemon("fake:///a", "aaaa")
    hosts.source.domains = old.domains
    hosts.dom.connection = hosts.source
    pair.models["src"].status = "postcopy-active"  # said while nobody listened
    old.is_dead = True
    until(lambda: "MIGRATION" in hosts.source.listened_to)
    pair.models["dst"].run_state = "paused"
    until(lambda: hosts.there.calls == [("resume",)])
    pair.complete()
    assert play.ended().error is None


def _silence(machine: Machine) -> None:
    machine.errors["state"] = machine.errors["monitor"] = NO_ANSWER


def test_source_that_is_away_after_the_switch_is_given_up(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing, "_SILENT_S", 0.2)
    play = split(pair, hosts)
    _silence(hosts.dom)
    ended = play.ended()
    assert "it does not answer" in str(play.driver.error)
    assert (ended.here, ended.there) == (Half.UNKNOWN, Half.UNKNOWN)
    assert hosts.there.calls == [("resume",)] and hosts.dom.calls == []


def test_daemon_that_hangs_is_one_that_is_away(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing, "_SILENT_S", 0.2)
    play = split(pair, hosts)
    answers = threading.Event()
    hosts.dom.errors["monitor"] = NO_ANSWER
    hosts.dom.state = lambda flags=0: answers.wait(PATIENCE_S) and list(RUNNING)  # type: ignore[method-assign]
    assert "it does not answer" in str(play.ended().error)
    assert not answers.is_set()
    answers.set()


def test_source_that_the_destination_has_lost_too_is_given_up_at_once(
    pair: Pair, hosts: Hosts
) -> None:
    play = split(pair, hosts)
    _silence(hosts.dom)
    pair.say("dst", "postcopy-paused")
    assert "it does not answer" in str(play.ended().error)


def test_no_connection_is_opened_to_a_host_that_is_away(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for minutes, also when the host is back by then."""
    end = ends.End(SRC, hosts.dom.uuid, "fake:///a", hosts.open, None)
    with end.seat.domain() as dom:
        assert dom is hosts.dom
    monkeypatch.setattr(ends.vir, "listens", lambda uri, seconds: False)
    monkeypatch.setattr(end.host, "_connect", lambda uri, side: pytest.fail("opened"))
    hosts.source.is_dead = True
    with pytest.raises(LibvirtError, match="does not answer"), end.seat.domain():
        pass


def test_source_that_is_away_for_a_while_is_waited_for(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = split(pair, hosts)
    asked: list[None] = []
    here = play.driver._source
    with monkeypatch.context() as patch:
        patch.setattr(here, "half", lambda: asked.append(None) or Half.UNKNOWN)
        until(lambda: len(asked) > 3)
    pair.complete()
    assert play.ended().error is None


def test_guest_whose_source_comes_back_is_started(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has switched while nobody saw it, and is only looked at by now."""
    monkeypatch.setattr(landing, "_SILENT_BEFORE_S", 0.2)
    play = begun(hosts)
    _silence(hosts.dom)
    assert play.ended().here is Half.UNKNOWN
    hosts.dom.errors.clear()
    pair.models["src"].status = "postcopy-active"
    pair.models["dst"].run_state = "paused"
    assert hosts.there.calls == []
    assert play.driver.look(SRC).half is Half.SPLIT
    until(lambda: hosts.there.calls == [("resume",)])


def test_destination_that_does_not_answer_is_known_by_what_it_announced(
    pair: Pair, hosts: Hosts
) -> None:
    play = split(pair, hosts)
    silent = threading.Event()
    pair.models["dst"]._query_migrate = lambda: silent.wait(PATIENCE_S) and ok()  # type: ignore[method-assign]
    pair.say("dst", "postcopy-paused")
    assert play.driver.look(DST).half is Half.SPLIT_FAILED
    silent.set()


def _cancelled_in_setup(pair: Pair, hosts: Hosts) -> Play:
    """Its connection is not made yet, and QEMU waits for that."""
    play, source = Play(hosts), pair.models["src"]
    source._migrate = lambda **given: source.say("setup") or ok()  # type: ignore[method-assign, func-returns-value]
    source._migrate_cancel = lambda: source.say("cancelling") or ok()  # type: ignore[method-assign, func-returns-value]
    play.begin().until_status("setup")
    return play


def test_connection_that_is_never_made_is_not_waited_for(
    pair: Pair, hosts: Hosts
) -> None:
    play = _cancelled_in_setup(pair, hosts)
    there = hosts.there
    assert play.driver.abort() is None
    ended = play.ended()
    assert (ended.here, ended.there) == (Half.WHOLE, Half.GONE)
    assert "cancelled before it was connected" in str(ended.error)
    assert there.calls == [("destroy",)] and hosts.dom.calls == []


def test_cancelled_source_that_has_sent_something_is_waited_for(
    pair: Pair, hosts: Hosts
) -> None:
    play = _cancelled_in_setup(pair, hosts)
    told = {"status": "cancelling", "ram": {"transferred": 4096}}
    pair.replies["src", "query-migrate"] = ok({**told, "status": "setup"})
    assert play.driver.abort() is None
    pair.replies["src", "query-migrate"] = ok(told)
    asked = hosts.dom.commands.count("query-migrate")
    until(lambda: hosts.dom.commands.count("query-migrate") > asked + 3)
    assert not [each for each in play.so_far() if isinstance(each, Ended)]
    pair.replies.clear()
    pair.say("src", "cancelled")
    assert play.ended().here is Half.WHOLE
