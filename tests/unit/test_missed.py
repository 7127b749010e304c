"""Tests whose scene missed its moment are run again, and no others."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

HOOKS = "from missed import pytest_runtest_makereport, pytest_runtest_protocol"

TESTS = """
import pytest
from missed import MissedMoment

runs = {}

@pytest.fixture
def run(request):
    name = request.node.name
    runs[name] = runs.get(name, 0) + 1
    yield runs[name]
    print(f"{name} has ended {runs[name]}")

def test_missed_once(run):
    if run == 1:
        raise MissedMoment("not yet")

def test_missed_always(run):
    raise MissedMoment(f"at run {run}")

def test_wrong(run):
    assert run == 2
"""


@pytest.fixture
def result(pytester: pytest.Pytester) -> pytest.RunResult:
    pytester.makeconftest(HOOKS)
    pytester.makepyfile(TESTS)
    return pytester.runpytest_inprocess("-rA", "-p", "no:cacheprovider")


def test_each_is_counted_once(result: pytest.RunResult) -> None:
    result.assert_outcomes(passed=1, failed=2)


def test_scene_is_set_again_with_fixtures_of_its_own(result: pytest.RunResult) -> None:
    result.stdout.fnmatch_lines(["*MissedMoment: at run 3"])
    result.stdout.fnmatch_lines(["test_missed_once has ended 2"])


def test_any_other_failure_stands(result: pytest.RunResult) -> None:
    result.stdout.fnmatch_lines(["*assert 1 == 2"])
