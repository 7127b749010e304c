"""What libvirt's own migration starts the guest with on the destination, what it defines there, and what it forgets there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from libvirt_postcopy import incoming
from libvirt_postcopy.constants import MigrateFlags, MigrateParam
from libvirt_postcopy.errors import PostcopyError
from libvirt_postcopy.events import Half
from libvirt_postcopy.vir import calls as vir
from libvirt_postcopy.vir import monitor
from libvirt_postcopy.vir.protocols import Domain

__all__ = ["lift_limit", "with_arguments", "without_leftovers"]

LOG = logging.getLogger("libvirt_postcopy.drivers")

_XML = MigrateParam.VIR_MIGRATE_PARAM_DEST_XML
_DEFINED = MigrateParam.VIR_MIGRATE_PARAM_PERSIST_XML
_LIMIT = MigrateParam.VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY


def with_arguments(
    dom: Domain,
    params: Mapping[str, Any],
    flags: MigrateFlags,
    arguments: Sequence[str],
) -> dict[str, Any]:
    """Parameters by which the destination's QEMU gets arguments of ours, and what is defined there does not.

    :raises PostcopyError: If the domain's XML cannot be had, or is none.
    """
    xml = str(params.get(_XML) or monitor.migratable_xml(dom))
    wanted = {**params, _XML: incoming.add_arguments(xml, arguments)}
    if flags & MigrateFlags.VIR_MIGRATE_PERSIST_DEST and _DEFINED not in params:
        is_defined = monitor.is_persistent(dom)
        kept = monitor.persistent_xml(dom) if is_defined else xml
        wanted[_DEFINED] = incoming.clean_xml(kept)
    return wanted


def without_leftovers(
    dom: Domain, params: Mapping[str, Any], flags: MigrateFlags
) -> dict[str, Any]:
    """Parameters by which nothing is carried on that an earlier migration has given this QEMU: libvirt would."""
    try:
        if _XML not in params and incoming.has_ours(monitor.migratable_xml(dom)):
            return with_arguments(dom, params, flags, ())
    except PostcopyError as error:
        LOG.info("not looked for what an earlier migration has left: %s", error)
    return dict(params)


def lift_limit(dom: Domain, params: Mapping[str, Any]) -> None:
    """Take off post-copy's limit that the migration has left in the destination's QEMU, where the guest is whole.

    libvirt forgets what it was to put back when its daemon there dies.  The next migration sets all of it anew but
    this.  Only the limit of ``params`` is taken off: another one is somebody else's.
    """
    given = int(params.get(_LIMIT) or 0)
    if not given or vir.half(dom) is not Half.WHOLE:
        return
    if monitor.postcopy_speed_mib_s(dom) != given:
        return
    try:
        monitor.lift_postcopy_speed(dom)
    except PostcopyError as error:
        LOG.info("post-copy's limit is left on the destination: %s", error)
