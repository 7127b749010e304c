"""Runs one cell of the matrix and looks up what became of the guest."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import libvirt

from faults.aftermath import look
from faults.faults import FAULTS, NotInjected, Scene, Setting
from faults.inventory import take_inventory
from faults.matrix import Cell
from faults.moments import Moment, Moments
from faults.outcome import Outcome
from guest import GuestParams
from labkit import Host, Lab
from labkit.network import KERNELS_OWN
from scenes.stage import VENV, Stage

__all__ = ["TOOLS", "Tool", "run_cell"]

GUEST = GuestParams(memory_mib=128, working_set_mib=48, rate_mib_s=60)
LINK = "48MiB"
LONGEST_S = 210.0
"""A client that has not ended by then hangs."""

ATTEMPTS = 3
"""Moments pass while a fault is on its way; a cell whose fault came too late is run again."""

_MOMENT_S = 60.0


@dataclass(frozen=True)
class Tool:
    """A client under test.

    :ivar migrate: Its command up to the options.
    :ivar later: Options that switch in a later pass than the first.
    :ivar attach: Its command to pick up a migration whose client was killed, if it has one.
    """

    name: str
    migrate: Sequence[str]
    later: Sequence[str]
    attach: Sequence[str] = ()

    def comes_to(self, cell: Cell) -> bool:
        """Whether there is such a moment: who never resumes what is broken ends, and never sees it recover."""
        has_ended = cell.moment is Moment.BROKEN and cell.fault.name == "client killed"
        is_recovery = cell.moment in (Moment.RECOVERING, Moment.RECOVERED)
        return bool(self.attach) or not (has_ended or is_recovery)


_SOURCE = ("-c", "qemu+tcp://a/system")
_LIVE = ("migrate", "--live", "--postcopy", "--postcopy-bandwidth", "16")
_PATIENCE = ("--postcopy-recover", "150s")
_OURS = str(VENV / "virsh-postcopy")

TOOLS: Mapping[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool(
            "virsh-postcopy",
            (_OURS, *_SOURCE, *_LIVE, *_PATIENCE),
            ("--postcopy-policy", "after-precopy:3"),
            (_OURS, *_SOURCE, "postcopy-attach", *_PATIENCE),
        ),
        Tool(
            "virsh",
            ("virsh", *_SOURCE, *_LIVE),
            ("--timeout", "12", "--timeout-postcopy"),
        ),
    )
}


class _Client:
    """The process under test.

    :param state: A folder for what it remembers, or it would read what other guests of that name have left.
    """

    def __init__(self, lab: Lab, argv: Sequence[str], state: Path) -> None:
        self._process = lab.client.popen(
            argv,
            env={**os.environ, "XDG_STATE_HOME": str(state)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self.was_killed = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.was_killed = True

    def end(self) -> tuple[int | None, str]:
        """Its exit status, or None if it hangs, and its last line."""
        try:
            _, text = self._process.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            _, text = self._process.communicate()
            return None, _last_line(text)
        return self._process.returncode, _last_line(text)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def run_cell(lab: Lab, tool: Tool, cell: Cell) -> Outcome:
    """Migrate, inject, and look; again where the fault came too late."""
    for _ in range(ATTEMPTS):
        outcome = _attempt(lab, tool, cell)
        if outcome.not_injected != _late(cell):
            break
    return outcome


def _late(cell: Cell) -> str:
    return f"it came after '{cell.moment.value}'"


def _attempt(lab: Lab, tool: Tool, cell: Cell) -> Outcome:
    lab.limit(LINK)
    try:
        with cell.fault.setting(lab) as setting, Stage(
            lab, GUEST
        ) as stage, TemporaryDirectory(dir=lab.shared) as state:
            return _run(stage, tool, cell, setting, Path(state))
    finally:
        lab.give_up_after(KERNELS_OWN)
        lab.pass_migrations()
        lab.unlimit()
        for host in lab.hosts():
            lab.uncut(host.name)
            host.start_daemon()
            host.wait_ready()


def _run(
    stage: Stage, tool: Tool, cell: Cell, setting: Setting, state: Path
) -> Outcome:
    domain = stage.start()
    try:
        return _migrate(stage, domain, tool, cell, setting, state)
    finally:
        _kill(stage)


def _kill(stage: Stage) -> None:
    """End what is left of the guest by the kernel's hand: libvirt keeps from a job that never ends."""
    for host in stage.lab.hosts():
        if numbers := stage.qemus(host.name):
            host.run(["kill", "-KILL", *map(str, numbers)], check=False)


def _migrate(
    stage: Stage,
    domain: libvirt.virDomain,
    tool: Tool,
    cell: Cell,
    setting: Setting,
    state: Path,
) -> Outcome:
    before = take_inventory(stage, "a")
    moments = Moments(stage)
    to = (stage.name, f"qemu+tcp://{setting.destination}/system")
    with moments.listening(domain.UUIDString()):
        argv = [*tool.migrate, *_options(tool, cell), *setting.options, *to]
        client = _Client(stage.lab, argv, state)
        missed, is_noticed = _inject(Scene(stage, client, moments), cell, client)
        healed = stage.now()
        status, text = client.end()
        if client.was_killed and tool.attach:
            status, text = _Client(stage.lab, [*tool.attach, stage.name], state).end()
    found = look(stage, before, healed, moments.recovered_at)
    return Outcome(
        status,
        text=text,
        is_killed=client.was_killed and not tool.attach,
        not_injected=missed,
        is_unnoticed=not is_noticed,
        **{each.name: getattr(found, each.name) for each in fields(found)},
    )


def _options(tool: Tool, cell: Cell) -> Sequence[str]:
    is_late = cell.moment is Moment.LATER_PASS
    when = tool.later if is_late else ("--postcopy-after-precopy",)
    return (*when, "--p2p") if cell.is_p2p else when


def _inject(scene: Scene, cell: Cell, client: _Client) -> tuple[str, bool]:
    """Wait for the moment and break something.

    :returns: Why that did not happen, empty if it did; and whether it was noticed, where that is its end.
    """
    moments, fault = scene.moments, cell.fault
    try:
        with _held(scene, cell, client):
            if cell.is_broken_first:
                moments.wait(Moment.SPLIT, _MOMENT_S, client.has_ended)
                FAULTS["sockets killed"].strike(scene)
            moments.wait(cell.moment, _MOMENT_S, client.has_ended)
            scene = replace(scene, troubles=moments.troubles)
            fault.strike(scene)
            is_late = moments.has_gone(cell.moment)
        is_noticed = fault.mend(scene)
    except (NotInjected, TimeoutError) as error:
        return str(error), True
    return _late(cell) if is_late else "", is_noticed


@contextmanager
def _held(scene: Scene, cell: Cell, client: _Client) -> Iterator[None]:
    """A moment of milliseconds lasts until the fault is there: whoever would end it is stopped for so long."""
    to_stop = _to_stop(scene, cell, client)
    if to_stop is None:
        yield
        return
    stopped: list[int] = []

    def stop() -> None:
        stopped.append(to_stop())
        _signal(stopped[0], signal.SIGSTOP)

    scene.moments.hold_at(cell.moment, stop)
    try:
        yield
    finally:
        for pid in stopped:
            _signal(pid, signal.SIGCONT)


def _to_stop(scene: Scene, cell: Cell, client: _Client) -> Callable[[], int] | None:
    """Who ends the moment, for those too short to hit."""
    if cell.moment is Moment.RECOVERING:
        return lambda: _child(scene.lab.host("b"), "qemu")
    if cell.moment not in (Moment.PREPARE, Moment.SWITCH):
        return None
    if cell.is_p2p:
        return lambda: _child(scene.lab.host("a"), "libvirtd")
    return lambda: client.pid


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _child(host: Host, name: str) -> int:
    """The number by which we know a host's daemon or QEMU; both are children of its holder."""
    holder = host.holder.pid
    children = Path(f"/proc/{holder}/task/{holder}/children").read_text().split()
    return next(
        int(pid)
        for pid in children
        if Path(f"/proc/{pid}/comm").read_text().startswith(name)
    )
