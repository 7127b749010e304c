"""Scenes that depend on a moment nobody can choose: one that missed it is set again.

A scene says so with :class:`MissedMoment`; any other failure stands, also one of what is put right after the scene.  What was
missed is told at the end of the run.  A ``conftest`` takes the hooks in by importing them.
"""

from __future__ import annotations

from typing import Any

import pytest
from _pytest.runner import runtestprotocol

__all__ = [
    "MissedMoment",
    "pytest_runtest_makereport",
    "pytest_runtest_protocol",
    "pytest_terminal_summary",
]

TRIES = 3

PROPERTY = "missed"
"""The name of what a report's ``user_properties`` tell, which also comes from a worker of pytest-xdist."""


class MissedMoment(Exception):
    """The scene could not be set this time, and nothing is said of what is tested."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Any:
    outcome = yield
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, MissedMoment):
        outcome.get_result().user_properties.append((PROPERTY, str(error)))


def pytest_runtest_protocol(
    item: pytest.Function, nextitem: pytest.Item | None
) -> bool:
    """Run a test with fixtures of its own, once more for each moment that is missed; the last run counts."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    before: list[tuple[str, object]] = []
    for left in reversed(range(TRIES)):
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        failed = [each for each in reports if each.failed]
        missed = [told for each in failed for told in _missed(each)]
        if not left or not failed or len(missed) < len(failed):
            break
        before += missed
        item._initrequest()  # forgets the fixtures, as plugins that run tests again do it
    reports[-1].user_properties.extend(before)
    for each in reports:
        item.ihook.pytest_runtest_logreport(report=each)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Tell of each moment that was missed: a scene that misses most of its moments is to be mended."""
    seen = [each for kind in terminalreporter.stats.values() for each in kind]
    lines = [f"{each.nodeid}: {text}" for each in seen for _, text in _missed(each)]
    if lines:
        terminalreporter.section("missed moments")
    for line in lines:
        terminalreporter.write_line(line)


def _missed(report: Any) -> list[tuple[str, object]]:
    told = getattr(report, "user_properties", ())  # a warning has none
    return [each for each in told if each[0] == PROPERTY]
