import time

import pytest

from waiting import wait_until


def test_value_is_returned_as_soon_as_it_is_true():
    values = iter([0, "", None, "there", "later"])
    began = time.monotonic()
    assert wait_until(lambda: next(values), "a value", 30) == "there"
    assert time.monotonic() - began < 10


def test_what_does_not_come_is_named_with_the_last_value_seen():
    with pytest.raises(TimeoutError, match=r"a beat: not within 0\.05 s.*seen: \[\]"):
        wait_until(list, "a beat", 0.05)


def test_condition_is_looked_at_even_without_any_time():
    assert wait_until(lambda: True, "the truth", 0)


def test_slow_condition_is_looked_at_once_more_at_the_end():
    looks = []

    def look():
        time.sleep(0.02)
        looks.append(time.monotonic())
        return len(looks) == 2

    assert wait_until(look, "the second look", 0.01)
