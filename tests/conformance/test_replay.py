"""All that is recorded, by all checks: what fails is known, and nothing else does."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from conformance.make_qmp_schemas import FOLDER as QMP
from conformance.make_qmp_schemas import made, text_of
from libvirt_postcopy.conformance import report, transcript
from libvirt_postcopy.conformance.evidence import Conversation
from libvirt_postcopy.conformance.registry import CHECKS, outcomes
from libvirt_postcopy.conformance.replay import replay
from libvirt_postcopy.conformance.verdicts import Subject, Verdict

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "transcripts"
FILES = sorted([*FOLDER.rglob("*.ndjson"), *FOLDER.rglob("*.jsonl")])

#: What each recorded version is known to do otherwise.
KNOWN = {
    "2.5": {"cancel/postcopy"},
    "3.0": {"cancel/paused", "recover/nobody-then-good"},
    "6.2": {"cancel/paused", "cancel/postcopy", "robust/multifd"},
}
MUST_BE_KNOWN = {
    "5.2": {"recover/nobody-then-good", "cancel/postcopy", "recover/empty-connection"},
    "7.2": {"cancel/postcopy", "robust/multifd", "recover/empty-connection"},
    "10.0": {"incoming/bad-address-then-good", "switch/device-state-rejected"},
    "11.1": {"switch/cut-never-two", "numbers/first-pass", "recover/empty-connection"},
}


@cache
def conversations() -> list[Conversation]:
    return [transcript.load(path) for path in FILES]


@cache
def subjects() -> dict[str, Subject]:
    found = replay(conversations(), list(CHECKS.values()))
    return {".".join(each.facts.text.split(".")[:2]): each for each in found}


def _ids(version: str, verdict: Verdict) -> set[str]:
    return {f.check.id for f in subjects()[version].findings if f.verdict is verdict}


def test_seven_versions_are_recorded() -> None:
    assert set(subjects()) == {*KNOWN, *MUST_BE_KNOWN}


@pytest.mark.parametrize("version", [*KNOWN, *MUST_BE_KNOWN])
def test_nothing_fails_that_is_not_known(version: str) -> None:
    assert _ids(version, Verdict.FAIL) == set()


@pytest.mark.parametrize("version", KNOWN)
def test_known_deviations_show(version: str) -> None:
    assert _ids(version, Verdict.KNOWN) == KNOWN[version]


@pytest.mark.parametrize("version", MUST_BE_KNOWN)
def test_worst_deviations_show(version: str) -> None:
    assert MUST_BE_KNOWN[version] <= _ids(version, Verdict.KNOWN)


def test_own_recordings_keep_what_was_said_live() -> None:
    own = [s for s in conversations() if s.is_own and s.scenario != "cross"]
    assert len(own) > 100
    for seen in own:
        assert seen.header["verdicts"] == outcomes(seen), seen.name


def test_reports_of_it_are_well_formed() -> None:
    from xml.etree import ElementTree

    found = list(subjects().values())
    schema = json.loads((ROOT / "schemas/conformance-report.schema.json").read_text())
    value = json.loads(report.render("json", found))
    Draft202012Validator(schema).validate(value)
    root = ElementTree.fromstring(report.render("junit", found))
    failures = len(root.findall(".//failure"))
    assert failures == sum(s.counts()["known"] + s.counts()["fail"] for s in found) > 20
    page = report.render("html", found)
    assert "<script" not in page and "http-equiv" not in page and " src=" not in page
    assert "the guest is lost" in "".join(
        re.findall(r'class="v known" title="([^"]*)"', page)
    )
    assert all(id in report.render("markdown", found) for id in CHECKS)


def test_baseline_lets_only_what_is_worse_fail() -> None:
    found = [subjects()["10.0"]]
    rows = json.loads(report.render("json", found))["subjects"]
    baseline = report.Baseline(rows, ())
    assert report.regressions(found, (), baseline) == []
    for row in rows[0]["findings"]:
        if row["check"] == "switch/device-state-rejected":
            row["verdict"] = "pass"
    (line,) = report.regressions(found, (), baseline)
    assert "switch/device-state-rejected was pass, is known" in line


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_recording_follows_its_schema_and_is_normalised(path: Path) -> None:
    schema = json.loads((ROOT / "schemas/transcript.schema.json").read_text())
    header, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    only = {**schema, "oneOf": [{"$ref": "#/$defs/header"}]}
    Draft202012Validator(only).validate(header)
    kind = "line" if header["format"] == 2 else "message"
    line = Draft202012Validator({**schema, "oneOf": [{"$ref": f"#/$defs/{kind}"}]})
    for row in rows:
        line.validate(row)
    text = path.read_text(encoding="utf-8")
    assert "/tmp/" not in text and "/root/" not in text and "pcc-" not in text


def test_every_message_follows_what_is_relied_on() -> None:
    parts: dict[tuple[str, str], Any] = {}
    for file in QMP.glob("*.schema.json"):
        value = json.loads(file.read_text())
        for part, schema in value["properties"].items():
            parts[file.name.partition(".")[0], part] = Draft202012Validator(schema)
    checked = 0
    for seen in conversations():
        for exchange in seen.exchanges:
            validator = parts.get((exchange.name, "return"))
            if exchange.is_ok and validator is not None:
                validator.validate(exchange.value)
                checked += 1
        for line in seen.events():
            if (line.event, "data") in parts:
                parts[line.event, "data"].validate(dict(line.data))
                checked += 1
    assert checked > 1000


def test_schemas_of_what_is_relied_on_are_up_to_date() -> None:
    for name, value in made():
        assert (QMP / name).read_text(encoding="utf-8") == text_of(value), name
