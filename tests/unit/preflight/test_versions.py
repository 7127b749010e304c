from __future__ import annotations

from dataclasses import replace

import pytest

from libvirt_postcopy.preflight.facts import Facts, Probe, Request, Unknown
from libvirt_postcopy.preflight.finding import Severity, Verdict
from unit.preflight.scene import (
    GOOD,
    destination,
    domain,
    one,
    seen,
    source,
    verdict,
)

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE


@pytest.mark.parametrize(
    "id, severity, libvirt, qemu",
    [
        ("versions/postcopy", ERROR, 1_003_003, 2_006_000),
        ("versions/recovery", WARNING, 8_005_000, 3_000_000),
        ("versions/preempt", NOTE, 10_000_000, 7_001_000),
    ],
)
@pytest.mark.parametrize("change, side", [(source, "source"), (destination, "destination")])  # fmt: skip
def test_first_version_that_has_it(
    id: str, severity: Severity, libvirt: int, qemu: int, change, side: str
) -> None:
    assert seen(id, change(libvirt=libvirt, qemu=qemu)) == []
    for older in ({"libvirt": libvirt - 1}, {"qemu": qemu - 1}):
        found = one(id, change(**older))
        assert found.severity is severity and found.side == side
        assert found.fixed_in


def test_both_sides_are_named() -> None:
    facts = source(destination(libvirt=8_004_000), qemu=2_012_000)
    here, there = seen("versions/recovery", facts)
    assert "QEMU is 2.12.0" in here.evidence and here.side == "source"
    assert "libvirt is 8.4.0" in there.evidence and there.side == "destination"


def test_unknown_source_does_not_hide_an_old_destination() -> None:
    facts = source(destination(libvirt=8_004_000), libvirt=Unknown("no answer"))
    old, unknown = seen("versions/recovery", facts)
    assert old.side == "destination" and unknown.is_unknown


@pytest.mark.parametrize(
    "libvirt, count",
    [(11_001_000, 0), (11_002_000, 1), (11_003_000, 1), (11_004_000, 0)],
)
def test_daemon_that_crashes_at_a_resume(libvirt: int, count: int) -> None:
    found = seen("versions/resume-crash", destination(libvirt=libvirt))
    assert [each.severity for each in found] == [WARNING] * count
    assert all("no recovery" in each.evidence for each in found)
    assert seen("versions/resume-crash", source(libvirt=libvirt)) == []


@pytest.mark.parametrize("change, side", [(source, "source"), (destination, "destination")])  # fmt: skip
def test_moment_in_which_the_guest_can_be_lost(change, side: str) -> None:
    found = one("versions/lost-window", change(qemu=10_001_000))
    assert (found.severity, found.side) == (NOTE, side)
    assert "cannot go back" in found.evidence
    assert not found.fixed_in  # what comes after that moment loses it still


def test_moment_is_not_said_where_qemu_can_go_back() -> None:
    assert seen("versions/lost-window", source(destination(qemu=10_002_000), qemu=10_002_000)) == []  # fmt: skip


def test_moment_is_said_once() -> None:
    one("versions/lost-window", source(destination(qemu=7_002_000), qemu=7_002_000))


def test_missing_preempt_is_said_once() -> None:
    one("versions/preempt", source(destination(libvirt=9_000_000), libvirt=9_000_000))


@pytest.mark.parametrize(
    "facts, side",
    [
        (domain(capabilities=frozenset(("postcopy-ram",))), "source"),
        (replace(GOOD, probe=Probe(8_000_000, frozenset())), "destination"),
    ],
)
def test_preempt_is_looked_for_in_qemus_own_lists(facts: Facts, side: str) -> None:
    found = one("versions/preempt", facts)
    assert found.side == side and "no postcopy-preempt" in found.evidence


def test_without_a_destination_only_the_source_is_judged() -> None:
    facts = replace(GOOD, destination=None)
    assert verdict("versions/recovery", facts) is Verdict.CLEAR
    assert verdict("versions/resume-crash", facts) is Verdict.NOT_ASKED


OLD_NAME = frozenset(("x-postcopy-ram",))
BY_QEMU = Request(by_qemu=True)


@pytest.mark.parametrize(
    ("id", "facts"),
    [
        ("versions/postcopy", source(libvirt=1_003_002, qemu=2_005_001)),
        ("guest/capability", domain(capabilities=OLD_NAME)),
        ("destination/capability", replace(GOOD, probe=Probe(2_005_001, OLD_NAME))),
        ("guest/paused", domain(is_paused=True)),
    ],
)
def test_what_only_libvirts_own_migration_needs(id: str, facts: Facts) -> None:
    assert one(id, facts).severity is ERROR
    assert seen(id, replace(facts, request=BY_QEMU)) == []


def test_what_no_driver_can_do_without() -> None:
    older = source(qemu=2_004_000)
    assert one("versions/postcopy", replace(older, request=BY_QEMU)).severity is ERROR
    none = domain(capabilities=frozenset(("xbzrle",)))
    assert one("guest/capability", replace(none, request=BY_QEMU)).severity is ERROR


@pytest.mark.parametrize(
    "request_", [BY_QEMU, Request(has_second_monitor=True)], ids=["qemu", "native"]
)
def test_recovery_that_needs_nothing_of_the_daemon(request_: Request) -> None:
    crashes = destination(libvirt=11_003_000)
    assert one("versions/resume-crash", crashes).severity is WARNING
    assert seen("versions/resume-crash", replace(crashes, request=request_)) == []


def test_old_libvirt_recovers_with_qemus_own_commands() -> None:
    old = source(libvirt=8_004_000)
    assert one("versions/recovery", old).severity is WARNING
    assert seen("versions/recovery", replace(old, request=BY_QEMU)) == []
