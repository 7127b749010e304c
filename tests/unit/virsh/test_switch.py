from __future__ import annotations

import io

import pytest

from libvirt_postcopy.virsh import switch
from libvirt_postcopy.virsh.grammar import Globals
from libvirt_postcopy.virsh.terminal import Terminal


def test_one_call_to_the_domain_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    options = Globals(connect="x:///")
    monkeypatch.setattr(switch.calls, "silence_libvirt", lambda: None)
    monkeypatch.setattr(switch.calls, "start_postcopy", done.append)
    monkeypatch.setattr(
        switch, "connect", lambda options, for_call: (options.connect, for_call)
    )
    monkeypatch.setattr(
        switch, "find_domain", lambda connection, text: (connection, text)
    )
    terminal = Terminal(io.StringIO(), io.StringIO())
    switch.run({"domain": "web1"}, options, terminal)
    assert done == [(("x:///", "virDomainMigrateStartPostCopy"), "web1")]
