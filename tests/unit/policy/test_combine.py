from __future__ import annotations

from dataclasses import dataclass

import pytest

from libvirt_postcopy.policy import (
    After,
    AfterPrecopy,
    AllOf,
    AnyOf,
    Decision,
    Manual,
    Never,
    Observation,
    OnPass,
    foresee,
)

SEEN = Observation(now=0.0, since=0.0)


@dataclass(frozen=True)
class Says:
    """A policy with one answer."""

    decision: Decision
    enables_postcopy = True

    def decide(self, seen: Observation) -> Decision:
        assert seen is SEEN
        return self.decision


def yes(reason: str) -> Says:
    return Says(Decision(reason=reason))


def wait(look_again_at: float | None = None) -> Says:
    return Says(Decision(look_again_at=look_again_at))


def test_any_fires_with_the_first_that_fires() -> None:
    assert AnyOf((wait(), yes("a"), yes("b"))).decide(SEEN) == Decision(reason="a")


def test_all_fires_only_with_all_and_names_them_all() -> None:
    assert AllOf((yes("a"), wait())).decide(SEEN).reason is None
    assert AllOf((yes("a"), yes("b"))).decide(SEEN) == Decision(reason="a and b")


@pytest.mark.parametrize("kind", [AnyOf, AllOf])
def test_waiting_looks_again_when_the_earliest_would(kind) -> None:
    decision = kind((wait(9.0), wait(5.0), wait())).decide(SEEN)
    assert decision == Decision(look_again_at=5.0)
    assert kind((wait(), wait())).decide(SEEN) == Decision()


def test_all_asks_nothing_for_those_that_agree_already() -> None:
    assert AllOf((yes("a"), wait(7.0))).decide(SEEN) == Decision(look_again_at=7.0)


@pytest.mark.parametrize(
    "policy, enables",
    [
        (AnyOf((Never(), Manual())), True),
        (AnyOf((Never(), Never())), False),
        (AllOf((Never(), Manual())), False),
        (AllOf((Manual(), Manual())), True),
    ],
)
def test_postcopy_is_enabled_where_a_switch_is_possible(policy, enables: bool) -> None:
    assert policy.enables_postcopy is enables


def quiet() -> Says:
    return Says(Decision(needs_stats=False))


@pytest.mark.parametrize("kind", [AnyOf, AllOf])
def test_readings_are_needed_where_one_that_waits_needs_them(kind) -> None:
    assert kind((quiet(), wait())).decide(SEEN).needs_stats
    assert not kind((quiet(), quiet())).decide(SEEN).needs_stats


def test_all_reads_nothing_for_those_that_agree_already() -> None:
    assert not AllOf((yes("a"), quiet())).decide(SEEN).needs_stats
    assert AllOf((yes("a"), wait())).decide(SEEN).needs_stats


# What is decided beforehand

FIRST_PASS = Observation(now=0.0, since=0.0, saw_pass_one=True, announced_pass=1)
SECOND = OnPass(2, "the first pass is done")
THIRD = OnPass(3, "2 passes are done")


class Vetoing:
    """A policy of a caller's, made of one of these."""

    enables_postcopy = True

    def decide(self, seen: Observation) -> Decision:
        decision = AfterPrecopy().decide(seen)
        return Decision() if decision.reason else decision


class Late(AfterPrecopy):
    """One that inherits from one of these."""

    def decide(self, seen: Observation) -> Decision:
        return Decision()


@pytest.mark.parametrize(
    "policy, on_pass",
    [
        (AfterPrecopy(), SECOND),
        (AfterPrecopy(2), THIRD),
        (AnyOf((AfterPrecopy(2), Manual(), AfterPrecopy())), SECOND),
        (AnyOf((Vetoing(), AfterPrecopy(2))), THIRD),
        (AnyOf((Late(), Manual())), None),
        (AllOf((AfterPrecopy(), Manual())), None),
        (After(30), None),
        (Vetoing(), None),
        (Late(), None),
    ],
)
def test_what_is_decided_beforehand(policy, on_pass: OnPass | None) -> None:
    assert foresee(policy, FIRST_PASS) == on_pass
