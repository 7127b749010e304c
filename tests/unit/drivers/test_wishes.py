from __future__ import annotations

import pytest

from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.domxml import Disk, Guest, read_guest
from libvirt_postcopy.drivers.wishes import Wishes, check_guest, parameters_of
from libvirt_postcopy.errors import NotSupportedError, UsageError

NONE = MigrateFlags(0)


@pytest.mark.parametrize(
    "disk",
    [
        Disk("vda", "file", "/g.iso", is_readonly=True),
        Disk("vda", "network", "rbd:pool/g"),
        Disk("vda", "block", "/dev/shared", is_shared=True),
        Disk("hdc"),
    ],
)
def test_disk_that_both_hosts_have(disk: Disk) -> None:
    check_guest(Guest("g", disks=(disk,)), NONE)


def test_disk_that_may_be_the_sources_own() -> None:
    guest = Guest("g", disks=(Disk("vda", "file", "/g.img"),))
    with pytest.raises(UsageError, match="same disk vda.*--unsafe"):
        check_guest(guest, NONE)
    check_guest(guest, MigrateFlags.VIR_MIGRATE_UNSAFE)


def test_what_is_outside_qemu_stays_behind() -> None:
    disk = Disk("vdb", "file", "/g", is_transient=True)
    with pytest.raises(NotSupportedError, match="vdb is transient"):
        check_guest(Guest("g", disks=(disk,)), MigrateFlags.VIR_MIGRATE_UNSAFE)
    tpm = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"
    guest = read_guest(f"<domain><name>g</name><devices>{tpm}</devices></domain>")
    with pytest.raises(NotSupportedError, match="TPM"):
        check_guest(guest, NONE)


def test_parameters() -> None:
    assert parameters_of({}, Wishes(), 10, 0) == {"max-bandwidth": 10 << 20}
    given = {"bandwidth": 3, "bandwidth.postcopy": 4, "auto_converge.initial": 20}
    assert parameters_of(given, Wishes(downtime_limit_ms=50), 10, 9) == {
        "max-bandwidth": 3 << 20,
        "max-postcopy-bandwidth": 4 << 20,
        "downtime-limit": 50,
        "cpu-throttle-initial": 20,
    }
    assert parameters_of({}, Wishes(), 1 << 62, 0)["max-bandwidth"] == 2**63 - 1
