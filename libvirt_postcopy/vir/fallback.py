"""Which way a call takes, and the calls that libvirt-python has not, or would get wrong: past it, into the library that it
has loaded.

Errors are libvirt's own (``libvirtError``), except where said.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import libvirt
import libvirt_qemu

from libvirt_postcopy.bindings import call
from libvirt_postcopy.bindings.binding import REBUILD
from libvirt_postcopy.bindings.functions import SYMBOLS
from libvirt_postcopy.bindings.parameters import misread, typed
from libvirt_postcopy.bindings.paths import path_of
from libvirt_postcopy.constants import ErrorNumber
from libvirt_postcopy.errors import LibvirtError, NotSupportedError, UsageError
from libvirt_postcopy.features import Path
from libvirt_postcopy.vir.binding import LOADED
from libvirt_postcopy.vir.protocols import Connection, Domain

__all__ = [
    "ABORT",
    "MIGRATE",
    "MIGRATE_TO_URI",
    "START",
    "abort_job_flags",
    "migrate3",
    "migrate_to_uri3",
    "path",
    "require_writable",
    "start_postcopy",
]

LOG = logging.getLogger("libvirt_postcopy.vir")

START = "virDomainMigrateStartPostCopy"
ABORT = "virDomainAbortJobFlags"
MIGRATE = "virDomainMigrate3"
MIGRATE_TO_URI = "virDomainMigrateToURI3"

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def path(name: str, params: Mapping[str, Any] = _NOTHING) -> Path:
    """The way that a call of a C function takes.

    :param params: Typed parameters that it is to be given.
    """
    wrong = misread(params, _hints()) if params else ()
    found = path_of(name, LOADED, _is_in_library, is_misread=bool(wrong))
    why = f", for libvirt-python passes {', '.join(wrong)} in a wrong type" if wrong else ""  # fmt: skip
    level = logging.DEBUG if found is Path.BINDING else logging.INFO
    LOG.log(level, "%s: path %s%s", name, found.value, why)
    return found


def require_writable(params: Mapping[str, Any]) -> None:
    """See that typed parameters can be written, whichever way they go.

    :raises UsageError: If not; the text says which, where libvirt-python only says that an integer is required.
    """
    try:
        typed(params)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _is_in_library(name: str) -> bool:
    # libvirt-python could not have been loaded if a function that its C module calls were missing.
    return LOADED.has(SYMBOLS[name]) or not call.hindrance(name)


@lru_cache(maxsize=1)
def _hints() -> Mapping[str, int] | None:
    return LOADED.hints()


def start_postcopy(dom: Domain, flags: int, way: Path) -> None:
    """Switch without libvirt-python's ``migrateStartPostCopy``.

    A library before 1.3.3 has no such function either; QEMU's own command does the same then.

    :param way: As :func:`path` says.
    :raises NotSupportedError: If there is no way.
    :raises LibvirtError: If QEMU refuses.
    """
    if way is Path.PASSTHROUGH:
        _send(dom, SYMBOLS[START].passthrough)
        return
    try:
        call.start_postcopy(_pointed(dom), flags, libvirt.libvirtError)
    except call.NoSuchCall as error:
        raise _lacking(START, error) from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def abort_job_flags(dom: Domain, flags: int) -> None:
    """Abort without libvirt-python's ``abortJobFlags``.

    There is no other way: a libvirt without it cannot resume what has been paused.

    :raises LibvirtError: If the library has no such function, as from a driver that has none.
    :raises UsageError: If flags do not fit, or the domain is none; nothing was sent.
    """
    try:
        call.abort_job_flags(_pointed(dom), flags, libvirt.libvirtError)
    except call.NoSuchCall as error:
        lacking = _lacking(ABORT, error)
        ours = LibvirtError(lacking.what, side=lacking.side, cure=lacking.cure)
        ours.code = ErrorNumber.VIR_ERR_NO_SUPPORT
        raise ours from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def migrate3(
    dom: Domain, dconn: Connection, params: Mapping[str, Any], flags: int
) -> None:
    """Migrate with each parameter in the type that the daemon wants.

    :raises UsageError: If a parameter cannot be written; nothing was sent.
    :raises NotSupportedError: If the library cannot be called.
    """
    try:
        failed = libvirt.libvirtError
        call.migrate3(_pointed(dom), _pointed(dconn), params, int(flags), failed)
    except call.NoSuchCall as error:
        raise _lacking(MIGRATE, error, params) from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def migrate_to_uri3(
    dom: Domain, uri: str, params: Mapping[str, Any], flags: int
) -> None:
    """As :func:`migrate3`, from daemon to daemon."""
    try:
        failed = libvirt.libvirtError
        call.migrate_to_uri3(_pointed(dom), uri, params, int(flags), failed)
    except call.NoSuchCall as error:
        raise _lacking(MIGRATE_TO_URI, error, params) from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def _pointed(thing: Any) -> call.Pointed:
    if not hasattr(thing, "c_pointer"):
        raise call.NoSuchCall(f"{type(thing).__name__} is no object of libvirt-python's")  # fmt: skip
    pointed: call.Pointed = thing
    return pointed


def _lacking(
    name: str, error: Exception, params: Mapping[str, Any] = _NOTHING
) -> NotSupportedError:
    """Why neither libvirt-python nor a call past it will do."""
    symbol = SYMBOLS[name]
    if LOADED.has(symbol):
        wrong = ", ".join(misread(params, _hints()))
        what = f"libvirt-python passes {wrong} in a type that the daemon refuses"
        cure = f"build libvirt-python against this libvirt: {REBUILD}"
    else:
        what = f"this libvirt-python has no {symbol.binding.rpartition('.')[2]}"
        cure = f"install libvirt-python >= {symbol.since}, built against libvirt >= {symbol.since}"
    return NotSupportedError(
        f"{what}, and there is no way past it: {error}", side="client", cure=cure
    )


def _send(dom: Domain, command: str) -> None:
    line = json.dumps({"execute": command})
    reply = json.loads(libvirt_qemu.qemuMonitorCommand(dom, line, 0))
    if "error" in reply:
        raise LibvirtError(str(reply["error"].get("desc", reply)), side="source")
