"""What does not behave, or cannot be judged, does not pass."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from jsonschema import Draft202012Validator

from libvirt_postcopy.cli.main import main
from libvirt_postcopy.conformance import (
    campaign,
    host,
    program,
    qmpschema,
    report,
    transcript,
)
from libvirt_postcopy.conformance.campaign import CROSS, Pairing
from libvirt_postcopy.conformance.evidence import Conversation
from libvirt_postcopy.conformance.introspection import Facts
from libvirt_postcopy.conformance.registry import CHECKS, Check, outcomes
from libvirt_postcopy.conformance.replay import replay
from libvirt_postcopy.conformance.verdicts import (
    Finding,
    Subject,
    Verdict,
    gate,
    judge,
    judge_all,
    must_have,
    sum_up,
)

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "transcripts"
FAKE = Path(__file__).with_name("fake_qemu.py")
V10 = (10, 0, 13)


def run(*words: str) -> tuple[int, str]:
    out = io.StringIO()
    return main(["conformance", *words], out), out.getvalue()


def recorded(name: str) -> Conversation:
    return transcript.load(FOLDER / f"{name}.ndjson")


@pytest.fixture(scope="module")
def facts() -> Facts:
    return Facts.from_conversation(recorded("qemu-10.0/introspection"))


@pytest.fixture(autouse=True)
def any_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here needs userfaultfd."""
    monkeypatch.setattr(host, "userfaultfd_missing", lambda version: "")


@pytest.fixture
def fake(tmp_path: Path) -> Callable[[str], str]:
    def named(name: str) -> str:
        (tmp_path / name).symlink_to(FAKE)
        return str(tmp_path / name)

    return named


# A QEMU that does not behave


def test_a_refusal_of_what_is_offered_fails(fake: Callable[[str], str]) -> None:
    status, text = run("run", "cancel/postcopy", "memory/ram", "--qemu", fake("refuses"))  # fmt: skip
    assert status == 1
    assert "2 fail" in text and "refuses" in text and "It does not like to." in text


def test_a_malformed_answer_fails_its_checks_and_not_the_run(
    fake: Callable[[str], str],
) -> None:
    status, text = run("run", "cancel/postcopy", "--qemu", fake("malformed"))
    assert status == 1 and "1 fail" in text
    assert "not as documented: AttributeError" in text


def test_an_odd_greeting_is_said(fake: Callable[[str], str]) -> None:
    status, text = run("run", "protocol/greeting", "--qemu", fake("greets-oddly"))
    assert status == 2 and "does not greet as a QEMU does: {'QMP': []}" in text


def test_one_that_does_not_start_leaves_the_others_their_findings(
    fake: Callable[[str], str],
) -> None:
    status, text = run("run", "introspection/statuses", "--qemu", fake("good"), "--qemu", fake("dead"))  # fmt: skip
    assert status == 2
    assert "QEMU 10.0.13" in text and "1 pass" in text
    assert "could not be judged" in text and "cannot start today" in text


def test_a_pair_of_which_one_does_not_start_fails(fake: Callable[[str], str]) -> None:
    targets = campaign.targets_of([fake("good"), fake("dead")], [], "tcg")
    found = campaign.run_pairs(targets, campaign.Options())
    assert [each.verdict for each in found] == [Verdict.FAIL, Verdict.FAIL]
    assert "cannot start today" in found[0].reason


def test_two_builds_of_one_version_are_two(fake: Callable[[str], str]) -> None:
    targets = campaign.targets_of([fake("one"), fake("refuses")], [], "tcg")
    one, two = campaign.run_pairs(targets, campaign.Options())
    assert one.source.endswith("/one") and one.destination.endswith("/refuses")
    assert one.verdict is two.verdict is Verdict.FAIL


def test_pairs_only_needs_a_pair(
    fake: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = fake("one"), fake("two")
    assert run("matrix", "--pairs-only", "--qemu", one) == (2, "")
    assert "--pairs-only needs two QEMUs" in capsys.readouterr().err
    words = ["--qemu", one, "--qemu", two]
    assert run("matrix", "--pairs-only", "--no-pairs", *words) == (2, "")
    assert "leave nothing to do" in capsys.readouterr().err


def test_pairs_that_all_are_skipped_are_status_2(
    fake: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "common_machine", lambda one, two, board: "")
    status, text = run("matrix", "--pairs-only", "--qemu", fake("one"), "--qemu", fake("two"))  # fmt: skip
    assert status == 2 and text.count("no machine type that both have") == 2


def test_without_userfaultfd_nothing_is_said_of_a_qemu(
    fake: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "userfaultfd_missing", lambda version: "none here")
    status, text = run("run", "cancel/postcopy", "introspection/statuses", "--qemu", fake("good"))  # fmt: skip
    assert status == 2
    assert "no post-copy was seen: none here" in text and "1 skip, 1 pass" in text


def test_only_the_means_of_this_user_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(host, "_can_call", lambda: False)
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    assert "before 8.0" in host.userfaultfd_missing((7, 2, 22))
    assert not host.userfaultfd_missing(V10)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "may not use userfaultfd" in host.userfaultfd_missing(V10)


def test_another_architecture_is_named_and_status_2(
    fake: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "--qemu", fake("other-machine"))[0] == 2
    said = capsys.readouterr().err
    assert "no machine type 'pc' of x86_64 nor 'virt' of aarch64" in said
    assert "cure" not in said and "name a qemu-system-x86_64 or qemu-system-aarch64" in said  # fmt: skip


def test_one_built_without_gnutls_is_not_asked_for_tls(
    fake: Callable[[str], str],
) -> None:
    words = ["transport/tls", "recover/tls", "introspection/statuses"]
    text = run("run", *words, "-v", "--qemu", fake("without-gnutls"))[1]
    assert "2 skip, 1 pass" in text
    assert "skip  transport/tls: this QEMU was built without gnutls" in text
    assert run("run", words[0], "--qemu", fake("good"))[0] == 1


def test_a_killed_run_leaves_no_folder(tmp_path: Path) -> None:
    script = "from libvirt_postcopy.conformance.live import Bench\nwith Bench.open() as b:\n print(b.folder, *b._places.values(), flush=True)\n input()"  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
    with process:
        assert process.stdout is not None
        folders = [Path(word) for word in process.stdout.readline().split()]
        assert folders and all(folder.is_dir() for folder in folders)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
    assert not any(folder.exists() for folder in folders)


def test_without_jsonschema_one_check_is_skipped_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    monkeypatch.setattr(qmpschema, "_validators", {})
    path = str(FOLDER / "qemu-10.0" / "introspection.ndjson")
    words = ["introspection/replies-follow-schema", "introspection/statuses"]
    status, text = run("replay", path, "--check", words[0], "--check", words[1], "-v")
    assert status == 0 and "1 skip, 1 pass" in text
    assert "pip install 'libvirt-postcopy[conformance]'" in text
    assert run("replay", path, "--check", words[0])[0] == 2


def test_without_libvirt_python_one_check_is_skipped_and_all_else_is_the_same() -> None:
    script = "import sys; sys.modules['libvirt'] = None; from libvirt_postcopy.cli.main import main; sys.exit(main(sys.argv[1:]))"  # fmt: skip
    words = ["conformance", "replay", str(FOLDER / "qemu-10.0" / "post-copy.ndjson"), "-v"]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script, *words], cwd=ROOT, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done
    assert "skip  client/unknown-status: libvirt-python is not inst" in done.stdout
    assert "pass  client/same-verdict" in done.stdout


# Numbers that no QEMU says


def _extreme(path: Path, name: str, old: str, new: str) -> str:
    """A recording with one number that is another one."""
    text = (FOLDER / f"{name}.ndjson").read_text(encoding="utf-8")
    found = re.search(old, text)
    assert found
    place = path / "extreme.ndjson"
    place.write_text(text[: found.start(1)] + new + text[found.end(1) :])
    return str(place)


@pytest.mark.parametrize(
    "old, new, id",
    [
        (r'"src",.*"pass": (\d+)', "1e999", "numbers/passes"),
        (r'"src",.*"pass": (\d+)', "1" + "0" * 4000, "numbers/passes"),
        (r'"microseconds": (\d+)', "9" * 400, "protocol/timestamps"),
        (r'"microseconds": (\d+)', "[" * 500 + "]" * 500, "protocol/timestamps"),
    ],
)
def test_a_number_beyond_all_bounds_fails_its_check(
    tmp_path: Path, old: str, new: str, id: str
) -> None:
    path = _extreme(tmp_path, "qemu-10.0/post-copy", old, new)
    status, text = run("replay", path)
    assert status == 1 and f"FAIL  {id}" in text


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_version_beyond_all_bounds_is_none(tmp_path: Path, digits: int) -> None:
    path = _extreme(tmp_path, "qemu-10.0/post-copy", r'"qemu": "(10)\.', "1" * digits)
    seen = transcript.load(Path(path))
    assert seen.version == (0,)
    assert run("replay", path)[0] == 2


def test_a_time_beyond_all_bounds_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _extreme(tmp_path, "qemu-10.0/post-copy", r'"t": ([\d.]+)', "9" * 400)
    assert run("replay", path) == (2, "")
    assert "'t' is no time in seconds" in capsys.readouterr().err


def test_a_schema_that_contradicts_itself_fails_its_check() -> None:
    seen = recorded("qemu-10.0/introspection")
    check = CHECKS["introspection/replies-follow-schema"]
    text = transcript.dumps(seen)
    name = next(entry["ret-type"] for entry in Facts.from_conversation(seen).schema.entries if entry["name"] == "query-status")  # type: ignore[union-attr]  # fmt: skip
    other = transcript.loads(text.replace(f'"ret-type": "{name}"', '"ret-type": "nowhere"'), "x")  # fmt: skip
    found = judge(check, other)
    assert found.verdict is Verdict.FAIL and "'nowhere'" in found.actual


def test_a_scenario_of_the_name_that_stands_for_all_is_none() -> None:
    seen = recorded("qemu-10.0/refusals")
    assert outcomes(replace(seen, header={**seen.header, "scenario": "*"})) == {}


# Features


@pytest.mark.parametrize(
    "id, kind, name",
    [
        ("recover/order", "commands", "migrate-recover"),
        ("recover/slow-then-fast", "parameters", "max-postcopy-bandwidth"),
        ("transport/channels", "arguments", "migrate/channels"),
        ("memory/preempt", "capabilities", "postcopy-preempt"),
        ("cancel/postcopy", "capabilities", "postcopy-ram"),
    ],
)
def test_what_a_release_has_and_this_one_lacks_fails(
    facts: Facts, id: str, kind: str, name: str
) -> None:
    check = CHECKS[id]
    assert must_have(check, facts) == ""
    less = replace(facts, **{kind: getattr(facts, kind) - {name}})
    (finding,) = judge_all([check], [], less)
    assert finding.verdict is Verdict.FAIL and name in finding.accepted
    old = replace(less, version=(2, 4, 0))
    assert judge_all([check], [], old)[0].verdict is Verdict.SKIP


def test_what_was_removed_is_not_missed(facts: Facts) -> None:
    check = CHECKS["capabilities/with-compress"]
    assert "compress" not in facts.capabilities and not must_have(check, facts)
    assert gate(check, facts, "tcg") == "this QEMU has no cap:compress"


def test_a_backport_is_checked_by_its_name(facts: Facts) -> None:
    check = CHECKS["transport/channels"]
    assert gate(check, replace(facts, version=(8, 1, 0)), "tcg") == ""
    less = replace(facts, version=(8, 1, 0), arguments=frozenset())
    assert "from QEMU 8.2 on" in gate(check, less, "tcg")
    behaviour = CHECKS["break/pause-in-recovery"]
    assert "from QEMU 8.2 on" in gate(behaviour, replace(facts, version=(8, 1, 0)), "tcg")  # fmt: skip
    assert gate(behaviour, replace(facts, version=(8, 2, 0)), "tcg") == ""


# Deviations


def test_a_deviation_excuses_what_it_describes_and_nothing_else() -> None:
    seen = recorded("qemu-7.2/recover-empty-connection")
    check = CHECKS["recover/empty-connection"]
    assert judge(check, seen).verdict is Verdict.KNOWN
    rows = [replace(line, side="src" if line.side == "dst" else "dst") if line.dir == "proc" else line for line in seen.lines]  # fmt: skip
    other = judge(check, replace(seen, lines=rows, _cache={}))
    assert other.verdict is Verdict.FAIL and "src ended by itself" in other.actual


def test_a_deviation_excuses_no_release_to_come() -> None:
    seen = recorded("qemu-11.1/post-copy")
    check = CHECKS["numbers/first-pass"]
    assert judge(check, seen).verdict is Verdict.KNOWN
    later = replace(seen, header={**seen.header, "qemu": "11.2.0"}, _cache={})
    assert judge(check, later).verdict is Verdict.FAIL


# Summing up


def _finding(check: Check, verdict: Verdict, **more: object) -> Finding:
    return Finding(check, verdict, scenario=check.scenarios[0], **more)  # type: ignore[arg-type]


def test_a_scenario_that_did_not_get_there_is_not_hidden_by_one_that_did() -> None:
    check = CHECKS["incoming/twice"]
    rows = [_finding(check, Verdict.PASS), _finding(check, Verdict.SKIP, reason="it was not sent", is_unseen=True)]  # fmt: skip
    found = sum_up(check, rows, V10)
    assert found.verdict is Verdict.FAIL and "it was not sent" in found.actual
    rows[1] = replace(rows[1], is_unseen=False, is_of_machine=True)
    assert sum_up(check, rows, V10).verdict is Verdict.PASS


def test_what_fails_live_fails_when_replayed() -> None:
    seen = recorded("qemu-10.0/cancel-postcopy")
    begin = next(n for n, line in enumerate(seen.lines) if line.status == "active")
    cut = replace(seen, lines=seen.lines[:begin], _cache={})
    check = CHECKS["cancel/postcopy"]
    (subject,) = replay([cut], [check])
    live = judge_all([check], [cut], Facts.from_conversation(cut))
    assert subject.findings[0].verdict is live[0].verdict is Verdict.FAIL


def test_a_foreign_recording_need_not_show_everything() -> None:
    seen = recorded("qemu-10.0/recorded-recover-twice")
    (subject,) = replay([seen], [CHECKS["cancel/postcopy"], CHECKS["recover/nobody-then-good"]])  # fmt: skip
    assert Verdict.FAIL not in {f.verdict for f in subject.findings}


def test_nothing_that_could_be_judged_is_status_2(tmp_path: Path) -> None:
    path = str(FOLDER / "qemu-10.0" / "refusals.ndjson")
    status, text = run("replay", path, "--check", "cancel/postcopy")
    assert status == 2 and "could not be judged" in text


def test_a_pair_that_never_migrates_fails() -> None:
    seen = recorded("qemu-10.0/cross-to-5.2")
    check = CHECKS["memory/other-version"]
    assert judge_all([check], [seen], Facts(version=V10))[0].verdict is Verdict.PASS
    nothing = replace(seen, lines=(), _cache={})
    assert judge_all([check], [nothing], Facts(version=V10))[0].verdict is Verdict.FAIL
    same = replace(seen, header={**seen.header, "destination": seen.qemu}, _cache={})
    assert CROSS.name == same.scenario
    assert judge_all([check], [same], Facts(version=V10))[0].verdict is Verdict.PASS


def test_verdicts_that_are_stored_have_to_be_had_again() -> None:
    seen = recorded("qemu-10.0/cancel-postcopy")
    check = CHECKS["client/same-verdict"]
    stored = replace(seen, header={**seen.header, "verdicts": {"cancel/postcopy": "pass"}})  # fmt: skip
    assert judge(check, stored).verdict is Verdict.PASS
    other = replace(seen, header={**seen.header, "verdicts": {"cancel/postcopy": "fail"}})  # fmt: skip
    found = judge(check, other)
    assert found.verdict is Verdict.FAIL and "cancel/postcopy: fail" in found.accepted
    bad = recorded("qemu-7.2/cancel-postcopy")
    stored = replace(bad, header={**bad.header, "verdicts": {"cancel/postcopy": "fail"}})  # fmt: skip
    assert judge(check, stored).verdict is Verdict.PASS


def test_what_could_not_be_judged_is_in_every_report() -> None:
    subject = replace(_subject(Verdict.PASS), problem="it <does> not start")
    (suite,) = ElementTree.fromstring(report.render("junit", [subject]))
    assert (suite.get("tests"), suite.get("errors")) == ("2", "1")
    assert len(suite.findall(".//error")) == 1 and len(suite.findall("testcase")) == 2
    schema = json.loads((ROOT / "schemas/conformance-report.schema.json").read_text())
    document = json.loads(report.render("json", [subject]))
    Draft202012Validator(schema).validate(document)
    assert document["subjects"][0]["problem"] == subject.problem
    assert "it &lt;does&gt; not start" in report.render("html", [subject])
    assert "it <does> not start" in report.render("text", [subject])


# Baselines


def _subject(verdict: Verdict, **more: object) -> Subject:
    return Subject("QEMU 10.0.13", Facts(version=V10), [_finding(CHECKS["cancel/postcopy"], verdict, **more)])  # fmt: skip


def _baseline(tmp_path: Path, subject: Subject, *pairs: Pairing) -> report.Baseline:
    path = tmp_path / "baseline.json"
    path.write_text(report.render("json", [subject], pairs))
    return report.read_baseline(path)


def test_what_is_not_checked_any_more_is_worse(tmp_path: Path) -> None:
    before = _baseline(tmp_path, _subject(Verdict.PASS))
    (line,) = report.regressions([_subject(Verdict.SKIP, reason="gone")], [], before)
    assert "was pass, is skip: gone" in line
    assert not report.regressions([_subject(Verdict.SKIP, is_of_machine=True)], [], before)  # fmt: skip
    assert not report.regressions([_subject(Verdict.PASS)], [], before)


@pytest.mark.parametrize(
    "old, new, options, is_worse",
    [
        (Verdict.PASS, Verdict.WEAK, [], False),
        (Verdict.PASS, Verdict.WEAK, ["--strict"], True),
        (Verdict.WEAK, Verdict.WEAK, ["--strict"], False),
        (Verdict.PASS, Verdict.KNOWN, [], True),
        (Verdict.PASS, Verdict.KNOWN, ["--known-ok"], False),
        (Verdict.PASS, Verdict.FAIL, ["--known-ok"], True),
    ],
)
def test_what_fails_without_a_baseline_is_what_is_worse_with_one(
    tmp_path: Path, old: Verdict, new: Verdict, options: list[str], is_worse: bool
) -> None:
    args = argparse.ArgumentParser()
    program.options(args)
    words = ["replay", "x", "--baseline", "x", *options]
    before = _baseline(tmp_path, _subject(old))
    found = program._conclude(args.parse_args(words), io.StringIO(), [_subject(new)], [], before)  # fmt: skip
    assert found == int(is_worse)


def test_pairs_are_held_against_the_baseline(tmp_path: Path) -> None:
    good = Pairing("10.0.13", "5.2.0", "pc-i440fx-5.2", Verdict.PASS)
    bad = replace(good, verdict=Verdict.FAIL, reason="lost")
    subject = _subject(Verdict.PASS)
    (line,) = report.regressions([subject], [bad], _baseline(tmp_path, subject, good))
    assert line == "10.0.13 to 5.2.0 was pass, is fail: lost"
    assert not report.regressions([subject], [bad], _baseline(tmp_path, subject, bad))


# pytest


class Collected:
    """What a run of pytest within this one would run."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.ids = [item.nodeid for item in session.items]


def _pytest(*words: str) -> list[str]:
    collected = Collected()
    options = ["--collect-only", "-p", "no:cacheprovider", "-p", "no:terminal", "--rootdir", str(ROOT)]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_ADDOPTS", raising=False)  # of the run that this one is in
        assert pytest.main([*options, *words], plugins=[collected]) == 0
    return collected.ids


def test_the_option_alone_collects_and_what_judges_all_is_last(
    fake: Callable[[str], str],
) -> None:
    rows = _pytest("--postcopy-qemu", fake("good"))
    ids = [row.partition("good-")[2].rstrip("]") for row in rows]
    assert sorted(ids) == sorted(CHECKS)
    for_all = {id for id, check in CHECKS.items() if check.scenarios == ("*",)}
    assert set(ids[-len(for_all) :]) == for_all


def test_beside_what_is_named_the_checks_are_collected_once(
    fake: Callable[[str], str],
) -> None:
    named = str(ROOT / "tests/unit/conformance/test_guest.py")
    own = str(ROOT / "libvirt_postcopy/conformance/pytest_checks.py")
    rows = _pytest(named, own, "--postcopy-qemu", fake("good"))
    assert sum("test_conformance[" in row for row in rows) == len(CHECKS) < len(rows)
    more = _pytest(named, "--postcopy-qemu", fake("also"))
    assert sum("test_conformance[" in row for row in more) == len(CHECKS) < len(more)
