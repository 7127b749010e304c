from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.units import (
    DURATIONS,
    MIB,
    format_bytes,
    format_duration,
    parse_duration,
)


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("30", 30),
        ("30s", 30),
        ("5m", 300),
        ("2h", 7200),
        ("300ms", 0.3),
        ("0", 0),
        ("1.5m", 90),
        ("0.25", 0.25),
        (" 7s ", 7),
    ],
)
def test_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "s", "-1", "+1", "1 s", "1d", "1e3", "nan", "inf", "1.2345", ".5", "5.", "٣", "1s1s", "1" * 10],
)  # fmt: skip
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration"):
        parse_duration(text)


def test_refusal_of_a_long_text_stays_short() -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration("x" * 10_000)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0, "0s"),
        (0.3, "300ms"),
        (1, "1s"),
        (1.5, "1500ms"),
        (60, "1m"),
        (90, "90s"),
        (3600, "1h"),
        (5400, "90m"),
    ],
)
def test_duration_is_written_with_the_largest_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(min_value=0, max_value=999_999_999))
def test_duration_that_was_written_is_read_back(thousandths: int) -> None:
    seconds = thousandths / 1000
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds)


def test_what_people_are_told_to_write_is_read() -> None:
    for text in DURATIONS.replace(" or ", ", ").split(", "):
        assert parse_duration(text) > 0


@given(st.text(max_size=12))
def test_garbage_is_refused_as_usage_error(text: str) -> None:
    with suppress(UsageError):
        assert parse_duration(text) >= 0


@pytest.mark.parametrize(
    "count, text",
    [
        (0, "0.000 B"),
        (1023, "1023.000 B"),
        (1024, "1.000 KiB"),
        (1.5 * MIB, "1.500 MiB"),
        (1 << 30, "1.000 GiB"),
        (1 << 60, "1.000 EiB"),
        (1 << 71, "2048.000 EiB"),
    ],
)
def test_size_is_written_as_virsh_does(count: float, text: str) -> None:
    assert format_bytes(count) == text
