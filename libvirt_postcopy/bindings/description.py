"""libvirt's own description of its API: ``libvirt-api.xml``, which its development package brings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from lxml import etree

from libvirt_postcopy.bindings.symbols import LIBVIRT, QEMU, version_number
from libvirt_postcopy.bindings.toolchain import ask_pkg_config

__all__ = ["Description", "Name", "beside", "find_description", "read_description"]

_DESCRIPTION = Path("/usr/share/libvirt/api/libvirt-api.xml")
_QEMU = "libvirt-qemu-api.xml"

_DESCRIBED = {"libvirt": LIBVIRT, "libvirt-qemu": QEMU}
"""A description's own name, and the library that it describes."""

_RELEASE = re.compile(r"\d+\.\d+\.\d+")
_TYPE = re.compile(r"VIR_TYPED_PARAM_(INT|UINT|LLONG|ULLONG|DOUBLE|BOOLEAN|STRING)\b")


@dataclass(frozen=True)
class Name:
    """A name of the API.

    :ivar value: Of a constant or a macro; None where it is computed, as (36+1), or an alias.
    :ivar kind: A constant's C enum; a parameter's type (``ULLONG``), where the text says it.
    :ivar since: The release that brought it; empty in descriptions before libvirt 8.5, which do not say.
    """

    value: int | str | None = None
    kind: str = ""
    since: str = ""


@dataclass(frozen=True)
class Description:
    """All names of the API.

    :ivar libraries: The libraries that are described.
    """

    constants: Mapping[str, Name] = field(default_factory=dict)
    macros: Mapping[str, Name] = field(default_factory=dict)
    functions: Mapping[str, Name] = field(default_factory=dict)
    libraries: frozenset[str] = frozenset()

    @property
    def version(self) -> int:
        """The newest release that it speaks of, as ``virConnectGetVersion`` writes it; 0 if it speaks of none."""
        names = (self.constants, self.macros, self.functions)
        return max(
            (
                version_number(name.since)
                for each in names
                for name in each.values()
                if _RELEASE.fullmatch(name.since)
            ),
            default=0,
        )


def find_description() -> Path:
    """Where libvirt's description is: pkg-config says, or where distributions put it."""
    told = ask_pkg_config("--variable=libvirt_api", "libvirt")
    return Path(told) if told and Path(told).is_file() else _DESCRIPTION


def beside(path: Path) -> list[Path]:
    """A description, and that of libvirt's functions for QEMU if it lies beside."""
    qemu = path.with_name(_QEMU)
    return [path, qemu] if qemu != path and qemu.is_file() else [path]


def read_description(*paths: Path) -> Description:
    """Read one or several files as one.

    :raises ValueError: If one is no description of an API; the text says which.
    :raises OSError: If one cannot be read.
    """
    constants: dict[str, Name] = {}
    macros: dict[str, Name] = {}
    functions: dict[str, Name] = {}
    libraries = set()
    for path in paths:
        root = _root(path)
        libraries.add(_DESCRIBED.get(root.get("name", ""), ""))
        for node in root.iterfind("symbols/enum"):
            constants[node.get("name", "")] = _constant(node)
        for node in root.iterfind("symbols/macro"):
            macros[node.get("name", "")] = _macro(node)
        for node in root.iterfind("symbols/function"):
            functions[node.get("name", "")] = Name(since=node.get("version", ""))
    return Description(
        MappingProxyType(constants),
        MappingProxyType(macros),
        MappingProxyType(functions),
        frozenset(libraries),
    )


def _root(path: Path) -> etree._Element:
    # It may be a file of anybody's: no entities, no network.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(path.read_bytes(), parser)
    except etree.XMLSyntaxError as error:
        raise ValueError(f"{path}: {error}") from error
    if root.tag != "api":
        raise ValueError(f"{path}: it describes no API: <{root.tag}>")
    return root


def _constant(node: etree._Element) -> Name:
    text = node.get("value", "")
    is_number = text.lstrip("-").isdigit()
    return Name(
        int(text) if is_number else None,
        kind=node.get("type", ""),
        since=node.get("version", ""),
    )


def _macro(node: etree._Element) -> Name:
    raw = node.get("raw", "")
    kinds = set(_TYPE.findall(node.findtext("info", "")))
    return Name(
        int(raw) if raw.isdigit() else node.get("string"),
        kind=kinds.pop() if len(kinds) == 1 else "",
        since=node.get("version", ""),
    )
