"""No check is without teeth: each passes on a recorded conversation, and fails on the same one altered."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from conformance.alter import (
    Alteration,
    Rows,
    altered,
    both,
    dies,
    dies_of,
    edit,
    edit_where,
    late,
    memory,
    place,
    silence,
    status_of,
)
from conformance.alterations import ALSO, ALTERATIONS, FAIL_AS_RECORDED, MADE
from libvirt_postcopy import stats
from libvirt_postcopy.actions import Action
from libvirt_postcopy.conformance import checks, transcript
from libvirt_postcopy.conformance.checks import reading
from libvirt_postcopy.conformance.evidence import Conversation
from libvirt_postcopy.conformance.introspection import Facts
from libvirt_postcopy.conformance.registry import CHECKS
from libvirt_postcopy.conformance.verdicts import Verdict, judge, judge_all
from libvirt_postcopy.errors import StateError
from libvirt_postcopy.events import Event, StatusSeen
from libvirt_postcopy.migration import Migration

FOLDER = Path(__file__).parents[1] / "transcripts"
OWN_CLIENT = {"client/unknown-status", "client/same-verdict"}
LESS = {Verdict.FAIL, Verdict.KNOWN, Verdict.WEAK}

#: No machine of CI has any; but for its name it is as another.
WITH_HUGE_PAGES = {
    "memory-hugepages": "memory-shm",
    "mismatch-page-size": "mismatch-ram",
}

assert checks


@cache
def recorded(version: str, scenario: str) -> Conversation:
    if scenario in WITH_HUGE_PAGES:
        other = recorded(version, WITH_HUGE_PAGES[scenario])
        return replace(other, header={**other.header, "scenario": scenario})
    folder = FOLDER / f"qemu-{version}"
    name = "cross-to-11.1" if scenario == "cross" else scenario
    introspection = transcript.load(folder / "introspection.ndjson")
    seen = transcript.load(folder / f"{name}.ndjson")
    return replace(seen, facts=Facts.from_conversation(introspection))


def test_every_check_has_an_alteration() -> None:
    assert set(ALTERATIONS) | set(FAIL_AS_RECORDED) | set(MADE) | OWN_CLIENT == set(CHECKS)  # fmt: skip


@pytest.mark.parametrize("id", ALTERATIONS)
def test_check_passes_and_fails_when_altered(id: str) -> None:
    version, scenario, alteration = ALTERATIONS[id]
    seen = recorded(version, scenario)
    assert judge(CHECKS[id], seen).verdict is Verdict.PASS, judge(CHECKS[id], seen)
    changed = replace(altered(seen, alteration), facts=seen.facts)
    if id.startswith("introspection/"):
        changed = replace(changed, facts=None)
    found = judge(CHECKS[id], changed)
    assert found.verdict in LESS, found
    assert found.accepted and found.actual
    if found.verdict is Verdict.WEAK:
        assert CHECKS[id].level.value == "SHOULD"


@pytest.mark.parametrize("id, version, scenario, alteration", ALSO)
def test_check_fails_in_this_way_too(
    id: str, version: str, scenario: str, alteration: Alteration
) -> None:
    seen, check = recorded(version, scenario), CHECKS[id]
    changed = replace(altered(seen, alteration), facts=seen.facts)
    (finding,) = judge_all([check], [changed], replace(seen.facts, version=(99, 0)))
    assert finding.verdict is Verdict.FAIL and finding.actual


def test_what_is_seen_late_did_not_happen_late() -> None:
    """Two monitors are read by two threads; QEMU's own clock says which event came first."""
    seen, check = recorded("10.0", "post-copy-autostart"), CHECKS["guest/one-runs"]

    def seen_late(rows: Rows) -> None:
        rows.insert(place(rows, "dst", "RESUME"), rows.pop(place(rows, "src", "STOP")))

    assert judge(check, altered(seen, seen_late)).verdict is Verdict.PASS


@pytest.mark.parametrize(
    "id, scenario, command, seconds",
    [
        ("protocol/oob-while-stuck", "recover", "migrate-recover", 1.5),
        ("break/monitor-alive", "paused-long", "query-status", 2.5),
    ],
)
def test_an_answer_that_is_slow_is_not_one_that_waits_for_a_page(
    id: str, scenario: str, command: str, seconds: float
) -> None:
    seen = recorded("10.0", scenario)
    nth = 5 if command == "query-status" else 0  # while it is broken
    changed = altered(seen, late("dst", command, seconds, nth))
    assert judge(CHECKS[id], changed).verdict is Verdict.WEAK
    changed = altered(seen, silence("dst", command, nth))
    assert judge(CHECKS[id], changed).verdict is Verdict.FAIL


@pytest.mark.parametrize(
    "status, verdict", [("inmigrate", Verdict.PASS), ("running", Verdict.FAIL)]
)
def test_devices_that_are_still_loaded_are_no_guest_that_runs(
    status: str, verdict: Verdict
) -> None:
    seen, check = (
        recorded("10.0", "post-copy-stopped"),
        CHECKS["incoming/stays-stopped"],
    )
    changed = altered(seen, edit("dst", "query-status", lambda value: value.update(status=status)))  # fmt: skip
    assert judge(check, changed).verdict is verdict


def test_a_cancel_that_ends_in_failed_is_known_where_the_guest_runs_on() -> None:
    seen, check = recorded("10.0", "cancel-precopy"), CHECKS["cancel/active"]
    failed = status_of("src", "cancelled", "failed")
    assert judge(check, altered(seen, failed)).verdict is Verdict.KNOWN
    stays = edit("src", "query-status", lambda value: value.update(status="paused"))
    assert judge(check, altered(seen, both(failed, stays))).verdict is Verdict.FAIL
    assert judge(check, altered(seen, both(failed, memory("next", bad_pages=1)))).verdict is Verdict.FAIL  # fmt: skip
    # Of somebody else's it is not known what came later.
    header = {key: value for key, value in seen.header.items() if key != "machine"}
    somebodys = replace(altered(seen, both(failed, stays)), header=header)
    assert judge(check, somebodys).verdict is Verdict.KNOWN


def _dies_before_cancel(rows: Rows) -> None:
    """Let the source end in the switch, and be asked all the same."""
    dies_of("src", "migrate_cancel", -11)(rows)
    at = next(n for n, row in enumerate(rows) if row["dir"] == "eof")
    rows[at - 1], rows[at] = rows[at], rows[at - 1]


def _dies_unasked(rows: Rows) -> None:
    """Let the source end in the switch, so that nothing is asked any more."""
    dies_of("src", "migrate_cancel", -11)(rows)
    rows[:] = [row for row in rows if "migrate_cancel" not in str(row["msg"])]


@pytest.mark.parametrize(
    "version, alteration, verdict",
    [
        ("5.2", dies_of("src", "migrate_cancel", -11), Verdict.KNOWN),
        ("5.2", dies_of("src", "migrate_cancel", -6), Verdict.FAIL),
        ("5.2", _dies_before_cancel, Verdict.FAIL),
        ("5.2", _dies_unasked, Verdict.FAIL),
        ("5.2", silence("src", "migrate_cancel"), Verdict.FAIL),
        ("5.2", dies("src", -6), Verdict.KNOWN),  # after it was accepted
        ("7.2", dies_of("src", "migrate_cancel", -11), Verdict.FAIL),
        ("10.0", dies_of("src", "migrate_cancel", -11), Verdict.FAIL),
        ("10.0", dies("src", -11), Verdict.FAIL),  # after it was refused
    ],
)
def test_a_source_that_dies_of_a_cancel_is_known_where_that_was_seen(
    version: str, alteration: Alteration, verdict: Verdict
) -> None:
    seen, check = recorded(version, "cancel-postcopy"), CHECKS["cancel/postcopy"]
    changed = replace(altered(seen, alteration), facts=seen.facts)
    (finding,) = judge_all([check], [changed], seen.facts)
    assert finding.verdict is verdict, finding


def test_a_source_of_8_1_that_aborts_at_a_cancel_is_known() -> None:
    seen, check = recorded("7.2", "cancel-postcopy"), CHECKS["cancel/postcopy"]
    changed = altered(seen, dies_of("src", "migrate_cancel", -6))
    changed = replace(changed, header={**changed.header, "qemu": "8.1.0"})
    assert judge(check, changed).verdict is Verdict.KNOWN


def test_a_downtime_that_is_counted_again_is_known() -> None:
    seen, check = recorded("10.0", "post-copy-autostart"), CHECKS["numbers/downtime-is-the-sources"]  # fmt: skip
    changed = altered(seen, edit_where("src", "query-migrate", "completed", lambda value: value.update(downtime=value["downtime"] + 1)))  # fmt: skip
    assert judge(check, changed).verdict is Verdict.KNOWN


@pytest.mark.parametrize("late_s, verdict", [(0.2, Verdict.WEAK), (1.5, Verdict.FAIL)])
def test_an_event_that_was_overtaken_is_no_clock_that_goes_back(
    late_s: float, verdict: Verdict
) -> None:
    """QEMU reads the clock before it waits for its monitors."""
    seen, check = recorded("10.0", "post-copy"), CHECKS["protocol/timestamps"]

    def overtaken(rows: Rows) -> None:
        at = place(rows, "dst", "postcopy-active")
        stamp = rows[at]["msg"]["timestamp"]
        micro = stamp["seconds"] * 10**6 + stamp["microseconds"] - int(late_s * 10**6)
        later = next(r for r in rows[at + 1 :] if r["dir"] == "event" and r["side"] == "dst")  # fmt: skip
        later["msg"]["timestamp"] = dict(zip(("seconds", "microseconds"), divmod(micro, 10**6)))  # fmt: skip

    assert judge(check, altered(seen, overtaken)).verdict is verdict


@pytest.mark.parametrize("zeros, verdict", [(1, Verdict.PASS), (2, Verdict.FAIL)])
def test_what_is_not_counted_yet_is_no_wrong_figure(
    zeros: int, verdict: Verdict
) -> None:
    seen, check = recorded("11.1", "post-copy"), CHECKS["numbers/remaining-of-all"]

    def asked_twice(rows: Rows) -> None:
        at = next(n for n, row in enumerate(rows) if row["dir"] == "reply" and '"active"' in json.dumps(row["msg"]))  # fmt: skip
        number = rows[at]["msg"]["id"]
        cmd = next(row for row in rows if row["dir"] == "cmd" and row["side"] == "src" and row["msg"].get("id") == number)  # fmt: skip
        again = copy.deepcopy([cmd, rows[at]])
        for row in again:
            row["msg"]["id"] = "again"
        rows[at + 1 : at + 1] = again
        for row in (rows[at], again[1])[:zeros]:
            row["msg"]["return"]["remaining"] = 0

    changed = altered(seen, asked_twice)
    assert len(reading.replies(changed, "src", "active")) == 2
    assert judge(check, changed).verdict is verdict


@pytest.mark.parametrize("less, verdict", [("", Verdict.PASS), ("x-postcopy-ram", Verdict.WEAK)])  # fmt: skip
def test_a_capability_without_a_property_is_weak(less: str, verdict: Verdict) -> None:
    seen, check = recorded("10.0", "introspection"), CHECKS["introspection/lists-agree"]
    assert isinstance(seen.facts, Facts)
    names = {f"x-{name.removeprefix('x-')}" for name in seen.facts.capabilities}
    rows = [{"name": name} for name in sorted(names - {less})]
    changed = altered(seen, edit("src", "device-list-properties", lambda value: rows))
    assert judge(check, changed).verdict is verdict


def test_resume_may_follow_cancelled() -> None:
    seen, check = recorded("10.0", "cancel-pre-switchover-postcopy"), CHECKS["cancel/pre-switchover-postcopy"]  # fmt: skip
    changed = altered(seen, edit("src", "query-status", lambda value: value.update(status="paused")))  # fmt: skip
    assert judge(check, changed).verdict is Verdict.PASS


@pytest.mark.parametrize("id", FAIL_AS_RECORDED)
def test_check_fails_as_recorded_and_passes_when_altered(id: str) -> None:
    version, scenario, alteration = FAIL_AS_RECORDED[id]
    seen = recorded(version, scenario)
    assert judge(CHECKS[id], seen).verdict in (Verdict.FAIL, Verdict.KNOWN)
    assert judge(CHECKS[id], altered(seen, alteration)).verdict is Verdict.PASS


@pytest.mark.parametrize("id", MADE)
def test_check_judges_what_is_made(id: str) -> None:
    version, scenario, good, bad = MADE[id]
    seen = recorded(version, scenario)
    assert judge(CHECKS[id], altered(seen, good)).verdict is Verdict.PASS
    assert judge(CHECKS[id], altered(seen, bad)).verdict is Verdict.FAIL


def test_own_client_that_chokes_on_an_unknown_status_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, check = recorded("10.0", "post-copy"), CHECKS["client/unknown-status"]
    assert judge(check, seen).verdict is Verdict.PASS

    def choke(value: object) -> None:
        raise ValueError("unknown status")

    monkeypatch.setattr(stats.Stats, "from_query_migrate", choke)
    assert judge(check, seen).verdict is Verdict.FAIL


def test_own_core_that_chokes_on_an_unknown_status_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, check = recorded("10.0", "post-copy"), CHECKS["client/unknown-status"]
    feed = Migration.feed

    def choke(self: Migration, event: Event, now: float) -> list[Action]:
        if isinstance(event, StatusSeen) and "unheard" in event.status:
            raise StateError("never heard of it")
        return feed(self, event, now)

    monkeypatch.setattr(Migration, "feed", choke)
    found = judge(check, seen)
    assert found.verdict is Verdict.FAIL and "never heard of it" in found.actual


def test_own_core_that_is_led_astray_by_an_unknown_status_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, check = recorded("10.0", "post-copy"), CHECKS["client/unknown-status"]
    feed = Migration.feed

    def astray(self: Migration, event: Event, now: float) -> list[Action]:
        if isinstance(event, StatusSeen) and "unheard" in event.status:
            event = replace(event, status="failed")
        return feed(self, event, now)

    monkeypatch.setattr(Migration, "feed", astray)
    found = judge(check, seen)
    assert found.verdict is Verdict.FAIL and found.accepted != found.actual


def test_a_recorder_that_loses_something_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, check = recorded("10.0", "post-copy"), CHECKS["client/same-verdict"]
    assert judge(check, seen).verdict is Verdict.PASS
    whole = transcript.dumps

    def lossy(seen: Conversation) -> str:
        return "".join(whole(seen).splitlines(keepends=True)[:-1])

    monkeypatch.setattr(transcript, "dumps", lossy)
    assert judge(check, seen).verdict is Verdict.FAIL
