"""A lab with one busy guest on it."""

from __future__ import annotations

import fcntl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import libvirt

from guest import (
    Collector,
    GuestParams,
    MemoryReport,
    domain_xml,
    verify_domain,
    write_image,
)
from labkit import Lab, LabError
from libvirt_postcopy.vir.calls import is_alive
from waiting import wait_until

__all__ = ["Stage", "TOP", "VENV", "own_lab"]

TOP = Path(__file__).resolve().parents[2]
VENV = TOP / ".venv" / "bin"

_BOOT_S = 60.0


@contextmanager
def own_lab(folder: Path, releases: Sequence[str] = ()) -> Iterator[Lab]:
    """A lab for one program alone, down at the end; what a killed run has left is cleared away first.

    :param releases: Releases for the hosts in turn; what this machine has installed by default.
    :raises LabError: If another run of the program uses it now, or if we are not root.
    """
    with _lock_file(folder.with_suffix(".lock")) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LabError(f"{folder}: in use by another run; wait for it") from None
        Lab(folder).down()
        lab = Lab(folder)
        try:
            lab.up(releases=releases)
            yield lab
        finally:
            lab.down()


def _lock_file(path: Path) -> IO[str]:
    try:
        return path.open("w")
    except OSError as error:
        why = f"{path}: {error.strerror}; two libvirt hosts on one machine need root"
        raise LabError(why) from None


class Stage:
    """One guest, the lab it lives in, and the ear that hears it.

    :param params: What the guest does.
    :param name: The domain's, so that several stages do not meet.
    """

    def __init__(self, lab: Lab, params: GuestParams, name: str = "busy") -> None:
        self.lab = lab
        self.params = params
        self.name = name
        self.image = lab.shared / f"{name}.img"
        self.collector = Collector(lab.shared / f"{name}.sock")
        self._connections: dict[str, libvirt.virConnect] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Stage:
        self._stack.enter_context(self.collector)
        self._stack.callback(self.clear)
        write_image(self.image, self.params)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    # The guest

    def xml(self, **options: Any) -> str:
        """The domain's XML; see ``guest.domain_xml`` for the options."""
        return domain_xml(
            self.name,
            self.params,
            image=self.image,
            socket=self.collector.path,
            **options,
        )

    def start(
        self, host: str = "a", *, is_persistent: bool = False, **options: Any
    ) -> libvirt.virDomain:
        """Start the guest and wait until it has filled its memory."""
        connection = self.connection(host)
        xml = self.xml(**options)
        if is_persistent:
            domain = connection.defineXML(xml)
            domain.create()
        else:
            domain = connection.createXML(xml, 0)
        self.collector.wait_for_fill(_BOOT_S)
        return domain

    def find(self, host: str) -> libvirt.virDomain | None:
        """The guest on a host; None where it is not."""
        domains = self.connection(host).listAllDomains()
        return next((dom for dom in domains if dom.name() == self.name), None)

    def active_on(self) -> list[str]:
        """The hosts on which the guest has a QEMU."""
        return [
            host.name
            for host in self.lab.hosts()
            if self.name in _names(self.connection(host.name))
        ]

    def qemus(self, host: str) -> list[int]:
        """The guest's QEMUs on a host by the kernel's word, numbered as the host numbers them."""
        pattern = f"guest={self.name},"
        found = self.lab.host(host).run(["pgrep", "-f", pattern], check=False)
        return [int(number) for number in found.stdout.split()]

    def wait_until_only_on(self, host: str, timeout: float) -> None:
        """Wait for the other host's QEMU to be gone; there is no event when nobody waits for the call."""
        wait_until(
            lambda: self.active_on() == [host],
            f"{self.name} on {host} alone",
            timeout,
            pause=0.2,
        )

    def verify(self, host: str) -> MemoryReport:
        """Suspend the guest, compare every page, and resume it."""
        domain = self.find(host)
        if domain is None:
            raise LookupError(f"{self.name} is not on {host}")
        return verify_domain(domain, self.params, collector=self.collector)

    def blackout_ms(self, since: float, until: float | None = None) -> float:
        """The longest time without a heartbeat; times are ``time.monotonic()``."""
        return self.collector.blackout(since=since, until=until).length_s * 1000

    def clear(self) -> None:
        """Remove the guest from all hosts, whatever state it is in."""
        for host in self.lab.hosts():
            domain = self.find(host.name)
            if domain is not None:
                for number in self.qemus(host.name):
                    # A split one ends only ten seconds after libvirt has told it to.
                    host.run(["kill", "-KILL", str(number)], check=False)
                _remove(domain)
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    # Commands

    def connection(self, host: str) -> libvirt.virConnect:
        """A connection to a host's daemon that works wherever we run, cut off or not."""
        known = self._connections.get(host)
        if known is None or not is_alive(known):  # its daemon was killed
            self._connections[host] = libvirt.open(self.lab.host(host).uri)
        return self._connections[host]

    def run(
        self, host: str, argv: Sequence[str], timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, or on the ``client``, to its end."""
        return self.lab.host(host).run(argv, check=False, timeout=timeout)

    @staticmethod
    def now() -> float:
        """The clock of the heartbeats."""
        return time.monotonic()


def _remove(domain: libvirt.virDomain) -> None:
    try:
        is_active = domain.isActive()
        if domain.isPersistent():
            domain.undefine()  # an active one lives on as a transient domain
        if is_active:
            domain.destroy()
    except libvirt.libvirtError as error:  # it may have ended by itself this moment
        if error.get_error_code() not in _HAS_ENDED:
            raise


_HAS_ENDED = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID)


def _names(connection: libvirt.virConnect) -> list[str]:
    """The names of the active domains, asked for in one call: they come and go."""
    active = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
    return [domain.name() for domain in connection.listAllDomains(active)]
