from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.policy import (
    After,
    AfterPrecopy,
    AllOf,
    AnyOf,
    Manual,
    Never,
    Observation,
    parse,
)
from libvirt_postcopy.stats import PassCount


@pytest.mark.parametrize(
    "text, policy",
    [
        ("manual", Manual()),
        ("never", Never()),
        ("after-precopy", AfterPrecopy()),
        ("after-precopy:3", AfterPrecopy(3)),
        ("after:30", After(30)),
        ("after:5m", After(300)),
        ("after:300ms", After(0.3)),
        (" manual ", Manual()),
        ("manual|after:5m", AnyOf((Manual(), After(300)))),
        ("manual & after:5m", AllOf((Manual(), After(300)))),
        ("never&manual", AllOf((Never(), Manual()))),
        (
            "after-precopy&after:10s|after:5m",
            AnyOf((AllOf((AfterPrecopy(), After(10))), After(300))),
        ),
    ],
)
def test_specification_is_read(text: str, policy: object) -> None:
    assert parse(text) == policy


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("", "the policy has no name (write one of: manual"),
        (":", "the policy has no name (write one of: manual"),
        ("soon", "unknown policy 'soon'"),
        ("Manual", "unknown policy 'Manual'"),
        ("manual|", "there is nothing after '|' in the policy 'manual|' (write one of"),
        (
            "manual & ",
            "there is nothing after '&' in the policy 'manual &' (write one of",
        ),
        ("manual||never", "there is nothing after '|' in the policy"),
        ("manual&|never", "there is nothing after '&' in the policy"),
        ("&manual", "there is nothing before '&' in the policy"),
        ("|", "there is nothing before '|' in the policy"),
        (
            "After-Precopy",
            "unknown policy 'After-Precopy' (write it in lower case: after-precopy)",
        ),
        ("manual|AFTER:5", "unknown policy 'AFTER' (write it in lower case: after)"),
        (
            "(manual|never)&manual",
            "a policy has no parentheses (& binds tighter than |: ",
        ),
        ("manual)", "a policy has no parentheses"),
        ("never|never", "'never' stands alone"),
        (
            "never|after:5",
            "'never' stands alone: beside '|' it forbids what the others ask for (leave out 'never'",
        ),
        ("after:5|never", "'never' stands alone"),
        ("manual:1", "'manual' takes no argument"),
        ("never:", "'never' takes no argument"),
        ("after", "'after' needs a duration"),
        ("after:", "'' is not a duration"),
        ("after:soon", "'soon' is not a duration"),
        ("after-precopy:", "'' is not a number of passes"),
        ("after-precopy:0", "at least one pass"),
        ("after-precopy:-1", "'-1' is not a number of passes"),
        ("after-precopy:٣", "is not a number of passes"),
        ("after-precopy:1.5", "is not a number of passes"),
        ("after-precopy:1000000000", "is not a number of passes"),
        ("|".join(["manual"] * 200), "too long"),
    ],
)
def test_refusal_names_the_part_that_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert complaint in str(caught.value)
    assert len(str(caught.value)) < 200


SWITCHING = st.one_of(
    st.just(Manual()),
    st.builds(AfterPrecopy, st.integers(1, 999_999_999)),
    st.builds(lambda ms: After(ms / 1000), st.integers(0, 10**9)),
)
SIMPLE = SWITCHING | st.just(Never())
PAIRS = st.lists(SIMPLE, min_size=2, max_size=4).map(tuple)
POLICIES = st.one_of(
    SIMPLE,
    st.builds(AllOf, PAIRS),
    st.builds(AnyOf, st.lists(SWITCHING | st.builds(AllOf, PAIRS), min_size=2, max_size=4).map(tuple)),
)  # fmt: skip


@given(POLICIES)
def test_policy_that_was_written_is_read_back(policy) -> None:
    text = str(policy)
    assert str(parse(text)) == text
    assert type(parse(text)) is type(policy)
    assert parse(text) == policy


SOON = st.one_of(
    st.builds(AfterPrecopy, st.integers(1, 3)),
    st.builds(After, st.integers(0, 5)),
    st.just(Manual()),
    st.just(Never()),
)


def joined(inner: st.SearchStrategy, most: int) -> st.SearchStrategy:
    both = st.lists(inner, min_size=1, max_size=most).map(tuple)
    return inner | st.builds(AllOf, both) | st.builds(AnyOf, both)


OBSERVATIONS = st.builds(
    Observation,
    now=st.integers(0, 6),
    since=st.just(0.0),
    passes=st.integers(0, 4).map(PassCount),
    announced_pass=st.integers(0, 5),
    saw_pass_one=st.booleans(),
)


@given(joined(joined(SOON, 3), 2), st.lists(OBSERVATIONS, min_size=1, max_size=5))
def test_policy_that_is_read_back_decides_as_the_one_that_was_written(
    policy, seen: list[Observation]
) -> None:
    back = parse(str(policy))
    assert str(back) == str(policy)
    assert back.enables_postcopy == policy.enables_postcopy
    assert [back.decide(each).reason for each in seen] == [
        policy.decide(each).reason for each in seen
    ]


@given(
    st.text(max_size=30)
    | st.text(alphabet="aftermnulcopvy-:|&0123456789 smh.", max_size=40)
    | st.lists(st.sampled_from(["manual", "after", "after-precopy", "never", ":", "|", "&", "3", "s", " "])).map("".join)
)  # fmt: skip
def test_garbage_is_refused_as_usage_error(text: str) -> None:
    try:
        parse(text)
    except UsageError as error:
        assert "\n" not in str(error)
