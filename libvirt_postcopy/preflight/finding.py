"""What is looked for before a migration: each a function of :class:`Facts` with a fixed id.

::

    @check("guest/paused", severity=Severity.ERROR, side="source", cure="resume it first")
    def paused(facts: Facts) -> Iterator[Seen]:
        \"\"\"libvirt refuses post-copy of a guest whose vCPUs are stopped.\"\"\"
        if known(facts.the_domain.is_paused):
            yield Seen("the guest is paused")

The docstring says why it matters and goes into the documentation.  A judge yields what it has seen, nothing
where all is well, and need not care about what is not known: :func:`known` leaves it, and :func:`look` makes
a note of the reason.  An id is never used again for something else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from libvirt_postcopy.preflight.facts import CannotTell, Facts

__all__ = ["CHECKS", "Check", "Finding", "Seen", "Severity", "Verdict", "check", "look"]

LOG = logging.getLogger("libvirt_postcopy.preflight")


class Severity(Enum):
    """How bad it is."""

    ERROR = "error"  #: libvirt or QEMU will refuse, or the guest will be lost
    WARNING = "warning"  #: it may work, and somebody should know before
    NOTE = "note"  #: worth knowing; also what could not be looked at


class Verdict(Enum):
    """What has become of a check."""

    CLEAR = "clear"
    FOUND = "found"
    UNKNOWN = "unknown"
    NOT_ASKED = "not asked"


@dataclass(frozen=True)
class Seen:
    """What a judge has seen; what is None is as the check says.

    :ivar evidence: What was seen, one line.
    :ivar fixed_in: Empty where the versions that would mend it are there.
    """

    evidence: str
    severity: Severity | None = None
    cure: str | None = None
    side: str | None = None
    fixed_in: str | None = None


@dataclass(frozen=True)
class Finding:
    """Something to know before the migration.

    :ivar side: Where: ``source``, ``destination``, ``client`` or empty.
    :ivar evidence: What was seen.
    :ivar cure: What to do about it; may be empty.
    :ivar fixed_in: The versions from which it no longer matters; empty if there are none.
    :ivar is_unknown: Nothing was seen because it could not be looked at; the evidence says why.
    """

    id: str
    severity: Severity
    side: str
    evidence: str
    cure: str = ""
    fixed_in: str = ""
    is_unknown: bool = False


Judge = Callable[[Facts], Iterator[Seen]]


@dataclass(frozen=True)
class Check:
    """One thing that is looked for.

    :ivar severity: The worst that it can be.
    :ivar why: Why it matters.
    """

    id: str
    severity: Severity
    side: str
    cure: str
    fixed_in: str
    why: str
    judge: Judge


CHECKS: dict[str, Check] = {}


def check(
    id: str, *, severity: Severity, side: str, cure: str, fixed_in: str = ""
) -> Callable[[Judge], Judge]:
    """Enter a judge in :data:`CHECKS`."""

    def enter(judge: Judge) -> Judge:
        assert id not in CHECKS, f"{id} is there twice"
        why = " ".join((judge.__doc__ or "").split())
        CHECKS[id] = Check(id, severity, side, cure, fixed_in, why, judge)
        return judge

    return enter


def look(each: Check, facts: Facts) -> tuple[Verdict, list[Finding]]:
    """Carry one check out.  Never raises: what goes wrong is a finding too."""
    found: list[Finding] = []
    try:
        found += (_finding(each, seen) for seen in each.judge(facts))
    except CannotTell as reason:
        if reason.unknown.is_moot:
            return (Verdict.FOUND if found else Verdict.NOT_ASKED), found
        return Verdict.UNKNOWN, [*found, _unknown(each, reason.unknown.why)]
    except Exception as bug:  # a check that is wrong must not keep a guest from moving
        LOG.error("unexpected in %s", each.id, exc_info=bug)
        why = f"unexpected, please report: {type(bug).__name__}: {bug}"
        return Verdict.UNKNOWN, [*found, _unknown(each, why)]
    return Verdict.FOUND if found else Verdict.CLEAR, found


def _finding(each: Check, seen: Seen) -> Finding:
    return Finding(
        id=each.id,
        severity=seen.severity or each.severity,
        side=each.side if seen.side is None else seen.side,
        evidence=" ".join(seen.evidence.split()),
        cure=each.cure if seen.cure is None else seen.cure,
        fixed_in=each.fixed_in if seen.fixed_in is None else seen.fixed_in,
    )


def _unknown(each: Check, why: str) -> Finding:
    return Finding(
        id=each.id,
        severity=Severity.NOTE,
        side=each.side,
        evidence=f"unknown: {' '.join(why.split())}",
        fixed_in=each.fixed_in,
        is_unknown=True,
    )
