from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import pytest

from libvirt_postcopy.constants import AbortJobFlags, DomainState, EventID, MigrateFlags
from libvirt_postcopy.drivers import host, native
from libvirt_postcopy.drivers.attached import AttachedDriver
from libvirt_postcopy.drivers.native import NativeDriver, Target
from libvirt_postcopy.errors import (
    LibvirtError,
    NotSupportedError,
    PostcopyError,
    UsageError,
)
from libvirt_postcopy.events import (
    AbortRefused,
    Ended,
    Event,
    Half,
    Looked,
    PauseRefused,
    Place,
    SplitFailed,
    SplitSeen,
    StatsSeen,
    Stopped,
    SwitchAccepted,
    SwitchHeld,
    SwitchNotSeen,
    SwitchRefused,
    SwitchUnanswered,
)
from libvirt_postcopy.features import Path
from libvirt_postcopy.obstacles import PAUSE_TOO_LATE
from libvirt_postcopy.phases import conclude
from libvirt_postcopy.stats import Stats
from unit.fakes import (
    DST,
    MIGRATED,
    NO_ANSWER,
    RUNNING,
    SHUT_OFF,
    SPLIT_HERE,
    SPLIT_THERE,
    SRC,
    UUID,
    FakeConnection,
    FakeDomain,
    refused,
)
from waiting import wait_until

PATIENCE_S = 10.0
LIFECYCLE = EventID.VIR_DOMAIN_EVENT_ID_LIFECYCLE
SUSPENDED_BY_USER = (3, 0)
URI = "fake:///b"

LIVE = MigrateFlags.VIR_MIGRATE_LIVE | MigrateFlags.VIR_MIGRATE_POSTCOPY
P2P = MigrateFlags.VIR_MIGRATE_PEER2PEER
PARALLEL = LIVE | MigrateFlags.VIR_MIGRATE_PARALLEL

FROM_RPC = 7
UNREACHABLE = refused(
    38, "operation failed: Failed to connect to remote libvirt URI fake:///b", FROM_RPC
)
LET_GO = (
    DomainState.VIR_DOMAIN_PAUSED,
    14,
)  # for an error of a call, as later releases say it
BROKEN_OFF = refused(9, "operation failed: migration out job: failed", 10)


class Hosts:
    """Two hosts; ours are a connection given by the caller and what ``open_connection`` gives."""

    def __init__(self) -> None:
        self.source = FakeConnection("fake:///a", "aaaa")
        self.dom = FakeDomain(self.source)
        self.own = FakeConnection("fake:///a", "aaaa")  # for events and the switch
        self.control = FakeDomain(self.own)
        self.for_readings = FakeConnection("fake:///a", "aaaa")
        self.read = FakeDomain(self.for_readings)
        self.fresh = FakeConnection("fake:///a", "aaaa")  # for a last look
        self.for_call = FakeConnection("fake:///a", "aaaa")
        self.for_call.domains.append(self.dom)
        self._ours = [self.own, self.for_readings, self.for_call, self.fresh]
        self.is_sent = threading.Event()
        self.destination = FakeConnection(URI, "bbbb")
        self.unreachable: set[str] = set()
        self.before_opening: Callable[[str], None] = lambda uri: None
        self.dom.on_migrate = self.move
        self._returns = threading.Event()

    def open(self, uri: str | None, side: str = "") -> FakeConnection:
        self.before_opening(str(uri))
        if uri in self.unreachable:
            raise LibvirtError(f"no connection to {uri}", side=side)
        return self.destination if uri == URI else self._ours.pop(0)

    def move(self, *args: object) -> FakeDomain:
        """What a migrate call does when all goes well."""
        self.guest_is(None)
        return FakeDomain(self.destination, state=MIGRATED)

    def linger(self, *args: object) -> None:
        """What a migrate call does while the migration goes on."""
        self.is_sent.set()
        self._returns.wait(PATIENCE_S)

    def guest_is(self, state: tuple[int, int] | None) -> None:
        """The source's daemon says so on all connections; None: there is no such domain."""
        for dom in (self.dom, self.control, self.read):
            if state is None:
                dom.connection.domains.remove(dom)
            else:
                dom.now = state

    def fall_silent(self) -> None:
        """The source's daemon does not answer on any connection."""
        for connection in (self.source, self.own, self.for_readings, self.fresh):
            connection.error = NO_ANSWER

    def let_return(self) -> None:
        self._returns.set()

    def speak_there(self) -> None:
        """The destination's QEMU is heard of."""
        dom = FakeDomain(FakeConnection())
        self.destination.emit(LIFECYCLE, dom, *SUSPENDED_BY_USER)

    @property
    def migrate_calls(self) -> list[tuple]:
        return [call for call in self.dom.calls if call[0].startswith("migrate")]


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch, monitor: None) -> Iterator[Hosts]:
    made = Hosts()
    monkeypatch.setattr(native, "ensure_event_loop", lambda: False)
    monkeypatch.setattr(host, "ANSWER_S", 60.0)  # whatever else the machine does
    yield made
    for thread in threading.enumerate():
        if thread.name.startswith("postcopy-"):
            thread.join(PATIENCE_S)


def made_driver(
    hosts: Hosts, target: Target, flags: MigrateFlags = LIVE, **params: object
) -> NativeDriver:
    return NativeDriver(hosts.dom, target, params, flags, hosts.open)


class Run:
    """A migration by the native driver to its end."""

    def __init__(
        self, hosts: Hosts, target: Target, flags: MigrateFlags = LIVE, **params: object
    ) -> None:
        self.driver = made_driver(hosts, target, flags, **params)
        self.seen: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.driver.begin(self.seen.put)
        self.before: list[Event] = []
        while not isinstance(event := self.seen.get(timeout=PATIENCE_S), Ended):
            self.before.append(event)
        self.ended = event
        self.driver.close()

    @property
    def found(self) -> Place:
        return conclude(Place.SOURCE, self.ended)


def to_uri(**fields: object) -> Target:
    return Target(uri=URI, **{"is_peer2peer": True, "may_fall_back": True, **fields})


# Who manages it


def test_uri_is_migrated_peer_to_peer(hosts: Hosts) -> None:
    run = Run(hosts, to_uri(), bandwidth=8)
    assert hosts.migrate_calls == [
        ("migrateToURI3", URI, {"bandwidth": 8}, int(LIVE | P2P))
    ]
    assert run.ended == Ended(error=None, here=Half.GONE, there=Half.WHOLE, call=0)
    assert run.driver.is_peer2peer
    assert run.driver.error is None


def test_domain_is_looked_up_on_the_destination(hosts: Hosts) -> None:
    run = Run(hosts, to_uri())
    assert run.driver.domain is hosts.destination.domains[0]


def test_connection_is_managed_by_the_client(hosts: Hosts) -> None:
    run = Run(hosts, Target(connection=hosts.destination), bandwidth=8)
    assert hosts.migrate_calls == [
        ("migrate3", hosts.destination, {"bandwidth": 8}, int(LIVE))
    ]
    assert run.found is Place.DESTINATION
    assert not run.driver.is_peer2peer


def test_client_manages_it_where_the_daemon_cannot_reach_the_peer(hosts: Hosts) -> None:
    hosts.dom.errors["migrateToURI3"] = UNREACHABLE
    run = Run(hosts, to_uri())
    assert [call[0] for call in hosts.migrate_calls] == ["migrateToURI3", "migrate3"]
    assert hosts.migrate_calls[1] == ("migrate3", hosts.destination, {}, int(LIVE))
    assert run.ended == Ended(error=None, here=Half.GONE, there=Half.WHOLE, call=0)
    assert not run.driver.is_peer2peer


@pytest.mark.parametrize(
    "why, error, fields",
    [
        ("it is another failure", BROKEN_OFF, {}),
        ("the way was chosen", UNREACHABLE, {"may_fall_back": False}),
    ],
)
def test_client_does_not_manage_it_when(
    hosts: Hosts, why: str, error, fields: dict
) -> None:
    hosts.dom.errors["migrateToURI3"] = error
    run = Run(hosts, to_uri(**fields))
    assert [call[0] for call in hosts.migrate_calls] == ["migrateToURI3"], why
    assert run.ended.was_sent and run.found is Place.SOURCE
    assert isinstance(run.driver.error, LibvirtError)
    assert run.driver.error.__cause__ is error
    assert run.ended.error == str(run.driver.error)


def test_client_does_not_manage_it_once_qemu_has_begun(hosts: Hosts) -> None:
    """The link to the peer's daemon may also break later; then something has been started."""

    def begin_then_fail(*args: object) -> None:
        hosts.own.emit(
            "MIGRATION", hosts.control, "MIGRATION", 1, 2, '{"status": "setup"}'
        )
        raise UNREACHABLE

    hosts.dom.on_migrate = begin_then_fail
    Run(hosts, to_uri())
    assert [call[0] for call in hosts.migrate_calls] == ["migrateToURI3"]


@pytest.mark.parametrize(
    "why, spoil",
    [
        ("a job runs", lambda hosts: hosts.dom.__dict__.update(job={"type": 2})),
        (
            "the guest has left",
            lambda hosts: hosts.dom.__dict__.update(now=SPLIT_HERE),
        ),
        ("the domain is there already", lambda hosts: FakeDomain(hosts.destination)),
        (
            "the other host cannot say",
            lambda hosts: hosts.destination.__dict__.update(error=NO_ANSWER),
        ),
    ],
)
def test_client_does_not_manage_what_may_have_begun(
    hosts: Hosts, why: str, spoil
) -> None:
    def fail(*args: object) -> None:
        spoil(hosts)
        raise UNREACHABLE

    hosts.dom.on_migrate = fail
    Run(hosts, to_uri())
    assert [call[0] for call in hosts.migrate_calls] == ["migrateToURI3"], why


def test_client_cannot_manage_what_it_cannot_reach(hosts: Hosts) -> None:
    hosts.unreachable.add(URI)
    hosts.dom.errors["migrateToURI3"] = UNREACHABLE
    run = Run(hosts, to_uri())
    assert run.driver.error.__cause__ is UNREACHABLE
    assert run.found is Place.SOURCE


def test_peer_to_peer_needs_no_connection_of_ours(hosts: Hosts) -> None:
    hosts.unreachable.add(URI)
    hosts.dom.on_migrate = lambda *args: hosts.guest_is(None)
    run = Run(hosts, to_uri())
    assert run.ended == Ended(error=None, here=Half.GONE, there=Half.UNKNOWN, call=0)
    assert run.driver.domain is None


def test_managed_migration_needs_its_connection(hosts: Hosts) -> None:
    hosts.unreachable.add(URI)
    run = Run(hosts, to_uri(is_peer2peer=False))
    assert hosts.migrate_calls == []
    assert "no connection to fake:///b" in str(run.driver.error)
    assert not run.ended.was_sent


def test_end_tells_the_version_of_the_sources_qemu_that_was_known_before(
    hosts: Hosts,
) -> None:
    """A daemon that is started again may never say so."""

    def fail(*args: object) -> None:
        hosts.source.version = 0
        raise BROKEN_OFF

    hosts.source.version = 7_002_022
    hosts.dom.on_migrate = fail
    assert Run(hosts, to_uri()).ended.qemu == 7_002_022


def test_migration_is_made_though_the_sources_daemon_cannot_say_its_qemus_version(
    hosts: Hosts,
) -> None:
    def refuse() -> int:
        raise BROKEN_OFF

    hosts.source.getVersion = refuse  # type: ignore[method-assign]
    hosts.dom.errors["migrateToURI3"] = BROKEN_OFF
    run = Run(hosts, to_uri())
    assert len(hosts.migrate_calls) == 1 and run.ended.qemu == 0


def test_connection_that_fails_for_no_reason_of_libvirts_ends_it(
    hosts: Hosts, monkeypatch
) -> None:
    def fail(uri: str) -> None:
        if uri == URI:
            raise ZeroDivisionError("a bug")

    hosts.before_opening = fail
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    run = Run(hosts, to_uri(is_peer2peer=False))
    assert hosts.migrate_calls == []
    assert not run.ended.was_sent


def test_slow_connection_of_ours_does_not_hold_up_a_peer_to_peer_migration(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_CONNECT_FIRST_S", 0.0)
    release = threading.Event()
    hosts.before_opening = lambda uri: uri == URI and release.wait(PATIENCE_S)
    hosts.destination.host_uuid = "aaaa"  # it is not even asked
    run = Run(hosts, to_uri())
    assert len(hosts.migrate_calls) == 1
    assert run.ended == Ended(error=None, here=Half.GONE, there=Half.UNKNOWN, call=0)
    release.set()


# What is refused before anything is sent


def test_same_host_is_refused(hosts: Hosts) -> None:
    hosts.destination.host_uuid = "aaaa"
    hosts.destination.domains = hosts.source.domains
    run = Run(hosts, to_uri())
    assert hosts.dom.calls == []
    assert isinstance(run.driver.error, UsageError)
    assert "same host" in str(run.driver.error)
    assert run.ended == Ended(error=str(run.driver.error), was_sent=False, call=0)


def test_hosts_without_a_uuid_are_not_taken_for_the_same(hosts: Hosts) -> None:
    hosts.source.host_uuid = hosts.own.host_uuid = hosts.destination.host_uuid = None
    Run(hosts, to_uri())
    assert len(hosts.migrate_calls) == 1


OLD = [(7, 2, 22), (8, 1, 0), (10, 0, 2)]


def lacks_multifd(hosts: Hosts, side: str) -> None:
    run = Run(hosts, to_uri(), PARALLEL)
    assert hosts.dom.calls == []
    assert isinstance(run.driver.error, NotSupportedError)
    assert run.driver.error.side == side
    assert "may lose the guest" in str(run.driver.error)
    assert not run.ended.was_sent


@pytest.mark.parametrize("version", OLD)
def test_multifd_with_postcopy_is_refused_where_the_running_qemu_is_older_than_10_1(
    hosts: Hosts, version: tuple[int, int, int]
) -> None:
    """What is installed by now does not matter to a guest that runs."""
    hosts.dom.qemu_version = version
    lacks_multifd(hosts, "source")


@pytest.mark.parametrize("version", OLD)
def test_multifd_with_postcopy_is_refused_where_the_destination_has_an_older_one(
    hosts: Hosts, version: tuple[int, int, int]
) -> None:
    major, minor, micro = version
    hosts.destination.version = major * 1_000_000 + minor * 1000 + micro
    lacks_multifd(hosts, "destination")


def test_multifd_with_postcopy_is_allowed_from_qemu_10_1_on(hosts: Hosts) -> None:
    run = Run(hosts, to_uri(), PARALLEL)
    assert run.driver.error is None and len(hosts.migrate_calls) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda hosts: hosts.unreachable.add(URI),
        lambda hosts: hosts.destination.__dict__.update(error=NO_ANSWER),
        lambda hosts: hosts.dom.errors.update(monitor=NO_ANSWER),
    ],
)
def test_multifd_with_postcopy_needs_to_know_both_sides(hosts: Hosts, spoil) -> None:
    spoil(hosts)
    run = Run(hosts, to_uri(), PARALLEL)
    assert hosts.dom.calls == []
    assert isinstance(run.driver.error, LibvirtError)


@pytest.mark.parametrize(
    "flags", [LIVE, MigrateFlags.VIR_MIGRATE_LIVE | MigrateFlags.VIR_MIGRATE_PARALLEL]
)
def test_old_qemu_may_do_one_of_them(hosts: Hosts, flags: MigrateFlags) -> None:
    hosts.dom.qemu_version, hosts.destination.version = (7, 2, 22), 7_002_022
    Run(hosts, to_uri(), flags)
    assert len(hosts.migrate_calls) == 1


def test_bug_of_ours_ends_the_migration_instead_of_hanging(hosts: Hosts) -> None:
    hosts.dom.errors["migrateToURI3"] = ZeroDivisionError("a bug")
    run = Run(hosts, to_uri())
    assert type(run.driver.error) is PostcopyError
    assert "ZeroDivisionError" in str(run.driver.error)


# Where the guest is


@pytest.mark.parametrize(
    "here, there, halves",
    [
        (RUNNING, None, (Half.WHOLE, Half.GONE)),
        (SPLIT_HERE, SPLIT_THERE, (Half.SPLIT, Half.SPLIT)),
        (SPLIT_HERE, None, (Half.SPLIT, Half.GONE)),
        (None, MIGRATED, (Half.GONE, Half.WHOLE)),
        (None, None, (Half.GONE, Half.GONE)),
        (SHUT_OFF, MIGRATED, (Half.INACTIVE, Half.WHOLE)),
    ],
)
def test_both_hosts_are_looked_at_when_the_call_has_failed(
    hosts: Hosts, here, there, halves
) -> None:
    def fail(*args: object) -> None:
        hosts.speak_there()
        hosts.guest_is(here)
        if there is not None:
            FakeDomain(hosts.destination, state=there)
        raise BROKEN_OFF

    hosts.dom.on_migrate = fail
    ended = Run(hosts, to_uri()).ended
    assert (ended.here, ended.there) == halves


def test_domain_that_is_not_where_we_look_and_was_never_heard_of_may_be_elsewhere(
    hosts: Hosts,
) -> None:
    """Our URI may lead to another host than the source's daemon made of it."""
    hosts.dom.errors["migrateToURI3"] = BROKEN_OFF
    ended = Run(hosts, to_uri()).ended
    assert (ended.here, ended.there) == (Half.WHOLE, Half.UNKNOWN)


def test_end_while_qemu_has_not_decided_is_no_word_of_where_the_guest_is(
    hosts: Hosts,
) -> None:
    def fail(*args: object) -> None:
        hosts.own.is_dead = True
        dom = FakeDomain(hosts.fresh, state=LET_GO)
        dom.migrate_info = {"status": "postcopy-device"}
        raise BROKEN_OFF

    hosts.dom.on_migrate = fail
    assert Run(hosts, to_uri()).ended.here is Half.UNKNOWN


def test_host_that_does_not_answer_is_not_guessed(hosts: Hosts) -> None:
    def fail(*args: object) -> None:
        hosts.fall_silent()
        hosts.destination.error = NO_ANSWER
        raise BROKEN_OFF

    hosts.dom.on_migrate = fail
    ended = Run(hosts, to_uri()).ended
    assert (ended.here, ended.there) == (Half.UNKNOWN, Half.UNKNOWN)


def test_source_is_asked_over_a_fresh_connection_where_ours_is_dead(
    hosts: Hosts,
) -> None:
    def fail(*args: object) -> None:
        hosts.own.is_dead = True
        FakeDomain(hosts.fresh, state=SPLIT_HERE)
        raise BROKEN_OFF

    hosts.dom.on_migrate = fail
    assert Run(hosts, to_uri()).ended.here is Half.SPLIT
    assert hosts.fresh.is_closed


# Actions


@pytest.fixture
def driver(hosts: Hosts) -> Iterator[NativeDriver]:
    """A driver whose migrate call does not return before the test is over."""
    hosts.dom.on_migrate = hosts.linger
    made = made_driver(hosts, to_uri())
    made.begin(lambda event: None)
    assert hosts.is_sent.wait(PATIENCE_S)
    await_pulse(made)
    yield made
    made.close()
    hosts.let_return()


def await_pulse(driver: NativeDriver) -> None:
    """Until the destination's daemon has answered."""
    wait_until(lambda: not driver._pulse.silence(), "its pulse", PATIENCE_S)


def test_switch_goes_over_a_connection_of_our_own(
    hosts: Hosts, driver: NativeDriver
) -> None:
    """The caller's may be busy with the migrate call."""
    assert driver.switch() == SwitchAccepted()
    assert hosts.control.calls == [("migrateStartPostCopy", 0)]


@pytest.mark.parametrize(
    "message, is_final",
    [
        ("Postcopy must be started after migration has been started", False),
        (
            "post-copy can only be started while outgoing migration is in progress",
            False,
        ),
        ("requires migration to be started with VIR_MIGRATE_POSTCOPY flag", True),
    ],
)
def test_refused_switch_says_whether_time_may_cure_it(
    hosts: Hosts, driver: NativeDriver, message: str, is_final: bool
) -> None:
    hosts.control.errors["migrateStartPostCopy"] = refused(55, message)
    answer = driver.switch()
    assert isinstance(answer, SwitchRefused)
    assert message in answer.message and answer.is_final is is_final


@pytest.mark.parametrize("domain", [7, 13])  # VIR_FROM_RPC, VIR_FROM_REMOTE
def test_switch_whose_answer_is_lost_is_not_called_refused(
    hosts: Hosts, driver: NativeDriver, domain: int
) -> None:
    message = "End of file while reading data: Input/output error"
    hosts.control.errors["migrateStartPostCopy"] = refused(38, message, domain)
    answer = driver.switch()
    assert isinstance(answer, SwitchUnanswered) and message in answer.message


@pytest.mark.parametrize("kind", [NotSupportedError, UsageError])
def test_switch_that_cannot_be_sent_is_refused_for_good(
    driver: NativeDriver, monkeypatch: pytest.MonkeyPatch, kind: type[PostcopyError]
) -> None:
    """As where libvirt-python lacks the call, and there is no way past it."""

    def start_postcopy(dom: object, way: Path) -> None:
        assert way is Path.BINDING  # decided beforehand: a switch has no time for that
        raise kind("no way")

    monkeypatch.delattr(native.vir, "way_to_start_postcopy")

    monkeypatch.setattr(native.vir, "start_postcopy", start_postcopy)
    assert driver.switch() == SwitchRefused("no way", is_final=True)


# Whether the destination lives


class Begun:
    """A migration that goes on."""

    def __init__(self, hosts: Hosts, target: Target, **more: object) -> None:
        hosts.dom.on_migrate = hosts.linger
        self.hosts = hosts
        self.driver = NativeDriver(hosts.dom, target, {}, LIVE, hosts.open, **more)  # type: ignore[arg-type]

    def __enter__(self) -> NativeDriver:
        self.driver.begin(lambda event: None)
        assert self.hosts.is_sent.wait(PATIENCE_S)
        return self.driver

    def __exit__(self, *args: object) -> None:
        self.hosts.let_return()
        self.driver.close()


SILENT = SwitchHeld("the destination's daemon does not answer")


def test_switch_waits_for_a_daemon_that_hangs(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    answer = hosts.destination.getLibVersion

    def hang() -> int:
        if hosts.is_sent.is_set():
            goes_on.wait(PATIENCE_S)
        return answer()

    monkeypatch.setattr(hosts.destination, "getLibVersion", hang)
    with Begun(hosts, to_uri()) as driver:
        with monkeypatch.context() as patch:
            patch.setattr(host, "ANSWER_S", 0.01)
            wait_until(driver._pulse.silence, "its silence", PATIENCE_S)
            assert driver.switch() == SILENT
        goes_on.set()
        await_pulse(driver)
        assert driver.switch() == SwitchAccepted()
    assert hosts.control.calls == [("migrateStartPostCopy", 0)]


def test_switch_waits_while_the_daemon_is_being_connected_to(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_CONNECT_FIRST_S", 0.0)
    release = threading.Event()
    hosts.before_opening = lambda uri: uri == URI and release.wait(PATIENCE_S)
    with Begun(hosts, to_uri()) as driver:
        assert driver.switch() == SILENT
        release.set()
        await_pulse(driver)
        assert driver.switch() == SwitchAccepted()


def test_switch_does_not_wait_for_a_connection_for_ever_and_one_that_comes_late_is_used(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over ssh nothing else tells that no answer will come."""
    monkeypatch.setattr(native, "_CONNECT_FIRST_S", 0.0)
    monkeypatch.setattr(native, "_CONNECT_S", 0.0)
    release = threading.Event()
    hosts.before_opening = lambda uri: uri == URI and release.wait(PATIENCE_S)
    with Begun(hosts, to_uri()) as driver:
        told = "it has not been reached from here so far"
        assert driver.switch() == SwitchAccepted(unchecked=told)
        release.set()
        await_pulse(driver)
        assert driver.switch() == SwitchAccepted()
        monkeypatch.setattr(host, "ANSWER_S", 0.0)
        assert driver.switch() == SILENT


def test_daemon_that_only_the_source_can_reach_is_not_asked_and_that_is_told(
    hosts: Hosts,
) -> None:
    hosts.unreachable.add(URI)
    with Begun(hosts, to_uri()) as driver:
        told = "destination: no connection to fake:///b"
        assert driver.switch() == SwitchAccepted(unchecked=told)


class Shared(FakeConnection):
    """The caller's, which notes what is asked over it."""

    def __init__(self) -> None:
        super().__init__(URI, "bbbb")
        self.is_asked = threading.Event()

    def getLibVersion(self) -> int:
        self.is_asked.set()
        return super().getLibVersion()

    def listAllDomains(self, flags: int = 0) -> list[FakeDomain]:
        self.is_asked.set()
        return super().listAllDomains(flags)


def test_nobody_asks_over_a_connection_that_the_migration_itself_waits_on(
    hosts: Hosts,
) -> None:
    hosts.unreachable.add(URI)
    theirs = Shared()
    with Begun(hosts, Target(connection=theirs)) as driver:
        told = "the migration itself takes the only connection to it"
        assert driver.switch() == SwitchAccepted(unchecked=told)
        assert hosts.migrate_calls[0][1] is theirs
        pulses = [each for each in threading.enumerate() if "pulse" in each.name]
        assert not pulses
        look = threading.Thread(target=driver.look, args=(DST,), daemon=True)
        look.start()
        assert not theirs.is_asked.wait(0.02)
        hosts.let_return()
        look.join(PATIENCE_S)
        assert theirs.is_asked.is_set()


def test_callers_connection_serves_a_resume_where_we_get_none_of_our_own(
    hosts: Hosts,
) -> None:
    hosts.unreachable.add(URI)
    theirs = Shared()
    resumed = FakeDomain(hosts.fresh, state=SPLIT_HERE)
    seen: queue.SimpleQueue[Event] = queue.SimpleQueue()
    driver = made_driver(hosts, Target(connection=theirs))
    driver.begin(seen.put)
    while not isinstance(seen.get(timeout=PATIENCE_S), Ended):
        pass
    driver.resume()
    while not isinstance(seen.get(timeout=PATIENCE_S), Ended):
        pass
    resume = LIVE | MigrateFlags.VIR_MIGRATE_POSTCOPY_RESUME
    assert resumed.calls == [("migrate3", theirs, {}, int(resume))]
    driver.close()


def next_end(seen: queue.SimpleQueue[Event]) -> Ended:
    while not isinstance(event := seen.get(timeout=PATIENCE_S), Ended):
        pass
    return event


def test_end_of_a_call_says_which_it_is_and_an_older_failure_hides_no_later_one(
    hosts: Hosts,
) -> None:
    """A call that was left to itself may return when another has been made."""

    def break_late(*args: object) -> None:
        hosts.linger()
        raise BROKEN_OFF

    hosts.dom.on_migrate = break_late
    seen: queue.SimpleQueue[Event] = queue.SimpleQueue()
    driver = made_driver(hosts, to_uri())
    driver.begin(seen.put)
    assert hosts.is_sent.wait(PATIENCE_S)
    hosts._ours.insert(0, FakeConnection("fake:///a"))  # without the guest
    driver.resume()
    assert next_end(seen).call == 1
    later = driver.error
    hosts.let_return()
    assert next_end(seen).call == 0
    assert later is not None and driver.error is later
    driver.close()


def test_callers_connection_is_asked_where_the_daemons_migrate_between_them(
    hosts: Hosts,
) -> None:
    hosts.unreachable.add(URI)
    theirs = Shared()
    target = Target(uri=URI, connection=theirs, is_peer2peer=True)
    with Begun(hosts, target) as driver:
        await_pulse(driver)
        assert driver.switch() == SwitchAccepted()
        assert theirs.is_asked.is_set()


def test_attached_without_a_destination_asks_nobody_and_says_so(hosts: Hosts) -> None:
    driver = AttachedDriver(hosts.dom, Target(), {}, LIVE, hosts.open)
    driver.begin(lambda event: None)
    assert driver._connected.wait(PATIENCE_S)
    told = "nothing tells which host it is"
    assert driver.switch() == SwitchAccepted(unchecked=told)
    driver.close()


# The journal


class Notes:
    """A journal that notes what it is told among the domain's calls."""

    def __init__(self, calls: list[tuple[object, ...]]) -> None:
        self.calls = calls

    def start(self, **told: object) -> None:
        self.calls.append(("start",))

    def arm(self) -> None:
        self.calls.append(("arm",))

    def pause(self) -> None:
        self.calls.append(("pause",))


def test_journal_is_told_before_what_cannot_be_taken_back(hosts: Hosts) -> None:
    told = hosts.control.calls
    with Begun(hosts, to_uri(), journal=Notes(told)) as driver:
        await_pulse(driver)
        driver.switch()
        hosts.control.now = SPLIT_HERE
        driver.pause()
    flags = int(AbortJobFlags.VIR_DOMAIN_ABORT_JOB_POSTCOPY)
    assert told == [
        ("start",),
        ("arm",),
        ("migrateStartPostCopy", 0),
        ("pause",),
        ("abortJobFlags", flags),
    ]


# Other actions


@pytest.mark.parametrize(
    "state, event",
    [
        (SPLIT_HERE, SplitSeen(SRC)),
        ((3, 13), SplitFailed(SRC)),
        ((3, 2), SwitchNotSeen()),  # stopped for the switch, which is not over
        (RUNNING, SwitchNotSeen()),
    ],
)
def test_switch_is_verified_by_the_sources_state(
    hosts: Hosts, driver: NativeDriver, state, event: Event
) -> None:
    hosts.control.now = state
    assert driver.verify_switch() == event


def test_reading_has_figures_and_tells_of_a_switch_no_event_told_of(
    hosts: Hosts, driver: NativeDriver
) -> None:
    hosts.read.job = {"memory_total": 7}
    assert driver.read_stats() == [StatsSeen(Stats(memory_total=7))]
    hosts.read.now = SPLIT_HERE
    assert driver.read_stats() == [StatsSeen(Stats(memory_total=7)), SplitSeen(SRC)]


def test_reading_tells_of_a_failed_half_too(hosts: Hosts, driver: NativeDriver) -> None:
    hosts.read.now = (3, 13)
    assert driver.read_stats()[1:] == [SplitFailed(SRC)]


def test_reading_without_a_job_is_none(hosts: Hosts, driver: NativeDriver) -> None:
    hosts.read.errors["jobStats"] = NO_ANSWER
    assert driver.read_stats() == [StatsSeen(None)]


def test_migration_that_has_sent_all_is_not_paused(
    hosts: Hosts, driver: NativeDriver
) -> None:
    """QEMU 7.2 would neither break nor go on."""
    hosts.read.now = SPLIT_HERE
    hosts.read.job = {"memory_total": 7, "memory_remaining": 0}
    driver.read_stats()
    assert driver.pause() == PauseRefused(PAUSE_TOO_LATE)
    assert hosts.control.calls == []
    hosts.read.job = {"memory_total": 7, "memory_remaining": 1}
    driver.read_stats()
    assert driver.pause() is None
    assert [name for name, *_ in hosts.control.calls] == ["abortJobFlags"]


def test_abort_is_libvirts_own(hosts: Hosts, driver: NativeDriver) -> None:
    assert driver.abort() is None
    assert hosts.control.calls == [("abortJob",)]
    hosts.control.errors["abortJob"] = refused(55, "no job is active on the domain")
    assert driver.abort() == AbortRefused("no job is active on the domain")


class Blocked:
    """A managed migration that waits for its connection to the destination: nothing is sent yet."""

    def __init__(self, hosts: Hosts) -> None:
        self.release = threading.Event()
        hosts.before_opening = lambda uri: uri == URI and self.release.wait(PATIENCE_S)
        self.seen: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.driver = made_driver(hosts, to_uri(is_peer2peer=False))
        self.driver.begin(self.seen.put)


def test_abort_before_anything_is_sent_sends_nothing(hosts: Hosts) -> None:
    blocked = Blocked(hosts)
    assert blocked.driver.abort() is None
    blocked.release.set()
    ended = blocked.seen.get(timeout=PATIENCE_S)
    assert ended == Ended(
        error="aborted before anything was started", was_sent=False, call=0
    )
    assert hosts.dom.calls == hosts.control.calls == []
    blocked.driver.close()


def test_what_is_seen_before_anything_is_sent_is_not_of_this_migration(
    hosts: Hosts,
) -> None:
    blocked = Blocked(hosts)
    hosts.read.job = {"memory_total": 7}
    assert blocked.driver.read_stats() == [StatsSeen(None)]
    hosts.own.emit(LIFECYCLE, hosts.control, *SUSPENDED_BY_USER)
    assert blocked.seen.empty()
    blocked.release.set()
    while not isinstance(blocked.seen.get(timeout=PATIENCE_S), Ended):
        pass
    blocked.driver.close()


# Listening


def test_both_sides_are_listened_to_until_closed(hosts: Hosts) -> None:
    seen: queue.SimpleQueue[Event] = queue.SimpleQueue()
    hosts.dom.on_migrate = hosts.linger
    driver = made_driver(hosts, to_uri())
    driver.begin(seen.put)
    assert hosts.is_sent.wait(PATIENCE_S)
    hosts.own.emit(LIFECYCLE, hosts.control, *SUSPENDED_BY_USER)
    assert seen.get(timeout=PATIENCE_S) == Stopped(SRC)
    hosts.speak_there()
    assert seen.get(timeout=PATIENCE_S) == Stopped(DST)
    driver.close()
    assert hosts.own.callbacks == hosts.destination.callbacks == {}
    hosts.let_return()


def test_connections_of_our_own_are_closed_and_others_are_not(hosts: Hosts) -> None:
    Run(hosts, to_uri())
    assert hosts.own.is_closed and hosts.for_readings.is_closed
    assert hosts.destination.is_closed
    assert not hosts.source.is_closed


def test_connection_of_the_guest_that_has_arrived_is_left_to_the_caller(
    hosts: Hosts,
) -> None:
    driver = made_driver(hosts, to_uri())
    seen: queue.SimpleQueue[Event] = queue.SimpleQueue()
    driver.begin(seen.put)
    while not isinstance(seen.get(timeout=PATIENCE_S), Ended):
        pass
    driver.hand_over()
    assert driver.domain is not None and hosts.destination.callbacks == {}
    hosts.destination.error = ZeroDivisionError("used by two threads")  # type: ignore[assignment]
    assert driver.look(DST) == Looked(DST, Half.UNKNOWN, listens=False)
    driver.close()
    assert not hosts.destination.is_closed


@pytest.mark.parametrize("error, is_lifted", [(BROKEN_OFF, True), (None, False)])
def test_limit_is_taken_off_where_libvirts_call_has_failed(
    hosts: Hosts,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception | None,
    is_lifted: bool,
) -> None:
    """A call that succeeds has put all back itself."""
    lifted: list[tuple[object, object]] = []
    monkeypatch.setattr(
        native, "lift_limit", lambda dom, params: lifted.append((dom, params))
    )
    if error is not None:
        hosts.dom.errors["migrateToURI3"] = error
    run = Run(hosts, to_uri(), **{"bandwidth.postcopy": 16})
    there = FakeDomain(hosts.destination, state=MIGRATED)
    run.driver._destination.domain_for_caller = lambda: there  # type: ignore[method-assign,assignment,return-value]
    run.driver.hand_over()
    assert bool(lifted) is is_lifted
    assert not is_lifted or lifted == [(there, {"bandwidth.postcopy": 16})]


@pytest.mark.parametrize("is_peer2peer", [True, False])
def test_who_gives_a_connection_gets_the_domain_of_that_one(
    hosts: Hosts, is_peer2peer: bool
) -> None:
    """libvirt takes no domain of another connection: "domain must match connection"."""
    theirs = FakeConnection(URI, "bbbb")
    target = Target(uri=URI, connection=theirs, is_peer2peer=is_peer2peer)
    driver = made_driver(hosts, target)
    seen: queue.SimpleQueue[Event] = queue.SimpleQueue()
    driver.begin(seen.put)
    while not isinstance(seen.get(timeout=PATIENCE_S), Ended):
        pass
    ours = driver.domain
    assert ours is hosts.destination.domains[0]
    dom = FakeDomain(theirs, state=MIGRATED)
    driver.hand_over()
    assert driver.domain is dom
    theirs.error = NO_ANSWER
    driver.domain = ours
    driver.hand_over()
    assert driver.domain is ours
    driver.close()


def test_callers_connection_serves_where_we_get_none_of_our_own(hosts: Hosts) -> None:
    hosts.unreachable.add("fake:///a")
    hosts.dom.on_migrate = hosts.linger
    driver = made_driver(hosts, to_uri())
    driver.begin(lambda event: None)
    assert hosts.is_sent.wait(PATIENCE_S)
    assert LIFECYCLE in hosts.source.listened_to
    await_pulse(driver)
    assert driver.switch() == SwitchAccepted()
    assert ("migrateStartPostCopy", 0) in hosts.dom.calls
    driver.close()
    hosts.let_return()


def test_destination_that_connects_after_the_end_is_not_listened_to(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "_CONNECT_FIRST_S", 0.0)
    release = threading.Event()
    hosts.before_opening = lambda uri: uri == URI and release.wait(PATIENCE_S)
    Run(hosts, to_uri())  # closes the driver
    release.set()
    for thread in threading.enumerate():
        if thread.name == "postcopy-connect_destination":
            thread.join(PATIENCE_S)
    assert hosts.destination.callbacks == {} and hosts.destination.is_closed


def test_uuid_is_the_domains(hosts: Hosts) -> None:
    assert hosts.dom.UUIDString() == UUID
