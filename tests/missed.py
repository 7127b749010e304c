"""Scenes that depend on a moment nobody can choose: one that missed it is set again.

A scene says so with :class:`MissedMoment`; any other failure stands.  A ``conftest`` takes the hooks in by importing them.
"""

from __future__ import annotations

from typing import Any

import pytest
from _pytest.runner import runtestprotocol

__all__ = ["MissedMoment", "pytest_runtest_makereport", "pytest_runtest_protocol"]

TRIES = 3


class MissedMoment(Exception):
    """The scene could not be set this time, and nothing is said of what is tested."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Any:
    outcome = yield
    error = call.excinfo.value if call.excinfo else None
    outcome.get_result().has_missed = isinstance(error, MissedMoment)


def pytest_runtest_protocol(
    item: pytest.Function, nextitem: pytest.Item | None
) -> bool:
    """Run a test with fixtures of its own, once more for each moment that is missed; the last run counts."""
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for _ in range(TRIES):
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        if not any(each.has_missed for each in reports):
            break
        item._initrequest()  # forgets the fixtures, as plugins that run tests again do it
    for each in reports:
        item.ihook.pytest_runtest_logreport(report=each)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
