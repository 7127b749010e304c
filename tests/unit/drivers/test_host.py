"""A host's line: renewed when dead, and never used by two threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import libvirt
import pytest

from libvirt_postcopy.constants import DomainState, ErrorNumber, JobType, PausedReason
from libvirt_postcopy.drivers import host as module
from libvirt_postcopy.drivers.host import ANSWER_S, RESTART_S, Host, Pulse
from libvirt_postcopy.errors import LibvirtError
from libvirt_postcopy.events import Half, Looked
from unit.fakes import (
    DST,
    MIGRATED,
    NO_ANSWER,
    ONLY_THERE,
    SPLIT_HERE,
    SPLIT_THERE,
    SRC,
    UUID,
    FakeConnection,
    FakeDomain,
    refused,
)

PATIENCE_S = 10.0
URI = "fake:///b"


class Crowded(FakeConnection):
    """Notices when a second thread asks before the first has its answer."""

    def __init__(self) -> None:
        super().__init__(URI, "bbbb")
        self.was_shared = False
        self.asked = 0
        self._busy = threading.Lock()
        self._second = threading.Event()

    def _answer(self, value: object) -> object:
        if not self._busy.acquire(blocking=False):
            self.was_shared = True
            return super()._answer(value)
        try:
            self.asked += 1
            self._second.wait(0.002)  # never set: time for another to come
            return super()._answer(value)
        finally:
            self._busy.release()


def made_host(*connections: FakeConnection, shared: FakeConnection | None = None) -> Host:  # fmt: skip
    left = list(connections)

    def connect(uri: str, side: str) -> FakeConnection:
        if not left:
            raise LibvirtError("nobody there", side=side)
        return left.pop(0)

    return Host(DST, UUID, URI, connect, shared=shared)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, monitor: None) -> None:
    monkeypatch.setattr(module, "_BEAT_S", 0.001)


def at_once(*jobs: Callable[[], object]) -> None:
    """Each job twenty times, all at the same time."""
    threads = [
        threading.Thread(target=lambda job=job: [job() for _ in range(20)])
        for job in jobs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_two_threads_never_wait_on_one_connection() -> None:
    crowded = Crowded()
    FakeDomain(crowded, state=MIGRATED)
    host = made_host(crowded)
    pulse = Pulse(host)
    pulse.start()
    at_once(host.look, host.half, lambda: host.watch(lambda event: None))
    pulse.stop()
    host.close()
    assert crowded.asked >= 2 * 20 and not crowded.was_shared  # a look and a half each


def test_call_has_a_connection_that_nobody_looks_over() -> None:
    line, lent = FakeConnection(), FakeConnection()
    FakeDomain(line, state=SPLIT_THERE)
    host = made_host(line, lent)
    host.renew()
    assert host.open() is lent
    lent.error = ZeroDivisionError("busy with the call")  # type: ignore[assignment]
    assert host.half() is Half.SPLIT
    lent.error = None
    host.close()
    assert line.is_closed and lent.is_closed


def test_dead_connection_is_replaced_and_listened_to() -> None:
    dead, alive = FakeConnection(), FakeConnection()
    FakeDomain(alive, state=MIGRATED)
    host = made_host(dead, alive)
    host.renew()
    host.watch(lambda event: None)
    dead.is_dead = True
    assert host.half() is Half.WHOLE
    assert alive.listened_to and not dead.is_closed, "closing a dead one may hang"
    host.close()
    assert dead.is_closed and alive.is_closed and alive.callbacks == {}


def test_host_that_cannot_be_reached_is_unknown_and_its_line_not_trusted_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stuck, fresh = FakeConnection(), FakeConnection()
    FakeDomain(fresh, state=MIGRATED)
    host = made_host(stuck, fresh)
    host.renew()
    monkeypatch.setattr(module.vir, "listens", lambda uri, timeout: False)
    assert host.look() == Looked(DST, Half.UNKNOWN, listens=False)
    monkeypatch.setattr(module.vir, "listens", lambda uri, timeout: True)
    stuck.error = ZeroDivisionError("its requests are stuck")  # type: ignore[assignment]
    assert host.look().half is Half.WHOLE


def test_host_that_is_away_is_not_waited_for_at_the_first_attempt_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def is_away(uri: str, side: str) -> None:
        assert (uri, side) == (URI, "destination")
        raise LibvirtError("it does not answer", side=side)

    late = FakeConnection()
    host = made_host(late)
    with monkeypatch.context() as patch:
        patch.setattr(module.vir, "require_answer", is_away)
        with pytest.raises(LibvirtError, match="does not answer"):
            host.renew()
    assert host.renew().connection is late


SSH = "qemu+ssh://root@b/system"
LOCKED = refused(ErrorNumber.VIR_ERR_OPERATION_TIMEOUT, "cannot acquire state change lock")  # fmt: skip


def test_host_over_ssh_that_cannot_be_reached_is_told_from_a_daemon_that_refuses() -> (
    None
):
    """Whether somebody listens there is not known before a login; what its QEMU says is heard over a connection only."""
    left = [FakeConnection(), FakeConnection()]
    first, second = left

    def connect(uri: str, side: str) -> FakeConnection:
        if not left:
            raise LibvirtError("ssh: connect to host b: No route to host", side=side)
        return left.pop(0)

    host = Host(DST, UUID, SSH, connect)
    first.error = LOCKED
    assert host.look() == Looked(DST, Half.UNKNOWN), "it is there"
    first.error, first.is_dead = NO_ANSWER, True
    second.error, second.is_dead = NO_ANSWER, True  # while it is looked at
    assert host.look() == Looked(DST, Half.UNKNOWN, listens=False)
    assert not left
    assert host.look() == Looked(DST, Half.UNKNOWN, listens=False), "no other is opened"


def test_callers_connection_is_used_where_no_other_is_to_be_had_and_never_closed() -> (
    None
):
    theirs = FakeConnection()
    FakeDomain(theirs, state=MIGRATED)
    host = made_host(shared=theirs)
    host.watch(lambda event: None)
    assert host.look().half is Half.WHOLE
    host.close()
    assert theirs.callbacks == {} and not theirs.is_closed


def test_after_the_end_nothing_is_opened() -> None:
    late = FakeConnection()
    host = made_host(late)
    host.close()
    with pytest.raises(LibvirtError, match="no longer"):
        host.renew()
    assert host.half() is Half.UNKNOWN


def test_connection_that_comes_up_after_the_end_is_closed() -> None:
    late = FakeConnection(URI)

    def connect(uri: str, side: str) -> FakeConnection:
        host.close()
        return late

    host = Host(DST, UUID, URI, connect)
    with pytest.raises(LibvirtError, match="no longer"):
        host.open()
    assert late.is_closed


def test_line_that_comes_up_after_the_end_is_closed() -> None:
    late = FakeConnection()

    def connect(uri: str, side: str) -> FakeConnection:
        host.close()
        return late

    host = Host(DST, UUID, URI, connect)
    with pytest.raises(LibvirtError, match="no longer"):
        host.renew()
    assert late.is_closed and late.callbacks == {}


def test_lookout_of_the_source_says_unknown_where_the_job_cannot_be_told() -> None:
    source = FakeConnection()
    dom = FakeDomain(source)
    dom.errors["jobStats"] = NO_ANSWER
    host = Host(SRC, UUID, None, lambda uri, side: source, shared=source)
    assert host.look() == Looked(SRC, Half.UNKNOWN)


PAUSED_HERE = (DomainState.VIR_DOMAIN_PAUSED, PausedReason.VIR_DOMAIN_PAUSED_MIGRATION)


@pytest.mark.parametrize(
    "status, job, half",
    [
        ("postcopy-paused", JobType.VIR_DOMAIN_JOB_NONE, Half.SPLIT_FAILED),
        ("postcopy-active", JobType.VIR_DOMAIN_JOB_UNBOUNDED, Half.SPLIT),
        ("active", JobType.VIR_DOMAIN_JOB_UNBOUNDED, Half.MIGRATING),
        ("completed", JobType.VIR_DOMAIN_JOB_NONE, Half.MIGRATING),
        (None, JobType.VIR_DOMAIN_JOB_NONE, Half.MIGRATING),
    ],
)
def test_half_that_libvirt_takes_for_a_paused_guest_is_known_by_its_qemu(
    status: str | None, job: JobType, half: Half
) -> None:
    source = FakeConnection()
    dom = FakeDomain(source, state=PAUSED_HERE)
    dom.job = {"type": int(job)}
    dom.migrate_info = {} if status is None else {"status": status}
    host = Host(SRC, UUID, None, lambda uri, side: source, shared=source)
    assert host.look().half is half


@pytest.mark.parametrize(
    "code, half",
    [
        (ErrorNumber.VIR_ERR_OPERATION_TIMEOUT, Half.UNKNOWN),
        (ErrorNumber.VIR_ERR_ACCESS_DENIED, Half.MIGRATING),
    ],
)
def test_paused_guest_whose_qemu_does_not_answer_is_not_told_as_whole(
    code: ErrorNumber, half: Half
) -> None:
    source = FakeConnection()
    dom = FakeDomain(source, state=PAUSED_HERE)
    dom.errors["monitor"] = refused(code, "no")
    host = Host(SRC, UUID, None, lambda uri, side: source, shared=source)
    assert host.look().half is half


LET_GO = (
    DomainState.VIR_DOMAIN_PAUSED,
    14,
)  # for an error of a call, as later releases say it


OUT, DUMP = 5, 7  # virDomainJobOperation


@pytest.mark.parametrize(
    "job, status",
    [
        ({"type": int(JobType.VIR_DOMAIN_JOB_NONE)}, "postcopy-device"),
        ({"type": int(JobType.VIR_DOMAIN_JOB_UNBOUNDED), "operation": DUMP}, "postcopy-device"),
        ({"type": int(JobType.VIR_DOMAIN_JOB_UNBOUNDED), "operation": OUT}, "active"),
    ],
)  # fmt: skip
def test_source_that_libvirt_has_let_go_before_qemu_has_decided_is_not_whole(
    job: dict[str, int], status: str
) -> None:
    """As seen with libvirt 12.8, which tried to run the guest again and was refused."""
    source = FakeConnection()
    dom = FakeDomain(source, state=LET_GO)
    dom.job = job
    dom.migrate_info = {"status": "postcopy-device"}
    host = Host(SRC, UUID, None, lambda uri, side: source, shared=source)
    looked = host.look()
    assert (looked.half, looked.status) == (Half.MIGRATING, status)


SUSPENDED = (DomainState.VIR_DOMAIN_PAUSED, 1)  # by its user
SENT = {"postcopy-requests": 3599, "postcopy-bytes": 130750716}


@pytest.mark.parametrize("state", [SUSPENDED, PAUSED_HERE])
@pytest.mark.parametrize(
    "status, ram, run_state, is_left",
    [
        ("completed", SENT, "postmigrate", True),
        ("completed", {"postcopy-requests": 1}, "postmigrate", True),  # QEMU before 7.0
        ("completed", {"postcopy-bytes": 1}, "postmigrate", True),  # it was asked for none
        ("completed", SENT, "paused", False),  # it has run since
        ("completed", {"postcopy-requests": 0}, "postmigrate", False),  # a dump
        ("completed", None, "postmigrate", False),
        ("cancelled", SENT, "postmigrate", False),
    ],
)  # fmt: skip
def test_what_a_completed_postcopy_has_left_is_no_paused_guest(
    state: tuple[int, int], status: str, ram: object, run_state: str, is_left: bool
) -> None:
    """As seen with libvirt 12.8 and QEMU 11.1, whose daemon was started again with what it knew before the switch."""
    dom = FakeDomain(state=state)
    dom.migrate_info = {"status": status, "ram": ram}
    dom.run_state = run_state
    looked = source_of(dom).look()
    assert (looked.half is Half.LEFT) is is_left
    if is_left:
        assert (looked.status, looked.run_state, looked.obstacle) == (status, run_state, "")  # fmt: skip
        assert looked.stats is not None
    elif status == "completed":
        assert looked.half is (Half.WHOLE if state is SUSPENDED else Half.MIGRATING)


def test_destination_that_stops_by_itself_is_told_by_its_job() -> None:
    """No half by its state; a look and a look-up say the same, and neither takes silence for a whole guest."""
    dom = FakeDomain(state=(3, libvirt.VIR_DOMAIN_PAUSED_IOERROR))
    host = made_host(dom.connect())
    assert host.look().half is host.half() is Half.WHOLE
    dom.errors["jobStats"] = ONLY_THERE
    assert host.look().half is host.half() is Half.SPLIT_FAILED
    dom.errors["jobStats"] = NO_ANSWER
    assert host.look().half is host.half() is Half.UNKNOWN
    assert host.domain_for_caller() is dom


def test_qemu_of_a_guest_that_runs_is_not_asked() -> None:
    source = FakeConnection()
    FakeDomain(source).migrate_info = {"status": "postcopy-paused"}
    host = Host(SRC, UUID, None, lambda uri, side: source, shared=source)
    assert host.look().half is Half.WHOLE


# The pulse


SILENT = "the destination's daemon does not answer"


class Beaten(FakeConnection):
    """Answers when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = threading.Event()
        self.is_waiting = threading.Event()
        self._answers = threading.Semaphore(0)

    def has_answered_twice(self) -> None:
        """Wait for two answers from now on, so that the first has been taken."""
        while self._answers.acquire(blocking=False):
            pass
        for _ in range(2):
            assert self._answers.acquire(timeout=PATIENCE_S)

    def getLibVersion(self) -> int:
        if not self.may_answer.is_set():
            self.is_waiting.set()
        if not self.may_answer.wait(PATIENCE_S):
            raise NO_ANSWER
        self._answers.release()
        return super().getLibVersion()


class Clock:
    """Stands in for ``time`` in the module under test."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_pulse_is_silent_once_an_answer_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    connection = Beaten()
    pulse = Pulse(made_host(connection))
    connection.may_answer.set()
    pulse.start()
    connection.has_answered_twice()
    connection.may_answer.clear()
    assert connection.is_waiting.wait(PATIENCE_S)
    clock.now += ANSWER_S * 0.99
    assert pulse.silence() == ""
    clock.now += ANSWER_S * 0.02
    assert pulse.silence() == SILENT, "however long ago it was asked"
    connection.may_answer.set()
    connection.has_answered_twice()
    assert pulse.silence() == ""
    pulse.stop()


def test_daemon_that_has_never_answered_is_silent() -> None:
    connection = Beaten()
    pulse = Pulse(made_host(connection))
    assert pulse.silence() == SILENT, "not even asked"
    pulse.start()
    assert connection.is_waiting.wait(PATIENCE_S)
    assert pulse.silence() == SILENT
    connection.may_answer.set()
    connection.has_answered_twice()
    assert pulse.silence() == ""
    pulse.stop()


def test_host_that_cannot_be_reached_is_silent() -> None:
    pulse = Pulse(made_host())
    pulse.start()
    assert pulse.silence() == SILENT
    pulse.stop()


def test_pulse_is_silent_where_the_connection_is_dead() -> None:
    connection = Beaten()
    connection.may_answer.set()
    pulse = Pulse(made_host(connection))
    pulse.start()
    connection.has_answered_twice()
    assert pulse.silence() == ""
    connection.is_dead = True
    assert pulse.silence() == SILENT
    pulse.stop()


def test_daemon_that_may_have_been_started_again_is_not_trusted_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    before, after = Beaten(), Beaten()
    before.may_answer.set()
    pulse = Pulse(made_host(before, after))
    pulse.start()
    before.has_answered_twice()
    assert pulse.silence() == ""
    before.is_dead = True
    after.may_answer.set()
    after.has_answered_twice()
    assert "started again" in pulse.silence()
    clock.now += RESTART_S * 1.01
    after.has_answered_twice()
    assert pulse.silence() == ""
    pulse.stop()


def test_nobody_asks_over_a_line_that_a_call_waits_on() -> None:
    theirs = Beaten()
    theirs.may_answer.set()
    FakeDomain(theirs, state=SPLIT_THERE)
    host = made_host(shared=theirs)
    looked = threading.Event()

    def look() -> None:
        host.look()
        looked.set()

    with host.busy(theirs):
        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        assert not looked.wait(0.02)
    assert looked.wait(PATIENCE_S)
    thread.join(PATIENCE_S)


# What speaks against a resume


def source_of(dom: FakeDomain) -> Host:
    return Host(SRC, UUID, None, lambda uri, side: dom.connection, dom.connection)


def test_half_whose_version_cannot_be_read_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Resumed without knowing, a daemon may crash or a QEMU die."""
    there = FakeConnection()
    dom = FakeDomain(there, state=SPLIT_THERE)
    host = made_host(shared=there)
    assert host.look().half is Half.SPLIT

    def unread() -> int:
        raise NO_ANSWER

    for version in ("getVersion", "getLibVersion"):
        with monkeypatch.context() as patch:
            patch.setattr(there, version, unread)
            assert host.look() == Looked(DST, Half.UNKNOWN)
            dom.now = MIGRATED
            assert host.look() == Looked(DST, Half.WHOLE), "nobody resumes that"
            dom.now = SPLIT_THERE


def test_source_is_judged_by_the_qemu_that_runs_not_by_the_one_installed() -> None:
    dom = FakeDomain(FakeConnection(version=8_002_000), state=SPLIT_HERE)
    dom.qemu_version = (2, 12, 0)
    assert "QEMU 2.12.0 on the source cannot" in source_of(dom).look().obstacle
    dom.connection.version, dom.qemu_version = 2_012_000, (8, 2, 0)
    assert source_of(dom).look().obstacle == ""


def test_source_whose_monitor_does_not_answer_is_judged_by_what_is_installed() -> None:
    dom = FakeDomain(FakeConnection(version=2_012_000), state=SPLIT_HERE)
    dom.errors["monitor"] = NO_ANSWER
    looked = source_of(dom).look()
    assert looked.half is Half.SPLIT and "QEMU 2.12.0" in looked.obstacle
