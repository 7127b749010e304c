"""``pytest --postcopy-qemu PATH``: the conformance checks as tests, for a distribution's CI.

They are what is run if nothing else is named, and run beside what is; with ``-n 4`` (pytest-xdist)
scenarios are spread over processes: each drives what its own checks need, on fresh pairs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["pytest_addoption", "pytest_configure"]

_CHECKS = Path(__file__).with_name("pytest_checks.py")


def pytest_addoption(parser: Any) -> None:
    group = parser.getgroup("postcopy", "post-copy conformance")
    group.addoption(
        "--postcopy-qemu",
        action="append",
        default=[],
        metavar="PATH",
        help="a QEMU to be checked; may be given several times",
    )
    group.addoption("--postcopy-accel", choices=("tcg", "kvm"), default="tcg")
    group.addoption(
        "--postcopy-quick", action="store_true", help="the packager's minimum only"
    )
    group.addoption(
        "--postcopy-known-ok",
        action="store_true",
        help="known deviations of released versions are expected failures",
    )


def pytest_configure(config: Any) -> None:
    """Collect the checks where a QEMU is named; by hand they may be named, too."""
    if not config.getoption("--postcopy-qemu"):
        return
    named = [word for word in config.invocation_params.args if _CHECKS.stem in str(word)]  # fmt: skip
    if named:
        return
    is_by_hand = bool(config.getoption("file_or_dir"))
    config.args = [*(config.args if is_by_hand else []), str(_CHECKS)]
