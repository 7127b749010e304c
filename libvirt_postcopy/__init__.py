"""Post-copy live migration over libvirt that an operator dares to use.

::

    import libvirt
    import libvirt_postcopy as postcopy

    result = postcopy.migrate(dom, "qemu+tls://b/system", policy=postcopy.AfterPrecopy())
    print(result.domain, result.downtime_ms, result.passes, result.switch)

The libvirt module is imported only when a name that needs it is first used.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from libvirt_postcopy.constants import (
    VIR_MIGRATE_ENABLE_POSTCOPY,
    VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY,
)
from libvirt_postcopy.errors import (
    GuestLost,
    LibvirtError,
    MigrationCancelled,
    MigrationError,
    MigrationFailed,
    MigrationUnknown,
    NotSupportedError,
    PostcopyBroken,
    PostcopyError,
    StateError,
    UsageError,
)
from libvirt_postcopy.events import Place
from libvirt_postcopy.install import install, uninstall
from libvirt_postcopy.phases import Phase
from libvirt_postcopy.policy import (
    After,
    AfterPrecopy,
    AllOf,
    AnyOf,
    Manual,
    Never,
    Policy,
)
from libvirt_postcopy.policy import parse as parse_policy
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.version import __version__ as __version__

if TYPE_CHECKING:
    from libvirt_postcopy.api import (
        Job,
        MigrationResult,
        job_stats,
        migrate,
        start,
    )
    from libvirt_postcopy.preflight import check
    from libvirt_postcopy.takeover import attach, recover
    from libvirt_postcopy.vir.calls import (
        start_postcopy as virDomainMigrateStartPostCopy,
    )

__all__ = [
    "migrate",
    "start",
    "attach",
    "recover",
    "Job",
    "MigrationResult",
    "check",
    "virDomainMigrateStartPostCopy",
    "VIR_MIGRATE_ENABLE_POSTCOPY",
    "VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY",
    "job_stats",
    "install",
    "uninstall",
    "parse_policy",
    "Policy",
    "Manual",
    "Never",
    "After",
    "AfterPrecopy",
    "AnyOf",
    "AllOf",
    "Phase",
    "Place",
    "Stats",
    "PostcopyError",
    "UsageError",
    "NotSupportedError",
    "StateError",
    "LibvirtError",
    "MigrationError",
    "MigrationCancelled",
    "MigrationFailed",
    "MigrationUnknown",
    "PostcopyBroken",
    "GuestLost",
]

_NEED_LIBVIRT = {
    "migrate": ("api", "migrate"),
    "start": ("api", "start"),
    "attach": ("takeover", "attach"),
    "recover": ("takeover", "recover"),
    "Job": ("api", "Job"),
    "MigrationResult": ("api", "MigrationResult"),
    "job_stats": ("api", "job_stats"),
    "check": ("preflight", "check"),
    "virDomainMigrateStartPostCopy": ("vir.calls", "start_postcopy"),
}

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    try:
        module, attribute = _NEED_LIBVIRT[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value
