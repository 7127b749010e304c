"""The figures by themselves; how the core collects them is tested with the core."""

from __future__ import annotations

import pytest

from libvirt_postcopy.figures import Figures, Summary, SwitchRecord
from libvirt_postcopy.stats import Stats

CAME = SwitchRecord("because", asked_ms=900, took_effect_ms=1000)


def sent(count: int | None) -> Stats:
    return Stats(memory_sent=count)


def test_nothing_is_known_at_first() -> None:
    figures = Figures(started=5.0)
    assert figures.summary(0, None) == Summary()
    assert (figures.stats, figures.downtime_ms, figures.is_stopped) == (
        None,
        None,
        False,
    )


def test_times_are_since_the_start() -> None:
    figures = Figures(started=5.0)
    assert figures.ms(7.5) == 2500
    figures.end(9.0)
    assert figures.summary(0, None).total_ms == 4000


def test_first_stop_and_first_resume_count() -> None:
    figures = Figures(0.0)
    figures.stop(1.0)
    figures.stop(1.2)
    assert figures.is_stopped
    figures.resume(1.5)
    figures.resume(9.0)
    assert figures.downtime_ms == 500


def test_clock_of_the_other_side_that_is_early_gives_no_negative_downtime() -> None:
    figures = Figures(0.0)
    figures.resume(0.9)
    figures.stop(1.0)
    assert figures.downtime_ms == 0


def test_guest_that_goes_on_is_not_stopped() -> None:
    figures = Figures(0.0)
    figures.stop(1.0)
    figures.go_on()
    assert not figures.is_stopped and figures.downtime_ms is None


@pytest.mark.parametrize(
    "readings, final, before, after",
    [
        ([], None, None, None),
        ([(0.5, 100)], None, None, None),  # asked for before the switch
        ([(0.5, 100), (1.0, 200), (2.0, 300)], None, 200, 100),
        ([(1.0, 200)], 500, 200, 300),
        ([(1.0, None)], 500, None, None),
        ([(1.0, 200), (2.0, None)], None, 200, None),
    ],
)
def test_first_reading_asked_for_after_the_switch_divides_the_bytes(
    readings: list, final: int | None, before: int | None, after: int | None
) -> None:
    figures = Figures(0.0)
    figures.switch(1.0)
    figures.switch(7.0)  # after a recovery
    for asked, count in readings:
        figures.read(sent(count), asked)
    if final is not None:
        figures.finish(sent(final))
    summary = figures.summary(1, CAME)
    assert (summary.precopy_bytes, summary.postcopy_bytes) == (before, after)
    assert summary.switch is CAME


def test_bytes_are_not_divided_at_a_switch_that_nobody_saw() -> None:
    figures = Figures(0.0)
    figures.switch(1.0, was_seen=False)
    assert not figures.wants_reading
    figures.read(sent(543), 1.0)
    figures.finish(sent(643))
    summary = figures.summary(1, CAME)
    assert (summary.precopy_bytes, summary.postcopy_bytes) == (None, None)


def test_final_statistics_that_are_older_than_a_reading_do_not_count() -> None:
    figures = Figures(0.0)
    figures.switch(1.0)
    figures.read(Stats(memory_sent=500, postcopy_requests=10), 1.0)
    figures.read(Stats(memory_sent=640, postcopy_requests=1442), 2.0)
    figures.finish(Stats(memory_sent=480, postcopy_requests=0))
    summary = figures.summary(1, CAME)
    assert (summary.precopy_bytes, summary.postcopy_bytes) == (500, 140)
    assert summary.postcopy_requests == 1442


@pytest.mark.parametrize("switch", [None, SwitchRecord("because", asked_ms=900)])
def test_switch_that_never_came_is_none_and_all_bytes_are_of_precopy(switch) -> None:
    figures = Figures(0.0)
    figures.read(sent(300), 0.5)
    summary = figures.summary(1, switch)
    assert (summary.switch, summary.precopy_bytes, summary.postcopy_bytes) == (
        None,
        300,
        None,
    )


def test_qemus_downtime_is_an_expectation_until_the_end() -> None:
    figures = Figures(0.0)
    figures.read(Stats(downtime_ms=300), 0.0)
    assert figures.summary(1, None).downtime_ms is None
    figures.read(Stats(downtime_ms=12), 0.0)
    figures.end(1.0)
    assert figures.summary(1, None).downtime_ms == 12
    assert figures.summary(1, None).qemu_downtime_ms == 12
