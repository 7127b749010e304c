"""What was found, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from libvirt_postcopy.bindings.symbols import NEWEST_KNOWN
from libvirt_postcopy.features import Path

__all__ = [
    "CANNOT_CHECK",
    "FORMAT",
    "Finding",
    "ParameterRow",
    "Path",
    "Report",
    "Row",
    "Severity",
    "unknown",
]

FORMAT = 1
"""Of :meth:`Report.to_json`; see ``schemas/bindings.schema.json``."""

CANNOT_CHECK = 2
"""Exit status where there is nothing to be checked."""


class Severity(Enum):
    """How bad it is."""

    ERROR = "error"  #: a migration breaks
    WARNING = (
        "warning"  #: something is missing or wrong that a migration can do without
    )
    NOTE = "note"  #: worth knowing


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    :ivar what: The name that it is about.
    :ivar evidence: What was seen, one line.
    :ivar cure: What to do about it; may be empty.
    """

    severity: Severity
    what: str
    evidence: str
    cure: str = ""

    def __str__(self) -> str:
        cure = f" ({self.cure})" if self.cure else ""
        return f"{self.severity.value}: {self.what}: {self.evidence}{cure}"


def unknown(name: str, what: str, version: int) -> Finding:
    """A name that libvirt has and this package has not.

    :param what: Who has it, and as what.
    :param version: Of that libvirt: a later one than this package knows may well have more.
    """
    return Finding(
        Severity.NOTE if version > NEWEST_KNOWN else Severity.WARNING,
        name,
        f"{what}, this package has not",
        "upgrade libvirt-postcopy; if that changes nothing, report it",
    )


@dataclass(frozen=True)
class Row:
    """A function.

    :ivar version: Its version node in the library; None where the library lacks it, empty where it could not be read.
    :ivar library: Which library.
    :ivar binding: What libvirt-python calls it; None where it does not wrap it.
    """

    symbol: str
    version: str | None
    library: str
    binding: str | None
    path: Path


@dataclass(frozen=True)
class ParameterRow:
    """A typed parameter of a migration.

    :ivar expected: The type that libvirt expects.
    :ivar hint: The one in libvirt-python's table; None where it has none.
    :ivar passed: The one that a dict comes out with.
    :ivar path: How our own API passes it.
    """

    key: str
    since: str
    expected: str
    hint: str | None
    passed: str
    path: Path


@dataclass(frozen=True)
class Report:
    """What the check has found.

    :ivar libvirt: Version of the library that was looked at.
    :ivar files: Where the libraries and the binding's C module are, by name; empty where that is not known.
    :ivar binding: Version of libvirt-python; empty where it is not told.
    :ivar newest: The newest libvirt whose functions the binding calls; empty where that is not known.
    :ivar compiled: What has become of the check by the compiler.
    """

    libvirt: str
    files: tuple[tuple[str, str], ...]
    binding: str
    newest: str
    rows: tuple[Row, ...]
    parameters: tuple[ParameterRow, ...]
    findings: tuple[Finding, ...]
    compiled: str = "not asked for"

    def __post_init__(self) -> None:
        order = list(Severity)
        worst_first = sorted(self.findings, key=lambda each: order.index(each.severity))
        object.__setattr__(self, "findings", tuple(worst_first))

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What breaks a migration."""
        return tuple(f for f in self.findings if f.severity is Severity.ERROR)

    @property
    def is_ok(self) -> bool:
        """Whether nothing breaks a migration."""
        return not self.errors

    def path(self, symbol: str) -> Path:
        """The way that a call of a C function takes."""
        return next((r.path for r in self.rows if r.symbol == symbol), Path.NONE)

    def summary(self) -> str:
        """One line: versions, and how many findings."""
        counts = ", ".join(
            f"{count} {severity.value}{'' if count == 1 else 's'}"
            for severity in Severity
            if (count := sum(f.severity is severity for f in self.findings))
        )
        python = f" {self.binding}" if self.binding else ""
        return f"libvirt {self.libvirt}, libvirt-python{python}: {counts or 'all well'}"

    def __str__(self) -> str:
        """The tables that the program prints."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        newest = f" with functions up to libvirt {self.newest}" if self.newest else ""
        yield f"libvirt {self.libvirt}, libvirt-python {self.binding or 'unknown'}{newest}"  # fmt: skip
        yield from (f"{name}: {file}" for name, file in self.files)
        yield ""
        yield from _table(
            ("symbol", "version", "library", "binding", "path"),
            [
                (
                    row.symbol,
                    "missing" if row.version is None else row.version or "unknown",
                    row.library,
                    row.binding or "missing",
                    row.path.value,
                )
                for row in self.rows
            ],
        )
        yield ""
        yield from _table(
            ("parameter", "since", "expected", "hint", "passed", "path"),
            [
                (
                    row.key,
                    row.since,
                    row.expected,
                    row.hint or "none",
                    row.passed,
                    row.path.value,
                )
                for row in self.parameters
            ],
        )
        yield ""
        yield f"compiler: {self.compiled}"
        yield from map(str, self.findings)
        yield self.summary()

    def to_json(self) -> dict[str, Any]:
        """As values of JSON, by ``schemas/bindings.schema.json``."""
        return {
            "format": FORMAT,
            "ok": self.is_ok,
            "libvirt": self.libvirt,
            "files": dict(self.files),
            "binding": self.binding or None,
            "newest": self.newest or None,
            "compiled": self.compiled,
            "symbols": [
                {
                    "symbol": row.symbol,
                    "version": row.version,
                    "library": row.library,
                    "binding": row.binding,
                    "path": row.path.value,
                }
                for row in self.rows
            ],
            "parameters": [
                {
                    "key": row.key,
                    "since": row.since,
                    "expected": row.expected,
                    "hint": row.hint,
                    "passed": row.passed,
                    "path": row.path.value,
                }
                for row in self.parameters
            ],
            "findings": [
                {
                    "severity": each.severity.value,
                    "what": each.what,
                    "evidence": each.evidence,
                    "cure": each.cure or None,
                }
                for each in self.findings
            ],
        }


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths))
        yield "  ".join(cells).rstrip()
