"""The core, on a clock of ours."""

from __future__ import annotations

import math
from collections.abc import Iterable
from copy import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libvirt_postcopy import events as ev
from libvirt_postcopy.actions import (
    Abort,
    Look,
    Note,
    Pause,
    ReadStats,
    Resume,
    Switch,
    VerifySwitch,
)
from libvirt_postcopy.errors import StateError
from libvirt_postcopy.events import Half, Place, Side
from libvirt_postcopy.figures import Summary
from libvirt_postcopy.migration import (
    ABORT_S,
    IDLE_POLL_S,
    POLL_S,
    RETRY_S,
    VERIFY_S,
    WATCH_S,
    Migration,
)
from libvirt_postcopy.phases import Phase, Status
from libvirt_postcopy.policy import Decision
from libvirt_postcopy.recovery import SETTLE_S, STALL_S
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.units import MIB
from unit.fakes import (
    DONE,
    DST,
    FOUND,
    SRC,
    Scene,
    ended,
    looked,
    reading,
    status,
    walk,
)

POSTCOPY_FLOW = walk("device", "postcopy-active")


PARTS = {"Figures", "Recovery", "_Precopy", "_Backoff"}


def _kept(it: object) -> object:
    return copy(it) if isinstance(it, (dict, list, set)) else it


def state(core: object) -> dict:
    """All that it and its parts know, so that it can be compared."""
    return {
        name: state(it) if type(it).__name__ in PARTS else _kept(it)
        for name, it in vars(core).items()
    }


def kinds(actions) -> list[type]:
    return [type(action) for action in actions]


# Reading the statistics


def answer_readings(scene: Scene, until: float) -> None:
    """Let time pass, each reading being answered as soon as it is asked for."""
    while scene.now < until:
        if len(scene.readings) > scene.answered:
            scene.answered = len(scene.readings)
            scene.at(scene.now, reading(100))
        scene.until(min(scene.migration.deadline() or until, until))


NEEDY = "after-precopy"  # as long as QEMU has announced no pass
"""A policy that needs statistics."""


def test_statistics_are_read_at_once_and_then_twice_a_second_where_the_policy_needs_them() -> (
    None
):
    scene = Scene(NEEDY).precopy()
    answer_readings(scene, 10.0)
    assert scene.readings == pytest.approx([n * POLL_S for n in range(21)])


@pytest.mark.parametrize("policy", ["manual", "after:10m", "never"])
def test_statistics_are_read_seldom_where_nobody_needs_them(policy: str) -> None:
    """A QEMU with a full link may answer late, and the switch would wait for that."""
    scene = Scene(policy).precopy()
    answer_readings(scene, 100.0)
    pause = IDLE_POLL_S + POLL_S
    assert scene.readings == pytest.approx([0.0, pause, 2 * pause, 3 * pause])


def test_statistics_are_read_twice_a_second_while_somebody_watches() -> None:
    scene = Scene().precopy()
    answer_readings(scene, 10.0)
    before = len(scene.readings)
    scene.at(10.0, ev.StatsWanted())
    assert scene.readings[before:] == [10.0]
    answer_readings(scene, 10.0 + WATCH_S)
    assert len(scene.readings) - before == WATCH_S / POLL_S + 1
    answer_readings(scene, 40.0)
    assert scene.readings[-1] <= 10.0 + WATCH_S


@pytest.mark.parametrize("ending", ["asked", "aborted", "failed policy"])
def test_readings_become_seldom_when_the_policy_has_no_say_any_more(
    ending: str,
) -> None:
    scene = Scene(Broken() if ending == "failed policy" else NEEDY).precopy()
    if ending == "asked":
        scene.at(0.0, ev.SwitchRequested("by hand"))
    if ending == "aborted":
        scene.at(0.0, ev.AbortRequested())
    answer_readings(scene, 25.0)
    assert scene.readings == [0.0]


@pytest.mark.parametrize("flow", [[], ["setup"], ["active", "postcopy-active"], ["active", "cancelling"]])  # fmt: skip
def test_readings_are_taken_twice_a_second_in_all_other_phases(flow: list[str]) -> None:
    scene = Scene()
    scene.at(0.0, *walk(*flow))
    before = len(scene.readings)
    for _ in range(4):
        scene.at(scene.now, ev.StatsSeen(None))
        scene.until(scene.now + POLL_S)
    assert len(scene.readings) == before + 4


def test_no_reading_is_taken_while_the_guest_stands_still_for_the_switch() -> None:
    scene = Scene(NEEDY).precopy()
    scene.at(0.1, reading(100))
    scene.at(5.0, ev.StatsSeen(None), status("device"))
    before = len(scene.readings)
    scene.until(10.0)
    assert len(scene.readings) == before
    scene.at(10.0, status("postcopy-active"))
    assert len(scene.readings) == before + 1


def test_no_reading_is_asked_for_while_one_is_under_way() -> None:
    scene = Scene(NEEDY).precopy()
    scene.until(10.0)
    assert scene.readings == [0.0]


@pytest.mark.parametrize(
    "answer", [reading(100), ev.StatsSeen(None), ev.StatsSeen(Stats())]
)
def test_next_reading_comes_its_time_after_the_last_answer(
    answer: ev.StatsSeen,
) -> None:
    scene = Scene(NEEDY).precopy()
    scene.at(10.0, answer)
    scene.until(10.4)
    assert scene.readings == [0.0]
    scene.until(11.0)
    assert scene.readings == [0.0, 10.5]


def test_reading_that_failed_leaves_no_statistics() -> None:
    scene = Scene().precopy()
    scene.at(0.2, ev.StatsSeen(None))
    assert scene.migration.stats is None


def test_nothing_is_read_when_the_source_is_done() -> None:
    scene = Scene().precopy()
    scene.at(1.0, *walk("completed"), reading(100))
    scene.until(30.0)
    assert len(scene.readings) == 1
    assert scene.migration.deadline() is None


# Phases


def test_phase_is_the_sources() -> None:
    scene = Scene()
    assert scene.phase is Phase.PREPARING
    scene.at(0.0, *walk("setup", "active", side=DST))
    assert scene.phase is Phase.PREPARING
    scene.at(0.1, *walk("setup", "active"))
    assert scene.phase is Phase.PRECOPY


@pytest.mark.parametrize("event", [ev.PassSeen(1), reading(1), status("active")])
def test_precopy_begins_with_its_first_sign(event: ev.Event) -> None:
    scene = Scene()
    scene.at(0.0, event)
    assert scene.phase is Phase.PRECOPY


@pytest.mark.parametrize(
    "event", [ev.StatsSeen(Stats()), ev.StatsSeen(None), status("setup")]
)
def test_precopy_does_not_begin_without_a_sign(event: ev.Event) -> None:
    scene = Scene()
    scene.at(0.0, event)
    assert scene.phase is Phase.PREPARING


def test_status_that_cannot_follow_is_refused() -> None:
    scene = Scene().precopy()
    with pytest.raises(StateError):
        scene.migration.feed(status("postcopy-recover"), 1.0)
    assert scene.phase is Phase.PRECOPY


def test_status_of_a_later_qemu_changes_nothing() -> None:
    scene = Scene().precopy()
    assert scene.at(0.1, status("postcopy-teleport")) == []
    assert scene.phase is Phase.PRECOPY


def test_event_of_a_later_version_of_ours_changes_nothing() -> None:
    class Teleported(ev.Event):
        pass

    scene = Scene().precopy()
    before = state(scene.migration)
    assert scene.at(0.0, Teleported()) == []
    assert state(scene.migration) == before


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("before", [[], ["active"], ["active", "postcopy-active"]])
def test_split_seen_by_libvirt_is_the_switch(side: Side, before: list[str]) -> None:
    scene = Scene()
    scene.at(0.0, *walk(*before, side=side), ev.SplitSeen(side))
    assert scene.migration.place is Place.SPLIT


@pytest.mark.parametrize("word", ["completed", "postcopy-paused"])
def test_split_seen_late_takes_nothing_back(word: str) -> None:
    scene = Scene().precopy()
    scene.at(0.0, *walk("postcopy-active", word))
    before = scene.phase
    scene.at(0.1, ev.SplitSeen(SRC))
    assert scene.phase is before


def test_split_failed_means_split_and_is_told() -> None:
    scene = Scene().precopy()
    scene.at(0.1, ev.SplitFailed(SRC))
    assert scene.phase is Phase.POSTCOPY
    assert scene.notes == ["libvirt reports post-copy failed on the source"]


def test_split_failed_is_told_once_a_side() -> None:
    scene = Scene().precopy()
    for side in (SRC, SRC, DST, DST):
        scene.at(0.1, ev.SplitFailed(side))
    assert [note.split()[-1] for note in scene.notes] == ["source", "destination"]


def test_broken_link_leaves_guest_split() -> None:
    scene = Scene().precopy()
    scene.at(1.0, *POSTCOPY_FLOW, *walk("postcopy-paused"))
    assert (scene.phase, scene.migration.place) == (Phase.BROKEN, Place.SPLIT)
    scene.at(2.0, *walk("postcopy-recover-setup"))
    assert (scene.phase, scene.migration.place) == (Phase.RECOVERING, Place.SPLIT)


# The switch


def test_switch_is_asked_for_when_the_policy_says_so() -> None:
    scene = Scene("after:30").precopy()
    scene.until(29.9)
    assert scene.switches == []
    scene.until(31.0)
    assert scene.asked(Switch) == [
        (30.0, Switch("30s of pre-copy are over", attempt=1))
    ]


def test_time_of_a_policy_counts_from_precopy_on() -> None:
    scene = Scene("after:30")
    scene.at(8.0, *walk("setup", "active"))
    scene.until(60.0)
    assert scene.switches == [38.0]


def test_switch_is_asked_for_once() -> None:
    scene = Scene("after:1").precopy()
    scene.until(1.0)
    scene.at(1.0, ev.SwitchRequested("by hand"), ev.PassSeen(2))
    scene.until(60.0)
    assert scene.switches == [1.0]


def test_accepted_switch_that_comes_is_not_asked_for_again() -> None:
    scene = Scene("after:1").precopy()
    scene.until(1.0)
    scene.at(1.0, ev.SwitchAccepted())
    scene.at(1.2, *POSTCOPY_FLOW)
    scene.until(60.0)
    assert (scene.switches, scene.looks) == ([1.0], [])


def test_accepted_switch_is_looked_for_and_asked_again_with_back_off() -> None:
    scene = Scene("after:0").precopy()
    for _ in range(6):
        scene.at(scene.now, ev.SwitchAccepted())
        scene.until(scene.now + 60)
        at = scene.looks[-1]
        scene.now = at  # the look's answer comes at once
        scene.at(at, ev.SwitchNotSeen())
    waits = [look - asked for look, asked in zip(scene.looks, scene.switches)]
    assert waits == pytest.approx([VERIFY_S, 2.0, 4.0, 8.0, 8.0, 8.0])
    attempts = [action.attempt for _, action in scene.asked(Switch)]
    assert attempts == [1, 2, 3, 4, 5, 6, 7]
    assert len(scene.notes) == 6 and "asking again" in scene.notes[0]


def test_look_that_sees_the_switch_ends_the_asking() -> None:
    scene = Scene("after:0").precopy()
    scene.at(0.0, ev.SwitchAccepted())
    scene.until(1.0)
    scene.at(1.1, ev.SplitSeen(SRC))
    scene.until(60.0)
    assert (len(scene.switches), len(scene.looks)) == (1, 1)
    assert scene.phase is Phase.POSTCOPY


def test_late_answer_of_a_look_does_no_harm() -> None:
    scene = Scene("after:0").precopy()
    scene.at(0.0, ev.SwitchAccepted())
    scene.until(1.0)
    scene.at(1.1, *POSTCOPY_FLOW, ev.SwitchNotSeen(), ev.SwitchRefused("gone", False))
    scene.until(60.0)
    assert len(scene.switches) == 1 and scene.notes == []


def test_switch_refused_too_early_is_tried_again() -> None:
    scene = Scene("after:0").precopy()
    scene.at(0.0, ev.SwitchRefused("Postcopy must be started after migration", False))
    scene.until(60.0)
    assert scene.switches == pytest.approx([0.0, RETRY_S])
    assert scene.notes == []


def test_switch_that_is_refused_again_and_again_is_told_once() -> None:
    scene = Scene("after:0").precopy()
    for _ in range(9):
        scene.at(scene.now, ev.SwitchRefused("the disk is on fire", False))
        scene.until(scene.now + RETRY_S)
    assert scene.notes == [
        "the switch is refused, and asked for again: the disk is on fire"
    ]
    assert len(scene.switches) == 10


def test_switch_refused_for_good_is_told_and_not_asked_for_again() -> None:
    scene = Scene("after:0").precopy()
    scene.at(0.0, ev.SwitchRefused("requires VIR_MIGRATE_POSTCOPY", True))
    scene.at(1.0, ev.SwitchRequested("by hand"))
    scene.until(60.0)
    assert scene.switches == [0.0]
    assert scene.notes == [
        "the switch to post-copy was refused: requires VIR_MIGRATE_POSTCOPY",
        "the switch to post-copy was refused: requires VIR_MIGRATE_POSTCOPY",
    ]
    assert scene.migration.cannot_switch == scene.notes[0]
    scene.at(60.0, reading(9), DONE)
    assert scene.migration.summary().switch is None


@pytest.mark.parametrize("end", ["completed", "device"])
def test_completion_as_precopy_ends_the_asking(end: str) -> None:
    scene = Scene("after:1").precopy()
    scene.until(1.0)
    scene.at(1.0, ev.SwitchAccepted())
    scene.at(1.5, *walk(end), ev.SwitchNotSeen())
    scene.until(60.0)
    assert (scene.switches, scene.looks) == ([1.0], [])
    scene.at(60.0, DONE)
    assert scene.phase is Phase.COMPLETED
    assert scene.migration.summary().switch is None


def test_request_before_precopy_waits_for_it() -> None:
    scene = Scene()
    scene.at(0.0, ev.SwitchRequested("by hand"))
    scene.at(3.0, status("setup"))
    assert scene.switches == []
    scene.at(5.0, status("active"))
    assert scene.asked(Switch) == [(5.0, Switch("by hand", attempt=1))]


def test_request_in_precopy_is_sent_at_once() -> None:
    scene = Scene().precopy()
    assert scene.at(5.0, ev.SwitchRequested("by hand"))[0] == Switch("by hand", 1)


@pytest.mark.parametrize(
    "flow", [["device"], ["postcopy-active"], ["cancelling"], ["completed"]]
)
def test_request_after_precopy_changes_nothing(flow: list[str]) -> None:
    scene = Scene().precopy()
    scene.at(1.0, *walk(*flow))
    scene.at(1.1, ev.SwitchRequested("by hand"))
    scene.until(30.0)
    assert scene.switches == []


def test_request_without_postcopy_is_explained() -> None:
    scene = Scene("never").precopy()
    scene.at(1.0, ev.SwitchRequested("by hand"))
    assert scene.switches == []
    assert scene.notes == ["post-copy is not enabled for this migration"]


def test_answers_nobody_asked_for_change_nothing() -> None:
    scene = Scene().precopy()
    scene.at(1.0, ev.SwitchAccepted(), ev.AbortRefused("no job"))
    scene.until(30.0)
    assert (scene.looks, scene.switches, scene.times(Abort)) == ([], [], [])


def test_switch_that_is_held_back_is_tried_again_and_explained_once() -> None:
    """libvirt kills the half of a destination whose daemon cannot start it."""
    scene = Scene("after:0").precopy()
    for _ in range(3):
        scene.at(scene.now, ev.SwitchHeld("the destination's daemon does not answer"))
        scene.until(scene.now + RETRY_S)
    assert scene.switches == pytest.approx([n * RETRY_S for n in range(4)])
    assert {action for _, action in scene.asked(Switch)} == {
        Switch("at once, as asked", attempt=1)
    }
    scene.at(scene.now, ev.SwitchHeld("it is on fire"))
    assert scene.notes == [
        "the switch to post-copy waits: the destination's daemon does not answer",
        "the switch to post-copy waits: it is on fire",
    ]


def test_only_switches_that_were_sent_are_counted() -> None:
    scene = Scene("after:0").precopy()
    scene.at(0.0, ev.SwitchHeld("no sign of life"))
    scene.at(1.0, ev.SwitchRefused("early", False))
    scene.at(2.0, ev.SwitchHeld("no sign of life"))
    scene.at(3.0, *POSTCOPY_FLOW, ev.SwitchAccepted())
    switch = scene.migration.summary().switch
    assert switch is not None and switch.attempts == 2


def test_switch_whose_destination_could_not_be_asked_is_told_once() -> None:
    scene = Scene("after:0").precopy()
    for _ in range(2):
        scene.at(scene.now, ev.SwitchAccepted(unchecked="it is far away"))
        scene.at(scene.now, ev.SwitchNotSeen())
    told = [text for text in scene.notes if "far away" in text]
    assert told == [
        "the switch was sent without knowing whether the destination's daemon lives: it is far away"
    ]


def test_switch_that_is_held_back_may_be_left() -> None:
    scene = Scene("after:0").precopy()
    assert not scene.migration.can_be_left_by_its_manager
    scene.at(0.1, ev.SwitchHeld("no sign of life"))
    assert scene.migration.can_be_left_by_its_manager


def test_switch_that_was_held_back_is_not_sent_when_it_has_come() -> None:
    scene = Scene("after:0").precopy()
    scene.at(0.0, ev.SwitchHeld("no sign of life"))
    scene.at(0.1, *POSTCOPY_FLOW, ev.SwitchHeld("no sign of life"))
    scene.until(30.0)
    assert scene.switches == [0.0] and len(scene.notes) == 1


@pytest.mark.parametrize("policy", ["after:5", "manual"])
def test_no_switch_is_sent_when_only_the_destination_has_told_of_it(
    policy: str,
) -> None:
    scene = Scene(policy).precopy()
    scene.at(1.0, *walk("active", "postcopy-active", side=DST))
    scene.at(1.0, ev.SwitchRequested("by hand"))
    scene.until(30.0)
    assert scene.switches == []


# The abort


@pytest.mark.parametrize("flow", [[], ["setup"], ["setup", "active"]])
def test_abort_before_the_switch_is_sent(flow: list[str]) -> None:
    scene = Scene()
    scene.at(0.0, *walk(*flow))
    assert Abort() in scene.at(1.0, ev.AbortRequested())


def test_abort_that_is_asked_for_twice_is_sent_once() -> None:
    scene = Scene().precopy()
    scene.at(1.0, ev.AbortRequested())
    scene.at(1.1, ev.AbortRequested())
    scene.until(1.0 + ABORT_S - 0.1)
    assert scene.times(Abort) == [1.0]


def test_accepted_abort_is_sent_again_while_the_migration_goes_on() -> None:
    """libvirt accepts one that comes while it sets the migration up, and forgets it."""
    scene = Scene().precopy()
    scene.at(1.0, ev.AbortRequested())
    scene.until(1.0 + 2.5 * ABORT_S)
    assert scene.times(Abort) == pytest.approx([1.0, 1.0 + ABORT_S, 1.0 + 2 * ABORT_S])


@pytest.mark.parametrize("flow", [["cancelling"], ["cancelling", "cancelled"], ["failed"]])  # fmt: skip
def test_abort_that_has_come_is_not_sent_again(flow: list[str]) -> None:
    scene = Scene().precopy()
    scene.at(1.0, ev.AbortRequested(), *walk(*flow))
    scene.until(60.0)
    assert scene.times(Abort) == [1.0] and scene.notes == []


@pytest.mark.parametrize("flow", [POSTCOPY_FLOW, walk("completed")])
def test_accepted_abort_is_not_sent_again_after_the_switch(
    flow: list[ev.Event],
) -> None:
    scene = Scene().precopy()
    scene.at(1.0, ev.AbortRequested(), *flow)
    scene.until(60.0)
    assert scene.times(Abort) == [1.0]
    assert scene.notes == ["the abort came too late"]


def test_refused_abort_is_tried_again() -> None:
    scene = Scene()
    scene.at(1.0, ev.AbortRequested())
    scene.at(1.0, ev.AbortRefused("no job is active"))
    scene.until(1.4)
    scene.at(1.5, *walk("setup", "active"), ev.AbortRefused("still not"))
    scene.until(1.5 + ABORT_S)
    assert scene.times(Abort) == pytest.approx([1.0, 1.0 + RETRY_S, 1.5 + RETRY_S])


def test_refused_abort_is_not_tried_again_after_the_switch() -> None:
    scene = Scene().precopy()
    scene.at(1.0, ev.AbortRequested(), ev.AbortRefused("busy"), *POSTCOPY_FLOW)
    scene.until(30.0)
    assert scene.times(Abort) == [1.0]
    assert scene.notes == ["the abort came too late"]


@pytest.mark.parametrize(
    "flow",
    [
        ["device"],
        ["postcopy-active"],
        ["postcopy-active", "postcopy-paused"],
        ["postcopy-active", "postcopy-paused", "postcopy-recover"],
        ["completed"],
    ],
)
def test_abort_after_the_switch_is_never_sent(flow: list[str]) -> None:
    scene = Scene().precopy()
    scene.at(1.0, *walk(*flow))
    scene.at(2.0, ev.AbortRequested())
    scene.until(30.0)
    assert scene.times(Abort) == []
    assert "too late to abort" in scene.notes[0]


def test_abort_is_not_sent_when_only_the_destination_has_told_of_the_switch() -> None:
    scene = Scene().precopy()
    scene.at(1.0, *walk("active", "postcopy-active", side=DST), ev.AbortRequested())
    scene.until(30.0)
    assert scene.phase is Phase.PRECOPY and scene.times(Abort) == []


def test_no_switch_is_asked_for_once_an_abort_is_wanted() -> None:
    scene = Scene("after:5").precopy()
    scene.at(1.0, ev.AbortRequested(), ev.SwitchRequested("by hand"))
    scene.until(30.0)
    assert scene.switches == []


def abort_with_switch_out() -> Scene:
    """Its answer has not come yet."""
    scene = Scene("after:0").precopy()
    scene.at(0.1, ev.AbortRequested())
    return scene


NOTED = (ev.SwitchAccepted(), ev.SwitchUnanswered("End of file while reading data"))


@pytest.mark.parametrize("noted", NOTED)
@pytest.mark.parametrize(
    "later", [ev.SwitchRefused("no", False), ev.SwitchHeld("no sign of life")]
)
def test_nothing_is_aborted_once_a_switch_may_have_been_noted(
    noted: ev.Event, later: ev.Event
) -> None:
    """QEMU keeps it, whatever becomes of those that are sent after it."""
    scene = Scene("after:0").precopy()
    scene.at(0.0, noted)
    scene.until(VERIFY_S)
    scene.at(VERIFY_S, ev.SwitchNotSeen(), ev.AbortRequested(), later)
    scene.at(VERIFY_S + 0.1, ev.AbortRefused("too early"))
    scene.until(60.0)
    assert scene.times(Abort) == [] and len(scene.switches) == 2
    assert "may come at any moment: not aborted" in scene.notes[-1]
    assert scene.looks == pytest.approx([1.0, 9.0]), "it is looked for"


def test_abort_is_held_back_for_good_when_the_answer_to_the_switch_is_lost() -> None:
    scene = abort_with_switch_out()
    scene.at(0.2, ev.SwitchUnanswered("End of file while reading data"))
    scene.until(1.3)
    scene.at(1.3, ev.SwitchNotSeen())
    scene.until(60.0)
    assert scene.times(Abort) == [] and len(scene.switches) == 1
    assert scene.notes[-1] == (
        "whether the switch to post-copy was accepted is not known, so nothing is aborted:"
        " End of file while reading data"
    )
    assert not scene.migration.can_be_left_by_its_manager


def test_switch_whose_answer_is_lost_is_looked_for_and_asked_again() -> None:
    scene = Scene("after:0").precopy()
    for _ in range(2):
        scene.at(scene.now, ev.SwitchUnanswered("End of file"))
        scene.until(scene.looks[-1] if scene.looks[1:] else scene.now + 2.5)
        scene.at(scene.now, ev.SwitchNotSeen())
    assert [action.attempt for _, action in scene.asked(Switch)] == [1, 2, 3]
    told = [text for text in scene.notes if "not known" in text]
    assert told == [
        "whether the switch to post-copy was accepted is not known: End of file"
    ]


def test_abort_is_held_back_while_a_switch_may_come() -> None:
    """An abort in the instant of the switch can cost the guest."""
    scene = abort_with_switch_out()
    scene.until(30.0)
    assert scene.times(Abort) == []
    assert "aborted only if it is refused" in scene.notes[0]


@pytest.mark.parametrize("is_final", [True, False])
def test_abort_is_sent_when_the_switch_is_refused(is_final: bool) -> None:
    scene = abort_with_switch_out()
    assert Abort() in scene.at(0.2, ev.SwitchRefused("no", is_final))
    scene.until(ABORT_S)
    assert scene.times(Abort) == [0.2] and len(scene.switches) == 1


def test_abort_is_sent_when_the_switch_is_held_back() -> None:
    scene = abort_with_switch_out()
    assert Abort() in scene.at(0.2, ev.SwitchHeld("no sign of life"))
    scene.until(ABORT_S)
    assert scene.times(Abort) == [0.2] and len(scene.switches) == 1


def test_abort_is_not_sent_when_the_switch_came_though_it_was_refused() -> None:
    scene = abort_with_switch_out()
    scene.at(0.2, *walk("active", "postcopy-active", side=DST))
    scene.at(0.3, ev.SwitchRefused("no", False))
    scene.until(30.0)
    assert scene.times(Abort) == []


def test_abort_is_held_back_while_a_repeated_switch_may_come() -> None:
    scene = Scene("after:0").precopy()
    scene.at(0.0, ev.SwitchRefused("too early", False))
    scene.until(1.0)
    assert len(scene.switches) == 2
    scene.at(1.0, ev.AbortRequested())
    scene.until(30.0)
    assert scene.times(Abort) == []


def test_switch_that_has_not_come_is_looked_for_but_not_repeated_once_an_abort_is_wanted() -> (
    None
):
    scene = Scene("after:0").precopy()
    scene.at(0.0, ev.SwitchAccepted())
    scene.at(0.1, ev.AbortRequested())
    scene.until(1.0)
    scene.at(1.0, ev.SwitchNotSeen())
    scene.until(20.0)
    assert (scene.looks, len(scene.switches)) == (pytest.approx([1.0, 9.0]), 1)


# After the first pass


def qemu_10(scene: Scene, *, rate: float, until: float) -> None:
    """A guest of 1024 MiB in its first pass, which was announced."""
    scene.at(0.0, status("setup"), ev.PassSeen(1), status("active"))
    for half in range(int(until * 2) + 1):
        scene.until(half / 2)
        answer(scene, rate)


def answer(scene: Scene, rate: float, **fields) -> None:
    """Answer the reading that is under way."""
    if len(scene.readings) > scene.answered:
        scene.answered = len(scene.readings)
        scene.at(scene.now, reading(scene.now * rate, rate=rate, **fields))


def test_announced_pass_switches_at_once() -> None:
    scene = Scene("after-precopy")
    qemu_10(scene, rate=100, until=10.0)
    assert scene.switches == []
    before = len(scene.readings)
    scene.at(10.1, ev.PassSeen(2))
    assert scene.switches == [10.1]
    assert len(scene.readings) == before, "without waiting for another reading"


def test_announced_pass_waits_for_the_next_reading_where_readings_contradict_it() -> (
    None
):
    scene = Scene("after-precopy")
    qemu_10(scene, rate=20, until=10.0)  # 200 of 1024 MiB
    scene.at(10.2, ev.PassSeen(2))
    assert scene.switches == []
    scene.at(10.5, reading(1030, left=60))  # the rest was zero pages
    assert scene.switches == [10.5]


def test_contradicted_pass_costs_no_more_readings_than_others() -> None:
    scene = Scene("after-precopy")
    qemu_10(scene, rate=20, until=10.0)
    before = len(scene.readings)
    scene.at(10.1, ev.PassSeen(2))
    for tick in range(20):  # it is looked at now whether it was true
        scene.until(10.1 + tick / 10)
        answer(scene, 20)
        scene.at(scene.now, ev.PassSeen(3 + tick))
    assert 1 <= len(scene.readings) - before <= 2 / POLL_S + 1
    assert scene.switches == []


def test_pass_announced_while_the_monitor_does_not_answer_is_believed() -> None:
    """QEMU 7.2 answers a reading only when the pass is over if the link is full."""
    scene = Scene("after-precopy")
    scene.at(0.0, status("setup"), ev.PassSeen(1), status("active"))
    scene.until(40.0)
    assert len(scene.readings) == 1
    scene.at(40.0, ev.PassSeen(2))
    assert scene.switches == [40.0]


def test_reading_counts_from_when_it_was_asked_for() -> None:
    """It was asked for at 0.5 s and answered at 9 s: at its rate half is over at 5.12 s."""
    scene = Scene("after-precopy")
    scene.at(0.0, ev.PassSeen(1), status("active"), reading(0))
    scene.until(0.5)
    scene.at(9.0, reading(50, rate=100), ev.PassSeen(2))
    assert scene.switches == [9.0]


def test_reading_asked_for_before_precopy_counts_from_its_begin() -> None:
    """Asked for at 0 s while the migration was being set up, which took 5 s."""
    scene = Scene("after-precopy")
    scene.at(0.0, status("setup"))
    scene.at(5.0, ev.PassSeen(1), status("active"))
    scene.at(5.5, reading(100, rate=100))
    scene.at(6.0, ev.PassSeen(2))
    assert scene.switches == []


def test_first_pass_is_seen_by_bytes_alone() -> None:
    """QEMU 2.5 and 11.1 announce no pass that can be believed."""
    scene = Scene("after-precopy").precopy()
    scene.at(0.5, reading(1023.9))
    assert scene.switches == []
    scene.at(1.0, reading(1024, left=40))
    assert scene.switches == [1.0]
    assert scene.asked(Switch)[0][1].reason == "the first pass is done"


def qemu_11(scene: Scene, *, rate: float, until: float) -> None:
    """No pass 1, then ten looks at the dirty bitmap a second, announced as passes and counted as syncs."""
    scene.at(0.0, *walk("setup", "active"))
    for tick in range(int(until * 10) + 1):
        scene.at(tick / 10, ev.PassSeen(2 + tick))
        answer(scene, rate, sync_count=2 + tick)


def test_looks_at_the_bitmap_are_no_passes() -> None:
    scene = Scene("after-precopy")
    qemu_11(scene, rate=100, until=12.0)
    all_gone_over = 10.24
    assert all_gone_over <= scene.switches[0] <= all_gone_over + POLL_S + 0.1
    assert len(scene.switches) == 1


def test_looks_at_the_bitmap_cost_no_readings() -> None:
    scene = Scene("after-precopy")
    qemu_11(scene, rate=10, until=10.0)
    assert len(scene.readings) <= 10 / POLL_S + 1


def test_second_pass_is_counted_by_what_was_left() -> None:
    scene = Scene("after-precopy:2").precopy()
    scene.at(0.5, reading(1024, left=100))
    scene.at(1.0, reading(1120, left=40))
    assert scene.switches == []
    scene.at(1.5, reading(1125, left=35))
    assert scene.switches == [1.5]
    assert scene.asked(Switch)[0][1].reason == "2 passes are done"


def test_second_pass_may_be_announced() -> None:
    scene = Scene("after-precopy:2")
    scene.at(0.0, ev.PassSeen(1), status("active"), reading(600))
    scene.at(1.0, ev.PassSeen(2))
    assert scene.switches == []
    scene.at(2.0, ev.PassSeen(3))
    assert scene.switches == [2.0]


# Policies by time, and several


def test_policy_by_time_needs_no_event() -> None:
    scene = Scene("after:7").precopy()
    assert scene.migration.deadline() <= 7.0
    scene.until(8.0)
    assert scene.switches == [7.0]


def test_any_switches_with_the_first() -> None:
    scene = Scene("after-precopy|after:60").precopy()
    scene.at(2.0, reading(1024))
    assert scene.asked(Switch)[0][1].reason == "the first pass is done"
    slow = Scene("after-precopy|after:60").precopy()
    slow.until(100.0)
    assert slow.switches == [60.0]


def test_all_switches_with_the_last() -> None:
    scene = Scene("after-precopy&after:60").precopy()
    scene.at(2.0, reading(1024))
    assert scene.switches == []
    scene.until(100.0)
    assert scene.switches == [60.0]
    late = Scene("after-precopy&after:60").precopy()
    late.until(100.0)
    assert late.switches == []
    late.at(101.0, reading(1024))
    assert late.switches == [101.0]


# What is decided before it comes


def announced(*events: ev.Event) -> Scene:
    """The first pass is under way."""
    scene = Scene("after-precopy").precopy()
    scene.at(1.0, ev.PassSeen(1), *events)
    return scene


def test_switch_is_foreseen_as_it_will_be_asked_for() -> None:
    scene = announced()
    before = state(scene.migration)
    assert scene.migration.hasten(ev.PassSeen(1), 2.0) is None
    assert state(scene.migration) == before
    assert scene.migration.can_be_left_by_its_manager
    foreseen = scene.migration.hasten(ev.PassSeen(2), 2.0)
    assert foreseen == Switch("the first pass is done", attempt=1)
    assert not scene.migration.can_be_left_by_its_manager  # it may come at any moment
    assert scene.migration.feed(ev.PassSeen(2), 2.0)[0] == foreseen
    assert scene.migration.hasten(ev.PassSeen(3), 2.1) is None
    assert scene.migration.feed(ev.PassSeen(3), 2.1) == []


@pytest.mark.parametrize(
    "answer", [ev.SwitchHeld("silent"), ev.SwitchRefused("early", is_final=False)]
)
def test_switch_that_was_foreseen_and_is_not_taken_can_come_no_more(
    answer: ev.Event,
) -> None:
    scene = announced()
    assert scene.migration.hasten(ev.PassSeen(2), 2.0) is not None
    scene.at(2.0, ev.PassSeen(2), answer)
    assert scene.migration.can_be_left_by_its_manager
    scene.until(2.0 + RETRY_S)
    assert scene.switches[0] == 2.0 and len(scene.switches) == 2


def test_switch_that_was_foreseen_is_known_whatever_the_policy_says_by_then() -> None:
    scene = announced()
    scene.migration._policy = Impatient()
    foreseen = scene.migration.hasten(ev.PassSeen(2), 2.0)
    assert foreseen in scene.migration.feed(ev.PassSeen(2), 2.0)


@pytest.mark.parametrize(
    "events, event",
    [
        ([], ev.PassSeen(1)),
        ([], ev.Stopped(SRC)),
        ([ev.AbortRequested()], ev.PassSeen(2)),
        ([ev.SwitchRequested("by hand")], ev.PassSeen(2)),
        ([ev.Stopped(SRC)], ev.PassSeen(2)),  # QEMU announces one more at its stop
        ([status("device")], ev.PassSeen(2)),
        ([ended(Place.SOURCE, "failed")], ev.PassSeen(2)),
        ([ended(Place.UNKNOWN, "no answer")], ev.PassSeen(2)),
    ],
)
def test_no_switch_is_foreseen_where_none_is_asked_for(
    events: list[ev.Event], event: ev.Event
) -> None:
    scene = announced(*events)
    assert scene.migration.hasten(event, 2.0) is None
    asked = kinds(scene.migration.feed(event, 2.0))
    assert Switch not in asked


def test_no_switch_is_foreseen_before_a_reading_allows_it() -> None:
    scene = Scene("after-precopy").precopy()
    scene.at(1.0, reading(100, total=1000, rate=40), ev.PassSeen(1))  # asked for at 0
    assert scene.migration.hasten(ev.PassSeen(2), 9.9) is None
    assert scene.migration.hasten(ev.PassSeen(2), 10.1) is not None


class Broken:
    """A policy of the caller's with a bug."""

    enables_postcopy = True

    def decide(self, seen: object) -> Decision:
        raise ZeroDivisionError


class Impatient(Broken):
    """One that always wants to be asked again at once."""

    def decide(self, seen: object) -> Decision:
        return Decision(look_again_at=0.0)


def test_policy_that_fails_is_told_and_not_asked_again() -> None:
    scene = Scene(Broken()).precopy()
    scene.until(5.0)
    scene.at(5.0, reading(10), ev.PassSeen(2))
    assert scene.notes == [
        "the policy failed and is not asked again: ZeroDivisionError()"
    ]


def test_switch_by_hand_works_though_the_policy_failed() -> None:
    scene = Scene(Broken()).precopy()
    scene.at(5.0, ev.SwitchRequested("by hand"))
    assert scene.switches == [5.0]


def test_impatient_policy_does_not_make_the_loop_spin() -> None:
    scene = Scene(Impatient()).precopy()
    assert scene.migration.deadline() >= 0.01
    scene.until(1.0)


# Leaving it to itself


@pytest.mark.parametrize(
    "events, can_be_left",
    [
        ([], True),
        (walk("setup", "active"), True),
        (walk("active", "device"), False),
        (walk("active", "postcopy-active"), False),
        ([*walk("active", "postcopy-active"), ev.Resumed(DST)], True),
        (
            [*walk("active", "postcopy-active", "postcopy-paused"), ev.Resumed(DST)],
            True,
        ),
        ([*walk("active"), ev.SwitchRequested("now")], False),
        ([*walk("active"), ev.SwitchRequested("now"), ev.SwitchAccepted()], False),
        (
            [*walk("active"), ev.SwitchRequested("now"), ev.SwitchRefused("no", False)],
            True,
        ),
        ([*walk("active"), ev.Stopped(SRC)], False),  # QEMU up to 9.2 says no more
        (walk("active", "completed"), False),  # the destination has not been started
        ([*walk("active", "completed"), ev.Resumed(DST)], True),
        (walk("active", "cancelling", "cancelled"), True),
        ([*walk("active", "device"), ended(Place.UNKNOWN)], True),
    ],
)
def test_client_that_manages_it_may_go_while_either_side_can_live_without_it(
    events: list[ev.Event], can_be_left: bool
) -> None:
    scene = Scene()
    scene.at(0.0, *events)
    assert scene.migration.can_be_left_by_its_manager is can_be_left


# The figures


def moved(*, measured: bool = True, final: Stats | None = None) -> Summary:
    """A post-copy migration: switch asked for at 10 s, 40 ms downtime as we see it, end at 14 s."""
    scene = Scene("after:10", start=100.0)
    scene.at(100.0, status("setup"), ev.PassSeen(1), status("active"))
    scene.at(105.0, reading(500))
    scene.at(109.0, ev.PassSeen(2), reading(1000))
    scene.at(109.4, reading(1010))
    scene.at(109.9, reading(1020))
    scene.until(110.0)
    scene.at(110.0, ev.SwitchAccepted())
    scene.at(110.05, reading(1023))  # asked for before the switch
    if measured:
        scene.at(110.1, ev.Stopped(SRC))
        scene.at(110.11, ev.Stopped(SRC))  # libvirt's, of the same stop
    scene.at(110.12, status("device"), ev.PassSeen(3), status("postcopy-active"))
    if measured:
        scene.at(110.14, ev.Resumed(DST))
        scene.at(110.9, ev.Resumed(DST))
    scene.at(110.2, reading(1100)) if not measured else scene.at(110.95, reading(1100))
    scene.at(112.0, reading(1200, postcopy_requests=5))
    scene.at(114.0, *walk("completed"))
    if final is not None:
        scene.at(114.0, ev.Finished(final))
    scene.at(114.0, DONE)
    return scene.migration.summary()


FINAL = Stats(
    elapsed_ms=13_900,
    setup_ms=7,
    downtime_ms=12_568,
    memory_sent=1300 * MIB,
    postcopy_requests=77,
)


def test_downtime_is_from_stop_to_resume() -> None:
    assert moved(final=FINAL).downtime_ms == pytest.approx(40)


def test_absurd_downtime_of_qemu_is_shown_apart() -> None:
    assert moved(final=FINAL).qemu_downtime_ms == 12_568


def test_qemus_downtime_serves_where_nothing_was_measured() -> None:
    assert moved(measured=False, final=FINAL).downtime_ms == 12_568


def test_bytes_are_told_apart_by_phase() -> None:
    summary = moved(final=FINAL)
    assert summary.precopy_bytes == 1100 * MIB
    assert summary.postcopy_bytes == 200 * MIB
    assert summary.postcopy_requests == 77


def test_qemus_own_times_are_taken_where_known() -> None:
    summary = moved(final=FINAL)
    assert (summary.total_ms, summary.setup_ms) == (13_900, 7)


def test_figures_without_final_statistics_are_the_last_seen() -> None:
    summary = moved()
    assert summary.total_ms == pytest.approx(14_000)
    assert summary.postcopy_bytes == 100 * MIB
    assert (summary.postcopy_requests, summary.qemu_downtime_ms) == (5, None)


def test_passes_are_those_before_the_stop() -> None:
    assert moved().passes == 1


@pytest.mark.parametrize(
    "stop",
    [
        [ev.Stopped(SRC)],  # pre-copy up to QEMU 9.2 goes straight to completed
        walk("device"),
        walk("postcopy-active"),
    ],
)
def test_pass_announced_after_the_stop_does_not_count(stop: list[ev.Event]) -> None:
    scene = Scene()
    scene.at(
        0.0, ev.PassSeen(1), status("active"), ev.PassSeen(2), *stop, ev.PassSeen(3)
    )
    scene.at(1.0, DONE)
    assert scene.migration.summary().passes == 1


def test_pass_announced_late_takes_nothing_back() -> None:
    scene = Scene()
    scene.at(0.0, ev.PassSeen(1), status("active"), ev.PassSeen(3), ev.PassSeen(2))
    assert scene.migration.summary().passes == 2


def test_switch_is_recorded_with_reason_and_times() -> None:
    switch = moved().switch
    assert switch is not None
    assert switch.reason == "10s of pre-copy are over"
    assert switch.attempts == 1
    assert switch.asked_ms == pytest.approx(10_000)
    assert switch.took_effect_ms == pytest.approx(10_120)


def test_switch_by_somebody_else_is_recorded() -> None:
    scene = Scene().precopy()
    scene.at(3.0, *POSTCOPY_FLOW)
    switch = scene.migration.summary().switch
    assert switch is not None and switch.reason == "asked for by another client"
    assert switch.attempts == 0
    assert switch.took_effect_ms == pytest.approx(3000)


def test_switch_by_somebody_else_after_ours_was_refused_is_theirs() -> None:
    scene = Scene("after:0").precopy()
    scene.at(0.0, ev.SwitchRefused("not enabled", True))
    scene.at(3.0, *POSTCOPY_FLOW)
    assert scene.migration.summary().switch.reason == "asked for by another client"


def test_recovery_does_not_change_when_the_switch_came() -> None:
    scene = Scene().precopy()
    scene.at(3.0, *POSTCOPY_FLOW)
    scene.at(9.0, *walk("postcopy-paused", "postcopy-recover", "postcopy-active"))
    assert scene.migration.summary().switch.took_effect_ms == pytest.approx(3000)


def test_reading_asked_for_before_the_switch_does_not_tell_the_bytes_apart() -> None:
    scene = Scene().precopy()
    scene.at(0.2, *POSTCOPY_FLOW)
    scene.at(5.0, reading(100))  # of the start
    scene.at(6.0, DONE)
    summary = scene.migration.summary()
    assert (summary.precopy_bytes, summary.postcopy_bytes) == (None, None)


def test_migration_without_a_switch_has_all_bytes_in_precopy() -> None:
    scene = Scene().precopy()
    scene.at(1.0, reading(1000))
    scene.at(2.0, *walk("completed"), ev.Finished(FINAL))
    summary = scene.migration.summary()
    assert (summary.switch, summary.postcopy_bytes) == (None, None)
    assert summary.precopy_bytes == 1300 * MIB


def test_statistics_are_read_at_the_switch_to_tell_the_bytes_apart() -> None:
    scene = Scene().precopy()
    scene.at(0.1, reading(100))
    scene.at(0.2, *walk("postcopy-active"))
    assert scene.readings == pytest.approx([0.0, 0.2])


def test_statistics_are_read_again_where_a_reading_was_under_way_at_the_switch() -> (
    None
):
    scene = Scene().precopy()
    scene.at(0.2, *walk("postcopy-active"))
    scene.at(5.0, reading(100))
    assert scene.readings == pytest.approx([0.0, 5.0])
    scene.at(5.1, reading(200))
    scene.until(5.5)
    assert scene.readings == pytest.approx([0.0, 5.0])


def test_guest_that_its_user_stopped_and_resumed_counts_no_downtime() -> None:
    scene = Scene().precopy()
    scene.at(1.0, ev.Stopped(SRC))
    scene.at(5.0, ev.Resumed(SRC))
    scene.at(9.0, ev.Stopped(SRC), *POSTCOPY_FLOW)
    scene.at(9.01, ev.Resumed(DST))
    assert scene.migration.downtime_ms == pytest.approx(10)


def test_downtime_is_unknown_until_both_were_seen() -> None:
    scene = Scene().precopy()
    assert scene.migration.downtime_ms is None
    scene.at(1.0, ev.Stopped(DST), ev.Resumed(DST))
    assert scene.migration.downtime_ms is None
    scene.at(2.0, ev.Stopped(SRC))
    assert scene.migration.downtime_ms == 0.0


def test_figures_before_anything_was_seen_are_none() -> None:
    assert Migration(Scene().policy, 0.0).summary() == Summary()


# The end

FLOWS = {
    Phase.PREPARING: [],
    Phase.PRECOPY: ["active"],
    Phase.SWITCHING: ["active", "device"],
    Phase.POSTCOPY: ["active", "postcopy-active"],
    Phase.BROKEN: ["active", "postcopy-active", "postcopy-paused"],
    Phase.RECOVERING: ["active", "postcopy-active", "postcopy-paused", "postcopy-recover"],
    Phase.GOING_BACK: ["active", "cancelling"],
    Phase.COMPLETED: ["active", "completed"],
    Phase.CANCELLED: ["active", "cancelling", "cancelled"],
    Phase.FAILED: ["active", "failed"],
    Phase.LOST: ["active", "postcopy-active", "cancelling"],
}  # fmt: skip
SPLIT = [phase for phase in Phase if phase.is_split]


def after(phase: Phase, ending: ev.Ended) -> Migration:
    scene = Scene()
    scene.at(0.0, *walk(*FLOWS[phase]))
    assert scene.phase is phase
    scene.find(looked(SRC, ending.here), looked(DST, ending.there))
    scene.at(1.0, ending)
    scene.until(1.0 + SETTLE_S)
    assert scene.migration.is_over
    return scene.migration


def test_flows_lead_to_every_phase() -> None:
    assert set(FLOWS) == set(Phase)


@pytest.mark.parametrize("phase", Phase)
def test_guest_found_on_the_destination_is_success(phase: Phase) -> None:
    migration = after(phase, ended(Place.DESTINATION, "connection closed"))
    assert (migration.phase, migration.place) == (Phase.COMPLETED, Place.DESTINATION)
    assert migration.error == "connection closed"


@pytest.mark.parametrize("phase", Phase)
def test_guest_found_on_the_source_is_a_failure_without_loss(phase: Phase) -> None:
    migration = after(phase, ended(Place.SOURCE))
    assert (migration.phase, migration.place) == (Phase.FAILED, Place.SOURCE)


@pytest.mark.parametrize("phase", Phase)
def test_guest_found_split_is_split(phase: Phase) -> None:
    migration = after(phase, ended(Place.SPLIT))
    assert migration.phase is (phase if phase in SPLIT else Phase.POSTCOPY)
    assert migration.place is Place.SPLIT


AWAY = [*SPLIT, Phase.COMPLETED, Phase.LOST]


@pytest.mark.parametrize("error", [None, "failed"])
@pytest.mark.parametrize("phase", AWAY)
def test_guest_found_nowhere_after_the_switch_is_lost(
    phase: Phase, error: str | None
) -> None:
    migration = after(phase, ended(Place.LOST, error))
    assert (migration.phase, migration.place) == (Phase.LOST, Place.LOST)


@pytest.mark.parametrize("phase", [each for each in Phase if each not in AWAY])
def test_guest_that_shut_itself_down_before_the_switch_is_not_lost(
    phase: Phase,
) -> None:
    migration = after(phase, ended(Place.LOST, "domain is no longer running"))
    assert (migration.phase, migration.place) == (Phase.FAILED, Place.SOURCE)


def test_guest_is_lost_also_if_only_the_destination_told_of_the_switch() -> None:
    scene = Scene().precopy()
    scene.at(1.0, *walk("active", "postcopy-active", side=DST))
    scene.find(looked(SRC, Half.GONE), looked(DST, Half.GONE))
    scene.at(2.0, ended(Place.LOST))
    assert not scene.migration.is_over, "for a moment every completion looks like that"
    scene.until(2.0 + SETTLE_S)
    assert scene.phase is Phase.LOST


@pytest.mark.parametrize("phase", Phase)
def test_success_is_believed_though_neither_host_answers(phase: Phase) -> None:
    migration = after(phase, ended(Place.UNKNOWN, None))
    assert (migration.phase, migration.place) == (Phase.COMPLETED, Place.DESTINATION)


@pytest.mark.parametrize("phase", Phase)
def test_failure_that_nobody_can_tell_about_keeps_the_phase(phase: Phase) -> None:
    migration = after(phase, ended(Place.UNKNOWN))
    assert (migration.phase, migration.place) == (phase, Place.UNKNOWN)


@pytest.mark.parametrize("phase", Phase)
def test_guest_is_not_said_to_be_whole_while_nobody_can_tell(phase: Phase) -> None:
    """Who hears that may remove the other half."""
    scene = Scene(patience_s=600)
    scene.at(0.0, *walk(*FLOWS[phase]))
    before = scene.migration.place
    scene.at(1.0, ended(Place.UNKNOWN))
    is_split = before is Place.SPLIT
    assert scene.migration.place is (Place.SPLIT if is_split else Place.UNKNOWN)
    scene.find(looked(SRC, Half.UNKNOWN), looked(DST, Half.SPLIT))
    scene.until(5.0)
    assert not scene.migration.is_over
    assert scene.migration.place in (Place.UNKNOWN, Place.SPLIT)


def test_guest_in_precopy_goes_on_though_our_call_has_failed() -> None:
    """The daemons do it among themselves; a look tells that, and nobody breaks what is not split."""
    scene = Scene(patience_s=3 * STALL_S).precopy()
    scene.find(looked(SRC, Half.WHOLE, "active"), looked(DST, Half.UNKNOWN))
    scene.at(1.0, ended(Place.UNKNOWN))
    scene.until(2 * STALL_S)
    assert (scene.phase, scene.migration.place) == (Phase.PRECOPY, Place.SOURCE)
    assert scene.pauses == scene.resumes == []
    for tick in range(20):  # longer than the patience, but it moves
        sent = looked(SRC, Half.WHOLE, "active", memory_sent=tick)
        scene.find(sent, looked(DST, Half.UNKNOWN)).until(2 * STALL_S + 10 * tick)
    assert not scene.migration.is_over
    scene.find(looked(SRC, Half.GONE), looked(DST, Half.WHOLE)).until(300)
    assert (scene.phase, scene.migration.place) == (Phase.COMPLETED, Place.DESTINATION)


@pytest.mark.parametrize("phase", Phase)
def test_call_that_was_never_made_is_a_failure_without_loss(phase: Phase) -> None:
    migration = after(phase, ev.Ended(error="refused", was_sent=False))
    assert (migration.phase, migration.place) == (Phase.FAILED, Place.SOURCE)


def test_look_is_believed_over_what_the_destination_last_said() -> None:
    """QEMU 11.1 resumes the source when the destination dies in the switch."""
    scene = Scene().precopy()
    scene.at(1.0, *walk("active", "postcopy-device", "postcopy-active", side=DST))
    scene.at(2.0, *walk("device", "postcopy-device", "failing", "failed"))
    scene.at(2.0, ended(Place.SOURCE))
    assert (scene.phase, scene.migration.place) == (Phase.FAILED, Place.SOURCE)


def test_abort_that_worked_is_cancelled_not_failed() -> None:
    scene = Scene().precopy()
    scene.at(1.0, ev.AbortRequested())
    scene.at(1.1, *walk("cancelling", "cancelled"))
    scene.at(1.2, ended(Place.SOURCE, "operation aborted"))
    assert scene.phase is Phase.CANCELLED


def test_abort_that_came_too_late_is_success() -> None:
    scene = Scene().precopy()
    scene.at(1.0, ev.AbortRequested())
    scene.at(1.1, *walk("completed"), DONE)
    assert scene.phase is Phase.COMPLETED


@pytest.mark.parametrize("found", Place)
@pytest.mark.parametrize(
    "event", [status("setup"), ev.AbortRequested(), ev.SwitchRequested("x"), ev.PassSeen(9), reading(1), ev.Ended("x")]
)  # fmt: skip
def test_after_the_end_nothing_happens(found: Place, event: ev.Event) -> None:
    scene = Scene("after:5").precopy()
    here, there = FOUND[found]
    scene.find(looked(SRC, here), looked(DST, there)).at(1.0, ended(found))
    scene.until(1.0 + SETTLE_S)
    before = (scene.phase, scene.migration.place, scene.migration.summary())
    assert scene.migration.is_over and scene.migration.deadline() is None
    assert scene.migration.feed(event, 90.0) == []
    assert scene.migration.tick(90.0) == []
    assert (scene.phase, scene.migration.place, scene.migration.summary()) == before


# Whatever happens

STATUSES = [each.value for each in Status] + ["postcopy-teleport"]
EVENTS = st.one_of(
    st.builds(ev.StatusSeen, st.sampled_from(Side), st.sampled_from(STATUSES)),
    st.builds(ev.SplitSeen, st.sampled_from(Side)),
    st.builds(ev.PassSeen, st.integers(1, 6)),
    st.builds(reading, st.integers(0, 1200), left=st.integers(0, 1024), rate=st.integers(0, 200)),
    st.just(ev.StatsSeen(None)),
    st.just(ev.StatsSeen(Stats())),
    st.builds(ev.Stopped, st.sampled_from(Side)),
    st.builds(ev.Resumed, st.sampled_from(Side)),
    st.builds(ev.SplitFailed, st.sampled_from(Side)),
    st.builds(ev.Died, st.sampled_from(Side)),
    st.just(ev.SwitchRequested("by hand")),
    st.builds(ev.SwitchAccepted, st.sampled_from(["", "too far"])),
    st.builds(ev.SwitchRefused, st.just("no"), st.booleans()),
    st.just(ev.SwitchUnanswered("gone")),
    st.just(ev.SwitchNotSeen()),
    st.just(ev.AbortRequested()),
    st.just(ev.AbortRefused("no")),
    st.just(ev.Finished(Stats(memory_sent=5))),
    st.just(ev.StatsWanted()),
    st.builds(ev.Attached, st.booleans()),
    st.just(ev.SwitchHeld("no sign of life")),
    st.just(ev.PauseRefused("no")),
    st.builds(
        ev.Looked,
        st.sampled_from(Side),
        st.sampled_from(Half),
        st.none() | st.sampled_from(STATUSES),
        st.none() | st.builds(Stats, memory_sent=st.integers(0, 3)),
        st.sampled_from(["", "", "", "too old"]),
    ),
    st.builds(
        ev.Ended,
        st.none() | st.just("failed"),
        st.booleans(),
        st.sampled_from(Half),
        st.sampled_from(Half),
    ),
)  # fmt: skip
POLICIES = [
    "manual",
    "never",
    "after:0",
    "after:2",
    "after-precopy",
    "after-precopy:2|after:5",
]


class Watched(Scene):
    """A scene that holds the core to its promises at every step."""

    def __init__(self, policy: str, patience_s: float = 0.0) -> None:
        super().__init__(policy, patience_s=patience_s)
        self.announced = 0
        self.was_split = False
        self.wants_abort = False
        self.is_switch_out = False  # and not answered
        self.was_noted = False
        self.sent = 0  # switches that were accepted or refused
        self.seen: dict[Side, ev.Looked] = {}  # since the last call has ended or begun

    def follow(self, events: Iterable[ev.Event]) -> None:
        """Feed what leads to the scene that is meant; none of it is refused."""
        for event in events:
            self.feed(event, may_be_refused=False)

    def feed(self, event: ev.Event, *, may_be_refused: bool = True) -> None:
        was_over = self.migration.is_over
        may_change_nothing = was_over or isinstance(event, ev.StatusSeen)
        before = state(self.migration) if may_be_refused and may_change_nothing else None  # fmt: skip
        self.announced += isinstance(event, (ev.PassSeen, ev.StatsWanted))
        self.wants_abort |= isinstance(event, ev.AbortRequested)
        is_noted = isinstance(event, (ev.SwitchAccepted, ev.SwitchUnanswered))
        is_answer = is_noted or isinstance(event, ev.SwitchRefused)
        self.was_noted |= is_noted and self.is_switch_out
        if is_answer or isinstance(event, ev.SwitchHeld):
            self.is_switch_out = False
        self.sent += bool(is_answer and self.switches)
        if isinstance(event, ev.Looked):
            self.seen[event.side] = event
        if isinstance(event, ev.Ended):
            self.seen.clear()
        hastened = self.migration.hasten(event, self.now)
        try:
            actions = self.migration.feed(event, self.now)
        except StateError:
            assert isinstance(event, ev.StatusSeen)
            assert state(self.migration) == before, "a refused event changed something"
            return
        if was_over:
            assert actions == []
            assert before is None or state(self.migration) == before
        asked = [action for action in actions if isinstance(action, Switch)]
        assert hastened is None or asked == [hastened]
        self._keep(actions)
        self.check(actions)

    def check(self, actions) -> None:
        core = self.migration
        assert actions == [] or not core.is_over or set(kinds(actions)) <= {Note}
        assert len(set(kinds(actions)) & {Switch, Abort, Pause, Resume}) < 2
        for action in actions:
            if isinstance(action, (Abort, Switch)):
                assert core.place is Place.SOURCE, "never once the guest is split"
            if isinstance(action, Abort):
                assert self.wants_abort and not (self.is_switch_out or self.was_noted)
                assert core.phase in (Phase.PREPARING, Phase.PRECOPY)
            if isinstance(action, Switch):
                self.is_switch_out = True
                assert core.phase is Phase.PRECOPY
                assert self.policy.enables_postcopy and not self.wants_abort
                assert action.attempt == self.sent + 1
            if isinstance(action, VerifySwitch):
                assert core.phase is Phase.PRECOPY and self.switches
            if isinstance(action, Pause):
                self.check_pause()
            if isinstance(action, Resume):
                self.check_resume()
        self.was_split |= core.phase.is_split
        self.check_deadline()
        polled = int((self.now + 1e-9) / POLL_S) + 1
        assert len(self.readings) <= polled + self.announced + self.was_split
        core.summary()

    def check_pause(self) -> None:
        here, there = self.seen[SRC], self.seen[DST]
        assert self.migration.place is not Place.SOURCE
        assert here.half in (Half.SPLIT, Half.SPLIT_FAILED)
        assert here.status in ("postcopy-active", "postcopy-recover")
        assert there.half is not Half.UNKNOWN, "it could not be resumed afterwards"
        assert not here.obstacle and not there.obstacle

    def check_resume(self) -> None:
        here, there = self.seen[SRC], self.seen[DST]
        assert here.half in (Half.SPLIT, Half.SPLIT_FAILED)
        assert here.status == "postcopy-paused"
        assert there.half is Half.SPLIT_FAILED
        assert not here.obstacle and not there.obstacle
        assert self.migration.place is not Place.SOURCE
        self.seen.clear()

    def check_deadline(self) -> None:
        core = self.migration
        deadline = core.deadline()
        if core.is_over:
            assert deadline is None
        elif deadline is None:
            is_awaited = core._is_reading or core.phase.is_final
            assert is_awaited, "it will never wake up"
        else:
            assert math.isfinite(deadline)

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        for _ in range(400):
            deadline = self.migration.deadline()
            if deadline is None or deadline > end:
                break
            self.now = max(self.now, deadline)
            self.check(self._keep(self.migration.tick(self.now)))
        else:
            raise AssertionError("the core keeps asking for the same deadline")
        self.now = end


@settings(max_examples=400)
@given(
    st.sampled_from(POLICIES),
    st.sampled_from([0.0, 30.0, 1800.0]),
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.01, 0.3, 1.0, 5.0, 25.0]), EVENTS),
        max_size=40,
    ),
)
def test_whatever_happens_the_core_keeps_its_promises(
    policy: str, patience_s: float, story
) -> None:
    scene = Watched(policy, patience_s)
    for wait, event in story:
        scene.pass_time(wait)
        scene.feed(event)
    scene.pass_time(60.0)


ONE_OF_EACH = [
    *(status(word, side) for side in Side for word in STATUSES),
    *(kind(side) for side in Side for kind in (ev.SplitSeen, ev.SplitFailed, ev.Stopped, ev.Resumed, ev.Died)),
    ev.PassSeen(2),
    reading(600),
    ev.StatsSeen(None),
    ev.SwitchRequested("by hand"),
    ev.SwitchAccepted(),
    ev.SwitchRefused("early", False),
    ev.SwitchRefused("never", True),
    ev.SwitchUnanswered("gone"),
    ev.SwitchNotSeen(),
    ev.AbortRequested(),
    ev.AbortRefused("no"),
    ev.Finished(Stats()),
    ev.Remarked("beware"),
    ev.StatsWanted(),
    ev.Attached(),
    ev.SwitchHeld("no sign of life"),
    ev.PauseRefused("no"),
    *(looked(side, half, "postcopy-paused") for side in Side for half in Half),
    *(looked(SRC, Half.SPLIT_FAILED, word) for word in STATUSES),
    looked(SRC, Half.SPLIT, "postcopy-active", memory_sent=7),
    looked(DST, Half.SPLIT_FAILED, None, "too old"),
    *(ended(found, error) for error in (None, "x") for found in FOUND),
    ev.Ended("refused", was_sent=False),
]  # fmt: skip


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("phase", Phase)
def test_every_event_in_every_phase_keeps_the_promises(
    phase: Phase, policy: str
) -> None:
    for event in ONE_OF_EACH:
        scene = Watched(policy)
        scene.follow(walk(*FLOWS[phase]))
        scene.feed(event)
        scene.pass_time(20.0)


#: What both hosts were seen to say, one story for each way a migration can be found after its call has failed.
STORIES = [
    [],
    [looked(SRC, Half.SPLIT_FAILED, "postcopy-paused"), looked(DST, Half.SPLIT_FAILED)],
    [looked(SRC, Half.SPLIT_FAILED, "postcopy-paused"), looked(DST, Half.SPLIT)],
    [looked(SRC, Half.SPLIT_FAILED, "postcopy-active"), looked(DST, Half.SPLIT_FAILED)],
    [looked(SRC, Half.SPLIT_FAILED, "postcopy-paused"), looked(DST, Half.SPLIT_FAILED, None, "too old")],
    [looked(SRC, Half.SPLIT, "postcopy-active"), looked(DST, Half.UNKNOWN)],
    [looked(SRC, Half.UNKNOWN), looked(DST, Half.UNKNOWN)],
    [looked(SRC, Half.GONE), looked(DST, Half.GONE)],
]  # fmt: skip


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("phase", Phase)
def test_every_event_in_every_recovery_keeps_the_promises(
    phase: Phase, story: list[ev.Looked]
) -> None:
    for event in ONE_OF_EACH:
        scene = Watched("after:2", patience_s=600.0)
        scene.follow([*walk(*FLOWS[phase]), ended(Place.SPLIT), *story])
        scene.feed(event)
        scene.pass_time(STALL_S)
        for each in story:
            scene.feed(each)
        scene.pass_time(STALL_S)


def test_recovery_that_is_walked_has_all_of_its_actions() -> None:
    """Or the promises about them were never put to the test."""
    asked: set[type] = set()
    for story in STORIES:
        scene = Watched("manual", patience_s=600.0)
        for each in [*walk("active", "postcopy-active"), ended(Place.SPLIT), *story]:
            scene.feed(each)
        scene.pass_time(STALL_S)
        for each in story:
            scene.feed(each)
        asked |= set(kinds(action for _, action in scene.log))
    assert {Look, Pause, Resume} <= asked


def test_one_of_each_event_is_walked() -> None:
    def kinds_of_event(base: type = ev.Event) -> set[type]:
        return {base}.union(*(kinds_of_event(each) for each in base.__subclasses__()))

    ours = {kind for kind in kinds_of_event() if kind.__module__ == ev.__name__}
    assert {type(event) for event in ONE_OF_EACH} == ours - {ev.Event}


def test_half_has_words_for_people() -> None:
    assert Half.SPLIT_FAILED.value == "split, post-copy failed"


def test_reading_is_asked_for_first_of_all() -> None:
    scene = Scene()
    assert scene.migration.deadline() == 0.0
    assert scene.migration.tick(0.0) == [ReadStats()]


@pytest.mark.parametrize(
    "died, found",
    [(None, Phase.FAILED), (SRC, Phase.LOST), (DST, Phase.FAILED)],
)
def test_guest_that_dies_during_precopy_is_lost_and_one_that_shuts_down_is_not(
    died: Side | None, found: Phase
) -> None:
    scene = Scene().precopy().find(looked(SRC, Half.GONE), looked(DST, Half.GONE))
    if died is not None:
        scene.at(1, ev.Died(died))
    scene.at(2, ev.Ended(error="not running", here=Half.GONE, there=Half.GONE))
    scene.until(2 + 2 * SETTLE_S)
    assert scene.phase is found and scene.migration.is_over
