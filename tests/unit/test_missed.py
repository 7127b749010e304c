"""Tests whose scene missed its moment are run again, and no others."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

HOOKS = """
from missed import pytest_runtest_makereport, pytest_runtest_protocol, pytest_terminal_summary
"""

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

@pytest.fixture
def left_over(run):
    yield run
    assert run == 2, "something is left"

def test_missed_and_not_put_right(left_over):
    raise MissedMoment(f"also, at run {left_over}")
"""


@pytest.fixture
def result(pytester: pytest.Pytester) -> pytest.RunResult:
    pytester.makeconftest(HOOKS)
    pytester.makepyfile(TESTS)
    return pytester.runpytest_inprocess("-rA", "-p", "no:cacheprovider")


def test_each_is_counted_once(result: pytest.RunResult) -> None:
    result.assert_outcomes(passed=1, failed=3, errors=1)


def test_scene_is_set_again_with_fixtures_of_its_own(result: pytest.RunResult) -> None:
    result.stdout.fnmatch_lines(["*MissedMoment: at run 3"])
    result.stdout.fnmatch_lines(["test_missed_once has ended 2"])


def test_any_other_failure_stands(result: pytest.RunResult) -> None:
    result.stdout.fnmatch_lines(["*assert 1 == 2"])


def test_what_is_not_put_right_after_a_missed_moment_is_an_error(
    result: pytest.RunResult,
) -> None:
    result.stdout.fnmatch_lines(["*AssertionError: something is left"])
    result.stdout.fnmatch_lines(["*MissedMoment: also, at run 1"])


def test_each_moment_that_was_missed_is_told(result: pytest.RunResult) -> None:
    _, _, told = result.stdout.str().partition("= missed moments =")
    lines = [line.partition("::")[2] for line in told.splitlines() if ".py::" in line]
    missed = [line for line in lines if line.startswith("test_missed")]
    of = "test_missed_always: at run"
    assert "test_missed_once: not yet" in missed
    assert {f"{of} 1", f"{of} 2", f"{of} 3"} <= set(missed)
