"""The driver that speaks to QEMU itself: against a recorded QEMU, and against a pair that goes wrong when told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from libvirt_postcopy.drivers.native import Target
from libvirt_postcopy.drivers.passthrough import QemuDriver
from libvirt_postcopy.drivers.runner import Runner
from libvirt_postcopy.drivers.wishes import Wishes
from libvirt_postcopy.events import Event, Half, PauseRefused, Place, StatsSeen
from libvirt_postcopy.obstacles import PAUSE_TOO_LATE
from libvirt_postcopy.policy import parse
from unit.drivers.plays import (
    LIVE,
    PATIENCE_S,
    Play,
    begun,
    closed,
    hosts,
    impatient,
    moved,
    pair,
    split,
    switched,
)
from unit.drivers.qemus import Hosts, Pair, Recording, ok
from unit.fakes import DST, SRC

__all__ = ["closed", "hosts", "impatient", "pair"]  # fixtures

pytestmark = pytest.mark.usefixtures("monitor")

RECORDED = Path(__file__).parent / "recorded" / "qemu-2.5.1.jsonl"


def test_recorded_qemu_2_5_is_moved_by_its_old_name() -> None:
    recording = Recording(RECORDED)
    hosts = Hosts(recording.player("src"), recording.player("dst"))
    source, seen = hosts.dom, []
    driver = QemuDriver(
        source,
        Target(uri="fake:///b"),
        {"migrate_uri": "tcp://192.0.2.2", "bandwidth": 32},
        LIVE,
        hosts.open,
    )
    runner = Runner(driver, parse("after:0"), seen.append)
    runner.start()
    assert runner.wait(PATIENCE_S)
    there = recording.machines["dst"]
    assert runner.migration.place is Place.DESTINATION, seen
    for machine in (source, there):
        assert switched(machine) == {"events": True, "x-postcopy-ram": True}
    assert {
        "execute": "migrate_set_speed",
        "arguments": {"value": 32 << 20},
    } in source.sent
    assert "migrate-set-parameters" not in source.commands
    assert source.commands.count("migrate-start-postcopy") == 1
    assert there.calls == [("resume",)]
    assert source.calls == [("destroy",)]
    assert runner.migration.summary().switch is not None


def test_both_ends_are_set_up_and_the_source_goes_last(
    pair: Pair, hosts: Hosts
) -> None:
    play = moved(pair, hosts, wishes=Wishes(preempt=True, blocktime=True))
    there = pair.models["dst"].machine
    assert switched(hosts.dom) == {
        "postcopy-ram": True, "return-path": True, "postcopy-preempt": True,
    }  # fmt: skip
    assert switched(there) == {
        "postcopy-ram": True, "return-path": True, "postcopy-preempt": True,
        "postcopy-blocktime": True, "late-block-activate": True,
    }  # fmt: skip
    assert there.calls == [("resume",)] and hosts.dom.calls == [("destroy",)]
    play.driver.hand_over()
    assert play.driver.blocktime == {"postcopy-blocktime": 42}
    assert not any(pair.models["dst"].capabilities[name] for name in switched(there))


def test_end_of_an_earlier_migration_is_not_taken_for_this_ones(
    pair: Pair, hosts: Hosts
) -> None:
    """QEMU tells of the last one until it has begun with the next."""
    pair.models["src"].status = "failed"
    play = Play(hosts)
    seen: list[list[Event]] = []
    read = pair.models["src"]._migrate

    def migrate(**given: Any) -> Any:
        seen.append(play.driver.read_stats())
        return read(**given)

    pair.models["src"]._migrate = migrate  # type: ignore[method-assign]
    play.begin().until_status("active")
    assert seen == [[StatsSeen(None)]]
    pair.switch()
    play.until_status("postcopy-active")
    pair.complete()
    assert play.ended().error is None


def test_break_leaves_both_halves_alone(pair: Pair, hosts: Hosts) -> None:
    play = split(pair, hosts)
    pair.say("src", "postcopy-paused")
    pair.say("dst", "postcopy-paused")
    ended = play.ended()
    assert (ended.here, ended.there) == (Half.SPLIT_FAILED, Half.UNKNOWN)
    assert hosts.there.calls == [("resume",)] and hosts.dom.calls == []
    here, there = play.driver.look(SRC), play.driver.look(DST)
    assert (here.half, here.status) == (Half.SPLIT_FAILED, "postcopy-paused")
    assert there.half is Half.SPLIT_FAILED and not here.obstacle


@pytest.mark.parametrize("left, is_paused", [(0, False), (4096, True)])
def test_migration_that_has_sent_all_is_not_paused(
    pair: Pair, hosts: Hosts, left: int, is_paused: bool
) -> None:
    play = split(pair, hosts)
    ram = {"total": 1 << 20, "remaining": left}
    told = ok({"status": "postcopy-active", "ram": ram})
    pair.replies["src", "query-migrate"] = told
    pair.replies["src", "migrate-pause"] = ok({})
    pair.replies["dst", "migrate-pause"] = ok({})
    play.driver.read_stats()
    said = play.driver.pause()
    for machine in (hosts.dom, pair.models["dst"].machine):
        assert ("migrate-pause" in machine.commands) is is_paused
    assert said == (None if is_paused else PauseRefused(PAUSE_TOO_LATE))
    del pair.replies["src", "query-migrate"]
    pair.complete()
    assert play.ended().error is None


@pytest.mark.parametrize("status", ["postcopy-paused", "failed"])
def test_half_that_does_not_run_yet_is_not_removed(
    pair: Pair, hosts: Hosts, status: str
) -> None:
    """It may have the newest memory, though nobody has started it."""
    play = begun(hosts)
    pair.say("src", "postcopy-active")
    play.until_status("postcopy-active")
    pair.say("src", status)
    play.ended()
    assert hosts.there.calls == [] and hosts.dom.calls == []
    assert "cont" not in hosts.dom.commands


def test_failed_after_the_switch_touches_nothing(pair: Pair, hosts: Hosts) -> None:
    play = split(pair, hosts)
    pair.say("src", "failed")
    play.ended()
    assert hosts.there.calls == [("resume",)] and hosts.dom.calls == []
    assert "cont" not in hosts.dom.commands
