"""This client itself: whether libvirt-python and the C library agree."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_postcopy.preflight.facts import Facts, known
from libvirt_postcopy.preflight.finding import Seen, Severity, check

__all__: list[str] = []


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
