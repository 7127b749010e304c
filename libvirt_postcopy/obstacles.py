"""Which releases of libvirt and QEMU cannot resume a broken post-copy, or do not survive it."""

from __future__ import annotations

from collections.abc import Mapping

from libvirt_postcopy.events import Side
from libvirt_postcopy.features import version_text

__all__ = ["PAUSE_TOO_LATE", "RESUME_FRAIL", "crash_of", "frail", "resume_obstacle"]


def resume_obstacle(side: Side, libvirt_version: int, qemu_version: int) -> str:
    """Say why a broken migration must not be resumed through a host, or cannot be; empty if nothing speaks against it.

    :param libvirt_version: As ``virConnectGetLibVersion`` writes it, of the daemon.
    :param qemu_version: As ``virConnectGetVersion`` writes it.
    """
    crash = crash_of(libvirt_version) if side is Side.DESTINATION else ""
    if crash:
        return crash
    libvirt = f"libvirt {version_text(libvirt_version)} on the {side.value}"
    if libvirt_version < RESUME_IN_LIBVIRT:
        return f"{libvirt} cannot resume a broken post-copy (8.5.0 and later can)"
    if qemu_version < RESUME_IN_QEMU:
        qemu = f"QEMU {version_text(qemu_version)} on the {side.value}"
        return f"{qemu} cannot resume a broken post-copy (3.0 and later can)"
    return ""


def crash_of(libvirt_version: int) -> str:
    """Say that a destination's daemon does not survive a resume; empty if it does."""
    if libvirt_version not in RESUME_CRASHES:
        return ""
    libvirt = f"libvirt {version_text(libvirt_version)} on the destination"
    return f"{libvirt} crashes when a migration is resumed (11.2.0 to 11.3.0; fixed in 11.4.0)"


def frail(versions: Mapping[Side, int]) -> str:
    """Name the QEMU that survives one attempt to resume only, so that the way must be seen first; empty if none is.

    :param versions: As ``virConnectGetVersion`` writes them.
    """
    for side, version in versions.items():
        if version in RESUME_FRAIL:
            return f"QEMU {version_text(version)} on the {side.value}"
    return ""


PAUSE_TOO_LATE = "it has sent all and awaits the destination's answer, which comes as soon as the link lets it through"
"""Why a migration must not be paused then, whatever its QEMU: 7.2 neither breaks nor goes on after that, not even when the
link is back, and can never be resumed; 10.0 and 11.1 call it failed and run the guest on the source again, while the
destination goes on as well as soon as the last pages get there.  What is left to do is the kernels', which try again by
themselves."""

RESUME_CRASHES = range(11_002_000, 11_004_000)
"""Daemons of a destination that a resume kills: ``qemuMigrationDstPrepareResume`` uses a null pointer."""

RESUME_FRAIL = range(3_000_000, 6_000_000)
"""QEMUs that die of the resume after one that reached nobody; up to 7.0 they also take one ``migrate-recover`` only."""

RESUME_IN_LIBVIRT = 8_005_000
RESUME_IN_QEMU = 3_000_000
