"""What can harm a guest is called in few functions, each of them known, with the reason why it may."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import libvirt_postcopy

ROOT = Path(libvirt_postcopy.__file__).parent

#: Methods of libvirt's objects, and those of ours that lead to them.
HARMFUL = frozenset("""
    abortJob abortJobFlags create createXML createXMLWithFiles createWithFlags coreDump coreDumpWithFormat destroy
    destroyFlags inject injectNMI managedSave managedSaveRemove migrateSetMaxSpeed pMSuspendForDuration pMWakeup reboot
    reset restore restoreFlags resume revertToSnapshot save saveFlags saveParams setMemory shutdown shutdownFlags suspend
    undefine undefineFlags
    create_paused cancel cont abort_job lift_postcopy_speed pause_postcopy
    """.split())  # noqa: SIM905

#: QEMU's commands, as they are written.
COMMANDS = frozenset(
    "migrate_cancel migrate-cancel cont stop quit system_reset system_powerdown system_wakeup".split()  # noqa: SIM905
)

#: Where one is called, by file and function: as it is written there.
ALLOWED: dict[tuple[str, str], set[str]] = {
    # libvirt's own abort of a migration, which it refuses after the switch
    ("vir/calls.py", "abort_job"): {"dom.abortJob"},
    ("drivers/native.py", "NativeDriver.abort"): {"vir.abort_job"},
    # the break of one that stands still, by which it can be resumed
    ("vir/calls.py", "pause_postcopy"): {"dom.abortJobFlags"},
    ("drivers/host.py", "Host.pause"): {"vir.pause_postcopy"},
    # the end of a limit that the migration has left, where the guest is whole
    ("vir/monitor.py", "lift_postcopy_speed"): {
        "cast(_Domain, dom).migrateSetMaxSpeed"
    },
    ("drivers/carried.py", "lift_limit"): {"monitor.lift_postcopy_speed"},
    # a paused probe, created and destroyed by the same function
    ("vir/probe.py", "_start_and_ask"): {"cast(_Host, connection).createXML"},
    ("vir/probe.py", "_remove"): {"cast(_OwnDomain, dom).destroy"},
    # the doors of the driver that does libvirt's work itself ...
    ("vir/monitor.py", "create_paused"): {"cast(_Host, connection).createXML"},
    ("vir/monitor.py", "resume"): {"cast(_Domain, dom).resume"},
    ("vir/monitor.py", "destroy"): {"cast(_Domain, dom).destroy"},
    ("vir/monitor.py", "undefine"): {"cast(_Domain, dom).undefineFlags"},
    # ... and who goes through them: the destination that waits,
    ("drivers/setup.py", "Setup.start_destination"): {"monitor.create_paused"},
    # its start once the source has said that the guest has left,
    ("drivers/landing.py", "Starter._resume"): {"monitor.resume"},
    # the source's shell once both have said that all has arrived,
    ("drivers/aftermath.py", "Aftermath._remove_source"): {"monitor.destroy"},
    ("drivers/aftermath.py", "Aftermath._undefine"): {"monitor.undefine"},
    # and the way back before the switch
    ("drivers/undoing.py", "Undoing._destroy_there"): {"monitor.destroy"},
    ("drivers/undoing.py", "Undoing._start_here"): {
        "monitor.resume",
        "self._source.readings.cont",
    },
    ("drivers/switching.py", "Switching.abort"): {"qemu.cancel"},
    ("drivers/switching.py", "Switching._goes_on_uncancelled"): {
        "source.control.cancel"
    },
    # of these names, and no domain's
    ("drivers/native.py", "NativeDriver._resume"): {"self._journal.resume"},
    ("drivers/assisted.py", "AssistedDriver._go_round"): {"self._journal.resume"},
    ("drivers/passthrough.py", "QemuDriver._note_resume"): {"self._journal.resume"},
    ("drivers/runner.py", "Runner._perform"): {"self._driver.resume"},
    ("migration.py", "Migration._take_resumed"): {"self._figures.resume"},
    ("qmp/socket.py", "SocketMonitor.connect"): {"made.cancel"},
    ("qmp/socket.py", "SocketMonitor._leave"): {"listener.cancel"},
    ("virsh/console.py", "_Console._listening"): {"self._screen.restore"},
    ("virsh/console.py", "_Console._stop_passing"): {"self._screen.restore"},
}

#: Where one of QEMU's is named.
NAMED: dict[tuple[str, str], set[str]] = {
    ("qmp/commands.py", "Qemu.cancel"): {"migrate_cancel"},
    ("qmp/commands.py", "Qemu.cont"): {"cont"},
    ("virsh/batch.py", "is_end"): {"quit"},  # virsh's own command
}


def walk(
    node: ast.AST, function: tuple[str, ...] = ()
) -> Iterator[tuple[str, ast.AST]]:
    """Each node of a module, with the function that it stands in."""
    for child in ast.iter_child_nodes(node):
        yield ".".join(function), child
        is_named = isinstance(
            child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        )
        yield from walk(child, (*function, child.name) if is_named else function)


def calls(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each use of a harmful method, called or handed on: the function, and how it is written."""
    for function, node in walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in HARMFUL:
            yield function, ast.unparse(node)


def commands(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each of QEMU's commands that is written down."""
    for function, node in walk(tree):
        if isinstance(node, ast.Constant) and node.value in COMMANDS:
            yield function, str(node.value)


def modules() -> Iterator[tuple[str, ast.AST]]:
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith("conformance/"):  # which drives QEMUs of its own
            yield name, ast.parse(path.read_text(encoding="utf-8"))


MODULES = dict(modules())


def of_files_that_are_there(
    table: dict[tuple[str, str], set[str]],
) -> dict[tuple[str, str], set[str]]:
    return {place: found for place, found in table.items() if place[0] in MODULES}


def test_nothing_else_can_destroy_resume_reset_or_undefine_a_domain() -> None:
    found: dict[tuple[str, str], set[str]] = {}
    for name, tree in MODULES.items():
        for function, written in calls(tree):
            found.setdefault((name, function), set()).add(written)
    assert found == of_files_that_are_there(ALLOWED)


def test_nothing_else_tells_qemu_to() -> None:
    found: dict[tuple[str, str], set[str]] = {}
    for name, tree in MODULES.items():
        for function, written in commands(tree):
            found.setdefault((name, function), set()).add(written)
    assert found == of_files_that_are_there(NAMED)


@pytest.mark.parametrize(
    "line",
    ["dom.destroy()", "cast(Any, dom).undefineFlags(4)", "do(dom.reset)", "monitor.resume(dom)"],
)  # fmt: skip
def test_a_use_is_found_in_its_function(line: str) -> None:
    tree = ast.parse(f"class A:\n    def f(self, dom):\n        {line}\n")
    ((function, _),) = calls(tree)
    assert function == "A.f"


def test_a_command_is_found_in_its_function() -> None:
    tree = ast.parse("def f(qemu):\n    qemu.ask('system_reset')\n")
    assert list(commands(tree)) == [("f", "system_reset")]


def test_none_is_fetched_by_a_name_in_quotes() -> None:
    for path, tree in MODULES.items():
        for _, node in walk(tree):
            is_getattr = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr"  # fmt: skip
            if is_getattr and len(node.args) > 1:
                value = getattr(node.args[1], "value", None)
                assert value not in HARMFUL, f"{path}: {value}"
