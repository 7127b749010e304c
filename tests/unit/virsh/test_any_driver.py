from __future__ import annotations

from typing import Any

import pytest

from libvirt_postcopy.errors import LibvirtError
from libvirt_postcopy.virsh.any_driver import start_postcopy
from unit.drivers.qemus import ok, refuse
from unit.fakes import FakeDomain, refused

NO_JOB = refused(55, "post-copy can only be started while outgoing migration is in progress")  # fmt: skip
SWITCH = {"execute": "migrate-start-postcopy"}


class Asked(FakeDomain):
    """Libvirt sees no job; its QEMU has this status, and answers the switch so."""

    status = "active"
    reply: Any = ok()

    def __init__(self) -> None:
        super().__init__()
        self.errors["migrateStartPostCopy"] = NO_JOB
        self.sent: list[dict[str, Any]] = []

    def answer(self, command: dict[str, Any]) -> Any:
        self.sent.append(command)
        return self.reply if command == SWITCH else ok({"status": self.status})


@pytest.fixture
def dom(monitor: None) -> Asked:
    return Asked()


def test_libvirts_own_job_needs_no_more(dom: Asked) -> None:
    dom.errors.clear()
    start_postcopy(dom)
    assert dom.calls == [("migrateStartPostCopy", 0)] and dom.sent == []


def test_migration_that_libvirt_does_not_see(dom: Asked) -> None:
    start_postcopy(dom)
    assert dom.sent[-1] == SWITCH


@pytest.mark.parametrize("status", ["none", "completed", "postcopy-active", "setup"])
def test_qemu_that_is_not_in_precopy(dom: Asked, status: str) -> None:
    dom.status = status
    with pytest.raises(LibvirtError, match="outgoing migration"):
        start_postcopy(dom)
    assert SWITCH not in dom.sent


def test_job_of_libvirts_that_is_refused_is_not_gone_round(dom: Asked) -> None:
    dom.job = {"type": 2}
    with pytest.raises(LibvirtError):
        start_postcopy(dom)
    assert dom.sent == []


def test_refusal_by_both_is_libvirts(dom: Asked) -> None:
    dom.reply = refuse("Enable postcopy with migrate_set_capability before")
    with pytest.raises(LibvirtError, match="outgoing migration"):
        start_postcopy(dom)
