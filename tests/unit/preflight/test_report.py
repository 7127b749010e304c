"""A report, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from libvirt_postcopy.preflight.facts import Facts, Unknown
from libvirt_postcopy.preflight.finding import Finding, Severity, Verdict
from libvirt_postcopy.preflight.report import Report
from libvirt_postcopy.preflight.run import judge
from unit.golden import check_golden
from unit.preflight.scene import GOOD, asked, destination, domain

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE
SCHEMA = json.loads(
    (Path(__file__).parents[3] / "schemas" / "check.schema.json").read_text()
)

LONG = "the machine 'pc-i440fx-9.2' is not supported by emulator '/usr/bin/qemu-system-x86_64' of this host, which has others"  # fmt: skip
FINDINGS = (
    Finding("link/port", NOTE, "source", "unknown: only the source can tell", is_unknown=True),
    Finding("request/unencrypted", NOTE, "", "memory is sent as plain text", "give --tls"),
    Finding("versions/recovery", WARNING, "destination", "no recovery", "upgrade it", "libvirt 8.5, QEMU 3.0"),
    Finding("destination/emulation", ERROR, "destination", LONG, "copy it with --copy-storage-all " * 4 + "now"),
    Finding("request/compression", NOTE, "source", "nothing is compressed"),
    Finding("link/name", NOTE, "source", "unknown: only the source can tell", is_unknown=True),
    Finding("guest/disks", NOTE, "source", "unknown: no answer", is_unknown=True),
)  # fmt: skip
REPORT = Report(
    "web1",
    "qemu+tls://a/system",
    "qemu+tls://b.example/system",
    FINDINGS,
    {"guest/disks": Verdict.UNKNOWN, "guest/paused": Verdict.CLEAR},
    "C bindings (libvirt-python 11.3.0, libvirt 11.3.0): all that a migration calls is there",
)


def test_table() -> None:
    check_golden("check.out", f"{REPORT}\n")


def test_table_fits_a_terminal() -> None:
    wide = Report("w" * 90, "qemu:///system", "x" * 200, FINDINGS)
    assert max(map(len, str(wide).splitlines())) < 100


def test_an_option_is_not_torn() -> None:
    assert str(REPORT).count("--copy-storage-all") == 4


def test_findings_by_severity() -> None:
    assert [each.id for each in REPORT.errors] == ["destination/emulation"]
    assert [each.id for each in REPORT.warnings] == ["versions/recovery"]
    assert [each.id for each in REPORT.notes] == ["request/unencrypted", "request/compression"]  # fmt: skip
    assert len(REPORT.unknown) == 3
    assert [each.severity for each in REPORT.findings] == [ERROR, WARNING] + [NOTE] * 5
    assert not REPORT.is_ok and Report(findings=REPORT.warnings).is_ok


def test_nothing_found() -> None:
    assert str(Report(source="qemu:///system")) == (
        "Post-copy from qemu:///system\n\n0 errors, 0 warnings, 0 notes, 0 unknown"
    )


@pytest.mark.parametrize(
    "report",
    [
        REPORT,
        Report(),
        judge(GOOD, "web1"),
        judge(Facts()),
        judge(destination(asked(-1 & (1 << 21) - 1), uuid="aaaa", qemu=1, libvirt=1)),
        judge(domain(is_paused=True, blockers=("two\nlines",), has_job=True)),
    ],
)
def test_json_follows_its_schema(report: Report) -> None:
    as_json = json.loads(json.dumps(report.to_json()))
    Draft202012Validator(SCHEMA).validate(as_json)
    assert len(as_json["findings"]) == len(report.findings)


def test_json_says_what_the_table_says() -> None:
    made = REPORT.to_json()
    assert made["ok"] is False and made["domain"] == "web1"
    assert made["source"] == "qemu+tls://a/system"
    assert made["destination"] == "qemu+tls://b.example/system"
    assert Report().to_json()["domain"] is Report().to_json()["destination"] is None
    assert made["findings"][1] == {
        "id": "versions/recovery",
        "severity": "warning",
        "side": "destination",
        "evidence": "no recovery",
        "cure": "upgrade it",
        "fixed_in": "libvirt 8.5, QEMU 3.0",
        "unknown": False,
    }
    assert made["checks"] == {"guest/disks": "unknown", "guest/paused": "clear"}


def broken(**changes: Any) -> dict[str, Any]:
    made = REPORT.to_json()
    made["findings"][0].update(changes)
    return made


@pytest.mark.parametrize(
    "wrong",
    [
        {**REPORT.to_json(), "format": 2},
        {**REPORT.to_json(), "more": 1},
        {**REPORT.to_json(), "checks": {"guest/paused": "maybe"}},
        {**REPORT.to_json(), "checks": {"Guest": "clear"}},
        broken(severity="fatal"),
        broken(side="both"),
        broken(evidence=""),
        broken(evidence="two\nlines"),
        broken(unknown=True),
        broken(id="guest"),
    ],
)
def test_what_is_no_report(wrong: dict[str, Any]) -> None:
    assert not Draft202012Validator(SCHEMA).is_valid(wrong)


@pytest.mark.parametrize(
    "found, line",
    [
        ("", "C bindings (libvirt-python 11.3.0, libvirt 11.3.0): all that a migration calls is there"),
        ("virDomainMigrate3: gone", "C bindings (libvirt-python 11.3.0, libvirt 11.3.0): see client/bindings"),
        (Unknown("no library"), "C bindings: not looked at: no library"),
        (Unknown("not asked", is_moot=True), ""),
    ],
)  # fmt: skip
def test_bindings_are_one_line_whatever_they_are(found: Any, line: str) -> None:
    report = judge(replace(GOOD, bindings=found))
    assert report.bindings == line
    assert str(report).splitlines().count(line) == 1
    ids = [each.id for each in report.findings if not each.is_unknown]
    assert ("client/bindings" in ids) is ("see" in line)
