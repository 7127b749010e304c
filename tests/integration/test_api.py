"""The calls of the package, between two real hosts."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libvirt
import pytest
from observers import Awaited, Recorder, check_downtime

import libvirt_postcopy as postcopy
import libvirt_postcopy.vir.calls as vir
from labkit import Lab
from libvirt_postcopy import migration
from libvirt_postcopy.actions import Note, Switch
from libvirt_postcopy.events import (
    PassSeen,
    StatsSeen,
    StatusSeen,
    SwitchAccepted,
    SwitchHeld,
)
from scenes.stage import Stage
from waiting import wait_until

Check = Callable[[], None]
URI = "qemu+tcp://b/system"


@pytest.mark.parametrize(
    ("policy", "passes"),
    [
        ("after-precopy", 1),
        ("after-precopy:2", 2),
        ("after:1s", 0),
        ("manual|after:500ms", 0),
        ("after-precopy&after:1s", 1),
    ],
)
def test_each_policy_moves_a_busy_guest(
    stage: Stage, moved: Check, patience: dict[str, int], policy: str, passes: int
) -> None:
    dom = stage.start()
    result = postcopy.migrate(dom, URI, policy=policy, params=patience)
    moved()
    assert result.switch is not None and result.switch.attempts == 1
    assert result.passes >= passes
    assert result.domain is not None and result.domain.isActive()
    assert result.domain.connect().getHostname() == "b"


def test_a_uri_means_peer_to_peer(stage: Stage, moved: Check) -> None:
    dom = stage.start()
    result = postcopy.migrate(dom, URI)
    moved()
    assert result.is_peer2peer and result.driver == "native"


def test_a_connection_means_managed_by_the_client(stage: Stage, moved: Check) -> None:
    dom = stage.start()
    result = postcopy.migrate(dom, libvirt.open(URI))
    moved()
    assert not result.is_peer2peer


def test_client_manages_what_the_source_daemon_cannot_reach(
    stage: Stage, moved: Check
) -> None:
    """The source may not connect to the destination's first address, only to its second."""
    first, second = "192.0.2.12", "192.0.2.112"
    add = ["ip", "address", "add", f"{second}/24", "dev"]
    device = stage.run("b", ["sh", "-c", "ls /sys/class/net | grep -v lo"])
    assert stage.run("b", [*add, device.stdout.strip()]).returncode == 0
    forbid = ["ip", "route", "add", "prohibit", f"{first}/32"]
    assert stage.run("a", forbid).returncode == 0
    try:
        dom = stage.start()
        result = postcopy.migrate(dom, URI, params={"migrate_uri": f"tcp:{second}"})
        moved()
        assert not result.is_peer2peer
    finally:
        stage.run("a", ["ip", "route", "del", "prohibit", f"{first}/32"])
        stage.run(
            "b", ["ip", "address", "del", f"{second}/24", "dev", device.stdout.strip()]
        )


def test_both_phases_and_their_figures(stage: Stage, moved: Check) -> None:
    dom = stage.start()
    seen = Recorder()
    began = time.monotonic()
    result = postcopy.migrate(dom, URI, observer=seen)
    took_ms = (time.monotonic() - began) * 1000
    blackout_ms = stage.blackout_ms(began)  # before it is stopped to be looked at
    moved()
    statuses = [each.status for each in seen.of(StatusSeen) if each.side == "source"]
    phases = [s for s in statuses if s in ("active", "postcopy-active", "completed")]
    assert phases[:2] == ["active", "postcopy-active"]
    assert phases[2:] in (["completed"], [])  # which the call's end may overtake
    total = 128 << 20
    assert result.precopy_bytes is not None and result.precopy_bytes > total * 0.9
    assert result.postcopy_bytes is not None and result.postcopy_bytes > 0
    assert result.postcopy_requests is not None and result.postcopy_requests > 0
    assert result.total_ms is not None and 0 < result.total_ms <= took_ms
    assert result.setup_ms is not None
    assert result.switch is not None and result.switch.took_effect_ms is not None
    assert blackout_ms < min(result.total_ms / 3, 5000)
    check_downtime(stage, result, blackout_ms, postcopy.migrate)


def test_statistics_are_never_read_faster_than_twice_a_second(
    stage: Stage, moved: Check
) -> None:
    dom = stage.start()
    seen = Recorder()
    slow = {"bandwidth.postcopy": 8}  # in pre-copy QEMU 7.2 answers once a pass
    postcopy.migrate(dom, URI, params=slow, observer=seen)
    moved()
    times = seen.times_of(StatsSeen)
    assert len(times) >= 4
    passes = len(seen.of(PassSeen))
    assert len(times) <= (times[-1] - times[0]) * 2 + 2 + passes


def test_manual_switch_comes_when_asked_for(stage: Stage, moved: Check) -> None:
    dom = stage.start()
    job = postcopy.start(dom, URI, policy=postcopy.Manual())
    job.start_postcopy("the test says so")  # before pre-copy has begun
    result = job.wait(60)
    moved()
    assert result.switch is not None
    assert result.switch.reason == "the test says so"
    with pytest.raises(postcopy.StateError):
        job.start_postcopy()


def test_never_is_plain_precopy(stage: Stage, moved: Check) -> None:
    stage.lab.unlimit()
    dom = stage.start()
    result = postcopy.migrate(dom, URI, policy="never")
    moved()
    assert result.switch is None and result.postcopy_requests == 0


def test_switch_that_was_lost_is_asked_for_again(
    stage: Stage, moved: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request is accepted and comes to nothing, as one that QEMU noted too early."""
    sent: list[float] = []
    real = vir.start_postcopy

    def forgetful(dom: Any, *args: Any, **options: Any) -> None:
        sent.append(time.monotonic())
        if len(sent) > 1:
            real(dom, *args, **options)

    monkeypatch.setattr(vir, "start_postcopy", forgetful)
    monkeypatch.setattr(migration, "VERIFY_S", 3.0)  # the second one has twice as long
    dom = stage.start()
    seen = Recorder()
    result = postcopy.migrate(dom, URI, policy="after:0", observer=seen)
    moved()
    assert result.switch is not None and result.switch.attempts == 2
    assert [each.attempt for each in seen.of(Switch)] == [1, 2]


@contextmanager
def hung_daemon(stage: Stage, host: str) -> Iterator[None]:
    """The host's daemon is there, and does not answer."""
    # The oldest: another one of that name is about to become a program that the daemon starts.
    (pid,) = stage.run(host, ["pgrep", "-o", "-x", "libvirtd"]).stdout.split()
    assert stage.run(host, ["kill", "-STOP", pid]).returncode == 0
    try:
        yield
    finally:
        stage.run(host, ["kill", "-CONT", pid])


@pytest.mark.parametrize("is_managed", [False, True], ids=["peer to peer", "managed"])
def test_switch_waits_for_a_destination_whose_daemon_hangs(
    stage: Stage, moved: Check, patience: dict[str, int], is_managed: bool
) -> None:
    """libvirt would kill the destination's half if that daemon could not start it."""
    dom = stage.start()
    begun = Awaited(PassSeen)
    told = Awaited(Note, lambda note: "daemon does not answer" in note.text)
    job = postcopy.start(
        dom,
        libvirt.open(URI) if is_managed else URI,
        policy="manual",
        params=patience,
        observer=lambda what: [begun(what), told(what)],
    )
    begun.wait()
    with hung_daemon(stage, "b"):
        pulse = job._driver._pulse
        wait_until(pulse.silence, "the daemon's silence", 10)
        job.start_postcopy()
        told.wait()
        assert told.of(SwitchHeld) and not told.of(SwitchAccepted)
        assert job.guest == "source" and dom.isActive()
    result = job.wait(60)
    moved()
    assert result.switch is not None and result.switch.attempts == 1
    notes = [note.text for note in told.of(Note)]
    assert notes == [
        "the switch to post-copy waits: the destination's daemon does not answer"
    ]


def test_abort_before_the_switch_leaves_the_guest_where_it_is(
    stage: Stage, stayed: Check
) -> None:
    dom = stage.start()
    begun = Awaited(PassSeen)
    job = postcopy.start(dom, URI, policy="manual", observer=begun)
    begun.wait()
    job.abort()
    with pytest.raises(postcopy.MigrationCancelled) as caught:
        job.wait(60)
    assert caught.value.guest == "source"
    stayed()


def test_abort_while_the_destination_is_being_prepared(
    stage: Stage, stayed: Check
) -> None:
    dom = stage.start()
    job = postcopy.start(dom, URI, policy="manual")
    job.abort()
    with pytest.raises(postcopy.MigrationCancelled):
        job.wait(60)
    stayed()


def test_abort_after_the_switch_is_refused(stage: Stage, moved: Check) -> None:
    dom = stage.start()
    split = Awaited(StatusSeen, lambda seen: seen.status == "postcopy-active")
    job = postcopy.start(dom, URI, policy="after:0", observer=split)
    split.wait()
    with pytest.raises(postcopy.StateError, match="split"):
        job.abort()
    job.wait(60)
    moved()


def test_flags_and_parameters_reach_libvirt(stage: Stage, moved: Check) -> None:
    dom = stage.start(is_persistent=True)
    result = postcopy.migrate(
        dom,
        URI,
        flags=libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE,
        params={"bandwidth.postcopy": 16},
    )
    moved()
    assert result.domain is not None and result.domain.isPersistent()
    assert stage.find("a") is None


def test_an_application_with_a_loop_of_its_own(
    lab: Lab, stage: Stage, moved: Check
) -> None:
    _run_program(stage, "own_loop.py")
    moved()


def test_an_application_without_a_loop(stage: Stage, moved: Check) -> None:
    _run_program(stage, "no_loop.py")
    moved()


def _run_program(stage: Stage, name: str) -> None:
    stage.start()
    program = Path(__file__).parent / "programs" / name
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "moved by event"
