from __future__ import annotations

from dataclasses import dataclass

import pytest

from libvirt_postcopy.errors import UsageError
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


# Its text

A, B, C, D = After(1), After(2), After(3), Manual()


@pytest.mark.parametrize(
    "policy, text",
    [
        (AllOf((AnyOf((A, B)), C)), "after:1s&after:3s|after:2s&after:3s"),
        (AllOf((D, AnyOf((A, B)))), "manual&after:1s|manual&after:2s"),
        (
            AllOf((AnyOf((A, B)), AnyOf((C, D)))),
            "after:1s&after:3s|after:1s&manual|after:2s&after:3s|after:2s&manual",
        ),
        (AllOf((AnyOf((AllOf((A, B)), C)), D)), "after:1s&after:2s&manual|after:3s&manual"),
        (AllOf((AllOf((A, B)), C)), "after:1s&after:2s&after:3s"),
        (AnyOf((AnyOf((A, B)), AllOf((C, D)))), "after:1s|after:2s|after:3s&manual"),
        (AnyOf((Never(), A)), "after:1s"),
        (AnyOf((AllOf((Never(),)), AnyOf((Never(), A)))), "after:1s"),
        (AnyOf((Never(), Never())), "never"),
        (AllOf((AnyOf((Never(), A)), B)), "after:1s&after:2s"),
    ],
)  # fmt: skip
def test_text_has_no_parentheses_and_means_the_same(policy, text: str) -> None:
    assert str(policy) == text


@pytest.mark.parametrize("kind", [AnyOf, AllOf])
def test_one_of_none_is_refused(kind) -> None:
    with pytest.raises(UsageError, match="needs at least one"):
        kind(())


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
