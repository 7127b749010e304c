from __future__ import annotations

import io
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from libvirt_postcopy.errors import LibvirtError, MigrationUnknown
from libvirt_postcopy.virsh import switch
from libvirt_postcopy.virsh.grammar import Globals
from libvirt_postcopy.virsh.interrupts import Signals
from libvirt_postcopy.virsh.terminal import Terminal


@pytest.fixture
def signals() -> Iterator[Signals]:
    made = Signals()
    yield made
    made.release()


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch, signals: Signals) -> SimpleNamespace:
    """The daemon; ``call`` is what it does when the switch is sent."""
    made = SimpleNamespace(done=[], call=lambda: None)

    def start_postcopy(dom: object) -> None:
        made.done.append(dom)
        made.call()

    monkeypatch.setattr(switch.calls, "silence_libvirt", lambda: None)
    monkeypatch.setattr(switch.calls, "start_postcopy", start_postcopy)
    monkeypatch.setattr(
        switch, "connect", lambda options, for_call: (options.connect, for_call)
    )
    monkeypatch.setattr(
        switch, "find_domain", lambda connection, text: (connection, text)
    )
    monkeypatch.setattr(switch, "uri_of", lambda connection: connection[0])
    terminal = Terminal(io.StringIO(), io.StringIO())
    options = Globals(connect="x:///")
    made.run = lambda: switch.run({"domain": "web1"}, options, terminal, signals)
    return made


def test_one_call_to_the_domain_that_is_named(scene: SimpleNamespace) -> None:
    scene.run()
    assert scene.done == [(("x:///", "virDomainMigrateStartPostCopy"), "web1")]


def test_refusal_is_passed_on(scene: SimpleNamespace) -> None:
    def refuse() -> None:
        raise LibvirtError("no")

    scene.call = refuse
    with pytest.raises(LibvirtError, match="no"):
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
