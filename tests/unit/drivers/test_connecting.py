"""Whether the source's QEMU may still be connecting."""

from __future__ import annotations

import pytest

from libvirt_postcopy.drivers import connecting
from libvirt_postcopy.drivers.connecting import Connecting
from libvirt_postcopy.errors import PostcopyError
from libvirt_postcopy.qmp.commands import (
    CommandError,
    ConnectError,
    MonitorBusy,
    MonitorLost,
)
from unit.fakes import Clock

URI = "tcp:192.0.2.2:49184"


def _tried(uri: str = URI, error: Exception | None = None) -> Connecting:
    it = Connecting()
    try:
        with it.trying(uri):
            if error is not None:
                raise error
    except PostcopyError as raised:
        assert raised is error
    return it


def test_nothing_is_waited_for_before_the_first() -> None:
    Connecting().require_over()


def test_attempt_is_waited_for_until_the_kernel_has_given_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    it = _tried()
    clock.passed += 128
    with pytest.raises(PostcopyError, match="source: .* still be connecting"):
        it.require_over()
    clock.passed += connecting._CONNECTING_S - 128
    it.require_over()


def test_operator_is_told_once_that_another_must_wait() -> None:
    told: list[str] = []
    it = Connecting(told.append)
    it.assume_tried(URI)
    assert told == []
    for _ in range(3):
        with pytest.raises(PostcopyError):
            it.require_over()
    assert len(told) == 1 and "150 s at most" in told[0]
    it.assume_tried(URI)
    with pytest.raises(PostcopyError):
        it.require_over()
    assert len(told) == 2


@pytest.mark.parametrize(
    ("error", "may_be"),
    [
        (CommandError("migrate", "GenericError", "no"), False),
        (ConnectError("away"), False),
        (MonitorBusy("later"), False),
        (MonitorLost("who knows"), True),
    ],
)
def test_answer_tells_whether_it_was_sent(error: PostcopyError, may_be: bool) -> None:
    assert _tried(error=error).may_be is may_be


@pytest.mark.parametrize(("ago_s", "may_be"), [(-99, True), (100, True), (151, False)])
def test_attempt_of_another_client(ago_s: float, may_be: bool) -> None:
    """Its clock may have been set back since."""
    it = Connecting()
    it.assume_tried(URI, ago_s)
    assert it.may_be is may_be


def test_unix_socket_is_not_waited_for() -> None:
    assert not _tried("unix:/run/m.sock").may_be


@pytest.mark.parametrize(
    ("status", "may_be"),
    [
        (None, True),
        ("", True),
        ("postcopy-paused", True),
        ("postcopy-recover-setup", False),
        ("postcopy-recover", False),
        ("failed", False),
    ],
)
def test_what_is_heard_tells_whether_it_is_over(
    status: str | None, may_be: bool
) -> None:
    it = _tried()
    it.hear(status)
    assert it.may_be is may_be


def test_what_is_heard_before_the_answer_counts() -> None:
    it = Connecting()
    with it.trying(URI):
        it.hear("postcopy-recover")
    assert not it.may_be
