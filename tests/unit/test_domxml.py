"""What a domain's XML says that matters to post-copy."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree

from libvirt_postcopy.domxml import (
    Device,
    Disk,
    Guest,
    probe_xml,
    read_guest,
    read_host_cpu,
)
from libvirt_postcopy.errors import UsageError

MIB, GIB = 1 << 10, 1 << 20  # KiB

RICH = """
<domain type='kvm' id='7' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web1</name>
  <uuid>6F0B2A3C-6d3f-4d0a-9c55-1f2e3d4c5b6a</uuid>
  <maxMemory slots='16' unit='KiB'>16777216</maxMemory>
  <memory unit='KiB'>8388608</memory>
  <currentMemory unit='KiB'>4194304</currentMemory>
  <memoryBacking>
    <hugepages><page size='1' unit='GiB' nodeset='0'/><page size='2048' unit='KiB' nodeset='1'/></hugepages>
    <locked/>
    <source type='memfd'/>
    <access mode='shared'/>
  </memoryBacking>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <cpu mode='custom' match='exact' check='full'>
    <model fallback='forbid'>Skylake-Client</model><feature policy='require' name='hypervisor'/>
  </cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='writeback'/><source file='/images/web1.qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='block' device='disk'><source dev='/dev/vg/data'/><target dev='vdb'/><shareable/></disk>
    <disk type='network' device='disk'>
      <source protocol='rbd' name='pool/web1'><host name='mon'/></source><target dev='vdc'/>
    </disk>
    <disk type='file' device='cdrom'><target dev='sda'/><readonly/></disk>
    <disk type='file' device='disk'><source file='/images/t'/><target dev='vdd'/><transient/></disk>
    <disk type='vhostuser' device='disk'><source type='unix' path='/run/spdk'/><target dev='vde'/></disk>
    <disk type='nvme' device='disk'><source type='pci' namespace='1'/><target dev='vdf'/></disk>
    <interface type='vhostuser'><mac address='52:54:00:00:00:01'/></interface>
    <interface type='network'><mac address='52:54:00:00:00:02'/><source network='net'/>
      <actual type='hostdev'/></interface>
    <interface type='hostdev'><mac address='52:54:00:00:00:03'/>
      <teaming type='transient' persistent='ua-backup'/></interface>
    <interface type='bridge'><mac address='52:54:00:00:00:04'/></interface>
    <hostdev mode='subsystem' type='pci'>
      <source><address domain='0x0000' bus='0x3b' slot='0x10' function='0x2'/></source></hostdev>
    <hostdev mode='subsystem' type='mdev' model='vfio-pci'>
      <source><address uuid='c2177883-f1bb-47f0-914d-32a22e3a8804'/></source></hostdev>
    <hostdev mode='subsystem' type='scsi'><source><address bus='0' target='1' unit='2'/></source></hostdev>
    <hostdev mode='subsystem' type='usb'><source><vendor id='0x1'/></source></hostdev>
    <filesystem type='mount'><driver type='virtiofs'/><source dir='/srv'/><target dir='home'/></filesystem>
    <filesystem type='mount'><source dir='/srv'/><target dir='nine'/></filesystem>
    <memory model='nvdimm'><source><path>/dev/dax0.0</path></source></memory>
    <memory model='dimm'><target><size unit='KiB'>1</size></target></memory>
    <video><driver name='vhostuser'/></video>
  </devices>
</domain>
"""  # fmt: skip


@pytest.fixture(scope="module")
def rich() -> Guest:
    return read_guest(RICH)


def test_names(rich: Guest) -> None:
    assert rich.name == "web1"
    assert rich.uuid == "6f0b2a3c-6d3f-4d0a-9c55-1f2e3d4c5b6a"
    assert (rich.virt_type, rich.arch, rich.machine, rich.emulator) == (
        "kvm",
        "x86_64",
        "pc-q35-7.2",
        "/usr/bin/qemu-system-x86_64",
    )


def test_memory(rich: Guest) -> None:
    assert (rich.limit_kib, rich.memory_kib, rich.current_kib) == (16 * GIB, 8 * GIB, 4 * GIB)  # fmt: skip
    assert rich.huge_pages_kib == (2048, GIB)
    assert rich.backing == "memfd"
    assert rich.is_memory_shared and rich.is_memory_locked


def test_cpu_is_kept_as_libvirt_compares_it(rich: Guest) -> None:
    assert rich.cpu is not None
    assert (rich.cpu.mode, rich.cpu.check) == ("custom", "full")
    cpu = etree.fromstring(rich.cpu.xml)
    assert cpu.tag == "cpu" and cpu.findtext("model") == "Skylake-Client"


def test_disks(rich: Guest) -> None:
    assert rich.disks == (
        Disk("vda", "file", "/images/web1.qcow2", "writeback"),
        Disk("vdb", "block", "/dev/vg/data", is_shared=True),
        Disk("vdc", "network", "rbd:pool/web1"),
        Disk("sda", "", "", is_readonly=True),
        Disk("vdd", "file", "/images/t", is_transient=True),
        Disk("vde", "vhostuser", "/run/spdk"),
        Disk("vdf", "nvme", "pci"),
    )


def test_devices(rich: Guest) -> None:
    assert rich.of("vhost-user") == (
        Device("vhost-user", "52:54:00:00:00:01"),
        Device("vhost-user", "vde"),
        Device("vhost-user", "video"),
    )
    assert rich.of("hostdev-pci") == (
        Device("hostdev-pci", "0000:3b:10.2"),
        Device("hostdev-pci", "52:54:00:00:00:02"),
        Device("hostdev-pci", "52:54:00:00:00:03", is_failover=True),
    )
    assert rich.of("hostdev-mdev") == (
        Device("hostdev-mdev", "c2177883-f1bb-47f0-914d-32a22e3a8804"),
    )
    assert rich.of("hostdev-scsi") == (Device("hostdev-scsi", "scsi"),)
    assert rich.of("hostdev-usb") == (Device("hostdev-usb", "usb"),)
    assert rich.of("virtiofs") == (Device("virtiofs", "home"),)
    assert rich.of("memory-nvdimm") == (Device("memory-nvdimm", "/dev/dax0.0"),)


def test_guest_of_which_little_is_said() -> None:
    guest = read_guest("<domain><name> x </name><memory unit='MiB'>16</memory></domain>")  # fmt: skip
    assert guest == Guest("x", memory_kib=16 * MIB, current_kib=16 * MIB)


@pytest.mark.parametrize(
    "size, kib",
    [
        ("<memory>1048576</memory>", GIB),
        ("<memory unit='bytes'>1048576</memory>", MIB),
        ("<memory unit='b'>2048</memory>", 2),
        ("<memory unit='k'>7</memory>", 7),
        ("<memory unit='KB'>1024</memory>", 1000),
        ("<memory unit='MB'>1024</memory>", 1_000_000),
        ("<memory unit='M'>3</memory>", 3 * MIB),
        ("<memory unit='G'>2</memory>", 2 * GIB),
        ("<memory unit='TiB'>1</memory>", 1024 * GIB),
        ("<memory unit='yards'>1</memory>", 0),
        ("<memory/>", 0),
        ("<memory>much</memory>", 0),
    ],
)
def test_units_are_libvirts(size: str, kib: int) -> None:
    assert read_guest(f"<domain>{size}</domain>").memory_kib == kib


def test_huge_pages_of_the_hosts_own_size() -> None:
    xml = "<domain><memoryBacking><hugepages/></memoryBacking></domain>"
    assert read_guest(xml).huge_pages_kib == (0,)


def test_memory_that_one_node_shares_is_shared() -> None:
    xml = "<domain><cpu><numa><cell id='0' memAccess='shared'/></numa></cpu></domain>"
    assert read_guest(xml).is_memory_shared


def test_empty_cpu_is_none() -> None:
    assert read_guest("<domain><cpu/></domain>").cpu is None
    assert read_guest("<domain><cpu mode='host-passthrough'/></domain>").cpu is not None


@pytest.mark.parametrize("xml", ["", "web1", "<domain>", "<network/>", "\0"])
def test_what_is_no_domain(xml: str) -> None:
    with pytest.raises(UsageError, match="not the XML of a domain"):
        read_guest(xml)


def test_no_file_is_read_for_an_entity(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    xml = f"""<!DOCTYPE domain [<!ENTITY e SYSTEM "file://{secret}">]>
        <domain><name>&e;</name></domain>"""
    assert "hunter2" not in read_guest(xml).name


def test_entities_are_not_resolved() -> None:
    """Nor can they explode."""
    entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(2))
    xml = f"""<!DOCTYPE domain [<!ENTITY e0 "ha">{entities}]>
        <domain><name>&e2;</name></domain>"""
    assert "ha" not in read_guest(xml).name


def test_host_cpu() -> None:
    cpu = read_host_cpu(
        "<capabilities><host><uuid>x</uuid><cpu><arch>x86_64</arch><model>EPYC</model>"
        "<vendor>AMD</vendor><feature name='svm'/><feature name='npt'/></cpu></host></capabilities>"
    )
    assert (cpu.model, cpu.vendor, cpu.features) == ("EPYC", "AMD", {"svm", "npt"})
    assert read_host_cpu("<capabilities><host/></capabilities>").model == ""


# The probe


def test_probe_has_the_guests_qemu_and_nothing_of_its_own(rich: Guest) -> None:
    probe = etree.fromstring(probe_xml(rich, "p<&1", "uuid-1"))
    assert probe.get("type") == "qemu", "a probe needs no KVM"
    assert probe.findtext("name") == "p<&1" and probe.findtext("uuid") == "uuid-1"
    assert probe.find("os/type").attrib == {"arch": "x86_64", "machine": "pc-q35-7.2"}
    assert probe.findtext("devices/emulator") == rich.emulator
    assert {each.tag for each in probe.find("devices")} == {
        "emulator",
        "controller",
        "memballoon",
    }
    arguments = [each.get("value") for each in probe[-1]]
    assert arguments == ["-incoming", "defer"], "only then QEMU looks at userfaultfd"


@pytest.mark.parametrize(
    "guest, backing",
    [
        (Guest("x"), None),
        (Guest("x", backing="file"), "file"),
        (Guest("x", backing="memfd"), "memfd"),
        (Guest("x", backing="file", huge_pages_kib=(2048,)), None),
    ],
)
def test_probe_has_the_guests_kind_of_memory_but_no_huge_page(
    guest: Guest, backing: str | None
) -> None:
    probe = etree.fromstring(probe_xml(guest, "p", "u"))
    source = probe.find("memoryBacking/source")
    assert (None if source is None else source.get("type")) == backing
    assert probe.find("memoryBacking/hugepages") is None


def test_probe_without_a_guest_leaves_the_choice_to_the_host() -> None:
    probe = etree.fromstring(probe_xml(Guest(""), "p", "u"))
    assert probe.find("os/type").attrib == {}
    assert probe.find("devices/emulator") is None
