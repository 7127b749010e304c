"""Says beforehand whether post-copy can work.

``facts`` are plain values, gathered by ``gather``; each finding is a function of them, in ``request``, ``guest``,
``hosts`` and ``versions``, which ask nobody; ``run`` puts the two together and ``report`` shows the result.
"""

from __future__ import annotations

from libvirt_postcopy.preflight.finding import CHECKS, Check, Finding, Severity, Verdict
from libvirt_postcopy.preflight.report import Report
from libvirt_postcopy.preflight.run import (
    MODES,
    before_migration,
    check,
    examine,
    refuse_errors,
)

__all__ = [
    "CHECKS",
    "MODES",
    "Check",
    "Finding",
    "Report",
    "Severity",
    "Verdict",
    "before_migration",
    "check",
    "examine",
    "refuse_errors",
]
