"""Runs one cell of the matrix and looks up what became of the guest."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import libvirt

from faults.faults import FAULTS, Setting
from faults.matrix import Cell
from faults.moments import Moment, Moments
from guest import GuestParams
from labkit import Lab
from labkit.network import KERNELS_OWN
from scenes.stage import VENV, Stage

__all__ = ["Outcome", "TOOLS", "Tool", "run_cell"]

GUEST = GuestParams(memory_mib=128, working_set_mib=48, rate_mib_s=60)
LINK = "48MiB"
LONGEST_S = 180.0
"""A client that has not ended by then hangs."""

_SETTLED_S = 30.0
_OTHER_END_S = 20.0


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


_SOURCE = ("-c", "qemu+tcp://a/system")
_LIVE = ("migrate", "--live", "--postcopy", "--postcopy-bandwidth", "16")
_OURS = str(VENV / "virsh-postcopy")

TOOLS: Mapping[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool(
            "virsh-postcopy",
            (_OURS, *_SOURCE, *_LIVE),
            ("--postcopy-policy", "after-precopy:3"),
            (_OURS, *_SOURCE, "postcopy-attach"),
        ),
        Tool(
            "virsh",
            ("virsh", *_SOURCE, *_LIVE),
            ("--timeout", "12", "--timeout-postcopy"),
        ),
    )
}


@dataclass(frozen=True)
class Outcome:
    """What became of the guest.

    :ivar status: The client's exit status; None if it hangs.
    :ivar guest: ``destination``, ``source``, ``split``, ``lost``, or ``two`` if two of it ran.
    :ivar memory_ok: Every page right; None where no guest runs.
    :ivar back_s: From the end of the fault to the guest's next sign of life; None where there was none, or it was
        never silent.
    :ivar text: What the client said last.
    """

    status: int | None
    guest: str
    memory_ok: bool | None = None
    back_s: float | None = None
    text: str = ""
    left_behind: Sequence[str] = field(default=())

    @property
    def runs(self) -> bool:
        """One copy of the guest runs, its memory right."""
        return self.guest in ("source", "destination") and self.memory_ok is True

    @property
    def is_honest(self) -> bool:
        """The exit status says where the guest is, or is that of our own SIGKILL."""
        return self.status in (_PROMISED.get(self.guest), -signal.SIGKILL)


_PROMISED = {"destination": 0, "source": 1, "split": 3, "lost": 4}


class _Client:
    """The process under test."""

    def __init__(self, lab: Lab, argv: Sequence[str]) -> None:
        self._process = lab.client.popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

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
    """Migrate, inject, and look."""
    lab.limit(LINK)
    try:
        with cell.fault.setting(lab) as setting, Stage(lab, GUEST) as stage:
            return _run(stage, tool, cell, setting)
    finally:
        lab.give_up_after(KERNELS_OWN)
        lab.pass_migrations()
        lab.unlimit()
        for host in lab.hosts():
            lab.uncut(host.name)
            host.start_daemon()
            host.wait_ready()


def _run(stage: Stage, tool: Tool, cell: Cell, setting: Setting) -> Outcome:
    domain = stage.start()
    moments = Moments(stage)
    is_late = cell.moment is Moment.LATER_PASS
    when = tool.later if is_late else ("--postcopy-after-precopy",)
    with moments.listening(domain.UUIDString()):
        to = (stage.name, f"qemu+tcp://{setting.destination}/system")
        argv = [*tool.migrate, *when, *setting.options, *to]
        client = _Client(stage.lab, argv)
        if cell.is_broken_first:
            moments.wait(Moment.SPLIT, 60)
            FAULTS["sockets killed"].inject(stage, client)
        missed = _inject(stage, moments, client, cell)
        healed = stage.now()
    status, text = client.end()
    if cell.fault.name == "client killed" and tool.attach:
        status, text = _Client(stage.lab, [*tool.attach, stage.name]).end()
    return _look(stage, status, missed or text, healed)


def _inject(stage: Stage, moments: Moments, client: _Client, cell: Cell) -> str:
    """Wait for the moment and inject; the text says if it never came."""
    try:
        moments.wait(cell.moment, 60)
    except TimeoutError as error:
        return str(error)
    cell.fault.inject(stage, client)
    return ""


def _look(stage: Stage, status: int | None, text: str, healed: float) -> Outcome:
    where = _settle(stage)
    guest = _guest(stage, where)
    memory_ok = None
    if guest in ("source", "destination"):
        stage.collector.wait_for_beats(500, timeout=30)
        memory_ok = stage.verify(where[0]).ok
    if stage.collector.strays:
        guest = "two"
    return Outcome(status, guest, memory_ok, _back_s(stage, healed), text)


def _settle(stage: Stage) -> list[str]:
    """Where the guest has a QEMU, once no migration of it is about to end by itself."""
    end = time.monotonic() + _SETTLED_S
    while len(where := stage.active_on()) > 1 and time.monotonic() < end:
        if all(_is_split(stage, host) for host in where):
            break
        time.sleep(0.2)
    return where


def _state(stage: Stage, host: str) -> Sequence[Any]:
    domain = stage.find(host)
    try:
        return [0, 0] if domain is None else domain.state()
    except libvirt.libvirtError:  # it has ended this moment
        return [0, 0]


_SPLIT_STATES = (
    [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY],
    [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED],
    [libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY],
    [libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED],
)


def _is_split(stage: Stage, host: str) -> bool:
    return list(_state(stage, host)) in _SPLIT_STATES


def _guest(stage: Stage, where: Sequence[str]) -> str:
    if len(where) == 2:
        return "split"
    if not where:
        return "lost"
    host = where[0]
    state = _state(stage, host)[0]
    if _is_split(stage, host) or state != libvirt.VIR_DOMAIN_RUNNING:
        return "lost"
    return "source" if host == "a" else "destination"


def _back_s(stage: Stage, healed: float) -> float | None:
    """The silence that was going on when the fault was over."""
    for gap in stage.collector.longest_gaps(5, since=healed):
        if gap.start <= healed < gap.end and gap.length_s > 0.1:
            return gap.end - healed
    return None
