"""Before the first byte: what is asked for is checked, the destination is created, and both QEMUs are set up.

Capabilities and parameters are set on both and read back, and what was changed is kept, to be put back.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any

import libvirt_postcopy.vir.calls as vir
from libvirt_postcopy import incoming
from libvirt_postcopy.constants import MigrateFlags, MigrateParam
from libvirt_postcopy.diagnosis import ON_THE_WAY
from libvirt_postcopy.domxml import read_guest
from libvirt_postcopy.drivers.channel import Channel, channel_of, host_of
from libvirt_postcopy.drivers.course import SPLIT, Ends
from libvirt_postcopy.drivers.ends import End, within
from libvirt_postcopy.drivers.tls import Tls
from libvirt_postcopy.drivers.wishes import Wishes, check_guest, parameters_of
from libvirt_postcopy.errors import (
    NotSupportedError,
    PostcopyError,
    StateError,
    UsageError,
)
from libvirt_postcopy.events import Side
from libvirt_postcopy.features import explain, version_text
from libvirt_postcopy.phases import Status
from libvirt_postcopy.qmp.commands import POSTCOPY_NAMES, CommandError, Qemu
from libvirt_postcopy.vir import monitor
from libvirt_postcopy.vir.protocols import Domain

__all__ = ["Creation", "Order", "Setup"]

LOG = logging.getLogger("libvirt_postcopy.drivers")

_ENDING = frozenset((Status.CANCELLING, Status.FAILING))
_NOT_THE_GUEST = ("postmigrate", "finish-migrate", "inmigrate")

_ALWAYS = ("return-path",)
_ALWAYS_THERE = ("late-block-activate",)

_SINCE = {
    "postcopy-preempt": "7.1",
    "postcopy-blocktime": "3.0",
    "release-ram": "2.9",
}

_RELEASE_RAM_IN_POSTCOPY = 3_000_000
"""QEMU before it crashes: 2.12.1's source with a segmentation fault in post-copy, each time."""


_ANSWER_S = 3.0
"""A destination's QEMU whose main loop waits for a page does not answer."""

_GIVEN_BACK = "release-ram is on: the source has given the memory back"
_NO_PORT = "this QEMU does not tell at which port it waits (4.0 and later do)"


class Creation(Enum):
    """What is known of the domain on the destination that waits for the guest."""

    NONE = "there is none"
    UNSURE = "it was asked for, and no answer has come"
    DONE = "it is there"


@dataclass(frozen=True)
class Order:
    """What was asked for.

    :ivar there: The destination's URI; None where there is only a connection.
    :ivar run: Its name in the XML of what it creates.
    """

    uuid: str
    name: str
    there: str | None
    flags: MigrateFlags
    params: Mapping[str, Any]
    wishes: Wishes
    run: str

    def param(self, name: str) -> Any:
        """One of libvirt's typed parameters; None where it was not given."""
        return self.params.get(name)


class Setup:
    """Prepares one migration, step by step.

    :ivar channel: Where the stream goes; from :meth:`connect` on.
    :ivar persistent: What is to be defined on the destination; None for nothing.
    :ivar obstacle: Why the migration could not be resumed if it broke; empty where it could.
    :ivar is_frail: One of the QEMUs has one try for each step of a recovery.
    """

    def __init__(self, order: Order, ends: Ends) -> None:
        self._order = order
        self._source = ends.source
        self._destination = ends.destination
        self._xml = ""
        self._tls = Tls(False, "")
        self._wanted_here: dict[str, bool] = {}
        self.channel = Channel()
        self.creation = Creation.NONE
        self.persistent: str | None = None
        self.obstacle = ""
        self.is_frail = False

    # The source

    def check_source(self) -> None:
        """Refuse what would endanger the guest.

        :raises PostcopyError: If something would.
        """
        status = self._source.control.status()
        if status in ON_THE_WAY or status in SPLIT:
            raise StateError(
                f"QEMU is migrating it already: {status}",
                side="source",
                cure="look at the domain on both hosts, and destroy neither",
            )
        if status in _ENDING:
            raise StateError(
                f"QEMU has not ended the migration before yet: {status}",
                side="source",
                cure="try again later: to give up a connection that a dead link never makes takes minutes",
            )
        run_state = self._source.control.run_state()
        if run_state in _NOT_THE_GUEST:
            raise StateError(
                f"this QEMU does not hold the guest (anymore, or not yet): {run_state}",
                side="source",
                cure="look for the guest on other hosts before anything is done to it here",
            )
        self._check_release_ram()
        with self._source.seat.domain() as dom:
            self._xml = monitor.migratable_xml(dom)
            self.persistent = self._persistent_xml(dom)
        check_guest(read_guest(self._xml), self._order.flags)

    def _check_release_ram(self) -> None:
        if not self._order.wishes.release_ram:
            return
        self.obstacle = _GIVEN_BACK
        if not self._order.flags & MigrateFlags.VIR_MIGRATE_POSTCOPY:
            return
        version = self._source.control.version()
        if version < _RELEASE_RAM_IN_POSTCOPY:
            raise NotSupportedError(
                f"QEMU {version_text(version)} crashes in post-copy with release-ram, and the guest is lost",
                side="source",
                cure="leave out --postcopy-release-ram, or use QEMU >= 3.0",
            )

    def _persistent_xml(self, dom: Domain) -> str | None:
        if not self._order.flags & MigrateFlags.VIR_MIGRATE_PERSIST_DEST:
            return None
        given = self._order.param(MigrateParam.VIR_MIGRATE_PARAM_PERSIST_XML)
        if given is None:
            is_defined = monitor.is_persistent(dom)
            given = monitor.persistent_xml(dom) if is_defined else self._xml
        return self._renamed(incoming.clean_xml(str(given)))

    def _renamed(self, xml: str) -> str:
        name = self._order.param(MigrateParam.VIR_MIGRATE_PARAM_DEST_NAME)
        return incoming.renamed(xml, str(name)) if name else xml

    def set_up_source(self) -> None:
        """Switch its capabilities and set its parameters.

        :raises PostcopyError: If that cannot be done.
        """
        end, order = self._source, self._order
        before = end.control.capabilities()
        self._switch_capabilities(end, before, self._wanted_here)
        with end.seat.domain() as dom:
            speed = monitor.max_speed_mib_s(dom)
            postcopy = monitor.postcopy_speed_mib_s(dom)
        wanted = parameters_of(order.params, order.wishes, speed, postcopy)
        self._set_parameters(end, wanted)
        if not end.control.has_command("migrate-recover"):
            self.obstacle = "QEMU on the source cannot resume a broken post-copy (3.0 and later can)"

    # The destination

    def connect(self) -> None:
        """Reach the destination, and choose the addresses.

        :raises PostcopyError: If it cannot be reached, is the source, or has the domain already.
        """
        order = self._order
        self._reach()
        with self._destination.host.line() as there:
            if vir.find_domain(there, order.uuid) is not None:
                raise StateError(
                    f"the destination has a domain '{order.name}' already",
                    side="destination",
                    cure="remove it there only if it is not this guest's other half",
                )

    def pick_up(self) -> None:
        """Find what a client that is gone has set up.

        :raises PostcopyError: If a host cannot be reached, or there is nothing of that run.
        """
        self._reach()
        with self._destination.host.line() as there:
            dom = vir.find_domain(there, self._order.uuid)
            if dom is None or not self.has_made(dom):
                raise StateError(
                    "the destination has no domain that this migration has created",
                    side="destination",
                    cure="look for the guest on both hosts before anything is done to it",
                )
        self.creation = Creation.DONE
        with suppress(PostcopyError):
            within(_ANSWER_S, lambda is_late: self._warm_up())
        here = self._source.control.capabilities()
        self.is_frail = "postcopy-preempt" not in here
        if here.get("release-ram"):
            self.obstacle = _GIVEN_BACK
        if not _tells_port(self._source.control):
            self.obstacle = _NO_PORT
        with self._source.seat.domain() as dom:
            self._xml = monitor.migratable_xml(dom)
            self.persistent = self._persistent_xml(dom)

    def has_made(self, dom: Domain) -> bool:
        """Whether this run has created a domain of the destination.

        :raises PostcopyError: If that cannot be seen.
        """
        return incoming.is_made_by(self._order.run, monitor.live_xml(dom))

    def _reach(self) -> None:
        host, order = self._destination.host, self._order
        if host.can_be_reached_anew:
            host.renew()
        with self._source.host.line() as here, host.line() as there:
            host_uuid = vir.host_uuid(here)
            if host_uuid is not None and host_uuid == vir.host_uuid(there):
                raise UsageError(
                    "source and destination are the same host",
                    side="destination",
                    cure="name another host; two daemons on one machine need different host_uuid",
                )
            name = host_of(order.there) or monitor.hostname(there)
        uri = order.param(MigrateParam.VIR_MIGRATE_PARAM_URI)
        self.channel = channel_of(
            name,
            migrate_uri=str(uri) if uri else None,
            listen_address=order.param(MigrateParam.VIR_MIGRATE_PARAM_LISTEN_ADDRESS),
            ports=order.wishes.ports,
        )
        self._tls = Tls(
            bool(order.flags & MigrateFlags.VIR_MIGRATE_TLS),
            str(order.param("tls.destination") or self.channel.name),
        )

    def start_destination(self) -> None:
        """Start the destination's QEMU, which waits.

        :raises PostcopyError: If it cannot be; :attr:`creation` tells what may be left of it.
        """
        given = self._order.param(MigrateParam.VIR_MIGRATE_PARAM_DEST_XML)
        xml = incoming.incoming_xml(str(given or self._xml), run=self._order.run)
        xml = self._renamed(xml)
        if read_guest(xml).uuid != self._order.uuid:
            raise UsageError(
                "the XML for the destination is that of another domain",
                cure="keep the guest's <uuid>",
            )
        self.creation = Creation.UNSURE
        with self._destination.host.line() as connection:
            monitor.create_paused(connection, xml)
        self.creation = Creation.DONE
        self._destination.forget()

    def listen(self) -> str:
        """Set the destination up and let it listen; give the URI for the source.

        :raises PostcopyError: If that cannot be done.
        """
        qemu = self._destination.control
        here, there = self._source.control.capabilities(), qemu.capabilities()
        # The capability came with 7.1, and so did the second try of a recovery.
        self.is_frail = not ("postcopy-preempt" in here and "postcopy-preempt" in there)
        self._wanted_here, wanted_there = self._capabilities(here, there)
        self._switch_capabilities(self._destination, there, wanted_there)
        self._set_parameters(self._destination, {})
        port = self._bind(qemu)
        # QEMU before 4.0 does not tell at which port it will wait for a recovery.
        if port and not _tells_port(qemu):
            self.channel = self.channel.at_port(port)
        self._warm_up()
        return self.channel.connecting_uri(port)

    def _warm_up(self) -> None:
        """Open the connection for the question that is asked while the guest stands still."""
        self._destination.readings.run_state()

    def _bind(self, qemu: Qemu) -> int:
        """Listen on a free port of the range; give the port."""
        if self.channel.path:
            qemu.listen(self.channel.listening_uri())
            return 0
        try:
            if _tells_port(qemu) or len(self.channel.ports) == 1:
                qemu.listen(self.channel.listening_uri())
                return (*qemu.listening_ports(), *self.channel.ports)[0]
            return self._bind_one_by_one(qemu)
        except CommandError as error:
            raise PostcopyError(
                f"QEMU cannot listen at {self.channel.bind}: {error.desc}",
                side="destination",
                cure="free a port of the range, or name an address of the destination: --migrateuri tcp://ADDRESS[:PORT]"
                " and --listen-address",
            ) from error

    def _bind_one_by_one(self, qemu: Qemu) -> int:
        for port in self.channel.ports[:-1]:
            try:
                qemu.listen(self.channel.listening_uri(port))
            except CommandError as error:
                LOG.info("port %s: %s", port, error.desc)
                continue
            return port
        qemu.listen(self.channel.listening_uri(self.channel.ports[-1]))
        return self.channel.ports[-1]

    # Both

    def _capabilities(
        self, here: Mapping[str, bool], there: Mapping[str, bool]
    ) -> tuple[dict[str, bool], dict[str, bool]]:
        """What is to be on at each end; all else that is on is switched off.

        :raises NotSupportedError: If one of the QEMUs does not have what is asked for.
        """
        wishes, flags = self._order.wishes, self._order.flags
        both = {"events", *(name for name in _ALWAYS if name in here and name in there)}
        source, destination = set(both), set(both)
        if flags & MigrateFlags.VIR_MIGRATE_POSTCOPY:
            source.add(_postcopy_name(here, Side.SOURCE))
            destination.add(_postcopy_name(there, Side.DESTINATION))
        if flags & MigrateFlags.VIR_MIGRATE_AUTO_CONVERGE:
            source.add("auto-converge")
        if wishes.preempt:
            source.add("postcopy-preempt")
            destination.add("postcopy-preempt")
        if wishes.blocktime:
            destination.add("postcopy-blocktime")
        if wishes.release_ram:
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

    def _set_parameters(self, end: End, wanted: Mapping[str, Any]) -> None:
        """Set them, and what an earlier migration may have left."""
        before = end.control.parameters()
        wanted = {**self._tls.set_up(end, before), **wanted}
        if end.side is Side.SOURCE and "max-postcopy-bandwidth" in before:
            wanted.setdefault("max-postcopy-bandwidth", 0)
        end.settings.parameters = {
            name: before[name] for name in wanted if name in before
        }
        if wanted:
            end.control.set_parameters(wanted)


def _tells_port(qemu: Qemu) -> bool:
    """QEMU 4.0 has brought that command, and ``socket-address``, which tells the port."""
    return qemu.has_command("announce-self")


def _postcopy_name(known: Mapping[str, bool], side: Side) -> str:
    for name in POSTCOPY_NAMES:
        if name in known:
            return name
    raise NotSupportedError(
        "this QEMU has no post-copy", side=side.value, cure="use QEMU >= 2.5"
    )


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
