"""A migration that another client has started, over fakes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.drivers import native
from libvirt_postcopy.drivers.attached import AttachedDriver
from libvirt_postcopy.drivers.native import Target
from libvirt_postcopy.errors import LibvirtError
from libvirt_postcopy.events import Half
from unit.fakes import DST, MIGRATED, FakeConnection, FakeDomain

URI = "fake:///b"


@pytest.fixture
def destination() -> FakeConnection:
    return FakeConnection(URI, "bbbb")


@pytest.fixture
def target() -> Target:
    return Target(uri=URI)


@pytest.fixture
def driver(
    destination: FakeConnection,
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
    monitor: None,
) -> Iterator[AttachedDriver]:
    monkeypatch.setattr(native, "ensure_event_loop", lambda: False)

    def open_(uri: str | None, side: str = "") -> FakeConnection:
        if uri == URI:
            return destination
        raise LibvirtError(f"no connection to {uri}", side=side)

    dom = FakeDomain(FakeConnection("fake:///a", "aaaa"))
    made = AttachedDriver(dom, target, {}, MigrateFlags(0), open_)
    made.begin(lambda event: None)
    assert made._connected.wait(10)
    yield made
    made.close()


def test_guest_that_arrived_before_any_look_is_handed_over(
    driver: AttachedDriver, destination: FakeConnection
) -> None:
    """An event may tell of the end."""
    there = FakeDomain(destination, state=MIGRATED)
    destination.domains.append(there)
    driver.hand_over()
    assert driver.domain is there


@pytest.mark.parametrize(
    "target, half",
    [
        (Target(uri=URI), Half.UNKNOWN),
        (Target(uri=URI, was_reached=True), Half.GONE),
        (Target(uri=URI, was_reached=True, is_peer2peer=True), Half.UNKNOWN),
    ],
)
def test_absence_counts_where_the_host_is_sure(
    driver: AttachedDriver, half: Half
) -> None:
    """A URI that somebody names, or that the source's daemon resolves, may be another host's."""
    assert driver.look(DST).half is half
