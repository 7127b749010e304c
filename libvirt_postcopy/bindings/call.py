"""Calls past libvirt-python: into the library that it has loaded, with its own objects.

For functions that the library has and the binding has not, and for typed parameters whose type the binding would
get wrong.  cffi lets go of the GIL during a call.  libvirt keeps an error for the thread that made the call, so
the exception is made at once and on that thread, as libvirt-python itself does.

While a call runs, its arguments hold the Python objects, and a domain holds its connection: whoever closes that or drops
the domain in another thread takes only their own reference away.  A destination's connection, which ``close()`` would take
from under the call, is held too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Protocol

from libvirt_postcopy.bindings.ffi import NoCffi, new_ffi
from libvirt_postcopy.bindings.functions import HOLD, SYMBOLS
from libvirt_postcopy.bindings.parameters import ParameterType, typed
from libvirt_postcopy.bindings.symbols import LIBVIRT, TYPES
from libvirt_postcopy.constants import Length

__all__ = [
    "CALLABLE",
    "DECLARED",
    "Failed",
    "NoSuchCall",
    "NoSuchFunction",
    "Pointed",
    "abort_job_flags",
    "can_call",
    "hindrance",
    "migrate3",
    "migrate_to_uri3",
    "start_postcopy",
]

LOG = logging.getLogger("libvirt_postcopy.bindings")

CALLABLE = frozenset(
    (
        "virDomainMigrateStartPostCopy",
        "virDomainAbortJobFlags",
        "virDomainMigrate3",
        "virDomainMigrateToURI3",
    )
)
"""The functions that can be called here."""

Failed = Callable[[str], Exception]
"""Makes libvirt's last error on this thread an exception: ``libvirt.libvirtError``."""


class NoSuchCall(Exception):
    """The function cannot be called; the text says why."""


class NoSuchFunction(NoSuchCall):
    """The library that is loaded lacks it."""


def can_call(name: str) -> bool:
    """Whether a function can be called here, if the library has it."""
    return name in CALLABLE and _has_cffi()


@lru_cache(maxsize=1)
def _has_cffi() -> bool:
    try:
        new_ffi()
    except NoCffi as error:
        LOG.debug("no calls past libvirt-python: %s", error)
        return False
    return True


def hindrance(name: str) -> str:
    """Why a function cannot be called here; empty if it can."""
    try:
        _function(name)
    except NoSuchCall as error:
        return str(error)
    return ""


class Pointed(Protocol):
    """An object of libvirt-python's: the C object is at this address as long as this one lives."""

    def c_pointer(self) -> int: ...


def start_postcopy(dom: Pointed, flags: int, failed: Failed) -> None:
    """Call ``virDomainMigrateStartPostCopy``.

    :raises NoSuchFunction: If the library has none.
    :raises ValueError: If flags do not fit, or the domain is none; nothing was sent.
    """
    _simple("virDomainMigrateStartPostCopy", dom, flags, failed)


def abort_job_flags(dom: Pointed, flags: int, failed: Failed) -> None:
    """Call ``virDomainAbortJobFlags``.

    :raises NoSuchFunction: If the library has none.
    :raises ValueError: If flags do not fit, or the domain is none; nothing was sent.
    """
    _simple("virDomainAbortJobFlags", dom, flags, failed)


def migrate_to_uri3(
    dom: Pointed, uri: str, params: Mapping[str, Any], flags: int, failed: Failed
) -> None:
    """Call ``virDomainMigrateToURI3`` with each parameter in the type that libvirt expects.

    :raises NoSuchFunction: If the library has none.
    :raises ValueError: If an argument cannot be written, or has been closed; nothing was sent.
    """
    call, ffi = _function("virDomainMigrateToURI3"), _ffi()
    array, count, _texts = _array(params)
    target = _text(ffi, "the destination's URI", uri)
    if call(_pointer("virDomainPtr", dom), target, array, count, _unsigned(flags)) < 0:
        raise failed("virDomainMigrateToURI3() failed")


def migrate3(
    dom: Pointed, dconn: Pointed, params: Mapping[str, Any], flags: int, failed: Failed
) -> str:
    """Call ``virDomainMigrate3`` with each parameter in the type that libvirt expects.

    :return: The UUID of the domain on the destination.
    :raises NoSuchFunction: If the library has none.
    :raises ValueError: If an argument cannot be written, or has been closed; nothing was sent.
    """
    call, ffi = _function("virDomainMigrate3"), _ffi()
    array, count, _texts = _array(params)
    with _held(dconn) as target:
        there = call(
            _pointer("virDomainPtr", dom), target, array, count, _unsigned(flags)
        )
        if there == ffi.NULL:
            raise failed("virDomainMigrate3() failed")
    uuid = ffi.new("char[]", int(Length.VIR_UUID_STRING_BUFLEN))
    try:
        if _function("virDomainGetUUIDString")(there, uuid) < 0:
            raise failed("virDomainGetUUIDString() failed")
        return str(ffi.string(uuid).decode("ascii"))
    finally:
        _function("virDomainFree")(there)


def _simple(name: str, dom: Pointed, flags: int, failed: Failed) -> None:
    call = _function(name)
    if call(_pointer("virDomainPtr", dom), _unsigned(flags)) < 0:
        raise failed(f"{name}() failed")


def _unsigned(flags: int) -> int:
    """Flags as C takes them.

    :raises ValueError: If they do not fit.
    """
    if not 0 <= flags < 1 << 32:
        raise ValueError(f"flags do not fit an unsigned int: {flags}")
    return int(flags)


def _pointer(kind: str, thing: Pointed) -> Any:
    """An object as C takes it.

    :raises ValueError: If it has been closed: libvirt does not look, and would end the process.
    """
    address = thing.c_pointer()
    if not address:
        raise ValueError(f"it has been closed: {thing!r:.60}")
    return _ffi().cast(kind, address)


@contextmanager
def _held(connection: Pointed) -> Iterator[Any]:
    """A connection as C takes it, which stays one, whoever closes it meanwhile.

    What is raised within is made before the connection is let go: that would reset libvirt's error.
    """
    pointer = _pointer("virConnectPtr", connection)
    _function("virConnectRef")(pointer)
    try:
        yield pointer
    finally:
        _function("virConnectClose")(pointer)


def _text(ffi: Any, what: str, text: str) -> Any:
    if "\0" in text:
        raise ValueError(f"{what}: there is a NUL in it")
    return ffi.new("char[]", text.encode())


_MEMBERS = {
    ParameterType.VIR_TYPED_PARAM_INT: "i",
    ParameterType.VIR_TYPED_PARAM_UINT: "ui",
    ParameterType.VIR_TYPED_PARAM_LLONG: "l",
    ParameterType.VIR_TYPED_PARAM_ULLONG: "ul",
    ParameterType.VIR_TYPED_PARAM_DOUBLE: "d",
}


def _array(params: Mapping[str, Any]) -> tuple[Any, int, list[Any]]:
    """Typed parameters in C's memory; the third is what must live as long as the first."""
    ffi, given = _ffi(), typed(params)
    array = ffi.new("virTypedParameter[]", max(1, len(given)))
    texts = []
    for place, (key, kind, value) in zip(array, given):
        place.field = key.encode()
        place.type = int(kind)
        if kind is ParameterType.VIR_TYPED_PARAM_STRING:
            texts.append(ffi.new("char[]", value.encode()))
            place.value.s = texts[-1]
        elif kind is ParameterType.VIR_TYPED_PARAM_BOOLEAN:
            place.value.b = bytes([bool(value)])
        else:
            setattr(place.value, _MEMBERS[kind], value)
    return array, len(given), texts


# The library

_lock = threading.Lock()
_opened: list[tuple[Any, Any]] = []

_CALLED = (*sorted(CALLABLE), "virDomainGetUUIDString", "virDomainFree", "virConnectClose")  # fmt: skip

DECLARED = TYPES + "".join(
    f"{each.prototype};\n" for each in (*(SYMBOLS[name] for name in _CALLED), HOLD)
)
"""All that is called here, in C."""


def _open() -> tuple[Any, Any]:
    """cffi, and the library as it sees it; opened once and never closed.

    :raises NoSuchCall: If it cannot be opened.
    """
    with _lock:
        if not _opened:
            try:
                ffi = new_ffi()
                ffi.cdef(DECLARED)
                _opened.append((ffi, ffi.dlopen(LIBVIRT)))
            except (NoCffi, OSError) as error:
                raise NoSuchCall(str(error)) from error
        return _opened[0]


def _ffi() -> Any:
    return _open()[0]


def _function(name: str) -> Callable[..., Any]:
    try:
        return getattr(_open()[1], name)  # type: ignore[no-any-return]
    except AttributeError as error:
        raise NoSuchFunction(f"{LIBVIRT} has no {name}") from error
