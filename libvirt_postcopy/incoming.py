"""The XML of a domain that waits for a migration, and what is left of it when the guest has arrived.

What we add is marked by an environment variable that counts our arguments, which are the last ones; libvirt keeps
both.  So they are found again in the XML of a guest that was moved like this before, and the user's own arguments
are never touched.  Another one names the run that has made the domain: what a run has made, and it alone, it may remove.

The XML may come from a stranger: a document type is refused, so there are no entities, and libxml2's limits on size and
depth hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lxml import etree

from libvirt_postcopy.errors import UsageError

__all__ = [
    "LARGEST_XML",
    "QEMU_NAMESPACE",
    "add_arguments",
    "clean_xml",
    "has_ours",
    "incoming_arguments",
    "incoming_xml",
    "is_made_by",
    "property_arguments",
    "renamed",
    "socket_arguments",
]

QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"

LARGEST_XML = 10 << 20
"""Bytes; what virsh reads of a file at most."""

_COUNT = "LIBVIRT_POSTCOPY_ARGUMENTS"
_RUN = "LIBVIRT_POSTCOPY_RUN"
_MONITOR_ID = "libvirt-postcopy"
_LINE, _ARGUMENT, _VARIABLE = (
    f"{{{QEMU_NAMESPACE}}}{tag}" for tag in ("commandline", "arg", "env")
)


def incoming_arguments() -> tuple[str, ...]:
    """Wait until the monitor says where to listen."""
    return ("-incoming", "defer")


def socket_arguments(path: str) -> tuple[str, ...]:
    """A second monitor on a unix socket of QEMU's host.

    :raises UsageError: If the path cannot be one.
    """
    if not path.startswith("/") or "\n" in path or len(path.encode()) > 107:
        raise UsageError(
            f"not a path for a socket: {path!r:.120}",
            cure="name an absolute path of at most 107 bytes",
        )
    escaped = path.replace(",", ",,")
    return (
        "-chardev",
        f"socket,id={_MONITOR_ID},path={escaped},server=on,wait=off",
        "-mon",
        f"chardev={_MONITOR_ID},mode=control",
    )


def property_arguments(
    wanted: Mapping[str, str], known: Sequence[str]
) -> tuple[str, ...]:
    """Properties of QEMU's migration, without those that this QEMU does not have: it would not start.

    :param known: The names that ``device-list-properties`` gives for ``migration``.
    """
    return tuple(
        word
        for name, value in wanted.items()
        if name in known
        for word in ("-global", f"migration.{name}={value}")
    )


def incoming_xml(xml: str, *, run: str = "") -> str:
    """Make the XML of a domain that waits for a migration from that of the running one.

    :param run: A name that no other run has, for :func:`is_made_by`.
    :raises UsageError: If it is not the XML of a domain.
    """
    return add_arguments(xml, incoming_arguments(), run=run)


def add_arguments(xml: str, arguments: Sequence[str], *, run: str = "") -> str:
    """Add arguments for QEMU in place of those of ours that are there.

    :raises UsageError: If it is not the XML of a domain.
    """
    root = _parse(xml)
    _strip(root)
    if arguments:
        _append(root, arguments, run)
    return _text(root)


def is_made_by(run: str, xml: str) -> bool:
    """Whether a domain was made by a run.

    :raises UsageError: If it is not the XML of a domain.
    """
    marks = _parse(xml).findall(f"{_LINE}/{_VARIABLE}")
    return (_RUN, run) in [(each.get("name"), each.get("value")) for each in marks]


def has_ours(xml: str) -> bool:
    """Whether there may be something of ours in it; asked before it is read as XML."""
    return _COUNT in xml


def clean_xml(xml: str) -> str:
    """Take out what is ours.

    :raises UsageError: If it is not the XML of a domain.
    """
    root = _parse(xml)
    _strip(root)
    return _text(root)


def renamed(xml: str, name: str) -> str:
    """Give a domain another name."""
    root = _parse(xml)
    element = root.find("name")
    if element is None:
        raise UsageError("the XML has no <name>")
    element.text = name
    return _text(root)


def _parse(xml: str) -> Any:
    content = xml.encode()
    if len(content) > LARGEST_XML:
        raise UsageError("the XML of the domain is larger than 10 MiB")
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(content, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise UsageError(f"not the XML of a domain: {error}") from error
    if root.getroottree().docinfo.doctype:
        raise UsageError(
            "the XML has a document type",
            cure="take out <!DOCTYPE …>: libvirt's XML has none",
        )
    if root.tag != "domain":
        raise UsageError(f"not the XML of a domain: it begins with <{root.tag}>")
    return root


def _text(root: Any) -> str:
    # With the comments before and after the element, where there are any.
    return str(etree.tostring(root.getroottree(), encoding="unicode"))


def _strip(root: Any) -> None:
    for line in root.findall(_LINE):
        _strip_line(line)
        if not len(line):
            _remove(line)


def _strip_line(line: Any) -> None:
    for mark in line.findall(_VARIABLE):
        if mark.get("name") == _RUN:
            _remove(mark)
        if mark.get("name") != _COUNT:
            continue
        count = mark.get("value", "")
        arguments = line.findall(_ARGUMENT)
        ours = arguments[-int(count) :] if count.isdigit() and int(count) else []
        for argument in ours if _are_ours(ours) else []:
            _remove(argument)
        _remove(mark)


def _are_ours(arguments: Sequence[Any]) -> bool:
    """Whether all are such as we add: somebody may have edited what the mark counts."""
    words = [argument.get("value", "") for argument in arguments]
    if len(words) % 2:
        return False
    return all(
        words[at] in _OPTIONS and words[at + 1].startswith(_OPTIONS[words[at]])
        for at in range(0, len(words), 2)
    )


_OPTIONS = {
    "-incoming": "defer",
    "-chardev": f"socket,id={_MONITOR_ID},",
    "-mon": f"chardev={_MONITOR_ID},",
    "-global": "migration.",
}


def _append(root: Any, arguments: Sequence[str], run: str) -> None:
    line = root.find(_LINE)
    if line is None:
        line = _child(root, _LINE)
    for argument in arguments:
        _child(line, _ARGUMENT, value=argument)
    _child(line, _VARIABLE, name=_COUNT, value=str(len(arguments)))
    if run:
        _child(line, _VARIABLE, name=_RUN, value=run)


def _child(parent: Any, tag: str, **attributes: str) -> Any:
    """Append an element as those before it are laid out."""
    child = etree.SubElement(parent, tag, attributes, nsmap={"qemu": QEMU_NAMESPACE})
    before = child.getprevious()
    if before is None:
        outer = parent.getprevious()
        indent = outer.tail if outer is not None else parent.tail
        if indent is not None and not indent.strip():
            parent.text = indent + "  "
            child.tail = indent
        return child
    child.tail = before.tail
    before.tail = (
        before.getprevious().tail if before.getprevious() is not None else parent.text
    )
    return child


def _remove(element: Any) -> None:
    """Remove an element, and the white space that laid it out."""
    parent, before = element.getparent(), element.getprevious()
    if before is not None:
        before.tail = element.tail
    else:
        parent.text = element.tail if len(parent) == 1 else parent.text
    parent.remove(element)
