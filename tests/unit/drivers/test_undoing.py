"""The way back, and when there is none."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest

from libvirt_postcopy.constants import ErrorNumber
from libvirt_postcopy.drivers import landing, undoing
from libvirt_postcopy.errors import LibvirtError
from libvirt_postcopy.events import Half, SwitchRefused
from libvirt_postcopy.incoming import incoming_xml
from unit.drivers.plays import (
    PATIENCE_S,
    Play,
    begun,
    closed,
    fails,
    hosts,
    impatient,
    no_thread_is_left,
    pair,
    refuses,
    split,
    until,
)
from unit.drivers.qemus import PAUSED_BY_USER, XML, Hosts, Machine, Pair, ok
from unit.fakes import NO_ANSWER, RUNNING, refused

__all__ = ["closed", "hosts", "impatient", "pair"]  # fixtures

pytestmark = pytest.mark.usefixtures("monitor")


def test_failure_in_precopy_goes_back(pair: Pair, hosts: Hosts) -> None:
    play = begun(hosts)
    there = hosts.there
    pair.models["src"].run_state = "postmigrate"
    pair.say("src", "failed")
    ended = play.ended()
    assert (ended.here, ended.there) == (Half.WHOLE, Half.GONE)
    assert there.calls == [("destroy",)]
    assert "cont" in hosts.dom.commands and hosts.dom.calls == []
    assert pair.models["src"].capabilities["postcopy-ram"] is False


def test_guest_that_libvirt_saw_stop_goes_on_through_libvirt(
    pair: Pair, hosts: Hosts
) -> None:
    play = begun(hosts)
    hosts.dom.now = (3, 0)
    pair.say("src", "failed")
    play.ended()
    assert hosts.dom.calls == [("resume",)]


def test_paused_guest_is_not_started_by_a_failure(pair: Pair, hosts: Hosts) -> None:
    hosts.dom.now = PAUSED_BY_USER
    play = begun(hosts)
    pair.say("src", "failed")
    play.ended()
    assert hosts.dom.calls == [] and "cont" not in hosts.dom.commands


def test_destination_that_ends_in_precopy(pair: Pair, hosts: Hosts) -> None:
    play = begun(hosts)
    hosts.destination.domains.clear()
    ended = play.ended()
    assert "its QEMU has ended" in str(ended.error)
    assert ended.here is Half.WHOLE


def test_source_that_dies_when_all_has_arrived(pair: Pair, hosts: Hosts) -> None:
    """What is on the destination is the only guest there is."""
    play = begun(hosts)
    there = hosts.there
    pair.say("dst", "completed")
    hosts.source.domains.clear()
    pair.models["dst"].run_state = "paused"
    assert play.ended().error is None
    assert there.calls == [("resume",)]


def test_source_that_dies_while_the_destination_still_loads(
    pair: Pair, hosts: Hosts
) -> None:
    play = begun(hosts)
    there = hosts.there
    hosts.source.domains.clear()
    until(lambda: "query-migrate" in there.commands)
    pair.models["dst"].run_state = "paused"
    pair.say("dst", "completed")
    assert play.ended().error is None
    assert there.calls == [("resume",)]


def test_old_destination_that_has_all_is_known_by_its_run_state(
    pair: Pair, hosts: Hosts
) -> None:
    """Up to QEMU 2.12 it has no word for it."""
    play = begun(hosts)
    there = hosts.there
    pair.replies["dst", "query-migrate"] = ok({})
    hosts.source.domains.clear()
    until(lambda: "query-migrate" in there.commands)
    assert there.calls == []
    pair.models["dst"].run_state = "paused"
    assert play.ended().error is None
    assert there.calls == [("resume",)]


def test_source_that_dies_before_all_has_arrived(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing, "_LOAD_S", 0.2)
    play = begun(hosts)
    there = hosts.there
    hosts.source.domains.clear()
    assert play.ended().here is Half.GONE
    assert there.calls == [("destroy",)]


@pytest.mark.parametrize("status", [None, "postcopy-active"])
def test_destination_that_may_have_all_is_not_removed(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch, status: str | None
) -> None:
    monkeypatch.setattr(landing, "_LOAD_S", 0.2)
    play = begun(hosts)
    there = hosts.there
    if status is None:
        there.errors["monitor"] = NO_ANSWER
    else:
        pair.say("dst", status)
    hosts.source.domains.clear()
    ended = play.ended()
    assert "nothing was undone" in str(ended.error)
    assert (ended.here, ended.there) == (Half.UNKNOWN, Half.UNKNOWN)
    assert there.calls == []


TRANSCRIPTS = Path(__file__).parents[2] / "transcripts"


NOT_YET = refused(
    ErrorNumber.VIR_ERR_OPERATION_FAILED,
    "internal error: unable to execute QEMU command 'cont': Migration is not finalized yet",
)


@pytest.mark.parametrize(
    ("transcript", "can_go_on", "words"),
    [
        ("qemu-3.0/recorded-dst-load-fails", True, "goes on on the source"),
        ("qemu-6.2/recorded-dst-load-fails", False, "cannot go on from there"),
        ("qemu-7.2/device-state-rejected", False, "cannot go on from there"),
        ("qemu-10.0/device-state-rejected", False, "cannot go on from there"),
        # Whichever is seen first: the destination's end, or what its source makes of that.
        ("qemu-11.1/device-state-rejected", True, "failed|its QEMU has ended"),
    ],
)
def test_guest_that_never_ran_there_goes_on_where_qemu_lets_it(
    pair: Pair, hosts: Hosts, transcript: str, can_go_on: bool, words: str
) -> None:
    major, minor = transcript.partition("/")[0][len("qemu-") :].split(".")
    pair.version = (int(major), int(minor), 0)
    play = begun(hosts)
    there = hosts.there
    if not can_go_on:
        hosts.dom.errors["resume"] = NOT_YET
    pair.play(TRANSCRIPTS / f"{transcript}.ndjson", hosts)
    ended = play.ended()
    assert re.search(words, str(ended.error))
    assert ended.there is Half.GONE
    assert ended.here is (Half.WHOLE if can_go_on else Half.SPLIT_FAILED)
    assert (hosts.dom.now == RUNNING) is can_go_on
    assert pair.models["src"].capabilities["postcopy-ram"] is not can_go_on
    pair.models["dst"].run_state = "paused"  # as if it had been loaded after all
    no_thread_is_left("postcopy-start_vcpus")
    assert ("resume",) not in there.calls


def test_guest_that_may_have_run_there_is_not_started_here(
    pair: Pair, hosts: Hosts
) -> None:
    play = split(pair, hosts)
    hosts.destination.domains.clear()
    pair.say("src", "postcopy-paused")
    ended = play.ended()
    assert (ended.here, ended.there) == (Half.SPLIT_FAILED, Half.UNKNOWN)
    assert hosts.dom.calls == [] and "cont" not in hosts.dom.commands


def test_creation_whose_answer_was_lost_is_undone(pair: Pair, hosts: Hosts) -> None:
    hosts.destination.loses_answer = NO_ANSWER
    refuses(hosts, LibvirtError, "client socket is closed")
    assert len(hosts.destination.created) == 1


def test_what_another_run_has_created_is_left(pair: Pair, hosts: Hosts) -> None:
    def start(machine: Machine) -> Any:
        machine.xml = incoming_xml(XML, run="another")
        return pair.start("dst")(machine)

    hosts.destination.start = start
    hosts.destination.loses_answer = NO_ANSWER
    play = Play(hosts).begin()
    assert not play.ended().was_sent
    assert hosts.there.calls == []


def test_source_goes_on_before_the_destination_answers(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(undoing, "_REMOVE_S", 0.2)
    play = begun(hosts)
    answers = threading.Event()
    ran_on: list[bool] = []

    def destroy() -> int:
        ran_on.append("cont" in hosts.dom.commands)
        return int(answers.wait(PATIENCE_S))

    hosts.there.destroy = destroy  # type: ignore[method-assign]
    pair.models["src"].run_state = "postmigrate"
    pair.say("src", "failed")
    ended = play.ended()
    assert ended.here is Half.WHOLE and ran_on == [True]
    assert "still on the destination: its daemon does not answer" in str(ended.error)
    answers.set()


def test_destination_is_not_destroyed_too_late(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later run may have made another one by then."""
    monkeypatch.setattr(undoing, "_REMOVE_S", 0.2)
    play = begun(hosts)
    there, answers = hosts.there, threading.Event()
    there.XMLDesc = lambda flags=0: answers.wait(PATIENCE_S) and there.xml  # type: ignore[method-assign]
    pair.say("src", "failed")
    assert "its daemon does not answer" in str(play.ended().error)
    answers.set()
    no_thread_is_left("postcopy-within")
    assert there.calls == []


def test_destroy_that_is_carried_out_late_finds_nothing_that_can_be_split(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its daemon hangs with the request: the domain stays as it was, until that is taken."""
    monkeypatch.setattr(undoing, "_REMOVE_S", 0.2)
    play = begun(hosts)
    there, answers = hosts.there, threading.Event()
    states: list[tuple[str | None, str]] = []
    destroy = there.destroy

    def late() -> int:
        assert answers.wait(PATIENCE_S)
        states.append((pair.models["src"].status, pair.models["dst"].run_state))
        return destroy()

    there.destroy = late  # type: ignore[method-assign]
    fails(play)
    ended = play.ended()
    assert (ended.here, ended.there) == (Half.WHOLE, Half.MIGRATING)
    assert isinstance(play.driver.switch(), SwitchRefused)
    play.driver._starter.begin()
    later = Play(hosts).begin()
    assert "the destination has a domain 'web1' already" in str(later.ended().error)
    answers.set()
    no_thread_is_left("postcopy-within")
    assert states == [("cancelled", "inmigrate")]
    assert there.calls == [("destroy",)]


def test_what_was_created_since_is_left(pair: Pair, hosts: Hosts) -> None:
    play = begun(hosts)
    hosts.there.xml = incoming_xml(XML, run="another")
    pair.say("src", "failed")
    play.ended()
    assert hosts.there.calls == []


def _answerless(pair: Pair, hosts: Hosts) -> None:
    """``migrate`` is carried out, and its answer does not arrive."""
    source = pair.models["src"]
    migrate = source._migrate

    def lost(**given: Any) -> Any:
        migrate(**given)
        source.status = "postcopy-active"
        source.run_state = "finish-migrate"
        raise NO_ANSWER

    source._migrate = lost  # type: ignore[method-assign]


def test_what_has_switched_unseen_is_not_undone(pair: Pair, hosts: Hosts) -> None:
    _answerless(pair, hosts)
    ended = Play(hosts).begin().ended()
    assert (ended.here, ended.there) == (Half.SPLIT_FAILED, Half.UNKNOWN)
    assert hosts.there.calls == [] and hosts.dom.calls == []
    assert "cont" not in hosts.dom.commands


def test_nothing_is_undone_while_the_source_is_silent(pair: Pair, hosts: Hosts) -> None:
    play = begun(hosts)
    hosts.dom.errors["monitor"] = NO_ANSWER
    pair.say("src", "failed")
    ended = play.ended()
    assert "nothing was undone" in str(ended.error)
    assert (ended.here, ended.there) == (Half.UNKNOWN, Half.UNKNOWN)
    assert hosts.there.calls == [] and hosts.dom.calls == []


def test_source_that_cannot_be_continued_is_told_of(pair: Pair, hosts: Hosts) -> None:
    play = begun(hosts)
    hosts.dom.errors["resume"] = NOT_YET
    pair.models["src"].announce("STOP", None)
    pair.say("src", "failed")
    ended = play.ended()
    assert "the source stands still: virsh resume web1" in str(ended.error)
    assert (ended.here, ended.there) == (Half.MIGRATING, Half.GONE)


def test_start_comes_not_after_the_way_back(pair: Pair, hosts: Hosts) -> None:
    """Pre-copy has sent all, but the destination is never ready: the guest goes on here, and only here."""
    play = begun(hosts)
    there = hosts.there
    pair.say("src", "completed")
    pair.models["src"].run_state = "postmigrate"
    ended = play.ended()
    assert (ended.here, ended.there) == (Half.WHOLE, Half.GONE)
    assert "cont" in hosts.dom.commands
    pair.models["dst"].run_state = "paused"
    pair.models["dst"].say("completed")
    no_thread_is_left("postcopy-start_vcpus")
    assert there.calls == [("destroy",)]


def test_guest_goes_not_on_here_while_it_may_be_whole_there(
    pair: Pair, hosts: Hosts
) -> None:
    """Its daemon does not answer, and somebody may start it there by hand."""
    play = begun(hosts)
    there = hosts.there
    there.errors["monitor"] = there.errors["resume"] = NO_ANSWER
    pair.complete()
    pair.models["src"].run_state = "postmigrate"
    ended = play.ended()
    assert (ended.here, ended.there) == (Half.UNKNOWN, Half.UNKNOWN)
    assert "nothing was undone" in str(ended.error)
    assert "cont" not in hosts.dom.commands and hosts.dom.calls == []
    # It goes on to be tried.
    there.errors.clear()
    pair.models["dst"].run_state = "paused"
    until(lambda: pair.models["dst"].run_state == "running")
    assert "cont" not in hosts.dom.commands


def test_guest_that_was_sent_goes_not_on_beside_what_has_it(
    pair: Pair, hosts: Hosts
) -> None:
    play = begun(hosts)
    hosts.there.errors["destroy"] = NO_ANSWER
    pair.say("src", "completed")
    pair.models["src"].run_state = "postmigrate"
    ended = play.ended()
    assert ended.here is Half.MIGRATING
    assert play.driver.error is not None
    assert "never resume it" in play.driver.error.cure
    assert "once that domain is destroyed" in play.driver.error.what
    assert "cont" not in hosts.dom.commands and hosts.dom.calls == []


def test_what_is_left_there_is_not_to_be_resumed(pair: Pair, hosts: Hosts) -> None:
    play = begun(hosts)
    hosts.there.errors["destroy"] = NO_ANSWER
    pair.say("src", "failed")
    assert play.ended().here is Half.WHOLE
    assert "never resume it" in str(play.driver.error)


def test_way_back_comes_not_after_the_start(pair: Pair, hosts: Hosts) -> None:
    play = begun(hosts)
    there = hosts.there
    there.emit("RESUME")  # whoever has started it
    pair.say("src", "failed")
    ended = play.ended()
    assert (ended.here, ended.there) == (Half.SPLIT_FAILED, Half.MIGRATING)
    assert there.calls == [] and hosts.dom.calls == []
    assert "cont" not in hosts.dom.commands
