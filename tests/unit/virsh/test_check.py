from __future__ import annotations

import io
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from libvirt_postcopy.errors import NotSupportedError
from libvirt_postcopy.preflight.finding import Finding, Severity
from libvirt_postcopy.preflight.report import Report
from libvirt_postcopy.virsh import check
from libvirt_postcopy.virsh.daemon import login
from libvirt_postcopy.virsh.grammar import Globals, Value
from libvirt_postcopy.virsh.interrupts import Signals
from libvirt_postcopy.virsh.terminal import Terminal

BAD = Report(
    "web1",
    findings=(
        Finding(
            "request/tunnelled",
            Severity.ERROR,
            "source",
            "VIR_MIGRATE_TUNNELLED \x1b[2J is asked for",
            "leave it out",
        ),
    ),
)


@pytest.fixture
def signals() -> Iterator[Signals]:
    made = Signals()
    yield made
    made.release()


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch, signals: Signals) -> SimpleNamespace:
    """The daemon; ``report`` is what comes of the examination."""
    made = SimpleNamespace(asked=[], report=Report("web1"), out=io.StringIO())

    def examine(*args: Any, **options: Any) -> Report:
        made.asked.append((args, options))
        return made.report

    monkeypatch.setattr(check, "examine", examine)
    monkeypatch.setattr(check.calls, "silence_libvirt", lambda: None)
    loops: list[int] = []  # one must be there before a connection is opened
    monkeypatch.setattr(check, "ensure_event_loop", lambda: loops.append(1))
    monkeypatch.setattr(
        check,
        "connect",
        lambda options: loops and (options.connect,),
    )
    monkeypatch.setattr(
        check, "find_domain", lambda connection, text: (connection, text)
    )
    terminal = Terminal(made.out, io.StringIO())

    def run(**more: Value) -> str:
        given = {"domain": "web1", "desturi": "qemu+tls://b/system", **more}
        check.run(given, Globals(connect="x:///"), terminal, signals)
        return str(made.out.getvalue())

    made.run = run
    return made


SOURCE = ("x:///",)


@pytest.mark.parametrize("probe", [True, False])
def test_domain_and_destination_are_examined(
    scene: SimpleNamespace, probe: bool
) -> None:
    text = scene.run(**({"probe": True} if probe else {}))
    own = login(Globals())
    assert scene.asked == [
        (
            (SOURCE, (SOURCE, "web1"), "qemu+tls://b/system"),
            {"probe": probe, "owns_source": True, "connect": own.open},
        )
    ]
    assert text == f"{scene.report}\n"


def test_error_is_raised_after_the_report(scene: SimpleNamespace) -> None:
    scene.report = BAD
    with pytest.raises(NotSupportedError, match="post-copy cannot work") as caught:
        scene.run()
    assert caught.value.cure == "leave it out"
    text = scene.out.getvalue()
    assert "request/tunnelled" in text and "1 error" in text
    assert "--tunnelled" in text, "flags are called by virsh's options"
    assert "\x1b" not in text


def test_json_is_as_the_package_writes_it(scene: SimpleNamespace) -> None:
    scene.report = BAD
    with pytest.raises(NotSupportedError):
        scene.run(json=True)
    assert json.loads(scene.out.getvalue()) == BAD.to_json()
