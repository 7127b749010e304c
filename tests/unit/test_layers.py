"""The house: who may import whom.  Reads every import, also those for types only and inside functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import libvirt_postcopy

PACKAGE = "libvirt_postcopy"
ROOT = Path(libvirt_postcopy.__file__).parent

FLOORS = (
    {"constants", "errors", "units", "version"},
    {"events", "actions", "stats", "features"},
    {
        "phases",
        "figures",
        "migration",
        "diagnosis",
        "hanging",
        "verdict",
        "obstacles",
        "recovery",
        "shadow",
        "policy",
        "governor",
        "domxml",
        "incoming",
    },
    {"vir", "qmp", "trace", "journal", "bindings"},
    {"drivers"},
    {"api", "takeover", "preflight", "install"},
    {"programs"},
    {"virsh", "cli", "conformance", "report", "simulate"},
)
CORE, PROGRAMS = 2, 7

#: Who alone may import what.
RESERVED = {
    "libvirt": "vir",
    "libvirt_qemu": "vir",
    "libvirt_lxc": "vir",
    "libvirtaio": "vir",
    "libvirtmod": "vir",
    "qemu": "qmp",
}

#: All that floors 0 to 2 may import from outside: nothing that waits, reads a clock or touches a file.
PURE = frozenset("""
    __future__ abc collections contextlib copy dataclasses decimal enum fractions functools graphlib itertools json
    logging lxml math numbers operator re statistics string textwrap types typing xml
    """.split())  # noqa: SIM905


def floor_of(room: str) -> int | None:
    return next((n for n, rooms in enumerate(FLOORS) if room in rooms), None)


def room_of(module: str) -> str:
    """``libvirt_postcopy.vir.calls`` is in the room ``vir``; the package itself in the room ````."""
    return (module.split(".") + [""])[1]


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(module: str, source: str, *, is_package: bool = False) -> Iterator[str]:
    """Every module that a source imports; of ours the exact one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                drop = node.level - 1 if is_package else node.level
                base = ".".join(
                    [*parents[: len(parents) - drop], *filter(None, [base])]
                )
            for alias in node.names:
                exact = f"{base}.{alias.name}"
                yield exact if exact in MODULES else base


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What a module's imports break of the table, one line each."""
    room = room_of(module)
    floor = floor_of(room)
    if module != PACKAGE and floor is None:
        return [f"{module}: '{room}' is on no floor"]
    found = []
    for target in imports(module, source, is_package=is_package):
        complaint = (
            _inside(room, floor, target)
            if target.split(".")[0] == PACKAGE
            else _outside(room, floor, target.split(".")[0])
        )
        if complaint:
            found.append(f"{module}: {complaint}")
    return found


def _inside(room: str, floor: int | None, target: str) -> str | None:
    other = room_of(target)
    if not other:  # the package's own names come from floors 0 to 5
        return None if floor == PROGRAMS else "imports the package itself"
    below = floor_of(other)
    if below is None:
        return f"imports '{other}', which is on no floor"
    if floor is None:
        return f"imports the program '{other}'" if below == PROGRAMS else None
    if below > floor:
        return f"imports '{other}' on floor {below} from floor {floor}"
    if below == PROGRAMS and other != room:
        return f"imports the program '{other}'"
    return None


def _outside(room: str, floor: int | None, name: str) -> str | None:
    if RESERVED.get(name, room) != room:
        return f"imports {name}, which only {RESERVED[name]}/ may"
    if floor is not None and floor <= CORE and name not in PURE:
        return f"imports {name} in the core"
    return None


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module: str) -> None:
    path = MODULES[module]
    source = path.read_text(encoding="utf-8")
    is_package = path.name == "__init__.py"
    assert violations(module, source, is_package=is_package) == []


def test_imports_form_no_circle() -> None:
    graph = {
        module: set(imports(module, path.read_text(encoding="utf-8")))
        & set(MODULES) - {module}
        for module, path in MODULES.items()
    }
    try:
        order = tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"imports form a circle: {error.args[1]}")
    assert set(order) >= set(MODULES)


@pytest.mark.parametrize(
    "module", [m for m in MODULES if (floor_of(room_of(m)) or 9) <= CORE]
)
def test_core_opens_no_file(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not names & {"open", "print", "input", "__import__", "exec", "eval"}


@pytest.mark.parametrize(
    "module, source, complaint",
    [
        ("phases", "import libvirt_postcopy.api", "'api' on floor 5 from floor 2"),
        ("errors", "from libvirt_postcopy import events", "'events' on floor 1"),
        ("phases", "from .vir.calls import half", "'vir' on floor 3"),
        ("policy.stall", "from ..drivers import runner", "'drivers' on floor 4"),
        ("policy.stall", "import time", "imports time in the core"),
        ("migration", "from asyncio import sleep", "imports asyncio in the core"),
        ("api", "import libvirt", "imports libvirt, which only vir/ may"),
        ("phases", "import libvirt_qemu as q", "which only vir/ may"),
        ("vir.calls", "from qemu.qmp import QMPClient", "which only qmp/ may"),
        ("api", "from libvirt_postcopy.virsh import main", "'virsh' on floor 7"),
        ("cli.main", "import libvirt_postcopy.virsh.main", "the program 'virsh'"),
        ("api", "from libvirt_postcopy import Stats", "imports the package itself"),
        ("attic", "", "'attic' is on no floor"),
        ("cli.main", "import libvirt_postcopy.attic", "which is on no floor"),
        ("phases", "def f():\n    import socket", "imports socket in the core"),
        (
            "units",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from libvirt_postcopy.stats import Stats",
            "'stats' on floor 1",
        ),
    ],
)  # fmt: skip
def test_checker_catches(module: str, source: str, complaint: str) -> None:
    found = violations(f"{PACKAGE}.{module}", source)
    assert len(found) == 1 and complaint in found[0], found


def test_package_may_not_import_a_program() -> None:
    found = violations(
        PACKAGE, "from libvirt_postcopy.cli import main", is_package=True
    )
    assert found == [f"{PACKAGE}: imports the program 'cli'"]


@pytest.mark.parametrize(
    "module, source",
    [
        ("migration", "from libvirt_postcopy.phases import Phase"),
        ("migration", "from . import events"),
        ("events", "from libvirt_postcopy.stats import Stats"),
        ("vir.calls", "import libvirt, threading, os"),
        ("qmp.socket", "from qemu.qmp import QMPClient"),
        ("domxml", "from lxml import etree"),
        ("cli.main", "from libvirt_postcopy import __version__\nfrom .verbs import check"),
        ("virsh.main", "import libvirt_postcopy.api"),
    ],
)  # fmt: skip
def test_checker_accepts(module: str, source: str) -> None:
    assert violations(f"{PACKAGE}.{module}", source) == []
