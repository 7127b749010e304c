"""The switch: how fast it follows its condition, and how long the guest stands still, ours beside virsh's.

The delay runs from QEMU's ``MIGRATION_PASS`` 2 (the first pass is done), by the event's own time stamp, to
``migrate-start-postcopy`` in the monitor log of that same QEMU.  The vCPUs are stopped from the source's ``STOP`` to
the destination's ``RESUME``, by QEMU's time stamps too.  All clients run on a third host and manage the migration, as
virsh does unless told otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt

from guest import GuestParams
from labkit import Host, Lab
from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.drivers.second_monitor import SecondMonitor, Way
from libvirt_postcopy.features import version_text
from scenes.stage import VENV, Stage

__all__ = [
    "EXPLANATION",
    "TITLE",
    "add_arguments",
    "is_good",
    "measure",
    "merge",
    "table",
    "versions",
]

TITLE = (
    "The switch: how fast it follows its condition, and how long the guest stands still"
)

GUEST = GuestParams(memory_mib=128, working_set_mib=48, rate_mib_s=60)
LINK = "48MiB"
MOST = 1.2
"""Our delay may be so many times virsh's."""
MISSED_MS = 100.0
"""Whoever is later has missed the moment between two passes."""

_MIGRATE = ("-c", "qemu+tcp://a/system", "migrate", "--live", "--postcopy")
_OPTIONS = ("--postcopy-after-precopy", "busy", "qemu+tcp://b/system")

_PREEMPT_IN_LIBVIRT = 10_000_000
"""From here on libvirt switches postcopy-preempt on by itself."""


@dataclass(frozen=True)
class Client:
    """Somebody who migrates.

    :ivar name: For people.
    :ivar options: To ``migrate``, beyond those that all have.
    :ivar is_ours: Or it is virsh.
    """

    name: str
    options: tuple[str, ...] = ()
    is_ours: bool = True

    def argv(self, more: Sequence[str] = ()) -> list[str]:
        """Its command line."""
        program = str(VENV / "virsh-postcopy") if self.is_ours else "virsh"
        return [program, *_MIGRATE, *self.options, *more, *_OPTIONS]

    @property
    def counts(self) -> bool:
        """It tells the blocktime itself."""
        return "--postcopy-blocktime" in self.options


VIRSH = Client("virsh", is_ours=False)
PLAIN = Client("virsh-postcopy")
_COUNTING = ("--postcopy-blocktime",)
_BY_QEMU = ("--postcopy-driver", "qemu", *_COUNTING)


def clients(lab: Lab) -> tuple[Client, ...]:
    """Those that take turns; where libvirt has preempt, its own migrations are with it."""
    native = (*_COUNTING, "--postcopy-monitor-dir", str(lab.shared))
    return (
        VIRSH,
        PLAIN,
        Client("virsh-postcopy, driver native, blocktime", native),
        Client("virsh-postcopy, driver qemu, blocktime", _BY_QEMU),
        Client(
            "virsh-postcopy, driver qemu, blocktime, preempt",
            (*_BY_QEMU, "--postcopy-preempt"),
        ),
    )


#: On the host's own disk: the arguments travel to the destination's QEMU too.
_QMP_LOG = "/var/log/libvirt/qmp-commands.log"
_TRACE = ["-trace", "handle_qmp_command", "-D", _QMP_LOG]

_COMMAND = re.compile(
    r"^\d+@(\d+\.\d+):handle_qmp_command .*\"migrate-start-postcopy\"", re.M
)
_EVENT = re.compile(r"QEMU_MONITOR_RECV_EVENT: .* event=(\{.*\})$", re.M)
_BLOCKTIME = re.compile(r"^postcopy-blocktime: (\d+) ms$", re.M)

Run = dict[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add those of this one."""
    parser.add_argument(
        "--read",
        type=Path,
        action="append",
        metavar="FILE",
        help="measure nothing: a table of what was kept with --json; may be repeated",
    )


def merge(figures: Iterator[Any]) -> list[Any]:
    """Each run has hosts of its own, and a table."""
    return list(figures)


def measure(lab: Lab, args: argparse.Namespace) -> dict[str, Any]:
    """Let the clients take turns, ``args.runs`` each."""
    runs = args.runs
    lab.limit(LINK)
    all_clients = clients(lab)
    results: dict[str, list[Run]] = {client.name: [] for client in all_clients}
    for number in range(1, runs + 1):
        for client in all_clients:
            run = _migrate(lab, client)
            results[client.name].append(run)
            print(
                f"{number}/{runs} {client.name}: {run['delay_ms']:.2f} ms",
                file=sys.stderr,
                flush=True,
            )
    has_preempt = _libvirt(lab) >= _PREEMPT_IN_LIBVIRT
    return {
        "versions": versions(lab),
        "link": LINK,
        "has_preempt": has_preempt,
        "load": os.getloadavg()[1],
        "processors": os.cpu_count(),
        "runs": results,
    }


def _migrate(lab: Lab, client: Client) -> Run:
    source, destination = _Log(lab.host("a")), _Log(lab.host("b"))
    source.host.run(["rm", "-f", _QMP_LOG])
    with Stage(lab, GUEST) as stage:
        dom = stage.start("a", qemu_args=_TRACE)
        with _counting(lab, dom, client) as (options, figures):
            began = stage.now()
            usage, said = _resources(lab.client.command(client.argv(options)))
        if stage.active_on() != ["b"]:
            raise RuntimeError(f"{client.name} did not move the guest")
        blackout_ms = stage.blackout_ms(began)
    commands = _COMMAND.findall(source.host.path(_QMP_LOG).read_text())
    found = _BLOCKTIME.search(said)
    if found:
        figures["blocktime_ms"] = float(found[1])
    stopped = destination.first("RESUME") - source.first("STOP")
    return {
        "delay_ms": (float(commands[0]) - source.second_pass()) * 1000,
        "stopped_ms": stopped * 1000,
        "blackout_ms": blackout_ms,
        **figures,
        **usage,
    }


@contextmanager
def _counting(
    lab: Lab, dom: libvirt.virDomain, client: Client
) -> Iterator[tuple[list[str], Run]]:
    """Count for a client that cannot: options for it, and what has been counted, afterwards."""
    figures: Run = {}
    if client.is_ours:
        yield [], figures
        return
    second = SecondMonitor(Way(str(lab.shared)), counts_blocktime=True)
    try:
        params = second.offer(dom, {}, MigrateFlags.VIR_MIGRATE_LIVE)
        xml = lab.shared / "there.xml"
        xml.write_text(params["destination_xml"], encoding="utf-8")
        second.begin()
        yield ["--xml", str(xml)], figures
        second.read()
        if second.notes:
            raise RuntimeError(second.notes[0])
        figures["blocktime_ms"] = float(second.blocktime["postcopy-blocktime"])
    finally:
        second.close()


class _Log:
    """What the QEMUs of a host announce from now on."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._from = host.log_path.stat().st_size

    def _events(self) -> Iterator[dict[str, Any]]:
        with self.host.log_path.open() as log:
            log.seek(self._from)
            yield from map(json.loads, _EVENT.findall(log.read()))

    def first(self, name: str) -> float:
        """When an event came first after the guest had been started."""
        times = [_time(event) for event in self._events() if event["event"] == name]
        if not times:
            raise RuntimeError(f"QEMU on {self.host.name} announced no {name}")
        return times[0]

    def second_pass(self) -> float:
        """When the first pass was done."""
        for event in self._events():
            if event["event"] == "MIGRATION_PASS" and event["data"]["pass"] == 2:
                return _time(event)
        raise RuntimeError("QEMU announced no second pass")


def _time(event: Mapping[str, Any]) -> float:
    stamp = event["timestamp"]
    return float(stamp["seconds"] + stamp["microseconds"] / 1e6)


def _resources(argv: Sequence[str]) -> tuple[Run, str]:
    """Run a client to its end and say what it took, and what it has said.

    Its memory is sampled: what the kernel reports at the end includes ours, from before the exec.
    """
    memory_kib = 0
    with tempfile.TemporaryFile("w+") as words, subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=words) as process:  # fmt: skip
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            memory_kib = max(memory_kib, _peak_kib(process.pid))
            time.sleep(0.05)
        _, status, usage = ended
        process.returncode = os.waitstatus_to_exitcode(status)
        words.seek(0)
        said = words.read()
    if process.returncode:
        raise RuntimeError(f"{argv[0]}: exit status {process.returncode}: {said}")
    taken = {
        "cpu_ms": (usage.ru_utime + usage.ru_stime) * 1000,
        "memory_mib": memory_kib / 1024,
    }
    return taken, said


def _peak_kib(pid: int) -> int:
    """Most memory that the process' program has had (``VmHWM``); 0 when it has just ended."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0


def _libvirt(lab: Lab) -> int:
    return int(libvirt.open(lab.host("a").uri).getLibVersion())


def versions(lab: Lab) -> dict[str, str]:
    connection = libvirt.open(lab.host("a").uri)
    return {
        "libvirt": version_text(connection.getLibVersion()),
        "QEMU": version_text(connection.getVersion()),
        "Python": platform.python_version(),
    }


def _delays(figures: Mapping[str, Any], client: Client) -> list[float]:
    return [run["delay_ms"] for run in figures["runs"][client.name]]


def ratio(figures: Mapping[str, Any]) -> float:
    """Our median delay over virsh's, where neither has missed the moment."""
    ours, theirs = (
        statistics.median(each for each in _delays(figures, client) if each < MISSED_MS)
        for client in (PLAIN, VIRSH)
    )
    return ours / theirs


def missed(figures: Mapping[str, Any], client: Client) -> int:
    """How often a client has switched a whole pass late."""
    return sum(each >= MISSED_MS for each in _delays(figures, client))


def is_good(figures: Mapping[str, Any]) -> bool:
    """Whether the switch comes as fast as promised."""
    return ratio(figures) <= MOST


_COLUMNS = (
    ("delay_ms", "condition to switch, ms"),
    ("stopped_ms", "vCPUs stopped, ms"),
    ("blackout_ms", "blackout, ms"),
    ("blocktime_ms", "blocktime, ms"),
    ("cpu_ms", "CPU of the client, ms"),
    ("memory_mib", "memory of the client, MiB"),
)

EXPLANATION = (
    "Condition to switch: from the time stamp of QEMU's MIGRATION_PASS 2 to migrate-start-postcopy in the monitor log of"
    " that same QEMU. vCPUs stopped: from the source's STOP to the destination's RESUME, by QEMU's time stamps. Blackout:"
    " the guest's longest silence on its serial line, waits for pages included. Blocktime: QEMU's count of those waits"
    " (for virsh, read by a second monitor that this tool gives it). All clients run on a third host and manage the"
    " migration. QEMU may answer its monitor only between two passes while the link is full, and whoever misses the"
    " moment waits for the next: the largest values."
)


def table(figures: Mapping[str, Any]) -> str:
    """Medians with their range, as a Markdown table."""
    count = len(figures["runs"]["virsh"])
    versions = ", ".join(f"{name} {text}" for name, text in figures["versions"].items())
    setting = (
        f"Median of {count} runs each, taking turns (least to most). {versions}; a guest of "
        f"{GUEST.memory_mib} MiB that rewrites {GUEST.working_set_mib} MiB at "
        f"{GUEST.rate_mib_s:.0f} MiB/s over a link of {figures['link']}/s."
    )
    setting += (
        f" The machine has {figures['processors']} processors; its load was"
        f" {figures['load']:.1f} in the last five minutes, the two QEMUs' included."
    )
    if figures["has_preempt"]:
        setting += " This libvirt switches postcopy-preempt on by itself: all rows but that of the driver qemu without it are with it."
    lines = [
        setting,
        "",
        "| client | " + " | ".join(title for _, title in _COLUMNS) + " |",
        "|---|" + "---|" * len(_COLUMNS),
    ]
    for client, runs in figures["runs"].items():
        cells = [_cell([run[key] for run in runs if key in run]) for key, _ in _COLUMNS]
        lines.append(f"| {client} | " + " | ".join(cells) + " |")
    late = " and ".join(f"{client.name} in {missed(figures, client)}" for client in (VIRSH, PLAIN))  # fmt: skip
    lines += [
        "",
        (
            f"Of {count} runs {late} missed the moment (over {MISSED_MS:.0f} ms). In the others virsh-postcopy takes"
            f" {ratio(figures):.2f} times virsh's delay (bound: {MOST})."
        ),
    ]
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "not counted"
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
