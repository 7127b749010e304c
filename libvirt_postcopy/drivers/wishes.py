"""What a call of ``migrate`` asks for, as far as QEMU can be given it without libvirt's migration job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from libvirt_postcopy.constants import MigrateFlags, MigrateParam
from libvirt_postcopy.domxml import Guest
from libvirt_postcopy.drivers.channel import PORTS
from libvirt_postcopy.errors import NotSupportedError, UsageError
from libvirt_postcopy.units import MIB

__all__ = ["Wishes", "check_flags", "check_guest", "check_params", "parameters_of"]


@dataclass(frozen=True)
class Wishes:
    """What libvirt's flags and parameters have no word for.

    :ivar preempt: Requested pages have a channel of their own (``postcopy-preempt``, QEMU >= 7.1).
    :ivar blocktime: The destination counts how long vCPUs wait for pages (``postcopy-blocktime``, QEMU >= 3.0).
    :ivar release_ram: The source gives memory back as it is sent; a broken migration cannot be recovered then.
    :ivar downtime_limit_ms: Of pre-copy; None: as it is.
    :ivar ports: At which the destination may listen.
    :ivar monitor_dir: Gives the destination's QEMU a second monitor in this folder, with libvirt's own migration: one of
        the destination, if that is reached by ssh, else one that this machine shares with it.  Also goes round what
        libvirt 11.2 and 11.3 cannot do.
    """

    preempt: bool = False
    blocktime: bool = False
    release_ram: bool = False
    downtime_limit_ms: int | None = None
    ports: Sequence[int] = PORTS
    monitor_dir: str | None = None

    @property
    def needs_second_monitor(self) -> bool:
        """Libvirt's own migration needs one at the destination."""
        return self.blocktime or self.monitor_dir is not None


_KEPT_FLAGS = (
    MigrateFlags.VIR_MIGRATE_LIVE
    | MigrateFlags.VIR_MIGRATE_PERSIST_DEST
    | MigrateFlags.VIR_MIGRATE_UNDEFINE_SOURCE
    | MigrateFlags.VIR_MIGRATE_UNSAFE
    | MigrateFlags.VIR_MIGRATE_AUTO_CONVERGE
    | MigrateFlags.VIR_MIGRATE_POSTCOPY
    | MigrateFlags.VIR_MIGRATE_TLS
)

_STORAGE = (
    MigrateFlags.VIR_MIGRATE_NON_SHARED_DISK | MigrateFlags.VIR_MIGRATE_NON_SHARED_INC
)


def check_flags(flags: MigrateFlags) -> None:
    """Refuse what only libvirt's own job can do.

    :raises UsageError: If a flag asks for that.
    """
    if flags & _STORAGE:
        raise UsageError(
            "the driver qemu copies no disks",
            cure="share them, or leave out --postcopy-driver",
        )
    left = int(flags) & ~int(_KEPT_FLAGS)
    if left:
        known = [flag.name for flag in MigrateFlags if flag & left]
        names = ", ".join(str(name) for name in known) or hex(left)
        raise UsageError(
            f"the driver qemu cannot do {names}",
            cure="leave it out, or leave out --postcopy-driver",
        )


_AUTO_CONVERGE = {
    "auto_converge.initial": "cpu-throttle-initial",
    "auto_converge.increment": "cpu-throttle-increment",
}
_KEPT_PARAMS = frozenset(
    (
        MigrateParam.VIR_MIGRATE_PARAM_URI,
        MigrateParam.VIR_MIGRATE_PARAM_DEST_NAME,
        MigrateParam.VIR_MIGRATE_PARAM_DEST_XML,
        MigrateParam.VIR_MIGRATE_PARAM_PERSIST_XML,
        MigrateParam.VIR_MIGRATE_PARAM_BANDWIDTH,
        MigrateParam.VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY,
        MigrateParam.VIR_MIGRATE_PARAM_LISTEN_ADDRESS,
        "tls.destination",
        *_AUTO_CONVERGE,
    )
)


def check_params(params: Mapping[str, Any]) -> None:
    """Refuse what would be ignored.

    :raises UsageError: If a parameter is not known to this driver.
    """
    others = sorted(params.keys() - _KEPT_PARAMS)
    if others:
        raise UsageError(
            f"the driver qemu does not know the parameter {', '.join(others)}",
            cure="leave it out, or leave out --postcopy-driver",
        )


def check_guest(guest: Guest, flags: MigrateFlags) -> None:
    """Refuse a guest that cannot be carried over without libvirt's help.

    :raises UsageError: If a disk may not be shared.
    :raises NotSupportedError: If a device keeps its state outside QEMU.
    """
    transient = [disk.target for disk in guest.disks if disk.is_transient]
    if transient:
        raise NotSupportedError(
            f"disk {', '.join(transient)} is transient: its changes are on the source only",
            side="source",
        )
    if guest.of("tpm-emulator"):
        raise NotSupportedError(
            "the state of its TPM is kept by a program beside QEMU",
            side="source",
            cure="leave out --postcopy-driver: libvirt's own migration takes it along",
        )
    if flags & MigrateFlags.VIR_MIGRATE_UNSAFE:
        return
    doubtful = [
        disk.target
        for disk in guest.disks
        if disk.source
        and not (disk.is_readonly or disk.is_shared or disk.kind == "network")
    ]
    if doubtful:
        raise UsageError(
            f"it cannot be seen whether the destination has the same disk {', '.join(doubtful)}",
            side="source",
            cure="say --unsafe if it is shared storage with cache='none'; the driver qemu copies no disks",
        )


def parameters_of(
    params: Mapping[str, Any], wishes: Wishes, speed_mib_s: int, postcopy_mib_s: int
) -> dict[str, int]:
    """QEMU's migration parameters for the source.

    :param speed_mib_s: libvirt's limit for the domain, where none is given.
    :param postcopy_mib_s: The same after the switch.
    """
    speed = params.get(MigrateParam.VIR_MIGRATE_PARAM_BANDWIDTH) or speed_mib_s
    wanted = {"max-bandwidth": min(int(speed) * MIB, _LARGEST)}
    given = params.get(MigrateParam.VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY)
    postcopy = postcopy_mib_s if given is None else given
    if postcopy:
        wanted["max-postcopy-bandwidth"] = min(int(postcopy) * MIB, _LARGEST)
    if wishes.downtime_limit_ms is not None:
        wanted["downtime-limit"] = wishes.downtime_limit_ms
    for ours, theirs in _AUTO_CONVERGE.items():
        if ours in params:
            wanted[theirs] = int(params[ours])
    return wanted


_LARGEST = 2**63 - 1  # QEMU reads sizes as signed in some releases
