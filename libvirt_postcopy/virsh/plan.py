"""``migrate``'s options as what is to be done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.features import explain
from libvirt_postcopy.policy import After, AfterPrecopy, AnyOf, Manual, Policy, parse
from libvirt_postcopy.virsh.grammar import Kind, Value
from libvirt_postcopy.virsh.options import ENABLING, MIGRATE_OPTIONS

__all__ = ["Plan", "make_plan"]

_LARGEST_XML = 10 << 20  # bytes, as in virsh


@dataclass(frozen=True)
class Plan:
    """What a valid command line asks for."""

    domain: str
    destination: str
    policy: Policy
    flags: MigrateFlags
    params: Mapping[str, Any]
    is_peer2peer: bool
    is_verbose: bool


def make_plan(given: Mapping[str, Value]) -> Plan:
    """Check what can be checked without a daemon.

    :raises UsageError: If the options cannot be meant together; in virsh's words where it has some.
    """
    _check_pairs(given)
    policy = _policy(given)
    return Plan(
        domain=str(given["domain"]),
        destination=str(given["desturi"]),
        policy=policy,
        flags=_flags(given, policy),
        params=_params(given),
        is_peer2peer="p2p" in given,
        is_verbose="verbose" in given,
    )


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
    if not any(name in given for name in ENABLING):
        asking = "timeout-postcopy" if "timeout-postcopy" in given else "strict-exit"
        raise UsageError(f"Option --postcopy is required by option --{asking}")
    if "postcopy-resume" in given:
        raise UsageError(
            "a migration that is resumed cannot be given a policy",
            cure="leave out virsh-postcopy's own options",
        )
    if "direct" in given:
        raise UsageError(
            "post-copy and --direct do not go together",
            cure="use --p2p, or neither",
        )
    _check_times(given)


def _check_times(given: Mapping[str, Value]) -> None:
    is_live = "live" in given
    if "postcopy-after" in given:
        if not is_live:
            raise UsageError(
                "migrate: Unexpected postcopy-after for offline migration",
                cure="add --live",
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
            chosen.append(After(int(given[name])))
    if not chosen:
        return Manual()
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
    if not flags & MigrateFlags.VIR_MIGRATE_LIVE and "offline" not in given:
        raise _not_live(policy)
    if policy.enables_postcopy:
        flags |= MigrateFlags.VIR_MIGRATE_POSTCOPY
    return flags & ~MigrateFlags.VIR_MIGRATE_PEER2PEER


def _not_live(policy: Policy) -> UsageError:
    """No --live is ever implied: say what libvirt would say, before anything is started."""
    if not policy.enables_postcopy:
        return UsageError(
            f"--postcopy-policy {policy} needs a live migration", cure="add --live"
        )
    known = explain(
        "post-copy migration is not supported with non-live or paused migration"
    )
    return UsageError(known.what, side=known.side, cure="add --live")


def _params(given: Mapping[str, Value]) -> dict[str, Any]:
    return {
        option.param: _param(option.kind, given[option.name])
        for option in MIGRATE_OPTIONS
        if option.param is not None and option.name in given
    }


def _param(kind: Kind, value: Value) -> Any:
    if kind is Kind.FILE:
        return _read(str(value))
    if kind is Kind.LIST:
        return str(value).split(",")
    return value


def _read(name: str) -> str:
    try:
        with Path(name).open("rb") as file:
            content = file.read(_LARGEST_XML + 1)
        if len(content) > _LARGEST_XML:
            raise UsageError(f"cannot read file '{name}': it is larger than 10 MiB")
        return content.decode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"cannot read file '{name}': {reason}") from error
