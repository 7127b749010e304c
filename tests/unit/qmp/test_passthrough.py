from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import libvirt_qemu
import pytest

from libvirt_postcopy.qmp.commands import (
    CommandError,
    MonitorBusy,
    MonitorError,
    MonitorLost,
)
from libvirt_postcopy.qmp.passthrough import Passthrough
from unit.drivers.qemus import NO_LOCK, ok, refuse
from unit.fakes import NO_ANSWER, FakeDomain


class Asked(FakeDomain):
    def __init__(self, reply: Any) -> None:
        super().__init__()
        self.reply = reply
        self.asked: list[dict[str, Any]] = []

    def answer(self, command: dict[str, Any]) -> Any:
        self.asked.append(command)
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


def _monitor(dom: FakeDomain) -> Passthrough:
    @contextmanager
    def borrow() -> Iterator[FakeDomain]:
        yield dom

    return Passthrough(borrow, "destination")


@pytest.mark.usefixtures("monitor")
def test_no_id_is_sent_and_arguments_only_where_there_are_some() -> None:
    dom = Asked(ok(7))
    assert _monitor(dom).execute("x") == 7
    assert _monitor(dom).execute("y", {"uri": 'tcp:"h"'}) == 7
    assert dom.asked == [
        {"execute": "x"},
        {"execute": "y", "arguments": {"uri": 'tcp:"h"'}},
    ]


@pytest.mark.usefixtures("monitor")
@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (refuse("no"), CommandError),
        (NO_LOCK, MonitorBusy),
        (NO_ANSWER, MonitorLost),
    ],
)
def test_errors_are_told_apart(reply: Any, error: type[MonitorError]) -> None:
    with pytest.raises(MonitorError) as caught:
        _monitor(Asked(reply)).execute("migrate")
    assert type(caught.value) is error
    assert caught.value.side == "destination"
    assert "migrate" in str(caught.value)


def test_text_that_is_no_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libvirt_qemu, "qemuMonitorCommand", lambda *args: "{")
    with pytest.raises(MonitorError, match="no reply to migrate"):
        _monitor(FakeDomain()).execute("migrate")
