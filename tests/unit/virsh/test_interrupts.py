from __future__ import annotations

import signal

import pytest

from libvirt_postcopy.events import Place
from libvirt_postcopy.virsh.interrupts import (
    Answer,
    Interrupts,
    Signals,
    easily_interrupted,
)

SRC, SPLIT, DST, LOST = Place.SOURCE, Place.SPLIT, Place.DESTINATION, Place.LOST
UNKNOWN = Place.UNKNOWN
A = Answer


@pytest.mark.parametrize(
    "presses, answers",
    [
        ([(SRC, True)], [A.ABORT]),
        ([(SRC, True), (SRC, True)], [A.ABORT, A.STILL_ABORTING]),
        ([(SRC, True)] * 3, [A.ABORT, A.STILL_ABORTING, A.LEAVE]),
        ([(SRC, True), (SRC, True), (SRC, False), (SRC, True)],
         [A.ABORT, A.STILL_ABORTING, A.STILL_ABORTING, A.LEAVE]),
        ([(SPLIT, True)], [A.EXPLAIN]),
        ([(SPLIT, True), (SPLIT, True)], [A.EXPLAIN, A.DETACH]),
        ([(SPLIT, False), (SPLIT, False)], [A.EXPLAIN, A.NOT_YET]),
        ([(SPLIT, False), (SPLIT, True)], [A.EXPLAIN, A.DETACH]),
        # an abort that came too late is not the explanation
        ([(SRC, True), (SPLIT, True), (SPLIT, True)], [A.ABORT, A.EXPLAIN, A.DETACH]),
        ([(UNKNOWN, True)], [A.IN_DOUBT]),
        ([(UNKNOWN, True), (UNKNOWN, True)], [A.IN_DOUBT, A.DETACH]),
        ([(UNKNOWN, False), (UNKNOWN, False)], [A.IN_DOUBT, A.NEEDED]),
        ([(UNKNOWN, False), (UNKNOWN, True)], [A.IN_DOUBT, A.DETACH]),
        # what was said of the next one holds wherever the guest is found
        ([(UNKNOWN, True), (SPLIT, True)], [A.IN_DOUBT, A.DETACH]),
        ([(UNKNOWN, True), (SPLIT, False)], [A.IN_DOUBT, A.NOT_YET]),
        ([(SPLIT, True), (UNKNOWN, True)], [A.EXPLAIN, A.DETACH]),
        ([(SRC, True), (UNKNOWN, True), (UNKNOWN, True)], [A.ABORT, A.IN_DOUBT, A.DETACH]),
        ([(UNKNOWN, True), (SRC, True)], [A.IN_DOUBT, A.ABORT]),
        ([(DST, True), (DST, True)], [A.ENDING, A.ENDING]),
        ([(LOST, True)], [A.ENDING]),
    ],
)  # fmt: skip
def test_presses(presses: list[tuple[Place, bool]], answers: list[Answer]) -> None:
    interrupts = Interrupts()
    got = [interrupts.press(guest, can_leave=leave) for guest, leave in presses]
    assert got == answers


@pytest.mark.parametrize("number", range(12))
@pytest.mark.parametrize("can_leave", [True, False])
@pytest.mark.parametrize("guest", [SPLIT, UNKNOWN])
def test_nothing_is_aborted_after_the_switch(
    number: int, can_leave: bool, guest: Place
) -> None:
    interrupts = Interrupts()
    got = [interrupts.press(guest, can_leave=can_leave) for _ in range(number)]
    assert not {A.ABORT, A.LEAVE} & set(got)


def test_abort_is_sent_once() -> None:
    interrupts = Interrupts()
    got = [interrupts.press(SRC, can_leave=False) for _ in range(10)]
    assert got.count(A.ABORT) == 1 and A.LEAVE not in got


def test_abort_that_comes_too_late_is_explained_once() -> None:
    interrupts = Interrupts()
    interrupts.press(SRC, can_leave=True)
    assert interrupts.look(SRC, can_leave=True) is None
    assert interrupts.look(SPLIT, can_leave=True) is A.TOO_LATE
    assert interrupts.look(SPLIT, can_leave=True) is None
    assert interrupts.press(SPLIT, can_leave=True) is A.DETACH


def test_abort_whose_end_cannot_be_told_is_explained_once_for_each_place() -> None:
    interrupts = Interrupts()
    interrupts.press(SRC, can_leave=True)
    assert interrupts.look(UNKNOWN, can_leave=True) is A.IN_DOUBT
    assert interrupts.look(UNKNOWN, can_leave=True) is None
    assert interrupts.look(SPLIT, can_leave=True) is A.TOO_LATE
    assert interrupts.look(SPLIT, can_leave=True) is None
    assert interrupts.press(SPLIT, can_leave=True) is A.DETACH


@pytest.mark.parametrize("guest", [SPLIT, UNKNOWN])
def test_leaving_waits_until_the_guest_survives_it(guest: Place) -> None:
    interrupts = Interrupts()
    interrupts.press(guest, can_leave=False)
    interrupts.press(guest, can_leave=False)
    assert interrupts.look(guest, can_leave=False) is None
    assert interrupts.look(guest, can_leave=True) is A.DETACH


def test_without_interrupts_nothing_happens() -> None:
    interrupts = Interrupts()
    for guest in Place:
        assert interrupts.look(guest, can_leave=True) is None
    assert not interrupts.is_aborting


NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def test_signals_are_counted_and_given_back() -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    signals = Signals()
    assert [signal.getsignal(number) for number in NUMBERS] == before
    signals.catch()
    signals.catch()
    assert signals.take() == 0
    for number in NUMBERS:
        signal.raise_signal(number)
    assert signals.take() == 3
    assert signals.take() == 0
    signals.release()
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals = Signals()
    try:
        signals.catch()
        signal.raise_signal(signal.SIGHUP)
        assert signals.take() == 0
    finally:
        signals.release()
        assert signal.signal(signal.SIGHUP, before) is signal.SIG_IGN


def test_interrupt_ends_the_program_while_nothing_is_started() -> None:
    before = signal.getsignal(signal.SIGINT)
    with easily_interrupted():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is before


def test_background_job_stays_deaf_to_interrupts() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with easily_interrupted():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
