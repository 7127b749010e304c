from __future__ import annotations

import pytest

from libvirt_postcopy.constants import ErrorNumber
from libvirt_postcopy.errors import LibvirtError, UsageError
from libvirt_postcopy.virsh import daemon
from libvirt_postcopy.virsh.daemon import (
    connect,
    find_domain,
    guest_on_source,
    require_writable,
    uri_of,
)
from libvirt_postcopy.virsh.grammar import Globals
from libvirt_postcopy.virsh.refusals import NotBegunError, RefusedError
from unit.fakes import NO_ANSWER, NO_DOMAIN, FakeConnection, FakeDomain, refused

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"


class Lookups(FakeConnection):
    """Knows a domain by one key, and remembers what it was asked."""

    def __init__(self, key: object, error: Exception = NO_DOMAIN) -> None:
        super().__init__()
        self.key, self.refusal, self.asked = key, error, []

    def _look(self, key: object) -> str:
        self.asked.append(key)
        if key == self.key:
            return "found"
        raise self.refusal

    lookupByID = lookupByUUIDString = lookupByName = _look


@pytest.fixture(autouse=True)
def _nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "_kept", {})
    monkeypatch.setattr(daemon, "_logins", {})
    monkeypatch.setattr(daemon, "ensure_event_loop", lambda: None)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, str]]:
    """What is opened: by whom, which URI, and whether with the usual keepalive."""
    seen: list[tuple[str | None, str]] = []

    def open_connection(uri, side, *, open_, has_keepalive) -> FakeConnection:
        seen.append((uri, f"{open_.__name__}{'' if has_keepalive else ', own'}"))
        return FakeConnection()

    monkeypatch.setattr(daemon.calls, "open_connection", open_connection)
    monkeypatch.delenv("VIRSH_DEFAULT_CONNECT_URI", raising=False)
    return seen


@pytest.mark.parametrize(
    "text, key, asked",
    [
        ("web1", "web1", ["web1"]),
        ("7", 7, [7]),
        ("7", "7", [7, "7"]),
        (UUID, UUID, [UUID]),
        ("0123456789", "0123456789", ["0123456789"]),
        ("\u0663", "\u0663", ["\u0663"]),
    ],
)
def test_domain_is_looked_up_by_id_then_uuid_then_name(
    text: str, key: object, asked: list[object]
) -> None:
    connection = Lookups(key)
    assert find_domain(connection, text) == "found"
    assert connection.asked == asked


def test_missing_domain() -> None:
    with pytest.raises(RefusedError) as caught:
        find_domain(Lookups("other"), "7")
    assert str(caught.value) == "source: failed to get domain '7': Domain not found"
    assert caught.value.code == ErrorNumber.VIR_ERR_NO_DOMAIN
    assert (caught.value.said, caught.value.more) == (("failed to get domain '7'",), "")


def test_daemon_that_does_not_answer_is_asked_once() -> None:
    connection = Lookups("other", NO_ANSWER)
    with pytest.raises(LibvirtError, match="failed to get domain '7': client socket"):
        find_domain(connection, "7")
    assert connection.asked == [7]


def test_uri_is_virshs(opened: list, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(Globals(connect="x:///"))
    connect(Globals())
    monkeypatch.setenv("VIRSH_DEFAULT_CONNECT_URI", "y:///")
    connect(Globals())
    connect(Globals(connect="z:///"))
    uris = ["x:///", None, "y:///", "z:///"]
    assert opened == [(uri, "open") for uri in uris]


@pytest.mark.parametrize(
    "interval, count, expected",
    [(9, 3, (9, 3)), (9, None, (9, 5)), (None, 3, (5, 3)), (0, None, None), (0, 3, None)],
)  # fmt: skip
def test_keepalive_is_as_asked_and_set_once(
    opened: list, interval: int | None, count: int | None, expected: object
) -> None:
    asked = Globals(keepalive_interval=interval, keepalive_count=count)
    assert connect(asked).keepalive == expected
    assert opened == [(None, "open, own")]


def test_connection_without_the_keepalive_that_was_asked_for_is_closed(
    opened: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: FakeConnection, *asked: int) -> int:
        raise refused(ErrorNumber.VIR_ERR_NO_SUPPORT, "not supported")

    closed: list[object] = []
    monkeypatch.setattr(FakeConnection, "setKeepAlive", refuse)
    monkeypatch.setattr(daemon.calls, "close_connections", closed.extend)
    with pytest.raises(NotBegunError) as caught:
        connect(Globals(connect="x:///", keepalive_interval=5))
    assert caught.value.said == (
        "Cannot setup keepalive on connection as requested, disconnecting",
        "failed to connect to the hypervisor",
        "not supported",
    )
    assert len(closed) == 1


def test_read_only_connection(opened: list) -> None:
    connect(Globals(is_readonly=True))
    assert opened == [(None, "open_readonly")]


def test_migration_of_who_may_only_read_is_refused() -> None:
    require_writable(Globals(), for_call="f")
    with pytest.raises(
        UsageError, match="^operation forbidden: read only access prevents f$"
    ):
        require_writable(Globals(is_readonly=True), for_call="f")


def test_commands_share_a_connection_as_long_as_it_is_alive(opened: list) -> None:
    first = connect(Globals())
    assert connect(Globals()) is first
    assert connect(Globals(connect="x:///")) is not first
    first.isAlive = lambda: 0
    assert connect(Globals()) is not first
    assert [uri for uri, _ in opened] == [None, "x:///", None]


def test_unreachable_source_is_not_taken_for_the_destination(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = daemon.calls.translate(
        refused(ErrorNumber.VIR_ERR_SYSTEM_ERROR, "unable to connect to server at 'a'")
    )
    assert error.side == "destination"  # where such a text usually comes from

    def open_connection(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(daemon.calls, "open_connection", open_connection)
    with pytest.raises(LibvirtError) as caught:
        connect(Globals())
    assert str(caught.value).startswith(
        "source: failed to connect to the hypervisor: unable to connect to server"
    )


def test_uri_of_a_dead_connection() -> None:
    connection = FakeConnection()
    assert uri_of(connection) == "fake:///a"
    connection.getURI = lambda: connection._answer("")  # type: ignore[method-assign]
    connection.error = NO_ANSWER
    with pytest.raises(LibvirtError, match="client socket is closed"):
        uri_of(connection)


@pytest.mark.parametrize(
    "state, text",
    [
        ((1, 1), "the guest runs on the source"),
        ((3, 1), "the guest is paused on the source"),
        ((3, 2), "the guest is on the source"),
        ((5, 0), "the guest is shut off on the source"),
        ((6, 1), "the guest has crashed on the source"),
        ((99, 0), "the guest is on the source"),
    ],
)
def test_guest_that_a_migration_has_left_on_the_source(
    state: tuple[int, int], text: str
) -> None:
    dom = FakeDomain()
    dom.now = state
    assert guest_on_source(dom) == text


def test_guest_on_a_source_that_has_it_no_more_or_does_not_answer() -> None:
    dom = FakeDomain()
    dom.errors["state"] = NO_DOMAIN
    assert guest_on_source(dom) == "the guest has ended on the source"
    dom.errors["state"] = NO_ANSWER
    assert guest_on_source(dom).endswith("which does not answer now")


@pytest.mark.parametrize(
    "message, side",
    [("Connection refused", "source"), ("Cannot read CA certificate 'x'", "client")],
)
def test_connection_that_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, message: str, side: str
) -> None:
    def open_connection(*args: object, **options: object) -> FakeConnection:
        raise LibvirtError(message, side="source", cure="try")

    monkeypatch.setattr(daemon.calls, "open_connection", open_connection)
    text = f"{side}: failed to connect to the hypervisor: {message} (try)"
    with pytest.raises(NotBegunError) as caught:
        connect(Globals(connect="x:///"))
    assert str(caught.value) == text
    with pytest.raises(LibvirtError) as caught_default:
        connect(Globals())
    assert str(caught_default.value) == text
    assert not isinstance(caught_default.value, NotBegunError)
