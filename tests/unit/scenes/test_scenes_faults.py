"""The matrix of faults: that it is complete, what counts as good, and its table."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest

from faults import (
    CELLS,
    FAULTS,
    NO_CELL,
    Cell,
    Moment,
    Moments,
    Outcome,
    cells,
    complaints,
)
from faults.aftermath import place_of
from faults.faults import NotInjected, Scene
from faults.inventory import Inventory, left_behind
from faults.matrix import P2P
from faults.test_faults import EVERY_TIME
from labkit import Lab
from libvirt_postcopy.events import PassSeen, Resumed, Side, SplitFailed, StatusSeen
from scenes import bench_faults
from scenes.bench import FIGURES, main
from scenes.bench_faults import TITLE, is_good, merge, no_cells, report, table
from scenes.stage import Stage

DEFAULT = {"libvirt": "9.0.0", "QEMU": "7.2.22"}
NEWEST = {"libvirt": "12.8.0", "QEMU": "11.1.2"}
NEXT = {"libvirt": "12.9.0", "QEMU": "11.2.0"}
SOCKETS = "sockets killed"


def cell(moment: str, fault: str, is_p2p: bool = False) -> Cell:
    return Cell(Moment(moment), FAULTS[fault], is_p2p)


ARRIVED = Outcome(0, "destination", memory_ok=True, back_s=0.3)
STAYED = Outcome(1, "source", memory_ok=True)
SPLIT = Outcome(3, "split")
LOST = Outcome(4, "lost")


# The matrix


@pytest.mark.parametrize("moment", list(Moment))
def test_each_pair_is_a_cell_or_there_is_a_reason(moment: Moment) -> None:
    for name, fault in FAULTS.items():
        is_cell = Cell(moment, fault) in CELLS
        assert is_cell is not bool(NO_CELL.get((moment, name))), name


def test_who_manages_is_varied_where_it_ends_the_switch() -> None:
    assert set(P2P) == {Moment.SWITCH, Moment.SPLIT}
    for moment, names in P2P.items():
        for name in names:
            assert Cell(moment, FAULTS[name], is_p2p=True) in CELLS
            assert Cell(moment, FAULTS[name]) in CELLS, "beside it, managed"


def test_each_cell_has_its_own_name() -> None:
    names = [str(each) for each in CELLS]
    assert len(set(names)) == len(names)
    assert set(EVERY_TIME) <= set(names)


def test_no_cell_is_named_with_its_reason() -> None:
    text = no_cells()
    assert all(reason in text for reason in NO_CELL.values())


# What is wrong


@pytest.mark.parametrize(
    "outcome, word",
    [
        (replace(ARRIVED, not_injected="it came after 'split'"), "not injected"),
        (replace(ARRIVED, left_behind=["a: domain busy left behind"]), "left behind"),
        (replace(ARRIVED, memory_ok=False), "does not run"),
        (replace(ARRIVED, memory_ok=None), "does not run"),
        (replace(ARRIVED, status=1), "exit status 1"),
        (replace(ARRIVED, status=None), "exit status None"),
        (replace(ARRIVED, status=-9), "exit status -9"),
        (replace(ARRIVED, guest="two"), "two copies"),
        (replace(ARRIVED, guest="stopped", status=None), "exit status None"),
        (SPLIT, "does not run"),
        (LOST, "does not run"),
    ],
)
def test_complaint_is_made(outcome: Outcome, word: str) -> None:
    found = complaints(cell("split", SOCKETS), outcome, DEFAULT)
    assert any(word in each for each in found), found


@pytest.mark.parametrize("outcome", [ARRIVED, STAYED])
def test_guest_that_runs_where_the_exit_status_says_is_good(outcome: Outcome) -> None:
    assert not complaints(cell("split", SOCKETS), outcome, DEFAULT)


LEFT_ON = "postcopy-ram: False before, True now"
LIMITED = "max-postcopy-bandwidth: 0 before, 16777216 now"


@pytest.mark.parametrize(
    "moment, fault, left, is_good",
    [
        ("finishing", "destination's daemon killed", [LEFT_ON], True),
        ("finishing", "destination's daemon killed", [LEFT_ON, LIMITED], False),
        ("finishing", "source's daemon killed", [LEFT_ON], False),
        ("first pass", "destination's daemon killed", [LEFT_ON], False),
    ],
)
def test_capabilities_are_forgotten_with_the_daemon_that_knew_them(
    moment: str, fault: str, left: list[str], is_good: bool
) -> None:
    outcome = replace(ARRIVED, left_behind=left)
    assert bool(complaints(cell(moment, fault), outcome, DEFAULT)) is not is_good


def test_own_kill_is_no_lie() -> None:
    killed = replace(STAYED, status=-9, is_killed=True)
    assert not complaints(cell("first pass", "client killed"), killed, DEFAULT)
    assert complaints(
        cell("first pass", "client killed"), replace(killed, is_killed=False), DEFAULT
    )


@pytest.mark.parametrize(
    "moment, fault, survives",
    [
        ("first pass", "destination's QEMU killed", True),
        ("first pass", "source's QEMU killed", False),
        ("switch", "destination's QEMU killed", False),
        ("split", "source's QEMU killed", False),
    ],
)
def test_guest_needs_the_qemu_that_has_its_memory(
    moment: str, fault: str, survives: bool
) -> None:
    assert bool(complaints(cell(moment, fault), LOST, DEFAULT)) is survives


@pytest.mark.parametrize("versions, is_excused", [(DEFAULT, True), (NEXT, False)])
def test_defect_excuses_only_the_versions_that_have_it(
    versions: Mapping[str, str], is_excused: bool
) -> None:
    found = complaints(cell("recovering", SOCKETS), LOST, versions)
    assert bool(found) is not is_excused


def test_hole_in_the_switch_that_passes_excuses_no_loss() -> None:
    assert complaints(cell("switch", "black hole until noticed"), LOST, DEFAULT)
    assert not complaints(cell("switch", SOCKETS), LOST, DEFAULT)


def test_daemon_that_cannot_resume_is_excused_for_what_needs_a_resume() -> None:
    old = {"libvirt": "11.3.0", "QEMU": "10.0.13"}
    assert not complaints(cell("split", SOCKETS), SPLIT, old)
    assert complaints(cell("split", "link cut for 2 s"), SPLIT, old)
    assert complaints(cell("split", SOCKETS), SPLIT, {**old, "libvirt": "11.4.0"})


# Where the guest is


@pytest.mark.parametrize(
    "statuses, is_heard, has_moved, place",
    [
        ({}, False, False, "lost"),
        ({"a": "postcopy-paused", "b": None}, False, True, "split"),
        ({"a": "postcopy-active", "b": None}, True, True, "split"),
        ({"a": "failed"}, True, False, "source"),
        ({"a": "failed", "b": None}, True, False, "source"),
        ({"a": "cancelling", "b": None}, True, False, "source"),
        ({"b": None}, True, True, "destination"),
        ({"b": "postcopy-active"}, True, True, "destination"),
        ({"a": "completed", "b": "completed"}, True, True, "destination"),
        ({"a": "postcopy-paused"}, False, False, "lost"),
        ({"a": "cancelling"}, False, False, "lost"),
        ({"b": None}, False, True, "lost"),
        ({"a": "failed"}, False, False, "stopped"),
        ({"a": "postcopy-device"}, False, False, "stopped"),
    ],
)
def test_heartbeat_and_qemus_tell_where_the_guest_is(
    statuses: Mapping[str, str | None], is_heard: bool, has_moved: bool, place: str
) -> None:
    assert place == place_of(
        statuses, is_heard=lambda: is_heard, has_moved=lambda: has_moved, has_all=True
    )


@pytest.mark.parametrize("status, place", [(None, "lost"), ("postcopy-paused", "lost"), ("completed", "destination")])  # fmt: skip
def test_guest_that_goes_on_without_its_last_pages_is_lost(
    status: str | None, place: str
) -> None:
    statuses = {"b": status}
    assert place == place_of(
        statuses, is_heard=lambda: True, has_moved=lambda: True, has_all=False
    )


# What is left behind

BEFORE = Inventory(
    domains={"a": frozenset({"busy"}), "b": frozenset()},
    qemus={"a": 1, "b": 0},
    networks={"a": 1, "b": 1},
    files={"a": frozenset({"busy.pid"}), "b": frozenset()},
    settings={"postcopy-ram": False, "max-bandwidth": 7},
)
MOVED = replace(
    BEFORE,
    domains={"a": frozenset(), "b": frozenset({"busy"})},
    qemus={"a": 0, "b": 1},
    files={"a": frozenset(), "b": frozenset({"busy.pid"})},
)


def test_guest_alone_with_its_settings_has_left_nothing() -> None:
    assert left_behind(BEFORE, BEFORE, "a") == []
    assert left_behind(BEFORE, MOVED, "b") == []


@pytest.mark.parametrize(
    "change, text",
    [
        ({"domains": BEFORE.domains}, "a: domain busy left behind"),
        ({"qemus": {"a": 1, "b": 1}}, "a: 1 QEMUs of the guest"),
        ({"networks": {"a": 2, "b": 1}}, "a: 2 network namespaces for 1"),
        ({"files": BEFORE.files}, "b: busy.pid missing"),
        ({"settings": {"postcopy-ram": True, "max-bandwidth": 7}}, "postcopy-ram: False before, True now"),
        ({"settings": {"postcopy-ram": False}}, "max-bandwidth: 7 before, None now"),
    ],
)  # fmt: skip
def test_what_is_left_is_named(change: dict[str, Any], text: str) -> None:
    assert text in left_behind(BEFORE, replace(MOVED, **change), "b")


# Moments

SEEN = {
    Moment.FIRST_PASS: (Side.SOURCE, StatusSeen(Side.SOURCE, "active")),
    Moment.LATER_PASS: (Side.SOURCE, PassSeen(2)),
    Moment.SWITCH: (Side.SOURCE, StatusSeen(Side.SOURCE, "postcopy-active")),
    Moment.SPLIT: (Side.DESTINATION, Resumed(Side.DESTINATION)),
}


class Asking:
    """A stage whose migration has had so many page requests, more at each look."""

    def __init__(self) -> None:
        self.requests = 0

    def find(self, host: str) -> Asking:
        return self

    def jobStats(self) -> dict[str, int]:
        self.requests += 4
        return {"memory_postcopy_requests": self.requests}


@pytest.mark.parametrize("moment", list(SEEN))
def test_moment_is_over_when_the_next_has_come(moment: Moment) -> None:
    moments = Moments(cast(Stage, Asking()))
    moments.see(Side.SOURCE, PassSeen(1))
    order = list(SEEN)
    for each in order[: order.index(moment) + 1]:
        moments.see(*SEEN[each])
    moments.wait(moment, 5)
    assert not moments.has_gone(moment)
    for each in order[order.index(moment) + 1 :]:
        moments.see(*SEEN[each])
    moments.see(Side.SOURCE, StatusSeen(Side.SOURCE, "completed"))
    assert moments.has_gone(moment)


def test_pass_of_a_qemu_that_counts_tenths_of_seconds_is_no_pass() -> None:
    moments = Moments(cast(Stage, None))
    moments.see(*SEEN[Moment.FIRST_PASS])
    for number in range(2, 32):
        assert not moments.has_gone(Moment.FIRST_PASS)
        moments.see(Side.SOURCE, PassSeen(number))
    assert moments.has_gone(Moment.FIRST_PASS)


def test_split_has_come_when_pages_have_come() -> None:
    stage = Asking()
    moments = Moments(cast(Stage, stage))
    moments.see(*SEEN[Moment.SPLIT])
    moments.wait(Moment.SPLIT, 5)
    assert stage.requests == 12


def test_moment_that_does_not_come_is_an_error() -> None:
    with pytest.raises(TimeoutError, match="'split' did not come"):
        Moments(cast(Stage, None)).wait(Moment.SPLIT, 60, has_ended=lambda: True)


def test_moment_is_held_in_the_instant_in_which_it_comes() -> None:
    moments = Moments(cast(Stage, None))
    held: list[str] = []
    moments.hold_at(Moment.SWITCH, lambda: held.append("held"))
    moments.see(*SEEN[Moment.FIRST_PASS])
    assert not held
    moments.see(*SEEN[Moment.SWITCH])
    moments.see(*SEEN[Moment.SWITCH])
    assert held == ["held"]


def test_broken_channel_is_noticed_by_the_source_only() -> None:
    moments = Moments(cast(Stage, None))
    moments.see(Side.DESTINATION, StatusSeen(Side.DESTINATION, "postcopy-paused"))
    assert moments.troubles == 0
    moments.see(Side.SOURCE, SplitFailed(Side.SOURCE))
    assert moments.troubles == 1


# Faults


class FakeLab:
    """Nothing can be broken in it."""

    def break_migrations(self) -> int:
        return 0

    def cut(self, name: str) -> None:
        pass

    def uncut(self, name: str) -> None:
        pass

    def is_cut(self, name: str) -> bool:
        return False


class FakeClient:
    def __init__(self, has_ended: bool) -> None:
        self._has_ended = has_ended

    def has_ended(self) -> bool:
        return self._has_ended

    def kill(self) -> None:
        raise AssertionError("it is not there any more")


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr("faults.faults._SOCKETS_S", 0.0)
    monkeypatch.setattr("faults.faults.NOTICE_S", 0.0)
    stage = cast(Stage, SimpleNamespace(lab=FakeLab(), find=lambda host: None, qemus=lambda host: []))  # fmt: skip
    return Scene(stage, FakeClient(has_ended=True), Moments(stage))


@pytest.mark.parametrize(
    "fault",
    [
        SOCKETS,
        "link cut for 2 s",
        "client killed",
        "migrate-pause by somebody",
        "destination's QEMU killed",
    ],
)
def test_fault_that_breaks_nothing_says_so(idle: Scene, fault: str) -> None:
    with pytest.raises(NotInjected):
        FAULTS[fault].strike(idle)


def test_fault_that_nobody_notices_ends(idle: Scene) -> None:
    unaware = replace(idle, client=FakeClient(has_ended=False))
    assert not FAULTS["link cut until noticed"].mend(unaware)
    assert FAULTS["link cut until noticed"].mend(idle)


def test_half_that_ends_on_the_destination_is_a_notice(idle: Scene) -> None:
    moments = idle.moments
    domain = SimpleNamespace(UUIDString=lambda: "it")
    stopped = libvirt.VIR_DOMAIN_EVENT_STOPPED
    moments._see_there(None, domain, stopped, 0, "another")
    assert moments.troubles == 0
    moments._see_there(None, domain, stopped, 0, "it")
    assert moments.troubles == 1


def test_fault_that_nobody_noticed_is_told() -> None:
    (figures,) = merge([run(replace(ARRIVED, is_unnoticed=True))])
    assert "1 × destination, exit 0, unnoticed" in table(figures)
    assert is_good(figures), "who is not disturbed need not notice"


# The table


def run(
    outcome: Outcome,
    *,
    moment: str = "split",
    fault: str = SOCKETS,
    is_p2p: bool = False,
    tool: str = "virsh-postcopy",
    versions: Mapping[str, str] = DEFAULT,
) -> dict[str, Any]:
    row = {"moment": moment, "fault": fault, "is_p2p": is_p2p, "outcomes": {tool: [asdict(outcome)]}}  # fmt: skip
    return {"versions": versions, "cells": [row]}


def test_runs_of_a_cell_are_counted_together() -> None:
    runs = [run(replace(ARRIVED, back_s=each)) for each in (0.2, 0.4, 1.5)]
    (figures,) = merge([*runs, run(replace(SPLIT, status=1), tool="virsh")])
    assert (
        "| split | sockets killed | 3 × destination, exit 0 | 0.40 (1.50), n=3 | 1 × **split, exit 1** | — |"
        in table(figures)
    )
    assert is_good(figures), "what virsh does is not ours"


def test_ways_are_not_mixed() -> None:
    (figures,) = merge([run(ARRIVED), run(ARRIVED, is_p2p=True)])
    assert "| split | sockets killed, p2p | 1 × destination, exit 0 |" in table(figures)


def test_each_pair_of_versions_has_its_own_table() -> None:
    several = merge([run(ARRIVED), run(ARRIVED, versions=NEWEST)])
    assert [figures["versions"] for figures in several] == [DEFAULT, NEWEST]
    text = report(several)
    for each in ("## libvirt 9.0.0, QEMU 7.2.22", "## libvirt 12.8.0, QEMU 11.1.2"):
        assert text.count(each) == 1
    assert text.count("What is said") == 1


def test_complaint_is_bold_and_not_good() -> None:
    (figures,) = merge([run(SPLIT)])
    assert not is_good(figures)
    assert "1 × **split, exit 3**" in table(figures)


@pytest.mark.parametrize("times", [(0.2, 2.1, 2.2), (0.2, None, None), (2.0,)])
def test_slow_or_unknown_return_is_not_good(times: tuple[float | None, ...]) -> None:
    runs = [run(replace(ARRIVED, back_s=each)) for each in times]
    (figures,) = merge(runs)
    assert not is_good(figures)
    assert "| **" in table(figures)


def test_times_that_are_missing_are_shown() -> None:
    runs = [run(replace(ARRIVED, back_s=each)) for each in (0.2, 0.3, None)]
    (figures,) = merge(runs)
    assert is_good(figures)
    assert "0.25 (0.30), n=2 of 3" in table(figures)


def test_return_is_timed_only_where_both_were_paused() -> None:
    slow = run(replace(ARRIVED, back_s=30.0), fault="link cut until noticed")
    assert is_good(merge([slow])[0])


def test_defect_is_a_footnote() -> None:
    lost = run(LOST, moment="recovering")
    (figures,) = merge([lost])
    assert is_good(figures)
    assert "- recovering, sockets killed: the destination's QEMU dies" in table(figures)
    assert "- recovering" not in table({**figures, "versions": NEXT})


def test_what_libvirt_forgets_is_named_and_explained() -> None:
    left = run(replace(ARRIVED, left_behind=[LEFT_ON]), moment="finishing", fault="destination's daemon killed")  # fmt: skip
    (figures,) = merge([left])
    assert is_good(figures)
    assert "1 × destination, exit 0, capabilities left on |" in table(figures)
    assert "- finishing, destination's daemon killed: libvirt forgets" in table(figures)


def test_more_than_libvirt_forgets_is_held_against_us() -> None:
    left = run(replace(ARRIVED, left_behind=[LEFT_ON, LIMITED]), moment="finishing", fault="destination's daemon killed")  # fmt: skip
    (figures,) = merge([left])
    assert not is_good(figures)
    assert "1 × **destination, exit 0, something left behind**" in table(figures)


def test_cells_come_in_the_order_of_a_migration() -> None:
    (figures,) = merge([run(ARRIVED), run(STAYED, moment="first pass")])
    assert [row["moment"] for row in figures["cells"]] == ["first pass", "split"]


def test_cells_that_were_not_run_are_named() -> None:
    (figures,) = merge([run(ARRIVED), run(STAYED, moment="first pass", tool="virsh")])
    ours, theirs = table(figures).split("Not run with ")[1:]
    assert ours.startswith("virsh-postcopy: ") and "first pass, sockets" in ours
    assert "split, sockets killed;" not in ours
    assert theirs.startswith("virsh: ") and "split, sockets killed;" in theirs


def test_virsh_comes_to_no_recovery() -> None:
    (figures,) = merge([run(ARRIVED, moment="recovering"), run(SPLIT, tool="virsh")])
    row = "| recovering | sockets killed | 1 × destination, exit 0 | 0.30 (0.30), n=1 | never comes so far | — |"
    assert row in table(figures)
    assert "recovering" not in table(figures).split("Not run with virsh: ")[1]


def test_name_of_a_cell_means_that_one_alone() -> None:
    assert [str(each) for each in cells("split, sockets killed")] == [
        "split, sockets killed"
    ]
    assert len(cells("sockets killed")) > 2


def test_each_cell_is_kept_as_soon_as_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What breaks off a run of hours has lost no more than the cell that it was in."""

    def run_cell(lab: object, tool: object, which: Cell) -> Outcome:
        if which.moment is not Moment.SPLIT:
            raise KeyboardInterrupt
        return ARRIVED

    monkeypatch.setattr(bench_faults, "run_cell", run_cell)
    monkeypatch.setattr(bench_faults, "versions", lambda lab: DEFAULT)
    monkeypatch.setattr(bench_faults, "ensure_event_loop", lambda: None)
    names = ["split, sockets killed", "finishing, sockets killed"]
    args = Namespace(only=names, tool=["virsh"], runs=2, keep=tmp_path / "kept")
    with pytest.raises(KeyboardInterrupt):
        bench_faults.measure(cast(Lab, None), args)
    capsys.readouterr()
    main(["faults", "--read", str(args.keep)])
    assert (
        "| split | sockets killed | 2 × destination, exit 0 |"
        in capsys.readouterr().out
    )


def test_page_keeps_what_was_written_above_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, page = tmp_path / "kept.json", tmp_path / "page.md"
    kept.write_text(json.dumps(run(ARRIVED)))
    command = ["faults", "--read", str(kept), "--write", str(page)]
    page.write_text("# By hand\n\nOld figures.\n")
    assert main(command) == 0
    assert page.read_text().startswith(f"# {TITLE}\n\nWhat is said")
    page.write_text(f"# By hand\n\n{FIGURES}\n\nOld figures.\n")
    assert main(command) == 0
    assert page.read_text().startswith(f"# By hand\n\n{FIGURES}\n\nWhat is said")
    assert "Old figures" not in page.read_text()
