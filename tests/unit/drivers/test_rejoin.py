"""A new channel for a migration that broke."""

from __future__ import annotations

from typing import Any

import pytest

from libvirt_postcopy.drivers import connecting, rejoin
from libvirt_postcopy.drivers.wishes import Wishes
from libvirt_postcopy.events import Remarked
from unit.drivers.plays import Play, closed, hosts, impatient, pair, sent, split
from unit.drivers.qemus import Hosts, Pair, ok, refuse
from unit.fakes import DST, NO_ANSWER, SRC, Clock

__all__ = ["closed", "hosts", "impatient", "pair"]  # fixtures

pytestmark = pytest.mark.usefixtures("monitor")

TRIGGERED = refuse("Migrate recovery is triggered already")


def test_broken_one_gets_a_new_channel(pair: Pair, hosts: Hosts) -> None:
    play = split(pair, hosts)
    pair.say("src", "postcopy-paused")
    play.ended()
    pair.on["src", "migrate"] = lambda: pair.say("src", "postcopy-recover")
    play.driver.resume()
    play.until_status("postcopy-recover")
    pair.say("src", "postcopy-active")
    pair.complete()
    assert play.ended().error is None
    resumes = [c["arguments"] for c in hosts.dom.sent if c["execute"] == "migrate"][1:]
    assert resumes == [{"uri": "tcp:192.0.2.2:49185", "resume": True}]
    assert hosts.dom.calls == [("destroy",)]


def test_resume_that_fails_without_a_word(pair: Pair, hosts: Hosts) -> None:
    """QEMU up to 9.0 stays postcopy-paused and announces nothing."""
    _unanswered(pair, hosts)
    assert hosts.dom.calls == []


def _unanswered(pair: Pair, hosts: Hosts, **params: Any) -> Play:
    """It was resumed, and nothing was heard of that."""
    play = split(pair, hosts, **params)
    pair.say("src", "postcopy-paused")
    play.ended()
    play.driver.resume()
    assert "has not come back" in str(play.ended().error)
    return play


def test_resume_that_may_be_connecting_gets_no_other_beside_it(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to QEMU 9.0 it is not announced, and the source's dies of the second one that connects."""
    clock = Clock(monkeypatch)
    play = _unanswered(pair, hosts)
    play.driver.resume()
    assert "may still be connecting" in str(play.ended().error)
    assert [isinstance(each, Remarked) for each in play.seen].count(True) == 1
    clock.passed += connecting._CONNECTING_S - 10
    play.driver.resume()
    assert "may still be connecting" in str(play.ended().error)
    assert len(sent(hosts.dom, "migrate")) == 2
    assert len(sent(hosts.there, "migrate-recover")) == 1
    clock.passed += 10
    play.driver.resume()
    assert "has not come back" in str(play.ended().error)
    assert len(sent(hosts.dom, "migrate")) == 3


def test_resume_is_noted_when_it_is_sent_and_not_before(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who attaches later takes it for one that may still be connecting."""
    play = split(pair, hosts)
    pair.say("src", "postcopy-paused")
    play.ended()
    noted: list[int] = []
    monkeypatch.setattr(
        play.driver, "_note_resume", lambda: noted.append(len(sent(hosts.dom, "migrate")))
    )  # fmt: skip
    pair.replies["dst", "migrate-recover"] = refuse("no room")
    play.driver.resume()
    assert "no room" in str(play.ended().error)
    assert noted == []
    del pair.replies["dst", "migrate-recover"]
    play.driver.resume()
    play.ended()
    assert noted == [1] and len(sent(hosts.dom, "migrate")) == 2


def test_resume_that_has_come_through_late_is_followed_by_another(
    pair: Pair, hosts: Hosts
) -> None:
    play = _unanswered(pair, hosts)
    pair.say("src", "postcopy-recover")
    pair.say("src", "postcopy-paused")
    play.until_status("postcopy-paused")
    play.driver.resume()
    assert "has not come back" in str(play.ended().error)
    assert len(sent(hosts.dom, "migrate")) == 3


def test_resume_that_is_refused_is_followed_by_another(
    pair: Pair, hosts: Hosts
) -> None:
    play = split(pair, hosts)
    pair.say("src", "postcopy-paused")
    play.ended()
    pair.replies["src", "migrate"] = refuse("not now")
    play.driver.resume()
    assert "not now" in str(play.ended().error)
    del pair.replies["src", "migrate"]
    pair.on["src", "migrate"] = lambda: pair.say("src", "postcopy-recover")
    play.driver.resume()
    play.until_status("postcopy-recover")


def test_destination_is_not_told_of_a_break_that_may_just_be_mended(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU dies of a break while it recovers."""
    monkeypatch.setattr(rejoin, "_NUDGE_S", 0.0)
    play = _unanswered(pair, hosts)
    pair.say("dst", "postcopy-recover")
    play.driver.look(DST)
    assert "migrate-pause" not in hosts.there.commands
    monkeypatch.setattr(connecting, "_CONNECTING_S", 0.0)
    play.driver.look(DST)
    assert "migrate-pause" in hosts.there.commands


def test_destination_is_told_of_the_break_after_that(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rejoin, "_NUDGE_S", 0.0)
    play = _unanswered(pair, hosts)
    for status in ("postcopy-recover", "postcopy-active", "postcopy-paused"):
        pair.say("src", status)
    pair.say("dst", "postcopy-active")
    play.driver.look(DST)
    assert "migrate-pause" in hosts.there.commands


def test_destination_that_waits_already_is_used_again(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to QEMU 7.0 migrate-recover can be sent once.  The source's has given its connection up."""
    play = _unanswered(pair, hosts)
    pair.replies["dst", "migrate-recover"] = TRIGGERED
    monkeypatch.setattr(connecting, "_CONNECTING_S", 0.0)
    play.driver.resume()
    play.ended()
    resumes = [
        c["arguments"]["uri"] for c in hosts.dom.sent if c["execute"] == "migrate"
    ]
    assert resumes[1:] == ["tcp:192.0.2.2:49185"] * 2


def test_destination_is_told_of_a_break_that_it_does_not_notice(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = split(pair, hosts)
    pair.say("src", "postcopy-paused")
    play.ended()
    play.driver.look(DST)
    assert "migrate-pause" not in hosts.there.commands, "it has its time for that"
    monkeypatch.setattr(rejoin, "_NUDGE_S", 0.0)
    play.driver.look(DST)
    assert hosts.there.commands.count("migrate-pause") == 1


def test_destination_is_not_told_of_a_break_that_was_resumed(
    pair: Pair, hosts: Hosts
) -> None:
    """It may be seen to go on before its source is heard to."""
    play = split(pair, hosts)
    for side in ("src", "dst"):
        pair.say(side, "postcopy-paused")
    play.ended()
    course = play.driver._course
    assert course.paused_since is not None
    course.paused_since -= rejoin._NUDGE_S
    pair.on["src", "migrate"] = lambda: pair.say("dst", "postcopy-recover")
    play.driver.resume()
    play.ended()  # nothing was heard of the source
    play.driver.look(DST)
    assert "migrate-pause" not in hosts.there.commands


def test_release_ram_stands_against_a_resume(pair: Pair, hosts: Hosts) -> None:
    play = split(pair, hosts, wishes=Wishes(release_ram=True))
    pair.say("src", "postcopy-paused")
    play.ended()
    assert "release-ram" in play.driver.look(SRC).obstacle


def _frail(pair: Pair, hosts: Hosts, *missing: str, **params: Any) -> Play:
    """QEMU before 7.1, broken."""
    play = _frail_source(pair, hosts, *missing, **params)
    del pair.models["dst"].capabilities["postcopy-preempt"]
    return play


def _frail_source(pair: Pair, hosts: Hosts, *missing: str, **params: Any) -> Play:
    """The same beside a newer destination."""
    del pair.models["src"].capabilities["postcopy-preempt"]
    pair.missing.update(missing)
    play = split(pair, hosts, **params)
    pair.say("src", "postcopy-paused")
    play.ended()
    return play


def test_way_is_tried_before_it_is_used(pair: Pair, hosts: Hosts) -> None:
    play = _frail(pair, hosts)
    pair.taken.add("49184")
    pair.on["src", "migrate"] = lambda: pair.say("src", "postcopy-recover")
    play.driver.resume()
    play.until_status("postcopy-recover")
    assert sent(hosts.there, "migrate-recover") == [{"uri": "tcp:192.0.2.2:49185"}]
    for model in pair.models.values():
        assert model.sockets == {}, "something of the try is left"
    tried = hosts.dom.commands.index("query-chardev")
    assert tried < len(hosts.dom.commands) - hosts.dom.commands[::-1].index("migrate")


def test_way_is_tried_again_for_the_next_break(pair: Pair, hosts: Hosts) -> None:
    play = _frail(pair, hosts, "yank")
    for number in (1, 2):
        pair.on["src", "migrate"] = lambda: pair.say("src", "postcopy-recover")
        play.driver.resume()
        play.until_status("postcopy-recover")
        pair.say("src", "postcopy-active")
        pair.say("src", "postcopy-paused")
        play.ended()
        assert hosts.there.commands.count("chardev-add") == number
        assert hosts.there.commands.count("migrate-recover") == number
    assert play.driver.look(SRC).obstacle == ""


@pytest.mark.parametrize(
    ("given", "uri"),
    [
        ("tcp://192.0.2.2", "tcp:192.0.2.2:49184,to=49215"),
        ("tcp://192.0.2.2:5000", "tcp:192.0.2.2:5000"),
    ],
)
def test_destination_that_keeps_its_port_is_told_again(
    pair: Pair, hosts: Hosts, given: str, uri: str
) -> None:
    """From QEMU 7.1 on it listens until the next migrate-recover, and at that port no way can be tried."""
    play = _frail_source(pair, hosts, "yank", migrate_uri=given)
    pair.taken |= {"49184", "5000"}
    for number in (1, 2):
        pair.on["src", "migrate"] = lambda: pair.say("src", "postcopy-recover")
        play.driver.resume()
        play.until_status("postcopy-recover")
        pair.say("src", "postcopy-active")
        pair.say("src", "postcopy-paused")
        play.ended()
        assert sent(hosts.there, "migrate-recover") == [{"uri": uri}] * number
        assert "query-chardev" in hosts.dom.commands
    assert play.driver.look(SRC).obstacle == ""


def test_way_that_leads_nowhere_is_not_used(pair: Pair, hosts: Hosts) -> None:
    """The first migrate-recover would count, and the resume be the guest's end."""
    play = _frail(pair, hosts)
    pair.has_link = False
    for _ in range(2):
        play.driver.resume()
        assert "does not reach the destination" in str(play.ended().error)
    assert "migrate-recover" not in hosts.there.commands
    assert len(sent(hosts.dom, "migrate")) == 1
    assert play.driver.look(SRC).obstacle == ""
    assert all(model.sockets == {} for model in pair.models.values())


def test_newer_source_that_cannot_try_the_way_resumes_without(
    pair: Pair, hosts: Hosts
) -> None:
    """QEMU 11.1 takes no ``reconnect``, and survives a resume that reaches nobody; that the port is free is seen."""
    play = _frail(pair, hosts)
    pair.models["src"].capabilities["postcopy-preempt"] = False  # it is of the newer
    text = "Parameter 'backend.data.reconnect' is unexpected"
    pair.replies["src", "chardev-add"] = refuse(text)
    pair.taken.add("49184")
    pair.on["src", "migrate"] = lambda: pair.say("src", "postcopy-recover")
    play.driver.resume()
    play.until_status("postcopy-recover")
    assert sent(hosts.there, "migrate-recover") == [{"uri": "tcp:192.0.2.2:49185"}]
    assert all(model.sockets == {} for model in pair.models.values())


def test_recovery_whose_answer_was_lost_is_gone_on_with(
    pair: Pair, hosts: Hosts
) -> None:
    """QEMU 3.0 to 7.0 waits, and takes no other: nor can its port be tried any more."""
    play = _frail(pair, hosts)

    def lost(uri: str) -> Any:
        pair.replies["dst", "migrate-recover"] = TRIGGERED
        raise NO_ANSWER

    pair.models["dst"]._migrate_recover = lost  # type: ignore[method-assign]
    for _ in range(2):
        play.driver.resume()
        play.ended()
    assert hosts.there.commands.count("chardev-add") == 1
    resume = {"uri": "tcp:192.0.2.2:49184", "resume": True}
    assert sent(hosts.dom, "migrate")[1:] == [resume]
    assert play.driver.look(SRC).obstacle == ""


@pytest.mark.parametrize(
    ("ports", "uris"),
    [((49190, 49184), ["tcp:192.0.2.2:49190"]), ((49184,), [])],
)
def test_destination_that_another_client_has_told_to_recover(
    pair: Pair, hosts: Hosts, ports: tuple[int, ...], uris: list[str]
) -> None:
    """It tells its ports from QEMU 4.0 on, the newest first."""
    play = _frail(pair, hosts)
    told = [{"type": "inet", "port": str(port)} for port in ports]
    told_by = {"status": "postcopy-paused", "socket-address": told}
    pair.replies["dst", "query-migrate"] = ok(told_by)
    pair.replies["dst", "migrate-recover"] = TRIGGERED
    play.driver.resume()
    play.ended()
    assert [each["uri"] for each in sent(hosts.dom, "migrate")[1:]] == uris
    assert bool(play.driver.look(SRC).obstacle) is not bool(uris)


@pytest.mark.parametrize("reply", [ok(), TRIGGERED])
def test_path_is_not_taken_from_a_destination_that_waits_there(
    pair: Pair, hosts: Hosts, reply: dict[str, Any]
) -> None:
    """QEMU unlinks a path before it listens there, also for a try."""
    play = _frail(pair, hosts, migrate_uri="unix:///run/m.sock")
    pair.replies["dst", "migrate-recover"] = reply
    play.driver.resume()
    play.ended()
    assert "chardev-add" not in hosts.there.commands
    resume = {"uri": "unix:/run/m.sock", "resume": True}
    assert sent(hosts.dom, "migrate")[1:] == [resume]


def test_refused_recovery_is_no_recovery(pair: Pair, hosts: Hosts) -> None:
    """The way is tried anew."""
    play = _frail(pair, hosts)
    pair.replies["dst", "migrate-recover"] = refuse("not in postcopy-paused")
    for _ in range(2):
        play.driver.resume()
        play.ended()
    assert hosts.there.commands.count("chardev-add") == 2


def test_resume_that_has_reached_nobody_is_the_last(pair: Pair, hosts: Hosts) -> None:
    """QEMU 3.0 to 5.2: the next one crashes both."""
    play = _frail(pair, hosts, "yank")
    play.driver.resume()
    play.ended()
    assert "would crash both" in play.driver.look(SRC).obstacle


def test_resume_that_fails_is_not_the_last_of_a_newer_one(
    pair: Pair, hosts: Hosts
) -> None:
    play = _frail(pair, hosts)
    play.driver.resume()
    play.ended()
    assert play.driver.look(SRC).obstacle == ""


def test_port_that_is_not_told_is_given(pair: Pair, hosts: Hosts) -> None:
    """QEMU before 4.0."""
    pair.missing.add("announce-self")
    play = split(pair, hosts)
    pair.say("src", "postcopy-paused")
    play.ended()
    play.driver.resume()
    play.ended()
    assert sent(hosts.there, "migrate-incoming") == [{"uri": "tcp:192.0.2.2:49184"}]
    assert sent(hosts.there, "migrate-recover") == [{"uri": "tcp:192.0.2.2:49184"}]
