"""Sum up several runs of pytest in one closing line, as pytest itself writes it.

A plugin of pytest (``-p tally``), which notes what each run came to, and a program which prints the sum;
tools/test uses both.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

__all__ = ["ENVIRONMENT", "closing_line", "pytest_terminal_summary"]

ENVIRONMENT = "LIBVIRT_POSTCOPY_TALLY"
"""Names the file that a run adds one line to."""

KINDS = (
    "failed",
    "passed",
    "skipped",
    "deselected",
    "xfailed",
    "xpassed",
    "warnings",
    "error",
)
"""In pytest's own order."""

WIDTH = 80


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """pytest's hook at the end of a run."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return  # what a worker has run is in its controller's figures
    counts = {kind: len(terminalreporter.stats.get(kind, ())) for kind in KINDS}
    with Path(os.environ[ENVIRONMENT]).open("a") as file:
        file.write(json.dumps(counts) + "\n")


def closing_line(notes: str, seconds: float, *, is_good: bool) -> str:
    """The last line for all runs.

    :param notes: What the runs have noted.
    :param is_good: If not, and no test has failed, something else has: it counts as an error.
    """
    sums: Counter[str] = Counter()
    for note in notes.splitlines():
        sums.update(json.loads(note))
    if not is_good and not sums["failed"] and not sums["error"]:
        sums["error"] = 1
    parts = [_count(sums[kind], kind) for kind in KINDS if sums[kind]]
    text = f" {', '.join(parts) or 'no tests ran'} in {_duration(seconds)} "
    return text.center(WIDTH, "=")


def _count(number: int, kind: str) -> str:
    return f"{number} {kind}s" if kind == "error" and number > 1 else f"{number} {kind}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.2f}s"
    return f"{seconds:.2f}s ({timedelta(seconds=int(seconds))})"


def main(argv: list[str]) -> int:
    """``tally.py FILE SECONDS STATUS``: print the closing line."""
    file, seconds, status = argv
    print(
        closing_line(Path(file).read_text(), float(seconds), is_good=int(status) == 0)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
