"""No check is without teeth: each passes on a recorded conversation, and fails on the same one altered."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from conformance.alter import Alteration, Rows, altered, place
from conformance.alterations import ALSO, ALTERATIONS, FAIL_AS_RECORDED, MADE
from libvirt_postcopy import stats
from libvirt_postcopy.actions import Action
from libvirt_postcopy.conformance import checks, transcript
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

assert checks


@cache
def recorded(version: str, scenario: str) -> Conversation:
    if (
        scenario == "memory-hugepages"
    ):  # no machine of CI has any; but for its name it is as another
        other = recorded(version, "memory-shm")
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

    def late(rows: Rows) -> None:
        rows.insert(place(rows, "dst", "RESUME"), rows.pop(place(rows, "src", "STOP")))

    assert judge(check, altered(seen, late)).verdict is Verdict.PASS


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
