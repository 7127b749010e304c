"""The guest: what it does now, what it is made of, and whether that can move by post-copy."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_postcopy.constants import MigrateFlags as Flags
from libvirt_postcopy.domxml import Disk
from libvirt_postcopy.events import Half
from libvirt_postcopy.features import version_text
from libvirt_postcopy.preflight.facts import CannotTell, Facts, Host, Unknown, known
from libvirt_postcopy.preflight.finding import Seen, Severity, check
from libvirt_postcopy.units import MIB

__all__: list[str] = []

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

_GIB_PAGE = 1 << 20  # KiB
_TEN_GBIT_S = 1192  # MiB/s
_SHARED_ACCEPTED = 2_012_000  # QEMU that post-copies shared memory
_FILES_REFUSED_EARLY = 8_001_000  # QEMU that refuses files at once, not at the switch
_VFIO_REFUSED = 8_002_000  # QEMU
_CACHES_DROPPED = (
    4_000_000  # QEMU that drops its caches, so that any cache mode is safe
)
_VIRTIOFS_POSSIBLE = 9_001_000  # libvirt that no longer refuses in any case
_SHARED_BY_CONFIGURATION = 10_008_000  # libvirt from which qemu.conf may name more

_LOCAL = frozenset(
    (
        "bcachefs",
        "btrfs",
        "ext2",
        "ext3",
        "ext4",
        "f2fs",
        "overlay",
        "tmpfs",
        "vfat",
        "xfs",
        "zfs",
    )
)


@check(
    "guest/not-running",
    severity=ERROR,
    side="source",
    cure="start it first; a stopped one moves with virsh migrate --offline",
)
def not_running(facts: Facts) -> Iterator[Seen]:
    """A domain that does not run has no memory to move."""
    if not known(facts.the_domain.is_running):
        yield Seen(f"domain '{facts.the_domain.name}' is not running")


@check(
    "guest/split",
    severity=ERROR,
    side="source",
    cure="destroy, resume and reset neither half; let it go on, or bring it back with virsh-postcopy postcopy-recover",
)
def split(facts: Facts) -> Iterator[Seen]:
    """A guest whose memory is on two hosts cannot be migrated before it is whole again, and what destroys a half
    loses it."""
    domain = facts.the_domain
    if domain.half.is_split:
        broken = ", and its post-copy has failed"
        yield Seen(
            f"domain '{domain.name}' is one half of a split guest"
            f"{broken if domain.half is Half.SPLIT_FAILED else ''}"
        )
    elif domain.half is Half.MIGRATING:
        yield Seen(
            f"domain '{domain.name}' is part of a migration",
            cure="wait for it, and destroy neither half; see virsh domjobinfo",
        )


@check(
    "guest/job",
    severity=ERROR,
    side="source",
    cure="wait for it or abort it; see virsh domjobinfo",
)
def job(facts: Facts) -> Iterator[Seen]:
    """While a job runs (a migration, a dump, a backup) libvirt starts no migration."""
    domain = facts.the_domain
    if not domain.is_in_migration and known(domain.has_job):
        yield Seen(f"another job is running on domain '{domain.name}'")


@check(
    "guest/paused",
    severity=ERROR,
    side="source",
    cure="resume it, or migrate without post-copy",
)
def paused(facts: Facts) -> Iterator[Seen]:
    """libvirt refuses post-copy of a guest whose vCPUs are stopped: nothing would ask for pages.  The driver qemu does it."""
    if facts.request.by_qemu:
        return
    domain = facts.the_domain
    if not domain.is_in_migration and known(domain.is_paused):
        yield Seen(f"domain '{domain.name}' is paused")


@check(
    "guest/blocked",
    severity=ERROR,
    side="source",
    cure="take the device or what it uses out of the guest first",
)
def blocked(facts: Facts) -> Iterator[Seen]:
    """QEMU knows of something in the guest that cannot be migrated; it would refuse in these words."""
    for reason in known(facts.the_domain.blockers):
        yield Seen(f"QEMU: {reason}")


@check(
    "guest/capability",
    severity=ERROR,
    side="source",
    cure="post-copy needs QEMU >= 2.6; restart the guest in a newer one",
    fixed_in="QEMU 2.6",
)
def capability(facts: Facts) -> Iterator[Seen]:
    """The QEMU that runs the guest must know the migration capability postcopy-ram, by its old name where it has that."""
    if facts.request.postcopy_names.isdisjoint(known(facts.the_domain.capabilities)):
        yield Seen("the guest's QEMU has no migration capability postcopy-ram")


@check(
    "guest/huge-pages",
    severity=WARNING,
    side="destination",
    cure="use 2 MiB pages for guests that are to move by post-copy",
)
def huge_pages(facts: Facts) -> Iterator[Seen]:
    """Each page that the guest touches must first arrive whole, and the vCPU stands until then: with pages of 1 GiB
    that is about a second at 10 Gbit/s, for each of them."""
    sizes = [size for size in facts.guest.huge_pages_kib if size >= _GIB_PAGE]
    for size in sizes:
        limit = int(facts.request.params.get("bandwidth.postcopy", 0) or 0)
        speed = f"{limit} MiB/s" if limit else "10 Gbit/s"
        stall = size * 1024 / MIB / (limit or _TEN_GBIT_S)
        yield Seen(
            f"memory lies in pages of {size // _GIB_PAGE} GiB: each fault stops a vCPU for {stall:.1f} s at {speed}"
        )


@check(
    "guest/file-memory",
    severity=ERROR,
    side="destination",
    cure="use memfd or anonymous memory, or see that memory_backing_dir in qemu.conf lies on a tmpfs",
    fixed_in="QEMU 8.1, which refuses it before anything has moved",
)
def file_memory(facts: Facts) -> Iterator[Seen]:
    """Pages of a file can be delivered only on tmpfs or hugetlbfs.  QEMU from 8.1 refuses others before anything has
    moved; older ones fail at the switch."""
    if facts.guest.backing != "file" or facts.guest.huge_pages_kib:
        return
    if not isinstance(facts.probe, Unknown):  # it had memory of the same kind
        if facts.probe.refuses_files:
            yield Seen(f"memory lies in a file: {facts.probe.refusal}", fixed_in="")
            return
        if facts.probe.version >= _FILES_REFUSED_EARLY:
            return
    yield Seen(
        "memory lies in a file: this fails unless the file is on tmpfs or hugetlbfs",
        severity=WARNING,
        fixed_in="" if _refuses_files_early(facts.destination) else None,
    )


def _refuses_files_early(there: Host | None) -> bool:
    if there is None or isinstance(there.qemu, Unknown):
        return False
    return there.qemu >= _FILES_REFUSED_EARLY


@check(
    "guest/shared-memory",
    severity=ERROR,
    side="destination",
    cure="upgrade QEMU, or use private memory",
    fixed_in="QEMU 2.12",
)
def shared_memory(facts: Facts) -> Iterator[Seen]:
    """QEMU before 2.12 does not post-copy memory that is shared with other processes."""
    if not facts.guest.is_memory_shared:
        return
    qemu = known(facts.the_destination.qemu)
    if qemu < _SHARED_ACCEPTED:
        yield Seen(f"memory is shared, and QEMU is {version_text(qemu)}")


@check(
    "guest/locked",
    severity=NOTE,
    side="destination",
    cure="leave enough free memory on the destination, so that nothing is swapped out",
)
def locked(facts: Facts) -> Iterator[Seen]:
    """QEMU unlocks memory on the destination while pages arrive: what has arrived may be swapped out until the end."""
    if facts.guest.is_memory_locked:
        yield Seen(
            "memory is locked (<locked/>): on the destination it is not until the last page has arrived"
        )


@check(
    "guest/persistent-memory",
    severity=WARNING,
    side="destination",
    cure="take it out of the guest, or migrate without post-copy",
)
def persistent_memory(facts: Facts) -> Iterator[Seen]:
    """NVDIMM and virtio-pmem lie in files; unless these are on tmpfs, QEMU from 8.1 refuses post-copy and older ones
    fail at the switch."""
    for device in facts.guest.of("memory-nvdimm", "memory-virtio-pmem"):
        kind = device.kind.partition("-")[2]
        yield Seen(f"the guest has persistent memory: {kind} {device.name}".rstrip())


@check(
    "guest/vhost-user",
    severity=WARNING,
    side="destination",
    cure="ask the back-end's maker for the page-fault feature, or migrate without post-copy",
)
def vhost_user(facts: Facts) -> Iterator[Seen]:
    """A vhost-user back-end reads the guest's memory itself, so it must be able to wait for pages.  QEMU refuses post-copy
    if it cannot; guests were seen to hang with some that say they can."""
    for device in facts.guest.of("vhost-user"):
        yield Seen(f"the guest has a vhost-user device: {device.name}")


@check(
    "guest/host-devices",
    severity=ERROR,
    side="source",
    cure="unplug it before the migration and plug one in afterwards, or put it behind a failover pair (<teaming>)",
)
def host_devices(facts: Facts) -> Iterator[Seen]:
    """A device that is passed through reaches the guest's memory without QEMU, which cannot wait for pages then."""
    for device in facts.guest.of("hostdev-pci", "hostdev-mdev"):
        if not device.is_failover:
            is_sure = known(facts.source.qemu) >= _VFIO_REFUSED
            yield Seen(
                f"a device of the host is passed through: {device.name}",
                severity=ERROR if is_sure else WARNING,
            )
    if facts.guest.of("hostdev-usb"):
        yield Seen(
            "a USB device of the host is passed through and stays behind",
            severity=WARNING,
        )


@check(
    "guest/virtiofs",
    severity=ERROR,
    side="source",
    cure="unmount it in the guest and detach it, or share the folder over the network",
    fixed_in="libvirt 9.1, with a virtiofsd that can move its state",
)
def virtiofs(facts: Facts) -> Iterator[Seen]:
    """libvirt 9.0 and older refuses to migrate a guest with virtiofs; newer ones do if virtiofsd can move its state."""
    for device in facts.guest.of("virtiofs"):
        libvirt = known(facts.source.libvirt)
        is_sure = libvirt < _VIRTIOFS_POSSIBLE
        yield Seen(
            f"the guest has a virtiofs folder '{device.name}', and libvirt is {version_text(libvirt)}",
            severity=ERROR if is_sure else WARNING,
            fixed_in=None if is_sure else "",
        )


@check(
    "guest/transient-disk",
    severity=ERROR,
    side="source",
    cure="detach it",
)
def transient_disk(facts: Facts) -> Iterator[Seen]:
    """libvirt refuses to migrate a guest with a disk whose changes are thrown away."""
    for disk in facts.guest.disks:
        if disk.is_transient:
            yield Seen(f"disk {disk.target} is transient")


@check(
    "guest/disks",
    severity=ERROR,
    side="source",
    cure="share the disk, copy it (--copy-storage-all), or say --unsafe if it is shared",
)
def disks(facts: Facts) -> Iterator[Seen]:
    """libvirt calls a migration unsafe if a disk that can be written is neither on shared storage nor copied."""
    at_stake = _left_where_they_are(facts)
    if facts.request.has(Flags.VIR_MIGRATE_UNSAFE):
        if at_stake:
            names = ", ".join(disk.target for disk in at_stake)
            yield Seen(
                f"VIR_MIGRATE_UNSAFE: nobody checks that both hosts see the same {names}",
                severity=NOTE,
                cure="see to it yourself",
            )
        return
    for disk in at_stake:
        if disk.kind == "nvme":
            yield Seen(f"disk {disk.target} is an NVMe device of the source")
    files = [disk for disk in at_stake if disk.kind in ("file", "volume")]
    if files:
        yield from _files(facts, files)


def _left_where_they_are(facts: Facts) -> list[Disk]:
    """Disks that are neither read-only nor copied nor on the network; libvirt looks at no others."""
    return [
        disk
        for disk in facts.guest.disks
        if disk.source
        and not disk.is_readonly
        and disk.kind != "network"
        and not _is_copied(facts, disk)
    ]


def _is_copied(facts: Facts, disk: Disk) -> bool:
    if not facts.request.has(
        Flags.VIR_MIGRATE_NON_SHARED_DISK | Flags.VIR_MIGRATE_NON_SHARED_INC
    ):
        return False
    chosen = facts.request.params.get("migrate_disks")
    if chosen is None:
        return not disk.is_shared
    return disk.target in (chosen.split(",") if isinstance(chosen, str) else chosen)


def _files(facts: Facts, files: list[Disk]) -> Iterator[Seen]:
    places = facts.the_domain.disk_places
    if isinstance(places, Unknown):
        names = ", ".join(disk.target for disk in files)
        raise CannotTell(Unknown(f"whether {names} is on shared storage: {places.why}"))
    on = {place.target: place.file_system for place in places}
    can_be_configured = known(facts.source.libvirt) >= _SHARED_BY_CONFIGURATION
    for disk in files:
        if on.get(disk.target) in _LOCAL:
            yield Seen(
                f"disk {disk.target} lies on {on[disk.target]}, which is not shared: {disk.source}",
                severity=WARNING if can_be_configured else ERROR,
            )


@check(
    "guest/disk-cache",
    severity=ERROR,
    side="source",
    cure="set cache='none' or 'directsync', or upgrade QEMU",
    fixed_in="QEMU 4.0",
)
def disk_cache(facts: Facts) -> Iterator[Seen]:
    """Before QEMU 4.0 the destination may read old blocks from its cache, and libvirt refuses unless the disk's cache is
    off."""
    if facts.request.has(Flags.VIR_MIGRATE_UNSAFE):
        return
    for disk in _left_where_they_are(facts):
        if disk.is_shared or disk.cache in ("none", "directsync"):
            continue
        qemu = known(facts.source.qemu)
        if qemu < _CACHES_DROPPED:
            yield Seen(
                f"disk {disk.target} has cache mode '{disk.cache or 'default'}', and QEMU is {version_text(qemu)}"
            )
