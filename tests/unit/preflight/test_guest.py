from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from libvirt_postcopy.constants import MigrateFlags as Flags
from libvirt_postcopy.domxml import Device, Disk
from libvirt_postcopy.events import Half
from libvirt_postcopy.preflight.facts import DiskPlace, Facts, Probe, Unknown
from libvirt_postcopy.preflight.finding import Severity, Verdict
from unit.preflight.scene import (
    CAPABILITIES,
    GIB,
    asked,
    destination,
    domain,
    guest,
    one,
    seen,
    source,
    verdict,
)

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE


# What it does now


def test_guest_that_does_not_run() -> None:
    found = one("guest/not-running", domain(is_running=False))
    assert found.severity is ERROR and "'web1' is not running" in found.evidence


def test_guest_that_is_paused() -> None:
    found = one("guest/paused", domain(is_paused=True))
    assert found.severity is ERROR and found.side == "source"


def test_guest_with_a_job() -> None:
    assert one("guest/job", domain(has_job=True)).severity is ERROR


@pytest.mark.parametrize("half", [Half.SPLIT, Half.SPLIT_FAILED])
def test_half_of_a_guest_is_to_be_left_alone(half: Half) -> None:
    facts = domain(half=half, is_paused=True, has_job=True)
    found = one("guest/split", facts)
    assert found.severity is ERROR
    assert "one half of a split guest" in found.evidence
    assert found.cure.startswith("destroy, resume and reset neither half")
    assert ("has failed" in found.evidence) is (half is Half.SPLIT_FAILED)
    # No cure that would lose it: nobody is told to resume it or to abort its job.
    assert seen("guest/paused", facts) == seen("guest/job", facts) == []


def test_guest_that_is_being_migrated() -> None:
    facts = domain(half=Half.MIGRATING, is_paused=True, has_job=True)
    assert "part of a migration" in one("guest/split", facts).evidence
    assert seen("guest/paused", facts) == seen("guest/job", facts) == []


def test_what_qemu_says_blocks_a_migration() -> None:
    found = seen("guest/blocked", domain(blockers=("9p is mounted", "SEV")))
    assert [each.evidence for each in found] == ["QEMU: 9p is mounted", "QEMU: SEV"]


def test_qemu_without_postcopy() -> None:
    facts = domain(capabilities=frozenset(("xbzrle",)))
    assert one("guest/capability", facts).severity is ERROR


# Memory


def test_pages_of_one_gib_stall_the_guest() -> None:
    found = one("guest/huge-pages", guest(huge_pages_kib=(GIB,)))
    assert found.severity is WARNING
    assert "1 GiB" in found.evidence and "0.9 s at 10 Gbit/s" in found.evidence


def test_stall_follows_the_limit_of_the_link() -> None:
    facts = replace(guest(huge_pages_kib=(GIB,)), request=asked(bandwidth__postcopy=64).request)  # fmt: skip
    assert "16.0 s at 64 MiB/s" in one("guest/huge-pages", facts).evidence


@pytest.mark.parametrize("sizes", [(), (0,), (2048,)])
def test_small_pages_do_not(sizes: tuple[int, ...]) -> None:
    assert seen("guest/huge-pages", guest(huge_pages_kib=sizes)) == []


NO_TMPFS = "Postcopy is not supported: Host backend files need to be TMPFS or HUGETLBFS only"  # fmt: skip
IN_A_FILE = guest(backing="file")


@pytest.mark.parametrize(
    "probe",
    [
        Unknown("not probed"),
        Probe(7_002_000, CAPABILITIES),  # it would fail at the switch only
        Probe(8_001_000 - 1, CAPABILITIES),
    ],
)
def test_memory_in_a_file(probe: Any) -> None:
    found = one("guest/file-memory", replace(IN_A_FILE, probe=probe))
    assert found.severity is WARNING and "tmpfs" in found.evidence


@pytest.mark.parametrize("qemu, is_told", [(8_000_000, True), (8_001_000, False), (Unknown("?"), True)])  # fmt: skip
def test_memory_in_a_file_fails_late_before_qemu_8_1(qemu: Any, is_told: bool) -> None:
    facts = destination(replace(IN_A_FILE, probe=Unknown("not probed")), qemu=qemu)
    assert ("QEMU 8.1" in one("guest/file-memory", facts).fixed_in) is is_told
    alone = replace(facts, destination=None)
    assert one("guest/file-memory", alone).fixed_in


def test_memory_in_a_file_that_qemu_refuses() -> None:
    """What it says counts, not its number: fixes are carried to older ones."""
    facts = replace(IN_A_FILE, probe=Probe(8_000_000, CAPABILITIES, NO_TMPFS))
    found = one("guest/file-memory", facts)
    assert found.severity is ERROR and "TMPFS" in found.evidence
    assert seen("destination/userfaultfd", facts) == [], "its cure would be wrong"


def test_memory_in_a_file_that_qemu_takes() -> None:
    facts = replace(IN_A_FILE, probe=Probe(8_001_000, CAPABILITIES))
    assert seen("guest/file-memory", facts) == []


@pytest.mark.parametrize("changes", [{"backing": "memfd"}, {"backing": "anonymous"}, {"backing": "file", "huge_pages_kib": (2048,)}])  # fmt: skip
def test_memory_that_qemu_can_fill(changes: dict[str, object]) -> None:
    facts = replace(guest(**changes), probe=Unknown("not probed"))
    assert seen("guest/file-memory", facts) == []


@pytest.mark.parametrize("qemu, count", [(2_011_000, 1), (2_012_000, 0)])
def test_shared_memory_in_an_old_qemu(qemu: int, count: int) -> None:
    facts = destination(guest(is_memory_shared=True), qemu=qemu)
    assert [each.severity for each in seen("guest/shared-memory", facts)] == [ERROR] * count  # fmt: skip


def test_private_memory_in_an_old_qemu() -> None:
    assert seen("guest/shared-memory", destination(qemu=2_011_000)) == []


def test_locked_memory_is_a_note() -> None:
    assert one("guest/locked", guest(is_memory_locked=True)).severity is NOTE


@pytest.mark.parametrize("kind", ["nvdimm", "virtio-pmem"])
def test_persistent_memory(kind: str) -> None:
    facts = guest(devices=(Device(f"memory-{kind}", "/dev/dax0"),))
    found = one("guest/persistent-memory", facts)
    assert found.severity is WARNING and f"{kind} /dev/dax0" in found.evidence
    assert seen("guest/persistent-memory", guest(devices=(Device("memory-dimm", ""),))) == []  # fmt: skip


# Devices


def test_vhost_user() -> None:
    found = one("guest/vhost-user", guest(devices=(Device("vhost-user", "52:54"),)))
    assert found.severity is WARNING and "52:54" in found.evidence


@pytest.mark.parametrize("kind", ["hostdev-pci", "hostdev-mdev"])
@pytest.mark.parametrize("qemu, severity", [(8_001_000, WARNING), (8_002_000, ERROR)])
def test_device_that_is_passed_through(
    kind: str, qemu: int, severity: Severity
) -> None:
    facts = source(guest(devices=(Device(kind, "0000:01:00.0"),)), qemu=qemu)
    found = one("guest/host-devices", facts)
    assert found.severity is severity and "0000:01:00.0" in found.evidence


def test_device_of_a_failover_pair_is_unplugged_by_qemu() -> None:
    facts = guest(devices=(Device("hostdev-pci", "52:54", is_failover=True),))
    assert seen("guest/host-devices", facts) == []


def test_usb_device_stays_behind() -> None:
    facts = guest(devices=(Device("hostdev-usb", "usb"),))
    assert one("guest/host-devices", facts).severity is WARNING


@pytest.mark.parametrize("libvirt, severity", [(9_000_000, ERROR), (9_001_000, WARNING)])  # fmt: skip
def test_virtiofs(libvirt: int, severity: Severity) -> None:
    facts = source(guest(devices=(Device("virtiofs", "home"),)), libvirt=libvirt)
    found = one("guest/virtiofs", facts)
    assert found.severity is severity and "'home'" in found.evidence
    assert ("libvirt 9.1" in found.fixed_in) is (severity is ERROR)


# Disks

LOCAL = Disk("vda", "file", "/var/lib/libvirt/images/web1.qcow2")


def with_disks(*disks: Disk, on: str = "", facts: Facts | None = None) -> Facts:
    """The guest with disks, which lie on a file system if one is named."""
    made = guest(disks=disks)
    assert made.domain is not None
    places = tuple(DiskPlace(disk.target, on) for disk in disks if disk.kind == "file")
    domain = replace(made.domain, disk_places=places if on else Unknown("elsewhere"))
    return replace(made, domain=domain, request=(facts or made).request)


def test_disk_that_is_transient() -> None:
    facts = with_disks(LOCAL, replace(LOCAL, target="vdb", is_transient=True))
    found = one("guest/transient-disk", facts)
    assert found.severity is ERROR and "vdb" in found.evidence


def test_disk_on_a_local_file_system() -> None:
    facts = source(with_disks(LOCAL, on="ext4"), libvirt=9_000_000)
    found = one("guest/disks", facts)
    assert found.severity is ERROR
    assert "vda lies on ext4" in found.evidence and "web1.qcow2" in found.evidence


def test_disk_that_may_be_shared_by_configuration() -> None:
    """From libvirt 10.8 qemu.conf may name shared file systems."""
    facts = source(with_disks(LOCAL, on="ext4"), libvirt=10_008_000)
    assert one("guest/disks", facts).severity is WARNING


@pytest.mark.parametrize("kind", ["nfs4", "ceph", "something-new"])
def test_disk_on_another_file_system_is_libvirts_to_judge(kind: str) -> None:
    assert seen("guest/disks", with_disks(LOCAL, on=kind)) == []


@pytest.mark.parametrize("kind", ["file", "volume"])
def test_disk_of_which_nobody_here_can_tell(kind: str) -> None:
    found = one("guest/disks", with_disks(replace(LOCAL, kind=kind)))
    assert found.is_unknown
    assert "whether vda is on shared storage: elsewhere" in found.evidence


def test_nvme_device_of_the_source() -> None:
    facts = with_disks(Disk("vdb", "nvme", "pci"))
    assert one("guest/disks", facts).severity is ERROR


@pytest.mark.parametrize(
    "disk",
    [
        replace(LOCAL, is_readonly=True),
        Disk("sda"),
        Disk("vda", "network", "rbd:pool/web1"),
        Disk("vda", "block", "/dev/vg/web1"),
    ],
)
def test_disk_that_libvirt_calls_safe(disk: Disk) -> None:
    assert seen("guest/disks", with_disks(disk, on="ext4")) == []


@pytest.mark.parametrize(
    "chosen, is_shared, is_copied",
    [
        (None, False, True),
        (None, True, False),
        ("vda", False, True),
        (["vda"], True, True),
        ("vdb", False, False),
        ([], False, False),
    ],
)
def test_disk_that_is_copied(chosen: object, is_shared: bool, is_copied: bool) -> None:
    params = {} if chosen is None else {"migrate_disks": chosen}
    facts = with_disks(
        replace(LOCAL, is_shared=is_shared),
        on="ext4",
        facts=asked(Flags.VIR_MIGRATE_NON_SHARED_DISK, **params),
    )
    assert (seen("guest/disks", facts) == []) is is_copied


def test_unsafe_leaves_it_to_the_user() -> None:
    facts = with_disks(LOCAL, on="ext4", facts=asked(Flags.VIR_MIGRATE_UNSAFE))
    found = one("guest/disks", facts)
    assert found.severity is NOTE and "vda" in found.evidence
    assert seen("guest/disk-cache", source(facts, qemu=3_001_000)) == []
    assert verdict("guest/disks", asked(Flags.VIR_MIGRATE_UNSAFE)) is Verdict.CLEAR


@pytest.mark.parametrize(
    "disk, qemu, count",
    [
        (Disk("vda", "block", "/dev/sdb"), 3_001_000, 1),
        (Disk("vda", "block", "/dev/sdb", "writeback"), 3_001_000, 1),
        (Disk("vda", "block", "/dev/sdb"), 4_000_000, 0),
        (Disk("vda", "block", "/dev/sdb", "none"), 3_001_000, 0),
        (Disk("vda", "block", "/dev/sdb", "directsync"), 3_001_000, 0),
        (Disk("vda", "block", "/dev/sdb", is_shared=True), 3_001_000, 0),
        (Disk("vda", "network", "rbd:x", "writeback"), 3_001_000, 0),
        (Disk("vda", "block", "/dev/sdb", is_readonly=True), 3_001_000, 0),
    ],
)
def test_cache_mode_matters_to_an_old_qemu(disk: Disk, qemu: int, count: int) -> None:
    found = seen("guest/disk-cache", source(with_disks(disk), qemu=qemu))
    assert [each.severity for each in found] == [ERROR] * count
    mode = f"cache mode '{disk.cache or 'default'}'"
    assert all(mode in each.evidence for each in found)
