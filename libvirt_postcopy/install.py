"""The "driver patch": the 2014 series' flags and calls on the libvirt module itself.

After :func:`install`, a program written for the series runs as it is: ``libvirt`` has the series' names, and
``virDomain``'s six migrate methods obey ``VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY``.  A call without that flag
goes to libvirt untouched.

The package imports this module at once, because its function has the same name; so what needs libvirt is imported
by the functions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any

from libvirt_postcopy.constants import (
    CLIENT_SIDE_FLAGS,
    VIR_MIGRATE_ENABLE_POSTCOPY,
    VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY,
    MigrateParam,
)
from libvirt_postcopy.errors import UsageError

if TYPE_CHECKING:
    from libvirt_postcopy.api import Destination

__all__ = ["install", "uninstall"]

_lock = threading.Lock()
_undo: dict[ModuleType, list[tuple[object, str, Any]]] = {}
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
        undo: list[tuple[object, str, Any]] = []
        for owner, name, value in _additions(module):
            undo.append((owner, name, vars(owner).get(name, _ABSENT)))
            setattr(owner, name, value)
        _undo[module] = undo


def uninstall(module: ModuleType) -> None:
    """Take back exactly what :func:`install` did.  Without it, changes nothing."""
    with _lock:
        for owner, name, before in reversed(_undo.pop(module, [])):
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)


def _additions(module: ModuleType) -> list[tuple[object, str, Any]]:
    from libvirt_postcopy.vir.calls import start_postcopy

    domain = module.virDomain
    additions: list[tuple[object, str, Any]] = [
        (module, "VIR_MIGRATE_ENABLE_POSTCOPY", int(VIR_MIGRATE_ENABLE_POSTCOPY)),
        (
            module,
            "VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY",
            int(VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY),
        ),
        (module, "virDomainMigrateStartPostCopy", start_postcopy),
    ]
    for name, adapter in _ADAPTERS.items():
        original = getattr(domain, name, None)
        if original is not None:
            additions.append((domain, name, _obeying(original, adapter)))
    return additions


def _obeying(
    original: Callable[..., Any], adapter: Callable[..., Any]
) -> Callable[..., Any]:
    """Wrap a migrate method: ours if a client-side flag is set, the original otherwise."""

    @wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            call = adapter(*args, **kwargs)
            is_ours = bool(call.flags & CLIENT_SIDE_FLAGS)
        except TypeError:  # wrong arguments, or a later libvirt's own: it knows
            return original(self, *args, **kwargs)
        return call.run(self) if is_ours else original(self, *args, **kwargs)

    return method


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
