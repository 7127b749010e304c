"""What a domain's XML says that matters to post-copy, as plain values.

The XML may come from a stranger: entities are not resolved, and neither the network nor a file is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lxml import etree

from libvirt_postcopy.errors import UsageError

__all__ = [
    "CPU",
    "Device",
    "Disk",
    "Guest",
    "HostCPU",
    "probe_xml",
    "read_guest",
    "read_host_cpu",
]


@dataclass(frozen=True)
class Disk:
    """One disk.

    :ivar kind: ``file``, ``block``, ``network``, ``nvme``, …; empty where it has no source.
    :ivar source: The path, or ``PROTOCOL:NAME``.
    :ivar is_shared: ``<shareable/>``.
    """

    target: str
    kind: str = ""
    source: str = ""
    cache: str = ""
    is_readonly: bool = False
    is_shared: bool = False
    is_transient: bool = False


@dataclass(frozen=True)
class Device:
    """One device that is not a disk.

    :ivar name: How a person finds it in the XML.
    :ivar is_failover: Taken out by QEMU before it migrates (``<teaming type='transient'>``).
    """

    kind: str
    name: str
    is_failover: bool = False


@dataclass(frozen=True)
class CPU:
    """``<cpu>``; ``xml`` is the element as libvirt's comparison takes it."""

    mode: str
    check: str
    xml: str


@dataclass(frozen=True)
class Guest:
    """What a domain's XML says.

    :ivar memory_kib: What its QEMU is given at most before hot-plug (``<memory>``).
    :ivar current_kib: What the guest has now (``<currentMemory>``).
    :ivar limit_kib: What hot-plug may bring it to (``<maxMemory>``); 0 without hot-plug.
    :ivar huge_pages_kib: Sizes of huge pages; 0 stands for the host's default size.
    :ivar backing: ``<source type=…>`` of the memory: ``file``, ``memfd``, ``anonymous`` or empty.
    """

    name: str
    uuid: str = ""
    virt_type: str = "qemu"
    arch: str = ""
    machine: str = ""
    emulator: str = ""
    memory_kib: int = 0
    current_kib: int = 0
    limit_kib: int = 0
    huge_pages_kib: tuple[int, ...] = ()
    backing: str = ""
    is_memory_shared: bool = False
    is_memory_locked: bool = False
    cpu: CPU | None = None
    disks: tuple[Disk, ...] = ()
    devices: tuple[Device, ...] = ()

    def of(self, *kinds: str) -> tuple[Device, ...]:
        """The devices of some kinds."""
        return tuple(device for device in self.devices if device.kind in kinds)


@dataclass(frozen=True)
class HostCPU:
    """The CPU of a host, from its capabilities."""

    model: str
    vendor: str
    features: frozenset[str]


def read_guest(xml: str) -> Guest:
    """Read a domain's XML.

    :raises UsageError: If it is none.
    """
    root = _parse(xml)
    if root.tag != "domain":
        raise UsageError(f"not the XML of a domain: it begins with <{root.tag}>")
    memory = _kib(root.find("memory"))
    system = root.find("os/type")
    return Guest(
        name=root.findtext("name", "").strip(),
        uuid=root.findtext("uuid", "").strip().lower(),
        virt_type=root.get("type", "qemu"),
        arch=_attribute(system, "arch"),
        machine=_attribute(system, "machine"),
        emulator=root.findtext("devices/emulator", "").strip(),
        memory_kib=memory,
        current_kib=_kib(root.find("currentMemory")) or memory,
        limit_kib=_kib(root.find("maxMemory")),
        huge_pages_kib=_huge_pages(root),
        backing=_attribute(root.find("memoryBacking/source"), "type"),
        is_memory_shared=_is_memory_shared(root),
        is_memory_locked=root.find("memoryBacking/locked") is not None,
        cpu=_cpu(root.find("cpu")),
        disks=tuple(map(_disk, root.findall("devices/disk"))),
        devices=tuple(_devices(root)),
    )


def read_host_cpu(capabilities: str) -> HostCPU:
    """Read the host's CPU in the XML of ``virConnectGetCapabilities``.

    :raises UsageError: If it is no XML.
    """
    cpu = _parse(capabilities).find("host/cpu")
    if cpu is None:
        return HostCPU("", "", frozenset())
    features = frozenset(each.get("name", "") for each in cpu.findall("feature"))
    return HostCPU(
        cpu.findtext("model", "").strip(), cpu.findtext("vendor", "").strip(), features
    )


def _parse(xml: str) -> Any:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        return etree.fromstring(xml.encode(), parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise UsageError(f"not the XML of a domain: {error}") from error


def _attribute(element: Any, name: str) -> str:
    return "" if element is None else str(element.get(name, ""))


def _kib(element: Any) -> int:
    return 0 if element is None else _size_kib(element.text, element.get("unit"))


def _size_kib(number: str | None, unit: str | None) -> int:
    """Read a size, which is in KiB where no unit is said; 0 for what is none.

    ``KiB`` and ``K`` are 1024 bytes, ``KB`` is 1000.
    """
    word = (unit or "KiB").lower()
    try:
        if word in ("b", "bytes"):
            return int(number or 0) // 1024
        base = 1000 if word[1:] == "b" else 1024
        power = "kmgtpe".index(word[0]) + 1
        return int(int(number or 0) * base**power // 1024)
    except ValueError:
        return 0


def _huge_pages(root: Any) -> tuple[int, ...]:
    element = root.find("memoryBacking/hugepages")
    if element is None:
        return ()
    pages = element.findall("page")
    sizes = {_size_kib(page.get("size"), page.get("unit")) for page in pages}
    return tuple(sorted(sizes)) or (0,)


def _is_memory_shared(root: Any) -> bool:
    modes = {_attribute(root.find("memoryBacking/access"), "mode")}
    modes.update(cell.get("memAccess", "") for cell in root.findall("cpu/numa/cell"))
    return "shared" in modes


def _cpu(element: Any) -> CPU | None:
    if element is None or not (element.get("mode") or len(element)):
        return None
    alone = etree.tostring(element, encoding="unicode", with_tail=False)
    return CPU(element.get("mode", "custom"), element.get("check", ""), alone)


def _disk(disk: Any) -> Disk:
    source = disk.find("source")
    path = _source(source)
    return Disk(
        target=_attribute(disk.find("target"), "dev"),
        kind=disk.get("type", "file") if path else "",
        source=path,
        cache=_attribute(disk.find("driver"), "cache"),
        is_readonly=disk.find("readonly") is not None,
        is_shared=disk.find("shareable") is not None,
        is_transient=disk.find("transient") is not None,
    )


def _source(source: Any) -> str:
    """What a disk lies on; a cdrom or floppy without a medium has none."""
    if source is None:
        return ""
    for name in ("file", "dev", "dir", "volume", "path"):
        if source.get(name):
            return str(source.get(name))
    if source.get("protocol"):
        return f"{source.get('protocol')}:{source.get('name', '')}"
    return str(source.get("type", ""))


def _devices(root: Any) -> Iterator[Device]:
    for each in root.findall("devices/hostdev"):
        yield _hostdev(each)
    for each in root.findall("devices/interface"):
        yield from _interface(each)
    for each in root.findall("devices/filesystem"):
        if _attribute(each.find("driver"), "type") == "virtiofs":
            yield Device("virtiofs", _attribute(each.find("target"), "dir"))
    for each in root.findall("devices/memory"):
        model = each.get("model", "")
        yield Device(f"memory-{model}", each.findtext("source/path", "").strip())
    for each in root.findall("devices/tpm"):
        backend = _attribute(each.find("backend"), "type")
        yield Device(f"tpm-{backend}", each.get("model", "tpm"))
    for each in root.findall("devices/disk[@type='vhostuser']"):
        yield Device("vhost-user", _attribute(each.find("target"), "dev"))
    if root.find("devices/video/driver[@name='vhostuser']") is not None:
        yield Device("vhost-user", "video")


def _hostdev(element: Any) -> Device:
    kind = element.get("type", element.get("mode", ""))
    address = element.find("source/address")
    where = "" if address is None else _address(address)
    return Device(f"hostdev-{kind}", where or kind, _is_failover(element))


def _address(address: Any) -> str:
    if address.get("uuid"):
        return str(address.get("uuid"))
    digits = [
        address.get(part, "0x0") for part in ("domain", "bus", "slot", "function")
    ]
    if address.get("slot") is None:
        return ""
    domain, bus, slot, function = (int(digit, 0) for digit in digits)
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"


def _interface(element: Any) -> Iterator[Device]:
    kind = element.get("type", "")
    name = _attribute(element.find("mac"), "address") or kind
    # A network that hands out devices of the host says so only in the live XML.
    actual = _attribute(element.find("actual"), "type") or kind
    if actual == "hostdev":
        yield Device("hostdev-pci", name, _is_failover(element))
    elif actual == "vhostuser":
        yield Device("vhost-user", name)


def _is_failover(element: Any) -> bool:
    return _attribute(element.find("teaming"), "type") == "transient"


_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"


def probe_xml(guest: Guest, name: str, uuid: str) -> str:
    """Write a domain of which only the QEMU matters: the guest's emulator, machine and kind of memory, nothing else.

    It waits for a migration that nobody sends: QEMU looks at what post-copy needs only in that state.  Neither
    KVM nor a disk nor a network is touched.
    """
    root = etree.Element("domain", {"type": "qemu"}, nsmap={"qemu": _QEMU})
    _text(root, "name", name)
    _text(root, "uuid", uuid)
    # The least that the firmware of every machine takes; none of it is touched.
    _text(root, "memory", "256", unit="MiB")
    if guest.backing in ("file", "memfd") and not guest.huge_pages_kib:
        backing = etree.SubElement(root, "memoryBacking")
        etree.SubElement(backing, "source", {"type": guest.backing})
    _text(root, "vcpu", "1")
    system = etree.SubElement(root, "os")
    _text(system, "type", "hvm", arch=guest.arch, machine=guest.machine)
    devices = etree.SubElement(root, "devices")
    if guest.emulator:
        _text(devices, "emulator", guest.emulator)
    etree.SubElement(devices, "controller", {"type": "usb", "model": "none"})
    etree.SubElement(devices, "memballoon", {"model": "none"})
    line = etree.SubElement(root, f"{{{_QEMU}}}commandline")
    for value in ("-incoming", "defer"):
        etree.SubElement(line, f"{{{_QEMU}}}arg", {"value": value})
    return str(etree.tostring(root, encoding="unicode"))


def _text(parent: Any, tag: str, text: str, **attributes: str) -> None:
    given = {name: value for name, value in attributes.items() if value}
    etree.SubElement(parent, tag, given).text = text
