"""The switch, and what calls a migration off."""

from __future__ import annotations

import pytest

from libvirt_postcopy.drivers import switching
from libvirt_postcopy.events import (
    AbortRefused,
    Half,
    SwitchAccepted,
    SwitchNotSeen,
    SwitchRefused,
    SwitchUnanswered,
)
from unit.drivers.plays import (
    PATIENCE_S,
    Play,
    begun,
    closed,
    fails,
    hosts,
    impatient,
    pair,
    until,
)
from unit.drivers.qemus import Hosts, Pair, refuse
from unit.fakes import NO_ANSWER, refused

__all__ = ["closed", "hosts", "impatient", "pair"]  # fixtures

pytestmark = pytest.mark.usefixtures("monitor")


def test_abort_before_anything_was_sent(pair: Pair, hosts: Hosts) -> None:
    play = Play(hosts)
    assert play.driver.abort() is None
    assert not play.begin().ended().was_sent
    assert hosts.destination.domains == [] and "migrate" not in hosts.dom.commands


def test_abort_in_precopy(pair: Pair, hosts: Hosts) -> None:
    play = begun(hosts)
    assert play.driver.abort() is None
    play.ended()
    assert hosts.dom.commands.count("migrate_cancel") == 1
    assert hosts.destination.domains == []


@pytest.mark.parametrize(
    "status",
    ["postcopy-active", "postcopy-paused", "postcopy-recover", "device", "postcopy-device",
     "completed", "a-status-of-tomorrow"],
)  # fmt: skip
def test_cancel_is_never_sent_after_the_switch(
    pair: Pair, hosts: Hosts, status: str
) -> None:
    """QEMU < 10.0 accepts it, and the guest is lost.  Also where no event has told of the switch yet."""
    play = begun(hosts)
    pair.models["src"].status = status
    assert isinstance(play.driver.abort(), AbortRefused)
    assert "migrate_cancel" not in hosts.dom.commands


def test_what_still_goes_on_is_cancelled_before_it_is_undone(
    pair: Pair, hosts: Hosts
) -> None:
    play = begun(hosts)
    there = hosts.there
    statuses: list[str | None] = []
    destroy = there.destroy

    def noted() -> int:
        statuses.append(pair.models["src"].status)
        return destroy()

    there.destroy = noted  # type: ignore[method-assign]
    fails(play)
    assert play.ended().here is Half.WHOLE
    assert statuses == ["cancelled"]
    switched = play.driver.switch()
    assert isinstance(switched, SwitchRefused) and switched.is_final
    assert "migrate-start-postcopy" not in hosts.dom.commands


def test_what_goes_on_and_cannot_be_cancelled_is_not_undone(
    pair: Pair, hosts: Hosts
) -> None:
    """Another client may let it switch, and the destination would be destroyed with half of the guest."""
    pair.replies["src", "migrate_cancel"] = refuse("it is busy")
    play = begun(hosts)
    fails(play)
    ended = play.ended()
    assert "it goes on, and could not be cancelled: nothing was undone" in str(
        ended.error
    )
    assert (ended.here, ended.there) == (Half.UNKNOWN, Half.UNKNOWN)
    assert hosts.there.calls == []


def test_cancel_that_is_refused_is_sent_again(pair: Pair, hosts: Hosts) -> None:
    pair.replies["src", "migrate_cancel"] = refuse("it is busy")
    play = begun(hosts)
    there = hosts.there
    fails(play)
    until(lambda: hosts.dom.commands.count("migrate_cancel") > 1)
    pair.replies.clear()
    assert play.ended().here is Half.WHOLE
    assert there.calls == [("destroy",)]


def test_switch_that_was_sent_is_not_cancelled(pair: Pair, hosts: Hosts) -> None:
    play = begun(hosts)
    until(lambda: play.driver.switch() == SwitchAccepted())  # its daemon has answered
    fails(play)
    ended = play.ended()
    assert "the switch was sent" in str(ended.error)
    assert (ended.here, ended.there) == (Half.UNKNOWN, Half.UNKNOWN)
    assert "migrate_cancel" not in hosts.dom.commands and hosts.there.calls == []


def test_switch_that_comes_while_it_is_undone_is_not_undone(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switching, "_CANCEL_S", PATIENCE_S)
    play = begun(hosts)
    until(lambda: play.driver.switch() == SwitchAccepted())
    fails(play)
    until(lambda: play.driver._switching._is_abandoned)
    pair.say("src", "postcopy-active")
    assert play.ended().here is Half.SPLIT_FAILED
    assert "migrate_cancel" not in hosts.dom.commands and hosts.there.calls == []


def test_nobody_waits_for_a_switch_to_a_destination_that_has_ended(
    pair: Pair, hosts: Hosts
) -> None:
    play = begun(hosts)
    until(lambda: play.driver.switch() == SwitchAccepted())
    hosts.destination.domains.clear()
    ended = play.ended()
    assert (ended.here, ended.there) == (Half.WHOLE, Half.GONE)
    assert hosts.dom.commands.count("migrate_cancel") == 1


def test_switch_is_asked_for_and_verified(pair: Pair, hosts: Hosts) -> None:
    play = begun(hosts)
    until(lambda: play.driver.switch() == SwitchAccepted())  # its daemon has answered
    assert play.driver.verify_switch() == SwitchNotSeen()
    pair.replies["src", "migrate-start-postcopy"] = refuse(
        "Postcopy must be started after"
    )
    assert play.driver.switch() == SwitchRefused("Postcopy must be started after", is_final=False)  # fmt: skip


def test_only_what_was_not_sent_counts_as_a_refused_switch(
    pair: Pair, hosts: Hosts
) -> None:
    play = begun(hosts)
    until(lambda: play.driver.switch() == SwitchAccepted())  # its daemon has answered
    hosts.dom.errors["monitor"] = refused(68, "cannot acquire state change lock")
    busy = play.driver.switch()
    assert isinstance(busy, SwitchRefused) and not busy.is_final
    hosts.dom.errors["monitor"] = NO_ANSWER
    lost = play.driver.switch()
    assert isinstance(lost, SwitchUnanswered) and "socket is closed" in lost.message
    del hosts.dom.errors["monitor"]
    pair.replies["src", "migrate-start-postcopy"] = {}
    assert isinstance(play.driver.switch(), SwitchUnanswered)
