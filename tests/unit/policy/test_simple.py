from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.policy import (
    WAIT,
    After,
    AfterPrecopy,
    Manual,
    Never,
    Observation,
    OnPass,
)
from libvirt_postcopy.stats import PassCount, Stats
from libvirt_postcopy.units import MIB


def seen(now: float = 0.0, **fields) -> Observation:
    return Observation(now=now, since=0.0, **fields)


def gone_over(mib: float, *, total: int = 1000, rate: float = 0) -> Stats:
    return Stats(
        memory_total=total * MIB, normal_bytes=int(mib * MIB), bytes_per_s=int(rate * MIB)
    )  # fmt: skip


@pytest.mark.parametrize("policy, enables", [(Manual(), True), (Never(), False)])
def test_policy_that_never_fires(policy, enables: bool) -> None:
    late = seen(
        1e9, stats=gone_over(9000), passes=PassCount(done=50), announced_pass=50
    )
    assert policy.decide(late) == WAIT
    assert policy.enables_postcopy is enables


def test_after_waits_for_its_time_and_says_when_to_look_again() -> None:
    decision = After(30).decide(Observation(now=12.0, since=10.0))
    assert decision.reason is None
    assert decision.look_again_at == 40.0


@pytest.mark.parametrize("now", [40.0, 40.1, 1000.0])
def test_after_fires_when_its_time_has_come(now: float) -> None:
    decision = After(30).decide(Observation(now=now, since=10.0))
    assert decision.reason == "30s of pre-copy are over"


def test_after_zero_fires_as_soon_as_memory_flows() -> None:
    assert After(0).decide(seen(0.0)).reason is not None


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan")])
def test_after_refuses_what_is_no_time(seconds: float) -> None:
    with pytest.raises(UsageError):
        After(seconds)


@pytest.mark.parametrize("passes", [0, -1])
def test_after_precopy_refuses_less_than_one_pass(passes: int) -> None:
    with pytest.raises(UsageError, match="at least one pass"):
        AfterPrecopy(passes)


@pytest.mark.parametrize(
    "policy, done, reason",
    [
        (AfterPrecopy(), 1, "the first pass is done"),
        (AfterPrecopy(), 3, "the first pass is done"),
        (AfterPrecopy(2), 1, None),
        (AfterPrecopy(2), 2, "2 passes are done"),
    ],
)
def test_after_precopy_counts_passes_by_bytes(
    policy: AfterPrecopy, done: int, reason
) -> None:
    assert policy.decide(seen(passes=PassCount(done=done))).reason == reason


HALF_DONE = gone_over(500, rate=100)
LESS_DONE = gone_over(499, rate=100)
HONEST = {"saw_pass_one": True, "announced_pass": 2, "stats_at": 10.0}


@pytest.mark.parametrize(
    "what, fields, fires",
    [
        ("nothing is announced", {"stats": HALF_DONE, "saw_pass_one": True}, False),
        (
            "the first pass runs",
            {"stats": HALF_DONE, "saw_pass_one": True, "announced_pass": 1},
            False,
        ),
        ("half of memory is gone over", {"stats": HALF_DONE, **HONEST}, True),
        ("less than half is gone over", {"stats": LESS_DONE, **HONEST}, False),
        ("there was no reading", HONEST, True),
        ("the size of memory is unknown", {"stats": Stats(normal_bytes=1), **HONEST}, True),
        ("nothing flowed yet", {"stats": gone_over(0), **HONEST}, True),
        (
            "looks at the dirty bitmap are announced, not passes",
            {"stats": HALF_DONE, "announced_pass": 40},
            False,
        ),
    ],
)  # fmt: skip
def test_announced_pass_is_believed_unless_contradicted(
    what: str, fields: dict, fires: bool
) -> None:
    decision = AfterPrecopy().decide(seen(10.0, **fields))
    assert (decision.reason is not None) is fires, what


def test_later_pass_is_believed_for_a_later_count() -> None:
    fields = {**HONEST, "stats": HALF_DONE}
    assert AfterPrecopy(2).decide(seen(10.0, **fields)).reason is None
    fields["announced_pass"] = 3
    assert AfterPrecopy(2).decide(seen(10.0, **fields)).reason == "2 passes are done"


@pytest.mark.parametrize(
    "what, fields, when",
    [
        ("no reading", {}, None),
        ("no size", {"stats": Stats(normal_bytes=1, bytes_per_s=1)}, None),
        ("no rate, no time", {"stats": gone_over(100)}, None),
        ("as read", {"stats": gone_over(500, rate=100), "stats_at": 12.0}, 12.0),
        ("carried on", {"stats": gone_over(300, rate=100), "stats_at": 10.0}, 12.0),
        ("by the rate so far", {"stats": gone_over(300), "stats_at": 6.0}, 10.0),
        ("most of it zeros", {"stats": gone_over(400, rate=1), "stats_at": 10.0}, 12.5),
        ("carried back", {"stats": gone_over(700, rate=100), "stats_at": 12.0}, 10.0),
    ],
)  # fmt: skip
def test_when_half_of_memory_is_gone_over(
    what: str, fields: dict, when: float | None
) -> None:
    assert seen(12.0, **fields).when_swept(0.5) == pytest.approx(when), what


def test_share_that_is_waited_for_is_the_one_asked_for() -> None:
    observed = seen(stats=gone_over(300, rate=100), stats_at=10.0)
    assert observed.when_swept(1.0) == pytest.approx(17.0)


# What is decided before it is seen


@pytest.mark.parametrize(
    "fields, on_pass",
    [
        ({}, None),  # QEMU 11.1
        ({"announced_pass": 40}, None),
        ({**HONEST, "announced_pass": 1}, OnPass(2, "the first pass is done")),
        (
            {**HONEST, "announced_pass": 1, "stats": LESS_DONE},
            OnPass(2, "the first pass is done", pytest.approx(10.01)),
        ),
    ],
)
def test_next_pass_is_decided_on_beforehand(
    fields: dict, on_pass: OnPass | None
) -> None:
    assert AfterPrecopy().on_pass(seen(10.0, **fields)) == on_pass


def test_later_pass_is_decided_on_beforehand_for_a_later_count() -> None:
    on_pass = AfterPrecopy(2).on_pass(seen(10.0, **{**HONEST, "announced_pass": 1}))
    assert on_pass == OnPass(3, "2 passes are done")


@given(
    st.integers(1, 3),
    st.integers(0, 900),
    st.integers(0, 100),
    st.floats(1.0, 20.0),
    st.floats(0.0, 40.0),
    st.integers(-1, 2),
)
def test_what_is_decided_beforehand_is_decided_when_it_is_seen(
    passes: int, mib: int, rate: int, asked_at: float, wait_s: float, more: int
) -> None:
    policy = AfterPrecopy(passes)
    stats = gone_over(mib, rate=rate)
    before = seen(
        asked_at, stats=stats, stats_at=asked_at, saw_pass_one=True, announced_pass=1
    )
    order = policy.on_pass(before)
    assert order is not None and policy.decide(before).reason is None
    now, number = asked_at + wait_s, order.number + more
    then = policy.decide(replace(before, now=now, announced_pass=number))
    fires = number >= order.number and now >= order.not_before
    assert then.reason == (order.reason if fires else None)
    assert math.isinf(order.not_before) == (not (mib or rate))


@pytest.mark.parametrize(
    "fields, done",
    [
        ({}, 0),
        ({"announced_pass": 3}, 0),  # QEMU 11.1
        ({"announced_pass": 1, "saw_pass_one": True}, 0),
        ({"announced_pass": 3, "saw_pass_one": True}, 2),
        ({"announced_pass": 2, "saw_pass_one": True, "passes": PassCount(done=2)}, 2),
        ({"announced_pass": 40, "passes": PassCount(done=1)}, 1),
    ],
)
def test_passes_done_by_bytes_or_by_honest_announcement(
    fields: dict, done: int
) -> None:
    assert seen(**fields).passes_done == done


def test_after_precopy_needs_no_timer() -> None:
    assert AfterPrecopy().decide(seen(stats=HALF_DONE)).look_again_at is None


@pytest.mark.parametrize(
    "policy, fields, needs_stats",
    [
        (Manual(), {}, False),
        (Never(), {}, False),
        (After(30), {}, False),
        (AfterPrecopy(), {}, True),  # QEMU 2.5 and 11.1 announce no pass that can be believed
        (AfterPrecopy(), {"announced_pass": 40}, True),
        (AfterPrecopy(), {"saw_pass_one": True, "announced_pass": 1}, False),
        (AfterPrecopy(2), {"saw_pass_one": True, "announced_pass": 2}, False),
        (AfterPrecopy(), {**HONEST, "stats": LESS_DONE}, True),  # the next may confirm it
    ],
)  # fmt: skip
def test_readings_are_needed_only_where_they_can_change_the_answer(
    policy, fields: dict, needs_stats: bool
) -> None:
    decision = policy.decide(seen(10.0, **fields))
    assert decision.reason is None
    assert decision.needs_stats is needs_stats
