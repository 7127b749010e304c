from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from libvirt_postcopy.constants import DomainState, RunningReason
from libvirt_postcopy.drivers import assisted, connecting, second_monitor
from libvirt_postcopy.drivers.assisted import AssistedDriver
from libvirt_postcopy.drivers.native import Target
from libvirt_postcopy.drivers.second_monitor import Told
from libvirt_postcopy.drivers.wishes import Wishes
from libvirt_postcopy.events import (
    Ended,
    Event,
    Half,
    Place,
    Remarked,
    Side,
    StatusSeen,
)
from libvirt_postcopy.phases import conclude
from unit.drivers.test_native import LIVE, PATIENCE_S, URI, Hosts, hosts
from unit.fakes import MIGRATED, SPLIT_HERE, SPLIT_THERE, Clock, FakeDomain, refused
from unit.qmp.monitors import DEAF, MonitorServer, stand_still
from unit.qmp.monitors import refuse as refusal
from waiting import wait_until

__all__ = ["hosts"]

CRASHES, SURVIVES = 11_003_000, 11_004_000
FAILED_THERE = (
    DomainState.VIR_DOMAIN_RUNNING,
    RunningReason.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED,
)
LISTENING = {"return": {"socket-address": [{"type": "inet", "port": "49185"}]}}
FLOWS = {"query-migrate": {"return": {"status": "postcopy-active"}}}
FIGURES = {"return": {"status": "completed", "postcopy-blocktime": 7}}


class Scene:
    """A migration with a second monitor in a folder of ours."""

    def __init__(self, hosts: Hosts, folder: Path, **params: object) -> None:
        self.hosts = hosts
        self.wishes = Wishes(blocktime=True, monitor_dir=str(folder))
        self.driver = AssistedDriver(
            hosts.dom,
            Target(uri=URI, connection=hosts.destination),
            {"migrate_uri": "tcp:127.0.0.1", **params},
            LIVE,
            hosts.open,
            wishes=self.wishes,
            recover_bandwidth=3,
        )
        self.seen: queue.SimpleQueue[Event] = queue.SimpleQueue()

    @property
    def path(self) -> Path:
        return Path(self.driver._second.path)

    def begin(self) -> None:
        self.driver.begin(self.seen.put)

    def ended(self) -> Ended:
        while not isinstance(event := self.seen.get(timeout=PATIENCE_S), Ended):
            assert not isinstance(event, Remarked)
        return event


@pytest.fixture
def make(hosts: Hosts, tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    made: list[Scene] = []

    def make(**params: object) -> Scene:
        made.append(Scene(hosts, tmp_path, **params))
        return made[-1]

    yield make
    for scene in made:
        scene.driver.close()


def _split(hosts: Hosts, libvirt: int) -> FakeDomain:
    """The call has ended with the guest on both hosts."""
    hosts.guest_is(SPLIT_HERE)
    hosts.destination.libvirt_version = libvirt
    return FakeDomain(hosts.destination, state=SPLIT_THERE)


def _break(scene: Scene, libvirt: int = CRASHES) -> None:
    def broken(*args: object) -> None:
        _split(scene.hosts, libvirt)
        raise refused(
            9, "operation failed: job 'migration out' failed in post-copy phase"
        )

    scene.hosts.dom.on_migrate = broken
    scene.begin()
    assert scene.ended().here is Half.SPLIT


def _to_go_round(scene: Scene) -> Source:
    """It breaks, and the driver has seen that libvirt cannot resume it; gives the source's QEMU."""
    _break(scene)
    scene.driver.look(Side.DESTINATION)
    domain = scene.hosts.for_call.domains[0]
    scene.hosts.fresh.domains.append(domain)
    return Source(domain)


class Source:
    """The source's QEMU: paused until it is told to go on."""

    def __init__(self, dom: FakeDomain) -> None:
        self.status = "postcopy-paused"
        self.status_after = "postcopy-recover"
        self.refusal = ""
        self.version = (10, 1, 0)
        self.sent: list[dict[str, Any]] = []
        dom.answer = self.answer  # type: ignore[method-assign]

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        self.sent.append(command)
        if command["execute"] == "migrate" and self.refusal:
            return refusal(self.refusal)
        if command["execute"] == "migrate":
            self.status = self.status_after
        if command["execute"] == "query-migrate-parameters":
            return {"return": {"max-postcopy-bandwidth": 0}}
        if command["execute"] == "query-migrate":
            return {"return": {"status": self.status}}
        if command["execute"] == "query-version":
            version = dict(zip(("major", "minor", "micro"), self.version))
            return {"return": {"qemu": version, "package": ""}}
        return {"return": {}}

    def arguments(self, name: str) -> dict[str, Any]:
        (found,) = [each for each in self.sent if each["execute"] == name]
        arguments: dict[str, Any] = found["arguments"]
        return arguments


def test_call_has_the_socket_and_figures_are_read_at_the_end(
    hosts: Hosts, make: Callable[..., Scene]
) -> None:
    scene = make(bandwidth=8)

    def move(*args: Any) -> FakeDomain:
        params = hosts.migrate_calls[-1][2]
        assert str(scene.path) in params["destination_xml"]
        assert params["bandwidth"] == 8
        hosts.guest_is(None)
        return FakeDomain(hosts.destination, state=MIGRATED)

    hosts.dom.on_migrate = move
    with MonitorServer(scene.path, {"query-migrate": FIGURES}):
        scene.begin()
        assert scene.ended().error is None
        scene.driver.hand_over()
    assert scene.driver.blocktime == {"postcopy-blocktime": 7}
    assert scene.driver.notes == []


def test_qemu_that_cannot_make_the_socket_is_asked_to_do_without(
    hosts: Hosts, make: Callable[..., Scene]
) -> None:
    scene = make()

    def move(*args: Any) -> FakeDomain:
        if "destination_xml" in hosts.migrate_calls[-1][2]:
            raise refused(1, f"internal error: Failed to bind socket to {scene.path}: Permission denied")  # fmt: skip
        hosts.guest_is(None)
        return FakeDomain(hosts.destination, state=MIGRATED)

    hosts.dom.on_migrate = move
    scene.begin()
    assert scene.ended().error is None
    assert len(hosts.migrate_calls) == 2
    assert "cannot make the socket" in scene.driver.notes[0]


def test_another_refusal_is_one(hosts: Hosts, make: Callable[..., Scene]) -> None:
    scene = make()
    hosts.dom.errors["migrate3"] = refused(1, "internal error: no memory")
    scene.begin()
    assert "no memory" in str(scene.ended().error)
    assert len(hosts.migrate_calls) == 1


@pytest.mark.parametrize(("libvirt", "obstacle"), [(CRASHES, ""), (8_004_000, "cannot resume")])  # fmt: skip
def test_only_the_crash_is_no_obstacle(
    make: Callable[..., Scene], libvirt: int, obstacle: str
) -> None:
    scene = make()
    _break(scene, libvirt)
    looked = scene.driver.look(Side.DESTINATION)
    assert looked.half is Half.SPLIT and obstacle in looked.obstacle
    assert bool(looked.obstacle) is bool(obstacle)


def test_crashing_daemon_is_gone_round(hosts: Hosts, make: Callable[..., Scene]) -> None:  # fmt: skip
    scene = make()
    source = _to_go_round(scene)
    with MonitorServer(scene.path, {"query-migrate": LISTENING}) as qemu:
        scene.driver.resume()
        ended = scene.ended()
    assert "goes on with it" in str(ended.error)
    assert conclude(Place.SPLIT, ended) is Place.SPLIT, "it has not arrived yet"
    assert len(hosts.migrate_calls) == 1  # libvirt was not asked to resume
    (recover,) = qemu.sent("migrate-recover")
    assert recover["arguments"] == {"uri": "tcp:127.0.0.1:49184,to=49215"}
    assert source.arguments("migrate") == {"uri": "tcp:127.0.0.1:49185", "resume": True}
    assert source.arguments("migrate-set-parameters") == {"max-postcopy-bandwidth": 3 << 20}  # fmt: skip


def _pause_source(scene: Scene) -> None:
    _say_of_source(scene, "postcopy-paused")


def _say_of_source(scene: Scene, status: str) -> None:
    """As its looks see it."""
    looked_at = scene.hosts.control
    before = looked_at.answer

    def answer(command: dict[str, Any]) -> dict[str, Any]:
        if command["execute"] == "query-migrate":
            return {"return": {"status": status}}
        return before(command)

    looked_at.answer = answer  # type: ignore[method-assign]


@pytest.mark.parametrize("answers", [FLOWS, {"query-status": stand_still}])
def test_destination_that_does_not_notice_is_told(
    make: Callable[..., Scene],
    monkeypatch: pytest.MonkeyPatch,
    answers: dict[str, Any],
) -> None:
    monkeypatch.setattr(assisted, "_NUDGE_S", 0.0)
    monkeypatch.setattr(second_monitor, "_TAKES_S", 0.1)
    scene = make()
    with MonitorServer(scene.path, answers) as qemu:
        _break(scene, SURVIVES)
        scene.driver.look(Side.DESTINATION)
        assert qemu.sent("migrate-pause") == [], "its source still sends"
        _pause_source(scene)
        assert scene.driver.look(Side.SOURCE).status == "postcopy-paused"
        scene.driver.look(Side.DESTINATION)
    (told,) = qemu.sent("migrate-pause")
    assert told["exec-oob"]


@pytest.mark.parametrize("status", ["postcopy-recover", "completed", "postcopy-new"])
def test_destination_that_says_something_else_is_not_told(
    make: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """QEMU dies of a break while it recovers."""
    monkeypatch.setattr(assisted, "_NUDGE_S", 0.0)
    scene = make()
    answers = {"query-migrate": {"return": {"status": status}}}
    with MonitorServer(scene.path, answers) as qemu:
        _break(scene, SURVIVES)
        _pause_source(scene)
        scene.driver.look(Side.SOURCE)
        assert scene.driver.look(Side.DESTINATION).half is Half.SPLIT
        assert "query-migrate" in qemu.commands()
        assert qemu.sent("migrate-pause") == []


def test_destination_whose_daemon_says_that_it_has_noticed_is_not_told(
    hosts: Hosts, make: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By now it may be recovering."""
    monkeypatch.setattr(assisted, "_NUDGE_S", 0.0)
    scene = make()
    with MonitorServer(scene.path) as qemu:
        _break(scene, SURVIVES)
        hosts.destination.domains[0].now = FAILED_THERE
        _pause_source(scene)
        scene.driver.look(Side.SOURCE)
        scene.driver.look(Side.DESTINATION)
        wait_until(lambda: "query-migrate" in qemu.commands(), "the look", 5)
    assert qemu.sent("migrate-pause") == []


def test_destination_has_its_time_to_notice(make: Callable[..., Scene]) -> None:
    scene = make()
    with MonitorServer(scene.path) as qemu:
        _break(scene, SURVIVES)
        _pause_source(scene)
        assert scene.driver.look(Side.SOURCE).status == "postcopy-paused"
        scene.driver.look(Side.DESTINATION)
    assert qemu.sent("migrate-pause") == []


def test_destination_is_not_told_of_a_break_that_was_resumed(
    make: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assisted, "_NUDGE_S", 0.0)
    scene = make()
    with MonitorServer(scene.path) as qemu:
        _break(scene, SURVIVES)
        _pause_source(scene)
        scene.driver.look(Side.SOURCE)
        scene.driver.resume()
        assert scene.ended().there is Half.SPLIT
        scene.driver.look(Side.DESTINATION)  # before its source was looked at again
    assert qemu.sent("migrate-pause") == []


def test_destination_is_not_told_of_a_break_that_was_seen_long_ago(
    make: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assisted, "_NUDGE_S", 0.0)
    monkeypatch.setattr(assisted, "_FRESH_S", 0.0)
    scene = make()
    with MonitorServer(scene.path) as qemu:
        _break(scene, SURVIVES)
        _pause_source(scene)
        scene.driver.look(Side.SOURCE)
        scene.driver.look(Side.DESTINATION)
    assert qemu.sent("migrate-pause") == []


@pytest.mark.parametrize(("answers", "stands_still"), [({"query-status": stand_still}, True), ({}, False)])  # fmt: skip
def test_look_tells_whether_only_the_driver_reaches_the_destination(
    make: Callable[..., Scene],
    monkeypatch: pytest.MonkeyPatch,
    answers: dict[str, Any],
    stands_still: bool,
) -> None:
    monkeypatch.setattr(second_monitor, "_TAKES_S", 0.1)
    scene = make()
    with MonitorServer(scene.path, answers):
        _break(scene, SURVIVES)
        assert not scene.driver.look(Side.DESTINATION).stands_still, "its source sends"
        _pause_source(scene)
        scene.driver.look(Side.SOURCE)
        assert scene.driver.look(Side.DESTINATION).stands_still is stands_still


def test_destination_that_nobody_reaches_is_not_the_drivers(
    make: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_monitor, "_GREET_S", 0.1)
    scene = make()
    _break(scene, SURVIVES)
    _pause_source(scene)
    scene.driver.look(Side.SOURCE)
    with MonitorServer(scene.path, {"qmp_capabilities": stand_still}):
        assert not scene.driver.look(Side.DESTINATION).stands_still


@pytest.mark.parametrize(("waited_s", "half"), [(0.0, Half.SPLIT_FAILED), (9.0, Half.SPLIT)])  # fmt: skip
def test_break_of_which_libvirt_takes_no_note_is_gone_round(
    hosts: Hosts,
    make: Callable[..., Scene],
    monkeypatch: pytest.MonkeyPatch,
    waited_s: float,
    half: Half,
) -> None:
    """It refuses to resume what has not failed by its own word.  It has its time to take note."""
    monkeypatch.setattr(assisted, "_NUDGE_S", waited_s)
    scene = make()
    paused = {"status": "postcopy-paused", **LISTENING["return"]}
    with MonitorServer(scene.path, {"query-migrate": {"return": paused}}) as qemu:
        _break(scene, SURVIVES)
        _pause_source(scene)
        scene.driver.look(Side.SOURCE)
        assert scene.driver.look(Side.DESTINATION).half is half
        assert qemu.sent("migrate-pause") == [], "it has noticed"
        source = Source(hosts.for_call.domains[0])
        hosts.fresh.domains.append(hosts.for_call.domains[0])
        scene.driver.resume()
        scene.ended()
    is_gone_round = half is Half.SPLIT_FAILED
    assert bool(qemu.sent("migrate-recover")) is is_gone_round
    assert ("migrate" in [each["execute"] for each in source.sent]) is is_gone_round
    assert len(hosts.migrate_calls) == 2 - is_gone_round


def test_break_of_which_libvirt_takes_note_is_its_own(
    hosts: Hosts, make: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assisted, "_NUDGE_S", 0.0)
    scene = make()
    paused = {"return": {"status": "postcopy-paused"}}
    with MonitorServer(scene.path, {"query-migrate": paused}) as qemu:
        _break(scene, SURVIVES)
        _pause_source(scene)
        scene.driver.look(Side.SOURCE)
        assert scene.driver.look(Side.DESTINATION).half is Half.SPLIT_FAILED
        hosts.destination.domains[0].now = FAILED_THERE
        scene.driver.look(Side.DESTINATION)
        hosts.fresh.domains.append(hosts.dom)
        scene.driver.resume()
        scene.ended()
    assert qemu.sent("migrate-recover") == []
    assert len(hosts.migrate_calls) == 2


def test_both_are_made_to_notice(make: Callable[..., Scene]) -> None:
    scene = make()
    with MonitorServer(scene.path) as qemu:
        _break(scene, SURVIVES)
        assert scene.driver.pause() is None
    assert len(qemu.sent("migrate-pause")) == 1


STANDS_STILL = {"query-status": stand_still, "query-migrate": stand_still}


def test_destination_that_takes_no_command_is_recovered_out_of_band(
    hosts: Hosts, make: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that can resume would wait for its QEMU's answer for ever."""
    monkeypatch.setattr(second_monitor, "_TAKES_S", 0.1)
    scene = make()
    with MonitorServer(scene.path, STANDS_STILL) as qemu:
        _break(scene, SURVIVES)
        wait_until(lambda: "query-migrate-capabilities" in qemu.commands(), "it", 5)
        source = Source(hosts.for_call.domains[0])
        hosts.fresh.domains.append(hosts.for_call.domains[0])
        scene.driver.resume()
        assert "goes on with it" in str(scene.ended().error)
    (recover,) = qemu.sent("migrate-recover")
    assert recover["exec-oob"] and recover["arguments"] == {
        "uri": "tcp:127.0.0.1:49184"
    }
    assert source.arguments("migrate") == {"uri": "tcp:127.0.0.1:49184", "resume": True}
    assert len(hosts.migrate_calls) == 1  # libvirt was not asked to resume


@pytest.mark.parametrize(("libvirt", "is_resumed_by_libvirt"), [(SURVIVES, True), (CRASHES, False)])  # fmt: skip
def test_resume_is_put_off_while_the_second_monitor_is_silent(
    hosts: Hosts,
    make: Callable[..., Scene],
    monkeypatch: pytest.MonkeyPatch,
    libvirt: int,
    is_resumed_by_libvirt: bool,
) -> None:
    """The main loop may stand still, and libvirt's call hang; but another link's silence must not be the end."""
    monkeypatch.setattr(second_monitor, "_ECHO_S", 0.1)
    clock = Clock(monkeypatch)
    scene = make()
    with MonitorServer(scene.path) as qemu:
        _break(scene, libvirt)
        assert scene.driver._second.look().status == "none"
        scene.driver.look(Side.DESTINATION)
        hosts.fresh.domains.append(hosts.dom)
        qemu.hold_back()
        for passes_s in (assisted._SILENT_S - 1, 2.0):
            scene.driver.resume()
            assert "is silent: waiting for it" in str(scene.ended().error)
            clock.passed += passes_s
        assert len(hosts.migrate_calls) == 1
        scene.driver.resume()
        error = str(scene.ended().error)
    assert ("is silent: waiting for it" in error) is not is_resumed_by_libvirt
    assert len(hosts.migrate_calls) == 1 + is_resumed_by_libvirt
    assert qemu.sent("migrate-recover") == []


def test_each_silence_of_the_second_monitor_has_its_time(
    hosts: Hosts, make: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, clock = make(), Clock(monkeypatch)
    silent, heard = Told(is_silent=True), Told("postcopy-paused")
    assert scene.driver._is_put_off(silent)
    clock.passed += assisted._SILENT_S + 1
    assert not scene.driver._is_put_off(silent)
    assert not scene.driver._is_put_off(heard)
    assert scene.driver._is_put_off(silent)


def test_way_round_is_not_forgotten_between_look_and_resume(
    hosts: Hosts, make: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that ends while the second monitor is asked knows of no break."""
    monkeypatch.setattr(assisted, "_NUDGE_S", 0.0)
    scene = make()
    paused = {"status": "postcopy-paused", **LISTENING["return"]}
    with MonitorServer(scene.path, {"query-migrate": {"return": paused}}) as qemu:
        _break(scene, SURVIVES)
        _pause_source(scene)
        scene.driver.look(Side.SOURCE)
        assert scene.driver.look(Side.DESTINATION).half is Half.SPLIT_FAILED
        ask = scene.driver._second.look

        def look_meanwhile() -> Told:
            monkeypatch.setattr(scene.driver._second, "look", ask)
            scene.driver.look(Side.DESTINATION)
            return ask()

        monkeypatch.setattr(scene.driver._second, "look", look_meanwhile)
        Source(hosts.for_call.domains[0])
        hosts.fresh.domains.append(hosts.for_call.domains[0])
        scene.driver.resume()
        scene.ended()
        assert qemu.sent("migrate-recover") != []
    assert len(hosts.migrate_calls) == 1


def test_nothing_is_sent_to_a_main_loop_that_nobody_can_reach(
    hosts: Hosts, make: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_monitor, "_GREET_S", 0.1)
    scene = make()
    _break(scene, SURVIVES)
    hosts.fresh.domains.append(hosts.dom)
    with MonitorServer(scene.path, {"qmp_capabilities": stand_still}):
        scene.driver.resume()
        assert "its main loop stands still" in str(scene.ended().error)
    assert len(hosts.migrate_calls) == 1


def test_qemu_without_anything_out_of_band_is_resumed_by_libvirt(
    hosts: Hosts, make: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_monitor, "_ECHO_S", 0.1)
    scene = make()
    _break(scene, SURVIVES)
    hosts.fresh.domains.append(hosts.dom)
    with MonitorServer(scene.path, STANDS_STILL, greeting=DEAF):
        scene.driver.resume()
        scene.ended()
    assert len(hosts.migrate_calls) == 2


def test_source_is_left_alone_where_the_destination_refuses(
    make: Callable[..., Scene],
) -> None:
    scene = make()
    source = _to_go_round(scene)
    answers = {"migrate-recover": refusal("Address already in use")}
    with MonitorServer(scene.path, answers):
        scene.driver.resume()
        assert "Address already in use" in str(scene.ended().error)
    assert "migrate" not in [each["execute"] for each in source.sent]


def test_source_that_does_not_go_on(
    make: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make()
    with MonitorServer(scene.path, {"query-migrate": LISTENING}):
        _resume_in_vain(scene, monkeypatch)


def _resume_in_vain(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, status: str = "postcopy-paused"
) -> Source:
    """Go round, and hear of the source that it does not go on."""
    monkeypatch.setattr(assisted, "_GO_ON_S", 0.1)
    source = _to_go_round(scene)
    source.status_after = status
    scene.driver.resume()
    assert "does not go on" in str(scene.ended().error)
    scene.hosts._ours.append(scene.hosts.fresh)
    return source


@pytest.mark.parametrize("is_by_libvirt", [False, True])
def test_resume_that_may_be_connecting_gets_no_other_beside_it(
    hosts: Hosts,
    make: Callable[..., Scene],
    monkeypatch: pytest.MonkeyPatch,
    is_by_libvirt: bool,
) -> None:
    """Neither through QEMU's monitor nor by libvirt's call."""
    scene, clock = make(), Clock(monkeypatch)
    with MonitorServer(scene.path, {"query-migrate": LISTENING}) as qemu:
        source = _resume_in_vain(scene, monkeypatch)
        if is_by_libvirt:
            hosts.destination.libvirt_version = SURVIVES
            scene.driver.look(Side.DESTINATION)
        scene.driver.resume()
        told = scene.seen.get(timeout=PATIENCE_S)
        assert isinstance(told, Remarked) and "150 s at most" in told.text
        assert "may still be connecting" in str(scene.ended().error)
        assert len(qemu.sent("migrate-recover")) == 1
        assert len(hosts.migrate_calls) == 1
        assert source.arguments("migrate")["resume"], "it was sent once"
        clock.passed += connecting._CONNECTING_S
        scene.driver.resume()
        scene.ended()
    assert len(qemu.sent("migrate-recover")) == 2 - is_by_libvirt
    assert len(hosts.migrate_calls) == 1 + is_by_libvirt


def test_resume_that_is_announced_is_followed_by_another(
    make: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU 9.1 and later refuse it if the first still connects."""
    scene = make()
    with MonitorServer(scene.path, {"query-migrate": LISTENING}) as qemu:
        _resume_in_vain(scene, monkeypatch, "postcopy-recover-setup")
        scene.driver.resume()
        assert "does not go on" in str(scene.ended().error)
    assert len(qemu.sent("migrate-recover")) == 2


def test_break_of_what_went_on_is_resumed_at_once(
    hosts: Hosts, make: Callable[..., Scene]
) -> None:
    scene = make()
    source = _to_go_round(scene)
    with MonitorServer(scene.path, {"query-migrate": LISTENING}):
        for _ in range(2):
            scene.driver.resume()
            assert "goes on with it" in str(scene.ended().error)
            hosts._ours.append(hosts.fresh)
            source.status = "postcopy-paused"


@pytest.mark.parametrize("is_seen", [False, True])
def test_resume_that_has_come_through_or_failed_is_followed_by_another(
    make: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch, is_seen: bool
) -> None:
    scene = make()
    with MonitorServer(scene.path, {"query-migrate": LISTENING}) as qemu:
        _resume_in_vain(scene, monkeypatch)
        if is_seen:
            _say_of_source(scene, "postcopy-recover")
            scene.driver.look(Side.SOURCE)
        else:
            scene.driver._hear_source(StatusSeen(Side.SOURCE, "postcopy-recover"))
        scene.driver.resume()
        assert "does not go on" in str(scene.ended().error)
    assert len(qemu.sent("migrate-recover")) == 2


def test_resume_that_is_refused_is_followed_by_another(
    hosts: Hosts, make: Callable[..., Scene]
) -> None:
    scene = make()
    source = _to_go_round(scene)
    source.refusal = "Cannot resume if there is no paused migration"
    with MonitorServer(scene.path, {"query-migrate": LISTENING}):
        scene.driver.resume()
        assert source.refusal in str(scene.ended().error)
        hosts._ours.append(hosts.fresh)
        source.refusal = ""
        scene.driver.resume()
        assert "goes on with it" in str(scene.ended().error)


def test_destination_is_not_told_of_a_break_that_may_just_be_mended(
    make: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be seen to go on before its source is heard to."""
    monkeypatch.setattr(assisted, "_NUDGE_S", 0.0)
    scene = make()
    answers = {"query-migrate": {"return": {**LISTENING["return"], **FLOWS["query-migrate"]["return"]}}}  # fmt: skip
    with MonitorServer(scene.path, answers) as qemu:
        _resume_in_vain(scene, monkeypatch)
        _pause_source(scene)
        scene.driver.look(Side.SOURCE)
        scene.driver.look(Side.DESTINATION)
    assert qemu.sent("migrate-pause") == []


@pytest.mark.parametrize(
    ("after", "is_resumed_again"),
    [("postcopy-paused", False), ("postcopy-recover", True)],
)
def test_source_that_survives_one_attempt_only_gets_no_other(
    hosts: Hosts,
    make: Callable[..., Scene],
    monkeypatch: pytest.MonkeyPatch,
    after: str,
    is_resumed_again: bool,
) -> None:
    monkeypatch.setattr(assisted, "_GO_ON_S", 0.1)
    scene = make(migrate_uri="unix:///run/m.sock")  # no way has to be seen
    source = _to_go_round(scene)
    source.version, source.status_after = (5, 2, 0), after
    hosts._ours.append(hosts.fresh)
    with MonitorServer(scene.path):
        for _ in range(2):
            scene.driver.resume()
            error = str(scene.ended().error)
            source.status = "postcopy-paused"
    resumed = [each for each in source.sent if each["execute"] == "migrate"]
    assert len(resumed) == 1 + is_resumed_again
    assert ("QEMU 5.2.0 on the source takes one attempt" in error) != is_resumed_again
    assert bool(scene.driver.look(Side.SOURCE).obstacle) != is_resumed_again


def test_daemon_that_survives_it_resumes_itself(
    hosts: Hosts, make: Callable[..., Scene]
) -> None:
    scene = make()
    _break(scene, SURVIVES)
    assert scene.driver.look(Side.DESTINATION).obstacle == ""
    hosts.fresh.domains.append(hosts.dom)
    scene.driver.resume()
    scene.ended()
    assert len(hosts.migrate_calls) == 2
