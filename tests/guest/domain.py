"""The guest as a libvirt domain that migrates without ``--unsafe``."""

import os
from collections.abc import Sequence
from typing import Optional, Union
from xml.etree import ElementTree

from .image import GuestParams

__all__ = ["domain_xml"]

_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
ElementTree.register_namespace("qemu", _QEMU)

Element = ElementTree.Element
PathLike = Union[str, "os.PathLike[str]"]


def domain_xml(
    name: str,
    params: GuestParams,
    *,
    image: PathLike,
    socket: PathLike,
    uuid: Optional[str] = None,
    machine: str = "pc",
    domain_type: str = "qemu",
    emulator: Optional[str] = None,
    qemu_args: Sequence[str] = (),
) -> str:
    """Return the domain's XML.

    The image is a read-only floppy: libvirt holds a read-only disk for safe, so it
    need not lie on shared storage, only at the same path on both hosts. The serial
    port connects to the collector, again and again if need be: the destination's
    QEMU comes by itself, before the guest runs there.

    :param image: Path of the image as the hosts see it.
    :param socket: Path of the collector's socket as the hosts see it.
    :param machine: Pin it (``pc-i440fx-5.2``) to migrate between QEMU releases.
    :param qemu_args: Further arguments; they taint the domain.
    """
    domain = Element("domain", {"type": domain_type})
    _text(domain, "name", name)
    if uuid is not None:
        _text(domain, "uuid", uuid)
    _text(domain, "memory", str(params.memory_mib)).set("unit", "MiB")
    _text(domain, "vcpu", "1")
    system = _child(domain, "os")
    _text(system, "type", "hvm").attrib.update(arch="x86_64", machine=machine)
    _child(system, "boot", dev="fd")
    _child(_child(domain, "features"), "acpi")
    _child(domain, "clock", offset="utc")
    _add_devices(domain, str(image), str(socket), emulator)
    _add_arguments(domain, qemu_args)
    return ElementTree.tostring(domain, encoding="unicode")


def _add_devices(
    domain: Element, image: str, socket: str, emulator: Optional[str]
) -> None:
    devices = _child(domain, "devices")
    if emulator is not None:
        _text(devices, "emulator", emulator)
    disk = _child(devices, "disk", type="file", device="floppy")
    _child(disk, "driver", name="qemu", type="raw")
    _child(disk, "source", file=image)
    _child(disk, "target", dev="fda", bus="fdc")
    _child(disk, "readonly")
    _child(devices, "controller", type="usb", model="none")
    serial = _child(devices, "serial", type="unix")
    source = _child(serial, "source", mode="connect", path=socket)
    _child(source, "reconnect", enabled="yes", timeout="1")
    _child(serial, "target", type="isa-serial", port="0")
    _child(devices, "memballoon", model="none")


def _add_arguments(domain: Element, arguments: Sequence[str]) -> None:
    if not arguments:
        return
    line = ElementTree.SubElement(domain, f"{{{_QEMU}}}commandline")
    for argument in arguments:
        ElementTree.SubElement(line, f"{{{_QEMU}}}arg", {"value": argument})


def _child(parent: Element, tag: str, **attributes: str) -> Element:
    return ElementTree.SubElement(parent, tag, attributes)


def _text(parent: Element, tag: str, text: str) -> Element:
    child = ElementTree.SubElement(parent, tag)
    child.text = text
    return child
