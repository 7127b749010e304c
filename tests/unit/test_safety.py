"""What can harm a guest is called in few places, each of them known."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import libvirt_postcopy

ROOT = Path(libvirt_postcopy.__file__).parent

HARMFUL = frozenset(
    [
        "abortJob",
        "abortJobFlags",
        "create",
        "createXML",
        "createXMLWithFiles",
        "createWithFlags",
        "coreDump",
        "coreDumpWithFormat",
        "destroy",
        "destroyFlags",
        "inject",
        "injectNMI",
        "managedSave",
        "managedSaveRemove",
        "migrateSetMaxSpeed",
        "pMSuspendForDuration",
        "pMWakeup",
        "reboot",
        "reset",
        "restore",
        "restoreFlags",
        "resume",
        "revertToSnapshot",
        "save",
        "saveFlags",
        "saveParams",
        "setMemory",
        "shutdown",
        "shutdownFlags",
        "suspend",
        "undefine",
        "undefineFlags",
    ]
)

#: Of libvirt's objects; what is called the same and is our own is not in here.
ALLOWED = {
    # libvirt's own abort of a migration, which it refuses after the switch; and the break of one that stands still
    "vir/calls.py": {"abortJob", "abortJobFlags"},
    # a paused probe, created and destroyed by the same function
    "vir/probe.py": {"createXML", "destroy"},
    # the destination's half of the driver that does libvirt's work itself; drivers/passthrough says when
    "vir/monitor.py": {"createXML", "destroy", "resume", "undefineFlags"},
}

#: Methods of ours of these names: what they are called on, as it is written.
OURS = {
    "self._driver.resume",  # the recovering call
    "self._journal.resume",  # a record
    "self._figures.resume",  # a time
    "monitor.resume",
    "monitor.destroy",
    "monitor.undefine",
    "monitor.create",
}


def calls(path: Path) -> Iterator[tuple[str, str]]:
    """Each call of a harmful name in a module: the name, and the call as it is written."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        is_method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if is_method and node.func.attr in HARMFUL:
            yield node.func.attr, ast.unparse(node.func)


def found() -> dict[str, set[str]]:
    every = sorted(ROOT.rglob("*.py"))
    outside = [each for each in every if "conformance" not in each.parts]
    named = {
        str(path.relative_to(ROOT)): {
            name for name, written in calls(path) if written not in OURS
        }
        for path in outside
    }
    return {name: names for name, names in named.items() if names}


def test_nothing_else_can_destroy_resume_reset_or_undefine_a_domain() -> None:
    assert found() == ALLOWED


@pytest.mark.parametrize("line", ["dom.destroy()", "cast(Any, dom).undefineFlags(4)"])
def test_a_call_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "x.py").write_text(f"def f(dom):\n    {line}\n")
    assert list(calls(tmp_path / "x.py"))


def test_driver_patch_and_command_line_call_none_of_them_by_name() -> None:
    """Nor by getattr with a name in quotes."""
    for path in ROOT.rglob("*.py"):
        if "conformance" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_getattr = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr"  # fmt: skip
            if is_getattr and len(node.args) > 1:
                name = node.args[1]
                value = getattr(name, "value", None)
                assert value not in HARMFUL, f"{path}: {value}"
