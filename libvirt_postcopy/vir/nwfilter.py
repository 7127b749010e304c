"""Network filters: a redefinition that keeps the filter's UUID.

libvirt identifies a filter by its name and its UUID, and refuses to define one whose name it knows with another UUID.
Programs that write filters from templates give a new UUID each time, or none, for which libvirt makes one up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, cast

from lxml import etree

from libvirt_postcopy.constants import NWFilterDefineFlags
from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.vir.calls import refusals
from libvirt_postcopy.vir.protocols import Connection

__all__ = ["Defined", "define_keeping_uuid", "with_uuid"]

_LARGEST = 10 << 20  # bytes, as virsh reads of a file at most
_VALIDATE = int(NWFilterDefineFlags.VIR_NWFILTER_DEFINE_VALIDATE)


class _Filter(Protocol):
    def name(self) -> str: ...

    def UUIDString(self) -> str: ...


class _Host(Connection, Protocol):
    """``libvirt.virConnect``, as far as only this uses it."""

    def listAllNWFilters(self, flags: int = 0) -> list[_Filter]: ...

    def nwfilterDefineXML(self, xmlDesc: str) -> _Filter: ...

    def nwfilterDefineXMLFlags(self, xmlDesc: str, flags: int = 0) -> _Filter: ...


@dataclass(frozen=True)
class Defined:
    """A filter that was defined.

    :ivar had: The UUID that it had before; None if there was none of its name.
    """

    name: str
    uuid: str
    had: str | None


def define_keeping_uuid(
    connection: Connection, xml: str, *, validate: bool = False
) -> Defined:
    """Define a filter, with the UUID that a filter of its name has already, whatever the XML says.

    :param validate: Let the daemon check the XML against its schema.
    :raises UsageError: If it is not the XML of a filter; nothing was sent.
    :raises LibvirtError: If libvirt refuses.
    """
    host = cast(_Host, connection)
    name = _name(_parse(xml))
    with refusals():
        filters = host.listAllNWFilters()
        had = next((each.UUIDString() for each in filters if each.name() == name), None)
        sent = xml if had is None else with_uuid(xml, had)
        if validate:
            made = host.nwfilterDefineXMLFlags(sent, _VALIDATE)
        else:
            made = host.nwfilterDefineXML(sent)
        return Defined(made.name(), made.UUIDString(), had)


def with_uuid(xml: str, uuid: str) -> str:
    """Give a filter a UUID, in place of the one that it has; all else stays as it is written.

    :raises UsageError: If it is not the XML of a filter.
    """
    root = _parse(xml)
    first, *others = root.findall("uuid") or [_inserted(root)]
    for each in others:  # libvirt reads the first
        root.remove(each)
    for child in list(first):
        first.remove(child)
    first.text = uuid
    return str(etree.tostring(root.getroottree(), encoding="unicode"))


def _inserted(root: Any) -> Any:
    element = etree.Element("uuid")
    element.tail = root.text
    root.insert(0, element)
    return element


def _name(root: Any) -> str:
    name = str(root.get("name", ""))
    if not name:
        raise UsageError("the network filter has no name", cure="write <filter name=…>")
    return name


def _parse(xml: str) -> Any:
    content = xml.encode()
    if len(content) > _LARGEST:
        raise UsageError("the XML of the network filter is larger than 10 MiB")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(content, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise UsageError(f"not the XML of a network filter: {error}") from error
    if root.getroottree().docinfo.doctype:
        raise UsageError("the XML has a document type", cure="take out <!DOCTYPE …>")
    if root.tag != "filter":
        raise UsageError(
            f"not the XML of a network filter: it begins with <{root.tag}>"
        )
    return root
