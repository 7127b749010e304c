"""The "driver patch": the 2014 series' flags and calls on the libvirt module itself.

After :func:`install`, a program written for the series runs as it is: ``libvirt`` has the series' names, and
``virDomain``'s six migrate methods obey ``VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY``.  A call without that flag
goes to libvirt untouched; with it all that is refused or fails is a ``libvirtError``, as such a program expects.
``virDomain`` also gets the methods for post-copy that an old libvirt-python lacks.

The package imports this module at once, because its function has the same name; so what needs libvirt is imported
by the functions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any

from libvirt_postcopy.constants import (
    CLIENT_SIDE_FLAGS,
    VIR_MIGRATE_ENABLE_POSTCOPY,
    VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY,
    ErrorNumber,
    MigrateParam,
)
from libvirt_postcopy.errors import (
    MigrationCancelled,
    NotSupportedError,
    PostcopyError,
    StateError,
    UsageError,
    as_refusal,
)

if TYPE_CHECKING:
    from libvirt_postcopy.vir.destination import Destination

__all__ = ["install", "uninstall"]

_lock = threading.Lock()
_undo: dict[ModuleType, list[tuple[object, str, Any, Any]]] = {}
"""What was where: owner, name, the value before and ours."""

_ABSENT = object()


def install(module: ModuleType) -> None:
    """Add the series' flags and methods to the libvirt module.  A second call changes nothing.

    :param module: ``libvirt``.
    :raises UsageError: If it is something else.
    """
    if not hasattr(module, "virDomain"):
        raise UsageError("install() wants the libvirt module", cure="install(libvirt)")
    with _lock:
        if module in _undo:
            return
        undo: list[tuple[object, str, Any, Any]] = []
        for owner, name, value in _additions(module):
            undo.append((owner, name, vars(owner).get(name, _ABSENT), value))
            setattr(owner, name, value)
        _undo[module] = undo


def uninstall(module: ModuleType) -> None:
    """Take back exactly what :func:`install` did.  Without it, changes nothing.

    What somebody else has put in the place of ours stays; if it calls ours, that goes to libvirt untouched.
    """
    with _lock:
        for owner, name, before, ours in reversed(_undo.pop(module, [])):
            if vars(owner).get(name, _ABSENT) is not ours:
                continue
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)


def _additions(module: ModuleType) -> list[tuple[object, str, Any]]:
    domain = module.virDomain
    additions: list[tuple[object, str, Any]] = [
        (module, "VIR_MIGRATE_ENABLE_POSTCOPY", int(VIR_MIGRATE_ENABLE_POSTCOPY)),
        (
            module,
            "VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY",
            int(VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY),
        ),
        (module, "virDomainMigrateStartPostCopy", _start_postcopy(module)),
    ]
    for name, adapter in _ADAPTERS.items():
        original = getattr(domain, name, None)
        if original is not None:
            additions.append((domain, name, _obeying(module, original, adapter)))
    for name, method in _lacking_methods(module).items():
        additions.append((domain, name, method))
    return additions


def _start_postcopy(module: ModuleType) -> Callable[..., int]:
    from libvirt_postcopy.vir.calls import start_postcopy

    def virDomainMigrateStartPostCopy(dom: Any, flags: int = 0) -> int:
        """Switch a migration to post-copy."""
        with _libvirts_errors(module):
            return start_postcopy(dom, flags)

    return virDomainMigrateStartPostCopy


def _obeying(
    module: ModuleType, original: Callable[..., Any], adapter: Callable[..., Any]
) -> Callable[..., Any]:
    """Wrap a migrate method: ours if a client-side flag is set, the original otherwise."""

    @wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            call = adapter(*args, **kwargs)
            is_ours = bool(call.flags & CLIENT_SIDE_FLAGS) and module in _undo
        except TypeError:  # wrong arguments, or a later libvirt's own: it knows
            return original(self, *args, **kwargs)
        if not is_ours:
            return original(self, *args, **kwargs)
        with _libvirts_errors(module):
            return call.run(self)

    return method


def _lacking_methods(module: ModuleType) -> Mapping[str, Callable[..., int]]:
    """Methods that are in the libvirt library, or in QEMU, and not in this libvirt-python."""
    from libvirt_postcopy.vir import fallback

    # Asked before a method of ours is taken for libvirt-python's own.
    way = fallback.path(fallback.START)

    def migrateStartPostCopy(self: Any, flags: int = 0) -> int:
        """Switch a migration to post-copy (``virDomainMigrateStartPostCopy``)."""
        with _libvirts_errors(module):
            fallback.start_postcopy(self, flags, way)
        return 0

    def abortJobFlags(self: Any, flags: int = 0) -> int:
        """Abort a job (``virDomainAbortJobFlags``)."""
        with _libvirts_errors(module):
            fallback.abort_job_flags(self, flags)
        return 0

    methods = (migrateStartPostCopy, abortJobFlags)
    return {
        each.__name__: each
        for each in methods
        if not hasattr(module.virDomain, each.__name__)
    }


@contextmanager
def _libvirts_errors(module: ModuleType) -> Iterator[None]:
    """Raise each error of ours so that it can be caught as ``libvirtError``."""
    try:
        yield
    except PostcopyError as error:
        if isinstance(error, module.libvirtError):
            raise
        raise as_refusal(error, module.libvirtError, _number(error)) from error


def _number(error: PostcopyError) -> ErrorNumber:
    """What libvirt would say of it."""
    for kind, number in _NUMBERS.items():
        if isinstance(error, kind):
            return number
    return ErrorNumber.VIR_ERR_OPERATION_FAILED


_NUMBERS: Mapping[type[PostcopyError], ErrorNumber] = {
    UsageError: ErrorNumber.VIR_ERR_INVALID_ARG,
    NotSupportedError: ErrorNumber.VIR_ERR_OPERATION_UNSUPPORTED,
    StateError: ErrorNumber.VIR_ERR_OPERATION_INVALID,
    MigrationCancelled: ErrorNumber.VIR_ERR_OPERATION_ABORTED,
}


class _Call:
    """What the arguments of one of the six methods come to."""

    def __init__(
        self,
        dest: Destination | None,
        flags: int | None,
        params: Mapping[str, Any],
        *,
        returns_domain: bool,
    ) -> None:
        self.flags = flags or 0
        self._dest = dest
        self._params = dict(params)
        self._returns_domain = returns_domain

    def run(self, dom: Any) -> Any:
        from libvirt_postcopy.api import migrate

        if self._dest is None:
            raise UsageError("post-copy needs a destination", side="destination")
        result = migrate(dom, self._dest, flags=self.flags, params=self._params)
        return result.domain if self._returns_domain else 0


def _migrate(
    dconn: Any,
    flags: int | None = 0,
    dname: str | None = None,
    uri: str | None = None,
    bandwidth: int | None = 0,
) -> _Call:
    return _Call(dconn, flags, _named(dname, uri, bandwidth), returns_domain=True)


def _migrate2(
    dconn: Any,
    dxml: str | None = None,
    flags: int | None = 0,
    dname: str | None = None,
    uri: str | None = None,
    bandwidth: int | None = 0,
) -> _Call:
    named = _named(dname, uri, bandwidth, dxml)
    return _Call(dconn, flags, named, returns_domain=True)


def _migrate3(dconn: Any, params: Mapping[str, Any], flags: int | None = 0) -> _Call:
    return _Call(dconn, flags, params, returns_domain=True)


def _migrate_to_uri(
    duri: str,
    flags: int | None = 0,
    dname: str | None = None,
    bandwidth: int | None = 0,
) -> _Call:
    return _Call(duri, flags, _named(dname, None, bandwidth), returns_domain=False)


def _migrate_to_uri2(
    dconnuri: str | None = None,
    miguri: str | None = None,
    dxml: str | None = None,
    flags: int | None = 0,
    dname: str | None = None,
    bandwidth: int | None = 0,
) -> _Call:
    named = _named(dname, miguri, bandwidth, dxml)
    return _Call(dconnuri, flags, named, returns_domain=False)


def _migrate_to_uri3(
    dconnuri: str, params: Mapping[str, Any], flags: int | None = 0
) -> _Call:
    return _Call(dconnuri, flags, params, returns_domain=False)


def _named(
    name: str | None, uri: str | None, bandwidth: int | None, xml: str | None = None
) -> dict[str, Any]:
    """The positional arguments of the older calls as typed parameters; None and 0 mean not given."""
    given = {
        MigrateParam.VIR_MIGRATE_PARAM_DEST_NAME: name,
        MigrateParam.VIR_MIGRATE_PARAM_URI: uri,
        MigrateParam.VIR_MIGRATE_PARAM_BANDWIDTH: bandwidth,
        MigrateParam.VIR_MIGRATE_PARAM_DEST_XML: xml,
    }
    return {key: value for key, value in given.items() if value}


_ADAPTERS: Mapping[str, Callable[..., _Call]] = {
    "migrate": _migrate,
    "migrate2": _migrate2,
    "migrate3": _migrate3,
    "migrateToURI": _migrate_to_uri,
    "migrateToURI2": _migrate_to_uri2,
    "migrateToURI3": _migrate_to_uri3,
}
