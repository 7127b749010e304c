"""Judges conversations by the checks, and sums up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from libvirt_postcopy.conformance import checks  # noqa: F401  (registers them)
from libvirt_postcopy.conformance.checks.reading import was_killed
from libvirt_postcopy.conformance.deviations import Deviation, known
from libvirt_postcopy.conformance.evidence import Conversation, Line
from libvirt_postcopy.conformance.introspection import Facts
from libvirt_postcopy.conformance.registry import (
    ANY,
    Check,
    Fail,
    Inapplicable,
    Level,
    Unseen,
    Weak,
)

__all__ = ["Finding", "Subject", "Verdict", "judge", "judge_all", "sum_up"]


class Verdict(Enum):
    """What a check says, the worst last."""

    SKIP = "skip"
    PASS = "pass"
    WEAK = "weak"
    KNOWN = "known"
    FAIL = "fail"

    @property
    def weight(self) -> int:
        return list(Verdict).index(self)


@dataclass(frozen=True)
class Finding:
    """A verdict, with what led to it."""

    check: Check
    verdict: Verdict
    reason: str = ""  #: of a skip
    accepted: str = ""
    actual: str = ""
    lines: Sequence[Line] = ()
    scenario: str = ""
    deviation: Deviation | None = None
    is_unseen: bool = False  #: skipped because what the check is about did not come up

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {
            "check": self.check.id,
            "alias": self.check.alias,
            "verdict": self.verdict.value,
            "level": self.check.level.value,
            "requirement": self.check.requirement,
            "source": self.check.source,
        }
        if self.reason:
            value["reason"] = self.reason
        if self.scenario:
            value["scenario"] = self.scenario
        if self.accepted:
            value |= {"accepted": self.accepted, "actual": self.actual}
        if self.lines:
            value["messages"] = [line.to_json() for line in self.lines]
        if self.deviation:
            value["deviation"] = {
                "versions": self.deviation.versions,
                "text": self.deviation.text,
                "does": self.deviation.does,
                "link": self.deviation.link,
            }
        return value


@dataclass
class Subject:
    """One QEMU, or one pair of them, and what was found."""

    label: str
    facts: Facts
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0
    peak_mib: float = 0.0
    package: str = ""

    def counts(self) -> dict[str, int]:
        counts = {each.value: 0 for each in Verdict}
        for each in self.findings:
            counts[each.verdict.value] += 1
        return counts


def judge(check: Check, seen: Conversation) -> Finding:
    """Judge one conversation by one check."""
    try:
        check.judge(seen)
    except Inapplicable as error:
        return Finding(check, Verdict.SKIP, str(error), scenario=seen.scenario)
    except Unseen as error:
        return _unseen(check, seen, str(error))
    except Weak as error:
        return _found(check, seen, Verdict.WEAK, error)
    except Fail as error:
        return _found(check, seen, Verdict.FAIL, error)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        # A message has not the shape that every QEMU gives it.
        broken = Fail(
            "messages of the shape that QEMU documents",
            f"{type(error).__name__}: {error}",
        )
        return _found(check, seen, Verdict.FAIL, broken)
    return Finding(check, Verdict.PASS, scenario=seen.scenario)


def _unseen(check: Check, seen: Conversation, reason: str) -> Finding:
    why = seen.skip_reason
    return Finding(check, Verdict.SKIP, why or reason, scenario=seen.scenario, is_unseen=not why, lines=(*seen.of("timeout"), *_deaths(seen)))  # fmt: skip


def _deaths(seen: Conversation) -> list[Line]:
    return [
        line
        for line in seen.of("proc")
        if line.msg.get("alive") is False and not was_killed(seen, line.side)
    ]


def _found(check: Check, seen: Conversation, verdict: Verdict, error: Fail) -> Finding:
    version = seen.version
    deviation = known(check.id, version) if verdict is Verdict.FAIL else None
    if verdict is Verdict.FAIL and check.level is Level.SHOULD and not deviation:
        verdict = Verdict.WEAK
    return Finding(
        check,
        Verdict.KNOWN if deviation else verdict,
        accepted=error.accepted,
        actual=error.actual,
        lines=error.lines,
        scenario=seen.scenario,
        deviation=deviation,
    )


def sum_up(check: Check, findings: Sequence[Finding], otherwise: str) -> Finding:
    """The worst of what was found in several conversations.

    If none of our own scenarios came to what the check is about, that is a failure: it could not fail otherwise.
    """
    if not findings:
        return Finding(check, Verdict.SKIP, otherwise)
    worst = max(findings, key=lambda each: each.verdict.weight)
    unseen = next((each for each in findings if each.is_unseen), None)
    if worst.verdict is not Verdict.SKIP or unseen is None or check.scenarios == ANY:
        return worst
    said = "; ".join([unseen.reason, *(str(line.msg)[:200] for line in unseen.lines)])
    return replace(
        unseen,
        verdict=Verdict.FAIL,
        reason="",
        accepted="what the check is about is reached",
        actual=said,
    )


def excused(finding: Finding, facts: Facts) -> Finding:
    """Turn a fail into a known deviation, where there is one."""
    deviation = known(finding.check.id, facts.version)
    if finding.verdict is not Verdict.FAIL or deviation is None:
        return finding
    return replace(finding, verdict=Verdict.KNOWN, deviation=deviation)


def gate(check: Check, facts: Facts, accel: str) -> str:
    """Why a check does not apply to a QEMU, or empty; what is missing without a reason is judged elsewhere."""
    if check.accel and check.accel != accel:
        return f"needs {check.accel}: --accel {check.accel}"
    missing = [need for need in check.needs if not facts.has(need)]
    if missing:
        return f"this QEMU has no {' '.join(missing)}"
    if facts.version[:2] < check.since_version[:2]:
        return f"applies from QEMU {check.since} on"
    return ""


def must_have(check: Check, facts: Facts) -> str:
    """A feature that the version promises and that is not there; empty if all is well.

    A feature that has been removed again is not promised.
    """
    from libvirt_postcopy.conformance.known import CAPABILITIES

    for need in check.needs:
        kind, _, name = need.partition(":")
        span = CAPABILITIES.get(name) if kind == "cap" else None
        if span and span.covers(facts.version[:2]) and not facts.has(need):
            return need
    return ""


def judge_all(
    chosen: Sequence[Check],
    conversations: Mapping[str, Conversation],
    facts: Facts,
    accel: str = "tcg",
) -> list[Finding]:
    """Judge a run: each check by the conversations of its scenarios."""
    found = []
    for check in chosen:
        lacking = must_have(check, facts)
        if lacking:
            found.append(Finding(check, Verdict.FAIL, accepted=f"{lacking} in QEMU {facts.text}", actual="it is missing"))  # fmt: skip
            continue
        reason = gate(check, facts, accel)
        if reason:
            found.append(Finding(check, Verdict.SKIP, reason))
            continue
        rows = [
            judge(check, seen)
            for name, seen in conversations.items()
            if check.is_for(name.partition("@")[0])
        ]
        found.append(excused(sum_up(check, rows, "its scenario was not run"), facts))
    return found
