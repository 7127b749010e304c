from __future__ import annotations

import io
import json
import signal
from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from libvirt_postcopy.cli.commands import check
from libvirt_postcopy.cli.main import main
from libvirt_postcopy.preflight import CHECKS
from libvirt_postcopy.preflight.document import to_markdown
from libvirt_postcopy.preflight.finding import Finding, Severity
from libvirt_postcopy.preflight.report import Report
from unit.preflight.daemon import Daemon, Guest

Capture = pytest.CaptureFixture[str]
BAD = Report(
    "web1", findings=(Finding("guest/paused", Severity.ERROR, "source", "\x1b[2J"),)
)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A source with one domain, which is opened only where there is an event loop; ``asked`` is what is examined, ``report`` what comes of it."""
    made = SimpleNamespace(
        source=Daemon("qemu:///system"), asked=[], report=Report(), loops=[]
    )
    made.dom = Guest(made.source)

    def examine(*args: Any, **options: Any) -> Report:
        made.handler = signal.getsignal(signal.SIGINT)
        made.asked.append((args, options))
        return made.report

    monkeypatch.setattr(libvirt, "open", lambda uri: made.loops and made.source)
    monkeypatch.setattr(check, "ensure_event_loop", lambda: made.loops.append(1))
    monkeypatch.setattr(check, "examine", examine)
    monkeypatch.setattr(check.calls, "silence_libvirt", lambda: None)
    return made


def run(*words: str) -> tuple[int, str]:
    out = io.StringIO()
    return main(["check", *words], out), out.getvalue()


def test_all_that_is_named_is_examined(scene: SimpleNamespace) -> None:
    status, text = run("qemu:///system", "qemu+tls://b/system", "web1", "--probe")
    assert (status, text) == (0, f"{scene.report}\n")
    assert scene.asked == [
        (
            (scene.source, scene.dom, "qemu+tls://b/system"),
            {"probe": True, "owns_source": True},
        )
    ]
    assert scene.source.is_closed


@pytest.mark.parametrize("words, dest", [([], None), (["b"], "b")])
def test_domain_and_destination_may_be_left_out(scene: SimpleNamespace, words: list[str], dest: str | None) -> None:  # fmt: skip
    assert run("qemu:///system", *words)[0] == 0
    assert scene.asked == [((scene.source, None, dest), {"probe": False, "owns_source": True})]  # fmt: skip


def test_error_is_the_exit_status(scene: SimpleNamespace) -> None:
    scene.report = BAD
    status, text = run("qemu:///system", "b", "web1")
    assert status == 1 and "guest/paused" in text
    assert "\x1b" not in text and "\\x1b[2J" in text


def test_json(scene: SimpleNamespace) -> None:
    scene.report = BAD
    status, text = run("qemu:///system", "b", "web1", "--json")
    assert status == 1 and json.loads(text) == BAD.to_json()


def test_interrupt_ends_it_while_libvirt_blocks(scene: SimpleNamespace) -> None:
    before = signal.getsignal(signal.SIGINT)
    run("qemu:///system")
    assert scene.handler is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupt_that_was_ignored_stays_ignored(scene: SimpleNamespace) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run("qemu:///system")
    finally:
        signal.signal(signal.SIGINT, before)
    assert scene.handler is signal.SIG_IGN


def test_list_is_the_page_of_the_documentation() -> None:
    assert run("--list") == (0, to_markdown(CHECKS.values()))


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "no source is named"),
        (["qemu:///system", "--probe"], "--probe needs a destination"),
        (["qemu:///system", "b", "nobody"], "there is no domain 'nobody'"),
    ],
)
def test_one_line_for_what_cannot_be_meant(
    scene: SimpleNamespace, capsys: Capture, words: list[str], message: str
) -> None:
    assert run(*words) == (1, "")
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert message in said
    assert scene.asked == []
