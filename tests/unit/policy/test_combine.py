from __future__ import annotations

from dataclasses import dataclass

import pytest

from libvirt_postcopy.policy import (
    AllOf,
    AnyOf,
    Decision,
    Manual,
    Never,
    Observation,
    OnPass,
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


def on_pass(number: int) -> Says:
    return Says(Decision(on_pass=OnPass(number, f"pass {number}")))


def test_any_decides_beforehand_as_the_first_of_them_would() -> None:
    decision = AnyOf((on_pass(3), wait(), on_pass(2))).decide(SEEN)
    assert decision.on_pass == OnPass(2, "pass 2")
    assert AnyOf((wait(), wait())).decide(SEEN).on_pass is None


def test_all_decide_nothing_beforehand_that_one_of_them_does_not() -> None:
    assert AllOf((on_pass(2), yes("a"), wait())).decide(SEEN).on_pass is None
