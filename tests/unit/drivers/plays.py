"""A driver whose events are kept, and how far it is brought."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.drivers import (
    ends,
    landing,
    passthrough,
    rejoin,
    switching,
    undoing,
)
from libvirt_postcopy.drivers.native import Target
from libvirt_postcopy.drivers.passthrough import QemuDriver
from libvirt_postcopy.drivers.wishes import Wishes
from libvirt_postcopy.errors import PostcopyError
from libvirt_postcopy.events import Ended, Event, StatusSeen
from unit.drivers.qemus import Hosts, Machine, Pair
from unit.fakes import SRC

__all__ = [
    "LIVE",
    "PATIENCE_S",
    "PERSIST",
    "Play",
    "begun",
    "closed",
    "fails",
    "hosts",
    "impatient",
    "moved",
    "no_thread_is_left",
    "pair",
    "refuses",
    "sent",
    "split",
    "switched",
    "until",
]

PATIENCE_S = 15.0
LIVE = MigrateFlags.VIR_MIGRATE_LIVE | MigrateFlags.VIR_MIGRATE_POSTCOPY
PERSIST = (
    MigrateFlags.VIR_MIGRATE_PERSIST_DEST | MigrateFlags.VIR_MIGRATE_UNDEFINE_SOURCE
)


_plays: list[Play] = []


@pytest.fixture(autouse=True)
def closed(monitor: None) -> Iterator[None]:
    """No thread of a driver is left to the next test."""
    yield
    while _plays:
        _plays.pop().driver.close()
    names = ("postcopy-start_vcpus", "postcopy-run", "postcopy-run_resume")
    for thread in threading.enumerate():
        if thread.name in names:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (undoing, landing, passthrough):
        monkeypatch.setattr(module, "_RETRY_S", 0.01)
    for module in (undoing, switching):
        monkeypatch.setattr(module, "_LOOK_S", 0.01)
    monkeypatch.setattr(landing, "_POLL_S", 0.01)
    monkeypatch.setattr(landing, "_RESUME_S", 0.2)
    monkeypatch.setattr(landing, "_CONFIRM_S", 0.3)
    monkeypatch.setattr(rejoin, "_PROBE_S", 0.2)
    monkeypatch.setattr(rejoin, "_PROBE_POLL_S", 0.01)
    monkeypatch.setattr(undoing, "_GO_ON_S", 0.5)
    monkeypatch.setattr(undoing, "_GO_ON_REJECTED_S", 0.2)
    monkeypatch.setattr(passthrough, "_HAND_OVER_S", 0.3)
    monkeypatch.setattr(undoing, "_REJECTED_S", 0.3)
    monkeypatch.setattr(undoing, "_ASK_S", 0.3)
    monkeypatch.setattr(switching, "_CANCEL_S", 0.3)
    monkeypatch.setattr(ends, "_ANSWER_S", 0.3)


class Play:
    """One driver, whose events are kept."""

    def __init__(
        self, hosts: Hosts, flags: MigrateFlags = LIVE, wishes: Wishes | None = None, run: str = "", **params: Any
    ) -> None:  # fmt: skip
        self.hosts = hosts
        self.driver = QemuDriver(
            hosts.dom,
            Target(uri="fake:///b"),
            {"migrate_uri": "tcp://192.0.2.2", **params},
            flags,
            hosts.open,
            wishes=wishes,
            run=run,
        )
        self.seen: list[Event] = []
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def begin(self) -> Play:
        _plays.append(self)
        self.driver.begin(self._queue.put)
        return self

    def until(self, test: Callable[[Event], bool]) -> Event:
        while True:
            event = self._queue.get(timeout=PATIENCE_S)
            self.seen.append(event)
            if test(event):
                return event

    def so_far(self) -> list[Event]:
        while not self._queue.empty():
            self.seen.append(self._queue.get())
        return self.seen

    def until_status(self, status: str) -> None:
        self.until(lambda event: event == StatusSeen(SRC, status))

    def ended(self) -> Ended:
        event = self.until(lambda event: isinstance(event, Ended))
        assert isinstance(event, Ended)
        return event


@pytest.fixture
def pair() -> Pair:
    return Pair()


@pytest.fixture
def hosts(pair: Pair) -> Hosts:
    return Hosts(pair.start("src"), pair.start("dst"))


def begun(hosts: Hosts, *args: Any, **params: Any) -> Play:
    play = Play(hosts, *args, **params).begin()
    play.until_status("active")
    return play


def moved(pair: Pair, hosts: Hosts, *args: Any, **params: Any) -> Play:
    play = begun(hosts, *args, **params)
    pair.switch()
    play.until_status("postcopy-active")
    pair.complete()
    assert play.ended().error is None
    return play


def split(pair: Pair, hosts: Hosts, *args: Any, **params: Any) -> Play:
    play = begun(hosts, *args, **params)
    pair.switch()
    until(lambda: hosts.there.calls == [("resume",)])
    return play


def switched(machine: Machine) -> dict[str, bool]:
    """The capabilities that were switched, in one mapping."""
    given: dict[str, bool] = {}
    for command in machine.sent:
        if command["execute"] == "migrate-set-capabilities":
            for each in command["arguments"]["capabilities"]:
                given.setdefault(each["capability"], each["state"])
    return given


def until(test: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(1000):
        if test():
            return
        pause.wait(0.01)
    raise AssertionError("it did not come to that")


def refuses(hosts: Hosts, error: type[PostcopyError], match: str, **given: Any) -> Play:
    play = Play(hosts, **given).begin()
    ended = play.ended()
    assert not ended.was_sent
    with pytest.raises(error, match=match):
        raise play.driver.error or AssertionError("no error")
    assert hosts.destination.domains == [], "something is left on the destination"
    assert "migrate" not in hosts.dom.commands
    assert hosts.dom.calls == []
    return play


def sent(machine: Machine, command: str) -> list[dict[str, Any]]:
    return [c["arguments"] for c in machine.sent if c["execute"] == command]


def no_thread_is_left(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def fails(play: Play) -> None:
    """While its migration goes on."""

    def fail(give_up_at: float | None) -> None:
        raise PostcopyError("a bug")

    play.driver._landing._look_around = fail  # type: ignore[method-assign]
