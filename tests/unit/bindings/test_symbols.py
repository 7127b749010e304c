"""All that the adapters call of libvirt is among what the check looks at, read from their source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import libvirt
import libvirt_qemu
import pytest

import libvirt_postcopy.vir
from libvirt_postcopy.bindings import call
from libvirt_postcopy.bindings.functions import HOLD, SYMBOLS
from libvirt_postcopy.bindings.symbols import (
    LIBVIRT,
    QEMU,
    newest_release,
    own_release,
    release_of,
)
from libvirt_postcopy.vir import protocols

ADAPTERS = sorted(Path(libvirt_postcopy.vir.__file__).parent.glob("*.py"))
OWNERS = ("virDomain", "virConnect", "virNWFilter")
PYTHON_ONLY = {"connect", "c_pointer"}  # they ask no daemon
LISTED = {symbol.binding for symbol in SYMBOLS.values()}


def methods(tree: ast.AST) -> Iterator[str]:
    """Methods that are called or taken for a call, and those of the protocols."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if getattr(node.func.value, "id", "") != "LOG":
                yield node.func.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
            if isinstance(node.args[1], ast.Constant):
                yield str(node.args[1].value)
        elif isinstance(node, ast.ClassDef) and is_protocol(node):
            yield from (m.name for m in node.body if isinstance(m, ast.FunctionDef))


def is_protocol(node: ast.ClassDef) -> bool:
    return any(getattr(base, "id", "") == "Protocol" for base in node.bases)


def functions(tree: ast.AST) -> Iterator[str]:
    """Functions of libvirt's modules; its constants are asked of itself there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            module = getattr(node.value, "id", "")
            is_constant = node.attr.startswith("VIR_")
            if module in ("libvirt", "libvirt_qemu") and not is_constant:
                yield node.attr


def classes_with(method: str) -> set[str]:
    return {owner for owner in OWNERS if method in vars(getattr(libvirt, owner))}


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.stem)
def test_every_call_of_the_adapters_is_looked_at(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for name in set(methods(tree)) - PYTHON_ONLY:
        owners = classes_with(name)
        assert not owners or LISTED & {f"{owner}.{name}" for owner in owners}, name
    for name in functions(tree):
        is_class = isinstance(getattr(libvirt, name, None), type)
        assert is_class or name in LISTED, name


def test_walk_sees_what_it_is_to_see() -> None:
    seen = {n for p in ADAPTERS for n in methods(ast.parse(p.read_text()))}
    assert {"createXML", "undefineFlags", "setMetadata", "XMLDesc"} <= seen
    assert {"resume", "compareHypervisorCPU", "nwfilterDefineXMLFlags"} <= seen
    taken = {n for p in ADAPTERS for n in functions(ast.parse(p.read_text()))}
    assert {"virEventAddTimeout", "qemuMonitorCommand", "open"} <= taken


@pytest.mark.parametrize("protocol, owner", [(protocols.Connection, "virConnect"), (protocols.Domain, "virDomain")])  # fmt: skip
def test_protocols_have_only_what_libvirt_has(protocol: type, owner: str) -> None:
    for name in vars(protocol):
        if not name.startswith("_"):
            assert hasattr(getattr(libvirt, owner), name)


def test_functions_that_are_called_past_the_binding_are_looked_at() -> None:
    tree = ast.parse(Path(call.__file__).read_text(encoding="utf-8"))
    called = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "_function"
        and isinstance(node.args[0], ast.Constant)
    }
    assert called >= {"virDomainFree", "virDomainGetUUIDString", "virDomainMigrate3"}
    assert called | call.CALLABLE <= SYMBOLS.keys() | {HOLD.name}


def test_each_is_wrapped_by_the_module_of_its_library() -> None:
    for symbol in SYMBOLS.values():
        if "." not in symbol.binding:
            module = libvirt if symbol.library == LIBVIRT else libvirt_qemu
            assert callable(getattr(module, symbol.binding)), symbol.binding


def test_releases_of_version_nodes() -> None:
    nodes = ["LIBVIRT_9.0.0", "LIBVIRT_10.2.0", "LIBVIRT_PRIVATE_11.3.0", "GLIBC_2.4"]
    assert newest_release(nodes) == "10.2.0"
    assert own_release(nodes) == "11.3.0" and own_release(nodes[:2]) == ""
    assert newest_release(["LIBVIRT_QEMU_8.2.0"]) == "8.2.0"
    assert release_of("LIBVIRT_PRIVATE_11.3.0") == newest_release([]) == ""
    assert SYMBOLS["virDomainQemuMonitorCommand"].library == QEMU
