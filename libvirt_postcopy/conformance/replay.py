"""The same checks over recorded conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from libvirt_postcopy.conformance.evidence import Conversation
from libvirt_postcopy.conformance.introspection import Facts
from libvirt_postcopy.conformance.registry import Check
from libvirt_postcopy.conformance.scenarios import SCENARIOS
from libvirt_postcopy.conformance.verdicts import (
    Finding,
    Subject,
    Verdict,
    excused,
    judge,
)

__all__ = ["replay"]

#: Of a conversation that somebody else recorded, with something else in mind, these would judge what was done on
#: purpose: a guest continued by hand, a side killed, a migration that was never meant to end.
_ONLY_OUR_OWN = frozenset(
    [
        "break/both-paused",
        "break/by-command",
        "break/monitor-alive",
        "cancel/at-random",
        "cancel/on-destination",
        "cancel/nothing-to-cancel",
        "guest/one-runs",
        "incoming/autostart",
        "incoming/stays-stopped",
        "introspection/replies-follow-schema",
        "mismatch/preempt-destination",
        "mismatch/preempt-source",
        "mismatch/postcopy-destination",
        "pause/continue-in-a-wrong-state",
        "protocol/events-off",
        "protocol/ids",
        "recover/other-transport",
        "recover/second-failure",
        "robust/stop-cont-with-blocktime",
        "robust/abuse",
        "start/after-the-end",
        "start/before-migrate",
        "start/right-after-migrate",
        "status/two-vcpus",
        "status/source-order",
        "transport/tcp",
        "transport/tcp6",
        "transport/unix",
        "transport/fd",
        "numbers/postcopy-bandwidth",
        "numbers/remaining-of-all",
    ]
)


def replay(
    conversations: Sequence[Conversation], chosen: Sequence[Check]
) -> list[Subject]:
    """Judge recorded conversations, by version: the worst of each check.

    Whoever recorded them need not have had these checks in mind: what does not come up is skipped.
    """
    subjects = []
    for version in sorted({seen.qemu for seen in conversations}, key=_key):
        rows = [seen for seen in conversations if seen.qemu == version]
        facts = _facts(rows)
        rows = [replace(seen, facts=facts, _cache={}) for seen in rows]
        findings = [_worst(check, rows, facts) for check in chosen]
        package = next((str(seen.header["package"]) for seen in rows if seen.header.get("package")), "")  # fmt: skip
        subjects.append(Subject(f"QEMU {version or 'unknown'}", facts, findings, package=package))  # fmt: skip
    return subjects


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def _facts(rows: Sequence[Conversation]) -> Facts:
    """What these conversations tell of the QEMU; the one with the schema tells most."""
    told = [Facts.from_conversation(seen) for seen in rows]
    best = max(told, key=lambda facts: (facts.schema is not None, len(facts.commands)))
    return replace(best, version=rows[0].version)


def _is_for(check: Check, seen: Conversation) -> bool:
    """Our own scenarios are for certain checks; anybody else's conversation may show anything."""
    if seen.scenario in SCENARIOS or seen.scenario == "cross":
        return check.is_for(seen.scenario)
    return check.id not in _ONLY_OUR_OWN


def _worst(check: Check, rows: Sequence[Conversation], facts: Facts) -> Finding:
    if rows[0].version[:2] < check.since_version[:2]:
        return Finding(check, Verdict.SKIP, f"applies from QEMU {check.since} on")
    found = [judge(check, seen) for seen in rows if _is_for(check, seen)]
    if not found:
        return Finding(check, Verdict.SKIP, "not in what was recorded")
    worst = max(found, key=lambda each: each.verdict.weight)
    if worst.verdict is Verdict.SKIP:
        return Finding(check, Verdict.SKIP, f"not in what was recorded: {worst.reason}")
    return excused(worst, facts)
