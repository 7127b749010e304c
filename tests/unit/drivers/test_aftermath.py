"""What is removed when the guest has arrived, and when it is not."""

from __future__ import annotations

import threading

import pytest

from libvirt_postcopy.drivers.runner import Runner
from libvirt_postcopy.events import Half, Place, StatusSeen
from libvirt_postcopy.incoming import incoming_xml
from libvirt_postcopy.policy import parse
from unit.drivers.plays import (
    LIVE,
    PATIENCE_S,
    PERSIST,
    Play,
    begun,
    closed,
    hosts,
    impatient,
    moved,
    pair,
    split,
    until,
)
from unit.drivers.qemus import Hosts, Pair
from unit.fakes import DST, NO_ANSWER, SRC

__all__ = ["closed", "hosts", "impatient", "pair"]  # fixtures

pytestmark = pytest.mark.usefixtures("monitor")


def test_definition_goes_along_without_what_is_ours(pair: Pair, hosts: Hosts) -> None:
    hosts.dom.is_defined = True
    hosts.dom.xml = incoming_xml(hosts.dom.xml)  # it came here like this
    moved(pair, hosts, LIVE | PERSIST)
    [defined] = hosts.destination.defined
    assert "incoming" not in defined and "web1" in defined
    assert hosts.dom.calls[:1] == [("destroy",)]


def test_source_stays_until_the_destination_has_confirmed(
    pair: Pair, hosts: Hosts
) -> None:
    play = split(pair, hosts)
    pair.say("src", "completed")
    play.until_status("completed")
    asked = hosts.there.commands.count("query-migrate")
    until(lambda: hosts.there.commands.count("query-migrate") > asked)
    assert hosts.dom.calls == []
    pair.say("dst", "completed")
    assert play.ended().error is None
    assert hosts.dom.calls == [("destroy",)]


def _unstarted(pair: Pair, hosts: Hosts) -> Play:
    """All has arrived, and the destination's daemon does not start it."""
    play = begun(hosts)
    hosts.there.errors["resume"] = NO_ANSWER
    pair.switch()
    play.until_status("postcopy-active")
    pair.complete()
    return play


def test_guest_that_was_never_started_has_not_moved(pair: Pair, hosts: Hosts) -> None:
    play = _unstarted(pair, hosts)
    ended = play.ended()
    assert "its vCPUs are not started" in str(ended.error)
    assert (ended.here, ended.there) == (Half.SPLIT_FAILED, Half.UNKNOWN)
    looks = play.driver.look(SRC).half, play.driver.look(DST).half
    assert looks == (Half.SPLIT, Half.SPLIT)
    assert hosts.dom.calls == []
    # It goes on to be tried, and then it has moved.
    del hosts.there.errors["resume"]
    until(lambda: play.driver.look(DST).half is Half.WHOLE)
    assert play.driver.look(SRC).half is Half.INACTIVE
    play.driver.hand_over()
    assert hosts.dom.calls == [("destroy",)] and play.driver.notes == []


def test_hand_over_says_what_was_not_done(pair: Pair, hosts: Hosts) -> None:
    play = _unstarted(pair, hosts)
    play.ended()
    play.driver.hand_over()
    assert hosts.dom.calls == []
    [note] = play.driver.notes
    assert "vCPUs are not started" in note and "virsh resume" in note


def test_unstarted_guest_is_no_success_of_the_whole(pair: Pair, hosts: Hosts) -> None:
    seen: list[object] = []
    play = Play(hosts)
    runner = Runner(play.driver, parse("manual"), seen.append, patience_s=0.5)
    runner.start()
    until(lambda: StatusSeen(SRC, "active") in seen)
    hosts.there.errors["resume"] = NO_ANSWER
    pair.switch()
    pair.complete()
    assert runner.wait(PATIENCE_S)
    assert runner.migration.place is Place.SPLIT
    assert hosts.dom.calls == []


def test_source_that_cannot_be_asked_is_not_destroyed(pair: Pair, hosts: Hosts) -> None:
    play = split(pair, hosts)
    hosts.dom.errors["state"] = hosts.dom.errors["monitor"] = NO_ANSWER
    pair.complete()
    assert play.ended().error is None
    assert hosts.dom.calls == []
    threading.Timer(0.1, hosts.dom.errors.clear).start()
    play.driver.hand_over()
    assert hosts.dom.calls == [("destroy",)] and play.driver.notes == []


def test_source_that_stays_silent_is_told_of(pair: Pair, hosts: Hosts) -> None:
    play = split(pair, hosts)
    hosts.dom.errors["state"] = hosts.dom.errors["monitor"] = NO_ANSWER
    pair.complete()
    assert play.ended().error is None
    play.driver.hand_over()
    assert hosts.dom.calls == []
    assert "the source's daemon does not answer" in play.driver.notes[0]
