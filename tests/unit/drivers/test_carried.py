from __future__ import annotations

import pytest

from libvirt_postcopy import incoming
from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.drivers.carried import (
    lift_limit,
    with_arguments,
    without_leftovers,
)
from unit.drivers.qemus import XML, Machine
from unit.fakes import NO_ANSWER, RUNNING, SPLIT_THERE, FakeConnection, refused

LIVE = MigrateFlags.VIR_MIGRATE_LIVE
PERSIST = LIVE | MigrateFlags.VIR_MIGRATE_PERSIST_DEST
OURS = ("-global", "migration.x=y")
MARKED = incoming.add_arguments(XML, OURS)


@pytest.fixture
def dom() -> Machine:
    return Machine(FakeConnection(), RUNNING)


def test_running_guest_gets_them_and_nothing_is_defined(dom: Machine) -> None:
    wanted = with_arguments(dom, {"bandwidth": 8}, LIVE, OURS)
    assert wanted == {"bandwidth": 8, "destination_xml": MARKED}


@pytest.mark.parametrize("is_defined", [True, False])
def test_what_is_defined_is_free_of_them(dom: Machine, is_defined: bool) -> None:
    dom.is_defined, dom.xml = is_defined, MARKED
    wanted = with_arguments(dom, {}, PERSIST, OURS)
    assert incoming.has_ours(wanted["destination_xml"])
    assert not incoming.has_ours(wanted["persistent_xml"])


def test_xml_of_the_caller_is_the_one_that_is_changed(dom: Machine) -> None:
    given = XML.replace("64", "65")
    params = {"destination_xml": given, "persistent_xml": XML}
    wanted = with_arguments(dom, params, PERSIST, OURS)
    assert wanted["destination_xml"] == incoming.add_arguments(given, OURS)
    assert wanted["persistent_xml"] == XML


def test_what_an_earlier_migration_has_left_is_not_carried_on(dom: Machine) -> None:
    dom.xml = MARKED
    wanted = without_leftovers(dom, {}, PERSIST)
    assert not any(map(incoming.has_ours, wanted.values())) and len(wanted) == 2


def test_guest_without_leftovers_is_left_to_libvirt(dom: Machine) -> None:
    assert without_leftovers(dom, {"bandwidth": 8}, PERSIST) == {"bandwidth": 8}


def test_daemon_that_does_not_answer_is_for_the_migration_to_tell(
    dom: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(flags: int = 0) -> str:
        raise NO_ANSWER

    monkeypatch.setattr(dom, "XMLDesc", refuse)
    assert without_leftovers(dom, {}, PERSIST) == {}


LIFTED = [("migrateSetMaxSpeed", 0, 1)]


class Limited(Machine):
    """A domain whose QEMU has a limit for post-copy."""

    limit_mib_s = 16

    def migrateGetMaxSpeed(self, flags: int = 0) -> int:
        assert flags == 1  # that of pre-copy is of no interest
        return self.limit_mib_s

    def migrateSetMaxSpeed(self, bandwidth: int, flags: int = 0) -> int:
        self._do("migrateSetMaxSpeed", bandwidth, flags)
        self.limit_mib_s = bandwidth
        return 0


@pytest.fixture
def limited() -> Limited:
    return Limited(FakeConnection(), RUNNING)


def test_limit_that_the_migration_has_left_is_taken_off(limited: Limited) -> None:
    lift_limit(limited, {"bandwidth.postcopy": 16})
    assert limited.calls == LIFTED
    lift_limit(limited, {"bandwidth.postcopy": 16})
    assert limited.calls == LIFTED  # and once it is off there is nothing to do


@pytest.mark.parametrize("params", [{}, {"bandwidth.postcopy": 0}, {"bandwidth.postcopy": 8}])  # fmt: skip
def test_limit_of_somebody_else_is_kept(limited: Limited, params: dict[str, int]) -> None:  # fmt: skip
    lift_limit(limited, params)
    assert limited.calls == []


def test_nothing_is_changed_in_a_half(limited: Limited) -> None:
    limited.now = SPLIT_THERE
    lift_limit(limited, {"bandwidth.postcopy": 16})
    assert limited.calls == []


def test_limit_that_libvirt_will_not_take_off_is_left(limited: Limited) -> None:
    limited.errors["migrateSetMaxSpeed"] = refused(68, "cannot acquire state change lock")  # fmt: skip
    lift_limit(limited, {"bandwidth.postcopy": 16})
    assert limited.calls == LIFTED and limited.limit_mib_s == 16
