"""The calls programs use, over the native driver and fake hosts."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

import libvirt_postcopy.api as api
from libvirt_postcopy import events as ev
from libvirt_postcopy import recovery
from libvirt_postcopy.constants import (
    VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY,
    EventID,
    MigrateFlags,
)
from libvirt_postcopy.drivers import native
from libvirt_postcopy.errors import (
    GuestLost,
    MigrationCancelled,
    MigrationError,
    MigrationFailed,
    MigrationUnknown,
    NotSupportedError,
    PostcopyBroken,
    PostcopyError,
    StateError,
    UsageError,
)
from libvirt_postcopy.events import Place
from libvirt_postcopy.figures import SwitchRecord
from libvirt_postcopy.phases import Phase
from libvirt_postcopy.policy import After, AfterPrecopy, Never
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.vir import calls as vir
from unit.fakes import (
    MIGRATED,
    NO_ANSWER,
    READ_ONLY,
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
URI = "fake:///b"
F = MigrateFlags
FAILED = refused(9, "operation failed: migration out job: unexpectedly failed")


class Stage:
    """Two hosts and a migrate call that returns when it is told to."""

    def __init__(self) -> None:
        self.source = FakeConnection("fake:///a", "aaaa")
        self.destination = FakeConnection(URI, "bbbb")
        self.dom = FakeDomain(self.source)
        self.dom.on_migrate = self._migrate
        self.opened: list[str] = []
        self.opened_with: list[object] = []
        self._was_called = threading.Event()
        self._returns: queue.SimpleQueue = queue.SimpleQueue()

    def open(self, uri: str, side: str = "", *, open_=None) -> FakeConnection:
        self.opened.append(uri)
        self.opened_with.append(open_)
        return {"fake:///a": self.source, URI: self.destination}[uri]

    def _migrate(self, *args: object) -> None:
        self._was_called.set()
        error = self._returns.get(timeout=PATIENCE_S)
        if error is not None:
            raise error

    def is_sent(self) -> None:
        """Wait until the migrate call is made: what comes before is not of this migration."""
        assert self._was_called.wait(PATIENCE_S)

    def _say(self, connection: FakeConnection, words: tuple[str, ...]) -> None:
        self.is_sent()
        for word in words:
            details = f'{{"status": "{word}"}}'
            connection.emit("MIGRATION", self.dom, "MIGRATION", 1, 2, details)

    def says(self, *words: str) -> None:
        """The source's QEMU announces statuses."""
        self._say(self.source, words)

    def says_there(self, *words: str) -> None:
        """The destination's does."""
        self._say(self.destination, words)

    def returns(self, here=RUNNING, there=None, error: Exception | None = None) -> None:
        """The migrate call returns; the domain is then in these states on either host."""
        if here is None:
            self.source.domains.remove(self.dom)
        else:
            self.dom.now = here
        if there is not None:
            FakeDomain(self.destination, state=there)
        self._returns.put(error)

    def completes(self) -> None:
        self.says("completed")
        self.returns(None, MIGRATED)

    @property
    def migrate_call(self) -> tuple:
        (call,) = (each for each in self.dom.calls if each[0].startswith("migrate"))
        return call

    @property
    def flags(self) -> MigrateFlags:
        return MigrateFlags(self.migrate_call[-1])


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, monitor: None) -> Iterator[Stage]:
    made = Stage()
    monkeypatch.setattr(vir, "open_connection", made.open)
    monkeypatch.setattr(native, "ensure_event_loop", lambda: False)
    monkeypatch.setattr(recovery, "LOOK_S", 0.01)
    monkeypatch.setattr(
        recovery, "SETTLE_S", 0.25
    )  # time for two looks on a busy machine
    yield made
    made._returns.put(None)
    for thread in threading.enumerate():
        if thread.name.startswith("postcopy"):
            thread.join(PATIENCE_S)


def until(job: api.Job, phase: Phase) -> None:
    """Wait until the loop has seen what was announced."""
    seen = threading.Event()
    job._runner._observer = lambda what: seen.set() if job.phase is phase else None
    while job.phase is not phase:
        job._runner.put(ev.Event())  # of no meaning; the observer is shown it
        seen.wait(0.01)


# What is refused before anything is sent


@pytest.mark.parametrize(
    "dest, options, complaint",
    [
        ("", {}, "the destination URI is empty"),
        ("  ", {}, "the destination URI is empty"),
        (URI, {"policy": "sometimes"}, "unknown policy 'sometimes'"),
        (URI, {"policy": "after:soon"}, "not a duration"),
        (URI, {"flags": F.VIR_MIGRATE_TUNNELLED}, "VIR_MIGRATE_TUNNELLED do not go together"),
        (URI, {"flags": F.VIR_MIGRATE_OFFLINE}, "VIR_MIGRATE_OFFLINE do not go together"),
        (URI, {"flags": F.VIR_MIGRATE_PAUSED}, "VIR_MIGRATE_PAUSED do not go together"),
        (
            URI,
            {"policy": "after:30", "flags": VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY},
            "contradicts the policy 'after:30s'",
        ),
        (
            URI,
            {"policy": Never(), "flags": VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY},
            "contradicts the policy 'never'",
        ),
        (
            URI,
            {"policy": "never", "flags": F.VIR_MIGRATE_LIVE | F.VIR_MIGRATE_POSTCOPY},
            "the policy 'never' forbids what VIR_MIGRATE_POSTCOPY asks for",
        ),
        (URI, {"flags": F.VIR_MIGRATE_POSTCOPY_RESUME}, "VIR_MIGRATE_POSTCOPY_RESUME do not go"),
        (7, {}, "neither a URI nor a connection"),
        (None, {}, "neither a URI nor a connection"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(
    stage: Stage, dest, options: dict, complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        api.start(stage.dom, dest, **options)
    assert stage.dom.calls == []
    assert stage.source.callbacks == {} and stage.opened == []


def test_domain_that_does_not_run_is_refused(stage: Stage) -> None:
    stage.dom.now = SHUT_OFF
    with pytest.raises(UsageError, match="'web1' is not running"):
        api.start(stage.dom, URI)
    assert stage.dom.calls == [] and stage.opened == []


@pytest.mark.parametrize(
    "state, job, complaint",
    [
        (SPLIT_HERE, {}, "'web1' is one half of a split guest"),
        (SPLIT_THERE, {}, "'web1' is one half of a split guest"),
        ((3, 13), {}, "'web1' is one half of a split guest"),
        ((3, 2), {}, "another job is running on domain 'web1'"),
        (RUNNING, {"type": 2}, "another job is running on domain 'web1'"),
    ],
)
def test_domain_with_which_something_goes_on_is_refused(
    stage: Stage, state, job: dict, complaint: str
) -> None:
    stage.dom.now, stage.dom.job = state, job
    with pytest.raises(StateError, match=complaint):
        api.start(stage.dom, URI)
    assert stage.dom.calls == [] and stage.opened == []


def test_domain_that_may_only_be_looked_at_is_refused_as_libvirt_does(
    stage: Stage,
) -> None:
    stage.dom.errors["migrateGetMaxSpeed"] = READ_ONLY
    with pytest.raises(libvirt.libvirtError, match="is read-only .open it with"):
        api.start(stage.dom, URI)
    assert stage.dom.calls == [] and stage.opened == []


def test_daemon_that_does_not_answer_is_libvirts_error(stage: Stage) -> None:
    stage.dom.errors["isActive"] = NO_ANSWER
    with pytest.raises(libvirt.libvirtError):
        api.start(stage.dom, URI)
    assert stage.dom.calls == []


# Flags


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, F.VIR_MIGRATE_LIVE | F.VIR_MIGRATE_POSTCOPY),
        ({"policy": "never"}, F.VIR_MIGRATE_LIVE),
        ({"policy": "never", "flags": 1 << 29}, F.VIR_MIGRATE_LIVE | F(1 << 29)),
        ({"policy": "never", "flags": F.VIR_MIGRATE_PAUSED}, F.VIR_MIGRATE_LIVE | F.VIR_MIGRATE_PAUSED),
        (
            {"flags": VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY | F.VIR_MIGRATE_UNSAFE},
            F.VIR_MIGRATE_LIVE | F.VIR_MIGRATE_POSTCOPY | F.VIR_MIGRATE_UNSAFE,
        ),
        (
            {"policy": AfterPrecopy(), "flags": VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY},
            F.VIR_MIGRATE_LIVE | F.VIR_MIGRATE_POSTCOPY,
        ),
        (
            {"flags": 1 << 29},  # a later libvirt's
            F.VIR_MIGRATE_LIVE | F.VIR_MIGRATE_POSTCOPY | F(1 << 29),
        ),
    ],
)  # fmt: skip
def test_flags_that_libvirt_gets(
    stage: Stage, options: dict, expected: MigrateFlags
) -> None:
    job = api.start(stage.dom, stage.destination, **options)
    stage.completes()
    job.wait(PATIENCE_S)
    assert stage.flags == expected
    assert stage.migrate_call[0] == "migrate3"


@pytest.fixture
def never_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The domain carries a policy that forbids post-copy."""
    monkeypatch.setattr(api, "read_policy", lambda dom: Never())


@pytest.mark.usefixtures("never_by_itself")
@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, F.VIR_MIGRATE_LIVE),
        ({"flags": F.VIR_MIGRATE_LIVE | F.VIR_MIGRATE_UNSAFE}, F.VIR_MIGRATE_LIVE | F.VIR_MIGRATE_UNSAFE),
        ({"policy": "manual", "flags": F.VIR_MIGRATE_POSTCOPY}, F.VIR_MIGRATE_LIVE | F.VIR_MIGRATE_POSTCOPY),
        ({"flags": VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY}, F.VIR_MIGRATE_LIVE | F.VIR_MIGRATE_POSTCOPY),
    ],
)  # fmt: skip
def test_domain_that_forbids_postcopy_goes_without_unless_another_policy_is_named(
    stage: Stage, options: dict, expected: MigrateFlags
) -> None:
    test_flags_that_libvirt_gets(stage, options, expected)


@pytest.mark.usefixtures("never_by_itself")
def test_postcopy_that_the_domain_itself_forbids_is_refused(stage: Stage) -> None:
    with pytest.raises(UsageError, match="the domain's own policy 'never' forbids"):
        api.start(stage.dom, URI, flags=F.VIR_MIGRATE_LIVE | F.VIR_MIGRATE_POSTCOPY)
    assert stage.dom.calls == [] and stage.opened == []


@pytest.mark.parametrize(
    "dest, options, call, is_peer2peer",
    [
        (URI, {}, "migrateToURI3", True),
        (URI, {"peer2peer": True}, "migrateToURI3", True),
        (URI, {"peer2peer": False}, "migrate3", False),
        (URI, {"flags": F.VIR_MIGRATE_PEER2PEER}, "migrateToURI3", True),
    ],
)
def test_way_is_chosen(
    stage: Stage, dest: str, options: dict, call: str, is_peer2peer: bool
) -> None:
    job = api.start(stage.dom, dest, params={"bandwidth": 8}, **options)
    stage.completes()
    result = job.wait(PATIENCE_S)
    assert stage.migrate_call[0] == call
    assert stage.migrate_call[2] == {"bandwidth": 8}
    assert bool(stage.flags & F.VIR_MIGRATE_PEER2PEER) is is_peer2peer
    assert result.is_peer2peer is is_peer2peer


@pytest.mark.parametrize(
    "options", [{"peer2peer": True}, {"flags": F.VIR_MIGRATE_PEER2PEER}]
)
def test_connection_may_stand_for_its_uri(stage: Stage, options: dict) -> None:
    """As in libvirt's own migrate3."""
    job = api.start(stage.dom, stage.destination, **options)
    stage.completes()
    assert job.wait(PATIENCE_S).is_peer2peer
    assert stage.migrate_call[:2] == ("migrateToURI3", URI)


@pytest.mark.parametrize(
    "options, may_fall_back",
    [
        ({}, True),
        ({"peer2peer": True}, False),
        ({"flags": F.VIR_MIGRATE_PEER2PEER}, False),
    ],
)
def test_way_that_was_asked_for_is_kept(
    stage: Stage, options: dict, may_fall_back: bool
) -> None:
    unreachable = refused(38, "Failed to connect to remote libvirt URI", domain=7)
    stage.dom.errors["migrateToURI3"] = unreachable
    job = api.start(stage.dom, URI, **options)
    if may_fall_back:
        stage.completes()
        assert not job.wait(PATIENCE_S).is_peer2peer
    else:
        with pytest.raises(MigrationFailed):
            job.wait(PATIENCE_S)


@pytest.mark.parametrize(
    "given, meant",
    [
        (None, AfterPrecopy()),
        ("after:5", After(5)),
        (After(5), After(5)),
    ],
)
def test_policy_may_be_text_or_object(stage: Stage, given, meant) -> None:
    job = api.start(stage.dom, URI, policy=given)
    assert job._runner.migration._policy == meant
    stage.completes()
    job.wait(PATIENCE_S)


# Driving it


def test_result_has_the_figures_and_the_domain(stage: Stage) -> None:
    job = api.start(stage.dom, URI, policy="manual")
    stage.says("setup", "active")
    job.start_postcopy("because")
    until(job, Phase.PRECOPY)
    stage.says("postcopy-active", "completed")
    stage.source.emit(
        EventID.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED,
        stage.dom,
        {
            "time_elapsed": 4000,
            "setup_time": 7,
            "downtime": 3,
            "memory_postcopy_requests": 9,
        },
    )
    stage.returns(None, MIGRATED)
    result = job.wait(PATIENCE_S)
    assert result.domain is stage.destination.domains[0]
    assert (result.driver, result.is_peer2peer) == ("native", True)
    assert (result.total_ms, result.setup_ms, result.downtime_ms) == (4000, 7, 3)
    assert result.postcopy_requests == 9
    assert result.switch is not None and result.switch.reason == "because"


@pytest.mark.parametrize(
    "result, text",
    [
        (
            api.MigrationResult(
                total_ms=8900,
                downtime_ms=79.4,
                passes=1,
                switch=SwitchRecord("all of it", 7000.0, 1, 7100.0),
                is_peer2peer=True,
            ),
            "moved in 8900 ms; downtime 79 ms; passes over memory: 1; switched to post-copy: all of it; driver native, peer to peer",
        ),
        (
            api.MigrationResult(driver="qemu", notes=("not defined",)),
            "passes over memory: 0; completed as pre-copy; driver qemu, managed by this client; not defined",
        ),
    ],
)
def test_result_can_be_printed(result: api.MigrationResult, text: str) -> None:
    assert str(result) == text


def test_migrate_starts_and_waits(stage: Stage) -> None:
    def move(*args: object) -> None:
        stage.source.domains.remove(stage.dom)
        FakeDomain(stage.destination, state=MIGRATED)

    stage.dom.on_migrate = move
    assert api.migrate(stage.dom, URI).domain is stage.destination.domains[0]


def test_job_tells_where_things_stand(stage: Stage) -> None:
    job = api.start(stage.dom, URI, policy="manual")
    assert (job.phase, job.guest, job.is_over) == (Phase.PREPARING, Place.SOURCE, False)
    stage.says("active")
    until(job, Phase.PRECOPY)
    stage.says("postcopy-active")
    until(job, Phase.POSTCOPY)
    assert job.guest is Place.SPLIT
    assert job.summary().switch is not None
    stage.completes()
    job.wait(PATIENCE_S)
    assert (job.phase, job.guest, job.is_over) == (
        Phase.COMPLETED,
        Place.DESTINATION,
        True,
    )


def test_job_has_the_last_reading(stage: Stage) -> None:
    stage.dom.job = {"memory_total": 7}
    seen = threading.Event()
    job = api.start(
        stage.dom,
        URI,
        policy="manual",
        observer=lambda what: seen.set() if getattr(what, "stats", None) else None,
    )
    assert seen.wait(PATIENCE_S)
    assert job.stats() == Stats(memory_total=7)
    stage.completes()
    job.wait(PATIENCE_S)


def test_switch_by_hand_is_sent(stage: Stage) -> None:
    job = api.start(stage.dom, URI, policy="manual")
    stage.says("setup", "active")
    until(job, Phase.PRECOPY)
    switched = threading.Event()
    stage.dom.migrateStartPostCopy = lambda flags: switched.set()
    job.start_postcopy()
    assert switched.wait(PATIENCE_S)
    stage.completes()
    job.wait(PATIENCE_S)


def test_switch_by_hand_is_refused_where_postcopy_is_not_enabled(stage: Stage) -> None:
    job = api.start(stage.dom, URI, policy="never")
    with pytest.raises(StateError, match="not enabled"):
        job.start_postcopy()
    stage.completes()
    job.wait(PATIENCE_S)


def test_switch_by_hand_is_refused_once_libvirt_has_refused_it_for_good(
    stage: Stage,
) -> None:
    noted = threading.Event()
    job = api.start(
        stage.dom,
        URI,
        policy="manual",
        observer=lambda what: noted.set() if "was refused" in str(what) else None,
    )
    stage.says("setup", "active")
    message = "requires migration to be started with VIR_MIGRATE_POSTCOPY flag"
    stage.dom.errors["migrateStartPostCopy"] = refused(55, message)
    job.start_postcopy()
    assert noted.wait(PATIENCE_S)
    with pytest.raises(StateError, match=f"refused: .*{message}"):
        job.start_postcopy()
    stage.completes()
    job.wait(PATIENCE_S)


def test_job_that_is_over_is_not_kept(stage: Stage) -> None:
    """It would keep the connection to the destination."""
    job = api.start(stage.dom, URI, policy="manual")
    assert job in api._jobs
    stage.completes()
    job.wait(PATIENCE_S)
    wait_until(lambda: job not in api._jobs, "it is forgotten", PATIENCE_S)


def test_abort_before_the_switch_is_sent(stage: Stage) -> None:
    job = api.start(stage.dom, URI, policy="manual")
    aborted = threading.Event()
    stage.dom.abortJob = aborted.set
    stage.is_sent()
    job.abort()
    assert aborted.wait(PATIENCE_S)
    stage.returns(RUNNING, error=refused(78, "operation aborted: canceled by client"))
    with pytest.raises(MigrationCancelled) as caught:
        job.wait(PATIENCE_S)
    assert caught.value.guest == "source"


def test_abort_after_the_switch_is_refused(stage: Stage) -> None:
    job = api.start(stage.dom, URI, policy="manual")
    stage.says("active")
    until(job, Phase.PRECOPY)
    stage.says("postcopy-active")
    until(job, Phase.POSTCOPY)
    with pytest.raises(StateError, match="split"):
        job.abort()
    stage.completes()
    job.wait(PATIENCE_S)
    assert ("abortJob",) not in stage.dom.calls


@pytest.mark.parametrize("verb", ["abort", "start_postcopy"])
def test_nothing_can_be_asked_of_what_is_over(stage: Stage, verb: str) -> None:
    job = api.start(stage.dom, URI)
    stage.completes()
    job.wait(PATIENCE_S)
    with pytest.raises(StateError, match="is over: completed"):
        getattr(job, verb)()


def test_wait_gives_up_but_the_migration_goes_on(stage: Stage) -> None:
    job = api.start(stage.dom, URI)
    with pytest.raises(TimeoutError, match="still"):
        job.wait(0)
    assert not job.is_over
    stage.completes()
    assert job.wait(PATIENCE_S).domain is not None


def test_observer_is_shown_what_happens(stage: Stage) -> None:
    shown: list[object] = []
    job = api.start(stage.dom, URI, observer=shown.append)
    stage.says("active")
    stage.completes()
    job.wait(PATIENCE_S)
    assert isinstance(shown[-1], ev.Ended)
    assert any(isinstance(each, ev.StatusSeen) for each in shown)


# How it fails

LINK_LOST = refused(9, "operation failed: job 'migration in' failed in post-copy phase")


def test_failure_before_the_switch_leaves_the_guest_on_the_source(stage: Stage) -> None:
    job = api.start(stage.dom, URI, recover="never")
    stage.says("active", "failed")
    stage.returns(RUNNING, None, FAILED)
    fails(job, MigrationFailed, "source", "failed")


def test_failure_that_nobody_announced_leaves_the_guest_on_the_source(
    stage: Stage,
) -> None:
    job = api.start(stage.dom, URI, recover="never")
    stage.returns(RUNNING, None, FAILED)
    fails(job, MigrationFailed, "source", "failed")


def test_broken_link_leaves_guest_split(stage: Stage) -> None:
    job = api.start(stage.dom, URI, policy="manual", recover="never")
    stage.says("active", "postcopy-active", "postcopy-paused")
    stage.returns(SPLIT_HERE, SPLIT_THERE, LINK_LOST)
    fails(job, PostcopyBroken, "split", "broken")


def test_guest_is_found_split_though_nobody_announced_it(stage: Stage) -> None:
    job = api.start(stage.dom, URI, policy="manual", recover="never")
    stage.says("active")
    stage.returns(SPLIT_HERE, SPLIT_THERE, LINK_LOST)
    fails(job, PostcopyBroken, "split", "post-copy")


@pytest.mark.parametrize("here", [SPLIT_HERE, None])
def test_guest_whose_half_is_gone_is_lost(stage: Stage, here) -> None:
    job = api.start(stage.dom, URI, policy="manual", recover="never")
    stage.says("active", "postcopy-active")
    stage.says_there("active", "postcopy-active")
    stage.returns(here, None, LINK_LOST)
    fails(job, GuestLost, "lost", "lost")


def test_half_that_was_never_seen_is_not_taken_for_lost(stage: Stage) -> None:
    """Our URI may lead to another host than the source's daemon made of it."""
    job = api.start(stage.dom, URI, policy="manual", recover="never")
    stage.says("active", "postcopy-active")
    stage.returns(SPLIT_HERE, None, LINK_LOST)
    fails(job, PostcopyBroken, "split", "post-copy")


def test_guest_is_unknown_while_a_host_does_not_answer(stage: Stage) -> None:
    job = api.start(stage.dom, URI, policy="manual", recover="never")
    stage.says("active")
    stage.source.error = NO_ANSWER
    stage.returns(RUNNING, None, LINK_LOST)
    error = fails(job, MigrationUnknown, "unknown", "pre-copy")
    assert "destroy neither" in str(error)


def fails(
    job: api.Job, kind: type[MigrationError], guest: str, phase: str
) -> MigrationError:
    with pytest.raises(kind) as caught:
        job.wait(PATIENCE_S)
    assert type(caught.value).__name__ == kind.__name__
    assert (caught.value.guest, caught.value.phase) == (guest, phase)
    assert job.guest.value == guest
    return caught.value


def test_completion_that_the_source_alone_announced_is_not_believed_after_a_failure(
    stage: Stage,
) -> None:
    job = api.start(stage.dom, URI, policy="manual", recover="never")
    stage.says("active", "completed")
    until(job, Phase.COMPLETED)
    stage.source.error = NO_ANSWER
    stage.returns(RUNNING, None, LINK_LOST)
    fails(job, MigrationUnknown, "unknown", "completed")


def test_failure_can_be_caught_as_libvirts(stage: Stage) -> None:
    job = api.start(stage.dom, URI, recover="never")
    stage.returns(error=FAILED)
    with pytest.raises(libvirt.libvirtError) as caught:
        job.wait(PATIENCE_S)
    assert isinstance(caught.value, MigrationFailed)
    assert caught.value.get_error_code() == 9
    assert caught.value.__cause__ is FAILED
    assert "unexpectedly failed" in str(caught.value)


def test_failure_is_raised_each_time_it_is_waited_for(stage: Stage) -> None:
    job = api.start(stage.dom, URI, recover="never")
    stage.returns(error=FAILED)
    for _ in range(2):
        with pytest.raises(MigrationFailed):
            job.wait(PATIENCE_S)


def test_split_guest_comes_with_a_warning_not_to_touch_it(stage: Stage) -> None:
    job = api.start(stage.dom, URI, recover="never")
    stage.returns(SPLIT_HERE, SPLIT_THERE, LINK_LOST)
    with pytest.raises(PostcopyBroken, match="destroy, resume and reset neither half"):
        job.wait(PATIENCE_S)


def test_guest_that_is_lost_though_libvirt_said_success(stage: Stage) -> None:
    """libvirt 9.0 with QEMU 7.2 and --parallel."""
    job = api.start(stage.dom, URI, policy="manual", recover="never")
    stage.says("active", "postcopy-active", "completed")
    stage.says_there("active", "postcopy-active")
    stage.returns(None, None)
    with pytest.raises(GuestLost, match="neither host") as caught:
        job.wait(PATIENCE_S)
    assert not isinstance(caught.value, libvirt.libvirtError)
    assert caught.value.halves == ("gone", "gone")


def test_failure_of_the_call_that_did_no_harm_is_success(stage: Stage) -> None:
    """libvirt lost its control connection, but the guest arrived."""
    job = api.start(stage.dom, URI, policy="manual", recover="never")
    stage.says("active", "postcopy-active")
    stage.returns(None, MIGRATED, LINK_LOST)
    assert job.wait(PATIENCE_S).domain is stage.destination.domains[0]


def test_usage_error_found_late_is_a_usage_error(stage: Stage) -> None:
    stage.destination.host_uuid = "aaaa"
    job = api.start(stage.dom, URI, recover="never")
    with pytest.raises(UsageError, match="same host"):
        job.wait(PATIENCE_S)
    assert stage.dom.calls == []


def test_unexpected_failure_is_a_failure_with_its_cause(stage: Stage) -> None:
    job = api.start(stage.dom, URI, recover="never")
    stage.returns(error=ZeroDivisionError("a bug"))
    with pytest.raises(MigrationFailed, match="ZeroDivisionError"):
        job.wait(PATIENCE_S)


# How it recovers


PAUSED_HERE = (3, 13)
FAILED_THERE = (1, 11)


class Mended:
    """A destination whose half comes up with the guest when the migration is resumed."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stage = stage
        self.refusals = 0
        stage.dom.migrate_info = {"status": "postcopy-paused"}
        monkeypatch.setattr(recovery, "_FIRST_PAUSE_S", 0.001)
        stage.dom.on_migrate = self.migrate

    def migrate(self, *args: object) -> None:
        stage = self.stage
        if len(self.flags) == 1:
            stage.dom.now = PAUSED_HERE
            FakeDomain(stage.destination, state=FAILED_THERE)
            raise LINK_LOST
        if len(self.flags) < 2 + self.refusals:
            raise refused(38, "unable to connect to server at 'b:49152'")
        stage.source.domains.remove(stage.dom)
        stage.destination.domains[0].now = MIGRATED

    @property
    def flags(self) -> list[MigrateFlags]:
        return [F(call[-1]) for call in self.stage.dom.calls if "migrate" in call[0]]


@pytest.mark.parametrize("refusals", [0, 3])
@pytest.mark.parametrize("peer2peer", [True, False])
def test_broken_guest_is_resumed_by_the_same_call_until_it_is_there(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, peer2peer: bool, refusals: int
) -> None:
    mended = Mended(stage, monkeypatch)
    mended.refusals = refusals
    job = api.start(stage.dom, URI, policy="manual", peer2peer=peer2peer)
    result = job.wait(PATIENCE_S)
    assert result.domain is stage.destination.domains[0]
    first, *others = mended.flags
    assert len(others) == refusals + 1
    assert set(others) == {first | F.VIR_MIGRATE_POSTCOPY_RESUME}
    assert not first & F.VIR_MIGRATE_POSTCOPY_RESUME
    assert bool(first & F.VIR_MIGRATE_PEER2PEER) is peer2peer


def test_broken_guest_is_left_alone_where_that_is_wanted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mended = Mended(stage, monkeypatch)
    job = api.start(stage.dom, URI, policy="manual", recover="never")
    fails(job, PostcopyBroken, "split", "broken")
    assert len(mended.flags) == 1


@pytest.mark.parametrize("kind", [UsageError, NotSupportedError])
def test_split_guest_is_told_of_though_the_resume_could_not_be_sent(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, kind: type[PostcopyError]
) -> None:
    mended = Mended(stage, monkeypatch)
    first = stage.dom.on_migrate

    def migrate(*args: object) -> None:
        if len(mended.flags) > 1:
            raise kind("no way to write it")
        first(*args)

    stage.dom.on_migrate = migrate
    job = api.start(stage.dom, URI, policy="manual", recover=1)
    error = fails(job, PostcopyBroken, "split", "broken")
    assert "no way to write it" in str(error) and "resume and reset neither" in str(
        error
    )


def test_obstacle_is_in_the_failure(stage: Stage, monkeypatch) -> None:
    mended = Mended(stage, monkeypatch)
    stage.destination.libvirt_version = 11_003_000
    job = api.start(stage.dom, URI, policy="manual")
    error = fails(job, PostcopyBroken, "split", "broken")
    assert "failed in post-copy phase; libvirt 11.3.0 on the destination crashes" in str(error)  # fmt: skip
    assert len(mended.flags) == 1


@pytest.mark.parametrize(
    "recover, seconds",
    [("never", 0.0), (0, 0.0), ("10m", 600.0), (90, 90.0), (api.RECOVER, 1800.0)],
)
def test_patience_is_seconds_a_duration_or_never(recover, seconds: float) -> None:
    assert api.patience_of(recover) == seconds


@pytest.mark.parametrize("recover", [-1, float("inf"), float("nan"), "soon"])
def test_patience_that_cannot_be_meant_is_refused(stage: Stage, recover) -> None:
    with pytest.raises(UsageError):
        api.start(stage.dom, URI, recover=recover)
    assert stage.dom.calls == [] and stage.opened == []


def test_connections_are_opened_as_the_caller_wants(stage: Stage) -> None:
    """With libvirt.openAuth, for example."""

    def connect(uri: str) -> FakeConnection:
        raise AssertionError("the stage opens it")

    job = api.start(stage.dom, URI, connect=connect)
    stage.completes()
    job.wait(PATIENCE_S)
    assert stage.opened and set(stage.opened_with) == {connect}


# Leaving it to itself


def test_peer_to_peer_migration_can_be_left_at_any_time(stage: Stage) -> None:
    job = api.start(stage.dom, URI, policy="manual")
    stage.says("active", "device")
    until(job, Phase.SWITCHING)
    assert job.can_be_left
    stage.completes()
    job.wait(PATIENCE_S)


def test_managed_migration_cannot_be_left_while_it_carries_the_guest_over(
    stage: Stage,
) -> None:
    job = api.start(stage.dom, stage.destination, policy="manual")
    stage.says("active")
    until(job, Phase.PRECOPY)
    assert job.can_be_left
    stage.says("device")
    until(job, Phase.SWITCHING)
    assert not job.can_be_left
    stage.completes()
    job.wait(PATIENCE_S)
    assert job.can_be_left


def test_program_that_ends_waits_for_what_cannot_be_left(stage: Stage) -> None:
    job = api.start(stage.dom, stage.destination, policy="manual")
    stage.says("active", "device")
    until(job, Phase.SWITCHING)
    leaving = threading.Thread(target=api._wait_at_exit)
    leaving.start()
    assert leaving.is_alive() and not job.is_over
    stage.completes()
    leaving.join(PATIENCE_S)
    assert job.is_over


def test_interrupt_is_passed_on_when_the_guest_survives_it(
    stage: Stage, monkeypatch
) -> None:
    waits: list[float | None] = []
    wait = api.Job.wait

    def interrupted(job: api.Job, timeout: float | None = None) -> api.MigrationResult:
        waits.append(timeout)
        if len(waits) <= 2:  # the user is impatient
            raise KeyboardInterrupt
        stage.completes()
        return wait(job, PATIENCE_S)

    monkeypatch.setattr(api.Job, "wait", interrupted)
    monkeypatch.setattr(
        api.Job, "can_be_left", property(lambda job: job.is_over), raising=True
    )
    with pytest.raises(KeyboardInterrupt):
        api.migrate(stage.dom, stage.destination)
    assert len(waits) == 3 and waits[0] is None


def test_statistics_of_a_domain(stage: Stage) -> None:
    stage.dom.job = {"memory_iteration": 3}
    stats = api.job_stats(stage.dom)
    assert stats is not None and stats.sync_count == 3
    stage.dom.errors["jobStats"] = NO_ANSWER
    assert api.job_stats(stage.dom) is None


TEST_HOST = f"""
<node>
  <domain type="test">
    <name>web1</name><uuid>{UUID}</uuid><memory>1024</memory><os><type>hvm</type></os>
  </domain>
</node>
"""


def test_libvirts_own_driver_that_cannot_migrate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test driver has no event of QEMU's, and no migration."""
    monkeypatch.setattr(native, "ensure_event_loop", lambda: False)
    host = tmp_path / "host.xml"
    host.write_text(TEST_HOST)
    connection = libvirt.open(f"test://{host}")
    with pytest.raises(
        libvirt.libvirtError, match="migration is not supported"
    ) as caught:
        api.migrate(connection.lookupByName("web1"), "test:///default")
    assert isinstance(caught.value, MigrationFailed)


@pytest.mark.parametrize("limit", [-1, 1 << 43])
def test_limit_for_the_rest_must_be_one(stage: Stage, limit: int) -> None:
    with pytest.raises(UsageError, match=f"cannot be {limit} MiB/s"):
        api.start(stage.dom, URI, recover_bandwidth=limit)
    assert stage.dom.calls == []
