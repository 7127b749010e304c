"""What is asked of libvirt and QEMU before a migration.

Everything here reads, except :func:`ask_qemu`, which starts a domain of its own and destroys that one again.
Errors are :class:`LibvirtError`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import libvirt
import libvirt_qemu

from libvirt_postcopy.constants import (
    CompareCPUFlags,
    CreateFlags,
    ErrorNumber,
    JobType,
    MemoryStatsCells,
)
from libvirt_postcopy.domxml import Guest
from libvirt_postcopy.errors import LibvirtError
from libvirt_postcopy.events import Half
from libvirt_postcopy.features import is_unreachable_peer
from libvirt_postcopy.vir.calls import find_domain, half, refusals
from libvirt_postcopy.vir.protocols import Connection, Domain

__all__ = [
    "QemuThere",
    "ask_qemu",
    "capabilities",
    "cpu_refusal",
    "emulation_refusal",
    "free_pages",
    "has_job",
    "hostname",
    "installed_qemu_version",
    "may_wait_for_a_guest",
    "memory",
    "migration_blockers",
    "migration_capabilities",
    "named_domain",
    "xml_of",
]

LOG = logging.getLogger("libvirt_postcopy.vir")

_ALL_CELLS = int(MemoryStatsCells.VIR_NODE_MEMORY_STATS_ALL_CELLS)


class _Host(Connection, Protocol):
    """``libvirt.virConnect``, as far as only a preflight uses it."""

    def getType(self) -> str: ...

    def getHostname(self) -> str: ...

    def getInfo(self) -> list[Any]: ...

    def getFreeMemory(self) -> int: ...

    def getMemoryStats(self, cellNum: int, flags: int = 0) -> Mapping[str, int]: ...

    def getFreePages(
        self, pages: list[int], startcell: int, cellcount: int, flags: int = 0
    ) -> Mapping[int, Mapping[int, int]]: ...

    def getDomainCapabilities(
        self,
        emulatorbin: str | None,
        arch: str | None,
        machine: str | None,
        virttype: str | None,
        flags: int = 0,
    ) -> str: ...

    def compareHypervisorCPU(
        self,
        emulator: str | None,
        arch: str | None,
        machine: str | None,
        virttype: str | None,
        xmlCPU: str,
        flags: int = 0,
    ) -> int: ...

    def createXML(self, xmlDesc: str, flags: int = 0) -> Domain: ...


class _OwnDomain(Domain, Protocol):
    """The probe's domain; that of nobody else is ever destroyed."""

    def destroy(self) -> int: ...


class _Described(Domain, Protocol):
    def ID(self) -> int: ...

    def XMLDesc(self, flags: int = 0) -> str: ...


# Hosts


def hostname(connection: Connection) -> str:
    """The name that the host gives itself, which its libvirt hands out to sources."""
    with refusals():
        return cast(_Host, connection).getHostname()


def installed_qemu_version(connection: Connection) -> int:
    """The version of the QEMU that the host would start, as ``virConnectGetVersion`` writes it.

    :raises LibvirtError: Also if its driver is another.
    """
    with refusals():
        driver = cast(_Host, connection).getType()
        version = connection.getVersion()
    if driver != "QEMU":
        raise LibvirtError(f"its driver is {driver}, not QEMU")
    return version


def capabilities(connection: Connection) -> str:
    """The host's capabilities, as XML."""
    with refusals():
        return connection.getCapabilities()


def memory(connection: Connection) -> tuple[int, int]:
    """A host's memory and what is available of it, in KiB.

    :source: ``virNodeGetMemoryStats``; where the driver has none, ``virNodeGetInfo``, which counts no caches.
    """
    host = cast(_Host, connection)
    try:
        stats = host.getMemoryStats(_ALL_CELLS)
        free = sum(stats.get(part, 0) for part in ("free", "buffers", "cached"))
        return stats["total"], free
    except (libvirt.libvirtError, KeyError) as error:
        LOG.debug("no memory statistics: %s", error)
    with refusals():
        return int(host.getInfo()[1]) * 1024, host.getFreeMemory() // 1024


def free_pages(connection: Connection, sizes_kib: Iterable[int]) -> dict[int, int]:
    """Free huge pages of a host by their size; a size that the kernel does not have is 0."""
    host = cast(_Host, connection)
    with refusals():
        cells = int(host.getInfo()[4])
    return {size: _free_pages(host, size, cells) for size in sizes_kib}


def _free_pages(host: _Host, size_kib: int, cells: int) -> int:
    try:
        with refusals():
            counts = host.getFreePages([size_kib], 0, cells)
    except LibvirtError as error:
        if error.code == ErrorNumber.VIR_ERR_OPERATION_FAILED:
            return 0  # "page size is not available"
        raise
    return sum(each.get(size_kib, 0) for each in counts.values())


_NO_EMULATION = frozenset(
    (
        ErrorNumber.VIR_ERR_INVALID_ARG,
        ErrorNumber.VIR_ERR_SYSTEM_ERROR,
        ErrorNumber.VIR_ERR_CONFIG_UNSUPPORTED,
    )
)


def emulation_refusal(connection: Connection, guest: Guest) -> str:
    """What a host says against a guest's emulator, machine type or accelerator; empty if nothing."""
    host = cast(_Host, connection)
    return _words_of(
        lambda: host.getDomainCapabilities(*_emulation(guest)), _NO_EMULATION
    )


def cpu_refusal(connection: Connection, guest: Guest) -> str:
    """What a host says against a guest's CPU; empty if nothing, or if the guest asks for none."""
    if guest.cpu is None:
        return ""
    xml, flags = (
        guest.cpu.xml,
        CompareCPUFlags.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE,
    )
    host = cast(_Host, connection)
    return _words_of(
        lambda: host.compareHypervisorCPU(*_emulation(guest), xml, flags),
        (ErrorNumber.VIR_ERR_CPU_INCOMPATIBLE,),
    )


def _words_of(call: Callable[[], object], codes: Collection[int]) -> str:
    """libvirt's words if it refuses with one of these codes; empty if it does not refuse."""
    try:
        with refusals():
            call()
    except LibvirtError as error:
        if error.code in codes and not is_unreachable_peer(error.domain, ""):
            return error.what
        raise
    return ""


def _emulation(
    guest: Guest,
) -> tuple[str | None, str | None, str | None, str | None]:
    return (
        guest.emulator or None,
        guest.arch or None,
        guest.machine or None,
        guest.virt_type or None,
    )


# The domain


def named_domain(connection: Connection, text: str) -> Domain:
    """Find a domain by id, UUID or name, in virsh's order.

    :raises LibvirtError: If there is none, or the daemon cannot say.
    """
    with refusals():
        domains = connection.listAllDomains()
        ways = (
            [dom for dom in domains if str(cast(_Described, dom).ID()) == text],
            [dom for dom in domains if dom.UUIDString() == text.lower()],
            [dom for dom in domains if dom.name() == text],
        )
    found = next(filter(None, ways), None)
    if found is None:
        raise LibvirtError(
            f"there is no domain '{text}'", side="source", cure="see virsh list --all"
        )
    return found[0]


def xml_of(dom: Domain) -> str:
    """The domain's XML, of the running one if it runs."""
    with refusals("source"):
        return cast(_Described, dom).XMLDesc()


def may_wait_for_a_guest(dom: Domain) -> bool:
    """Whether a domain may be taking in a guest, by its state, or by what its QEMU was started with.

    A migration that a client carries out with QEMU's own commands is an ordinary domain to libvirt.
    """
    found = half(dom)
    if found is not Half.WHOLE:
        return not found.is_absent
    with refusals("destination"):
        return "-incoming" in cast(_Described, dom).XMLDesc()


def has_job(dom: Domain) -> bool:
    """Whether a job runs on the domain."""
    with refusals("source"):
        kind = dom.jobStats().get("type", JobType.VIR_DOMAIN_JOB_NONE)
    return bool(kind != JobType.VIR_DOMAIN_JOB_NONE)


def migration_capabilities(dom: Domain) -> frozenset[str]:
    """The migration capabilities that a domain's QEMU knows, switched on or not."""
    reply = _ask(dom, "query-migrate-capabilities")
    return frozenset(each["capability"] for each in _value(reply))


def migration_blockers(dom: Domain) -> tuple[str, ...]:
    """Why a domain's QEMU cannot migrate at present; QEMU before 6.0 does not say."""
    return tuple(_value(_ask(dom, "query-migrate")).get("blocked-reasons", ()))


def _ask(dom: Domain, command: str, **arguments: Any) -> dict[str, Any]:
    """Send a command to QEMU's monitor; its reply, an error of QEMU's included."""
    line: dict[str, Any] = {"execute": command}
    if arguments:
        line["arguments"] = arguments
    with refusals():
        text = libvirt_qemu.qemuMonitorCommand(dom, json.dumps(line), 0)
    return cast("dict[str, Any]", json.loads(text))


def _value(reply: Mapping[str, Any]) -> Any:
    if "error" in reply:
        raise LibvirtError(_desc(reply))
    return reply["return"]


def _desc(reply: Mapping[str, Any]) -> str:
    return str(reply.get("error", {}).get("desc", ""))


# A QEMU of our own


@dataclass(frozen=True)
class QemuThere:
    """What a QEMU answered.

    :ivar version: As ``virConnectGetVersion`` writes it.
    :ivar refusal: What it said when ``postcopy-ram`` was switched on; empty if it agreed.
    :ivar left_behind: Name of its domain if that could not be destroyed.
    """

    version: int
    capabilities: frozenset[str]
    refusal: str
    left_behind: str = ""


def ask_qemu(connection: Connection, name: str, uuid: str, xml: str) -> QemuThere:
    """Start a domain, ask its QEMU whether it would receive a guest by post-copy, and destroy it.

    The domain's vCPUs never run.  libvirt destroys it by itself if this client or its connection dies.

    :param name: A name that nobody else has.
    :param uuid: A UUID that nobody else has: by it the domain is found again.
    :raises LibvirtError: If the domain cannot be started or asked.
    """
    try:
        answer = _start_and_ask(connection, xml)
    except LibvirtError as error:
        left = _remove(connection, name, uuid)
        if left:
            error.what += f"; the probe's domain '{left}' could not be destroyed"
        raise
    except BaseException:
        _remove(connection, name, uuid)
        raise
    return replace(answer, left_behind=_remove(connection, name, uuid))


def _start_and_ask(connection: Connection, xml: str) -> QemuThere:
    flags = (
        CreateFlags.VIR_DOMAIN_START_PAUSED | CreateFlags.VIR_DOMAIN_START_AUTODESTROY
    )
    with refusals():
        dom = cast(_Host, connection).createXML(xml, flags)
    version = _value(_ask(dom, "query-version"))["qemu"]
    return QemuThere(
        version=version["major"] * 1_000_000
        + version["minor"] * 1000
        + version["micro"],
        capabilities=migration_capabilities(dom),
        refusal=_desc(
            _ask(
                dom,
                "migrate-set-capabilities",
                capabilities=[{"capability": "postcopy-ram", "state": True}],
            )
        ),
    )


def _remove(connection: Connection, name: str, uuid: str) -> str:
    """Destroy the probe's domain, started or half started; its name if that cannot be done."""
    try:
        dom = find_domain(connection, uuid)
        if dom is not None:
            with refusals():
                cast(_OwnDomain, dom).destroy()
    except LibvirtError as error:
        if error.code == ErrorNumber.VIR_ERR_NO_DOMAIN:
            return ""
        LOG.warning("the probe's domain '%s' was not destroyed: %s", name, error)
        return name
    return ""
