from __future__ import annotations

import socket
from collections.abc import Iterator

import libvirt
import pytest

from libvirt_postcopy.constants import DomainState, ErrorNumber, PausedReason
from libvirt_postcopy.errors import LibvirtError, NotSupportedError
from libvirt_postcopy.events import Half
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.vir import calls as vir
from unit.fakes import (
    CRASHED,
    MIGRATED,
    NO_ANSWER,
    NO_DOMAIN,
    ONLY_THERE,
    OTHER_UUID,
    RUNNING,
    SHUT_OFF,
    SPLIT_HERE,
    SPLIT_THERE,
    UUID,
    FakeConnection,
    FakeDomain,
    refused,
)
from waiting import wait_until

PATIENCE_S = 10.0
INVALID = ErrorNumber.VIR_ERR_OPERATION_INVALID
NOT_RUNNING = refused(
    INVALID, "Requested operation is not valid: domain is not running"
)


# Translation


def test_refusal_is_explained_and_keeps_libvirts_numbers() -> None:
    error = vir.translate(NOT_RUNNING)
    assert type(error).__mro__[1] is LibvirtError
    assert isinstance(error, libvirt.libvirtError)
    assert error.what == "the domain is not running"
    assert (error.side, error.code, error.domain) == ("source", INVALID, 10)
    assert error.__cause__ is NOT_RUNNING
    assert "start it first" in str(error)


def test_side_is_the_callers_where_the_message_names_none() -> None:
    strange = refused(1, "internal error: something strange")
    assert vir.translate(strange, "destination").side == "destination"
    assert vir.translate(NOT_RUNNING, "destination").side == "source"


def test_refusal_without_a_message_has_a_text_all_the_same() -> None:
    bare = libvirt.libvirtError.__new__(libvirt.libvirtError)
    Exception.__init__(bare, "virDomainMigrate3() failed")
    bare.err = None
    error = vir.translate(bare)
    assert str(error) == "virDomainMigrate3() failed"
    assert error.code is None


def test_refusals_are_translated_where_they_are_guarded() -> None:
    with pytest.raises(LibvirtError) as caught, vir.refusals("source"):
        raise NOT_RUNNING
    assert caught.value.__cause__ is NOT_RUNNING


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), vir.refusals():
        1 / 0  # noqa: B018


def test_refusal_by_libvirt_itself_is_translated() -> None:
    """The test driver cannot migrate."""
    connection = libvirt.open("test:///default")
    with pytest.raises(LibvirtError) as caught:
        vir.start_postcopy(connection.lookupByName("test"))
    assert caught.value.code == ErrorNumber.VIR_ERR_NO_SUPPORT
    assert caught.value.side == "source"
    with pytest.raises(libvirt.libvirtError):
        raise caught.value


# Connections


def test_connection_of_our_own_notices_a_dead_daemon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = FakeConnection()
    opened = []
    monkeypatch.setattr(libvirt, "open", lambda uri: opened.append(uri) or connection)
    assert vir.open_connection("qemu+tls://b/system") is connection
    assert opened == ["qemu+tls://b/system"]
    assert connection.keepalive == vir.KEEPALIVE


def test_connection_without_keepalive_is_a_connection() -> None:
    assert vir.open_connection("test:///default").getURI() == "test:///default"


def test_connection_that_cannot_be_opened_names_the_side() -> None:
    with pytest.raises(LibvirtError) as caught:
        vir.open_connection("nonsense://b/system", "destination")
    assert caught.value.side == "destination"
    assert isinstance(caught.value, libvirt.libvirtError)


def test_connection_to_the_only_host_names_no_side() -> None:
    """The words of the text alone would be taken for those of a destination."""
    refusal = libvirt.libvirtError("Unable to resolve address 'a' service '16509'")

    def open_(uri: str | None) -> libvirt.virConnect:
        raise refusal

    with pytest.raises(LibvirtError) as caught:
        vir.open_connection("qemu+tcp://a/system", open_=open_)
    assert (caught.value.side, bool(caught.value.cure)) == ("", True)


# Calls


def test_switch_is_one_call() -> None:
    dom = FakeDomain()
    vir.start_postcopy(dom)
    vir.start_postcopy(dom, 0)
    assert dom.calls == [("migrateStartPostCopy", 0)] * 2


def test_switch_that_libvirt_refuses() -> None:
    dom = FakeDomain()
    dom.errors["migrateStartPostCopy"] = NOT_RUNNING
    with pytest.raises(LibvirtError, match="the domain is not running"):
        vir.start_postcopy(dom)


def test_binding_without_the_call_is_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Past it only libvirt-python's own objects can be handed on."""
    monkeypatch.delattr(libvirt.virDomain, "migrateStartPostCopy")
    with pytest.raises(NotSupportedError, match="libvirt-python has no migrateStart"):
        vir.start_postcopy(FakeDomain())


def test_statistics_are_read() -> None:
    dom = FakeDomain()
    dom.job = {"memory_total": 7, "new_field": 1}
    assert vir.read_stats(dom) == Stats(memory_total=7, other={"new_field": 1})


def test_no_job_means_no_statistics() -> None:
    dom = FakeDomain()
    dom.errors["jobStats"] = refused(INVALID, "domain is not running")
    assert vir.read_stats(dom) is None


def test_running_is_asked_of_the_daemon() -> None:
    assert vir.is_running(FakeDomain()) is True
    assert vir.is_running(FakeDomain(state=SHUT_OFF)) is False
    dom = FakeDomain()
    dom.errors["isActive"] = NO_ANSWER
    with pytest.raises(LibvirtError):
        vir.is_running(dom)


def test_abort_is_one_call_and_may_be_refused() -> None:
    dom = FakeDomain()
    vir.abort_job(dom)
    assert dom.calls == [("abortJob",)]
    dom.errors["abortJob"] = refused(
        INVALID, "cannot abort migration in post-copy mode"
    )
    with pytest.raises(LibvirtError, match="post-copy mode"):
        vir.abort_job(dom)


PAUSED = DomainState.VIR_DOMAIN_PAUSED


@pytest.mark.parametrize(
    "state, half",
    [
        (RUNNING, Half.WHOLE),
        (MIGRATED, Half.WHOLE),
        ((PAUSED, 1), Half.WHOLE),  # by its user
        ((DomainState.VIR_DOMAIN_PMSUSPENDED, 0), Half.WHOLE),
        ((PAUSED, PausedReason.VIR_DOMAIN_PAUSED_MIGRATION), Half.MIGRATING),
        ((PAUSED, PausedReason.VIR_DOMAIN_PAUSED_STARTING_UP), Half.MIGRATING),
        (SPLIT_HERE, Half.SPLIT),
        (SPLIT_THERE, Half.SPLIT),
        ((PAUSED, PausedReason.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED), Half.SPLIT_FAILED),
        ((DomainState.VIR_DOMAIN_RUNNING, 11), Half.SPLIT_FAILED),
        (SHUT_OFF, Half.INACTIVE),
        (CRASHED, Half.INACTIVE),
    ],
)
def test_state_tells_the_half(state: tuple[int, int], half: Half) -> None:
    assert vir.half(FakeDomain(state=state)) is half


@pytest.mark.parametrize(
    "error, half", [(NO_DOMAIN, Half.GONE), (NO_ANSWER, Half.UNKNOWN)]
)
def test_no_state_tells_too(error: Exception, half: Half) -> None:
    dom = FakeDomain()
    dom.errors["state"] = error
    assert vir.half(dom) is half


def test_guest_that_panicked_and_was_kept_is_whole() -> None:
    dom = FakeDomain(state=CRASHED)
    dom.is_kept = True
    assert vir.half(dom) is Half.WHOLE


#: States that say nothing of a migration: stopped by a disk's error or a watchdog, or continued since.
FOR_OTHER_REASONS = [
    (PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR),
    (PAUSED, libvirt.VIR_DOMAIN_PAUSED_WATCHDOG),
    (PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER),
    (PAUSED, 77),
    (RUNNING[0], libvirt.VIR_DOMAIN_RUNNING_UNPAUSED),
    CRASHED,
]


@pytest.mark.parametrize("state", FOR_OTHER_REASONS)
def test_destination_whose_job_goes_on_has_a_half(state: tuple[int, int]) -> None:
    dom = FakeDomain(state=state)
    dom.is_kept = True
    assert vir.half(dom) is vir.half_there(dom) is Half.WHOLE
    dom.errors["jobStats"] = ONLY_THERE
    assert vir.half_there(dom) is Half.SPLIT_FAILED


def test_destination_that_has_arrived_is_whole_though_its_job_goes_on() -> None:
    """For a moment at the end of each."""
    dom = FakeDomain(state=MIGRATED)
    dom.errors["jobStats"] = ONLY_THERE
    assert vir.half_there(dom) is Half.WHOLE


@pytest.mark.parametrize(
    "state", [SPLIT_THERE, (PAUSED, PausedReason.VIR_DOMAIN_PAUSED_MIGRATION), SHUT_OFF]
)
def test_destination_whose_state_tells_is_asked_no_more(state: tuple[int, int]) -> None:
    dom = FakeDomain(state=state)
    dom.errors["jobStats"] = NO_ANSWER
    assert vir.half_there(dom) is vir.half(dom)


@pytest.mark.parametrize(
    "error",
    [
        NO_DOMAIN,
        refused(INVALID, "domain is not running"),
        refused(ErrorNumber.VIR_ERR_NO_SUPPORT, "not supported"),
    ],
)
def test_destination_without_a_job_is_what_its_state_says(error: Exception) -> None:
    dom = FakeDomain()
    dom.errors["jobStats"] = error
    assert vir.half_there(dom) is Half.WHOLE


def test_destination_that_ends_while_its_job_is_asked_for_is_not_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dom = FakeDomain()

    def end(flags: int = 0) -> dict:
        dom.now = SHUT_OFF
        raise refused(INVALID, "domain is not running")

    monkeypatch.setattr(dom, "jobStats", end)
    assert vir.half_there(dom) is Half.INACTIVE


def test_destination_whose_job_cannot_be_asked_for_is_not_told() -> None:
    dom = FakeDomain()
    dom.errors["jobStats"] = NO_ANSWER
    with pytest.raises(LibvirtError):
        vir.half_there(dom)


@pytest.mark.parametrize(
    "job, has_job", [({}, False), ({"type": 0}, False), ({"type": 2}, True)]
)
def test_job_is_told_by_its_type(job: dict, has_job: bool) -> None:
    dom = FakeDomain()
    dom.job = job
    assert vir.has_job(dom) is has_job


def test_job_that_comes_in_is_one() -> None:
    dom = FakeDomain()
    dom.errors["jobStats"] = ONLY_THERE
    assert vir.has_job(dom) is True


def test_job_that_cannot_be_asked_for_is_none() -> None:
    dom = FakeDomain()
    dom.errors["jobStats"] = NO_ANSWER
    assert vir.has_job(dom) is False


def test_version_is_that_of_the_qemu_that_runs(monitor: None) -> None:
    dom = FakeDomain()
    dom.qemu_version = (7, 2, 22)
    assert vir.running_qemu_version(dom) == 7_002_022


def test_version_that_cannot_be_asked_for_is_an_error(monitor: None) -> None:
    dom = FakeDomain()
    dom.errors["monitor"] = NO_ANSWER
    with pytest.raises(LibvirtError) as caught:
        vir.running_qemu_version(dom)
    assert caught.value.side == "source"
    with pytest.raises(LibvirtError):
        vir.run_state(dom)


def test_run_state_is_qemus_own_word(monitor: None) -> None:
    assert vir.run_state(FakeDomain()) == "finish-migrate"


def test_connections_are_closed_dead_ones_too() -> None:
    dead, alive = FakeConnection(), FakeConnection()
    dead.error = NO_ANSWER
    connections = [alive, dead]
    vir.close_connections(connections)
    assert alive.is_closed and connections == []


def test_explained_refusal_is_not_explained_again() -> None:
    explained = vir.translate(NOT_RUNNING)
    with pytest.raises(LibvirtError) as caught, vir.refusals("destination"):
        raise explained
    assert caught.value is explained


def test_domain_is_found_by_uuid() -> None:
    connection = FakeConnection()
    FakeDomain(connection, OTHER_UUID)
    dom = FakeDomain(connection)
    assert vir.find_domain(connection, UUID) is dom


def test_domain_that_is_not_there_is_none() -> None:
    connection = FakeConnection()
    FakeDomain(connection, OTHER_UUID)
    assert vir.find_domain(connection, UUID) is None


def test_daemon_that_cannot_say_is_an_error() -> None:
    connection = FakeConnection()
    connection.error = NO_ANSWER
    with pytest.raises(LibvirtError):
        vir.find_domain(connection, UUID)


def test_host_is_told_by_its_uuid() -> None:
    assert vir.host_uuid(FakeConnection(host_uuid="5f0c")) == "5f0c"
    assert vir.host_uuid(FakeConnection(host_uuid=None)) is None
    dead = FakeConnection()
    dead.error = NO_ANSWER
    with pytest.raises(LibvirtError):
        vir.host_uuid(dead)


@pytest.mark.parametrize("debug, silences", [("", True), ("1", False)])
def test_programs_silence_libvirt_unless_debugged(
    debug: str, silences: bool, monkeypatch
) -> None:
    registered = []
    monkeypatch.setattr(
        libvirt, "registerErrorHandler", lambda f, ctx: registered.append(f)
    )
    monkeypatch.setenv("LIBVIRT_POSTCOPY_DEBUG", debug)
    vir.silence_libvirt()
    assert bool(registered) is silences
    for handler in registered:
        handler(None, ("some", "error"))


@pytest.mark.parametrize("uri", ["qemu+tcp://[::1/system", "h:abc", "qemu+tcp://h:abc/system", "qemu+tcp://h:99999/system"])  # fmt: skip
def test_uri_that_is_none_is_libvirts_to_refuse(uri: str) -> None:
    assert vir.listens(uri, 0.1)


def test_read_only_connection_is_told_from_what_a_driver_does_not_have() -> None:
    for open_ in (libvirt.openReadOnly, libvirt.open):
        connection = open_("test:///default")
        dom = connection.lookupByName("test")
        if open_ is libvirt.open:
            vir.require_writable(dom)
            continue
        with pytest.raises(libvirt.libvirtError, match="source: .*read-only .open"):
            vir.require_writable(dom)


NO_HOST = f"qemu+tcp://{'a' * 64}.example/system"


def test_name_that_no_host_can_have() -> None:
    assert not vir.listens(NO_HOST, 0.1)
    vir.require_answer(NO_HOST, "destination")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port that is bound, and listens to nobody yet."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        yield made


def at(listener: socket.socket) -> str:
    return f"qemu+tls://127.0.0.1:{listener.getsockname()[1]}/system"


def test_port_that_refuses_is_libvirts_to_tell_of(listener: socket.socket) -> None:
    assert not vir.listens(at(listener), PATIENCE_S)
    vir.require_answer(at(listener), "destination")


def test_port_that_answers(listener: socket.socket) -> None:
    listener.listen()
    assert vir.listens(at(listener), PATIENCE_S)
    vir.require_answer(at(listener), "destination")


def test_port_that_keeps_silent(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes once enough wait to be accepted is dropped, as by a firewall."""
    listener.listen(0)
    wait_until(lambda: not vir.listens(at(listener), 0.05), "silence", PATIENCE_S)
    monkeypatch.setattr(vir, "FIRST_ANSWER_S", 0.05)
    with pytest.raises(LibvirtError, match="destination: it does not answer.*firewall"):
        vir.require_answer(at(listener), "destination")
