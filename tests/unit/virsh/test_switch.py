from __future__ import annotations

import io
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from libvirt_postcopy.constants import DomainState, PausedReason, RunningReason
from libvirt_postcopy.errors import LibvirtError, MigrationUnknown, PostcopyBroken
from libvirt_postcopy.journal import Entry, Facts
from libvirt_postcopy.takeover import Left
from libvirt_postcopy.virsh import switch
from libvirt_postcopy.virsh.grammar import Globals
from libvirt_postcopy.virsh.interrupts import Signals
from libvirt_postcopy.virsh.terminal import Terminal
from unit.fakes import (
    NO_ANSWER,
    RUNNING,
    SHUT_OFF,
    SPLIT_HERE,
    SPLIT_THERE,
    UUID,
    FakeConnection,
    FakeDomain,
)

URI = "fake:///b"

FAILED_HERE = (
    DomainState.VIR_DOMAIN_PAUSED,
    PausedReason.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED,
)
FAILED_THERE = (
    DomainState.VIR_DOMAIN_RUNNING,
    RunningReason.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED,
)


@pytest.fixture
def signals() -> Iterator[Signals]:
    made = Signals()
    yield made
    made.release()


@pytest.fixture
def scene(
    monkeypatch: pytest.MonkeyPatch, signals: Signals, monitor: None
) -> SimpleNamespace:
    """The daemon; ``call`` is what it does when the switch is sent."""
    made = SimpleNamespace(done=[], call=lambda: None, dom=FakeDomain())
    made.destination = FakeConnection(URI)
    made.asked = []
    made.open = lambda: made.destination

    def open_connection(uri: str, side: str) -> FakeConnection:
        made.asked.append((uri, side))
        return made.open()

    monkeypatch.setattr(switch.calls, "open_connection", open_connection)
    facts = Facts(name="web1", uuid=UUID, source="x:///", destination=URI)
    made.left = Left(Entry(Path("x.jsonl"), facts, began=0.0, pid=1))
    monkeypatch.setattr(switch, "left_behind", lambda dom: made.left)

    def start_postcopy(dom: object) -> None:
        made.done.append(dom)
        made.call()

    monkeypatch.setattr(switch.calls, "silence_libvirt", lambda: None)
    monkeypatch.setattr(switch.calls, "start_postcopy", start_postcopy)
    monkeypatch.setattr(switch, "connect", lambda options: (options.connect,))

    def find_domain(connection: object, text: str) -> FakeDomain:
        made.found = (connection, text)
        return made.dom

    monkeypatch.setattr(switch, "find_domain", find_domain)
    monkeypatch.setattr(switch, "uri_of", lambda connection: connection[0])
    made.err = io.StringIO()
    made.terminal = Terminal(io.StringIO(), made.err)
    options, given = Globals(connect="x:///"), {"domain": "web1"}
    made.run = lambda: switch.run(given, options, made.terminal, signals)
    return made


def test_one_call_to_the_domain_that_is_named(scene: SimpleNamespace) -> None:
    scene.run()
    assert scene.found == (("x:///",), "web1")
    assert scene.done == [scene.dom] and scene.err.getvalue() == ""


# Whether the destination's daemon lives


def test_destination_that_the_journal_names_is_asked_first(
    scene: SimpleNamespace,
) -> None:
    scene.run()
    assert scene.asked == [(URI, "destination")] and scene.destination.is_closed
    assert scene.done == [scene.dom] and scene.err.getvalue() == ""


def test_switch_waits_for_a_daemon_that_hangs_and_says_why(
    scene: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "ANSWER_S", 0.01)
    goes_on = threading.Event()
    answer = scene.destination.getLibVersion
    scene.destination.getLibVersion = lambda: [goes_on.wait(10), answer()][1]
    said: list[tuple[str, list]] = []

    def say(text: str) -> None:
        said.append((text, list(scene.done)))
        goes_on.set()

    monkeypatch.setattr(scene.terminal, "say", say)
    scene.run()
    note = f"note: the switch waits: the destination's daemon does not answer ({URI})"
    assert said == [(note, [])], "said before anything was sent"
    assert scene.done == [scene.dom]


def test_nothing_is_sent_to_a_daemon_that_was_silent_and_is_gone(
    scene: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "ANSWER_S", 0.0)
    goes = threading.Event()

    def die() -> FakeConnection:
        goes.wait(10)
        raise LibvirtError("the connection was reset", side="destination")

    scene.open = die
    monkeypatch.setattr(scene.terminal, "say", lambda text: goes.set())
    with pytest.raises(LibvirtError) as caught:
        scene.run()
    assert scene.done == []
    text = str(caught.value)
    assert "does not answer, so the switch was not sent" in text
    assert "the connection was reset" in text and "run it again when" in text


@pytest.mark.parametrize("call", ["open", "ask"])
def test_destination_that_cannot_be_asked_is_told_of(
    scene: SimpleNamespace, call: str
) -> None:
    def refuse() -> FakeConnection:
        raise LibvirtError("no login", side="destination")

    if call == "open":
        scene.open = refuse
    else:
        scene.destination.error = NO_ANSWER
    scene.run()
    assert scene.done == [scene.dom]
    assert scene.err.getvalue().startswith(
        "note: the switch was sent without knowing whether the destination's daemon lives: destination: "
    )


@pytest.mark.parametrize("is_refused", [False, True])
def test_destination_that_nothing_names_is_told_of_once_the_switch_is_sent(
    scene: SimpleNamespace, is_refused: bool
) -> None:
    scene.left = Left()
    if is_refused:
        refuse_and_become(scene, RUNNING)
        with pytest.raises(LibvirtError):
            scene.run()
    else:
        scene.run()
    note = (
        "note: the switch was sent without knowing whether the destination's daemon lives: no journal names the"
        " destination\n"
    )
    assert scene.err.getvalue() == ("" if is_refused else note)
    assert scene.done == [scene.dom] and scene.asked == []


# What comes of it


def test_refusal_is_passed_on(scene: SimpleNamespace) -> None:
    def refuse() -> None:
        raise LibvirtError("no")

    scene.call = refuse
    with pytest.raises(LibvirtError, match="no"):
        scene.run()


@pytest.mark.parametrize("state", [SPLIT_HERE, SPLIT_THERE])
def test_guest_in_post_copy_is_told_of_and_nothing_sent(
    scene: SimpleNamespace, state: tuple[int, int]
) -> None:
    scene.dom.now = state
    scene.run()
    assert scene.done == []
    assert scene.err.getvalue() == (
        "note: the guest 'web1' is in post-copy already: it runs on the destination, and the rest of its memory"
        " follows from the source\n"
    )


@pytest.mark.parametrize(
    "state, look",
    [
        (FAILED_HERE, "virsh -c x:/// domjobinfo web1"),
        (FAILED_THERE, "look at its domjobinfo on the source"),
    ],
)
def test_broken_guest_is_told_of_and_nothing_sent(
    scene: SimpleNamespace, state: tuple[int, int], look: str
) -> None:
    scene.dom.now = state
    with pytest.raises(PostcopyBroken) as caught:
        scene.run()
    assert scene.done == [] and caught.value.guest == "split"
    text = str(caught.value)
    assert "split, its newest memory on the destination, the rest on the source" in text
    assert "destroy, resume and reset neither half" in text
    assert look in text and "postcopy-recover" in text


def refuse_and_become(scene: SimpleNamespace, state: tuple[int, int]) -> None:
    def call() -> None:
        scene.dom.now = state
        raise LibvirtError("no", side="source")

    scene.call = call


def test_switch_that_was_faster_than_the_request(scene: SimpleNamespace) -> None:
    refuse_and_become(scene, SPLIT_HERE)
    scene.run()
    assert "is in post-copy already" in scene.err.getvalue()


def test_guest_that_breaks_during_the_request(scene: SimpleNamespace) -> None:
    refuse_and_become(scene, FAILED_HERE)
    with pytest.raises(PostcopyBroken):
        scene.run()


def test_guest_that_has_ended_here_is_not_to_be_started(scene: SimpleNamespace) -> None:
    refuse_and_become(scene, SHUT_OFF)
    with pytest.raises(LibvirtError) as caught:
        scene.run()
    assert str(caught.value) == (
        "source: domain 'web1' does not run on x:///: there is nothing to switch (if it was migrating, look for it on"
        " the other host, and destroy nothing before you have found it)"
    )


def test_bug_is_not_hidden_by_where_the_guest_is(scene: SimpleNamespace) -> None:
    def call() -> None:
        scene.dom.now = SHUT_OFF
        raise RuntimeError("bug")

    scene.call = call
    with pytest.raises(RuntimeError):
        scene.run()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_during_the_call_does_not_hide_that_it_was_sent(
    scene: SimpleNamespace, number: signal.Signals
) -> None:
    answer = threading.Event()

    def block() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, number)
        answer.wait(10)

    scene.call = block
    with pytest.raises(MigrationUnknown) as caught:
        scene.run()
    answer.set()
    assert "of 'web1' may have been sent" in str(caught.value)
    assert "virsh -c x:/// domstate --reason web1" in str(caught.value)


def test_interrupt_after_the_call_changes_nothing(
    scene: SimpleNamespace, signals: Signals
) -> None:
    scene.call = lambda: signal.pthread_kill(
        threading.main_thread().ident or 0, signal.SIGINT
    )
    scene.run()
    signal.raise_signal(signal.SIGINT)
    assert signals.take() >= 1
