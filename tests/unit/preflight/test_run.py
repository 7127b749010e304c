"""The calls that programs use."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import libvirt
import pytest

import libvirt_postcopy
from libvirt_postcopy.errors import NotSupportedError, UsageError
from libvirt_postcopy.preflight import run
from libvirt_postcopy.preflight.facts import Facts
from libvirt_postcopy.preflight.finding import Verdict
from libvirt_postcopy.preflight.gather import Gathering
from libvirt_postcopy.preflight.run import (
    before_migration,
    check,
    examine,
    judge,
    refuse_errors,
)
from unit.preflight.daemon import Daemon, Guest
from unit.preflight.scene import GOOD, destination, domain

#: A pair on which nothing is wrong but that the destination's libvirt cannot resume.
WARNED = destination(libvirt=11_003_000)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Gathering]:
    """What is asked; the answer is that of a paused guest, whose destination cannot resume."""
    wanted: list[Gathering] = []

    def gather(gathering: Gathering) -> Facts:
        wanted.append(gathering)
        return destination(domain(is_paused=True), libvirt=11_003_000)

    monkeypatch.setattr(run, "gather", gather)
    return wanted


def test_keepalive_needs_an_event_loop(
    asked: list[Gathering], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must be there before the first connection is opened."""
    when: list[int] = []
    monkeypatch.setattr(run, "ensure_event_loop", lambda: when.append(len(asked)))
    check(dom(), "qemu+tls://b/system")
    assert when == [0] and len(asked) == 1


def dom() -> Guest:
    return Guest(Daemon())


def test_check_is_the_packages_own() -> None:
    assert libvirt_postcopy.check is check


def test_check_hands_everything_on(asked: list[Gathering]) -> None:
    guest = dom()
    report = check(guest, "qemu+tls://b/system", flags=5, params={"x": 1}, probe=True)
    (one,) = asked
    assert one.dom is guest and one.source is guest.connection
    assert (one.dest, one.flags, one.params) == ("qemu+tls://b/system", 5, {"x": 1})
    assert one.with_probe and not one.owns_source
    assert report.domain == "web1" and report.destination == "qemu+tls://b/system"
    assert [each.id for each in report.errors] == ["guest/paused"]
    assert [each.id for each in report.warnings] == ["versions/resume-crash"]


def test_who_must_log_in_opens_the_destination_himself(asked: list[Gathering]) -> None:
    check(dom(), "qemu+tls://b/system", connect=libvirt.openReadOnly)
    examine(Daemon(), None, "qemu+tls://b/system", connect=libvirt.openReadOnly)
    with pytest.raises(NotSupportedError, match="'web1' is paused"):
        before_migration(
            "warn", pytest.fail, dom(), "qemu:///system", connect=libvirt.openReadOnly
        )
    assert [each.connect for each in asked] == [libvirt.openReadOnly] * 3


def test_probe_is_asked_for_by_name(asked: list[Gathering]) -> None:
    check(dom(), Daemon())
    assert asked[0].with_probe is False


@pytest.mark.parametrize("dest", ["", "  ", None, 7])
def test_destination_that_is_none(asked: list[Gathering], dest: Any) -> None:
    with pytest.raises(UsageError, match="destination"):
        check(dom(), dest)
    assert asked == []


def test_another_driver_is_all_unknown_and_no_exception() -> None:
    """A real connection, to libvirt's own test driver, which knows nothing of all this."""
    source, there = libvirt.open("test:///default"), libvirt.open("test:///default")
    report = check(source.lookupByName("test"), there, probe=True)
    assert report.checks["destination/same-host"] is Verdict.UNKNOWN, "it has no UUID"
    assert report.checks["versions/recovery"] is Verdict.UNKNOWN, "it is no QEMU"
    assert report.checks["guest/capability"] is Verdict.UNKNOWN
    assert report.checks["destination/userfaultfd"] is Verdict.UNKNOWN
    assert report.checks["guest/paused"] is Verdict.CLEAR
    assert len(there.listAllDomains()) == 1
    assert str(report) and report.to_json()


def test_hosts_of_another_driver() -> None:
    report = examine(libvirt.open("test:///default"))
    assert report.domain == report.destination == ""


# Before a migration


def test_off_looks_at_nothing(asked: list[Gathering]) -> None:
    before_migration("off", pytest.fail, dom(), "qemu:///system")
    assert asked == []


@pytest.mark.parametrize("mode", ["warn", "strict"])
def test_error_is_certain_and_refused(asked: list[Gathering], mode: str) -> None:
    with pytest.raises(NotSupportedError, match="'web1' is paused") as caught:
        before_migration(mode, pytest.fail, dom(), "qemu:///system", flags=4)
    assert asked[0].flags == 4 and not asked[0].with_probe
    assert caught.value.side == "source" and caught.value.cure


def test_warn_says_warnings_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "gather", lambda wanted: destination(qemu=2_012_000))
    said: list[str] = []
    before_migration("warn", said.append, dom(), "qemu:///system")
    (warning,) = said
    assert warning.startswith("warning: versions/recovery (destination): ")


def test_what_the_migration_says_itself_is_not_said_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "gather", lambda wanted: WARNED)
    before_migration("warn", pytest.fail, dom(), "qemu:///system")


def test_strict_refuses_on_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "gather", lambda wanted: WARNED)
    with pytest.raises(NotSupportedError, match="strict: .*11.3") as caught:
        before_migration("strict", pytest.fail, dom(), "qemu:///system")
    assert caught.value.side == "destination"


def test_strict_lets_a_good_pair_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "gather", lambda wanted: GOOD)
    before_migration("strict", pytest.fail, dom(), "qemu:///system")


def test_mode_that_is_none(asked: list[Gathering]) -> None:
    with pytest.raises(UsageError, match="off, warn, strict"):
        before_migration("maybe", pytest.fail, dom(), "qemu:///system")
    assert asked == []


def test_refusal_counts_the_others() -> None:
    refuse_errors(judge(GOOD))
    assert GOOD.domain is not None
    worse = replace(GOOD, domain=replace(GOOD.domain, is_paused=True, has_job=True))
    with pytest.raises(NotSupportedError, match="another job .*, and 1 more"):
        refuse_errors(judge(worse))


def test_connection_that_the_migration_will_miss_itself_is_not_told_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unreachable = replace(GOOD, connection_refusal="nobody there")
    monkeypatch.setattr(run, "gather", lambda wanted: unreachable)
    assert [each.id for each in check(dom(), "x").warnings] == [
        "destination/connection"
    ]
    before_migration("warn", pytest.fail, dom(), "qemu:///system")
