"""A running domain, whose monitor is libvirt's."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from libvirt_postcopy.cli.main import main
from libvirt_postcopy.conformance import domain, transcript
from libvirt_postcopy.conformance.registry import CHECKS
from libvirt_postcopy.conformance.verdicts import Subject, Verdict
from libvirt_postcopy.errors import StateError

SEEN = transcript.load(Path(__file__).parents[2] / "transcripts/qemu-10.0/introspection.ndjson")  # fmt: skip
#: What may never be sent to a guest that somebody needs.
FORBIDDEN = ("stop", "cont", "migrate", "migrate_cancel", "migrate-pause", "quit", "system_reset", "migrate-incoming", "migrate-recover")  # fmt: skip


class Domain:
    """Answers as a recorded QEMU 10.0 does, through a libvirt that has ids of its own."""

    def __init__(self, status: str = "") -> None:
        self.sent: list[dict[str, Any]] = []
        self.answers = {e.name: e.value for e in SEEN.exchanges if e.is_ok}
        self.states = {row["capability"]: row["state"] for row in self.answers["query-migrate-capabilities"]}  # fmt: skip
        self.answers["query-migrate"] = {"status": status} if status else {}
        self.forgets = False

    def __call__(self, text: str) -> str:
        msg = json.loads(text)
        self.sent.append(msg)
        return json.dumps({**self._answer(msg["execute"], msg), "id": f"libvirt-{len(self.sent)}"})  # fmt: skip

    def _answer(self, name: str, msg: dict[str, Any]) -> dict[str, Any]:
        if name == "migrate-start-postcopy":
            return _refused("Enable postcopy with migrate_set_capability before the start of migration")  # fmt: skip
        if name == "migrate-set-capabilities":
            rows = msg["arguments"]["capabilities"]
            if not all(row["capability"] in self.states for row in rows):
                return _refused("no such capability")
            if not self.forgets:
                self.states.update((r["capability"], r["state"]) for r in rows)
            return {"return": {}}
        if name == "query-migrate-capabilities":
            return {"return": [{"capability": n, "state": s} for n, s in self.states.items()]}  # fmt: skip
        return {"return": self.answers[name]}

    @property
    def names(self) -> list[str]:
        return [msg["execute"] for msg in self.sent]


def _refused(desc: str) -> dict[str, Any]:
    return {"error": {"class": "GenericError", "desc": desc}}


def examine(send: Domain, *, is_disruptive: bool = False) -> Subject:
    return domain.examine(send, "guest", list(CHECKS.values()), is_disruptive=is_disruptive)  # fmt: skip


def verdicts(subject: Subject) -> dict[str, Verdict]:
    return {f.check.id: f.verdict for f in subject.findings}


def test_only_questions_are_sent_and_each_check_says_something() -> None:
    send = Domain()
    found = verdicts(examine(send))
    assert found == dict.fromkeys(domain.READ_ONLY, Verdict.PASS)
    assert all(name.startswith("query-") for name in send.names)


def test_disruptive_puts_back_what_it_changes_and_touches_nothing_else() -> None:
    send = Domain()
    before = dict(send.states)
    found = verdicts(examine(send, is_disruptive=True))
    assert set(found) == {*domain.READ_ONLY, *domain.DISRUPTIVE}
    assert set(found.values()) == {Verdict.PASS}
    assert send.states == before and not set(send.names) & set(FORBIDDEN)


def test_what_does_not_behave_fails() -> None:
    send = Domain()
    send.forgets = True
    assert verdicts(examine(send, is_disruptive=True))["capabilities/read-back"] is Verdict.FAIL  # fmt: skip
    send = Domain()
    del send.states["postcopy-ram"]
    assert verdicts(examine(send))["introspection/no-old-name"] is Verdict.FAIL


@pytest.mark.parametrize("status", ["active", "postcopy-active", "postcopy-paused", "unheard-of"])  # fmt: skip
def test_nothing_is_disturbed_while_it_is_migrated(status: str) -> None:
    send = Domain(status)
    with pytest.raises(StateError, match=status):
        examine(send, is_disruptive=True)
    assert all(name.startswith("query-") for name in send.names)


@pytest.mark.parametrize("name", ["postcopy-ram", "x-postcopy-ram"])
def test_nothing_is_disturbed_where_postcopy_is_still_on(name: str) -> None:
    send = Domain()
    send.states[name] = True
    with pytest.raises(StateError, match=f"left set up .* {name} is on"):
        examine(send, is_disruptive=True)
    assert all(name.startswith("query-") for name in send.names)


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> Domain:
    send = Domain()

    @contextmanager
    def opened(uri: str, name: str) -> Iterator[Callable[[str], str]]:
        assert (uri, name) == ("qemu:///system", "guest")
        yield send

    monkeypatch.setattr(domain, "open_domain", opened)
    return send


def run(*words: str) -> tuple[int, str]:
    out = io.StringIO()
    return main(["conformance", "run", *words], out), out.getvalue()


def test_by_the_command_line(connected: Domain) -> None:
    status, text = run("--connect", "qemu:///system", "--domain", "guest")
    assert status == 0 and "guest at qemu:///system" in text
    assert f"{len(domain.READ_ONLY)} pass" in text


def test_a_domain_of_which_nothing_can_be_checked_is_status_2(
    connected: Domain,
) -> None:
    number = {"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": ""}
    connected.answers["query-version"] = number
    words = ("--connect", "qemu:///system", "--domain", "guest")
    status, text = run("introspection/deprecation", *words)
    assert status == 2
    assert "nothing could be checked: applies from QEMU 8.2 on" in text
    assert run("introspection/deprecation", "introspection/no-old-name", *words)[0] == 0


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["--connect", "qemu:///system"], "needs both"),
        (["--domain", "guest"], "needs both"),
        (["--connect", "x:///", "--domain", "guest", "--qemu", "q"], "not for a running domain"),  # fmt: skip
        (
            ["--connect", "x:///", "--domain", "guest", "recover"],
            "none of these checks",
        ),
    ],
)
def test_mistakes(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert run(*words)[0] == 2
    assert complaint in capsys.readouterr().err
