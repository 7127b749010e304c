"""No resume is sent to nobody where that is the end of a QEMU."""

from __future__ import annotations

import queue

import pytest

from libvirt_postcopy.actions import Note
from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.drivers import frail as module
from libvirt_postcopy.drivers.frail import FrailWay
from libvirt_postcopy.drivers.host import Host
from libvirt_postcopy.drivers.native import NativeDriver, Target
from libvirt_postcopy.errors import LibvirtError, PostcopyError
from libvirt_postcopy.events import Ended, Event, Remarked
from libvirt_postcopy.migration import Migration
from libvirt_postcopy.obstacles import frail
from libvirt_postcopy.policy import Manual
from unit.fakes import (
    DST,
    NO_ANSWER,
    OTHER_UUID,
    SPLIT_HERE,
    SPLIT_THERE,
    SRC,
    UUID,
    FakeConnection,
    FakeDomain,
    status,
)
from unit.preflight.daemon import Daemon, Guest


class Scene:
    """A split guest; this program runs on the source.

    :ivar tried: Where it has connected to.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.source = Daemon("qemu:///system", "aaaa")
        self.dom = FakeDomain(self.source, UUID, SPLIT_HERE)
        self.dom.qemu_version = (5, 2, 0)
        self.destination = Daemon()
        self.destination.version = 5_002_000
        FakeDomain(self.destination, UUID, SPLIT_THERE)
        self.tried: list[tuple[str, int]] = []
        self.refusal = ""
        self.is_on_source = True
        monkeypatch.setattr(module.machine, "is_here", lambda uri, name: self.is_on_source)  # fmt: skip
        monkeypatch.setattr(module.machine, "connection_refusal", self.connect)

    def connect(self, name: str, port: int) -> str:
        self.tried.append((name, port))
        return self.refusal

    def host(self, side: module.Side, connection: FakeConnection) -> Host:
        def refuse(uri: str, of: str) -> FakeConnection:
            raise LibvirtError("no", side=of)

        return Host(side, UUID, None, refuse, shared=connection)

    def way(self, uri: str = "", *, is_ours: bool = True) -> FrailWay:
        here, there = self.host(SRC, self.source), self.host(DST, self.destination)
        return FrailWay(here, there, UUID, uri, is_ours=is_ours)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch, monitor: None) -> Scene:
    return Scene(monkeypatch)


@pytest.mark.parametrize(
    "here, there, named",
    [
        (5_002_000, 7_002_000, "QEMU 5.2.0 on the source"),
        (7_002_000, 3_000_001, "QEMU 3.0.1 on the destination"),
        (6_000_000, 12_000_000, ""),
        (2_012_000, 7_002_000, ""),  # it cannot be resumed at all
    ],
)
def test_qemus_that_survive_one_attempt_only(here: int, there: int, named: str) -> None:  # fmt: skip
    assert frail({SRC: here, DST: there}) == named
    assert frail({SRC: 7_002_000}) == ""


def test_way_is_not_tried_while_a_resume_is_on_it(scene: Scene) -> None:
    way = scene.way()
    way.prove(scene.dom)
    with pytest.raises(PostcopyError, match="one is under way"):
        way.prove(scene.dom)  # the destination may listen by now
    assert len(scene.tried) == 1
    way.got_there()
    way.prove(scene.dom)
    assert len(scene.tried) == 2


def test_way_that_is_there_is_seen_once(scene: Scene) -> None:
    way = scene.way()
    way.prove(scene.dom)
    assert scene.tried == [("b.example", 49152)] and way.obstacle == ""


def test_address_of_the_migration_is_tried(scene: Scene) -> None:
    scene.way("tcp://192.0.2.7:50000").prove(scene.dom)
    assert scene.tried == [("192.0.2.7", 50000)]


def test_no_network_is_no_way_to_lose(scene: Scene) -> None:
    scene.way("unix:///run/m.sock").prove(scene.dom)
    assert scene.tried == []


def test_silence_is_waited_out(scene: Scene) -> None:
    """The attempt fails before anything was sent, and the next comes by itself."""
    scene.refusal = "no answer in 2 s"
    way = scene.way()
    with pytest.raises(PostcopyError, match="cannot be reached yet: no answer"):
        way.prove(scene.dom)
    way.failed()
    assert way.obstacle == ""


def test_only_the_source_can_tell(scene: Scene) -> None:
    scene.is_on_source = False
    way = scene.way()
    with pytest.raises(PostcopyError, match="only a client on the source can tell"):
        way.prove(scene.dom)
    assert "QEMU 5.2.0 on the source" in way.obstacle and scene.tried == []


def test_destination_that_may_wait_already_is_not_touched(scene: Scene) -> None:
    """Another client may have told it to, before it was killed."""
    way = scene.way(is_ours=False)
    with pytest.raises(PostcopyError, match="another client may have told"):
        way.prove(scene.dom)
    assert scene.tried == [] and "QEMU 5.2.0 on the source" in way.obstacle
    scene.dom.qemu_version = (7, 2, 22)
    scene.destination.version = 7_002_000
    scene.way(is_ours=False).prove(scene.dom)


def test_way_is_not_tried_beside_another_guest_that_is_taken_in(scene: Scene) -> None:
    """A connection that is closed again kills a QEMU that waits to be recovered."""
    Guest(scene.destination, OTHER_UUID, SPLIT_THERE)
    way = scene.way()
    with pytest.raises(PostcopyError, match="being taken in there"):
        way.prove(scene.dom)
    assert scene.tried == [] and way.obstacle == ""


@pytest.mark.parametrize("version", [6_000_000, 7_002_000, 11_001_000])
def test_port_that_a_later_destination_keeps_is_not_tried(
    scene: Scene, version: int
) -> None:
    """A connection that is closed again ends its half of the guest."""
    scene.destination.version = version
    way = scene.way()
    with pytest.raises(PostcopyError, match="may listen on, which a try would end"):
        way.prove(scene.dom)
    assert scene.tried == [] and "QEMU 5.2.0 on the source" in way.obstacle


def test_port_of_a_destination_that_does_not_say_what_it_is_is_not_tried(
    scene: Scene,
) -> None:
    scene.destination.is_dead = True
    way = scene.way()
    with pytest.raises(PostcopyError, match="may listen on"):
        way.prove(scene.dom)
    assert scene.tried == []


def test_attempt_that_failed_was_the_last(scene: Scene) -> None:
    way = scene.way()
    way.prove(scene.dom)
    way.failed()
    assert "one attempt to resume only" in way.obstacle


def test_attempt_that_got_there_was_not_the_last(scene: Scene) -> None:
    way = scene.way()
    way.prove(scene.dom)
    way.hear(status("postcopy-recover"))
    way.failed()
    assert way.obstacle == ""


def test_later_qemus_are_left_to_libvirt(scene: Scene) -> None:
    scene.dom.qemu_version = (7, 2, 22)
    scene.destination.version = 10_001_000
    scene.is_on_source = False
    way = scene.way()
    way.prove(scene.dom)
    way.failed()
    assert scene.tried == [] and way.obstacle == ""
    scene.destination.version = 5_002_000
    with pytest.raises(PostcopyError, match=r"QEMU 5\.2\.0 on the destination"):
        way.prove(scene.dom)


def test_destination_that_only_the_source_can_reach_may_be_resumed(
    scene: Scene,
) -> None:
    scene.dom.qemu_version = (7, 2, 22)
    scene.destination.is_dead = True
    scene.way().prove(scene.dom)


def test_who_may_not_ask_qemu_may_resume_it_by_the_version_installed(scene: Scene) -> None:  # fmt: skip
    scene.dom.errors["monitor"] = NO_ANSWER
    scene.destination.version = 10_001_000
    way = scene.way()
    way.prove(scene.dom)
    assert scene.tried == [], "10.1 is installed"
    scene.source.version = 4_002_000
    scene.destination.version = 5_002_000
    way.prove(scene.dom)
    assert scene.tried


def test_native_driver_sends_nothing_to_nobody(scene: Scene) -> None:
    """And says why when it is looked at next."""
    scene.refusal = "no answer in 2 s"
    ended: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def connect(uri: str, side: str) -> FakeConnection:
        return scene.source if side == SRC.value else scene.destination

    target = Target(uri=scene.destination.uri, is_peer2peer=True)
    driver = NativeDriver(scene.dom, target, {}, MigrateFlags.VIR_MIGRATE_LIVE, connect)
    driver._sink, driver._was_sent = ended.put, True
    for refusal, is_on_source in (("no answer", True), ("", False)):
        scene.refusal, scene.is_on_source = refusal, is_on_source
        driver.resume()
        event = ended.get(timeout=10)
        assert isinstance(event, Ended) and event.error is not None
        assert (driver.look(SRC).obstacle == "") is is_on_source
    assert not [call for call in scene.dom.calls if call[0].startswith("migrate")]
    scene.is_on_source = True
    driver.resume()
    ended.get(timeout=10)
    assert [call[0] for call in scene.dom.calls] == ["migrateToURI3"]
    driver.close()


@pytest.mark.parametrize("version, is_told", [(11_003_000, True), (11_004_000, False)])
def test_daemon_that_does_not_survive_a_resume_is_told_of_beforehand(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, version: int, is_told: bool
) -> None:
    """Whoever starts it, with a preflight or without."""
    monkeypatch.setattr(scene.destination, "getLibVersion", lambda: version)
    seen: list[Event] = []

    def connect(uri: str, side: str) -> FakeConnection:
        return scene.source if side == SRC.value else scene.destination

    target = Target(uri=scene.destination.uri, is_peer2peer=True)
    driver = NativeDriver(scene.dom, target, {}, MigrateFlags.VIR_MIGRATE_LIVE, connect)
    driver._sink = seen.append
    driver._connect_destination()
    driver.close()
    assert [isinstance(each, Remarked) for each in seen] == [True] * is_told
    told = Migration(Manual(), 0.0).feed(seen[0], 0.0) if seen else []
    assert any("11.4.0" in each.text for each in told if isinstance(each, Note)) is is_told  # fmt: skip
