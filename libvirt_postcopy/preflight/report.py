"""A report: findings for people and for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from libvirt_postcopy.preflight.finding import Finding, Severity, Verdict

__all__ = ["FORMAT", "WIDTH", "Report"]

FORMAT = 1
"""Of :meth:`Report.to_json`; see ``schemas/check.schema.json``."""

WIDTH = 96

_ORDER = list(Severity)


@dataclass(frozen=True)
class Report:
    """What a preflight has found.

    :ivar domain: Name of the domain, empty where only hosts were looked at.
    :ivar source: URI of the source.
    :ivar destination: URI of the destination, empty where there is none.
    :ivar findings: The worst first.
    :ivar checks: What has become of each check, by its id.
    :ivar bindings: One line about the C bindings of this client; empty where nobody has looked.
    """

    domain: str = ""
    source: str = ""
    destination: str = ""
    findings: tuple[Finding, ...] = ()
    checks: Mapping[str, Verdict] = field(default_factory=dict)
    bindings: str = ""

    def __post_init__(self) -> None:
        worst_first = sorted(
            self.findings, key=lambda each: _ORDER.index(each.severity)
        )
        object.__setattr__(self, "findings", tuple(worst_first))

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What makes the migration fail or lose the guest."""
        return self._of(Severity.ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What may, and should be known before."""
        return self._of(Severity.WARNING)

    @property
    def notes(self) -> tuple[Finding, ...]:
        """What is worth knowing, without what is unknown."""
        found = self._of(Severity.NOTE)
        return tuple(each for each in found if not each.is_unknown)

    @property
    def unknown(self) -> tuple[Finding, ...]:
        """What could not be looked at."""
        return tuple(each for each in self.findings if each.is_unknown)

    @property
    def is_ok(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def _of(self, severity: Severity) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings if each.severity is severity)

    def __str__(self) -> str:
        """The table that the programs print."""
        end = ["", *_wrap(self.bindings, ""), self.summary()]
        return "\n".join([self._title(), *self._rows(), *end])

    def _title(self) -> str:
        of = f" of domain '{self.domain}'" if self.domain else ""
        to = f" to {self.destination}" if self.destination else ""
        return "\n".join(_wrap(f"Post-copy{of} from {self.source}{to}", ""))

    def _rows(self) -> Iterator[str]:
        for each in (*self.errors, *self.warnings, *self.notes):
            yield ""
            yield from _entry(each)
        reasons: dict[str, list[str]] = {}
        for each in self.unknown:
            reasons.setdefault(each.evidence, []).append(each.id)
        for reason, ids in reasons.items():
            yield ""
            yield f"{Severity.NOTE.value:<9}{ids[0] if len(ids) == 1 else f'{len(ids)} checks'}"
            yield from _wrap(reason, _INDENT)
            if len(ids) > 1:
                yield from _wrap(f"not looked at: {', '.join(ids)}", _INDENT)

    def summary(self) -> str:
        """One line: how many of each."""
        counts = (
            (len(self.errors), "error"),
            (len(self.warnings), "warning"),
            (len(self.notes), "note"),
        )
        parts = [f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts]
        return ", ".join([*parts, f"{len(self.unknown)} unknown"])

    def to_json(self) -> dict[str, Any]:
        """As values of JSON, by ``schemas/check.schema.json``."""
        return {
            "format": FORMAT,
            "domain": self.domain or None,
            "source": self.source,
            "destination": self.destination or None,
            "ok": self.is_ok,
            "bindings": self.bindings or None,
            "findings": [_as_json(each) for each in self.findings],
            "checks": {id: verdict.value for id, verdict in self.checks.items()},
        }


_INDENT = " " * 9


def _entry(each: Finding) -> Iterator[str]:
    side = f" ({each.side})" if each.side and not each.id.startswith(each.side) else ""
    yield f"{each.severity.value:<9}{each.id}{side}"
    yield from _wrap(each.evidence, _INDENT)
    if each.cure:
        yield from _wrap(f"cure: {each.cure}", _INDENT)
    if each.fixed_in:
        yield from _wrap(f"no longer with: {each.fixed_in}", _INDENT)


def _wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,  # an option is to be copied whole
    )


def _as_json(each: Finding) -> dict[str, Any]:
    return {
        "id": each.id,
        "severity": each.severity.value,
        "side": each.side or None,
        "evidence": each.evidence,
        "cure": each.cure or None,
        "fixed_in": each.fixed_in or None,
        "unknown": each.is_unknown,
    }
