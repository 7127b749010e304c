from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from libvirt_postcopy.bindings import call, judge
from libvirt_postcopy.bindings.check import examine
from libvirt_postcopy.bindings.functions import SYMBOLS
from libvirt_postcopy.bindings.library import Library, loaded
from libvirt_postcopy.bindings.symbols import LIBVIRT, QEMU
from libvirt_postcopy.constants import ErrorNumber
from libvirt_postcopy.errors import LibvirtError, NotSupportedError, UsageError
from libvirt_postcopy.features import Path
from libvirt_postcopy.vir import calls, fallback
from libvirt_postcopy.vir.binding import installed
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


def test_abort_that_cannot_be_written(bare: libvirt.virDomain) -> None:
    with pytest.raises(UsageError, match="unsigned int"):
        fallback.abort_job_flags(bare, -1)


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
    params = {"parallel.connections": 2, "disks_port": 5}
    assert fallback.path(fallback.MIGRATE, params) is Path.BINDING


@pytest.mark.parametrize(
    "hints, params",
    [({"bandwidth": 2}, {"bandwidth": 5}), ({}, {"bandwidth": True})],
    ids=["a wrong hint", "a wrong guess"],
)
def test_number_of_another_type_goes_past_the_binding(
    dom: libvirt.virDomain,
    in_place: Any,
    monkeypatch: pytest.MonkeyPatch,
    hints: dict[str, int],
    params: dict[str, Any],
) -> None:
    """An INT is not the only type that libvirt-python can get wrong."""
    ffi, library = in_place
    monkeypatch.setattr(fallback, "_hints", lambda: hints)
    calls.migrate_to_uri3(dom, "qemu+tls://b/system", params, 3)
    expected = f"bandwidth 4 {int(params['bandwidth'])}\n"
    assert ffi.string(library.shim_given).decode() == expected
    library.shim_given[0] = b"\0"
    calls.migrate3(dom, dom.connect(), params, 1)
    assert ffi.string(library.shim_given).decode() == expected


def test_connection_that_has_been_closed(poor: None, dom: libvirt.virDomain) -> None:
    there = libvirt.open("test:///default")
    there.close()
    with pytest.raises(UsageError, match="it has been closed"):
        calls.migrate3(dom, there, ZLIB, 1)


def test_refused_migration_past_the_binding(poor: None, dom: libvirt.virDomain) -> None:
    with pytest.raises(LibvirtError) as caught:
        calls.migrate3(dom, dom.connect(), ZLIB, 1)
    assert caught.value.code == ErrorNumber.VIR_ERR_ARGUMENT_UNSUPPORTED


@pytest.mark.parametrize(
    "params, why",
    [
        ({"bandwidth": -1}, "bandwidth: -1 is not between"),
        ({"bandwidth": "fast"}, "bandwidth, which is to be a number"),
        ({"disks_port": 1 << 40}, "disks_port: 1099511627776 is not between"),
        ({"migrate_uri": 5}, "migrate_uri, which is to be a text"),
        ({"new": object()}, "new: not <object"),
    ],
)
def test_parameter_that_cannot_be_written_through_the_binding_either(
    dom: libvirt.virDomain, params: dict[str, Any], why: str
) -> None:
    """libvirt-python would raise a TypeError or an OverflowError that names no parameter."""
    assert fallback.path(fallback.MIGRATE, {}) is Path.BINDING
    with pytest.raises(UsageError, match=why):
        calls.migrate3(dom, dom.connect(), params, 1)
    with pytest.raises(UsageError, match=why):
        calls.migrate_to_uri3(dom, "qemu:///system", params, 1)


def test_parameter_that_cannot_be_written(poor: None, dom: libvirt.virDomain) -> None:
    wrong = {"compression.zlib.level": 1 << 40}
    with pytest.raises(UsageError, match="zlib.level: 1099511627776 is not between"):
        calls.migrate3(dom, dom.connect(), wrong, 1)
    with pytest.raises(UsageError, match="not between"):
        calls.migrate_to_uri3(dom, "qemu:///system", wrong, 1)


def test_no_way_past_the_binding(poor: None) -> None:
    with pytest.raises(NotSupportedError, match="no way past it") as caught:
        calls.migrate3(FakeDomain(), FakeConnection(), ZLIB, 1)
    assert "passes compression.zlib.level in a type" in caught.value.what


# Which way


def test_binding_whose_c_module_lacks_it_is_called_past(
    dom: libvirt.virDomain, in_place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Python has the method all the same, which would only say that the C module has not."""
    for name in (fallback.START, fallback.ABORT):
        monkeypatch.delattr(libvirt.libvirtmod, name)
        report = examine(installed(), is_quick=True)
        assert report.path(name) is fallback.path(name) is Path.CFFI
    calls.start_postcopy(dom)
    calls.pause_postcopy(dom)


LOST = [
    (),
    ("method",),
    ("glue",),
    ("method", "library"),
    ("method", "cffi"),
    ("glue", "library", "monitor"),
    ("method", "cffi", "monitor"),
]


@pytest.mark.parametrize("name", sorted(call.CALLABLE))
@pytest.mark.parametrize("lost", LOST, ids=lambda lost: " ".join(lost) or "nothing")
def test_report_and_call_choose_the_same_way(
    monkeypatch: pytest.MonkeyPatch, lost: tuple[str, ...], name: str
) -> None:
    gone = {name} if "library" in lost else set()
    if "method" in lost:
        monkeypatch.delattr(libvirt.virDomain, SYMBOLS[name].binding.split(".")[1])
    if "glue" in lost:
        monkeypatch.delattr(libvirt.libvirtmod, name)
    if "monitor" in lost:
        monkeypatch.delattr(libvirt_qemu, "qemuMonitorCommand")
    if "cffi" in lost:
        monkeypatch.setattr(call, "_has_cffi", lambda: False)
        monkeypatch.setattr(call, "_opened", [])
        monkeypatch.setitem(sys.modules, "cffi", None)
    if "library" in lost:
        monkeypatch.setattr(call, "_opened", [(None, Old())])
    is_quick = "cffi" in lost
    whole = {soname: loaded(soname, is_looked_up=not is_quick) for soname in (LIBVIRT, QEMU)}  # fmt: skip
    rows, _ = judge.symbols(
        {soname: Less(each, gone) for soname, each in whole.items()},
        installed(),
        libvirt.getVersion(),
    )
    reported = next(row.path for row in rows if row.symbol == name)
    assert fallback.path(name) is reported
    if not lost:
        assert reported is Path.BINDING
    elif "library" not in lost and "cffi" not in lost:
        assert reported is Path.CFFI
    elif name == fallback.START and "monitor" not in lost:
        assert reported is Path.PASSTHROUGH
    else:
        assert reported is Path.NONE


class Less:
    """A library that lacks some symbols."""

    def __init__(self, library: Library, gone: set[str]) -> None:
        self._library, self._gone = library, gone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def version(self, symbol: str) -> str | None:
        return None if symbol in self._gone else self._library.version(symbol)


@pytest.mark.programs
def test_cffi_is_not_loaded_where_it_is_not_needed() -> None:
    program = (
        "import sys; from libvirt_postcopy.vir import fallback;"
        "print(fallback.path(fallback.START, {'bandwidth': 5}).value, 'cffi' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )  # fmt: skip
    assert done.stdout == "binding False\n"


def test_way_is_logged(
    bare: libvirt.virDomain, in_place: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="libvirt_postcopy.vir"):
        calls.start_postcopy(bare)
    assert caplog.messages == ["virDomainMigrateStartPostCopy: path cffi"]


@pytest.fixture
def without_cffi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "_has_cffi", lambda: False)
    monkeypatch.setattr(call, "_opened", [])
    monkeypatch.setitem(sys.modules, "cffi", None)


def test_switch_without_cffi_goes_through_the_monitor(
    bare: Any, without_cffi: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    monkeypatch.setattr(
        libvirt_qemu,
        "qemuMonitorCommand",
        lambda dom, line, flags: sent.append(line) or '{"return": {}}',
    )
    calls.start_postcopy(bare)
    assert [json.loads(line) for line in sent] == [
        {"execute": "migrate-start-postcopy"}
    ]


def test_parameter_that_cannot_be_passed_right_without_cffi(
    poor: None, dom: libvirt.virDomain, without_cffi: None
) -> None:
    with pytest.raises(NotSupportedError) as caught:
        calls.migrate3(dom, dom.connect(), ZLIB, 1)
    text = str(caught.value)
    assert "passes compression.zlib.level in a type that the daemon refuses" in text
    assert "pip install cffi" in text and "has no migrate3" not in text
