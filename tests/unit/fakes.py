"""Small stand-ins for libvirt's objects, and a scene in which the core plays a migration on a clock of ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import libvirt
import pytest

from libvirt_postcopy import events as ev
from libvirt_postcopy.actions import (
    Action,
    Look,
    Note,
    Pause,
    ReadStats,
    Resume,
    Switch,
    VerifySwitch,
)
from libvirt_postcopy.constants import (
    DomainState,
    ErrorNumber,
    PausedReason,
    RunningReason,
)
from libvirt_postcopy.events import Half, Place, Side
from libvirt_postcopy.migration import Migration
from libvirt_postcopy.policy import Policy, parse
from libvirt_postcopy.recovery import Recovery
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.units import MIB

UUID = "6f0b2a3c-6d3f-4d0a-9c55-1f2e3d4c5b6a"
OTHER_UUID = "00000000-0000-4000-8000-000000000001"

SRC, DST = Side.SOURCE, Side.DESTINATION

RUNNING = (DomainState.VIR_DOMAIN_RUNNING, 1)
MIGRATED = (DomainState.VIR_DOMAIN_RUNNING, RunningReason.VIR_DOMAIN_RUNNING_MIGRATED)
SPLIT_HERE = (DomainState.VIR_DOMAIN_PAUSED, PausedReason.VIR_DOMAIN_PAUSED_POSTCOPY)
SPLIT_THERE = (
    DomainState.VIR_DOMAIN_RUNNING,
    RunningReason.VIR_DOMAIN_RUNNING_POSTCOPY,
)
SHUT_OFF = (DomainState.VIR_DOMAIN_SHUTOFF, 0)
CRASHED = (DomainState.VIR_DOMAIN_CRASHED, 0)
STOPPED = (SHUT_OFF[0], CRASHED[0])


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passed = 0.0
        real = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: real() + self.passed)


def refused(code: int, message: str, domain: int = 10) -> libvirt.libvirtError:
    """What libvirt-python raises when libvirt refuses, without its look at the thread's last error."""
    error = libvirt.libvirtError.__new__(libvirt.libvirtError)
    Exception.__init__(error, message)
    error.err = (int(code), domain, message, 2, message, None, None, -1, -1)
    return error


NO_DOMAIN = refused(ErrorNumber.VIR_ERR_NO_DOMAIN, "Domain not found")
ONLY_THERE = refused(84, "migration statistics are available only on the source host")
READ_ONLY = refused(
    ErrorNumber.VIR_ERR_OPERATION_DENIED,
    "operation forbidden: read only access prevents virDomainMigrateGetMaxSpeed",
)
NO_ANSWER = refused(ErrorNumber.VIR_ERR_RPC, "client socket is closed", domain=7)


class FakeConnection:
    """A ``virConnect`` that holds domains and callbacks."""

    def __init__(
        self, uri: str = "fake:///a", host_uuid: str | None = "aaaa", version: int = 10_001_000
    ) -> None:  # fmt: skip
        self.uri = uri
        self.host_uuid = host_uuid
        self.version = version
        self.libvirt_version = 11_004_000
        self.domains: list[FakeDomain] = []
        self.error: libvirt.libvirtError | None = None
        self.unsupported: set[object] = set()  #: events that this driver does not have
        self.callbacks: dict[int, tuple[object, Callable[..., None]]] = {}
        self.deregistered: list[int] = []
        self.keepalive: tuple[int, int] | None = None
        self.is_closed = False
        self.is_dead = False  #: and its own end has noticed

    def _answer(self, value: Any) -> Any:
        if self.error is not None:
            raise self.error
        return value

    def getURI(self) -> str:
        return self.uri

    def getVersion(self) -> int:
        return self._answer(self.version)

    def getLibVersion(self) -> int:
        return self._answer(self.libvirt_version)

    def getCapabilities(self) -> str:
        uuid = "" if self.host_uuid is None else f"<uuid>{self.host_uuid}</uuid>"
        return self._answer(f"<capabilities><host>{uuid}</host></capabilities>")

    def isAlive(self) -> int:
        return int(not self.is_dead)

    def setKeepAlive(self, interval: int, count: int) -> int:
        self.keepalive = (interval, count)
        return self._answer(0)

    def listAllDomains(self, flags: int = 0) -> list[FakeDomain]:
        return self._answer(list(self.domains))

    def lookupByUUIDString(self, uuid: str) -> FakeDomain:
        for dom in self._answer(self.domains):
            if dom.uuid == uuid:
                return dom
        raise NO_DOMAIN

    def close(self) -> int:
        self.is_closed = True
        return self._answer(0)

    # Callbacks, libvirt's and those of libvirt_qemu

    def domainEventRegisterAny(
        self, dom: Any, eventID: int, cb: Any, opaque: Any
    ) -> int:
        return self.register(eventID, cb)

    def domainEventDeregisterAny(self, callbackID: int) -> int:
        return self.deregister(callbackID)

    def register(self, what: object, callback: Callable[..., None]) -> int:
        if what in self.unsupported:
            raise refused(ErrorNumber.VIR_ERR_NO_SUPPORT, f"no {what} here")
        number = 100 + len(self.callbacks) + len(self.deregistered)
        self.callbacks[number] = (what, callback)
        return number

    def deregister(self, number: int) -> int:
        self._answer(None)
        del self.callbacks[number]
        self.deregistered.append(number)
        return 0

    @property
    def listened_to(self) -> list[object]:
        return [what for what, _ in self.callbacks.values()]

    def emit(self, what: object, dom: FakeDomain, *args: Any) -> None:
        """Deliver an event as libvirt-python would."""
        for registered, callback in list(self.callbacks.values()):
            if registered == what:
                callback(self, dom, *args, None)


class FakeDomain:
    """A ``virDomain``.  ``calls`` holds what was asked of it that has an effect.

    :ivar on_migrate: Runs in the migrate call and gives its result; may raise.
    """

    def __init__(
        self, connection: FakeConnection | None = None, uuid: str = UUID, state: tuple[int, int] = RUNNING
    ) -> None:  # fmt: skip
        self.connection = connection or FakeConnection()
        self.connection.domains.append(self)
        self.uuid = uuid
        self.now: tuple[int, int] = state
        self.xml = f"<domain><uuid>{uuid}</uuid></domain>"
        self.job: Mapping[str, Any] = {}
        self.errors: dict[str, Exception] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.qemu_version = (10, 1, 0)
        self.migrate_info: Any = {}
        self.run_state = "finish-migrate"
        self.is_kept = False  #: a crashed one, as on_crash=preserve does
        self.on_migrate: Callable[..., Any] = lambda *args: None

    def _do(self, name: str, *args: Any) -> None:
        self.calls.append((name, *args))
        if name in self.errors:
            raise self.errors[name]

    def name(self) -> str:
        return "web1"

    def UUIDString(self) -> str:
        return self.uuid

    def connect(self) -> FakeConnection:
        return self.connection

    def isActive(self) -> int:
        if "isActive" in self.errors:
            raise self.errors["isActive"]
        return int(self.is_kept or self.now[0] not in STOPPED)

    def state(self, flags: int = 0) -> list[int]:
        if "state" in self.errors:
            raise self.errors["state"]
        return [int(number) for number in self.now]

    def XMLDesc(self, flags: int = 0) -> str:
        return self.xml

    def jobStats(self, flags: int = 0) -> Mapping[str, Any]:
        if "jobStats" in self.errors:
            raise self.errors["jobStats"]
        return self.job

    def abortJob(self) -> int:
        self._do("abortJob")
        return 0

    def abortJobFlags(self, flags: int = 0) -> int:
        self._do("abortJobFlags", int(flags))
        return 0

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """QEMU's monitor."""
        if "monitor" in self.errors:
            raise self.errors["monitor"]
        if command == {"execute": "query-migrate"}:
            return {"return": self.migrate_info}
        if command == {"execute": "query-status"}:
            return {"return": {"status": self.run_state, "running": False}}
        assert command == {"execute": "query-version"}
        words = ("major", "minor", "micro")
        return {"return": {"qemu": dict(zip(words, self.qemu_version)), "package": ""}}

    def migrateGetMaxSpeed(self, flags: int = 0) -> int:
        if "migrateGetMaxSpeed" in self.errors:
            raise self.errors["migrateGetMaxSpeed"]
        return 0

    def migrateStartPostCopy(self, flags: int = 0) -> int:
        self._do("migrateStartPostCopy", flags)
        return 0

    def migrate3(
        self, dconn: FakeConnection, params: Mapping[str, Any], flags: int = 0
    ) -> Any:
        self._do("migrate3", dconn, dict(params), int(flags))
        return self.on_migrate("migrate3", dconn)

    def migrateToURI3(
        self, dconnuri: str, params: Mapping[str, Any], flags: int = 0
    ) -> int:
        self._do("migrateToURI3", dconnuri, dict(params), int(flags))
        self.on_migrate("migrateToURI3", dconnuri)
        return 0


def reading(
    swept: float, total: int = 1024, *, left: float | None = None, rate: float = 0, **fields: Any
) -> ev.StatsSeen:  # fmt: skip
    """A reading of the statistics, sizes in MiB."""
    remaining = max(total - swept, 0) if left is None else left
    return ev.StatsSeen(
        Stats(
            memory_total=total * MIB,
            normal_bytes=int(swept * MIB),
            memory_sent=int(swept * MIB),
            memory_remaining=int(remaining * MIB),
            bytes_per_s=int(rate * MIB),
            **fields,
        )
    )


#: What a look at both hosts finds after a call that failed, by where the guest is then.
FOUND = {
    Place.SOURCE: (Half.WHOLE, Half.GONE),
    Place.SPLIT: (Half.SPLIT, Half.SPLIT),
    Place.DESTINATION: (Half.GONE, Half.WHOLE),
    Place.LOST: (Half.GONE, Half.GONE),
    Place.UNKNOWN: (Half.UNKNOWN, Half.UNKNOWN),
}


def ended(found: Place, error: str | None = "failed") -> ev.Ended:
    """The migrate call returned, and the guest was found there."""
    here, there = FOUND[found]
    return ev.Ended(error=error, here=here, there=there)


DONE = ended(Place.DESTINATION, None)


def looked(
    side: Side,
    half: Half,
    word: str | None = None,
    obstacle: str = "",
    qemu: int = 10_000_000,
    **figures: int,
) -> ev.Looked:
    """A look found this; of the source also what QEMU said, and sizes in bytes."""
    stats = Stats(**figures) if figures else None
    return ev.Looked(side, half, word, stats, obstacle, qemu=qemu)


def status(word: str, side: Side = SRC) -> ev.StatusSeen:
    return ev.StatusSeen(side, word)


def walk(*words: str, side: Side = SRC) -> list[ev.Event]:
    return [status(word, side) for word in words]


class Scene:
    """One migration, its driver and its clock.

    Actions are kept with the time at which they were asked for.  Nothing is carried out: a test feeds what
    comes of an action itself, but for looks at the hosts that are in ``hosts``: they find that at once.

    :param patience_s: How long a broken one is tried to be resumed.
    """

    def __init__(
        self,
        policy: Policy | str = "manual",
        start: float = 0.0,
        *,
        patience_s: float = 0.0,
        jitter: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.policy = parse(policy) if isinstance(policy, str) else policy
        self.now = start
        self.migration = Migration(self.policy, start, Recovery(patience_s, jitter))
        self.log: list[tuple[float, Action]] = []
        self.answered = 0  #: readings that a test has answered
        self.hosts: dict[Side, ev.Looked] = {}

    def find(self, *seen: ev.Looked) -> Scene:
        """Looks find this from now on."""
        self.hosts = {each.side: each for each in seen}
        return self

    def at(self, when: float, *events: ev.Event) -> list[Action]:
        """Let time pass to ``when``, deadlines kept, then feed events.  Gives what the events led to."""
        self.until(when)
        led_to: list[Action] = []
        for event in events:
            led_to += self._carry_out(self.migration.feed(event, self.now))
        return led_to

    def until(self, when: float) -> list[Action]:
        """Let time pass, deadlines kept."""
        assert when >= self.now, "time goes forward"
        led_to: list[Action] = []
        for _ in range(10_000):
            deadline = self.migration.deadline()
            if deadline is None or deadline > when:
                self.now = when
                return led_to
            self.now = max(self.now, deadline)
            led_to += self._carry_out(self.migration.tick(self.now))
        raise AssertionError("the core keeps asking for the same deadline")

    def _carry_out(self, actions: Iterable[Action]) -> list[Action]:
        """Keep actions, and take what a look finds, with what that leads to."""
        kept: list[Action] = []
        due = self._keep(actions)
        while due:
            action = due.pop(0)
            kept.append(action)
            answer = self.answer(action)
            if answer is not None:
                due += self._keep(self.migration.feed(answer, self.now))
        return kept

    def answer(self, action: Action) -> ev.Event | None:
        """What comes of an action at once."""
        return self.hosts.get(action.side) if isinstance(action, Look) else None

    def _keep(self, actions: Iterable[Action]) -> list[Action]:
        actions = list(actions)
        self.log += [(self.now, action) for action in actions]
        return actions

    def asked(self, kind: type[Action]) -> list[tuple[float, Action]]:
        return [(when, action) for when, action in self.log if isinstance(action, kind)]

    def times(self, kind: type[Action]) -> list[float]:
        return [when for when, _ in self.asked(kind)]

    @property
    def switches(self) -> list[float]:
        return self.times(Switch)

    @property
    def looks(self) -> list[float]:
        return self.times(VerifySwitch)

    @property
    def resumes(self) -> list[float]:
        return self.times(Resume)

    @property
    def pauses(self) -> list[float]:
        return self.times(Pause)

    @property
    def readings(self) -> list[float]:
        return self.times(ReadStats)

    @property
    def notes(self) -> list[str]:
        return [
            action.text for _, action in self.asked(Note) if isinstance(action, Note)
        ]

    @property
    def phase(self) -> Any:
        return self.migration.phase

    def precopy(self) -> Scene:
        """Go to pre-copy at the present time."""
        self.at(self.now, *walk("setup", "active"))
        return self
