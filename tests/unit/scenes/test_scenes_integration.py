"""What the integration tests judge by."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import cast

import pytest

from integration.commands import without_delays
from integration.observers import Recorder, Recovered, check_downtime, check_resumes
from libvirt_postcopy import MigrationResult
from libvirt_postcopy.actions import Resume
from libvirt_postcopy.events import Ended, Event, Side, StatusSeen
from scenes.stage import Stage


def says(*statuses: str, side: Side = Side.SOURCE) -> list[Event]:
    return [StatusSeen(side, status) for status in statuses]


SWITCHED = says("active", "postcopy-active")
BROKEN = says("postcopy-paused")
BACK = says("postcopy-recover", "postcopy-active")
FIRST_BREAK = [*SWITCHED, *BROKEN, Ended("broken", call=0)]
SECOND_BREAK = [*BACK, *BROKEN, Ended("broken", call=1)]


def seen(*what: object) -> Recorder:
    recorder = Recorder()
    for each in what:
        recorder(each)
    return recorder


def test_one_resume_a_break_is_right() -> None:
    check_resumes(seen(*FIRST_BREAK, Resume(1), *SECOND_BREAK, Resume(2), *BACK), 2)


def test_so_is_one_where_nobody_tells_the_recovery_between() -> None:
    check_resumes(seen(*FIRST_BREAK, Resume(1), *says("postcopy-active")), 1)


@pytest.mark.parametrize("call", [1, None], ids=["native", "qemu"])
def test_one_that_was_refused_is_made_again(call: int | None) -> None:
    refused = Ended("another job is active", call=call)
    check_resumes(seen(*FIRST_BREAK, Resume(1), refused, Resume(2), *BACK), 1)


@pytest.mark.parametrize(
    "resumes",
    [
        (Resume(1), Resume(2), *BACK),
        (Resume(1), Ended("broken", call=0), Resume(2), *BACK),
        (Resume(1), *BACK, Resume(2)),
        (Resume(1), Resume(2), Ended("another job is active", call=2), *BACK),
    ],
    ids=["beside", "the call before ended", "not broken", "refused beside"],
)
def test_any_other_is_wrong(resumes: Iterable[object]) -> None:
    with pytest.raises(AssertionError, match="resume"):
        check_resumes(seen(*FIRST_BREAK, *resumes), 1)


def test_break_after_which_nothing_goes_on_is_told() -> None:
    with pytest.raises(AssertionError):
        check_resumes(seen(*FIRST_BREAK, Resume(1), *SECOND_BREAK, Resume(2)), 2)


def test_source_has_recovered_when_it_is_in_postcopy_after_a_break() -> None:
    recovered = Recovered()
    there = says("postcopy-paused", "postcopy-active", side=Side.DESTINATION)
    told = [*SWITCHED, *there, *BROKEN, *there, *BACK]
    assert [recovered(each) for each in told] == [False] * (len(told) - 1) + [True]


# The downtime

_STAGE = cast(Stage, SimpleNamespace(blackout_ms=lambda since: 100.0))
_SHORT, _LONG = 90.0, 300.0


def _check_downtime(*downtimes_ms: float) -> list[str]:
    """Judge one migration after the other; where each but the first went."""
    results = (SimpleNamespace(downtime_ms=ms, domain=None) for ms in downtimes_ms)
    went: list[str] = []

    def migrate(domain: object, to: str) -> MigrationResult:
        went.append(to)
        return cast(MigrationResult, next(results))

    check_downtime(_STAGE, cast(MigrationResult, next(results)), 100.0, migrate)
    return went


@pytest.mark.parametrize(
    "downtimes_ms",
    [
        (_SHORT, _SHORT),
        (_LONG, _SHORT, _SHORT),
        (_SHORT, _LONG, _SHORT),
        (_LONG, _SHORT, _LONG, _SHORT, _SHORT),
    ],
)
def test_downtimes_of_which_most_are_right(downtimes_ms: tuple[float, ...]) -> None:
    went = _check_downtime(*downtimes_ms)
    to_and_fro = ["qemu+tcp://a/system", "qemu+tcp://b/system"] * 2
    assert went == to_and_fro[: len(downtimes_ms) - 1]


@pytest.mark.parametrize(
    "downtimes_ms",
    [
        (_LONG, _LONG, _LONG),
        (_SHORT, _LONG, _LONG, _LONG),
        (_LONG, _SHORT, _LONG, _SHORT, _LONG),
    ],
)
def test_downtimes_of_which_most_are_too_long(downtimes_ms: tuple[float, ...]) -> None:
    with pytest.raises(AssertionError, match="300 ms of 100 ms, 300 ms of 100 ms"):
        _check_downtime(*downtimes_ms)


# What a busy machine adds to what a command says

_WAITS = "note: the switch waits: the destination's daemon does not answer (qemu+tcp://b/system)\n"
_AGAIN = "the switch to post-copy was sent but has not come: asking again\n"


def test_wait_for_a_daemon_is_no_word_of_the_switch() -> None:
    assert without_delays(f"{_WAITS}else\n{_WAITS}") == "else\n"
    assert without_delays(_WAITS.strip()) == ""
    assert without_delays(f"{_WAITS.strip()}, and more\n") != ""


def test_switch_may_be_asked_for_again_once_and_only_where_that_is_said() -> None:
    assert without_delays(_AGAIN) == _AGAIN
    assert without_delays(_AGAIN, is_asked_again=True) == ""
    assert without_delays(_WAITS + _AGAIN * 2, is_asked_again=True) == _AGAIN
