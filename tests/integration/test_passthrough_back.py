"""The driver qemu where the guest goes back: failures before the switch, and in it."""

from __future__ import annotations

import pytest
from driven import (
    A,
    B,
    Check,
    ask,
    fails,
    is_there,
    kill_qemu,
    migrate_by_qemu,
    nothing_is_left,
    taking,
)
from observers import Awaited, all_of

import libvirt_postcopy as postcopy
from libvirt_postcopy.api import Wishes
from libvirt_postcopy.events import PassSeen, Resumed, Side, StatusSeen
from scenes.stage import Stage


@pytest.mark.versions
def test_destination_that_cannot_start(stage: Stage, stayed: Check) -> None:
    dom = stage.start()
    xml = stage.xml(uuid=dom.UUIDString(), emulator="/nowhere/qemu")
    fails(dom, "destination.*nowhere", params={"destination_xml": xml})
    nothing_is_left(stage, stayed)


@pytest.mark.versions
def test_port_that_is_taken(stage: Stage, moved: Check) -> None:
    """The next one of the range is used."""
    dom = stage.start()
    with taking(stage, 49190):
        migrate_by_qemu(dom, wishes=Wishes(ports=range(49190, 49192)))
    moved()


@pytest.mark.versions
def test_no_port_that_is_free(stage: Stage, stayed: Check) -> None:
    dom = stage.start()
    with taking(stage, 49190):
        fails(dom, "cannot listen.*in use", wishes=Wishes(ports=(49190,)))
    nothing_is_left(stage, stayed)


def test_address_of_another_host(stage: Stage, stayed: Check) -> None:
    dom = stage.start()
    fails(dom, "cannot listen", params={"migrate_uri": "tcp://192.0.2.99"})
    nothing_is_left(stage, stayed)


@pytest.mark.versions
def test_capability_that_is_refused(stage: Stage, stayed: Check) -> None:
    """Its QEMU runs as an ordinary user there, to whom the kernel refuses userfaultfd."""
    dom = stage.start(machine="pc-i440fx-5.2")  # which every release has
    stage.lab.add_host("c", unprivileged=True)
    try:
        with pytest.raises(
            postcopy.NotSupportedError, match="Postcopy is not"
        ) as caught:
            migrate_by_qemu(dom, to="qemu+tcp://c/system")
        assert "unprivileged_userfaultfd" in caught.value.cure
        assert caught.value.side == "destination"
        assert stage.find("c") is None
        stayed()
    finally:
        stage.lab.remove_host("c")


def test_abort_while_the_destination_is_prepared(stage: Stage, stayed: Check) -> None:
    job = postcopy.start(stage.start(), B, driver="qemu", policy="manual")
    job.abort()
    with pytest.raises(postcopy.MigrationCancelled):
        job.wait(60)
    nothing_is_left(stage, stayed)


def test_abort_in_precopy(stage: Stage, stayed: Check) -> None:
    begun = Awaited(PassSeen)
    job = postcopy.start(
        stage.start(), B, driver="qemu", policy="manual", observer=begun
    )
    begun.wait()
    job.abort()
    with pytest.raises(postcopy.MigrationCancelled) as caught:
        job.wait(60)
    assert caught.value.guest == "source"
    nothing_is_left(stage, stayed)


@pytest.mark.versions
def test_link_that_breaks_in_precopy(stage: Stage, stayed: Check) -> None:
    begun = Awaited(PassSeen)
    job = postcopy.start(
        stage.start(), B, driver="qemu", policy="manual", observer=begun
    )
    begun.wait()
    assert stage.lab.break_migrations() > 0
    with pytest.raises(postcopy.MigrationFailed):
        job.wait(60)
    nothing_is_left(stage, stayed)


@pytest.mark.versions
def test_link_that_swallows_packets_before_the_switch_can_be_left(
    stage: Stage, stayed: Check
) -> None:
    """The source's connection is never made, or hangs: an abort takes all back."""
    stage.lab.swallow_migrations()
    begun = Awaited(StatusSeen, _is_setting_up)
    job = postcopy.start(
        stage.start(), B, driver="qemu", policy="manual", observer=begun
    )
    begun.wait()
    job.abort()
    with pytest.raises(postcopy.MigrationCancelled):
        job.wait(60)
    stage.lab.pass_migrations()
    nothing_is_left(stage, stayed)


def _is_setting_up(seen: StatusSeen) -> bool:
    return seen.side is Side.SOURCE and seen.status == "setup"


@pytest.mark.versions
def test_destination_that_is_killed_in_precopy(stage: Stage, stayed: Check) -> None:
    begun = Awaited(PassSeen)
    job = postcopy.start(
        stage.start(), B, driver="qemu", policy="manual", observer=begun
    )
    begun.wait()
    kill_qemu(stage, "b")
    with pytest.raises(postcopy.MigrationFailed):
        job.wait(60)
    nothing_is_left(stage, stayed)


def test_what_was_set_is_put_back_after_a_failure(stage: Stage, moved: Check) -> None:
    """So that libvirt's own migration works afterwards."""
    dom = stage.start()
    with taking(stage, 49190):
        fails(dom, "cannot listen", wishes=Wishes(ports=(49190,)))
    result = postcopy.migrate(dom, B)
    assert result.driver == "native"
    moved()


def test_then_libvirts_own_migration_takes_it_on(stage: Stage) -> None:
    """What is left in the running domain's XML does no harm there."""
    there = migrate_by_qemu(stage.start(), policy="after:0").domain
    back = postcopy.migrate(there, A)
    assert back.driver == "native"
    assert stage.active_on() == ["a"] and stage.verify("a").ok
    again = migrate_by_qemu(stage.find("a"), policy="after:0")
    assert again.driver == "qemu"
    assert stage.active_on() == ["b"] and stage.verify("b").ok


# At the switch


def _at_the_switch(stage: Stage) -> tuple[postcopy.Job, Awaited]:
    """The source has given the guest away, and the device state is behind what its link still has to send."""
    begun, left = Awaited(PassSeen), Awaited(StatusSeen, _has_left)

    observe = all_of(begun, left)
    job = postcopy.start(
        stage.start(), B, driver="qemu", policy="manual", observer=observe
    )
    begun.wait()
    stage.lab.limit("512KiB")
    job.start_postcopy()
    left.wait()
    return job, left


def _has_left(seen: StatusSeen) -> bool:
    """From QEMU 10.2 on ``postcopy-active`` comes only when the device state has arrived."""
    is_away = seen.status in ("postcopy-active", "postcopy-device")
    return seen.side is Side.SOURCE and is_away


@pytest.mark.versions
def test_hole_in_the_switch_holds_the_guest_up(stage: Stage, moved: Check) -> None:
    """The destination says by then that it is in post-copy, and a start would come before its device state."""
    job, seen = _at_the_switch(stage)
    stage.lab.swallow_migrations()
    assert ask(stage, "b", "query-status")["status"] == "inmigrate"
    assert not [it for it in seen.of(Resumed) if is_there(it)]
    stage.lab.limit("64MiB")
    stage.lab.pass_migrations()
    job.wait(60)
    moved()


@pytest.mark.versions
def test_break_in_the_switch_never_starts_two(stage: Stage, stayed: Check) -> None:
    """The destination ends without the guest ever running there.  Whether the source can go on is up to its QEMU."""
    job, seen = _at_the_switch(stage)
    assert stage.lab.break_migrations() > 0
    with pytest.raises((postcopy.MigrationFailed, postcopy.GuestLost)) as caught:
        job.wait(60)
    assert not [it for it in seen.of(Resumed) if is_there(it)]
    assert stage.find("b") is None
    if isinstance(caught.value, postcopy.MigrationFailed):
        stayed()
        return
    assert "the guest never ran there" in str(caught.value)
    assert "cannot go on from there" in str(caught.value)
    assert stage.active_on() == ["a"], "its memory is there for its operator"
