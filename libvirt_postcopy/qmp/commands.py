"""The monitor's verbs that a migration needs, whatever the way to the monitor.

Theory of operation
===================

A :class:`Monitor` sends one command and gives its ``return`` member.  :class:`Qemu` puts names and types on what is
sent, and hides how QEMU spells it: capabilities and parameters are looked up in its own lists, never assumed from a
version.  ``postcopy-ram`` is ``x-postcopy-ram`` in 2.5; a capability that was switched on is read back, because 2.5
to 2.9 may drop it while they answer success.

Errors, by what the caller can do::

    MonitorError
    ├── CommandError      QEMU was asked and refuses: .error_class .desc
    ├── ConnectError      QEMU was not asked, its monitor cannot be reached
    ├── MonitorBusy       QEMU was not asked, somebody else has the domain: later
    ├── MonitorLost       it is not known whether QEMU was asked
    │   └── MonitorSilent     the way there stands, and nothing comes back: later
    ├── MonitorStuck      QEMU is there, and takes no command: its main loop stands still
    └── ProtocolError     what answers is no monitor
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from libvirt_postcopy.errors import NotSupportedError, PostcopyError

__all__ = [
    "CommandError",
    "ConnectError",
    "Monitor",
    "MonitorBusy",
    "MonitorError",
    "MonitorLost",
    "MonitorSilent",
    "MonitorStuck",
    "POSTCOPY_NAMES",
    "ProtocolError",
    "Qemu",
    "value_of",
]

POSTCOPY_NAMES = ("postcopy-ram", "x-postcopy-ram")
"""The capability's name, and the one it had in QEMU 2.5.  The stream is the same."""


class MonitorError(PostcopyError):
    """Something was asked of QEMU's monitor, and it was not done as far as is known."""


class CommandError(MonitorError):
    """QEMU refused a command; nothing has changed.

    :ivar command: Its name.
    :ivar error_class: ``GenericError``, ``CommandNotFound``, …
    :ivar desc: QEMU's own words.
    """

    def __init__(
        self, command: str, error_class: str, desc: str, *, side: str = ""
    ) -> None:
        super().__init__(f"QEMU refused {command}: {desc}", side=side)
        self.command = command
        self.error_class = error_class
        self.desc = desc

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.command, self.error_class, self.desc)
        return type(self), parts, self.__dict__

    @property
    def is_unknown_command(self) -> bool:
        """This QEMU has no such command."""
        return self.error_class == "CommandNotFound"


class ConnectError(MonitorError):
    """The monitor cannot be reached; nothing was sent."""


class MonitorBusy(MonitorError):
    """QEMU was not asked: another job holds the domain."""


class MonitorLost(MonitorError):
    """The way to the monitor is gone; the command may have been carried out."""


class MonitorSilent(MonitorLost):
    """Nothing comes back now, as over a link that is dead: what was sent may yet be carried out."""


class MonitorStuck(MonitorError):
    """QEMU's main loop stands still, as when it waits for a page of a broken post-copy; nothing was sent."""


class ProtocolError(MonitorError):
    """What has answered does not speak as a monitor does."""


class Monitor(Protocol):
    """A way to a QEMU's monitor."""

    side: str  #: for messages: ``source`` or ``destination``

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Send a command and give the ``return`` member of the reply.

        :raises CommandError: If QEMU refuses.
        :raises MonitorError: If it cannot be asked.
        """


def value_of(command: str, reply: Any, side: str) -> Any:
    """The ``return`` member of a reply.

    :raises CommandError: If it is an error of QEMU's.
    :raises ProtocolError: If it is no reply.
    """
    if isinstance(reply, Mapping) and "return" in reply:
        return reply["return"]
    error = reply.get("error") if isinstance(reply, Mapping) else None
    if not isinstance(error, Mapping):
        raise ProtocolError(f"no reply to {command}: {reply!r:.80}", side=side)
    kind, desc = (str(error.get(key, "")) for key in ("class", "desc"))
    raise CommandError(command, kind, desc or "no reason given", side=side)


#: What older releases have instead of a parameter: the command, its argument, and the factor.
_OLD_WAYS: Mapping[str, tuple[str, float]] = {
    "max-bandwidth": ("migrate_set_speed", 1),  # QEMU < 2.8; bytes/s in both
    "downtime-limit": ("migrate_set_downtime", 0.001),  # seconds there, ms here
}


class Qemu:
    """One QEMU, by its monitor.  Each verb is one command, unless it says otherwise.

    What a verb raises is a :class:`MonitorError`.
    """

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._commands: frozenset[str] | None = None

    @property
    def side(self) -> str:
        """``source`` or ``destination``."""
        return self._monitor.side

    def ask(self, command: str, **arguments: Any) -> Any:
        """Send a command; underscores in arguments stand for hyphens."""
        given = {name.replace("_", "-"): it for name, it in arguments.items()}
        return self._monitor.execute(command, given or None)

    # What it is

    def version(self) -> int:
        """As ``virConnectGetVersion`` writes it; for messages, and where nothing else tells."""
        numbers = _mapping(_mapping(self.ask("query-version")).get("qemu"))
        major, minor, micro = (
            int(numbers.get(part, 0)) for part in ("major", "minor", "micro")
        )
        return major * 1_000_000 + minor * 1000 + micro

    def has_command(self, name: str) -> bool:
        """Whether it knows a command; its list is read once."""
        if self._commands is None:
            listed = self.ask("query-commands")
            self._commands = frozenset(each["name"] for each in listed)
        return name in self._commands

    def run_state(self) -> str:
        """``query-status``: ``running``, ``paused``, ``inmigrate``, ``finish-migrate``, ``postmigrate``, …"""
        return str(_mapping(self.ask("query-status")).get("status", ""))

    # Capabilities and parameters

    def capabilities(self) -> dict[str, bool]:
        """Each capability that it knows, and whether it is on."""
        listed = self.ask("query-migrate-capabilities")
        return {each["capability"]: bool(each["state"]) for each in listed}

    def set_capabilities(self, wanted: Mapping[str, bool]) -> None:
        """Switch capabilities, and read them back.

        :raises NotSupportedError: If it accepts them, and does not have them on afterwards.
        """
        if not wanted:
            return
        listed = [{"capability": name, "state": on} for name, on in wanted.items()]
        self.ask("migrate-set-capabilities", capabilities=listed)
        now = self.capabilities()
        lost = [name for name, on in wanted.items() if now.get(name, False) is not on]
        if lost:
            raise NotSupportedError(
                f"QEMU accepted {', '.join(lost)} and then dropped it",
                side=self.side,
                cure="its log says why: often userfaultfd is not permitted, or another capability forbids it",
            )

    def parameters(self) -> dict[str, Any]:
        """``query-migrate-parameters``."""
        return dict(_mapping(self.ask("query-migrate-parameters")))

    def set_parameters(self, wanted: Mapping[str, Any]) -> None:
        """Set parameters; where it has none of a name, by the older command for it (more than one command then).

        :raises NotSupportedError: If it has neither.
        """
        known = self.parameters()
        there = {name: it for name, it in wanted.items() if name in known}
        # 2.8 and later leave out what was never set.
        unset = {name: it for name, it in wanted.items() if name in _MAY_BE_UNSET}
        for name in wanted.keys() - there.keys() - unset.keys():
            self._set_the_old_way(name, wanted[name])
        if there or unset:
            self._monitor.execute("migrate-set-parameters", {**there, **unset})

    def _set_the_old_way(self, name: str, value: Any) -> None:
        command, factor = _OLD_WAYS.get(name, ("", 1))
        if not command or not self.has_command(command):
            raise NotSupportedError(
                f"this QEMU has no migration parameter {name}",
                side=self.side,
                cure="leave the limit out, or use a newer QEMU",
            )
        number = value if factor == 1 else value * factor
        self._monitor.execute(command, {"value": number})

    # The migration

    def migration(self) -> Mapping[str, Any]:
        """``query-migrate``."""
        return _mapping(self.ask("query-migrate"))

    def status(self) -> str:
        """Its migration's status; ``none`` where it says none, as a destination that only listens does."""
        return str(self.migration().get("status", "none"))

    def listen(self, uri: str) -> None:
        """Wait for a migration at ``uri``.  A refusal is final from 10.0 on: only a new QEMU can be asked again."""
        self.ask("migrate-incoming", uri=uri)

    def listening_ports(self) -> tuple[int, ...]:
        """The TCP ports at which it waits, the newest first; empty before QEMU 4.0, which does not tell."""
        return _ports(self.migration().get("socket-address"))

    def migrate(self, uri: str, *, resume: bool = False) -> None:
        """Begin to migrate, or go on with a broken one; returns at once."""
        if resume:
            self.ask("migrate", uri=uri, resume=True)
        else:
            self.ask("migrate", uri=uri)

    def start_postcopy(self) -> None:
        """Note the wish for the switch."""
        self.ask("migrate-start-postcopy")

    def cancel(self) -> None:
        """``migrate_cancel``.  Never after the switch: QEMU < 10.0 accepts it, and the guest is lost."""
        self.ask("migrate_cancel")

    def pause(self) -> None:
        """Break a migration that is split, so that it can be gone on with."""
        self.ask("migrate-pause")

    def recover(self, uri: str) -> None:
        """Wait for a broken migration to come back.  From 3.0 to 7.0 the first call counts, even one that fails."""
        self.ask("migrate-recover", uri=uri)

    def cont(self) -> None:
        """Let the vCPUs run."""
        self.ask("cont")

    # A socket of QEMU's, to see whether a connection can be made

    def add_socket(
        self, name: str, address: Mapping[str, Any], *, is_server: bool
    ) -> None:
        """Listen or connect at a QAPI ``SocketAddress``; a client is tried again each second, and does not block QEMU."""
        data = {"addr": address, "server": is_server}
        data |= {"wait": False} if is_server else {"reconnect": 1}
        self.ask("chardev-add", id=name, backend={"type": "socket", "data": data})

    def is_connected(self, name: str) -> bool:
        """Whether a socket that was added is connected."""
        listed = self.ask("query-chardev")
        mine = [each["filename"] for each in listed if each["label"] == name]
        return bool(mine) and not str(mine[0]).startswith("disconnected")

    def remove_socket(self, name: str) -> None:
        """Close it."""
        self.ask("chardev-remove", id=name)

    # TLS

    def add_tls_credentials(self, name: str, folder: str, *, is_server: bool) -> None:
        """Load X.509 certificates from a folder of QEMU's host."""
        properties = {
            "dir": folder,
            "endpoint": "server" if is_server else "client",
            "verify-peer": True,
        }
        named = {"qom-type": "tls-creds-x509", "id": name}
        try:
            self._monitor.execute("object-add", {**named, **properties})
        except CommandError as error:
            if "unexpected" not in error.desc and "'props'" not in error.desc:
                raise
            # Before QEMU 6.0 (qapi/qom.json) the properties have a member of their own.
            self._monitor.execute("object-add", {**named, "props": properties})

    def remove_object(self, name: str) -> None:
        """Forget credentials."""
        self.ask("object-del", id=name)


_MAY_BE_UNSET = frozenset(("tls-creds", "tls-hostname"))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _ports(addresses: Any) -> tuple[int, ...]:
    """Of QAPI ``SocketAddress`` values; a port is written as text there."""
    if not isinstance(addresses, Sequence) or isinstance(addresses, str):
        return ()
    found = (str(_mapping(each).get("port", "")) for each in addresses)
    return tuple(int(port) for port in found if port.isdigit())
