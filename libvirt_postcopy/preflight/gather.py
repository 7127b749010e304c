"""From libvirt to :class:`Facts`.  What cannot be asked becomes an :class:`Unknown`; nothing is judged here."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import libvirt_postcopy.vir.calls as vir
import libvirt_postcopy.vir.probe as ask
from libvirt_postcopy.bindings.check import disagreement
from libvirt_postcopy.constants import (
    CLIENT_SIDE_FLAGS,
    ConnectListFlags,
    MigrateParam,
)
from libvirt_postcopy.domxml import Guest, probe_xml, read_guest, read_host_cpu
from libvirt_postcopy.errors import LibvirtError, NotSupportedError, PostcopyError
from libvirt_postcopy.features import version_text
from libvirt_postcopy.preflight import here
from libvirt_postcopy.preflight.facts import (
    NOT_ASKED,
    DomainThere,
    Facts,
    Host,
    Known,
    Link,
    Memory,
    Probe,
    Request,
    Source,
    TlsFiles,
    Unknown,
)
from libvirt_postcopy.vir.binding import installed
from libvirt_postcopy.vir.here import address_of
from libvirt_postcopy.vir.protocols import Connection, Domain

__all__ = ["Gathering", "gather"]

LOG = logging.getLogger("libvirt_postcopy.preflight")

T = TypeVar("T")

_BLOCKERS_TOLD = 6_000_000  # QEMU that says what blocks a migration
_ACTIVE = int(ConnectListFlags.VIR_CONNECT_LIST_DOMAINS_ACTIVE)

_NOT_RUNNING = Unknown("the domain is not running", is_moot=True)
_IN_MIGRATION = Unknown("the domain is not asked while it is part of a migration")
_GIVEN = Unknown("a connection that was given cannot be asked whether it has keepalive")
_NO_PROBE = Unknown("only QEMU there can tell; --probe asks it")
_ELSEWHERE = Unknown("only the source itself can tell; run this there")
_NOT_TRIED = Unknown("a port is tried only with --probe, from the source itself")


@dataclass(frozen=True)
class Gathering:
    """What is to be asked.

    :ivar owns_source: The source's connection is ours, opened with keepalive.
    :ivar connect: Opens the connection to the destination, instead of ``libvirt.open``.
    :ivar with_probe: A QEMU is to be started on the destination and asked, and a port there be tried.
    """

    source: Connection
    dom: Domain | None = None
    dest: str | Connection | None = None
    flags: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    owns_source: bool = False
    connect: vir.Open | None = None
    with_probe: bool = False
    by_qemu: bool = False
    has_second_monitor: bool = False


def attempt(call: Callable[[], T]) -> Known[T]:
    """Ask; a refusal, or an answer that makes no sense, is what there is to say then."""
    try:
        return call()
    except PostcopyError as error:
        return Unknown(str(error))
    except Exception as error:  # an answer of a shape that nobody knows
        LOG.debug("unexpected answer", exc_info=error)
        return Unknown(f"unexpected answer: {type(error).__name__}: {error}")


def gather(wanted: Gathering) -> Facts:
    """Ask all there is to be asked.  Raises nothing; closes the connections that it opens."""
    request = Request(
        int(wanted.flags) & ~int(CLIENT_SIDE_FLAGS),
        dict(wanted.params),
        wanted.by_qemu,
        wanted.has_second_monitor,
    )
    source = _host(wanted.source, is_own=wanted.owns_source)
    domain = None
    if wanted.dom is not None:
        domain = _with_disk_places(_domain(wanted.dom), source)
        if not isinstance(domain.qemu, Unknown):
            source = replace(source, qemu=domain.qemu)  # older after an upgrade
    facts = Facts(
        request=request,
        source=source,
        domain=domain,
        bindings=attempt(lambda: disagreement(installed())),
        client=_client(),
    )
    own: list[Connection] = []
    try:
        return _with_destination(facts, wanted, own)
    finally:
        vir.close_connections(own)


def _client() -> str:
    binding = attempt(installed)
    if isinstance(binding, Unknown):
        return binding.why
    python = f"libvirt-python {binding.version}".rstrip()
    return f"{python}, libvirt {version_text(binding.libvirt)}"


# Hosts


def _host(connection: Connection, *, is_own: bool) -> Host:
    uri = attempt(lambda: _uri(connection))
    name = attempt(lambda: ask.hostname(connection))
    is_told = isinstance(uri, str) and isinstance(name, str)
    return Host(
        uri=uri if isinstance(uri, str) else "",
        hostname=name,
        uuid=attempt(lambda: _host_uuid(connection)),
        libvirt=attempt(lambda: _libvirt_version(connection)),
        qemu=attempt(lambda: ask.installed_qemu_version(connection)),
        has_keepalive=_keepalive(connection, uri, is_own=is_own),
        is_here=is_told and here.is_here(str(uri), str(name)),
        cpu=attempt(lambda: read_host_cpu(ask.capabilities(connection))),
    )


def _uri(connection: Connection) -> str:
    with vir.refusals():
        return connection.getURI()


def _libvirt_version(connection: Connection) -> int:
    with vir.refusals():
        return connection.getLibVersion()


def _host_uuid(connection: Connection) -> str:
    found = vir.host_uuid(connection)
    if found is None:
        raise NotSupportedError("its driver gives the host no UUID")
    return found


def _keepalive(connection: Connection, uri: Known[str], *, is_own: bool) -> Known[bool]:
    if isinstance(uri, Unknown):
        return uri
    if not urlsplit(uri).hostname:
        return True  # a socket of this machine ends with its daemon
    if not is_own:
        return _GIVEN
    with_keepalive = attempt(lambda: _set_keepalive(connection))
    return with_keepalive is True


def _set_keepalive(connection: Connection) -> bool:
    """Set what :func:`vir.open_connection` has set, for its answer: 1 where the daemon has none."""
    with vir.refusals():
        return connection.setKeepAlive(*vir.KEEPALIVE) == 0


# The domain


def _domain(dom: Domain) -> Source:
    running = attempt(lambda: vir.is_running(dom))
    if running is not True:
        why = running if isinstance(running, Unknown) else _NOT_RUNNING
        return Source(
            name=dom.name(),
            guest=_guest(dom),
            is_running=running,
            is_paused=why,
            has_job=why,
            capabilities=why,
            blockers=why,
        )
    found = Source(
        name=dom.name(),
        guest=_IN_MIGRATION,
        is_running=True,
        is_paused=attempt(lambda: vir.is_paused(dom)),
        half=vir.half(dom),
        has_job=attempt(lambda: ask.has_job(dom)),
        capabilities=_IN_MIGRATION,
        blockers=_IN_MIGRATION,
    )
    # An incoming domain gives its XML late, and its QEMU answers only when the migration is over.
    return found if found.is_in_migration else _with_monitor(found, dom)


def _guest(dom: Domain) -> Known[Guest]:
    return attempt(lambda: read_guest(ask.xml_of(dom)))


def _with_monitor(found: Source, dom: Domain) -> Source:
    found = replace(found, guest=_guest(dom))
    qemu = attempt(lambda: vir.running_qemu_version(dom))
    if isinstance(qemu, Unknown):
        return replace(found, qemu=qemu, capabilities=qemu, blockers=qemu)
    return replace(
        found,
        qemu=qemu,
        capabilities=attempt(lambda: ask.migration_capabilities(dom)),
        blockers=(
            attempt(lambda: ask.migration_blockers(dom))
            if qemu >= _BLOCKERS_TOLD
            else Unknown("QEMU before 6.0 does not say what blocks a migration")
        ),
    )


def _with_disk_places(domain: Source, source: Host) -> Source:
    guest = domain.guest
    if isinstance(guest, Unknown):
        return replace(domain, disk_places=guest)
    places = here.disk_places(guest.disks) if source.is_here else _ELSEWHERE
    return replace(domain, disk_places=places)


# The destination


def _with_destination(facts: Facts, wanted: Gathering, own: list[Connection]) -> Facts:
    if wanted.dest is None:
        return facts
    if not isinstance(wanted.dest, str):
        host = _host(wanted.dest, is_own=False)
        return _with_answers(facts, wanted, wanted.dest, host)
    uri = wanted.dest
    try:
        vir.require_answer(uri, "destination")
        connection = vir.open_connection(uri, "destination", open_=wanted.connect)
    except LibvirtError as error:
        return _unreachable(facts, uri, error.what)
    own.append(connection)
    return _with_answers(facts, wanted, connection, _host(connection, is_own=True))


def _unreachable(facts: Facts, uri: str, reason: str) -> Facts:
    why = Unknown("this client cannot connect to the destination")
    return replace(
        facts,
        destination=Host(uri, why, why, why, why, why, cpu=why),
        connection_refusal=reason,
        domains=why,
        memory=why,
        free_pages=why,
        emulation=why,
        cpu_refusal=why,
        userfaultfd=why,
        probe=why,
        link=why,
        there=_there(facts),
        tls_files=_tls_files(facts.source),
    )


def _with_answers(
    facts: Facts, wanted: Gathering, connection: Connection, host: Host
) -> Facts:
    there = _there(facts)
    probe = _probe(connection, there) if wanted.with_probe else _NO_PROBE
    if not isinstance(probe, Unknown):
        host = replace(host, qemu=probe.version)  # of the guest's own emulator
    return replace(
        facts,
        destination=host,
        there=there,
        domains=_of_guest(there, lambda guest: _domains(connection, guest, facts)),
        memory=attempt(lambda: Memory(*ask.memory(connection))),
        free_pages=_of_guest(there, lambda guest: _free_pages(connection, guest)),
        emulation=_of_guest(
            there, lambda guest: ask.emulation_refusal(connection, guest)
        ),
        cpu_refusal=_of_guest(there, lambda guest: ask.cpu_refusal(connection, guest)),
        userfaultfd=here.userfaultfd() if host.is_here else _NO_PROBE,
        probe=probe,
        link=_link(facts, host, _refusal_of_port(connection, wanted)),
        tls_files=_tls_files(facts.source),
    )


def _there(facts: Facts) -> Known[Guest]:
    """The domain as it will be there."""
    xml = facts.request.text(MigrateParam.VIR_MIGRATE_PARAM_DEST_XML)
    if xml:
        return attempt(lambda: read_guest(xml))
    return NOT_ASKED if facts.domain is None else facts.domain.guest


def _of_guest(there: Known[Guest], call: Callable[[Guest], T]) -> Known[T]:
    """Ask something about the guest, if there is one."""
    if isinstance(there, Unknown):
        return there
    guest = there
    return attempt(lambda: call(guest))


def _domains(
    connection: Connection, guest: Guest, facts: Facts
) -> tuple[DomainThere, ...]:
    name = facts.request.text(MigrateParam.VIR_MIGRATE_PARAM_DEST_NAME) or guest.name
    with vir.refusals("destination"):
        # In one call each: a domain that comes or goes meanwhile is asked nothing.
        active = {each.UUIDString() for each in connection.listAllDomains(_ACTIVE)}
        domains = connection.listAllDomains()
    return tuple(
        DomainThere(
            each.name(), each.UUIDString(), each.UUIDString() in active, vir.half(each)
        )
        for each in domains
        if each.name() == name or each.UUIDString() == guest.uuid
    )


def _free_pages(connection: Connection, guest: Guest) -> Mapping[int, int]:
    sizes = [size for size in guest.huge_pages_kib if size]
    return ask.free_pages(connection, sizes) if sizes else {}


def _probe(connection: Connection, there: Known[Guest]) -> Known[Probe]:
    """Start the probe; without a guest it is a machine of the destination's own choice."""
    if isinstance(there, Unknown) and not there.is_moot:
        return there
    guest = Guest("") if isinstance(there, Unknown) else there
    own = str(uuid.uuid4())
    name = f"libvirt-postcopy-probe-{own[:8]}"
    found = attempt(
        lambda: ask.ask_qemu(connection, name, own, probe_xml(guest, name, own))
    )
    if isinstance(found, Unknown):
        return Unknown(f"the probe failed: {found.why}")
    return Probe(found.version, found.capabilities, found.refusal, found.left_behind)


Try = Callable[[str, int], Known[str]]
"""Says why a port cannot be reached; empty if it can."""


def _refusal_of_port(connection: Connection, wanted: Gathering) -> Try:
    """Try a port only if that is asked for, and nobody can be waiting there for the rest of a guest.

    A QEMU that waits to be recovered dies of a connection that is closed again (seen with 5.2, 7.2 and 11.1), and
    one that has only begun to wait fails.
    """
    if not wanted.with_probe:
        return lambda name, port: _NOT_TRIED
    waiting = attempt(lambda: _waiting(connection))
    if isinstance(waiting, Unknown):
        return lambda name, port: waiting
    if waiting:
        names = ", ".join(waiting)
        why = f"no port is tried: the destination may be taking in {names}, and a stray connection can kill that"
        return lambda name, port: Unknown(why)
    return here.connection_refusal


def _waiting(connection: Connection) -> list[str]:
    with vir.refusals("destination"):
        domains = connection.listAllDomains(_ACTIVE)
    return sorted(dom.name() for dom in domains if ask.may_wait_for_a_guest(dom))


def _link(facts: Facts, destination: Host, refusal: Try) -> Known[Link]:
    if not facts.source.is_here:
        return _ELSEWHERE
    uri = facts.request.text(MigrateParam.VIR_MIGRATE_PARAM_URI)
    if uri.startswith("unix:"):
        return NOT_ASKED
    name, port = address_of(uri)
    if not name:
        if isinstance(destination.hostname, Unknown):
            return destination.hostname
        name = destination.hostname
    is_resolved = here.is_resolved(name)
    unresolved = Unknown(f"the source cannot resolve '{name}'")
    return Link(
        name=name,
        is_resolved=is_resolved,
        port=port,
        refusal=refusal(name, port) if is_resolved else unresolved,
    )


def _tls_files(source: Host) -> Known[TlsFiles]:
    return here.tls_files() if source.is_here else _ELSEWHERE
