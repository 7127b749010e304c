"""Calls that libvirt-python has not, or would get wrong: past it, into the library that it has loaded.

Errors are libvirt's own (``libvirtError``), except where said.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import libvirt
import libvirt_qemu

from libvirt_postcopy.bindings import call
from libvirt_postcopy.bindings.parameters import PARAMETERS, ParameterType, misread
from libvirt_postcopy.bindings.symbols import SYMBOLS
from libvirt_postcopy.constants import ErrorNumber
from libvirt_postcopy.errors import LibvirtError, NotSupportedError, UsageError
from libvirt_postcopy.vir.binding import installed
from libvirt_postcopy.vir.protocols import Connection, Domain

__all__ = [
    "abort_job_flags",
    "is_misread",
    "migrate3",
    "migrate_to_uri3",
    "start_postcopy",
]

LOG = logging.getLogger("libvirt_postcopy.vir")

_START = SYMBOLS["virDomainMigrateStartPostCopy"]


def start_postcopy(dom: Domain, flags: int) -> None:
    """Switch without libvirt-python's ``migrateStartPostCopy``.

    A library before 1.3.3 has no such function either; QEMU's own command does the same then.

    :raises NotSupportedError: If there is no way.
    :raises LibvirtError: If QEMU refuses.
    """
    try:
        call.start_postcopy(_pointed(dom), flags, libvirt.libvirtError)
    except call.NoSuchFunction as error:
        LOG.info("%s: %s is sent to QEMU", error, _START.passthrough)
        _send(dom, _START.passthrough)
    except call.NoSuchCall as error:
        raise _lacking("migrateStartPostCopy", "1.3.3", error) from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def abort_job_flags(dom: Domain, flags: int) -> None:
    """Abort without libvirt-python's ``abortJobFlags``.

    There is no other way: a libvirt without it cannot resume what has been paused.

    :raises LibvirtError: If the library has no such function, as from a driver that has none.
    """
    try:
        call.abort_job_flags(_pointed(dom), flags, libvirt.libvirtError)
    except call.NoSuchCall as error:
        lacking = _lacking("abortJobFlags", "8.5.0", error)
        ours = LibvirtError(lacking.what, side=lacking.side, cure=lacking.cure)
        ours.code = ErrorNumber.VIR_ERR_NO_SUPPORT
        raise ours from error


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
        raise _lacking("migrate3", "1.1.0", error) from error
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
        raise _lacking("migrateToURI3", "1.1.0", error) from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def is_misread(params: Mapping[str, Any]) -> bool:
    """Whether libvirt-python would pass a parameter in another type than the daemon wants."""
    return bool(_NOT_GUESSED & params.keys()) and bool(misread(params, _hints()))


_NOT_GUESSED = {
    key
    for key, each in PARAMETERS.items()
    if each.type is ParameterType.VIR_TYPED_PARAM_INT
}
"""What is right only with a hint: a number without one becomes an ``ULLONG``."""


@lru_cache(maxsize=1)
def _hints() -> Mapping[str, int] | None:
    return installed().hints()


def _pointed(thing: Any) -> call.Pointed:
    if not hasattr(thing, "c_pointer"):
        raise call.NoSuchCall(f"{type(thing).__name__} is no object of libvirt-python's")  # fmt: skip
    pointed: call.Pointed = thing
    return pointed


def _lacking(method: str, since: str, error: Exception) -> NotSupportedError:
    return NotSupportedError(
        f"this libvirt-python has no {method}, and there is no way past it: {error}",
        side="client",
        cure=f"install libvirt-python >= {since}, built against libvirt >= {since}",
    )


def _send(dom: Domain, command: str) -> None:
    line = json.dumps({"execute": command})
    reply = json.loads(libvirt_qemu.qemuMonitorCommand(dom, line, 0))
    if "error" in reply:
        raise LibvirtError(str(reply["error"].get("desc", reply)), side="source")
