from __future__ import annotations

import json
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from libvirt_postcopy.bindings import call
from libvirt_postcopy.constants import ErrorNumber
from libvirt_postcopy.errors import LibvirtError, NotSupportedError, UsageError
from libvirt_postcopy.vir import calls, fallback
from unit.fakes import FakeConnection, FakeDomain

ZLIB = {"compression.zlib.level": 3, "migrate_uri": "tcp://b"}


@pytest.fixture
def bare(dom: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch) -> libvirt.virDomain:
    """A domain whose binding is from before post-copy."""
    for name in ("migrateStartPostCopy", "abortJobFlags"):
        monkeypatch.delattr(libvirt.virDomain, name)
    return dom


def test_switch_past_the_binding(bare: libvirt.virDomain, in_place: Any) -> None:
    calls.start_postcopy(bare)


def test_refused_switch_past_the_binding(bare: libvirt.virDomain) -> None:
    with pytest.raises(LibvirtError) as caught:
        calls.start_postcopy(bare)
    assert caught.value.code == ErrorNumber.VIR_ERR_NO_SUPPORT
    assert caught.value.side == "source"
    assert isinstance(caught.value, libvirt.libvirtError)


def test_refused_pause_past_the_binding(bare: libvirt.virDomain) -> None:
    with pytest.raises(LibvirtError) as caught:
        calls.pause_postcopy(bare)
    assert caught.value.code == ErrorNumber.VIR_ERR_NO_SUPPORT


class Old:
    """A library from before all of it."""


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The library lacks it too; what QEMU is sent."""
    sent: list[Any] = []

    def answer(dom: Any, line: str, flags: int) -> str:
        sent.append(json.loads(line))
        return json.dumps(dom.reply)

    monkeypatch.setattr(call, "_opened", [(call._ffi(), Old())])
    monkeypatch.setattr(libvirt_qemu, "qemuMonitorCommand", answer)
    return sent


def test_switch_through_the_monitor(bare: Any, old: list[Any]) -> None:
    bare.reply = {"return": {}}
    calls.start_postcopy(bare)
    assert old == [{"execute": "migrate-start-postcopy"}]


def test_switch_that_qemu_refuses(bare: Any, old: list[Any]) -> None:
    bare.reply = {"error": {"class": "GenericError", "desc": "Enable postcopy first"}}
    with pytest.raises(LibvirtError, match="source: Enable postcopy first"):
        calls.start_postcopy(bare)


def test_guest_is_not_paused_where_nothing_can_resume_it(
    bare: Any, old: list[Any]
) -> None:
    with pytest.raises(LibvirtError, match="abortJobFlags") as caught:
        calls.pause_postcopy(bare)
    assert caught.value.code == ErrorNumber.VIR_ERR_NO_SUPPORT
    assert old == []


def test_flags_that_do_not_fit(bare: libvirt.virDomain) -> None:
    with pytest.raises(UsageError, match="unsigned int"):
        calls.start_postcopy(bare, -1)


# Typed parameters


@pytest.fixture
def poor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A binding that has no type for anything."""
    monkeypatch.setattr(fallback, "_hints", dict)


def test_parameters_that_the_binding_passes_right(poor: None) -> None:
    dom, there = FakeDomain(), FakeConnection()
    dom.on_migrate = lambda name, dest: None
    params = {"bandwidth": 5, "migrate_uri": "tcp://b"}
    calls.migrate3(dom, there, params, 1)
    calls.migrate_to_uri3(dom, "qemu+tls://b/system", params, 3)
    assert dom.calls == [
        ("migrate3", there, params, 1),
        ("migrateToURI3", "qemu+tls://b/system", params, 3),
    ]


def test_parameters_that_the_binding_would_pass_wrong(
    poor: None, dom: libvirt.virDomain, in_place: Any
) -> None:
    ffi, library = in_place
    calls.migrate_to_uri3(dom, "qemu+tls://b/system", ZLIB, 3)
    wanted = "compression.zlib.level 1 3\nmigrate_uri 7 tcp://b\n"
    assert ffi.string(library.shim_given).decode() == wanted
    library.shim_given[0] = b"\0"
    calls.migrate3(dom, dom.connect(), ZLIB, 1)
    assert ffi.string(library.shim_given).decode() == wanted


def test_migration_without_the_bindings_methods(
    dom: libvirt.virDomain, in_place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ffi, library = in_place
    for name in ("migrate3", "migrateToURI3"):
        monkeypatch.delattr(libvirt.virDomain, name)
    calls.migrate_to_uri3(dom, "qemu+tls://b/system", {"bandwidth": 5}, 3)
    assert ffi.string(library.shim_given) == b"bandwidth 4 5\n"
    calls.migrate3(dom, dom.connect(), {"bandwidth": 6}, 1)
    assert ffi.string(library.shim_given) == b"bandwidth 4 6\n"


def test_parameters_are_hinted_right_by_the_binding_here() -> None:
    assert not fallback.is_misread({"parallel.connections": 2, "disks_port": 5})


def test_refused_migration_past_the_binding(poor: None, dom: libvirt.virDomain) -> None:
    with pytest.raises(LibvirtError) as caught:
        calls.migrate3(dom, dom.connect(), ZLIB, 1)
    assert caught.value.code == ErrorNumber.VIR_ERR_ARGUMENT_UNSUPPORTED


def test_parameter_that_cannot_be_written(poor: None, dom: libvirt.virDomain) -> None:
    wrong = {"compression.zlib.level": 1 << 40}
    with pytest.raises(UsageError, match="zlib.level: 1099511627776 is not between"):
        calls.migrate3(dom, dom.connect(), wrong, 1)
    with pytest.raises(UsageError, match="not between"):
        calls.migrate_to_uri3(dom, "qemu:///system", wrong, 1)


def test_no_way_past_the_binding(poor: None) -> None:
    with pytest.raises(NotSupportedError, match="no way past it"):
        calls.migrate3(FakeDomain(), FakeConnection(), ZLIB, 1)
