"""The registry of checks, and how one is carried out."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from libvirt_postcopy import preflight
from libvirt_postcopy.preflight import guest, hosts, request, versions
from libvirt_postcopy.preflight.facts import NOT_ASKED, Facts, Unknown, known
from libvirt_postcopy.preflight.finding import (
    CHECKS,
    Check,
    Judge,
    Seen,
    Severity,
    Verdict,
    check,
    look,
)
from libvirt_postcopy.preflight.run import JUDGES, judge
from unit.preflight.scene import GOOD

ROOT = Path(preflight.__file__).parent


def made(function: Judge) -> Check:
    return Check("a/b", Severity.ERROR, "source", "mend it", "QEMU 99", "", function)


def test_nothing_is_found_with_a_good_pair() -> None:
    report = judge(GOOD)
    assert report.findings == ()
    assert set(report.checks.values()) == {Verdict.CLEAR}


def test_a_verdict_for_each_check_whatever_is_known() -> None:
    for facts in (GOOD, Facts(), replace(GOOD, domain=None), replace(GOOD, destination=None)):  # fmt: skip
        assert set(judge(facts).checks) == set(CHECKS)


def test_without_domain_and_destination_nothing_is_said_of_them() -> None:
    report = judge(replace(GOOD, domain=None, destination=None, there=NOT_ASKED, domains=NOT_ASKED, memory=NOT_ASKED, free_pages=NOT_ASKED, emulation=NOT_ASKED, cpu_refusal=NOT_ASKED, userfaultfd=NOT_ASKED, probe=NOT_ASKED, link=NOT_ASKED))  # fmt: skip
    assert report.findings == ()
    assert report.checks["guest/paused"] is Verdict.NOT_ASKED
    assert report.checks["destination/same-host"] is Verdict.NOT_ASKED


def test_each_check_can_be_unknown_and_says_why() -> None:
    """Nothing is dropped: of each check that asks for something, there is a note if it cannot be had."""
    why = Unknown("the moon is full")
    bare = replace(GOOD.source, hostname=why, uuid=why, libvirt=why, qemu=why, has_keepalive=why, cpu=why)  # fmt: skip
    assert GOOD.domain is not None
    shrouded = replace(
        GOOD,
        source=bare,
        destination=bare,
        domain=replace(
            GOOD.domain, guest=why, is_running=why, is_paused=why, has_job=why, capabilities=why, blockers=why
        ),  # fmt: skip
        **dict.fromkeys(
            ("there", "domains", "memory", "free_pages", "emulation", "cpu_refusal", "userfaultfd", "probe", "link", "bindings"),
            why,
        ),  # fmt: skip
    )
    report = judge(shrouded)
    assert {each.evidence for each in report.findings} == {"unknown: the moon is full"}
    assert all(each.is_unknown and each.severity is Severity.NOTE for each in report.findings)  # fmt: skip
    clear = {id for id, verdict in report.checks.items() if verdict is Verdict.CLEAR}
    assert clear == {
        "guest/split",  # by its state, of which there is always one
        "destination/connection",
        "destination/probe-left",
        *(id for id in CHECKS if id.startswith("request/")),
    }


def test_what_is_seen_is_completed_by_the_check() -> None:
    def finds(facts: Facts) -> Iterator[Seen]:
        yield Seen("two\n lines")
        yield Seen("other", Severity.NOTE, "", "client")

    verdict, (one, other) = look(made(finds), GOOD)
    assert verdict is Verdict.FOUND
    assert (one.id, one.severity, one.side) == ("a/b", Severity.ERROR, "source")
    assert (one.evidence, one.cure, one.fixed_in) == (
        "two lines",
        "mend it",
        "QEMU 99",
    )
    assert (other.severity, other.cure, other.side) == (Severity.NOTE, "", "client")


def test_what_was_seen_before_something_was_unknown_is_kept() -> None:
    def finds(facts: Facts) -> Iterator[Seen]:
        yield Seen("here")
        known(Unknown("no answer"))

    verdict, (here, there) = look(made(finds), GOOD)
    assert verdict is Verdict.UNKNOWN
    assert (here.evidence, there.evidence) == ("here", "unknown: no answer")


@pytest.mark.parametrize("before, verdict", [(0, Verdict.NOT_ASKED), (1, Verdict.FOUND)])  # fmt: skip
def test_what_nobody_asked_for_is_no_finding(before: int, verdict: Verdict) -> None:
    def finds(facts: Facts) -> Iterator[Seen]:
        for _ in range(before):
            yield Seen("here")
        known(NOT_ASKED)

    result, findings = look(made(finds), GOOD)
    assert result is verdict and len(findings) == before


def test_a_judge_that_is_wrong_keeps_nobody_from_migrating(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def finds(facts: Facts) -> Iterator[Seen]:
        yield Seen(str(1 // 0))

    with caplog.at_level(logging.ERROR, "libvirt_postcopy"):
        verdict, (note,) = look(made(finds), GOOD)
    assert "unexpected in a/b" in caplog.text
    assert verdict is Verdict.UNKNOWN and note.severity is Severity.NOTE
    assert "please report: ZeroDivisionError" in note.evidence


def test_no_id_twice() -> None:
    with pytest.raises(AssertionError, match="twice"):
        check("guest/paused", severity=Severity.NOTE, side="", cure="")(made)  # type: ignore[arg-type]


@pytest.mark.parametrize("each", CHECKS.values(), ids=CHECKS)
def test_check_says_what_a_tired_operator_needs(each: Check) -> None:
    assert len(each.why) > 40 and each.why.endswith(".")
    assert each.cure and not each.cure.endswith(".") and "\n" not in each.cure
    assert each.side in ("source", "destination", "client", "")
    assert len(each.cure) < 160


def test_judges_ask_nobody() -> None:
    """What is gathered and how it is judged are two floors: a judge knows values only."""
    allowed = {
        f"libvirt_postcopy.{name}"
        for name in (
            "constants", "domxml", "events", "features", "units", "preflight.facts", "preflight.finding"
        )
    } | {"__future__", "collections.abc"}  # fmt: skip
    for module in (guest, hosts, request, versions):
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        imported = {
            node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
        }
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
        assert imported <= allowed, module.__name__


def test_every_module_of_checks_is_loaded() -> None:
    with_checks = {
        path.stem for path in ROOT.glob("*.py") if "\n@check(" in path.read_text()
    }
    assert with_checks == {module.__name__.rpartition(".")[2] for module in JUDGES}
