"""A migration without libvirt's migration job: QEMU is driven through the monitor passthrough on both hosts.

Theory of operation
===================

libvirt starts a domain on the destination whose QEMU waits (``-incoming defer``) and whose vCPUs do not run; it holds
both domains for ordinary ones, so their monitors can be reached throughout.  Capabilities and parameters are set on
both and read back, the destination listens, the source migrates.

The destination's vCPUs are started by libvirt (``virDomainResume``, which takes its lock manager's locks), and only
when the *source* has said ``postcopy-active`` or ``completed`` and the destination has loaded the device state: earlier
a ``cont`` undoes ``-S``, and on QEMU >= 10.2 a cut at that moment leaves two running guests.  A guest that its user
had paused stays paused.

Up to the switch every failure goes back: the destination's domain, which is ours, is destroyed, the source's vCPUs
are started if QEMU had stopped them, and what was set is put back.  From the switch on neither half is touched until
both QEMUs say ``completed``; then the source's shell is destroyed.  ``migrate_cancel`` is never sent after the switch.

The client is needed until the end: nobody else starts the destination's vCPUs, or removes the source's shell.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import libvirt_postcopy.vir.calls as vir
from libvirt_postcopy import incoming
from libvirt_postcopy.constants import MigrateFlags, MigrateParam
from libvirt_postcopy.domxml import read_guest
from libvirt_postcopy.drivers.channel import channel_of, host_of
from libvirt_postcopy.drivers.ends import End, half_of_destination, half_of_source
from libvirt_postcopy.drivers.host import Connect, Pulse
from libvirt_postcopy.drivers.native import Target
from libvirt_postcopy.drivers.runner import Sink
from libvirt_postcopy.drivers.wishes import (
    Wishes,
    check_flags,
    check_guest,
    check_params,
    parameters_of,
)
from libvirt_postcopy.errors import (
    LibvirtError,
    NotSupportedError,
    PostcopyError,
    StateError,
    UsageError,
)
from libvirt_postcopy.events import (
    AbortRefused,
    Ended,
    Event,
    Finished,
    Half,
    Looked,
    PauseRefused,
    Resumed,
    Side,
    SplitSeen,
    StatsSeen,
    StatusSeen,
    SwitchAccepted,
    SwitchHeld,
    SwitchNotSeen,
    SwitchRefused,
)
from libvirt_postcopy.features import explain
from libvirt_postcopy.phases import Status
from libvirt_postcopy.qmp.commands import (
    POSTCOPY_NAMES,
    CommandError,
    MonitorError,
    Qemu,
)
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.units import MIB
from libvirt_postcopy.vir import monitor
from libvirt_postcopy.vir.events import ensure_event_loop
from libvirt_postcopy.vir.protocols import Domain

__all__ = ["QemuDriver"]

LOG = logging.getLogger("libvirt_postcopy.drivers")

_POLL_S = 1.0
"""Between looks for what no event has told."""

_CONFIRM_S = 60.0
"""How long a source that has sent all waits for its destination to confirm it."""

_RESUME_S = 20.0
"""How long a resumed migration may stay ``postcopy-paused``: up to QEMU 9.0 a failed attempt is not announced."""

_GO_ON_S = 15.0
"""How long the source is tried to be started again: right after a failure QEMU may still be at its cleaning."""

_RETRY_S = 0.5
_NUDGE_S = 5.0
"""How long a destination may fail to notice what its source has noticed, until it is told."""

_UNDER_WAY = frozenset(
    (
        Status.SETUP,
        Status.WAIT_UNPLUG,
        Status.ACTIVE,
        Status.PRE_SWITCHOVER,
        Status.DEVICE,
        Status.POSTCOPY_DEVICE,
    )
)
_SPLIT = frozenset(
    (
        Status.POSTCOPY_ACTIVE,
        Status.POSTCOPY_PAUSED,
        Status.POSTCOPY_RECOVER_SETUP,
        Status.POSTCOPY_RECOVER,
    )
)
_CAN_CANCEL = frozenset(
    (Status.SETUP, Status.WAIT_UNPLUG, Status.ACTIVE, Status.PRE_SWITCHOVER)
)
_WENT_BACK = frozenset((Status.FAILED, Status.CANCELLED))
_AWAY = frozenset((Status.POSTCOPY_ACTIVE, Status.COMPLETED))
_LOADED = frozenset((Status.POSTCOPY_ACTIVE, Status.POSTCOPY_PAUSED, Status.COMPLETED))
_CAN_BREAK = frozenset((Status.POSTCOPY_ACTIVE, Status.POSTCOPY_RECOVER))


class _Split(PostcopyError):
    """It went wrong after the switch."""


class QemuDriver:
    """Carries a migration out by QEMU's own commands.

    :param flags: libvirt's own only; see :mod:`libvirt_postcopy.drivers.wishes` for those that it can do.
    :param params: Typed parameters of ``virDomainMigrate3``; likewise.
    :param connect: Opens the connections of ours.
    :param recover_bandwidth: Post-copy's limit in MiB/s from the first recovery on; None keeps the one before.
    """

    name = "qemu"
    is_attached = False
    is_peer2peer = False

    def __init__(
        self,
        dom: Domain,
        target: Target,
        params: Mapping[str, Any],
        flags: MigrateFlags,
        connect: Connect = vir.open_connection,
        *,
        wishes: Wishes | None = None,
        recover_bandwidth: int | None = None,
    ) -> None:
        self._wishes = wishes or Wishes()
        self._recover_bandwidth = recover_bandwidth
        self._flags = flags
        self._params = dict(params)
        check_flags(flags)
        check_params(params)
        self._uuid = dom.UUIDString()
        self._name = dom.name()
        source, given = dom.connect(), target.connection
        there = target.uri if given is None else vir.uri_of(given)
        self._there_uri = there
        self._source = End(Side.SOURCE, self._uuid, vir.uri_of(source), connect, source)
        self._destination = End(Side.DESTINATION, self._uuid, there, connect, given)
        self._pulse = Pulse(self._destination.host)
        self._sink: Sink = lambda event: None
        self._news = threading.Condition()
        self._statuses: dict[Side, str] = {}
        self._line_of_source: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._sending = threading.Lock()
        self._is_abandoned = False
        self._was_sent = False
        self._has_begun = False  # QEMU's answers are about this migration
        self._was_created = False
        self._was_split = False
        self._is_starting = False
        self._is_started = threading.Event()  # or is to stay paused
        self._may_run_there = False
        self._stays_paused = False
        self._is_closed = threading.Event()
        self._is_finished = False
        self._finishing = threading.Lock()
        self._paused_since: float | None = None
        self._recover_port: int | None = None
        self._resumable = ""
        self.domain: Domain | None = None  #: on the destination, once it is there
        self.error: PostcopyError | None = None
        self.blocktime: Mapping[str, Any] = {}  #: QEMU's own names and units
        self.notes: list[str] = []  #: what did not work although the guest has moved

    # Driver

    def begin(self, sink: Sink) -> None:
        """Prepare and start the migration; see :class:`libvirt_postcopy.drivers.runner.Driver`."""
        self._sink = sink
        ensure_event_loop()
        self._source.host.renew()
        self._source.host.watch(self._hear_source)
        _in_background(self._run)

    def switch(self) -> Event:
        """Send ``migrate-start-postcopy``, if the destination lives."""
        silence = self._pulse.silence()
        if silence:
            return SwitchHeld(silence)
        try:
            self._source.control.start_postcopy()
        except CommandError as error:
            return SwitchRefused(error.desc, is_final="capability" in error.desc)
        except MonitorError as error:
            return SwitchRefused(error.what, is_final=False)
        return SwitchAccepted()

    def verify_switch(self) -> Event:
        """Ask the source's QEMU."""
        try:
            status = self._source.control.status()
        except PostcopyError as error:
            LOG.debug("not verified: %s", error)
            return SwitchNotSeen()
        self._note(Side.SOURCE, status)
        is_there = status in _SPLIT or status == Status.COMPLETED
        return SplitSeen(Side.SOURCE) if is_there else SwitchNotSeen()

    def read_stats(self) -> list[Event]:
        """Read the source's statistics."""
        if not self._has_begun:  # QEMU still tells those of an earlier migration
            return [StatsSeen(None)]
        info = self._source.readings.migration()
        status = str(info.get("status", Status.NONE.value))
        self._note(Side.SOURCE, status)
        seen: list[Event] = [StatsSeen(Stats.from_query_migrate(info))]
        return [*seen, SplitSeen(Side.SOURCE)] if status in _SPLIT else seen

    def abort(self) -> Event | None:
        """Send ``migrate_cancel``, but never after the switch."""
        with self._sending:
            if not self._was_sent:
                self._is_abandoned = True
                return None
            if self._was_split:
                return AbortRefused("the guest is split")
            try:
                status = self._source.control.status()
                if status not in _CAN_CANCEL:
                    return AbortRefused(f"the migration is {status}")
                self._source.control.cancel()
            except PostcopyError as error:
                return AbortRefused(error.what)
        return None

    def look(self, side: Side) -> Looked:
        """Look at one host."""
        end = self._end(side)
        if not end.is_reachable():
            return Looked(side, Half.UNKNOWN)
        half = end.half()
        if half in (Half.GONE, Half.INACTIVE, Half.UNKNOWN):
            return Looked(side, half)
        info = end.ask_migration()
        if side is Side.SOURCE:
            return self._look_at_source(half, info)
        return self._look_at_destination(half, info)

    def _look_at_source(self, half: Half, info: Mapping[str, Any] | None) -> Looked:
        if info is None:
            return Looked(Side.SOURCE, Half.UNKNOWN)
        status = str(info.get("status", Status.NONE.value))
        self._note(Side.SOURCE, status)
        found = half_of_source(half, status, was_split=self._was_split)
        stats = Stats.from_query_migrate(info)
        return Looked(Side.SOURCE, found, status, stats, self._resumable)

    def _look_at_destination(
        self, half: Half, info: Mapping[str, Any] | None
    ) -> Looked:
        if info is not None and info.get("status"):
            self._note(Side.DESTINATION, str(info["status"]))
        status = self._statuses.get(Side.DESTINATION, "")
        self._nudge(status)
        return Looked(Side.DESTINATION, half_of_destination(half, status))

    def pause(self) -> Event | None:
        """Make both QEMUs break the migration: on a link that swallows packets neither hears of the other's."""
        with suppress(PostcopyError):
            self._break_there()
        try:
            self._source.control.pause()
        except PostcopyError as error:
            return PauseRefused(error.what)
        return None

    def resume(self) -> None:
        """Give the broken migration a new channel."""
        _in_background(self._run_resume)

    def hand_over(self) -> None:
        """Finish what is left to do, and leave the destination's domain to whoever gets it."""
        self._finish()
        self._pulse.stop()
        self.domain, _ = self._destination.host.look_up()
        self._destination.host.release()

    def close(self) -> None:
        """Listen no more."""
        self._is_closed.set()
        self._pulse.stop()
        self._source.close()
        self._destination.close()

    # What is seen

    def _end(self, side: Side) -> End:
        return self._source if side is Side.SOURCE else self._destination

    def _hear_source(self, event: Event) -> None:
        if self._was_sent:  # or it speaks of what went on before
            if isinstance(event, StatusSeen):
                self._note(event.side, event.status)
            self._sink(event)

    def _hear_destination(self, event: Event) -> None:
        if isinstance(event, StatusSeen):
            self._note(event.side, event.status)
        if isinstance(event, Resumed):
            self._may_run_there = True
        self._sink(event)

    def _note(self, side: Side, status: str) -> None:
        with self._news:
            is_new = self._statuses.get(side) != status
            self._statuses[side] = status
            if side is Side.SOURCE and is_new:
                self._line_of_source.put(status)
                self._was_split |= status in _SPLIT
                is_paused = status == Status.POSTCOPY_PAUSED
                self._paused_since = time.monotonic() if is_paused else None
            self._news.notify_all()

    # The call

    def _run(self) -> None:
        self._end_with(self._failure(self._migrate))

    def _run_resume(self) -> None:
        self._end_with(self._failure(self._go_on))

    def _failure(self, call: Callable[[], None]) -> PostcopyError | None:
        try:
            call()
        except PostcopyError as error:
            return error
        except Exception as error:  # a bug of ours must not leave the caller waiting
            LOG.exception("the driver failed unexpectedly")
            return PostcopyError(f"unexpected: {error!r}")
        return None

    def _end_with(self, error: PostcopyError | None) -> None:
        if self._is_closed.is_set():
            return  # nobody listens, and nothing may be undone unseen
        self.error = error
        if error is None:
            self._sink(Ended(here=Half.INACTIVE, there=Half.WHOLE))
            return
        if not self._was_split:
            error = self._take_back(error)
        if not self._was_sent:
            self._sink(Ended(error=str(error), was_sent=False))
            return
        here, there = Half.SPLIT_FAILED, Half.UNKNOWN
        if not self._was_split:
            here, there = self._halves()
        self._sink(Ended(error=str(error), here=here, there=there))

    def _halves(self) -> tuple[Half, Half]:
        here = self._source.half()
        with suppress(PostcopyError):
            status = self._source.control.status()
            here = half_of_source(here, status, was_split=self._was_split)
        if not self._was_created:
            return here, Half.GONE
        status = self._statuses.get(Side.DESTINATION, "")
        return here, half_of_destination(self._destination.half(), status)

    def _migrate(self) -> None:
        self._check_source()
        self._connect()
        self._create()
        uri = self._listen()
        self._set_up_source()
        with self._sending:
            if self._is_abandoned:
                raise PostcopyError("aborted before anything was started")
            self._forget_past()
            self._was_sent = True
        self._pulse.start()
        self._source.control.migrate(uri)
        self._has_begun = True
        self._follow()

    def _forget_past(self) -> None:
        while not self._line_of_source.empty():
            self._line_of_source.get()
        self._statuses.pop(Side.SOURCE, None)

    # Preparing

    def _check_source(self) -> None:
        """Refuse what would endanger the guest.

        :raises PostcopyError: If something would.
        """
        self._resumable = (
            "release-ram is on: the source has given the memory back"
            if self._wishes.release_ram
            else ""
        )
        status = self._source.control.status()
        if status in _UNDER_WAY or status in _SPLIT:
            raise StateError(
                f"QEMU is migrating it already: {status}",
                side="source",
                cure="look at the domain on both hosts, and destroy neither",
            )
        run_state = self._source.control.run_state()
        if run_state in ("postmigrate", "finish-migrate", "inmigrate"):
            raise StateError(
                f"this QEMU does not hold the guest (anymore, or not yet): {run_state}",
                side="source",
                cure="look for the guest on other hosts before anything is done to it here",
            )
        with self._source.seat.domain() as dom:
            self._stays_paused = monitor.is_paused(dom)
            self._xml = monitor.migratable_xml(dom)
            self._persistent = self._persistent_xml(dom)
        check_guest(read_guest(self._xml), self._flags)

    def _persistent_xml(self, dom: Domain) -> str | None:
        """What is to be defined on the destination; None for nothing."""
        if not self._flags & MigrateFlags.VIR_MIGRATE_PERSIST_DEST:
            return None
        given = self._params.get(MigrateParam.VIR_MIGRATE_PARAM_PERSIST_XML)
        if given is None:
            is_defined = monitor.is_persistent(dom)
            given = monitor.persistent_xml(dom) if is_defined else self._xml
        return self._renamed(incoming.clean_xml(str(given)))

    def _renamed(self, xml: str) -> str:
        name = self._params.get(MigrateParam.VIR_MIGRATE_PARAM_DEST_NAME)
        return incoming.renamed(xml, str(name)) if name else xml

    def _connect(self) -> None:
        """Reach the destination, and choose the addresses.

        :raises PostcopyError: If it cannot be reached, or is the source.
        """
        host = self._destination.host
        if host.can_be_reached_anew:
            host.renew()
        with self._source.host.line() as here, host.line() as there:
            uuid = vir.host_uuid(here)
            if uuid is not None and uuid == vir.host_uuid(there):
                raise UsageError(
                    "source and destination are the same host",
                    side="destination",
                    cure="name another host; two daemons on one machine need different host_uuid",
                )
            if vir.find_domain(there, self._uuid) is not None:
                raise StateError(
                    f"the destination has a domain '{self._name}' already",
                    side="destination",
                    cure="remove it there only if it is not this guest's other half",
                )
            name = host_of(self._there_uri) or monitor.hostname(there)
        uri = self._params.get(MigrateParam.VIR_MIGRATE_PARAM_URI)
        self._channel = channel_of(
            name,
            migrate_uri=str(uri) if uri else None,
            listen_address=self._params.get(
                MigrateParam.VIR_MIGRATE_PARAM_LISTEN_ADDRESS
            ),
            ports=self._wishes.ports,
        )
        host.watch(self._hear_destination)

    def _create(self) -> None:
        """Start the destination's QEMU, which waits."""
        given = self._params.get(MigrateParam.VIR_MIGRATE_PARAM_DEST_XML)
        xml = self._renamed(incoming.incoming_xml(str(given or self._xml)))
        if read_guest(xml).uuid != self._uuid:
            raise UsageError(
                "the XML for the destination is that of another domain",
                cure="keep the guest's <uuid>",
            )
        with self._destination.host.line() as connection:
            monitor.create_paused(connection, xml)
        self._was_created = True
        self._destination.forget()

    def _listen(self) -> str:
        """Set the destination up and let it listen; give the URI for the source."""
        qemu = self._destination.control
        here, there = self._source.control.capabilities(), qemu.capabilities()
        self._wanted_here, wanted_there = self._capabilities(here, there)
        self._switch_capabilities(self._destination, there, wanted_there)
        self._set_credentials(self._destination)
        self._set_parameters(self._destination, {})
        return self._channel.connecting_uri(self._bind(qemu))

    def _bind(self, qemu: Qemu) -> int:
        """Listen on a free port of the range; give the port."""
        if self._channel.path:
            qemu.listen(self._channel.listening_uri())
            return 0
        tells_port = qemu.has_command("announce-self")
        try:
            # QEMU 4.0 has brought that command, and socket-address, which tells the port.
            if tells_port or len(self._channel.ports) == 1:
                qemu.listen(self._channel.listening_uri())
                return (*qemu.listening_ports(), *self._channel.ports)[0]
            return self._bind_one_by_one(qemu)
        except CommandError as error:
            raise PostcopyError(
                f"QEMU cannot listen at {self._channel.bind}: {error.desc}",
                side="destination",
                cure="free a port of the range, or name an address of the destination: --migrateuri tcp://ADDRESS[:PORT]"
                " and --listen-address",
            ) from error

    def _bind_one_by_one(self, qemu: Qemu) -> int:
        for port in self._channel.ports[:-1]:
            try:
                qemu.listen(self._channel.listening_uri(port))
            except CommandError as error:
                LOG.info("port %s: %s", port, error.desc)
                continue
            return port
        qemu.listen(self._channel.listening_uri(self._channel.ports[-1]))
        return self._channel.ports[-1]

    def _capabilities(
        self, here: Mapping[str, bool], there: Mapping[str, bool]
    ) -> tuple[dict[str, bool], dict[str, bool]]:
        """What is to be on at each end; all else that is on is switched off.

        :raises NotSupportedError: If one of the QEMUs does not have what is asked for.
        """
        both = {"events", *(name for name in _ALWAYS if name in here and name in there)}
        source, destination = set(both), set(both)
        if self._flags & MigrateFlags.VIR_MIGRATE_POSTCOPY:
            source.add(_postcopy_name(here, Side.SOURCE))
            destination.add(_postcopy_name(there, Side.DESTINATION))
        if self._flags & MigrateFlags.VIR_MIGRATE_AUTO_CONVERGE:
            source.add("auto-converge")
        if self._wishes.preempt:
            source.add("postcopy-preempt")
            destination.add("postcopy-preempt")
        if self._wishes.blocktime:
            destination.add("postcopy-blocktime")
        if self._wishes.release_ram:
            source.add("release-ram")
        destination |= {name for name in _ALWAYS_THERE if name in there}
        _require(source, here, Side.SOURCE)
        _require(destination, there, Side.DESTINATION)
        return _changes(here, source), _changes(there, destination)

    def _switch_capabilities(
        self, end: End, before: Mapping[str, bool], wanted: Mapping[str, bool]
    ) -> None:
        end.settings.capabilities = {name: before[name] for name in wanted}
        try:
            end.control.set_capabilities(wanted)
        except CommandError as error:
            raise NotSupportedError(
                f"QEMU refused post-copy: {error.desc}",
                side=end.side.value,
                cure=explain(error.desc).cure,
            ) from error

    def _set_up_source(self) -> None:
        end = self._source
        before = end.control.capabilities()
        self._switch_capabilities(end, before, self._wanted_here)
        self._set_credentials(end)
        with end.seat.domain() as dom:
            speed = monitor.max_speed_mib_s(dom)
            postcopy = monitor.postcopy_speed_mib_s(dom)
        wanted = parameters_of(self._params, self._wishes, speed, postcopy)
        self._set_parameters(end, wanted)
        if not end.control.has_command("migrate-recover"):
            self._resumable = "QEMU on the source cannot resume a broken post-copy (3.0 and later can)"

    def _set_parameters(self, end: End, wanted: Mapping[str, Any]) -> None:
        """Set them, and what an earlier migration may have left."""
        before = end.control.parameters()
        wanted = {**self._tls_parameters(end, before), **wanted}
        if end.side is Side.SOURCE and "max-postcopy-bandwidth" in before:
            wanted.setdefault("max-postcopy-bandwidth", 0)
        end.settings.parameters = {
            name: before[name] for name in wanted if name in before
        }
        if wanted:
            end.control.set_parameters(wanted)

    # TLS

    @property
    def _wants_tls(self) -> bool:
        return bool(self._flags & MigrateFlags.VIR_MIGRATE_TLS)

    def _tls_parameters(self, end: End, before: Mapping[str, Any]) -> dict[str, Any]:
        if not self._wants_tls:
            return {"tls-creds": ""} if before.get("tls-creds") else {}
        if end.side is Side.DESTINATION:
            return {"tls-creds": _CREDENTIALS}
        name = self._params.get("tls.destination") or self._channel.name
        return {"tls-creds": _CREDENTIALS, "tls-hostname": str(name)}

    def _set_credentials(self, end: End) -> None:
        """Load certificates from where libvirt would look for them.

        :raises NotSupportedError: If there are none: nothing is sent in the clear that was to be encrypted.
        """
        if not self._wants_tls:
            return
        refusals = []
        for folder in _PKI:
            try:
                end.control.add_tls_credentials(
                    _CREDENTIALS, folder, is_server=end.side is Side.DESTINATION
                )
            except CommandError as error:
                refusals.append(error.desc)
                continue
            end.settings.credentials.append(_CREDENTIALS)
            return
        names = "server" if end.side is Side.DESTINATION else "client"
        raise NotSupportedError(
            f"no TLS certificates for migration: {refusals[-1]}",
            side=end.side.value,
            cure=f"put ca-cert.pem, {names}-cert.pem and {names}-key.pem into {_PKI[-1]}, readable for QEMU,"
            " or leave out --tls",
        )

    # On its way

    def _follow(self, *, is_resumed: bool = False) -> None:
        """Stay with it until all is on the destination.

        :raises PostcopyError: If it fails or breaks.
        """
        give_up_at = time.monotonic() + _RESUME_S if is_resumed else None
        while not self._is_closed.is_set():
            status = self._next_status()
            if status == Status.COMPLETED:
                self._start_there()
                self._await_confirmation()
                return
            if status in _AWAY:
                self._start_there()
            if status == Status.POSTCOPY_PAUSED:
                raise _Split(self._words("the link broke"), side="source")
            if status in _WENT_BACK:
                raise PostcopyError(self._words(f"the migration {status}"))
            if status is None:
                self._look_around(give_up_at)
            else:
                give_up_at = None

    def _next_status(self) -> str | None:
        try:
            return self._line_of_source.get(timeout=_POLL_S)
        except queue.Empty:
            return None

    def _look_around(self, give_up_at: float | None) -> None:
        """See what no event tells.

        :raises PostcopyError: If one of the halves is gone, or nothing comes of a resume.
        """
        if give_up_at is not None and time.monotonic() >= give_up_at:
            raise _Split("QEMU has not come back from its break", side="source")
        if self._source.half() in (Half.GONE, Half.INACTIVE):
            raise PostcopyError("its QEMU has ended", side="source")
        if self._destination.half() in (Half.GONE, Half.INACTIVE):
            if self._was_split:
                raise _Split("its QEMU has ended", side="destination")
            raise PostcopyError("its QEMU has ended", side="destination")
        if self._was_split:  # before, a question can delay the switch
            with suppress(PostcopyError):
                self._note(Side.SOURCE, self._source.readings.status())

    def _words(self, text: str) -> str:
        """What happened, with QEMU's own words where it has some."""
        with suppress(PostcopyError):
            desc = self._source.control.migration().get("error-desc")
            if desc:
                return f"{text}: {desc}"
        return text

    def _start_there(self) -> None:
        if not self._is_starting:
            self._is_starting = True
            _in_background(self._start_vcpus)

    def _start_vcpus(self) -> None:
        """Start the destination's vCPUs, again and again while its daemon does not: the guest runs nowhere else."""
        while not (self._is_started.is_set() or self._is_closed.is_set()):
            try:
                self._try_to_start()
            except PostcopyError as error:
                LOG.warning("the destination was not started: %s", error)
            except Exception:  # a bug of ours must not leave the guest standing
                LOG.exception("the destination was not started")
            self._destination.seat.forget()
            if self._destination.half() in (Half.GONE, Half.INACTIVE):
                return
            self._is_started.wait(_RETRY_S)

    def _try_to_start(self) -> None:
        self._await_loaded()
        with suppress(PostcopyError), self._source.seat.domain() as here:
            self._stays_paused |= monitor.is_paused_by_others(here)
        if not self._stays_paused:
            with self._destination.seat.domain() as dom:
                self._may_run_there = True
                monitor.resume(dom, "destination")
        self._is_started.set()

    def _await_loaded(self) -> None:
        """Wait until the destination has the device state; before, ``cont`` would undo ``-S``."""
        with self._news:
            if self._news.wait_for(self._is_loaded, timeout=_RETRY_S):
                return
        while not (self._is_loaded() or self._is_closed.is_set()):
            # QEMU 2.5 announces nothing there.
            if self._destination.readings.run_state() != "inmigrate":
                return
            with self._news:
                self._news.wait_for(self._is_loaded, timeout=0.02)

    def _is_loaded(self) -> bool:
        return self._statuses.get(Side.DESTINATION) in _LOADED

    def _await_confirmation(self) -> None:
        """All has been sent: wait until the destination has all, and runs.

        :raises PostcopyError: If it does not say so.
        """
        end_at = time.monotonic() + _CONFIRM_S
        while time.monotonic() < end_at and not self._is_closed.is_set():
            if self._is_started.wait(_RETRY_S) and self._is_complete_there():
                self._sink(
                    Finished(Stats.from_query_migrate(self._source.control.migration()))
                )
                self._finish()
                return
            if self._destination.half() in (Half.GONE, Half.INACTIVE):
                raise PostcopyError("its QEMU has ended", side="destination")
        raise _Split("it does not confirm that it has all", side="destination")

    def _is_complete_there(self) -> bool:
        seen = self._statuses.get(Side.DESTINATION)
        if seen == Status.COMPLETED:
            return True
        info = self._destination.ask_migration()
        if info is None:
            return False
        # Up to QEMU 2.12 a destination's reply is empty, and 2.5 announces nothing either.
        status = str(info.get("status") or Status.COMPLETED.value)
        if info.get("status") is None and seen in _SPLIT:
            return False
        return status == Status.COMPLETED

    # The end

    def _finish(self) -> None:
        """Remove the source's shell, define and undefine as asked, put the destination's settings back.

        Once, and only when both QEMUs have said that all is on the destination.
        """
        with self._finishing:
            if self._is_finished:
                return
            if self._source.half() not in (Half.GONE, Half.UNKNOWN):
                if self._source.control.status() != Status.COMPLETED:
                    return
                if not (self._is_started.is_set() and self._is_complete_there()):
                    return
            self._is_finished = True
            if self._wishes.blocktime:
                self._read_blocktime()
            self._define()
            self._remove_source()
            self._destination.settings.put_back(self._destination.control)

    def _read_blocktime(self) -> None:
        # Only of the destination: a source that was one before still tells its own old figures.
        with suppress(PostcopyError):
            info = self._destination.control.migration()
            self.blocktime = {
                name: value
                for name, value in info.items()
                if name.startswith("postcopy-")
            }

    def _define(self) -> None:
        if self._persistent is None:
            return
        try:
            with self._destination.host.line() as connection:
                monitor.define(connection, self._persistent)
        except LibvirtError as error:
            self._complain(
                f"the guest runs on the destination, but is not defined: {error}"
            )
            self._persistent = None

    def _remove_source(self) -> None:
        """Remove what is left on the source: the memory and the disks are the destination's."""
        try:
            with self._source.seat.domain() as dom:
                if vir.half(dom) is not Half.INACTIVE:
                    monitor.destroy(dom, "source")
        except LibvirtError as error:
            if self._source.half() not in (Half.GONE, Half.INACTIVE):
                self._complain(
                    f"the guest runs on the destination; destroy what is left of it on the source: {error}"
                )
                return
        self._undefine()

    def _undefine(self) -> None:
        if not self._flags & MigrateFlags.VIR_MIGRATE_UNDEFINE_SOURCE:
            return
        wanted = self._flags & MigrateFlags.VIR_MIGRATE_PERSIST_DEST
        if wanted and self._persistent is None:
            return  # or it would be defined nowhere
        try:
            with self._source.seat.domain() as dom:
                if monitor.is_persistent(dom):
                    monitor.undefine(dom)
        except LibvirtError as error:
            if self._source.half() is not Half.GONE:
                self._complain(f"still defined on the source: {error}")

    def _complain(self, text: str) -> None:
        LOG.warning("%s", text)
        self.notes.append(text)

    # Going back

    def _take_back(self, error: PostcopyError) -> PostcopyError:
        """Undo all, as nothing of the guest has left the source; give the error, with what could not be undone."""
        if self._may_run_there:
            return (
                error  # never seen before the switch, and then nothing is ours to undo
            )
        left = ""
        if self._was_created:
            left = self._remove_destination()
        if self._source.half() not in (Half.GONE, Half.INACTIVE, Half.UNKNOWN):
            if self._was_sent:  # or nothing has stopped it
                self._go_on_here()
            self._source.settings.put_back(self._source.control)
        if left:
            error.what = f"{error.what}; {left}"
        return error

    def _remove_destination(self) -> str:
        try:
            with self._destination.seat.domain() as dom:
                monitor.destroy(dom, "destination")
        except LibvirtError as error:
            if self._destination.half() is Half.GONE:
                return ""
            return f"the paused domain that was to receive it is still on the destination: {error.what}"
        return ""

    def _go_on_here(self) -> None:
        """Start the source's vCPUs if QEMU had stopped them."""
        if self._stays_paused:
            return
        end_at = time.monotonic() + _GO_ON_S
        while time.monotonic() < end_at:
            try:
                with self._source.seat.domain() as dom:
                    if monitor.is_paused_by_others(dom):
                        return
                    if self._source_runs(dom):
                        return
            except PostcopyError as error:
                LOG.warning("the source does not go on yet: %s", error)
            time.sleep(_RETRY_S)

    def _source_runs(self, dom: Domain) -> bool:
        """Let it run, by libvirt where that has seen the stop."""
        if monitor.is_paused(dom):
            monitor.resume(dom, "source")
            return True
        # Not over the seat that is taken.
        if self._source.readings.run_state() == "running":
            return True
        self._source.readings.cont()
        return True

    # A new channel

    def _go_on(self) -> None:
        """Let the destination listen anew, and the source connect.

        :raises PostcopyError: If it breaks again, or cannot be resumed now.
        """
        port = self._recover_there()
        if self._recover_bandwidth is not None:
            limit = {"max-postcopy-bandwidth": self._recover_bandwidth * MIB}
            self._source.control.set_parameters(limit)
        self._forget_past()
        self._statuses[Side.SOURCE] = Status.POSTCOPY_PAUSED.value
        self._source.control.migrate(self._channel.connecting_uri(port), resume=True)
        self._follow(is_resumed=True)

    def _recover_there(self) -> int:
        """Let the destination wait for the source; give its port.

        The address is one at which it has listened before: up to QEMU 7.0 a call that fails can never be repeated.
        """
        qemu = self._destination.control
        try:
            qemu.recover(self._channel.listening_uri())
        except CommandError as error:
            if self._recover_port is None or "triggered already" not in error.desc:
                raise
            return self._recover_port  # it still waits there
        # Up to QEMU 7.2 the ports of before are told too, after the new one.
        ports = qemu.listening_ports() or tuple(self._channel.ports)
        self._recover_port = 0 if self._channel.path else ports[0]
        return self._recover_port

    def _nudge(self, status: str) -> None:
        """Tell a destination of a break that only its source has noticed."""
        since = self._paused_since
        if since is None or status not in _CAN_BREAK:
            return
        if time.monotonic() - since >= _NUDGE_S:
            with suppress(PostcopyError):
                self._break_there()

    def _break_there(self) -> None:
        self._destination.readings.pause()


_CREDENTIALS = "libvirt-postcopy-tls"
_PKI = ("/etc/pki/libvirt-migrate", "/etc/pki/qemu")
"""libvirt's defaults (qemu.conf: migrate_tls_x509_cert_dir, default_tls_x509_cert_dir), in its order."""

_ALWAYS = ("return-path",)
_ALWAYS_THERE = ("late-block-activate",)


def _postcopy_name(known: Mapping[str, bool], side: Side) -> str:
    for name in POSTCOPY_NAMES:
        if name in known:
            return name
    raise NotSupportedError(
        "this QEMU has no post-copy", side=side.value, cure="use QEMU >= 2.5"
    )


_SINCE = {
    "postcopy-preempt": "7.1",
    "postcopy-blocktime": "3.0",
    "release-ram": "2.9",
}


def _require(wanted: set[str], known: Mapping[str, bool], side: Side) -> None:
    missing = sorted(wanted - known.keys())
    if missing:
        since = _SINCE.get(missing[0])
        raise NotSupportedError(
            f"this QEMU has no {', '.join(missing)}",
            side=side.value,
            cure=f"leave it out, or use QEMU >= {since}" if since else "",
        )


def _changes(before: Mapping[str, bool], wanted: set[str]) -> dict[str, bool]:
    """What differs; ``events`` is libvirt's, which needs it too."""
    return {
        name: name in wanted
        for name, is_on in before.items()
        if is_on is not (name in wanted)
    }


def _in_background(job: Callable[[], None]) -> None:
    threading.Thread(
        target=job, name=f"postcopy-{job.__name__.strip('_')}", daemon=True
    ).start()
