#!/usr/bin/env python3
"""For CI: what this package says of libvirt must be what this machine's libvirt says, to the last name.

Stricter than ``libvirt-postcopy bindings``: a warning is a failure too (a release that a comment gets wrong, a name that
is missing), and so is a compiler, or libvirt's headers or description, that cannot be asked.

usage: tools/check_bindings.py [libvirt-postcopy bindings' options]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from libvirt_postcopy.bindings.description import find_description
from libvirt_postcopy.bindings.report import CANNOT_CHECK, Report, Severity
from libvirt_postcopy.cli.commands.bindings import examine_installed, options, trouble

__all__ = ["main", "verdict"]


def verdict(report: Report) -> int:
    """The exit status: 0 only where everything was asked and agrees."""
    wrong = [each for each in report.findings if each.severity is not Severity.NOTE]
    if wrong:
        return 1
    return 0 if report.compiled.startswith("headers of") else CANNOT_CHECK


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\nusage")[0])
    options(parser)
    args = parser.parse_args(argv)
    problem = trouble(args)
    described = Path(args.api or find_description())
    if not problem and not described.is_file():
        problem = f"there is no {described} (install libvirt-dev)"
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        return CANNOT_CHECK
    report = examine_installed(args)
    print(report)
    return verdict(report)


if __name__ == "__main__":
    sys.exit(main())
