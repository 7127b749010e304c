"""A split guest is brought back together, on a clock of ours."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libvirt_postcopy import events as ev
from libvirt_postcopy.actions import Action, Look, Note, Pause, Resume
from libvirt_postcopy.diagnosis import Diagnosis, as_qemu_says, diagnose
from libvirt_postcopy.events import Half, Place, Side
from libvirt_postcopy.obstacles import resume_obstacle
from libvirt_postcopy.phases import Phase, Status, whereabouts
from libvirt_postcopy.recovery import (
    HANG_S,
    KERNELS_S,
    LOOK_S,
    REST_S,
    SETTLE_S,
    STALL_S,
    TELL_S,
    UNCLEAR_S,
    Recovery,
)
from libvirt_postcopy.stats import Stats
from unit.fakes import DST, SRC, Scene, ended, looked, status, walk
from unit.transcripts import FILES, FOLDER, read

D = Diagnosis
PAUSED = (looked(SRC, Half.SPLIT_FAILED, "postcopy-paused"), looked(DST, Half.SPLIT_FAILED))  # fmt: skip
HALF_PAUSED = (PAUSED[0], looked(DST, Half.SPLIT))
FLOWING = (looked(SRC, Half.SPLIT_FAILED, "postcopy-active"), looked(DST, Half.SPLIT_FAILED))  # fmt: skip
SILENT_HERE = (looked(SRC, Half.UNKNOWN), looked(DST, Half.SPLIT_FAILED))
SILENT_THERE = (PAUSED[0], looked(DST, Half.UNKNOWN))
SILENT = (looked(SRC, Half.UNKNOWN), looked(DST, Half.UNKNOWN))
GONE = (looked(SRC, Half.GONE), looked(DST, Half.GONE))
MOVED = (looked(SRC, Half.GONE), looked(DST, Half.WHOLE))
UNCLEAR = (looked(SRC, Half.SPLIT_FAILED), looked(DST, Half.SPLIT_FAILED))
REFUSED = ended(Place.SPLIT, "unable to connect to server")
MINUTE = 60.0


def flowing(sent: int, *, requests: int = 0) -> tuple[ev.Looked, ev.Looked]:
    """Pages move: so much has been sent by now."""
    here = looked(
        SRC,
        Half.SPLIT_FAILED,
        "postcopy-active",
        memory_sent=sent,
        postcopy_requests=requests,
    )
    return here, FLOWING[1]


class Split(Scene):
    """A guest that is split since 0 s, and whose call failed at 10 s.

    :ivar ending: What a resumed call returns at once; None if it goes on.
    """

    def __init__(self, patience_s: float = 30 * MINUTE, **options) -> None:
        super().__init__(patience_s=patience_s, **options)
        self.ending: ev.Ended | None = REFUSED
        self.at(0.0, *walk("setup", "active", "postcopy-active"))

    def answer(self, action: Action) -> ev.Event | None:
        return self.ending if isinstance(action, Resume) else super().answer(action)

    def fails(self, *found: ev.Looked, at: float = 10.0) -> Split:
        self.find(*found).at(at, REFUSED)
        return self

    def moves(self, sent: int) -> None:
        """A reading says how much was sent by now."""
        self.at(self.now, ev.StatsSeen(flowing(sent)[0].stats))


# What both hosts say together

WORDS = [None, *(status.value for status in Status), "postcopy-teleport"]
HALVES = (Half.SPLIT, Half.SPLIT_FAILED)
STUCK = ("none", "cancelling", "cancelled", "failing", "failed")
BEFORE = ("setup", "wait-unplug", "active", "pre-switchover", "device", "postcopy-device")  # fmt: skip

#: A source with half of the guest whose QEMU is paused, by what the destination says.
PAUSED_WITH = {
    Half.WHOLE: D.UNCLEAR,
    Half.MIGRATING: D.UNCLEAR,
    Half.SPLIT: D.HALF_PAUSED,
    Half.SPLIT_FAILED: D.PAUSED,
    Half.LEFT: D.UNCLEAR,
    Half.INACTIVE: D.GONE,
    Half.GONE: D.GONE,
    Half.UNKNOWN: D.UNREACHABLE,
}
#: A source that has no half: what it says (rows) and what the destination says.  "on" flows before the switch.
ELSEWHERE = """
            whole        migrating    split        failed       left         inactive     gone         unknown
whole       over         over         unclear      unclear      over         over         over         over
migrating   unclear      unclear      unclear      unclear      unclear      over         over         unclear
left        arrived      flowing      flowing      flowing      flowing      unclear      unclear      unreachable
inactive    over         unclear      unclear      gone         unclear      gone         gone         unclear
gone        over         unclear      unclear      gone         unclear      gone         gone         unclear
unknown     unreachable  unreachable  unreachable  unreachable  unreachable  unreachable  unreachable  unreachable
"""
NAMES = dict(
    zip(
        [
            "whole",
            "migrating",
            "split",
            "failed",
            "left",
            "inactive",
            "gone",
            "unknown",
        ],
        Half,
    )
)  # noqa: SIM905


def elsewhere(here: Half, there: Half) -> Diagnosis:
    header, *rows = (row.split() for row in ELSEWHERE.strip().splitlines())
    (row,) = (row for row in rows if NAMES[row[0]] is here)
    return Diagnosis(row[1:][[NAMES[name] for name in header].index(there)])


def expected(here: Half, there: Half, word: str | None) -> Diagnosis:
    if here in (Half.WHOLE, Half.MIGRATING) and word in BEFORE:
        return D.FLOWING
    if here not in HALVES:
        return elsewhere(here, there)
    if there in (Half.GONE, Half.INACTIVE):
        # Whoever is still sent pages has somebody who takes them.
        return D.FLOWING if word in ("postcopy-active", "postcopy-device") else D.GONE
    if word is None or word in STUCK:
        return D.UNCLEAR
    return PAUSED_WITH[there] if word == "postcopy-paused" else D.FLOWING


@pytest.mark.parametrize("here, there", list(product(Half, Half)))
def test_diagnosis(here: Half, there: Half) -> None:
    for word in WORDS:
        found = diagnose(as_qemu_says(looked(SRC, here, word)), looked(DST, there))
        is_left = here in HALVES and word == "completed"
        what = Half.LEFT if is_left else here
        assert found is expected(what, there, word), word


def test_resume_is_diagnosed_only_where_both_are_paused() -> None:
    paused = [
        (here, there, word)
        for here, there, word in product(Half, Half, WORDS)
        if diagnose(looked(SRC, here, word), looked(DST, there)) is D.PAUSED
    ]
    assert paused == [(half, Half.SPLIT_FAILED, "postcopy-paused") for half in HALVES]


@pytest.mark.parametrize(
    "side, libvirt, qemu, obstacle",
    [
        (SRC, 8_004_000, 7_002_000, "libvirt 8.4.0 on the source cannot resume a broken post-copy (8.5.0 and later can)"),
        (DST, 8_005_000, 7_002_000, ""),
        (DST, 11_001_000, 10_000_000, ""),
        (DST, 11_002_000, 10_000_000, "libvirt 11.2.0 on the destination crashes when a migration is resumed (11.2.0 to 11.3.0; fixed in 11.4.0)"),
        (DST, 11_003_000, 10_000_000, "libvirt 11.3.0 on the destination crashes when a migration is resumed (11.2.0 to 11.3.0; fixed in 11.4.0)"),
        (DST, 11_004_000, 10_000_000, ""),
        (SRC, 11_003_000, 10_000_000, ""),  # only a destination crashes
        (SRC, 9_000_000, 2_012_000, "QEMU 2.12.0 on the source cannot resume a broken post-copy (3.0 and later can)"),
        (SRC, 9_000_000, 3_000_000, ""),
    ],
)  # fmt: skip
def test_obstacle(side: Side, libvirt: int, qemu: int, obstacle: str) -> None:
    assert resume_obstacle(side, libvirt, qemu) == obstacle


# Resuming


def test_broken_guest_is_resumed_at_once_and_completes() -> None:
    scene = Split().fails(*PAUSED)
    assert scene.resumes == [10.0]
    scene.ending = ended(Place.DESTINATION, None)
    scene.until(11.0)
    assert (scene.phase, scene.migration.place) == (Phase.COMPLETED, Place.DESTINATION)
    assert scene.migration.given_up == ""


# A source of an old QEMU: the thread that read the broken channel may still be about to close the next one


def old(look: ev.Looked) -> ev.Looked:
    return replace(look, qemu=7_002_022)


OLD_PAUSED = (old(PAUSED[0]), PAUSED[1])
OLD_HALF_PAUSED = (old(PAUSED[0]), HALF_PAUSED[1])
OLD_SILENT_THERE = (old(PAUSED[0]), SILENT_THERE[1])


@pytest.mark.parametrize(
    "qemu, rest_s",
    [(0, REST_S), (7_002_022, REST_S), (8_001_001, REST_S), (8_001_002, 0.0)],
)
def test_source_that_could_die_of_a_resume_is_left_alone_after_each_break(
    qemu: int, rest_s: float
) -> None:
    paused = replace(PAUSED[0], qemu=qemu), PAUSED[1]
    scene = Split().fails(*paused)
    scene.until(11.0)
    assert scene.resumes[0] == pytest.approx(10.0 + rest_s)
    scene.ending = None
    scene.until(MINUTE)
    scene.find(*flowing(5)).at(MINUTE, *walk("postcopy-recover", "postcopy-active"))
    scene.moves(5)
    scene.moves(6)
    before, broken_at = len(scene.resumes), scene.now + 1
    scene.find(*paused).at(broken_at, *walk("postcopy-paused"), REFUSED)
    scene.until(broken_at + 1)
    assert scene.resumes[before] == pytest.approx(broken_at + max(rest_s, 0.2))


def test_break_after_a_resume_that_nobody_saw_come_to_something_counts_anew() -> None:
    scene = Split().fails(*OLD_PAUSED)
    scene.ending = None
    scene.until(11.0)
    assert scene.resumes == [10.0 + REST_S]
    scene.at(12.0, REFUSED)
    scene.until(13.0)
    assert scene.resumes[1:2] == [pytest.approx(12.0 + REST_S)]


@pytest.mark.parametrize("found", [OLD_HALF_PAUSED, OLD_SILENT_THERE])
def test_source_that_has_rested_is_resumed_as_soon_as_it_can_be(found) -> None:
    scene = Split().fails(*found)
    scene.until(MINUTE)
    assert scene.resumes == []
    scene.find(*OLD_PAUSED).until(MINUTE + LOOK_S)
    assert len(scene.resumes) == 1


def test_source_that_somebody_else_has_resumed_rests_after_the_next_break() -> None:
    scene = Split().fails(*OLD_HALF_PAUSED)
    scene.until(20.0)
    scene.find(old(FLOWING[0]), FLOWING[1]).until(21.0)
    scene.find(*OLD_PAUSED).at(21.1, *OLD_PAUSED)
    scene.until(22.0)
    assert scene.resumes[:1] == [pytest.approx(21.1 + REST_S)]


def test_daemon_that_comes_and_goes_does_not_put_off_a_resume() -> None:
    scene = Split().fails(*OLD_PAUSED)
    for found in (OLD_SILENT_THERE, OLD_PAUSED):
        scene.at(scene.now + REST_S / 4, *found)
    scene.until(10.0 + REST_S)
    assert scene.resumes == [10.0 + REST_S]


def test_rest_counts_from_when_the_source_has_said_so_itself() -> None:
    scene = Split().find(*OLD_PAUSED)
    scene.at(10.0, status("postcopy-paused"))
    scene.at(10.0 + REST_S / 2, REFUSED)
    scene.until(11.0)
    assert scene.resumes[0] == pytest.approx(10.0 + REST_S)


def test_short_patience_is_not_used_up_by_the_rest() -> None:
    scene = Split(patience_s=REST_S / 2).fails(*OLD_PAUSED)
    scene.until(MINUTE)
    assert scene.resumes == [10.0 + REST_S]
    assert scene.migration.place is Place.SPLIT and scene.migration.given_up
    never = Split(patience_s=0.0).fails(*OLD_PAUSED)
    never.until(MINUTE)
    assert never.resumes == [] and never.migration.place is Place.SPLIT


def test_break_that_is_seen_late_is_never_resumed_where_that_is_not_wanted() -> None:
    """The look that tells of it brings newer figures, as if pages had moved since."""
    scene = Split(patience_s=0.0)
    scene.moves(5)
    scene.at(9.9, status("postcopy-paused"))
    here = replace(old(PAUSED[0]), stats=flowing(6)[0].stats)
    scene.find(here, PAUSED[1]).at(10.05, REFUSED)
    scene.until(10.1)
    assert scene.migration.is_over and scene.migration.place is Place.SPLIT
    assert scene.resumes == []


def test_look_from_before_a_resume_came_to_something_is_none_of_the_next_break() -> (
    None
):
    scene = Split().fails(*OLD_PAUSED)
    scene.ending = None
    scene.until(11.0)
    scene.at(11.0, OLD_PAUSED[0])  # it was on its way
    scene.at(15.0, REFUSED)
    scene.until(16.0)
    assert scene.resumes[1:2] == [pytest.approx(15.0 + REST_S)]


def test_guest_that_has_arrived_meanwhile_is_a_success() -> None:
    scene = Split().fails(*MOVED)
    assert scene.migration.place is Place.DESTINATION
    assert scene.resumes == [] and scene.now == 10.0


def waits(scene: Scene) -> list[float]:
    return [b - a for a, b in zip(scene.resumes, scene.resumes[1:])]


def test_refused_resume_is_tried_again_with_growing_pauses() -> None:
    scene = Split().fails(*PAUSED)
    scene.until(5 * MINUTE)
    grown = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]
    assert waits(scene)[: len(grown)] == pytest.approx(grown, abs=0.001)
    attempts = [action.attempt for _, action in scene.asked(Resume)]
    assert attempts == list(range(1, len(attempts) + 1))


@pytest.mark.parametrize("jitter, share", [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_pauses_are_spread_between_half_and_all(jitter: float, share: float) -> None:
    """Many guests whose link came back must not come back in one moment."""
    scene = Split(jitter=lambda: jitter).fails(*PAUSED)
    scene.until(5 * MINUTE)
    assert waits(scene)[:3] == pytest.approx([0.2 * share, 0.4 * share, 0.8 * share])
    assert max(waits(scene)) == pytest.approx(10.0 * share)


def test_second_break_is_recovered_as_promptly_as_the_first() -> None:
    scene = Split().fails(*PAUSED)
    scene.until(MINUTE)
    assert waits(scene)[-1] > 5, "the pauses have grown"
    scene.ending = None
    scene.until(scene.now + 11)
    scene.find(*FLOWING).at(scene.now, *walk("postcopy-recover", "postcopy-active"))
    before = len(scene.resumes)
    scene.moves(5)
    scene.moves(6)
    assert scene.phase is Phase.POSTCOPY
    broken_at = scene.now + STALL_S / 2
    scene.find(*PAUSED).at(broken_at, *walk("postcopy-paused"), REFUSED)
    scene.until(broken_at + 1)
    assert scene.resumes[before:] == [pytest.approx(broken_at + 0.2)]


def test_break_during_the_second_recovery_is_recovered() -> None:
    scene = Split().fails(*PAUSED)
    for _ in range(3):
        scene.ending = None
        scene.until(scene.now + 20)
        assert scene.asked(Resume)[-1][0] <= scene.now
        scene.at(scene.now, *walk("postcopy-recover", "postcopy-paused"), REFUSED)
    before = len(scene.resumes)
    scene.ending = ended(Place.DESTINATION, None)
    scene.until(scene.now + 20)
    assert len(scene.resumes) == before + 1 and scene.phase is Phase.COMPLETED


def test_nothing_is_done_while_a_resumed_call_is_under_way() -> None:
    scene = Split()
    scene.ending = None
    scene.fails(*PAUSED)
    looks = len(scene.times(Look))
    scene.find(*FLOWING).until(10.0 + STALL_S - 1)
    assert scene.resumes == [10.0] and scene.notes == []
    assert scene.times(Look)[looks:] == [10.0 + HANG_S] * len(Side)


# A call that does not come back


def hanging(patience_s: float = MINUTE, *found: ev.Looked) -> Split:
    """The call that resumes it does not come back."""
    scene = Split(patience_s=patience_s)
    scene.ending = None
    return scene.fails(*PAUSED).find(*(found or PAUSED))  # type: ignore[return-value]


def test_resume_that_does_not_come_back_is_told_within_seconds() -> None:
    scene = hanging()
    scene.until(10.0 + HANG_S + TELL_S)
    (note,) = scene.notes
    assert "the destination's takes no command" in note and note.endswith(
        "waiting for it"
    )
    scene.until(30.0)
    assert scene.notes == [note] and scene.resumes == [10.0]


def test_patience_ends_for_a_resume_that_does_not_come_back() -> None:
    scene = hanging()
    scene.until(10.0 + MINUTE - 0.1)
    assert not scene.migration.is_over
    scene.until(10.0 + MINUTE)
    assert scene.migration.place is Place.SPLIT and scene.resumes == [10.0]
    assert scene.migration.halves == (Half.SPLIT_FAILED, Half.SPLIT_FAILED)
    reason = scene.migration.given_up
    assert reason.startswith(
        "given up after 60 s in which no page has moved; libvirt's call"
    )


def test_resume_that_does_not_come_back_has_its_time_in_any_case() -> None:
    scene = hanging(patience_s=6.0)
    scene.until(10.0 + HANG_S + SETTLE_S - 0.1)
    assert not scene.migration.is_over
    scene.until(10.0 + HANG_S + SETTLE_S)
    assert scene.migration.is_over and scene.migration.place is Place.SPLIT


def test_resume_that_comes_back_late_is_followed_by_another() -> None:
    scene = hanging()
    scene.until(40.0)
    scene.at(40.0, REFUSED)
    scene.until(41.0)
    assert len(scene.resumes) == 2


def test_resume_that_comes_to_something_late_is_left_alone() -> None:
    scene = hanging()
    scene.until(30.0)
    for tick in range(1, 12):
        scene.find(*flowing(tick)).until(30.0 + tick * 10)
    assert not scene.migration.is_over and scene.resumes == [10.0]
    scene.ending = None
    scene.at(scene.now, ended(Place.DESTINATION, None))
    assert scene.migration.place is Place.DESTINATION


LOADING = (PAUSED[0], looked(DST, Half.MIGRATING))
RUNS_HERE = replace(looked(SRC, Half.SPLIT_FAILED, "failed"), run_state="running")


@pytest.mark.parametrize("found", [SILENT_THERE, SILENT, LOADING])
def test_call_is_not_left_where_the_destination_may_need_it(
    found: tuple[ev.Looked, ev.Looked],
) -> None:
    """It was not seen to run the guest yet; libvirt ends the call where a daemon is away."""
    scene = Split(MINUTE)
    scene.find(*found).until(10 * MINUTE)
    assert not scene.migration.is_over
    scene = hanging(MINUTE, *LOADING)
    scene.until(10 * MINUTE)
    assert not scene.migration.is_over


NOTHING_TELLS = [
    SILENT,
    SILENT_HERE,
    SILENT_THERE,
    UNCLEAR,
    (looked(SRC, Half.SPLIT), looked(DST, Half.SPLIT)),  # its QEMU answers nothing
    (looked(SRC, Half.SPLIT, "postcopy-active"), looked(DST, Half.UNKNOWN)),
    (looked(SRC, Half.SPLIT_FAILED, "cancelling"), looked(DST, Half.SPLIT_FAILED)),
    (looked(SRC, Half.SPLIT_FAILED, "failed"), looked(DST, Half.UNKNOWN)),
    (RUNS_HERE, looked(DST, Half.UNKNOWN)),
]


@pytest.mark.parametrize("is_resumed", [False, True])
@pytest.mark.parametrize("found", NOTHING_TELLS)
def test_call_is_left_in_the_end_though_nothing_tells_what_it_waits_for(
    found: tuple[ev.Looked, ev.Looked], is_resumed: bool
) -> None:
    """A source's QEMU that answers nothing does not end it, and its daemon lives; the guest runs on the destination."""
    scene = hanging(MINUTE) if is_resumed else Split(MINUTE)
    scene.find(*found)
    scene.at(scene.now + 1.0, ev.Resumed(DST))
    scene.until(MINUTE)
    assert not scene.migration.is_over
    scene.until(3 * MINUTE)
    assert scene.migration.is_over
    assert scene.migration.place in (Place.SPLIT, Place.UNKNOWN)
    text = "do not both run" if RUNS_HERE in found else "does not come back"
    assert text in scene.migration.given_up


def test_stuck_call_has_its_end_though_no_look_comes_back() -> None:
    """Neither was the guest seen on the destination, nor does anything else come."""
    scene = Split(MINUTE)
    scene.at(1.0, *walk("postcopy-paused"))
    scene.find(RUNS_HERE, looked(DST, Half.GONE)).until(STALL_S + 2.0)
    scene.hosts.clear()  # from now on they hang
    scene.until(scene.now + 2.0)
    assert scene.migration.deadline() is not None
    scene.until(3 * MINUTE)
    assert scene.migration.is_over


def test_call_that_nothing_tells_of_is_left_without_patience_when_the_kernels_give_up() -> (
    None
):
    scene = Split(0.0)
    scene.at(1.0, ev.Resumed(DST))
    scene.find(*SILENT).until(KERNELS_S)
    assert not scene.migration.is_over
    scene.until(KERNELS_S + STALL_S + 2 * UNCLEAR_S)
    assert scene.migration.is_over


@pytest.mark.parametrize("here", [RUNS_HERE, looked(SRC, Half.WHOLE)])
def test_guest_that_is_whole_here_is_not_told_so_while_it_may_run_there(
    here: ev.Looked,
) -> None:
    """The destination ran it, and says nothing now: that is waited for, and silence is no certainty."""
    scene = Split(10 * MINUTE)
    scene.at(1.0, ev.Resumed(DST))
    scene.find(here, looked(DST, Half.UNKNOWN))
    scene.at(2.0, ev.Ended("failed", here=here.half, there=Half.UNKNOWN))
    scene.until(5 * MINUTE)
    assert not scene.migration.is_over
    assert ["do not both run" in note for note in scene.notes] == [True]
    scene.until(15 * MINUTE)
    assert scene.migration.place is Place.UNKNOWN
    assert "do not both run" in scene.migration.given_up


def test_guest_that_has_arrived_is_there_though_its_source_cannot_be_looked_at() -> (
    None
):
    there = looked(DST, Half.WHOLE)
    scene = Split()
    scene.at(1.0, ev.Resumed(DST))
    scene.find(looked(SRC, Half.UNKNOWN), there)
    scene.at(2.0, ev.Ended("connection lost", there=Half.WHOLE))
    scene.until(2.0 + SETTLE_S - 0.1)
    assert not scene.migration.is_over
    scene.until(4.0 + SETTLE_S)
    assert scene.migration.place is Place.DESTINATION
    [note] = scene.notes
    assert "cannot be looked at" in note and "must not be resumed" in note


def test_whole_guest_there_that_was_never_seen_to_run_may_be_another() -> None:
    scene = Split(MINUTE)
    scene.find(looked(SRC, Half.UNKNOWN), looked(DST, Half.WHOLE))
    scene.at(2.0, ev.Ended("connection lost", there=Half.WHOLE))
    scene.until(3 * MINUTE)
    assert scene.migration.place is Place.UNKNOWN


def test_guest_that_is_whole_here_and_never_ran_there_is_here() -> None:
    scene = Split()
    scene.find(looked(SRC, Half.WHOLE), looked(DST, Half.UNKNOWN))
    scene.at(2.0, ev.Ended("failed", here=Half.WHOLE, there=Half.UNKNOWN))
    scene.until(MINUTE)
    assert scene.migration.place is Place.SOURCE


def test_first_call_may_hang_too() -> None:
    """Where the daemon that would end it waits for the destination's QEMU."""
    scene = Split(patience_s=MINUTE)
    scene.moves(100)
    scene.at(1.0, *walk("postcopy-active", "postcopy-paused", side=DST))
    scene.at(1.0, *walk("postcopy-paused"))
    # libvirt cannot take note of what QEMU has said.
    scene.find(*HALF_PAUSED).until(1.0 + HANG_S + TELL_S)
    assert len(scene.notes) == 1 and "does not come back" in scene.notes[0]
    scene.until(2 * MINUTE)
    assert scene.migration.is_over and scene.migration.place is Place.SPLIT


def test_call_that_hangs_before_a_page_was_seen_to_move_is_given_up_too() -> None:
    scene = Split(patience_s=MINUTE)
    scene.at(1.0, *walk("postcopy-paused"))
    scene.find(*PAUSED).until(1.0 + MINUTE)
    assert scene.migration.is_over and scene.migration.place is Place.SPLIT


@pytest.mark.parametrize("found", [PAUSED, HALF_PAUSED])
def test_call_that_hangs_where_nothing_can_be_resumed_is_not_waited_for(
    found: tuple[ev.Looked, ev.Looked],
) -> None:
    """libvirt before 8.5 does not notice that QEMU is paused, and its call never comes back."""
    obstacle = resume_obstacle(Side.SOURCE, 7_000_000, 5_002_000)
    scene = Split(patience_s=MINUTE)
    scene.moves(100)
    scene.at(1.0, *walk("postcopy-paused"))
    scene.find(replace(found[0], obstacle=obstacle), found[1]).until(
        1.0 + HANG_S + SETTLE_S - 0.1
    )
    assert not scene.migration.is_over
    scene.until(1.0 + HANG_S + SETTLE_S)
    assert scene.migration.is_over and scene.migration.place is Place.SPLIT
    assert scene.migration.given_up.endswith(obstacle) and scene.resumes == []
    assert scene.notes == []


def test_break_that_the_destination_has_not_noticed_is_told_during_a_call_too() -> None:
    scene = Split(patience_s=MINUTE)
    scene.moves(100)
    scene.at(1.0, *walk("postcopy-paused"))
    scene.find(*HALF_PAUSED).until(1.0 + HANG_S + TELL_S)
    assert len(scene.notes) == 1 and "ss -t -K" in scene.notes[0]


def test_call_that_ends_soon_after_the_break_is_not_doubted() -> None:
    scene = Split()
    scene.moves(100)
    looks = len(scene.times(Look))
    scene.at(1.0, *walk("postcopy-paused"))
    scene.until(1.0 + HANG_S - 0.1)
    assert len(scene.times(Look)) == looks


STANDS_STILL = replace(HALF_PAUSED[1], stands_still=True)


def beside_the_call() -> Split:
    """The first call hangs, and the one that goes round it is under way."""
    scene = Split(patience_s=MINUTE)
    scene.ending = None
    scene.moves(100)
    scene.at(1.0, *walk("postcopy-paused"))
    scene.find(PAUSED[0], STANDS_STILL).until(1.0 + HANG_S)
    assert scene.resumes == [1.0 + HANG_S]
    return scene


def test_destination_that_the_driver_can_recover_is_recovered_beside_the_call() -> None:
    scene = beside_the_call()
    assert scene.notes == []
    scene.find(*flowing(101)).at(scene.now, *walk("postcopy-recover"), REFUSED)
    scene.until(10.0)
    scene.at(10.0, replace(REFUSED, call=0))  # the first call comes back at last
    scene.until(15.0)
    assert len(scene.resumes) == 1 and not scene.migration.is_over
    scene.find(*MOVED).until(20.0)
    assert scene.migration.place is Place.DESTINATION


@pytest.mark.parametrize("call, resumes", [(0, 1), (1, 2), (None, 2)])
def test_failure_of_a_call_that_was_left_is_not_that_of_the_one_under_way(
    call: int | None, resumes: int
) -> None:
    scene = beside_the_call().find(*PAUSED)
    scene.at(scene.now, replace(REFUSED, call=call))
    scene.until(scene.now + 1.0)
    assert len(scene.resumes) == resumes


def test_good_end_is_true_whichever_call_tells_it() -> None:
    scene = beside_the_call()
    scene.at(scene.now, replace(ended(Place.DESTINATION, None), call=0))
    assert scene.migration.place is Place.DESTINATION


def test_recovery_beside_the_call_is_tried_again_with_growing_pauses() -> None:
    scene = Split(patience_s=MINUTE)
    scene.moves(100)
    scene.at(1.0, *walk("postcopy-paused"))
    scene.find(PAUSED[0], STANDS_STILL).until(1.0 + HANG_S + 3.0)
    assert waits(scene)[:3] == pytest.approx([0.2, 0.4, 0.8], abs=0.001)


def test_without_patience_nothing_is_recovered_beside_the_call() -> None:
    scene = Split(patience_s=0.0)
    scene.moves(100)
    scene.at(1.0, *walk("postcopy-paused"))
    scene.find(PAUSED[0], STANDS_STILL).until(MINUTE)
    assert scene.resumes == [] and scene.migration.place is Place.SPLIT


# Patience


def test_patience_ends_it_split_with_the_reason() -> None:
    scene = Split(patience_s=MINUTE).fails(*PAUSED)
    scene.until(10 * MINUTE)
    assert scene.migration.place is Place.SPLIT and scene.phase is Phase.BROKEN
    assert scene.migration.given_up == "given up after 60 s in which no page has moved"
    assert scene.resumes[-1] <= 10.0 + MINUTE


def test_patience_counts_from_the_last_page_that_moved() -> None:
    scene = Split(patience_s=MINUTE)
    scene.moves(100)
    scene.at(8.0)
    scene.moves(101)
    scene.fails(*PAUSED, at=40.0)
    scene.until(8.0 + MINUTE - 0.1)
    assert not scene.migration.is_over
    scene.until(8.0 + MINUTE)
    assert scene.migration.is_over


def test_break_that_was_noticed_late_is_looked_at_even_so() -> None:
    """TCP may take longer than the operator's patience to give a link up."""
    scene = Split(patience_s=MINUTE)
    scene.moves(100)
    scene.at(15 * MINUTE, REFUSED)
    assert not scene.migration.is_over
    scene.at(15 * MINUTE + 1, *MOVED)
    assert scene.migration.place is Place.DESTINATION


def test_flow_that_goes_on_by_itself_is_waited_for_beyond_patience() -> None:
    scene = Split(patience_s=MINUTE).fails(*flowing(0))
    for tick in range(1, 61):
        scene.find(*flowing(tick)).until(10.0 + tick * STALL_S / 2)
    assert not scene.migration.is_over
    assert scene.pauses == scene.resumes == []
    assert scene.notes == ["only a control connection was lost, QEMU goes on by itself: waiting for its end"]  # fmt: skip
    scene.find(*MOVED).until(scene.now + 1)
    assert scene.migration.place is Place.DESTINATION


def test_page_requests_are_a_flow_too() -> None:
    """Where only what the guest asks for is sent, zero pages cost no bytes that are counted."""
    scene = Split(patience_s=MINUTE).fails(*flowing(7))
    for tick in range(1, 31):
        scene.find(*flowing(7, requests=tick)).until(10.0 + tick * 10)
    assert not scene.migration.is_over and scene.pauses == []


@pytest.mark.parametrize(
    "found, where",
    [
        (PAUSED, Place.SPLIT),
        (HALF_PAUSED, Place.SPLIT),
        (FLOWING, Place.SPLIT),
        (SILENT_HERE, Place.SPLIT),
        (SILENT, Place.UNKNOWN),
        (UNCLEAR, Place.SPLIT),
        (GONE, Place.LOST),
        (MOVED, Place.DESTINATION),
    ],
)
def test_without_patience_it_is_only_looked_at_until_the_verdict_is_clear(
    found: tuple[ev.Looked, ev.Looked], where: Place
) -> None:
    scene = Split(patience_s=0.0).fails(*found)
    scene.until(10.0 + SETTLE_S)
    assert scene.migration.is_over and scene.migration.place is where
    assert scene.resumes == scene.pauses == scene.notes == []
    assert scene.migration.given_up == ""


# Waiting


def test_half_paused_guest_is_waited_for_and_never_resumed() -> None:
    """libvirt would refuse it until the destination has noticed the break."""
    scene = Split().fails(*HALF_PAUSED)
    scene.until(5 * MINUTE)
    assert scene.resumes == []
    (note,) = scene.notes
    assert note.startswith(
        "the source has noticed that the link is broken, the destination has not yet: waiting for it"
    )
    assert "ss -t -K" in note
    scene.find(*PAUSED).until(5 * MINUTE + LOOK_S)
    assert len(scene.resumes) >= 1


@pytest.mark.parametrize(
    "found, side", [(SILENT_HERE, "source"), (SILENT_THERE, "destination")]
)
def test_silent_daemon_is_waited_for(found, side: str) -> None:
    scene = Split().fails(*found)
    scene.until(10.0 + TELL_S - 0.1)
    assert scene.notes == [], "many a wait is over at once"
    scene.until(5 * MINUTE)
    assert scene.resumes == scene.pauses == []
    assert scene.notes == [f"the {side}'s daemon does not answer: waiting for it"]
    away = [replace(look, listens=look.half is not Half.UNKNOWN) for look in found]
    cut_off = Split().fails(*away)
    cut_off.until(10.0 + TELL_S)
    assert cut_off.notes == [f"the {side}'s daemon cannot be reached: waiting for it"]
    scene.find(*PAUSED).until(5 * MINUTE + LOOK_S)
    assert len(scene.resumes) >= 1


def test_look_that_hangs_is_not_asked_for_again_and_does_not_stop_the_other() -> None:
    scene = Split().fails(SILENT_HERE[0])  # the destination's does not come back
    scene.until(MINUTE)
    sides = [action.side for _, action in scene.asked(Look)]
    assert sides.count(DST) == 1 and sides.count(SRC) >= 50
    scene.at(MINUTE, PAUSED[1])
    scene.find(*PAUSED).until(MINUTE + LOOK_S)
    assert len(scene.resumes) >= 1


def test_hosts_are_looked_at_twice_a_second() -> None:
    scene = Split().fails(*HALF_PAUSED)
    scene.until(20.0)
    of_source = [when for when, action in scene.asked(Look) if action.side is SRC]
    assert of_source == pytest.approx([10.0 + n * LOOK_S for n in range(21)])


def test_event_hurries_the_next_look() -> None:
    scene = Split().fails(*HALF_PAUSED)
    scene.until(10.1)
    scene.find(*PAUSED).at(10.1, *walk("postcopy-active", "postcopy-paused", side=DST))
    assert scene.resumes == [10.1, *scene.resumes[1:]]


ARRIVED = (looked(SRC, Half.SPLIT, "completed"), looked(DST, Half.WHOLE))


@pytest.mark.parametrize("half", [Half.SPLIT, Half.SPLIT_FAILED, Half.LEFT])
def test_guest_that_libvirt_has_not_seen_off_is_on_the_destination(half: Half) -> None:
    """That is also a moment of every completion."""
    arrived = (looked(SRC, half, "completed"), ARRIVED[1])
    passing = Split().fails(*arrived)
    passing.until(10.0 + SETTLE_S - LOOK_S - 0.1)
    assert not passing.migration.is_over
    passing.find(*MOVED).until(10.0 + SETTLE_S)
    assert passing.migration.place is Place.DESTINATION and passing.notes == []
    lasting = Split().fails(*arrived)
    lasting.until(10.0 + SETTLE_S)
    assert lasting.migration.place is Place.DESTINATION
    assert lasting.phase is Phase.COMPLETED and lasting.resumes == []
    (note,) = lasting.notes
    assert "must not be resumed" in note


@pytest.mark.parametrize("half", [Half.SPLIT, Half.LEFT])
@pytest.mark.parametrize("there", [Half.GONE, Half.INACTIVE, Half.UNKNOWN])
def test_guest_that_was_sent_is_never_lost_for_its_absence(
    half: Half, there: Half
) -> None:
    """All of it is on the source yet; and who knows where it went from the destination."""
    scene = Split(patience_s=MINUTE)
    scene.fails(looked(SRC, half, "completed"), looked(DST, there))
    scene.until(10.0 + UNCLEAR_S - 0.1)
    assert there is Half.UNKNOWN or not scene.migration.is_over
    scene.until(10.0 + 2 * UNCLEAR_S)
    assert scene.migration.place is Place.UNKNOWN
    assert scene.resumes == scene.pauses == []
    has_none = "the destination has none" in scene.migration.given_up
    assert has_none is (there is not Half.UNKNOWN)


TWO = (looked(SRC, Half.WHOLE), looked(DST, Half.WHOLE))


def test_two_whole_ones_after_a_switch_are_told_and_neither_is_said_to_be_it() -> None:
    """Started again in the switch, a source's daemon resumes what is left there, if no lock of a disk's keeps it from it."""
    scene = Split().find(*TWO)
    scene.at(10.0, ev.Ended("End of file", here=Half.WHOLE, there=Half.WHOLE))
    scene.until(10.0 + SETTLE_S - 0.1)
    assert not scene.migration.is_over
    scene.until(10.0 + SETTLE_S)
    assert scene.migration.is_over and scene.migration.place is Place.UNKNOWN
    assert "see that they do not both run" in scene.migration.given_up


def test_whole_one_on_either_host_before_a_switch_is_the_sources() -> None:
    """libvirt refuses to migrate to where a guest of that UUID is."""
    scene = Scene(patience_s=MINUTE).find(*TWO)
    scene.at(1.0, status("setup"), ev.Ended("exists", here=Half.UNKNOWN))
    assert scene.migration.place is Place.SOURCE


def test_half_that_is_gone_must_stay_gone_to_be_lost() -> None:
    """It is also the last moment of every completion."""
    passing = Split().fails(*GONE)
    passing.until(10.0 + SETTLE_S - LOOK_S - 0.1)
    assert not passing.migration.is_over
    passing.find(*MOVED).until(10.0 + SETTLE_S + LOOK_S)
    assert passing.migration.place is Place.DESTINATION
    lasting = Split().fails(*GONE)
    lasting.until(10.0 + SETTLE_S)
    assert lasting.migration.is_over and lasting.phase is Phase.LOST


@pytest.mark.parametrize("here, there", [(Half.GONE, Half.SPLIT_FAILED), (Half.SPLIT_FAILED, Half.GONE), (Half.GONE, Half.INACTIVE)])  # fmt: skip
def test_it_is_known_which_half_has_gone_after_the_break(
    here: Half, there: Half
) -> None:
    """When the call ended both were there."""
    scene = Split().fails(*PAUSED)
    assert scene.migration.halves == (Half.UNKNOWN, Half.UNKNOWN)
    scene.until(12.0)
    scene.find(looked(SRC, here, "postcopy-paused"), looked(DST, there))
    scene.at(12.0, REFUSED)
    scene.until(12.0 + LOOK_S + SETTLE_S)
    assert scene.migration.place is Place.LOST
    assert scene.migration.halves == (here, there)


def test_what_stays_unclear_ends_split() -> None:
    scene = Split().fails(*UNCLEAR)
    scene.until(10.0 + UNCLEAR_S - 0.1)
    assert not scene.migration.is_over
    scene.until(10.0 + UNCLEAR_S)
    assert scene.migration.is_over and scene.migration.place is Place.SPLIT
    assert scene.resumes == []


@pytest.mark.parametrize("word", STUCK)
def test_source_that_has_given_up_is_not_waited_for_as_if_pages_moved(
    word: str,
) -> None:
    here = looked(SRC, Half.SPLIT_FAILED, word)
    scene = Split().fails(here, FLOWING[1])
    scene.until(10.0 + UNCLEAR_S)
    assert scene.migration.is_over and scene.migration.place is not Place.SOURCE
    assert scene.pauses == scene.resumes == []


# A destination that rejects the state of the devices


def rejected(recording: str) -> dict[str, str | int]:
    """What the source's QEMU said of its migration and of its vCPUs, first, once the destination had failed."""
    text = (FOLDER / f"{recording}.ndjson").read_text(encoding="utf-8")
    header, *lines = map(json.loads, text.splitlines())
    ours = [line for line in lines if line.get("side") == "src"]
    given_up = next(
        at for at, line in enumerate(ours)
        if line["dir"] == "event" and line["msg"].get("data", {}).get("status") in ("postcopy-paused", "failed")
    )  # fmt: skip
    replies = [each["msg"]["return"] for each in ours[given_up:] if each["dir"] == "reply" and each["msg"].get("return")]  # fmt: skip
    migration = next(reply for reply in replies if "running" not in reply)
    vcpus = next(reply for reply in replies if "running" in reply)
    major, minor, micro = map(int, header["qemu"].split("."))
    return {
        "status": migration["status"],
        "run_state": vcpus["status"],
        "qemu": major * 1_000_000 + minor * 1000 + micro,
        "requests": migration.get("ram", {}).get("postcopy-requests", 0),
    }


def given_up(recording: str) -> ev.Looked:
    said = rejected(recording)
    stats = Stats(postcopy_requests=int(said["requests"]))
    return ev.Looked(
        SRC,
        Half.SPLIT_FAILED,
        str(said["status"]),
        stats,
        run_state=str(said["run_state"]),
        qemu=int(said["qemu"]),
    )


@pytest.mark.parametrize(
    "recording, found, words",
    [
        ("qemu-3.0/recorded-dst-load-fails", Place.UNKNOWN, "QEMU 3.0.1 on the source can go on where it stopped"),
        ("qemu-5.2/device-state-rejected", Place.LOST, "QEMU 5.2.0 on the source cannot go on from there"),
        ("qemu-6.2/recorded-dst-load-fails", Place.LOST, "QEMU 6.2.0 on the source cannot go on from there"),
        ("qemu-7.2/device-state-rejected", Place.LOST, "QEMU 7.2.22 on the source cannot go on from there"),
        ("qemu-10.0/device-state-rejected", Place.LOST, "QEMU 10.0.13 on the source cannot go on from there"),
        ("qemu-11.1/device-state-rejected", Place.SOURCE, "runs the guest again"),
    ],
)  # fmt: skip
def test_whether_the_source_goes_on_is_said(
    recording: str, found: Place, words: str
) -> None:
    scene = Split().fails(given_up(recording), looked(DST, Half.GONE))
    scene.until(10.0 + SETTLE_S + LOOK_S)
    assert scene.migration.place is found
    assert words in scene.migration.given_up
    assert scene.resumes == scene.pauses == []


def test_source_that_goes_on_is_found_even_while_the_destination_is_silent() -> None:
    here = given_up("qemu-11.1/device-state-rejected")
    scene = Split().fails(here, looked(DST, Half.UNKNOWN))
    assert scene.migration.place is Place.SOURCE and scene.phase is Phase.FAILED


def test_two_that_may_run_are_left_alone_and_told() -> None:
    here = given_up("qemu-11.1/device-state-rejected")
    scene = Split().fails(here)  # the destination answers later
    scene.at(10.0 + SETTLE_S - 1, looked(DST, Half.SPLIT_FAILED))
    scene.find(here, looked(DST, Half.SPLIT_FAILED))
    scene.until(10.0 + 2 * SETTLE_S - 1.1)
    assert not scene.migration.is_over, "it may be a moment"
    scene.until(10.0 + 2 * SETTLE_S - 1)
    assert scene.migration.is_over and scene.migration.place is Place.SPLIT
    assert "see that it does not run there as well" in scene.migration.given_up
    assert scene.resumes == scene.pauses == []


def test_destination_that_was_killed_later_has_rejected_nothing() -> None:
    here = replace(
        given_up("qemu-7.2/device-state-rejected"), stats=Stats(postcopy_requests=3)
    )
    scene = Split().fails(here, looked(DST, Half.GONE))
    scene.until(10.0 + SETTLE_S)
    assert (scene.migration.place, scene.migration.given_up) == (Place.LOST, "")
    here = given_up("qemu-3.0/recorded-dst-load-fails")
    scene = Split()
    scene.at(1.0, ev.Resumed(DST))
    scene.fails(here, looked(DST, Half.GONE)).until(10.0 + SETTLE_S)
    assert (scene.migration.place, scene.migration.given_up) == (Place.LOST, "")


@pytest.mark.parametrize("status, found", [("postcopy-paused", Place.LOST), ("failed", Place.UNKNOWN)])  # fmt: skip
def test_later_qemu_that_is_paused_was_told_that_the_devices_are_loaded(
    status: str, found: Place
) -> None:
    here = ev.Looked(SRC, Half.SPLIT_FAILED, status, run_state="finish-migrate", qemu=11_001_002)  # fmt: skip
    scene = Split().fails(here, looked(DST, Half.GONE))
    scene.until(10.0 + SETTLE_S)
    assert scene.migration.place is found
    assert ("has not yet" in scene.migration.given_up) is (found is Place.UNKNOWN)


@pytest.mark.parametrize(
    "status, there, words",
    [
        ("failed", Half.SPLIT, "given the migration up (failed): it cannot be resumed; QEMU 7.2.0 on the source cannot go on"),
        ("cancelled", Half.SPLIT_FAILED, "given the migration up (cancelled): it cannot be resumed"),
        ("postcopy-paused", Half.MIGRATING, "the destination has not taken the guest over"),
    ],
)  # fmt: skip
def test_why_it_stays_unclear_is_said(status: str, there: Half, words: str) -> None:
    here = ev.Looked(SRC, Half.SPLIT_FAILED, status, run_state="finish-migrate", qemu=7_002_000)  # fmt: skip
    scene = Split().fails(here, looked(DST, there))
    scene.until(10.0 + UNCLEAR_S)
    assert scene.migration.place is Place.SPLIT
    assert words in scene.migration.given_up


UNDECIDED = (looked(SRC, Half.MIGRATING, "postcopy-device"), GONE[1])


@pytest.mark.parametrize(
    "then, place",
    [
        ((looked(SRC, Half.WHOLE), GONE[1]), Place.SOURCE),
        ((PAUSED[0], GONE[1]), Place.LOST),
    ],
)
def test_source_whose_qemu_has_not_decided_is_waited_for(then, place: Place) -> None:
    unknown = ev.Ended(error="failed", here=Half.UNKNOWN, there=Half.GONE)
    scene = Split()
    scene.find(*UNDECIDED).at(10.0, unknown)
    scene.until(40.0)
    assert not scene.migration.is_over
    assert scene.migration.place is not Place.SOURCE
    assert scene.resumes == scene.pauses == []
    (note,) = scene.notes
    assert note.endswith("if it says that it has not: waiting for it")
    scene.find(*then).until(40.0 + LOOK_S + SETTLE_S + LOOK_S)
    assert scene.migration.place is place


def test_nobody_is_told_meanwhile_that_the_destination_may_be_removed() -> None:
    scene = Scene(patience_s=30 * MINUTE)
    scene.at(0.0, *walk("setup", "active", "device", "postcopy-device"))
    scene.find(*UNDECIDED)
    scene.at(10.0, ev.Ended(error="failed", here=Half.UNKNOWN, there=Half.GONE))
    scene.until(20.0)
    assert not scene.migration.is_over
    assert scene.migration.place is Place.UNKNOWN


def test_source_that_never_decides_is_neither_called_whole_nor_lost() -> None:
    scene = Split(patience_s=0.0).find(*UNDECIDED)
    scene.at(10.0, ev.Ended(error="failed", here=Half.UNKNOWN, there=Half.GONE))
    scene.until(10.0 + UNCLEAR_S - 1)
    assert not scene.migration.is_over
    scene.until(10.0 + UNCLEAR_S + LOOK_S)
    assert scene.migration.place is Place.UNKNOWN
    assert "waits for the destination" in scene.migration.given_up


# Obstacles


@pytest.mark.parametrize("side", Side)
def test_obstacle_ends_it_at_once_with_its_text(side: Side) -> None:
    found = [
        looked(each.side, each.half, each.status, "too old" if each.side is side else "")
        for each in PAUSED
    ]  # fmt: skip
    scene = Split().fails(*found)
    assert scene.now == 10.0 and scene.migration.is_over
    assert scene.migration.place is Place.SPLIT
    assert scene.migration.given_up == "too old"
    assert scene.resumes == scene.pauses == []


@pytest.mark.parametrize("attached", [False, True])
def test_obstacle_does_not_end_a_guest_that_was_sent(attached: bool) -> None:
    """Nobody resumes what is left of it, so it does not matter that nobody could."""
    too_old = resume_obstacle(Side.SOURCE, 8_000_000, 6_002_000)
    left = looked(SRC, Half.SPLIT_FAILED, "completed", too_old)
    if attached:  # its source answers first
        scene = Scene(patience_s=MINUTE).find(left)
        scene.at(10.0, ev.Attached())
    else:
        scene = Split(patience_s=MINUTE)
        scene.find(left, looked(DST, Half.UNKNOWN)).at(10.0, REFUSED)
    scene.until(10.0 + 2 * SETTLE_S)
    assert not scene.migration.is_over
    if attached:
        scene.at(scene.now, looked(DST, Half.UNKNOWN))
    scene.find(left, looked(DST, Half.WHOLE)).until(10.0 + 4 * SETTLE_S)
    assert scene.migration.is_over and scene.migration.place is Place.DESTINATION
    assert scene.resumes == []


def test_obstacle_does_not_end_what_goes_on_by_itself() -> None:
    scene = Split().fails(FLOWING[0], looked(DST, Half.SPLIT_FAILED, None, "too old"))
    scene.until(10.0 + 3 * STALL_S)
    assert not scene.migration.is_over and scene.pauses == []


# A link that swallows packets


def test_black_hole_is_made_known_once_a_stall() -> None:
    """The call is under way and nothing notices."""
    scene = Split().find(*FLOWING)
    scene.at(1.0)
    scene.moves(100)
    scene.until(1.0 + STALL_S - 0.1)
    assert scene.times(Look) == []
    scene.until(1.0 + 3.5 * STALL_S)
    assert scene.pauses == pytest.approx([1.0 + n * STALL_S for n in (1, 2, 3)])
    assert scene.notes[0] == "no page has moved for 20 s: making QEMU notice the break"


def test_black_hole_is_resumed_once_qemu_has_noticed() -> None:
    scene = Split().find(*FLOWING)
    scene.at(1.0)
    scene.moves(100)
    scene.until(1.0 + STALL_S)
    assert len(scene.pauses) == 1
    scene.find(*PAUSED).at(scene.now + 0.1, *walk("postcopy-paused"), REFUSED)
    assert len(scene.resumes) == 1


def test_pages_that_move_are_not_broken() -> None:
    scene = Split().find(*FLOWING)
    for tick in range(40):
        scene.until(tick * STALL_S / 2)
        scene.moves(tick)
    assert scene.pauses == scene.times(Look) == []


@pytest.mark.parametrize(
    "found",
    [
        SILENT_THERE,
        (FLOWING[0], looked(DST, Half.UNKNOWN)),
        (looked(SRC, Half.UNKNOWN), FLOWING[1]),
        (FLOWING[0], looked(DST, Half.SPLIT_FAILED, None, "too old")),
        (looked(SRC, Half.SPLIT, "completed"), looked(DST, Half.WHOLE)),
        (FLOWING[0], looked(DST, Half.MIGRATING)),
        (looked(SRC, Half.SPLIT, "postcopy-device"), FLOWING[1]),
        (looked(SRC, Half.WHOLE, "active"), FLOWING[1]),
        (looked(SRC, Half.SPLIT), FLOWING[1]),
        PAUSED,
        MOVED,
    ],
)
def test_stall_is_not_made_a_break_that_could_not_be_mended(found) -> None:
    scene = Split().find(*found)
    scene.moves(100)
    scene.until(3 * STALL_S)
    assert scene.pauses == scene.resumes == []
    assert DST in {action.side for _, action in scene.asked(Look)}, "it is looked at"


def test_stall_is_made_a_break_when_the_destination_answers_again() -> None:
    scene = Split().find(*SILENT_THERE[:1], looked(DST, Half.UNKNOWN))
    scene.moves(100)
    scene.until(2 * STALL_S)
    scene.find(*FLOWING).until(2 * STALL_S + LOOK_S)
    assert len(scene.pauses) == 1


def test_stall_is_left_alone_without_patience() -> None:
    scene = Split(patience_s=0.0).find(*FLOWING)
    scene.moves(100)
    scene.until(5 * STALL_S)
    assert scene.pauses == []


ALL_SENT = replace(FLOWING[0], half=Half.SPLIT, stats=Stats(memory_sent=100, memory_total=9, memory_remaining=0))  # fmt: skip
UNANSWERED = (ALL_SENT, looked(DST, Half.SPLIT))


class Unbreakable(Split):
    """Its last answer is missing, so it is not paused; the call does not come back."""

    def answer(self, action: Action) -> ev.Event | None:
        if isinstance(action, Pause):
            return ev.PauseRefused("it has sent all")
        return super().answer(action)


def unanswered(patience_s: float, *found: ev.Looked) -> Split:
    scene = Unbreakable(patience_s=patience_s)
    scene.moves(100)
    scene.find(*(found or UNANSWERED))
    return scene


def test_stall_that_is_not_broken_is_told_once() -> None:
    scene = unanswered(30 * MINUTE)
    scene.until(5 * MINUTE)
    assert len(scene.pauses) > 5
    told = [
        "no page has moved for 20 s: making QEMU notice the break",
        "QEMU was not to be made to notice it: it has sent all",
    ]
    assert scene.notes == told
    scene.moves(101)
    scene.until(7 * MINUTE)
    assert scene.notes == told * 2, "that is another one"


@pytest.mark.parametrize(
    "found",
    [
        UNANSWERED,
        (ALL_SENT, looked(DST, Half.SPLIT_FAILED)),
        (ALL_SENT, looked(DST, Half.WHOLE)),  # it has all, and its word is lost
        (replace(ALL_SENT, status="postcopy-recover"), UNANSWERED[1]),
    ],
)
def test_call_in_which_nothing_moves_is_left_when_patience_ends(found) -> None:
    """As where a link dies for good when only the last answer is missing."""
    scene = unanswered(2 * MINUTE, *found)
    scene.until(2 * MINUTE - 1)
    assert not scene.migration.is_over
    scene.until(2 * MINUTE + STALL_S)
    assert scene.migration.is_over and scene.migration.place is Place.SPLIT
    assert scene.migration.halves == tuple(each.half for each in found)
    reason = scene.migration.given_up
    assert reason.startswith("given up after 120 s in which no page has moved")
    assert "call does not come back" in reason and "QEMU has sent all" in reason


def test_patience_ends_when_it_does_though_a_pause_was_refused_since() -> None:
    scene = unanswered(25.0)
    scene.until(25.0 - 0.1)
    assert scene.pauses == [STALL_S] and not scene.migration.is_over
    scene.until(25.0 + LOOK_S)
    assert scene.migration.is_over and scene.migration.place is Place.SPLIT


@pytest.mark.parametrize(
    "found, place",
    [
        ((looked(SRC, Half.SPLIT, "completed"), looked(DST, Half.WHOLE)), Place.DESTINATION),
        (PAUSED, Place.SPLIT),
    ],
)  # fmt: skip
def test_stuck_call_is_not_left_for_what_was_seen_before_patience_ended(
    found: tuple[ev.Looked, ev.Looked], place: Place
) -> None:
    """The last looks are as old as the pause that was refused."""
    scene = unanswered(2 * STALL_S)
    scene.until(39.9)
    assert scene.times(Look)[-1] == STALL_S
    scene.find(*found).at(39.9, status(found[0].status))
    scene.until(40.2)
    assert not scene.migration.is_over
    here, there = (each.half for each in found)
    error = None if place is Place.DESTINATION else "broken"
    scene.at(40.2, replace(REFUSED, error=error, here=here, there=there))
    scene.until(2 * MINUTE)
    assert scene.migration.is_over and scene.migration.place is place
    assert "QEMU has sent all" not in scene.migration.given_up


def test_look_that_hangs_does_not_keep_a_stuck_call_for_ever() -> None:
    scene = unanswered(2 * MINUTE)
    scene.until(MINUTE + 1)
    scene.find(ALL_SENT)  # the destination's comes back no more
    scene.until(2 * MINUTE + UNCLEAR_S - 0.1)
    assert not scene.migration.is_over
    scene.until(2 * MINUTE + UNCLEAR_S)
    assert scene.migration.is_over and scene.migration.place is Place.SPLIT


def test_nothing_is_broken_that_is_not_resumed_any_more() -> None:
    """Its patience is shorter than a stall: it would stand still on both hosts."""
    scene = Split(patience_s=STALL_S - 5)
    scene.moves(100)
    scene.find(*FLOWING).until(MINUTE)
    assert scene.pauses == [] and scene.migration.is_over
    assert scene.migration.place is Place.SPLIT


def test_call_of_a_source_that_runs_the_guest_again_is_not_waited_for_without_end() -> (
    None
):
    """QEMU 10.0 and 11.1 do so if somebody pauses them when all is sent; the destination may go on, too."""
    failed = ev.Looked(SRC, Half.SPLIT, "failed", run_state="running", qemu=10_000_013)
    scene = unanswered(2 * MINUTE, failed, UNANSWERED[1])
    scene.until(2 * MINUTE + STALL_S)
    assert scene.migration.is_over and scene.migration.place is Place.SPLIT
    assert "see that it does not run there as well" in scene.migration.given_up


RUNS_AGAIN = ev.Looked(SRC, Half.SPLIT, "failed", run_state="running", qemu=10_000_013)


@pytest.mark.parametrize(
    "here, there, place, words",
    [
        (ARRIVED[0], Half.SPLIT, Place.SPLIT, "given up after 120 s"),
        (ARRIVED[0], Half.SPLIT_FAILED, Place.SPLIT, "given up after 120 s"),
        (ARRIVED[0], Half.GONE, Place.UNKNOWN, "the destination has none"),
        (ARRIVED[0], Half.WHOLE, Place.DESTINATION, ""),
        (RUNS_AGAIN, Half.WHOLE, Place.UNKNOWN, "see that they do not both run"),
        (RUNS_AGAIN, Half.MIGRATING, Place.SOURCE, "runs the guest again"),
        (RUNS_AGAIN, Half.GONE, Place.SOURCE, "runs the guest again"),
    ],
)
def test_call_that_no_half_needs_is_not_waited_for_without_end(
    here: ev.Looked, there: Half, place: Place, words: str
) -> None:
    scene = unanswered(2 * MINUTE, here, looked(DST, there))
    scene.until(2 * MINUTE - 1)
    assert not scene.migration.is_over
    scene.until(2 * MINUTE + LOOK_S)
    assert scene.migration.is_over and scene.migration.place is place
    assert words in scene.migration.given_up
    assert scene.resumes == scene.pauses == []


@pytest.mark.parametrize("patience_s", [0.0, 30 * MINUTE])
@pytest.mark.parametrize("there, words", [(Half.SPLIT, "see that it does not run there as well"), (Half.WHOLE, "see that they do not both run")])  # fmt: skip
def test_guest_that_may_run_twice_is_told_of_while_the_call_hangs(
    there: Half, words: str, patience_s: float
) -> None:
    scene = unanswered(patience_s, RUNS_AGAIN, looked(DST, there))
    scene.at(1.0, status("failed"))
    scene.until(1.0 + HANG_S + TELL_S - 0.1)
    assert scene.notes == []
    scene.until(1.0 + HANG_S + TELL_S)
    (note,) = scene.notes
    assert words in note and note.endswith("does not come back: waiting for it")
    scene.until(5 * MINUTE)
    assert scene.notes == [note] and not scene.migration.is_over


def test_call_that_does_not_come_back_though_all_was_sent_is_told_of() -> None:
    scene = unanswered(30 * MINUTE, *ARRIVED)
    scene.until(STALL_S + TELL_S)
    assert scene.notes == ["QEMU has sent all of the guest; libvirt's call does not come back: waiting for it"]  # fmt: skip


def test_without_patience_a_call_is_waited_for_until_the_kernels_have_given_up() -> (
    None
):
    scene = unanswered(0.0)
    scene.until(KERNELS_S - 1)
    assert not scene.migration.is_over and scene.notes == []
    scene.until(KERNELS_S + STALL_S)
    assert scene.migration.is_over and scene.migration.place is Place.SPLIT


def test_call_that_a_destination_may_need_is_not_left() -> None:
    scene = unanswered(2 * MINUTE, ALL_SENT, looked(DST, Half.MIGRATING))
    scene.until(20 * MINUTE)
    assert not scene.migration.is_over


def test_refused_pause_is_told() -> None:
    scene = Split()
    scene.at(1.0, ev.PauseRefused("not in post-copy"))
    assert scene.notes == ["QEMU was not to be made to notice it: not in post-copy"]


# What was recorded


RECOVERIES = [path for path in FILES if path.stem == "recovery"]
PHASES_SPLIT = (Phase.POSTCOPY, Phase.BROKEN, Phase.RECOVERING)


@pytest.mark.parametrize("path", RECOVERIES, ids=lambda it: str(it.relative_to(FOLDER)))
def test_recorded_recovery_is_followed_without_a_second_resume(path) -> None:
    """The call fails when the link does, and the resumed one goes the recorded way."""
    scene = Split()
    scene.ending = None
    scene.migration = Scene(patience_s=30 * MINUTE).migration
    scene.log.clear()
    halves = {SRC: Half.WHOLE, DST: Half.MIGRATING}
    said = {SRC: "active", DST: "active"}
    scene.now = 0.0
    for line in read(path):
        for event in line.events():
            if isinstance(event, ev.StatusSeen):
                said[event.side] = event.status
                if event.status == "postcopy-paused":
                    halves[event.side] = Half.SPLIT_FAILED
            scene.find(
                looked(SRC, halves[SRC], said[SRC]), looked(DST, halves[DST])
            ).at(line.t, event)
        was_broken = halves[SRC] is halves[DST] is Half.SPLIT_FAILED
        if was_broken and not scene.resumes:
            scene.at(line.t, REFUSED)
    assert len(scene.resumes) == 1
    assert scene.pauses == []
    scene.at(scene.now, ended(Place.DESTINATION, None))
    assert scene.migration.place is Place.DESTINATION


def test_recoveries_were_recorded() -> None:
    assert len(RECOVERIES) >= 3


# Whatever is seen


LOOKS = st.builds(
    ev.Looked,
    st.sampled_from(Side),
    st.sampled_from(Half),
    st.none() | st.sampled_from(WORDS[1:]),
    st.just(None),
    st.sampled_from(["", "", "", "", "too old"]),
)
PAUSED_LOOKS = st.sampled_from([*PAUSED, *HALF_PAUSED, *FLOWING])
PATIENCE_S = 5 * MINUTE
END_S = PATIENCE_S + UNCLEAR_S + 2 * SETTLE_S


class Driven:
    """A recovery, driven directly, whose looks find what a story says."""

    def __init__(self, patience_s: float) -> None:
        self.recovery = Recovery(patience_s, lambda: 0.5)
        self.now = 0.0
        self.seen: dict[Side, ev.Looked] = {}
        self.wanted: set[Side] = set()
        self.resumes = 0

    def begin(self) -> None:
        self.seen.clear()
        self.recovery.begin(self.now)

    def tick(self) -> None:
        for action in self.recovery.tick(self.now):
            if isinstance(action, Look):
                self.wanted.add(action.side)
            elif isinstance(action, Resume):
                self.check_resume()
                self.resumes += 1
                self.begin()
            elif isinstance(action, Pause):
                here = self.seen[SRC]
                assert here.status in ("postcopy-active", "postcopy-recover")
                assert Half.UNKNOWN not in {each.half for each in self.seen.values()}
            else:
                assert isinstance(action, Note)

    def check_resume(self) -> None:
        here, there = self.seen[SRC], self.seen[DST]
        assert here.half in HALVES and here.status == "postcopy-paused"
        assert there.half is Half.SPLIT_FAILED
        assert not here.obstacle and not there.obstacle

    def take(self, look: ev.Looked) -> None:
        self.seen[look.side] = look
        self.wanted.discard(look.side)
        self.recovery.look(look, self.now)
        self.tick()

    def until(self, when: float) -> None:
        """Ticks are counted: one at its deadline must make progress, or move it."""
        for _ in range(int((when - self.now) / 0.05) + 50):
            deadline = self.recovery.deadline()
            if deadline is None or deadline > when:
                self.now = when
                return
            self.now = max(self.now, deadline)
            self.tick()
        raise AssertionError("it spins")


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 0.6, 5.0]), LOOKS | PAUSED_LOOKS),
        max_size=60,
    ),
    LOOKS | PAUSED_LOOKS,
    LOOKS | PAUSED_LOOKS,
)
def test_whatever_looks_find_nothing_is_resumed_by_mistake_and_it_ends(
    story, last: ev.Looked, other: ev.Looked
) -> None:
    driven = Driven(PATIENCE_S)
    driven.begin()
    driven.tick()
    for wait, look in story:
        driven.until(driven.now + wait)
        if driven.recovery.found is None:
            driven.take(look)
    end = driven.now + END_S
    while driven.recovery.found is None and driven.now < end:
        for look in (last, other):
            if look.side in driven.wanted and driven.recovery.found is None:
                driven.take(look)
        driven.until(driven.now + LOOK_S)
    assert driven.recovery.found is not None, "patience is bounded"
    assert driven.recovery.deadline() is None and driven.recovery.tick(1e9) == []
    halves = [driven.recovery._seen.get(side) for side in Side]
    known = [Half.UNKNOWN if it is None else it[1].half for it in halves]
    assert driven.recovery.found is whereabouts(*known)


def test_recovery_that_is_not_needed_does_nothing() -> None:
    recovery = Recovery(MINUTE, lambda: 0.0)
    assert recovery.deadline() is None and recovery.tick(1e6) == []
    assert recovery.found is None and recovery.reason == ""


def test_long_outage_does_not_count_against_the_resume_that_ends_it() -> None:
    """Breaking it at once would hit the destination while it recovers, which QEMU 7.2 does not survive."""
    scene = Split().fails(*HALF_PAUSED, at=10.0)
    scene.until(10 + 2 * STALL_S)
    scene.ending = None
    scene.find(*PAUSED).until(scene.now + 1)
    (resumed,) = scene.resumes
    scene.find(
        looked(SRC, Half.SPLIT_FAILED, "postcopy-recover"),
        looked(DST, Half.SPLIT_FAILED),
    )
    scene.until(resumed + STALL_S - 1)
    assert [when for when in scene.pauses if when >= resumed] == []


NO_ONE_TO_RECOVER_WITH = (
    looked(SRC, Half.SPLIT_FAILED, "postcopy-recover"),
    looked(DST, Half.GONE),
)


def recovering() -> Split:
    """The call that resumes it is under way."""
    scene = Split().fails(*PAUSED)
    scene.ending = None
    scene.until(scene.now + 1)
    assert scene.resumes
    return scene


def test_call_that_waits_for_a_destination_that_has_ended_is_not_waited_for() -> None:
    """As seen with QEMU 7.2, whose source does not leave postcopy-recover then."""
    scene = recovering()
    scene.find(*NO_ONE_TO_RECOVER_WITH).at(scene.now + 1, ev.Died(DST))
    died = scene.now
    scene.until(died + SETTLE_S - 1)
    assert not scene.migration.is_over
    scene.until(died + 10)
    assert scene.migration.is_over and scene.migration.place is Place.LOST
    assert "the source's waits for it" in scene.migration.given_up
    assert scene.pauses == []


def test_end_of_the_destination_that_nobody_has_heard_of_is_found_in_the_silence() -> (
    None
):
    scene = recovering().find(*NO_ONE_TO_RECOVER_WITH)
    scene.until(scene.now + STALL_S + 10)
    assert scene.migration.is_over and scene.migration.place is Place.LOST
    assert scene.pauses == []


def test_end_of_the_destination_is_told_when_the_call_has_failed() -> None:
    scene = Split().fails(*NO_ONE_TO_RECOVER_WITH)
    scene.until(10 + SETTLE_S + 1)
    assert scene.migration.is_over and scene.migration.place is Place.LOST


@pytest.mark.parametrize(
    "found",
    [
        FLOWING,
        PAUSED,
        (NO_ONE_TO_RECOVER_WITH[0], looked(DST, Half.UNKNOWN)),
        (looked(SRC, Half.UNKNOWN), looked(DST, Half.GONE)),
        (looked(SRC, Half.SPLIT, "postcopy-active"), looked(DST, Half.GONE)),
        (looked(SRC, Half.SPLIT, "completed"), looked(DST, Half.GONE)),
    ],
)
def test_call_is_waited_for_while_it_may_bring_the_guest_together(
    found: tuple[ev.Looked, ev.Looked],
) -> None:
    scene = recovering()
    scene.find(*found).at(scene.now + 1, ev.Died(DST))
    scene.until(scene.now + 15)
    assert not scene.migration.is_over


# A destination's half that was destroyed in the switch


STOPPED_HERE = ev.Looked(SRC, Half.SPLIT_FAILED, "postcopy-paused", run_state="finish-migrate", qemu=7_002_022)  # fmt: skip


def destroyed_in_the_switch(here: ev.Looked = STOPPED_HERE) -> Split:
    """As seen with libvirt 9.0 and QEMU 7.2, whose migrate call does not always come back then."""
    scene = Split().find(here, looked(DST, Half.GONE))
    scene.at(10.0, *walk("cancelling", "postcopy-paused"), ev.SplitFailed(SRC))
    return scene


def test_call_that_hangs_where_the_destination_was_destroyed_ends_within_seconds() -> (
    None
):
    scene = destroyed_in_the_switch()
    scene.until(10.0 + HANG_S + SETTLE_S - 0.1)
    assert not scene.migration.is_over
    scene.until(10.0 + HANG_S + SETTLE_S + LOOK_S)
    assert scene.migration.is_over and scene.migration.place is Place.LOST
    assert "QEMU 7.2.22 on the source cannot go on" in scene.migration.given_up
    assert scene.resumes == scene.pauses == []


def test_absence_that_passes_is_no_verdict_on_a_call_that_hangs() -> None:
    scene = destroyed_in_the_switch()
    scene.until(10.0 + HANG_S + SETTLE_S - 1)
    scene.find(STOPPED_HERE, looked(DST, Half.SPLIT))
    scene.until(10.0 + HANG_S + 3 * SETTLE_S)
    assert not scene.migration.is_over


# A source's daemon that is started again in the switch, and waits for its QEMU


def never_answers_again(
    *heard: ev.Event, there: Half = Half.GONE, qemu: int = 7_002_000, after: tuple[str, ...] = ("cancelling",)
) -> Split:  # fmt: skip
    """The source's daemon was killed, and answers nothing since; so much was heard before, and so much of its QEMU after."""
    scene = Split(patience_s=PATIENT_S).find(looked(DST, there))
    scene.at(9.0, *heard)
    scene.at(10.0, ev.Ended("End of file while reading data", qemu=qemu))
    scene.at(11.0, *walk(*after))
    return scene


PATIENT_S = 80.0
LISTENED_TO = status("active", DST)


@pytest.mark.parametrize("there", [Half.GONE, Half.INACTIVE])
def test_guest_whose_destination_was_destroyed_is_lost_though_the_source_is_silent(
    there: Half,
) -> None:
    scene = never_answers_again(LISTENED_TO, there=there)
    scene.until(11.0 + UNCLEAR_S - 0.1)
    assert not scene.migration.is_over
    scene.until(11.0 + UNCLEAR_S + SETTLE_S + LOOK_S)
    assert scene.migration.is_over and scene.migration.place is Place.LOST
    assert scene.migration.halves == (Half.UNKNOWN, there)
    assert "before the guest ran there" in scene.migration.given_up
    assert "QEMU 7.2.0 on the source cannot go on" in scene.migration.given_up


@pytest.mark.parametrize(
    "heard, options",
    [
        ((LISTENED_TO,), {"qemu": 0}),
        ((LISTENED_TO,), {"qemu": 3_000_000}),  # goes on if it is told to
        ((LISTENED_TO,), {"qemu": 10_002_000}),  # goes on by itself
        ((), {}),  # it may have run there without our hearing of it
        ((LISTENED_TO, ev.Resumed(DST)), {}),  # arrived, and shut down since
        ((LISTENED_TO,), {"there": Half.UNKNOWN}),
        (
            (LISTENED_TO,),
            {"after": ()},
        ),  # its daemon may be long in starting, and go back
        ((LISTENED_TO,), {"after": ("cancelling", "cancelled")}),  # as it does here
        (
            (LISTENED_TO, status("cancelling")),
            {"after": ()},
        ),  # what came of it was not heard
    ],
)
def test_silent_source_leaves_the_guest_unknown_where_it_may_be_somewhere(
    heard: tuple[ev.Event, ...], options: dict
) -> None:
    scene = never_answers_again(*heard, **options)
    scene.until(10.0 + 2 * MINUTE)
    assert scene.migration.is_over
    assert scene.migration.place in (Place.SPLIT, Place.UNKNOWN)
    assert "given up after 80 s" in scene.migration.given_up


def test_destination_tells_that_a_source_that_fell_silent_had_switched() -> None:
    scene = Scene(patience_s=PATIENT_S).find(looked(DST, Half.GONE))
    there = walk("active", "postcopy-active", side=DST)
    scene.at(0.0, *walk("setup", "active"), *there)
    scene.at(10.0, ev.Ended("End of file while reading data", qemu=7_002_000))
    scene.at(11.0, status("cancelling"))
    scene.until(11.0 + UNCLEAR_S + SETTLE_S + LOOK_S)
    assert scene.migration.is_over and scene.migration.place is Place.LOST


@pytest.mark.parametrize("away_s", [0.0, 30.0])
def test_source_that_could_not_be_reached_may_have_gone_back_unheard(
    away_s: float,
) -> None:
    scene = never_answers_again(LISTENED_TO)
    away = ev.Looked(SRC, Half.UNKNOWN, listens=False)
    scene.at(11.0 + away_s, away)
    scene.until(10.0 + 2 * MINUTE)
    assert scene.migration.is_over and scene.migration.place is not Place.LOST


def test_silent_source_that_has_not_switched_has_its_guest() -> None:
    scene = Scene(patience_s=PATIENT_S).find(looked(DST, Half.GONE))
    scene.at(0.0, *walk("setup", "active"), LISTENED_TO)
    scene.at(10.0, ev.Ended("End of file while reading data", qemu=7_002_000))
    scene.at(11.0, status("cancelling"))
    scene.until(10.0 + 2 * MINUTE)
    assert scene.migration.place is not Place.LOST


def test_absence_that_passes_is_no_verdict_on_a_silent_source() -> None:
    scene = never_answers_again(LISTENED_TO)
    scene.until(11.0 + UNCLEAR_S - 1)
    scene.find(looked(DST, Half.MIGRATING)).until(scene.now + 2 * LOOK_S)
    scene.find(looked(DST, Half.GONE)).until(scene.now + SETTLE_S)
    assert not scene.migration.is_over


def test_destination_that_has_all_pages_is_not_broken_off() -> None:
    scene = Split().fails(
        looked(SRC, Half.SPLIT_FAILED, "postcopy-active"), looked(DST, Half.WHOLE)
    )
    scene.until(10 + 5 * STALL_S)
    assert scene.pauses == []


def test_side_that_never_answers_is_waited_for_as_long_as_patience_lasts() -> None:
    scene = Split(patience_s=10 * MINUTE).fails(PAUSED[0])
    scene.until(10 + 9 * MINUTE)
    assert not scene.migration.is_over
    scene.until(10 + 11 * MINUTE)
    assert scene.migration.is_over and scene.migration.place is Place.SPLIT
    assert "given up after 600 s" in scene.migration.given_up


def test_guest_that_is_sent_pages_is_not_lost_where_nobody_is_found() -> None:
    """Not every destination that is named is the one."""
    scene = Split().fails(
        looked(SRC, Half.SPLIT_FAILED, "postcopy-active"), looked(DST, Half.GONE)
    )
    scene.until(10 + 2 * SETTLE_S)
    assert not scene.migration.is_over
