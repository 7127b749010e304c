"""The transition tables, against what QEMU 2.5 to 11.1 did."""

from __future__ import annotations

from collections import deque
from itertools import product

import pytest

from libvirt_postcopy.errors import StateError
from libvirt_postcopy.events import Ended, Half, Place, Side
from libvirt_postcopy.phases import (
    TRANSITIONS,
    Phase,
    Status,
    conclude,
    next_phase,
    place,
    whereabouts,
)
from unit.fakes import DST, SRC

P = Phase
SPLIT = {phase for phase in Phase if phase.is_split}
PAIRS = list(product(Phase, Phase))
MOVES_IN_TABLE = [
    (side, phase, word, after)
    for side in Side
    for phase, row in TRANSITIONS[side].items()
    for word, after in row.items()
]


def follow(side: Side, words: list[str], phase: Phase = P.PREPARING) -> list[Phase]:
    """The phases that a side goes through."""
    phases = []
    for word in words:
        phase = next_phase(side, phase, word)
        phases.append(phase)
    return phases


def words(text: str) -> list[str]:
    return text.replace(",", " ").split()


# Every triple


def test_split_phases_are_these() -> None:
    assert {P.POSTCOPY, P.BROKEN, P.RECOVERING} == SPLIT


def test_final_phases_are_these() -> None:
    final = {phase for phase in Phase if phase.is_final}
    assert final == {P.COMPLETED, P.CANCELLED, P.FAILED, P.LOST}


@pytest.mark.parametrize("side", Side)
def test_every_phase_has_its_row(side: Side) -> None:
    assert set(TRANSITIONS[side]) == set(Phase)


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("phase", Phase)
def test_every_known_status_leads_on_or_is_refused(side: Side, phase: Phase) -> None:
    for word in Status:
        try:
            after = next_phase(side, phase, word.value)
        except StateError as error:
            assert word not in TRANSITIONS[side][phase]
            assert error.side == side.value
            assert f"'{word.value}'" in str(error) and f"'{phase.value}'" in str(error)
        else:
            assert after is TRANSITIONS[side][phase][word]


@pytest.mark.parametrize(
    "word", ["postcopy-teleport", "", "ACTIVE", "Completed", "colo "]
)
def test_status_of_a_later_qemu_changes_nothing(word: str) -> None:
    for side, phase in product(Side, Phase):
        assert next_phase(side, phase, word) is phase, (side, phase)


@pytest.mark.parametrize("side", Side)
def test_status_is_a_level(side: Side) -> None:
    """Seeing the same status again changes nothing."""
    for phase, word in product(Phase, Status):
        after = TRANSITIONS[side][phase].get(word)
        if after is not None:
            assert next_phase(side, after, word.value) is after, (phase, word)


def test_no_status_makes_a_split_guest_whole_but_completion() -> None:
    for side, phase, word, after in MOVES_IN_TABLE:
        if phase in SPLIT:
            assert after in SPLIT | {P.COMPLETED, P.LOST}, (side, phase, word)
            assert (after is P.COMPLETED) == (word is Status.COMPLETED)


def test_only_a_split_guest_is_lost() -> None:
    for side, phase, word, after in MOVES_IN_TABLE:
        if after is P.LOST:
            assert phase in SPLIT | {P.LOST}, (side, phase, word)


CANCELLED_AS_IT_BROKE = (P.LOST, Status.POSTCOPY_PAUSED)


def test_what_is_over_stays_over_until_a_new_attempt() -> None:
    for side, phase, word, after in MOVES_IN_TABLE:
        if (
            phase.is_final
            and after is not phase
            and (phase, word) != CANCELLED_AS_IT_BROKE
        ):
            assert word in (Status.NONE, Status.SETUP), (side, phase)
            assert after is P.PREPARING and phase is not P.LOST


def test_going_back_never_becomes_a_switch() -> None:
    """But by a status that only a switch can come before."""
    for side, phase, word, after in MOVES_IN_TABLE:
        if phase is P.GOING_BACK and word is not Status.POSTCOPY_PAUSED:
            assert after not in SPLIT | {P.PRECOPY, P.SWITCHING}, (side, word)


MEANING = {
    "none": P.PREPARING,
    "setup": P.PREPARING,
    "wait-unplug": P.PREPARING,
    "active": P.PRECOPY,
    "pre-switchover": P.SWITCHING,
    "device": P.SWITCHING,
    "postcopy-device": P.SWITCHING,
    "postcopy-active": P.POSTCOPY,
    "postcopy-paused": P.BROKEN,
    "postcopy-recover-setup": P.RECOVERING,
    "postcopy-recover": P.RECOVERING,
    "completed": P.COMPLETED,
    "cancelling": P.GOING_BACK,
    "cancelled": P.CANCELLED,
    "failing": P.GOING_BACK,
    "failed": P.FAILED,
}


#: What means something else once the guest is split.
WHILE_SPLIT = {
    (DST, Status.SETUP),  # migrate-recover before QEMU 10.0
    (SRC, Status.FAILING),  # of QEMU 11.1, whose guest may go on here
    (SRC, Status.FAILED),  # the same, or the end of a guest before QEMU 3.0
}


def test_a_status_means_the_same_wherever_it_is_legal() -> None:
    for side, phase, word, after in MOVES_IN_TABLE:
        if phase in SPLIT and (side, word) in WHILE_SPLIT:
            assert after is P.BROKEN
        elif after is not P.LOST:
            assert after is MEANING[word.value], (side, phase, word)


def test_colo_leads_nowhere() -> None:
    assert not any(
        Status.COLO in row for side in Side for row in TRANSITIONS[side].values()
    )


# QEMU's own legal moves, a superset over versions

SOURCE_MOVES = [
    ("none", "setup", "2.5+"),
    ("setup", "active", "2.5+"),
    ("setup", "wait-unplug", "4.2+"),
    ("setup", "failed", "2.5+"),
    ("setup", "failing", "11.0+"),
    ("setup", "cancelling", "2.5+"),
    ("wait-unplug", "active", "4.2+"),
    ("wait-unplug", "cancelling", "4.2+"),
    ("active", "postcopy-active", "2.5-9.2"),
    ("active", "pre-switchover", "2.11+"),
    ("active", "device", "10.0+"),
    ("active", "completed", "2.5-9.2"),
    ("active", "cancelling", "2.5+"),
    ("active", "failed", "2.5+"),
    ("active", "failing", "11.0+"),
    ("pre-switchover", "device", "2.11+"),
    ("pre-switchover", "postcopy-active", "2.11-9.2"),
    ("pre-switchover", "cancelling", "2.11+"),
    ("device", "completed", "2.11+"),
    ("device", "postcopy-active", "10.0-10.1"),
    ("device", "postcopy-device", "10.2+"),
    ("device", "failed", "2.11+"),
    ("device", "failing", "11.0+"),
    ("postcopy-device", "postcopy-active", "10.2+"),
    ("postcopy-device", "failing", "11.0+"),
    ("postcopy-device", "failed", "10.2+"),
    ("postcopy-active", "completed", "2.5+"),
    ("postcopy-active", "postcopy-paused", "3.0+"),
    ("postcopy-active", "failed", "2.5+"),
    ("postcopy-active", "cancelling", "2.5-9.2"),
    ("postcopy-paused", "postcopy-recover", "3.0-9.0"),
    ("postcopy-paused", "postcopy-recover-setup", "9.1+"),
    ("postcopy-paused", "cancelling", "3.0-9.2"),
    ("postcopy-recover-setup", "postcopy-recover", "9.1+"),
    ("postcopy-recover-setup", "postcopy-paused", "9.1+"),
    ("postcopy-recover", "postcopy-active", "3.0+"),
    ("postcopy-recover", "postcopy-paused", "3.0+"),
    ("failing", "failed", "11.0+"),
    ("cancelling", "cancelled", "2.5+"),
    ("completed", "setup", "2.5+"),
    ("failed", "setup", "2.5+"),
    ("cancelled", "setup", "2.5+"),
]
DESTINATION_MOVES = [
    ("none", "setup", "2.5+"),
    ("setup", "active", "2.5+"),
    ("active", "completed", "2.5+"),
    ("active", "failed", "2.5+"),
    ("active", "postcopy-active", "2.6+"),
    ("active", "postcopy-device", "10.2+"),
    ("postcopy-device", "postcopy-active", "10.2+"),
    ("postcopy-device", "failed", "10.2+"),
    ("postcopy-active", "completed", "2.6+"),
    ("postcopy-active", "postcopy-paused", "3.0+"),
    ("postcopy-active", "failed", "2.6+"),
    ("postcopy-paused", "setup", "3.0-9.2"),
    ("postcopy-paused", "postcopy-recover", "3.0+"),
    ("postcopy-recover", "postcopy-active", "3.0+"),
    ("postcopy-recover", "postcopy-paused", "3.0+"),
]
MOVES = [(SRC, *move) for move in SOURCE_MOVES] + [
    (DST, *move) for move in DESTINATION_MOVES
]


def shortest(side: Side, target: str) -> list[str]:
    """The statuses from ``none`` to ``target`` by QEMU's own moves."""
    moves = [(a, b) for each, a, b, _ in MOVES if each is side]
    paths = deque([["none"]])
    while paths:
        path = paths.popleft()
        if path[-1] == target:
            return path
        paths += [[*path, b] for a, b in moves if a == path[-1] and b not in path]
    raise AssertionError(f"no way to {target}")


@pytest.mark.parametrize("side, before, after, versions", MOVES)
def test_qemus_own_move_is_allowed(
    side: Side, before: str, after: str, versions: str
) -> None:
    path = shortest(side, before)
    phases = follow(side, [*path, after])
    is_split = phases[-2] in SPLIT
    if is_split and (side, Status(after)) in WHILE_SPLIT:
        assert phases[-1] is P.BROKEN
    else:
        gave_up = is_split and after in ("failed", "cancelling")
        assert phases[-1] is (P.LOST if gave_up else MEANING[after])


@pytest.mark.parametrize("side", Side)
def test_every_way_through_qemus_moves_is_allowed(side: Side) -> None:
    moves = [(a, b) for each, a, b, _ in MOVES if each is side]
    ways = [["none"]]
    walked = 0
    while ways:
        way = ways.pop()
        follow(side, way)  # raises if it is not
        walked += 1
        ways += [[*way, b] for a, b in moves if a == way[-1] and b not in way]
    assert walked > len(moves)


# What was recorded

RECOVERY = "postcopy-paused, postcopy-recover, postcopy-active, completed"
RECOVERY_10 = RECOVERY.replace("paused", "paused, postcopy-recover-setup")
POSTCOPY_11 = "setup, active, device, postcopy-device, postcopy-active"
RECORDED_SOURCE = [
    ("5.2, 7.2 pre-copy", "setup, active, completed", P.COMPLETED),
    ("10.0, 11.1 pre-copy", "setup, active, device, completed", P.COMPLETED),
    ("pre-copy with pause", "setup, active, pre-switchover, device, completed", P.COMPLETED),
    ("2.5 to 8.1 post-copy", "setup, active, postcopy-active, completed", P.COMPLETED),
    ("10.0 post-copy", "setup, active, device, postcopy-active, completed", P.COMPLETED),
    ("11.1 post-copy", "setup, active, device, postcopy-device, postcopy-active, completed", P.COMPLETED),
    ("2.12 to 7.2 with pause", "setup, active, pre-switchover, postcopy-active, completed", P.COMPLETED),
    ("10.0 with pause", "setup, active, pre-switchover, device, postcopy-active, completed", P.COMPLETED),
    (
        "11.1 with pause",
        "setup, active, pre-switchover, device, postcopy-device, postcopy-active, completed",
        P.COMPLETED,
    ),
    ("3.0 to 8.1 link lost", "setup, active, postcopy-active, postcopy-paused", P.BROKEN),
    ("3.0 to 8.1 recovered", f"setup, active, postcopy-active, {RECOVERY}", P.COMPLETED),
    (
        "10.0 recovered",
        f"setup, active, device, postcopy-active, {RECOVERY_10}",
        P.COMPLETED,
    ),
    (
        "11.1 resume refused, then recovered",
        f"{POSTCOPY_11}, postcopy-paused, postcopy-recover-setup, {RECOVERY_10}",
        P.COMPLETED,
    ),
    ("5.2 to 10.0 connection refused", "setup, failed", P.FAILED),
    ("11.1 connection refused", "setup, failing, failed", P.FAILED),
    ("11.1 link lost in pre-copy", "setup, active, failing, failed", P.FAILED),
    ("cancelled in pre-copy", "setup, active, cancelling, cancelled", P.CANCELLED),
    ("cancelled, then tried again", "setup, active, cancelling, cancelled, setup, failed", P.FAILED),
    ("2.5 link lost after the switch", "setup, active, postcopy-active, failed", P.BROKEN),
    ("5.2, 7.2 cancelled after the switch", "setup, active, postcopy-active, cancelling, cancelled", P.LOST),
    (
        "7.2 cancelled as the link broke",
        "setup, active, pre-switchover, postcopy-active, cancelling, postcopy-paused",
        P.BROKEN,
    ),
    (
        "3.0 to 7.2 cancelled while paused",
        "setup, active, postcopy-active, postcopy-paused, cancelling",
        P.LOST,
    ),
    (
        "11.1 destination rejects the device state",
        "setup, active, device, postcopy-device, failing, failed",
        P.FAILED,
    ),
    ("4.2 to 10.0 destination rejects it", "setup, active, postcopy-active, postcopy-paused", P.BROKEN),
    ("2.5 to 2.12 destination rejects it", "setup, active, postcopy-active, failed", P.BROKEN),
]  # fmt: skip
RECORDED_DESTINATION = [
    ("2.5, any", "setup, active", P.PRECOPY),
    ("pre-copy", "setup, active, completed", P.COMPLETED),
    ("2.6 to 10.0 post-copy", "setup, active, postcopy-active, completed", P.COMPLETED),
    ("11.1 post-copy", "setup, active, postcopy-device, postcopy-active, completed", P.COMPLETED),
    (
        "3.0 to 8.1 recovered",
        "setup, active, postcopy-active, postcopy-paused, setup, postcopy-recover, postcopy-active, completed",
        P.COMPLETED,
    ),
    ("10.0 recovered", f"setup, active, postcopy-active, {RECOVERY}", P.COMPLETED),
    (
        "5.2 migrate-recover twice",
        "setup, active, postcopy-active, postcopy-paused, setup, setup, postcopy-recover, postcopy-active",
        P.POSTCOPY,
    ),
    ("cancelled or cut in pre-copy", "setup, active, failed", P.FAILED),
    ("11.1 rejects the device state", "setup, active, postcopy-device, failed", P.FAILED),
    ("2.6 to 4.2 rejects the device state", "setup, active, postcopy-active, failed", P.LOST),
]  # fmt: skip
RECORDED = [(SRC, *each) for each in RECORDED_SOURCE] + [
    (DST, *each) for each in RECORDED_DESTINATION
]


@pytest.mark.parametrize("side, flow, statuses, end", RECORDED)
def test_recorded_flow_is_walked_to_its_end(
    side: Side, flow: str, statuses: str, end: Phase
) -> None:
    assert follow(side, words(statuses))[-1] is end


@pytest.mark.parametrize("side, flow, statuses, end", RECORDED)
def test_missed_status_does_not_stop_the_walk(
    side: Side, flow: str, statuses: str, end: Phase
) -> None:
    """Any one status but the last may be missed, unless that hides that the guest was split."""
    path = words(statuses)
    for missed in range(len(path) - 1):
        rest = path[:missed] + path[missed + 1 :]
        is_end_of_split = end is P.LOST or (end, path[-1]) == (P.BROKEN, "failed")
        if path.count("setup") > 1 or is_end_of_split:
            continue  # two attempts in one, or what it means is seen only from the split
        assert follow(side, rest)[-1] is end, rest


@pytest.mark.parametrize("before", sorted(SPLIT))
def test_recovery_of_a_destination_whose_break_was_missed_is_followed(
    before: Phase,
) -> None:
    """QEMU < 10.0 says ``setup`` once a try when it is told to recover."""
    walked = words("setup, setup, postcopy-recover, postcopy-active, completed")
    assert follow(DST, walked, before) == [
        P.BROKEN,
        P.BROKEN,
        P.RECOVERING,
        P.POSTCOPY,
        P.COMPLETED,
    ]


def test_setup_of_a_destination_before_the_switch_is_the_beginning() -> None:
    assert follow(DST, ["setup"]) == [P.PREPARING]
    for phase in (P.PRECOPY, P.SWITCHING):
        with pytest.raises(StateError):
            follow(DST, ["setup"], phase)


@pytest.mark.parametrize("before", sorted(SPLIT))
@pytest.mark.parametrize("destination", Phase)
def test_failure_of_a_split_source_is_no_verdict_on_the_guest(
    before: Phase, destination: Phase
) -> None:
    """QEMU 11.1 goes on by itself where the destination rejected the device state; older ones do not."""
    for phase in follow(SRC, ["failing", "failed"], before):
        assert place(phase, destination) is place(P.BROKEN, destination)


# Where the guest is


def test_source_is_said_only_while_nothing_has_left_it() -> None:
    """Who hears *source* may remove the destination's half."""
    nothing_left = {P.PREPARING, P.PRECOPY, P.SWITCHING, P.GOING_BACK, P.CANCELLED, P.FAILED}  # fmt: skip
    for pair in PAIRS:
        source, destination = pair
        if place(*pair) is Place.SOURCE:
            assert source in nothing_left, pair
            assert destination not in SPLIT | {P.COMPLETED, P.LOST}, pair


def test_destination_is_said_only_when_it_has_everything() -> None:
    """Who hears *destination* may remove the source's half."""
    for pair in PAIRS:
        source, destination = pair
        if place(*pair) is Place.DESTINATION:
            assert P.COMPLETED in pair, pair
            assert destination not in {P.GOING_BACK, P.CANCELLED, P.FAILED, P.LOST}, pair  # fmt: skip
            assert source in SPLIT | {P.COMPLETED, P.LOST}, pair


def test_split_guest_is_split_until_either_side_completes() -> None:
    for pair in PAIRS:
        if SPLIT & set(pair) and not {P.LOST, P.COMPLETED} & set(pair):
            assert place(*pair) is Place.SPLIT, pair


def test_lost_is_said_only_when_a_side_gave_up() -> None:
    for pair in PAIRS:
        is_lost = P.LOST in pair and pair[1] is not P.COMPLETED
        assert (place(*pair) is Place.LOST) == is_lost, pair


@pytest.mark.parametrize(
    "source, destination, where",
    [
        (P.PREPARING, P.PREPARING, Place.SOURCE),
        (P.PRECOPY, P.PRECOPY, Place.SOURCE),
        (P.SWITCHING, P.SWITCHING, Place.SOURCE),
        (P.PRECOPY, P.FAILED, Place.SOURCE),
        (P.CANCELLED, P.FAILED, Place.SOURCE),
        (P.PRECOPY, P.POSTCOPY, Place.SPLIT),  # the destination's event came first
        (P.SWITCHING, P.POSTCOPY, Place.SPLIT),
        (P.POSTCOPY, P.PRECOPY, Place.SPLIT),
        (P.FAILED, P.BROKEN, Place.SPLIT),  # QEMU 11.1 cut in postcopy-device
        (P.POSTCOPY, P.FAILED, Place.SPLIT),  # it rejected the device state
        (P.PRECOPY, P.COMPLETED, Place.SPLIT),  # in doubt: which switch was it?
        (P.FAILED, P.COMPLETED, Place.SPLIT),
        (P.COMPLETED, P.FAILED, Place.SPLIT),
        (P.BROKEN, P.COMPLETED, Place.DESTINATION),
        (P.POSTCOPY, P.COMPLETED, Place.DESTINATION),
        (P.COMPLETED, P.POSTCOPY, Place.DESTINATION),
        (P.COMPLETED, P.PRECOPY, Place.DESTINATION),  # QEMU 2.5 destinations say no more
        (P.LOST, P.COMPLETED, Place.DESTINATION),  # the cancel came when all was there
        (P.LOST, P.BROKEN, Place.LOST),
        (P.COMPLETED, P.LOST, Place.LOST),  # QEMU 7.2 with multifd
    ],
)  # fmt: skip
def test_guest_is(source: Phase, destination: Phase, where: Place) -> None:
    assert place(source, destination) is where


HALVES = {
    "whole": Half.WHOLE,
    "migrating": Half.MIGRATING,
    "split": Half.SPLIT,
    "failed": Half.SPLIT_FAILED,
    "left": Half.LEFT,
    "inactive": Half.INACTIVE,
    "gone": Half.GONE,
    "unknown": Half.UNKNOWN,
}
ANSWERS = {
    "src": Place.SOURCE,
    "SPL": Place.SPLIT,
    "dst": Place.DESTINATION,
    "los": Place.LOST,
    "-": Place.UNKNOWN,
}
#: What the source says (rows) and what the destination says (columns) after a call that failed.
WHEREABOUTS = """
            whole  migrating  split  failed  left  inactive  gone  unknown
whole       src    src        SPL    SPL     src   src       src   src
migrating   -      -          SPL    SPL     -     src       src   -
split       SPL    SPL        SPL    SPL     SPL   los       los   SPL
failed      SPL    SPL        SPL    SPL     SPL   los       los   SPL
left        dst    -          SPL    SPL     -     -         -     -
inactive    dst    -          -      los     -     los       los   -
gone        dst    -          -      los     -     los       los   -
unknown     -      -          SPL    SPL     -     -         -     -
"""


def whereabouts_cases() -> list[tuple[Half, Half, Place]]:
    header, *rows = WHEREABOUTS.strip().splitlines()
    return [
        (HALVES[row.split()[0]], HALVES[column], ANSWERS[answer])
        for row in rows
        for column, answer in zip(header.split(), row.split()[1:])
    ]


def test_whereabouts_table_is_complete() -> None:
    pairs = {(here, there) for here, there, _ in whereabouts_cases()}
    assert pairs == set(product(Half, Half))


@pytest.mark.parametrize("here, there, where", whereabouts_cases())
def test_whereabouts_after_a_failure(here: Half, there: Half, where: Place) -> None:
    assert whereabouts(here, there) is where


# How it ended

BEFORE = [Place.SOURCE, Place.SPLIT, Place.DESTINATION, Place.LOST]
LOOKED_AT_AGAIN = [(Half.WHOLE, Half.WHOLE), (Half.WHOLE, Half.UNKNOWN), (Half.LEFT, Half.WHOLE)]  # fmt: skip
NOWHERE = list(product((Half.GONE, Half.INACTIVE), repeat=2))


@pytest.mark.parametrize("before", BEFORE)
def test_call_that_was_never_made_leaves_the_guest_where_it_was(before: Place) -> None:
    for here, there in product(Half, Half):
        ended = Ended(error="refused", was_sent=False, here=here, there=there)
        assert conclude(before, ended) is Place.SOURCE


@pytest.mark.parametrize("before", BEFORE)
def test_success_is_believed_unless_the_guest_is_nowhere(before: Place) -> None:
    for here, there in product(Half, Half):
        where = conclude(before, Ended(here=here, there=there))
        is_nowhere = (here, there) in NOWHERE
        assert where is (Place.LOST if is_nowhere else Place.DESTINATION)


@pytest.mark.parametrize("here, there", NOWHERE)
def test_guest_found_nowhere_was_shut_down_if_it_had_not_left(
    here: Half, there: Half
) -> None:
    failed = Ended(error="failed", here=here, there=there)
    assert conclude(Place.SOURCE, failed) is Place.SOURCE
    assert conclude(Place.SOURCE, failed, has_died=True) is Place.LOST
    assert conclude(Place.SPLIT, failed) is Place.LOST


@pytest.mark.parametrize("before", BEFORE)
def test_failure_is_concluded_from_what_both_hosts_say(before: Place) -> None:
    for here, there, where in whereabouts_cases():
        if (here, there) in NOWHERE or where is Place.UNKNOWN:
            continue
        if (here, there) in LOOKED_AT_AGAIN:
            continue
        assert conclude(before, Ended(error="failed", here=here, there=there)) is where


@pytest.mark.parametrize("there", [Half.WHOLE, Half.UNKNOWN])
@pytest.mark.parametrize(
    "here, before, where",
    [
        # Never left: the other was there before, and libvirt has refused the call for that.
        (Half.WHOLE, Place.SOURCE, Place.SOURCE),
        (Half.WHOLE, Place.SPLIT, Place.SPLIT),
        (Half.WHOLE, Place.DESTINATION, Place.UNKNOWN),
        (Half.LEFT, Place.SOURCE, Place.UNKNOWN),
        (Half.LEFT, Place.SPLIT, Place.SPLIT),
    ],
)
def test_one_that_may_be_on_each_host_is_looked_at_again_once_it_had_switched(
    here: Half, there: Half, before: Place, where: Place
) -> None:
    ended = Ended(error="connection closed", here=here, there=there)
    assert conclude(before, ended) is where


@pytest.mark.parametrize(
    "before, where",
    [
        (Place.SOURCE, Place.UNKNOWN),
        (Place.DESTINATION, Place.UNKNOWN),
        (Place.LOST, Place.UNKNOWN),
        (Place.SPLIT, Place.SPLIT),  # nothing said otherwise
    ],
)
def test_failure_that_nobody_can_tell_about_is_unknown(
    before: Place, where: Place
) -> None:
    assert conclude(before, Ended(error="connection closed")) is where
