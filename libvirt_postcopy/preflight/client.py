"""This client itself: whether libvirt-python and the C library agree."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_postcopy.preflight.facts import Facts, Unknown, known
from libvirt_postcopy.preflight.finding import Seen, Severity, check

__all__ = ["line"]


@check(
    "client/bindings",
    severity=Severity.WARNING,
    side="client",
    cure="libvirt-postcopy bindings says what to do",
)
def bindings(facts: Facts) -> Iterator[Seen]:
    """Where libvirt-python and the C library of this client disagree, a call may be refused or mean something else in the
    middle of a migration."""
    evidence = known(facts.bindings)
    if evidence:
        yield Seen(evidence)


def line(facts: Facts) -> str:
    """Say in one line whether the C library and its binding here agree; empty where nobody has looked."""
    found, versions = facts.bindings, facts.client
    if isinstance(found, Unknown):
        return "" if found.is_moot else f"C bindings: not looked at: {found.why}"
    verdict = "see client/bindings" if found else "all that a migration calls is there"
    return f"C bindings ({versions}): {verdict}"
