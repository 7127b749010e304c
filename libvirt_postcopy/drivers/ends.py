"""The two ends of a migration that libvirt does not run: the domain there, and its QEMU."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import libvirt_postcopy.vir.calls as vir
from libvirt_postcopy.drivers.host import Connect, Host, Line
from libvirt_postcopy.errors import LibvirtError, PostcopyError
from libvirt_postcopy.events import Half, Side
from libvirt_postcopy.phases import Status
from libvirt_postcopy.qmp.commands import Qemu
from libvirt_postcopy.qmp.passthrough import Passthrough
from libvirt_postcopy.vir.monitor import MonitorWatch
from libvirt_postcopy.vir.protocols import Connection, Domain

__all__ = [
    "End",
    "Seat",
    "Settings",
    "half_of_destination",
    "half_of_source",
    "within",
]

LOG = logging.getLogger("libvirt_postcopy.drivers")

_Answer = TypeVar("_Answer")

_PROBE_S = 1.0
_ANSWER_S = 3.0
"""A destination's QEMU whose main loop waits for a page does not answer: what it announced last must do then."""


def within(seconds: float, job: Callable[[threading.Event], None]) -> bool:
    """Do what may hang on a dead host; give False if it has not come to its end in time.

    :param job: Gets an event that is set when nobody waits for it any more.
    :raises PostcopyError: If it has come to such an end.
    """
    errors: list[PostcopyError] = []
    is_late = threading.Event()

    def run() -> None:
        try:
            job(is_late)
        except PostcopyError as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="postcopy-within", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        is_late.set()
        return False
    if errors:
        raise errors[0]
    return True


class _MonitoredHost(Host):
    """Hears QEMU's passes too."""

    _has_listened = _may_have_missed = False

    def listen_again(self) -> bool:
        """Listen anew if the connection has died over which events come; say whether some may have been missed.

        :raises LibvirtError: If the host cannot be reached.
        """
        if self._present() is None and self.can_be_reached_anew:
            self.renew()
        has_missed, self._may_have_missed = self._may_have_missed, False
        return has_missed

    def _listen(self, line: Line) -> None:
        assert self._sink is not None
        self._may_have_missed |= self._has_listened
        self._has_listened = True
        with line.turn:
            if line.watch is None:
                line.watch = MonitorWatch(
                    line.connection, self._uuid, self.side, self._sink
                )
        if self._is_closed:
            line.release()


class _Asker:
    """Asks what may never answer, one question at a time."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None

    def ask(self, question: Callable[[], _Answer]) -> _Answer | None:
        """The answer; None if it does not come soon."""
        if not self._turn.acquire(timeout=_ANSWER_S):
            return None
        try:
            return self._ask(question)
        finally:
            self._turn.release()

    def _ask(self, question: Callable[[], _Answer]) -> _Answer | None:
        if self._thread is not None and self._thread.is_alive():
            return None  # the last question is not answered yet
        answers: list[_Answer] = []

        def ask() -> None:
            with suppress(PostcopyError):
                answers.append(question())

        self._thread = threading.Thread(target=ask, name=self._name, daemon=True)
        self._thread.start()
        self._thread.join(_ANSWER_S)
        return answers[0] if answers else None


class Seat:
    """The domain over a connection that one use has for itself; opened at the first use, and again if it was lost."""

    def __init__(self, host: Host, uuid: str) -> None:
        self._host = host
        self._uuid = uuid
        self._turn = threading.Lock()
        self._connection: Connection | None = None
        self._domain: Domain | None = None

    @contextmanager
    def domain(self) -> Iterator[Domain]:
        """The domain, for one thread at a time.

        :raises LibvirtError: If the host cannot be reached, or does not have it.
        """
        if not self._host.can_be_reached_anew:
            with self._host.line() as connection:
                yield self._found(connection)
            return
        with self._turn:
            if self._connection is None or not vir.is_alive(self._connection):
                self._domain = None
                if self._connection is not None:
                    self._host.check_answers()
                self._connection = self._host.open()
            if self._domain is None:
                self._domain = self._found(self._connection)
            yield self._domain

    def forget(self) -> None:
        """The domain is another one by now, or gone."""
        self._domain = None

    def _found(self, connection: Connection) -> Domain:
        found = vir.find_domain(connection, self._uuid)
        if found is None:
            side = self._host.side.value
            raise LibvirtError(f"the guest is not on the {side}", side=side)
        return found


@dataclass
class Settings:
    """Of one QEMU: what was changed for the migration, with the values from before."""

    capabilities: dict[str, bool] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)
    credentials: list[str] = field(default_factory=list)

    def put_back(self, qemu: Qemu) -> None:
        """Undo it, as far as QEMU lets us: a value that cannot be put back harms no guest."""
        with _going_on():
            qemu.set_capabilities(self.capabilities)
        with _going_on():
            if self.parameters:
                qemu.set_parameters(self.parameters)
        for name in self.credentials:
            with _going_on():
                qemu.remove_object(name)
        self.capabilities.clear()
        self.parameters.clear()
        self.credentials.clear()


@contextmanager
def _going_on() -> Iterator[None]:
    try:
        yield
    except PostcopyError as error:
        LOG.info("not put back: %s", error)


class End:
    """One host's half: its events, its domain's state, and its QEMU over several connections.

    :ivar control: The QEMU for what is to be done.
    :ivar readings: The same for what may take long.
    :ivar pause_seat: For the question whether its user has paused it.
    """

    def __init__(
        self,
        side: Side,
        uuid: str,
        uri: str | None,
        connect: Connect,
        shared: Connection | None,
    ) -> None:
        self.side = side
        self.host = _MonitoredHost(side, uuid, uri, connect, shared=shared)
        self.settings = Settings()
        self._uuid = uuid
        self._uri = uri
        self._seats: list[Seat] = []
        self.seat = self._seat()
        self.pause_seat = self._seat()
        self._state_seat = self._seat()
        self.control = self._qemu(self.seat)
        self.readings = self._qemu(self._seat())
        self._looks = self._qemu(self._seat())
        self._qemu_asker = _Asker(f"postcopy-ask-{side.value}")
        self._state_asker = _Asker(f"postcopy-state-{side.value}")

    def _seat(self) -> Seat:
        seat = Seat(self.host, self._uuid)
        self._seats.append(seat)
        return seat

    def _qemu(self, seat: Seat) -> Qemu:
        return Qemu(Passthrough(seat.domain, self.side.value))

    def forget(self) -> None:
        """The domain is another one by now."""
        for seat in self._seats:
            seat.forget()

    def is_reachable(self) -> bool:
        """Whether its daemon's port accepts a connection, where that can be told."""
        return self._uri is None or vir.listens(self._uri, _PROBE_S)

    def half(self) -> Half:
        """What libvirt says, which knows of no migration; needs no job, so it answers while QEMU does not.

        UNKNOWN where its daemon does not answer soon.
        """
        return self._state_asker.ask(self._ask_half) or Half.UNKNOWN

    def _ask_half(self) -> Half:
        try:
            with self._state_seat.domain() as dom:
                half = vir.half(dom)
        except LibvirtError as error:
            return self._absence(error)
        if half in (Half.GONE, Half.UNKNOWN):
            self._state_seat.forget()
        return half

    def has_ended(self) -> bool:
        """Its daemon says that its QEMU does not run."""
        return self.half().is_absent

    def listen_again(self) -> bool:
        """See to it that events are heard; whether some may have been missed.

        :raises LibvirtError: If the host cannot be reached.
        """
        return self.host.listen_again()

    def _absence(self, error: LibvirtError) -> Half:
        """A domain that is not there is one thing, a daemon that does not say another."""
        LOG.debug("the %s: %s", self.side.value, error)
        try:
            with self.host.line() as connection:
                is_gone = vir.find_domain(connection, self._uuid) is None
        except LibvirtError:
            return Half.UNKNOWN
        return Half.GONE if is_gone else Half.UNKNOWN

    def ask_migration(self) -> dict[str, Any] | None:
        """``query-migrate``, if QEMU answers soon; None if not."""
        return self._answer(lambda qemu: dict(qemu.migration()))

    def ask_vcpus(self) -> tuple[str, int] | None:
        """What QEMU says of its vCPUs, and its version, if it answers soon; likewise."""
        return self._answer(lambda qemu: (qemu.run_state(), qemu.version()))

    def _answer(self, question: Callable[[Qemu], _Answer]) -> _Answer | None:
        return self._qemu_asker.ask(lambda: question(self._looks))

    def close(self) -> None:
        """Listen no more, and close what is ours; may hang on a dead host."""
        self.host.close()


def half_of_source(libvirts: Half, status: str, *, was_split: bool) -> Half:
    """What a source has of the guest, by its QEMU's status.

    :param libvirts: What libvirt says, which does not know of the migration.
    :param was_split: It has been in post-copy.
    """
    if libvirts in _NO_QEMU:
        return libvirts
    if status == Status.COMPLETED:
        return (
            Half.INACTIVE
        )  # all of the guest is gone from it, and only its shell is left
    if status in _SPLIT:
        return Half.SPLIT
    if status == Status.POSTCOPY_PAUSED or (was_split and status in _UNDONE):
        return Half.SPLIT_FAILED
    return Half.MIGRATING if status in _SWITCHING else Half.WHOLE


def half_of_destination(libvirts: Half, status: str) -> Half:
    """What a destination has of the guest, by its QEMU's status."""
    if libvirts in _NO_QEMU:
        return libvirts
    if status == Status.COMPLETED:
        return Half.WHOLE
    if status == Status.POSTCOPY_PAUSED:
        return Half.SPLIT_FAILED
    return Half.SPLIT if status in _SPLIT else Half.MIGRATING


_NO_QEMU = frozenset((Half.GONE, Half.INACTIVE, Half.UNKNOWN))
_SPLIT = frozenset(
    (
        Status.POSTCOPY_ACTIVE,
        Status.POSTCOPY_RECOVER_SETUP,
        Status.POSTCOPY_RECOVER,
    )
)
_SWITCHING = frozenset((Status.PRE_SWITCHOVER, Status.DEVICE, Status.POSTCOPY_DEVICE))
_UNDONE = frozenset(
    (Status.FAILED, Status.FAILING, Status.CANCELLED, Status.CANCELLING)
)
