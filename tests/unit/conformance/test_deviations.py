"""The table of what is known of released versions."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from libvirt_postcopy.conformance import checks
from libvirt_postcopy.conformance.deviations import DEVIATIONS, Deviation, known
from libvirt_postcopy.conformance.known import in_range
from libvirt_postcopy.conformance.registry import CHECKS

BASELINES = Path(__file__).parents[2] / "conformance_live" / "baselines"
DOCS = Path(__file__).parents[3] / "docs" / "conformance.md"

assert checks


@pytest.mark.parametrize(
    "each", DEVIATIONS, ids=lambda each: f"{each.check} {each.versions}"
)
def test_a_deviation_is_of_a_check_has_an_end_a_symptom_and_is_documented(
    each: Deviation,
) -> None:
    assert each.check in CHECKS
    assert not re.search(r"-( |$)", each.versions), "an open end excuses the future"
    assert not re.fullmatch(each.symptom, "anything else")
    row = f"| `{each.check}` | {each.versions} | {each.text} | {each.does} |"
    assert row in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(BASELINES.glob("*.json")), ids=lambda path: path.stem)  # fmt: skip
def test_a_baseline_excuses_what_the_table_does_and_no_more(path: Path) -> None:
    (subject,) = json.loads(path.read_text(encoding="utf-8"))["subjects"]
    version = tuple(map(int, subject["qemu"].split(".")))
    table = {each.check for each in DEVIATIONS if in_range(version, each.versions)}
    found = {each["check"]: each["verdict"] for each in subject["findings"]}
    assert {check for check in found if found[check] == "known"} <= table
    assert not {check for check in found if found[check] == "pass"} & table


def test_version_and_symptom_both_decide() -> None:
    assert known("cancel/active", (10, 0, 13), "failed")
    assert not known("cancel/active", (11, 1, 2), "failed")
    assert known("cancel/postcopy", (9, 2, 1), "{}")
    assert not known("cancel/postcopy", (10, 0, 0), "{}")
    assert not known("cancel/postcopy", (9, 2, 1), "src ended by itself: signal 11")
    assert known("cancel/postcopy", (5, 2, 0), "src ended by itself: signal 11")
    assert known("cancel/postcopy", (8, 1, 0), "src ended by itself: signal 6")
    assert not known("cancel/postcopy", (8, 1, 0), "src ended by itself: signal 11")
    assert not known("cancel/postcopy", (5, 2, 0), "dst ended by itself: signal 11")
