"""Judges conversations by the checks, and sums up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from libvirt_postcopy.conformance import checks  # noqa: F401  (registers them)
from libvirt_postcopy.conformance.checks.reading import was_killed
from libvirt_postcopy.conformance.deviations import Deviation, known
from libvirt_postcopy.conformance.evidence import Conversation, Line
from libvirt_postcopy.conformance.introspection import Facts
from libvirt_postcopy.conformance.known import span_of
from libvirt_postcopy.conformance.registry import (
    ANY,
    MISSHAPEN,
    Check,
    Fail,
    Inapplicable,
    Level,
    Unseen,
    Weak,
)
from libvirt_postcopy.conformance.scenarios import SCENARIOS

__all__ = [
    "Finding",
    "Subject",
    "Verdict",
    "gate",
    "judge",
    "judge_all",
    "sum_up",
]


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
    is_unseen: bool = False  #: skipped: what it is about did not come up, as it had to
    is_of_machine: bool = False  #: skipped because this machine has not the means

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
    problem: str = ""  #: why it could not be judged, or not by post-copy

    @property
    def heading(self) -> str:
        """Its label, as short as a table wants it."""
        return self.label.removeprefix("QEMU ")

    @property
    def has_run(self) -> bool:
        """Whether a check was not skipped; of those that need more than an idle QEMU, where any were chosen."""
        driven = [f for f in self.findings if f.check.is_driven]
        return any(f.verdict is not Verdict.SKIP for f in driven or self.findings)

    def counts(self) -> dict[str, int]:
        counts = {each.value: 0 for each in Verdict}
        for each in self.findings:
            counts[each.verdict.value] += 1
        return counts


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
        "client/unknown-status",
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


def judge(check: Check, seen: Conversation) -> Finding:
    """Judge one conversation by one check; one that this machine could not hold says nothing."""
    try:
        if seen.skip_reason:
            raise Unseen(seen.skip_reason)
        check.judge(seen)
    except Inapplicable as error:
        return Finding(check, Verdict.SKIP, str(error), scenario=seen.scenario)
    except Unseen as error:
        return _unseen(check, seen, str(error))
    except Weak as error:
        return _found(check, seen, Verdict.WEAK, error)
    except Fail as error:
        return _found(check, seen, Verdict.FAIL, error)
    except MISSHAPEN as error:
        broken = Fail(
            "messages of the shape that QEMU documents",
            f"{type(error).__name__}: {error}",
        )
        return _found(check, seen, Verdict.FAIL, broken)
    return Finding(check, Verdict.PASS, scenario=seen.scenario)


def _unseen(check: Check, seen: Conversation, reason: str) -> Finding:
    why = seen.skip_reason
    return Finding(check, Verdict.SKIP, why or reason, scenario=seen.scenario, is_unseen=not why and is_own(seen), is_of_machine=bool(why), lines=(*seen.of("timeout"), *seen.of("note", ""), *_deaths(seen)))  # fmt: skip


def _deaths(seen: Conversation) -> list[Line]:
    return [
        line
        for line in seen.of("proc")
        if line.msg.get("alive") is False and not was_killed(seen, line.side)
    ]


def _found(check: Check, seen: Conversation, verdict: Verdict, error: Fail) -> Finding:
    found = Finding(
        check,
        verdict,
        accepted=error.accepted,
        actual=error.actual,
        lines=error.lines,
        scenario=seen.scenario,
    )
    found = _excused(found, seen.version)
    if found.verdict is Verdict.FAIL and check.level is Level.SHOULD:
        return replace(found, verdict=Verdict.WEAK)
    return found


def _excused(finding: Finding, version: tuple[int, ...]) -> Finding:
    """Turn a fail into a known deviation, where there is one that shows itself like this."""
    if finding.verdict is not Verdict.FAIL:
        return finding
    deviation = known(finding.check.id, version, finding.actual)
    if deviation is None:
        return finding
    return replace(finding, verdict=Verdict.KNOWN, deviation=deviation)


def is_own(seen: Conversation) -> bool:
    """Whether a conversation is one of this suite's, which has to come to what its checks are about; format 1 is others'."""
    is_known = seen.scenario in SCENARIOS or seen.scenario == "cross"
    return is_known and seen.header.get("format") != 1


def _is_for(check: Check, seen: Conversation) -> bool:
    """Our own scenarios are for certain checks; anybody else's conversation may show anything."""
    if is_own(seen):
        return check.is_for(seen.scenario)
    return check.id not in _ONLY_OUR_OWN


def sum_up(
    check: Check, findings: Sequence[Finding], version: tuple[int, ...]
) -> Finding:
    """The worst of what was found in several conversations.

    If one of our own scenarios did not come to what the check is about, that is a failure: it could not fail otherwise.
    """
    if not findings:
        return Finding(check, Verdict.SKIP, "its scenario was not run")
    rows = [_excused(_must_be_seen(each), version) for each in findings]
    return max(rows, key=lambda each: each.verdict.weight)


def _must_be_seen(finding: Finding) -> Finding:
    if not finding.is_unseen or finding.check.scenarios == ANY:
        return finding
    said = "; ".join([finding.reason, *(str(line.msg)[:200] for line in finding.lines)])
    return replace(
        finding,
        verdict=Verdict.FAIL,
        reason="",
        accepted="what the check is about is reached",
        actual=said,
    )


def needs_of(check: Check) -> list[str]:
    """What a check cannot do without: its own needs, and what all of its scenarios need."""
    needs = [set(SCENARIOS[name].needs) for name in check.scenarios if name in SCENARIOS]  # fmt: skip
    shared = set.intersection(*needs) if needs else set()
    return [*check.needs, *sorted(shared - set(check.needs))]


def is_older(check: Check, facts: Facts) -> bool:
    """Whether a QEMU is older than what a check is about.

    What came with that release and has a name is asked for by it, as there are backports; only behaviour without a name goes by
    the version.
    """
    if facts.version[:2] >= check.since_version[:2]:
        return False
    spans = {need: span_of(need) for need in check.needs}
    named = [need for need, span in spans.items() if span and span.since == check.since]
    return not named or not all(map(facts.has, named))


def gate(check: Check, facts: Facts, accel: str) -> str:
    """Why a check does not apply to a QEMU, or empty; what is missing without a reason is judged elsewhere."""
    if check.accel and check.accel != accel:
        return f"needs {check.accel}: --accel {check.accel}"
    if is_older(check, facts):
        return f"applies from QEMU {check.since} on"
    missing = [need for need in needs_of(check) if not facts.has(need)]
    if missing and facts.is_told:
        return f"this QEMU {' and '.join(map(_lacks, missing))}"
    return ""


def _lacks(need: str) -> str:
    kind, _, name = need.partition(":")
    return f"was built without {name}" if kind == "build" else f"has no {need}"


def must_have(check: Check, facts: Facts) -> str:
    """A feature that the version promises and that is not there; empty if all is well.

    What has been removed again is not promised, nor what a build may leave out; what no table has is since the check applies.
    """
    if not facts.is_told or is_older(check, facts):
        return ""
    for need in needs_of(check):
        if need.startswith("build:"):
            continue
        span = span_of(need)
        if not facts.has(need) and (span is None or span.covers(facts.version[:2])):
            return need
    return ""


def judge_all(
    chosen: Sequence[Check],
    conversations: Iterable[Conversation],
    facts: Facts,
    accel: str = "tcg",
) -> list[Finding]:
    """Judge a run, live or recorded: each check by all conversations that it has something to say of."""
    rows = list(conversations)
    return [_judged(check, rows, facts, accel) for check in chosen]


def _judged(
    check: Check, conversations: Sequence[Conversation], facts: Facts, accel: str
) -> Finding:
    lacking = must_have(check, facts)
    if lacking:
        return Finding(check, Verdict.FAIL, accepted=f"{lacking} in QEMU {facts.text}", actual="it is missing")  # fmt: skip
    reason = gate(check, facts, accel)
    if reason:
        return Finding(check, Verdict.SKIP, reason)
    found = [judge(check, seen) for seen in conversations if _is_for(check, seen)]
    return sum_up(check, found, facts.version)
