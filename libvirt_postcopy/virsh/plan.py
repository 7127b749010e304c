"""``migrate``'s options as what is to be done."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.drivers.select import DRIVERS
from libvirt_postcopy.drivers.wishes import Wishes
from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.features import explain
from libvirt_postcopy.policy import (
    After,
    AfterPrecopy,
    AnyOf,
    Manual,
    Never,
    Policy,
    parse,
)
from libvirt_postcopy.preflight.run import MODES
from libvirt_postcopy.units import parse_duration
from libvirt_postcopy.virsh.grammar import Kind, Value
from libvirt_postcopy.virsh.options import ENABLING, MIGRATE_OPTIONS

__all__ = ["Plan", "make_plan", "check_times", "meant", "patience", "read_file"]

RECOVER = "30m"

_LARGEST_XML = 10 << 20  # bytes, as in virsh


@dataclass(frozen=True)
class Plan:
    """What a valid command line asks for."""

    domain: str
    destination: str
    policy: Policy
    flags: MigrateFlags
    params: Mapping[str, Any]
    check: str
    patience_s: float
    recover_bandwidth: int | None
    is_peer2peer: bool
    is_verbose: bool
    driver: str = "auto"
    wishes: Wishes = Wishes()


def make_plan(given: Mapping[str, Value]) -> Plan:
    """Check what virsh checks before it looks the domain up.

    :raises UsageError: If the options cannot be meant together; in virsh's words where it has some.
    """
    given = meant(given)
    _check_pairs(given)
    _check_uri(str(given["desturi"]))
    policy = _policy(given)
    return Plan(
        domain=str(given["domain"]),
        destination=str(given["desturi"]),
        policy=policy,
        flags=_flags(given, policy),
        params=_params(given),
        check=_check_mode(given, policy),
        patience_s=patience(str(given.get("postcopy-recover", RECOVER))),
        recover_bandwidth=recover_bandwidth(given),
        is_peer2peer="p2p" in given,
        is_verbose="verbose" in given,
        driver=_driver(given),
        wishes=Wishes(
            preempt="postcopy-preempt" in given,
            blocktime="postcopy-blocktime" in given,
            release_ram="postcopy-release-ram" in given,
            monitor_dir=_monitor_dir(given),
        ),
    )


def check_times(given: Mapping[str, Value], plan: Plan) -> None:
    """Check what virsh, or libvirt, checks when the domain has been found.

    :raises UsageError: If the migration cannot be as long, or as live, as it would have to be.
    """
    given = meant(given)
    _check_timeouts(given)
    if "live" in given:
        return
    if not plan.policy.enables_postcopy:
        what = "virsh-postcopy's own options need"
        if "postcopy-policy" in given:
            what = "--postcopy-policy never needs"
        raise UsageError(f"{what} a live migration", cure="add --live")
    if "offline" not in given:
        # No --live is ever implied: say what libvirt would say, before anything is started.
        known = explain(
            "post-copy migration is not supported with non-live or paused migration"
        )
        raise UsageError(known.what, side=known.side, cure="add --live")


def _driver(given: Mapping[str, Value]) -> str:
    name = str(given.get("postcopy-driver", "auto"))
    if name not in DRIVERS:
        raise UsageError(
            f"invalid postcopy-driver parameter: '{name[:40]}'",
            cure=f"give one of {', '.join(DRIVERS)}",
        )
    if name == "qemu" and "p2p" in given:
        raise UsageError(
            "the driver qemu cannot migrate peer to peer: this client drives both QEMUs",
            cure="leave out --p2p, or leave out --postcopy-driver",
        )
    return name


def _monitor_dir(given: Mapping[str, Value]) -> str | None:
    folder = given.get("postcopy-monitor-dir")
    if folder is not None and not str(folder).startswith("/"):
        raise UsageError(
            f"invalid postcopy-monitor-dir parameter: '{str(folder)[:80]}'",
            cure="give an absolute path of a folder on the destination",
        )
    return None if folder is None else str(folder).rstrip("/")


def meant(given: Mapping[str, Value]) -> Mapping[str, Value]:
    """Without what virsh takes for not given."""
    void = [name for name in ("timeout", "disks-port") if given.get(name) == 0]
    return {name: value for name, value in given.items() if name not in void}


def _check_mode(given: Mapping[str, Value], policy: Policy) -> str:
    mode = str(given.get("postcopy-check", "warn"))
    if mode not in MODES:
        raise UsageError(
            f"invalid postcopy-check parameter: '{mode[:40]}'",
            cure=f"give one of {', '.join(MODES)}",
        )
    return mode if policy.enables_postcopy else "off"


def patience(text: str) -> float:
    """Read ``--postcopy-recover``; seconds, 0 for never.

    :raises UsageError: If it is neither a duration nor ``never``.
    """
    if text == "never":
        return 0.0
    try:
        return parse_duration(text)
    except UsageError as error:
        raise UsageError(
            f"invalid postcopy-recover parameter: {error.what}",
            cure="give 30 or 30s, 5m, or never",
        ) from error


def recover_bandwidth(given: Mapping[str, Value]) -> int | None:
    """Read ``--postcopy-recover-bandwidth``; MiB/s."""
    limit = given.get("postcopy-recover-bandwidth")
    return None if limit is None else int(limit)


_EXCLUSIVE = (
    ("live", "offline"),
    ("timeout-suspend", "timeout-postcopy"),
    ("copy-storage-all", "copy-storage-inc"),
)
_REQUIRED = (
    ("persistent-xml", "persistent"),
    ("tls-destination", "tls"),
)


def _check_pairs(given: Mapping[str, Value]) -> None:
    for one, other in _EXCLUSIVE:
        if one in given and other in given:
            raise UsageError(f"Options --{one} and --{other} are mutually exclusive")
    for option, needed in _REQUIRED:
        if option in given and needed not in given:
            raise UsageError(f"Option --{needed} is required by option --{option}")
    if "copy-storage-synchronous-writes" in given and not (
        "copy-storage-all" in given or "copy-storage-inc" in given
    ):
        raise UsageError(
            "'--copy-storage-synchronous-writes' requires one of '--copy-storage-all', 'copy-storage-inc'"
        )
    if "timeout-postcopy" in given and not _asks_for_postcopy(given):
        raise UsageError("Option --postcopy is required by option --timeout-postcopy")
    if "postcopy-resume" in given:
        raise UsageError(
            "a migration that is resumed cannot be given a policy",
            cure="virsh-postcopy postcopy-recover resumes it",
        )
    if "direct" in given:
        raise UsageError(
            "post-copy and --direct do not go together", cure="use --p2p, or neither"
        )


def _asks_for_postcopy(given: Mapping[str, Value]) -> bool:
    return any(name in given for name in ENABLING)


_HAS_DRIVER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_ALIAS = re.compile(r"[A-Za-z0-9_-]*")  # of libvirt.conf's uri_aliases


def _check_uri(uri: str) -> None:
    """Refuse ``HOST/system``, which a source's daemon would take for its own host."""
    if not (_HAS_DRIVER.match(uri) or _ALIAS.fullmatch(uri)):
        raise UsageError(
            f"the URI '{uri}' does not include a driver name",
            side="destination",
            cure=f"write it, as in qemu+ssh://{uri.lstrip('/')}",
        )


def _check_timeouts(given: Mapping[str, Value]) -> None:
    is_live = "live" in given
    if "postcopy-after" in given:
        if not is_live:
            raise UsageError(
                "migrate: Unexpected postcopy-after for offline migration",
                cure="it is offline because --live is missing: add --live",
            )
        if "timeout" in given:
            raise UsageError("migrate: --postcopy-after is incompatible with --timeout")
    if "timeout" in given and not is_live:
        raise UsageError("migrate: Unexpected timeout for offline migration")
    if "timeout" not in given:
        if "timeout-postcopy" in given or "timeout-suspend" in given:
            raise UsageError("migrate: Unexpected --timeout-* option without --timeout")
    elif "timeout-postcopy" not in given:
        raise UsageError(
            "migrate: to suspend the guest after --timeout does not go with virsh-postcopy's own options",
            cure="add --timeout-postcopy",
        )


def _policy(given: Mapping[str, Value]) -> Policy:
    """What was asked for; of several the first that fires."""
    chosen: list[Policy] = []
    if "postcopy-policy" in given:
        chosen.append(parse(str(given["postcopy-policy"])))
        _check_agreement(given, chosen[0])
    if "postcopy-after-precopy" in given:
        chosen.append(AfterPrecopy())
    for name in ("postcopy-after", "timeout"):
        if name in given:
            chosen.append(After(float(given[name])))
    if not chosen:
        return Manual() if _asks_for_postcopy(given) else Never()
    return chosen[0] if len(chosen) == 1 else AnyOf(tuple(chosen))


def _check_agreement(given: Mapping[str, Value], policy: Policy) -> None:
    """``never`` beside something that wants post-copy is a slip."""
    if policy.enables_postcopy:
        return
    for name in (*ENABLING, "timeout-postcopy"):
        if name in given and name != "postcopy-policy":
            raise UsageError(
                f"--postcopy-policy {policy} forbids what --{name} asks for",
                cure="leave one of them out",
            )


def _flags(given: Mapping[str, Value], policy: Policy) -> MigrateFlags:
    flags = MigrateFlags(0)
    for option in MIGRATE_OPTIONS:
        if option.flag is not None and option.name in given:
            flags |= option.flag
    if policy.enables_postcopy:
        flags |= MigrateFlags.VIR_MIGRATE_POSTCOPY
    return flags & ~MigrateFlags.VIR_MIGRATE_PEER2PEER


def _params(given: Mapping[str, Value]) -> dict[str, Any]:
    return {
        option.param: _param(option.kind, given[option.name])
        for option in MIGRATE_OPTIONS
        if option.param is not None and option.name in given
    }


def _param(kind: Kind, value: Value) -> Any:
    if kind is Kind.FILE:
        return read_file(str(value))
    if kind is Kind.LIST:
        return str(value).split(",")
    return value


def read_file(name: str) -> str:
    """Read a file as virsh does.

    :raises UsageError: If it cannot be read, or is too large.
    """
    try:
        with Path(name).open("rb") as file:
            content = file.read(_LARGEST_XML + 1)
        if len(content) > _LARGEST_XML:
            raise UsageError(f"cannot read file '{name}': it is larger than 10 MiB")
        return content.decode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"cannot read file '{name}': {reason}") from error
