"""The two hosts, and the way between them."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_postcopy.constants import MigrateParam
from libvirt_postcopy.events import Half
from libvirt_postcopy.features import CHECK_THE_WAY, explain, version_text
from libvirt_postcopy.preflight.facts import (
    CannotTell,
    DomainThere,
    Facts,
    Host,
    Unknown,
    known,
)
from libvirt_postcopy.preflight.finding import Seen, Severity, check

__all__: list[str] = []

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

_DEVICE_GIVEN = 10_001_000  # libvirt that lets QEMU have /dev/userfaultfd
_DEVICE_USED = 8_000_000  # QEMU that uses it


@check(
    "destination/connection",
    severity=WARNING,
    side="destination",
    cure=CHECK_THE_WAY,
)
def connection(facts: Facts) -> Iterator[Seen]:
    """What this client cannot reach it cannot look at.  The source's daemon may still reach it and migrate peer to
    peer; a migration that the client manages needs this connection."""
    if facts.the_destination and facts.connection_refusal:
        yield Seen(f"this client cannot connect to it: {facts.connection_refusal}")


@check(
    "destination/same-host",
    severity=ERROR,
    side="destination",
    cure="name another host; two daemons on one machine need different host_uuid in libvirtd.conf",
)
def same_host(facts: Facts) -> Iterator[Seen]:
    """libvirt tells hosts apart by their UUID and refuses to migrate a guest to where it is."""
    if _is_same_host(facts):
        uuid = known(facts.source.uuid)
        yield Seen(f"source and destination are the same host: both have UUID {uuid}")


def _is_same_host(facts: Facts) -> bool:
    return known(facts.source.uuid) == known(facts.the_destination.uuid)


@check(
    "destination/domain-exists",
    severity=ERROR,
    side="destination",
    cure="remove it only if it is not this guest's other half, or give the guest another name with --dname",
)
def domain_exists(facts: Facts) -> Iterator[Seen]:
    """libvirt refuses a guest whose name or UUID another domain has; one that is not running and has both is this
    guest's own definition and is taken over."""
    domains = known(facts.domains)
    if _is_same_host(facts):
        return  # it is the guest itself
    guest = known(facts.there)
    given = facts.request.text(MigrateParam.VIR_MIGRATE_PARAM_DEST_NAME)
    name = given or guest.name
    for domain in domains:
        yield from _collision(domain, name, guest.uuid)


def _collision(domain: DomainThere, name: str, uuid: str) -> Iterator[Seen]:
    has_name, has_uuid = domain.name == name, domain.uuid == uuid
    if has_uuid and domain.half is not Half.WHOLE and domain.is_active:
        yield Seen(
            f"domain '{domain.name}' is there already, as the other half of this guest",
            cure="destroy, resume and reset neither half",
        )
    elif has_name and has_uuid and not domain.is_active:
        yield Seen(
            f"domain '{name}' is defined there already and will be used",
            severity=NOTE,
            cure="",
        )
    elif has_name and has_uuid:
        yield Seen(f"domain '{name}' runs there already, with the same UUID {uuid}")
    elif has_name:
        yield Seen(
            f"the name '{name}' is taken there by a domain with UUID {domain.uuid}"
        )
    elif has_uuid:
        yield Seen(f"UUID {uuid} is taken there by domain '{domain.name}'")


@check(
    "destination/memory",
    severity=WARNING,
    side="destination",
    cure="free memory there, or choose a bigger host: a guest that runs out of memory after the switch is lost",
)
def memory(facts: Facts) -> Iterator[Seen]:
    """Pages arrive until all of the guest's memory is there.  If the host has no room for them the kernel kills QEMU, and
    after the switch the source's half cannot run any more."""
    host = known(facts.memory)
    guest = known(facts.there)
    most = max(guest.memory_kib, guest.limit_kib)
    if most > host.total_kib:
        yield Seen(
            f"the guest may have {_mib(most)}, and the host has {_mib(host.total_kib)} in all"
        )
    elif guest.current_kib > host.available_kib and not guest.huge_pages_kib:
        yield Seen(
            f"the guest has {_mib(guest.current_kib)}, and {_mib(host.available_kib)}"
            f" of {_mib(host.total_kib)} are free"
        )


def _mib(kib: int) -> str:
    return f"{kib // 1024} MiB"


@check(
    "destination/huge-pages",
    severity=ERROR,
    side="destination",
    cure="reserve them with virsh allocpages, or vm.nr_hugepages",
)
def huge_pages(facts: Facts) -> Iterator[Seen]:
    """QEMU takes all its huge pages when it is started, and they must have the source's size."""
    guest = known(facts.there)
    if not guest.huge_pages_kib:
        return
    if 0 in guest.huge_pages_kib:
        raise CannotTell(
            Unknown("the guest's XML does not say how big its huge pages are")
        )
    free = known(facts.free_pages)
    has = sum(free.get(size, 0) * size for size in guest.huge_pages_kib)
    if has < guest.memory_kib:
        sizes = " or ".join(f"{size // 1024} MiB" for size in guest.huge_pages_kib)
        yield Seen(
            f"the guest needs {_mib(guest.memory_kib)} in pages of {sizes}, and {_mib(has)} are free in such"
        )


@check(
    "destination/emulation",
    severity=ERROR,
    side="destination",
    cure="install the same or a newer QEMU there, or give it another --xml",
)
def emulation(facts: Facts) -> Iterator[Seen]:
    """The emulator, the machine type and the accelerator of the guest must be there under the same names."""
    refusal = known(facts.emulation)
    if refusal:
        yield Seen(refusal)


@check(
    "destination/cpu",
    severity=ERROR,
    side="destination",
    cure="give the guest a CPU model that both hosts have (virsh hypervisor-cpu-baseline)",
)
def cpu(facts: Facts) -> Iterator[Seen]:
    """A guest must not lose a CPU feature while it runs; libvirt refuses where it checks for that."""
    guest = known(facts.there)
    if guest.cpu is None:
        return
    if guest.cpu.mode == "host-passthrough":
        yield from _passed_through(facts)
        return
    refusal = known(facts.cpu_refusal)
    if refusal:
        is_checked = guest.cpu.check in ("partial", "full")
        is_sure = is_checked and guest.virt_type == "kvm"
        yield Seen(refusal, severity=ERROR if is_sure else WARNING)


def _passed_through(facts: Facts) -> Iterator[Seen]:
    here, there = known(facts.source.cpu), known(facts.the_destination.cpu)
    if here != there:
        missing = sorted(here.features - there.features)
        lacks = f"; the destination lacks {', '.join(missing[:8])}" if missing else ""
        yield Seen(
            f"the guest has the source's CPU as it is ({here.model}), and the destination's is another"
            f" ({there.model}){lacks}",
            severity=WARNING,
        )


@check(
    "destination/userfaultfd",
    severity=ERROR,
    side="destination",
    cure=explain("Userfaultfd not available").cure,
    fixed_in="libvirt 10.1 with QEMU 8.0, where QEMU may open /dev/userfaultfd",
)
def userfaultfd(facts: Facts) -> Iterator[Seen]:
    """QEMU waits for pages with the kernel's userfaultfd.  Where it may not use it, it refuses post-copy when it is asked
    to receive a guest; Debian, for one, forbids it until somebody allows it."""
    if not isinstance(facts.probe, Unknown):
        if facts.probe.refusal and not facts.probe.refuses_files:
            has_device = _has_device(facts.the_destination)
            what = explain(facts.probe.refusal).what
            yield Seen(what, fixed_in="" if has_device else None)
        return
    if isinstance(facts.userfaultfd, Unknown):
        raise CannotTell(facts.probe)
    if not facts.userfaultfd:
        yield Seen(
            f"vm.unprivileged_userfaultfd is 0 there{_device(facts)}; a QEMU that runs as root needs neither",
            severity=WARNING,
            fixed_in="" if _has_device(facts.the_destination) else None,
        )


def _has_device(host: Host) -> bool:
    """Whether its QEMU uses /dev/userfaultfd, and its libvirt hands that out."""
    libvirt, qemu = host.libvirt, host.qemu
    if isinstance(libvirt, Unknown) or isinstance(qemu, Unknown):
        return False
    return libvirt >= _DEVICE_GIVEN and qemu >= _DEVICE_USED


def _device(facts: Facts) -> str:
    """What is left where the kernel does not let everybody use it."""
    host = facts.the_destination
    libvirt, qemu = known(host.libvirt), known(host.qemu)
    if _has_device(host):
        return ": QEMU needs access to /dev/userfaultfd"
    return f", and libvirt {version_text(libvirt)} with QEMU {version_text(qemu)} does not use /dev/userfaultfd"


@check(
    "destination/capability",
    severity=ERROR,
    side="destination",
    cure="post-copy needs QEMU >= 2.6",
    fixed_in="QEMU 2.6",
)
def capability(facts: Facts) -> Iterator[Seen]:
    """The destination's QEMU must know the migration capability postcopy-ram, by its old name where it has that."""
    if facts.request.postcopy_names.isdisjoint(known(facts.probe).capabilities):
        yield Seen("QEMU there has no migration capability postcopy-ram")


@check(
    "destination/probe-left",
    severity=WARNING,
    side="destination",
    cure="destroy it; it holds nothing",
)
def probe_left(facts: Facts) -> Iterator[Seen]:
    """The probe's own domain is destroyed as soon as it has answered, by libvirt if this client cannot."""
    if not isinstance(facts.probe, Unknown) and facts.probe.left_behind:
        yield Seen(
            f"the probe's domain '{facts.probe.left_behind}' could not be destroyed"
        )


@check(
    "link/localhost",
    severity=WARNING,
    side="destination",
    cure="give it a host name of its own, set migration_host in its qemu.conf, or name it with --migrateuri",
)
def localhost(facts: Facts) -> Iterator[Seen]:
    """Without a migration URI the destination hands out its own host name, and libvirt refuses 'localhost'."""
    if facts.request.text(MigrateParam.VIR_MIGRATE_PARAM_URI):
        return
    name = known(facts.the_destination.hostname)
    if name.startswith("localhost"):
        yield Seen(f"its host name is '{name}'")


@check(
    "link/name",
    severity=WARNING,
    side="source",
    cure="add the name to the DNS or to /etc/hosts of the source, or name an address with --migrateuri",
)
def name(facts: Facts) -> Iterator[Seen]:
    """The source connects to the name that the destination hands out, so it must be able to resolve it."""
    link = known(facts.link)
    if not known(link.is_resolved):
        yield Seen(f"the source cannot resolve '{link.name}'")


@check(
    "link/port",
    severity=WARNING,
    side="source",
    cure="open TCP ports 49152 to 49215 on the destination, or those of migration_port_min and _max in its qemu.conf",
)
def port(facts: Facts) -> Iterator[Seen]:
    """Memory flows over a TCP connection of its own, not over libvirt's.  One port of the range is tried: that nobody
    listens yet is well, silence is not.  Only with --probe, and only while no domain there may be taking in a guest: a
    QEMU that waits to be recovered dies of a connection that is closed again."""
    link = known(facts.link)
    refusal = known(link.refusal)
    if refusal:
        yield Seen(f"{link.name}:{link.port} cannot be reached: {refusal}")


@check(
    "link/keepalive",
    severity=WARNING,
    side="client",
    cure="call setKeepAlive(5, 5) on the connection, with an event loop running",
)
def keepalive(facts: Facts) -> Iterator[Seen]:
    """A connection without keepalive does not notice that its host is gone, and a call over it waits for ever."""
    hosts = [facts.source, *filter(None, [facts.destination])]
    for host in hosts:
        if host.has_keepalive is False:
            yield Seen(f"the connection to {host.uri} has no keepalive")
    for host in hosts:
        known(host.has_keepalive)
