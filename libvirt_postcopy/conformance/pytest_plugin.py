"""``pytest --postcopy-qemu PATH``: the conformance checks as tests, for a distribution's CI.

``pytest --pyargs libvirt_postcopy.conformance.pytest_checks --postcopy-qemu PATH`` runs them; with ``-n 4`` (pytest-xdist)
scenarios are spread over processes: each drives what its own checks need, on fresh pairs.
"""

from __future__ import annotations

from typing import Any

__all__ = ["pytest_addoption"]


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
