"""Calls past libvirt-python: to libvirt itself, and to the shim in its place."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import libvirt
import pytest

from libvirt_postcopy.bindings import call
from libvirt_postcopy.constants import ErrorNumber

failed = libvirt.libvirtError
NO_SUPPORT = ErrorNumber.VIR_ERR_NO_SUPPORT


# libvirt itself


@pytest.mark.parametrize(
    "make",
    [
        lambda dom: call.start_postcopy(dom, 0, failed),
        lambda dom: call.abort_job_flags(dom, 1, failed),
        lambda dom: call.migrate3(dom, dom.connect(), {}, 1, failed),
    ],
)
def test_refusal_is_the_one_that_the_binding_raises(
    dom: libvirt.virDomain, make: Any
) -> None:
    with pytest.raises(libvirt.libvirtError) as caught:
        make(dom)
    assert caught.value.get_error_code() == NO_SUPPORT
    assert "not supported by the connection driver" in str(caught.value)


def test_error_is_as_through_the_binding(dom: libvirt.virDomain) -> None:
    with pytest.raises(libvirt.libvirtError) as through:
        dom.migrateStartPostCopy(0)
    with pytest.raises(libvirt.libvirtError) as past:
        call.start_postcopy(dom, 0, failed)
    assert past.value.err == through.value.err
    assert past.value.args == through.value.args


def test_error_is_that_of_the_thread(dom: libvirt.virDomain) -> None:
    """libvirt keeps the last error of each thread."""
    codes: list[int | None] = []

    def refuse(make: Any) -> None:
        try:
            make()
        except libvirt.libvirtError as error:
            codes.append(error.get_error_code())

    with pytest.raises(libvirt.libvirtError):
        dom.connect().lookupByName("nobody")
    thread = threading.Thread(
        target=refuse, args=(lambda: call.start_postcopy(dom, 0, failed),)
    )
    thread.start()
    thread.join(30)
    assert codes == [NO_SUPPORT]


def test_flags_that_do_not_fit_are_not_sent(dom: libvirt.virDomain) -> None:
    for flags in (-1, 1 << 32):
        with pytest.raises(ValueError, match="unsigned int"):
            call.start_postcopy(dom, flags, failed)


def test_closed_connection_is_not_sent(dom: libvirt.virDomain) -> None:
    """libvirt would follow the pointer, and libvirt-python lets it."""
    there = libvirt.open("test:///default")
    there.close()
    with pytest.raises(ValueError, match="it has been closed: <libvirt.virConnect"):
        call.migrate3(dom, there, {}, 1, failed)


def test_function_that_the_library_lacks(
    dom: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, "_opened", [(call._ffi(), object())])
    with pytest.raises(call.NoSuchFunction, match="virDomainMigrateStartPostCopy"):
        call.start_postcopy(dom, 0, failed)


@pytest.mark.programs
def test_library_that_cannot_be_opened(
    dom: libvirt.virDomain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call, "_opened", [])
    monkeypatch.setattr(call, "LIBVIRT", "libnothing.so.0")
    with pytest.raises(call.NoSuchCall, match="libnothing"):
        call.start_postcopy(dom, 0, failed)


# The shim in its place

WAIT = 1 << 31
"""Flags with which the shim's functions return when they are released."""


def given(shim: tuple[Any, Any]) -> list[str]:
    ffi, library = shim
    return ffi.string(library.shim_given).decode().splitlines()


PARAMS: dict[str, Any] = {
    "migrate_uri": "tcp://ä",
    "bandwidth": (1 << 64) - 1,
    "compression.zlib.level": 9,
    "migrate_disks": ["vda", "vdb"],
    "new.flag": True,
    "new.share": 0.5,
    "new.offset": -5,
}
GIVEN = [
    "migrate_uri 7 tcp://ä",
    "bandwidth 4 18446744073709551615",
    "compression.zlib.level 1 9",
    "migrate_disks 7 vda",
    "migrate_disks 7 vdb",
    "new.flag 6 1",
    "new.share 5 0.5",
    "new.offset 3 -5",
]


@pytest.mark.programs
def test_typed_parameters_arrive(dom: libvirt.virDomain, in_place: Any) -> None:
    call.migrate_to_uri3(dom, "qemu+tls://b/system", PARAMS, 0x8001, failed)
    assert given(in_place) == GIVEN
    assert in_place[1].shim_flags == 0x8001


def test_managed_migration_gives_the_uuid_there(
    dom: libvirt.virDomain, in_place: Any
) -> None:
    uuid = call.migrate3(dom, dom.connect(), PARAMS, 3, failed)
    assert uuid == dom.UUIDString()
    assert given(in_place) == GIVEN


def test_no_parameters_at_all(dom: libvirt.virDomain, in_place: Any) -> None:
    call.migrate_to_uri3(dom, "qemu+tls://b/system", {}, 0, failed)
    assert given(in_place) == []


def test_flags_of_an_abort_arrive(dom: libvirt.virDomain, in_place: Any) -> None:
    call.abort_job_flags(dom, 5, failed)
    assert in_place[1].shim_flags == 5


def test_uri_with_a_nul_is_not_sent(dom: libvirt.virDomain, in_place: Any) -> None:
    with pytest.raises(ValueError, match="NUL"):
        call.migrate_to_uri3(dom, "qemu\0", {}, 0, failed)


def test_destination_that_is_closed_meanwhile_is_held(
    dom: libvirt.virDomain, in_place: Any
) -> None:
    library = in_place[1]
    there = libvirt.open("test:///default")
    left: list[int] = []

    def close() -> None:
        if not library.shim_wait_until_inside():
            left.append(there.close())
        library.shim_release()

    thread = threading.Thread(target=close)
    thread.start()
    assert call.migrate3(dom, there, {}, WAIT, failed) == dom.UUIDString()
    thread.join(30)
    assert left == [1], "references that are left when the program has let go"


def test_destination_is_let_go(dom: libvirt.virDomain, in_place: Any) -> None:
    there = libvirt.open("test:///default")
    call.migrate3(dom, there, {}, 0, failed)
    with pytest.raises(ValueError):
        call.migrate3(dom, there, {}, -1, failed)
    assert there.close() == 0


def test_refusal_outlives_the_hold_of_the_destination(dom: libvirt.virDomain) -> None:
    """Closing a connection resets libvirt's error."""
    with pytest.raises(libvirt.libvirtError) as caught:
        call.migrate3(dom, libvirt.open("test:///default"), {}, 1, failed)
    assert caught.value.get_error_code() == NO_SUPPORT


def test_other_threads_run_and_the_domain_is_held(
    dom: libvirt.virDomain, in_place: Any
) -> None:
    """The C function returns when another thread says so; that thread sees the domain alive by then."""
    library = in_place[1]
    doms = [dom.connect().lookupByName("test")]
    seen = weakref.ref(doms[0])
    alive: list[bool] = []

    def release() -> None:
        if not library.shim_wait_until_inside():
            gc.collect()
            alive.append(seen() is not None)
        library.shim_release()

    thread = threading.Thread(target=release)
    thread.start()
    call.start_postcopy(doms.pop(), WAIT, failed)
    thread.join(30)
    assert alive == [True]
    gc.collect()
    assert seen() is None, "somebody holds the domain for ever"
