"""What is known before a migration: plain values, gathered first and judged afterwards.

A value that could not be had is :class:`Unknown` and says why; :func:`known` takes a value out and hands the
reason to whoever judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, Union

from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.domxml import Guest, HostCPU
from libvirt_postcopy.events import Half
from libvirt_postcopy.qmp.commands import POSTCOPY_NAMES

__all__ = [
    "CannotTell",
    "NOT_ASKED",
    "DiskPlace",
    "DomainThere",
    "Facts",
    "Host",
    "Known",
    "Link",
    "Memory",
    "Probe",
    "Request",
    "Source",
    "TlsFiles",
    "Unknown",
    "known",
]

T = TypeVar("T")


@dataclass(frozen=True)
class Unknown:
    """Stands for a value that could not be had.

    :ivar why: One line.
    :ivar is_moot: Nobody asked for it: there is no destination, or no domain.
    """

    why: str
    is_moot: bool = False


Known = Union[T, Unknown]

NOT_ASKED = Unknown("not asked", is_moot=True)


class CannotTell(Exception):  # noqa: N818 - not an error
    """A judge needs what could not be had; carries the :class:`Unknown`."""

    def __init__(self, unknown: Unknown) -> None:
        super().__init__(unknown.why)
        self.unknown = unknown


def known(value: Known[T]) -> T:
    """Take a value out.

    :raises CannotTell: If it could not be had.
    """
    if isinstance(value, Unknown):
        raise CannotTell(value)
    return value


@dataclass(frozen=True)
class Request:
    """What is to be done.

    :ivar flags: libvirt's own, as they would be sent.
    :ivar params: Typed parameters of ``virDomainMigrate3``.
    :ivar by_qemu: QEMU's own commands carry it out, not libvirt's migration.
    :ivar has_second_monitor: The destination's QEMU will have one.
    """

    flags: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    by_qemu: bool = False
    has_second_monitor: bool = False

    @property
    def postcopy_names(self) -> frozenset[str]:
        """Names of QEMU's capability that whoever carries it out knows."""
        return frozenset(POSTCOPY_NAMES if self.by_qemu else POSTCOPY_NAMES[:1])

    def has(self, flag: MigrateFlags) -> bool:
        """Whether a flag is given."""
        return bool(self.flags & flag)

    def text(self, param: str) -> str:
        """A parameter as text; empty where it is not given."""
        return str(self.params.get(param, ""))


@dataclass(frozen=True)
class Memory:
    """Memory of a host, in KiB; ``available_kib`` counts what the kernel's caches would give up."""

    total_kib: int
    available_kib: int


@dataclass(frozen=True)
class DomainThere:
    """A domain that a host has already."""

    name: str
    uuid: str
    is_active: bool
    half: Half = Half.WHOLE


@dataclass(frozen=True)
class Host:
    """One host, as its daemon tells.

    :ivar has_keepalive: Whether the connection notices when the daemon is gone.
    :ivar is_here: Whether this program runs on it.
    """

    uri: str = ""
    hostname: Known[str] = NOT_ASKED
    uuid: Known[str] = NOT_ASKED
    libvirt: Known[int] = NOT_ASKED
    qemu: Known[int] = NOT_ASKED
    has_keepalive: Known[bool] = NOT_ASKED
    is_here: bool = False
    cpu: Known[HostCPU] = NOT_ASKED


@dataclass(frozen=True)
class DiskPlace:
    """The file system that a disk's file lies on, as the source's kernel names it."""

    target: str
    file_system: str


@dataclass(frozen=True)
class Source:
    """The domain where it is.

    :ivar half: What its state tells of a migration.
    :ivar qemu: The version of its QEMU, which a package upgrade leaves behind.
    :ivar capabilities: Names of its QEMU's migration capabilities.
    :ivar blockers: Why its QEMU cannot migrate at present, in QEMU's words.
    """

    name: str
    guest: Known[Guest]
    is_running: Known[bool] = NOT_ASKED
    is_paused: Known[bool] = NOT_ASKED
    half: Half = Half.WHOLE
    has_job: Known[bool] = NOT_ASKED
    capabilities: Known[frozenset[str]] = NOT_ASKED
    blockers: Known[tuple[str, ...]] = NOT_ASKED
    disk_places: Known[tuple[DiskPlace, ...]] = NOT_ASKED
    qemu: Known[int] = NOT_ASKED

    @property
    def is_in_migration(self) -> bool:
        """Whether it is a half of a guest, or about to be one."""
        return self.half.is_split or self.half is Half.MIGRATING


@dataclass(frozen=True)
class Probe:
    """What a QEMU on the destination answered.

    :ivar refusal: What it said when post-copy was switched on; empty if it agreed.
    :ivar left_behind: Name of the probe's domain if it could not be destroyed again.
    """

    version: int
    capabilities: frozenset[str]
    refusal: str = ""
    left_behind: str = ""

    @property
    def refuses_files(self) -> bool:
        """Whether it was the kind of memory that it refused, not userfaultfd."""
        return "TMPFS or HUGETLBFS" in self.refusal


@dataclass(frozen=True)
class TlsFiles:
    """Where QEMU looks for its certificates, and what is missing there."""

    folder: str
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Link:
    """The way from the source to the destination, as the source itself sees it.

    :ivar is_resolved: Whether the source resolves the name that libvirt will hand out.
    :ivar refusal: Why a connection to the port cannot be made; empty if it can.
    """

    name: str = ""
    is_resolved: Known[bool] = NOT_ASKED
    port: int = 0
    refusal: Known[str] = NOT_ASKED


@dataclass(frozen=True)
class Facts:
    """All that is known.

    :ivar connection_refusal: Why this client cannot connect to the destination; empty if it can.
    :ivar there: The domain as it will be on the destination, where a ``destination_xml`` says so.
    :ivar free_pages: Free huge pages there, by their size in KiB.
    :ivar emulation: What the destination's libvirt says against emulator, machine type or accelerator; empty if nothing.
    :ivar cpu_refusal: What it says against the guest's CPU; empty if nothing.
    :ivar userfaultfd: Whether the destination's kernel lets everybody use it, where this program runs there.
    :ivar bindings: What libvirt-python and the C library here disagree about; empty if nothing breaks a migration.
    :ivar client: Which ones those are.
    """

    request: Request = field(default_factory=Request)
    source: Host = field(default_factory=Host)
    destination: Host | None = None
    connection_refusal: str = ""
    domain: Source | None = None
    there: Known[Guest] = NOT_ASKED
    domains: Known[tuple[DomainThere, ...]] = NOT_ASKED
    memory: Known[Memory] = NOT_ASKED
    free_pages: Known[Mapping[int, int]] = NOT_ASKED
    emulation: Known[str] = NOT_ASKED
    cpu_refusal: Known[str] = NOT_ASKED
    userfaultfd: Known[bool] = NOT_ASKED
    probe: Known[Probe] = NOT_ASKED
    link: Known[Link] = NOT_ASKED
    tls_files: Known[TlsFiles] = NOT_ASKED
    bindings: Known[str] = NOT_ASKED
    client: str = ""

    @property
    def guest(self) -> Guest:
        """The domain where it is; raises :class:`CannotTell` if none was named."""
        return known(self.the_domain.guest)

    @property
    def the_domain(self) -> Source:
        """The domain; raises :class:`CannotTell` if none was named."""
        if self.domain is None:
            raise CannotTell(NOT_ASKED)
        return self.domain

    @property
    def the_destination(self) -> Host:
        """The destination; raises :class:`CannotTell` if none was named."""
        if self.destination is None:
            raise CannotTell(NOT_ASKED)
        return self.destination
