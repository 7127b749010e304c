"""How fast the switch follows its condition, ours beside virsh's.

From QEMU's ``MIGRATION_PASS`` 2 (the first pass is done), by the event's own time stamp, to
``migrate-start-postcopy`` in the monitor log of that same QEMU.  Both clients run on a third host and manage
the migration, as virsh does unless told otherwise.
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
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import libvirt

from guest import GuestParams
from labkit import Lab
from libvirt_postcopy.features import version_text
from scenes.stage import VENV, Stage

__all__ = ["TITLE", "add_arguments", "is_good", "measure", "table", "versions"]

TITLE = "The switch: how fast it follows its condition"

GUEST = GuestParams(memory_mib=128, working_set_mib=48, rate_mib_s=60)
LINK = "48MiB"
MOST = 1.2
"""Our delay may be so many times virsh's."""

_MIGRATE = ["-c", "qemu+tcp://a/system", "migrate", "--live", "--postcopy"]
_OPTIONS = ["--postcopy-after-precopy", "busy", "qemu+tcp://b/system"]
CLIENTS: Mapping[str, Sequence[str]] = {
    "virsh": ["virsh", *_MIGRATE, *_OPTIONS],
    "virsh-postcopy": [str(VENV / "virsh-postcopy"), *_MIGRATE, *_OPTIONS],
}

#: On the host's own disk: the arguments travel to the destination's QEMU too.
_QMP_LOG = "/var/log/libvirt/qmp-commands.log"
_TRACE = ["-trace", "handle_qmp_command", "-D", _QMP_LOG]

_COMMAND = re.compile(
    r"^\d+@(\d+\.\d+):handle_qmp_command .*\"migrate-start-postcopy\"", re.M
)
_PASS = re.compile(
    r"QEMU_MONITOR_RECV_EVENT: .* event=(\{.*\"MIGRATION_PASS\".*\})$", re.M
)

Run = dict[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This one has none of its own."""


def measure(lab: Lab, args: argparse.Namespace) -> dict[str, Any]:
    """Let the clients take turns, ``args.runs`` each."""
    runs = args.runs
    lab.limit(LINK)
    results: dict[str, list[Run]] = {name: [] for name in CLIENTS}
    for number in range(1, runs + 1):
        for name, argv in CLIENTS.items():
            run = _migrate(lab, argv)
            results[name].append(run)
            print(
                f"{number}/{runs} {name}: {run['delay_ms']:.2f} ms",
                file=sys.stderr,
                flush=True,
            )
    return {"versions": versions(lab), "link": LINK, "runs": results}


def _migrate(lab: Lab, argv: Sequence[str]) -> Run:
    host = lab.host("a")
    events_from = host.log_path.stat().st_size
    host.run(["rm", "-f", _QMP_LOG])
    with Stage(lab, GUEST) as stage:
        stage.start("a", qemu_args=_TRACE)
        began = stage.now()
        usage = _resources(lab.client.command(argv))
        if stage.active_on() != ["b"]:
            raise RuntimeError(f"{argv[0]} did not move the guest")
        blackout_ms = stage.blackout_ms(began)
    commands = _COMMAND.findall(host.path(_QMP_LOG).read_text())
    with host.log_path.open() as log:
        log.seek(events_from)
        passed = _second_pass(log.read())
    return {
        "delay_ms": (float(commands[0]) - passed) * 1000,
        "blackout_ms": blackout_ms,
        **usage,
    }


def _second_pass(log: str) -> float:
    for text in _PASS.findall(log):
        event = json.loads(text)
        if event["data"]["pass"] == 2:
            stamp = event["timestamp"]
            return float(stamp["seconds"] + stamp["microseconds"] / 1e6)
    raise RuntimeError("QEMU announced no second pass")


def _resources(argv: Sequence[str]) -> Run:
    """Run a client to its end and say what it took.

    Its memory is sampled: what the kernel reports at the end includes ours, from before the exec.
    """
    memory_kib = 0
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as process:
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            memory_kib = max(memory_kib, _peak_kib(process.pid))
            time.sleep(0.05)
        _, status, usage = ended
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{argv[0]}: exit status {process.returncode}")
    return {
        "cpu_ms": (usage.ru_utime + usage.ru_stime) * 1000,
        "memory_mib": memory_kib / 1024,
    }


def _peak_kib(pid: int) -> int:
    """Most memory that the process' program has had (``VmHWM``); 0 when it has just ended."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else 0


def versions(lab: Lab) -> dict[str, str]:
    connection = libvirt.open(lab.host("a").uri)
    return {
        "libvirt": version_text(connection.getLibVersion()),
        "QEMU": version_text(connection.getVersion()),
        "Python": platform.python_version(),
    }


def _median(figures: Mapping[str, Any], client: str, key: str) -> float:
    return float(statistics.median(run[key] for run in figures["runs"][client]))


def ratio(figures: Mapping[str, Any]) -> float:
    """Our median delay over virsh's."""
    ours, theirs = (
        _median(figures, name, "delay_ms") for name in ("virsh-postcopy", "virsh")
    )
    return ours / theirs


def is_good(figures: Mapping[str, Any]) -> bool:
    """Whether the switch comes as fast as promised."""
    return ratio(figures) <= MOST


_EXPLANATION = (
    "The delay runs from the time stamp of QEMU's MIGRATION_PASS 2 to migrate-start-postcopy in the monitor "
    "log of that same QEMU. Both clients run on a third host and manage the migration. The largest values: "
    "QEMU 7.2 may answer its monitor only between two passes while the link is full, and whoever misses "
    "the moment waits for the next."
)

_COLUMNS = (
    ("delay_ms", "condition to switch, ms"),
    ("blackout_ms", "blackout, ms"),
    ("cpu_ms", "CPU of the client, ms"),
    ("memory_mib", "memory of the client, MiB"),
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
    lines = [
        setting,
        "",
        "| client | " + " | ".join(title for _, title in _COLUMNS) + " |",
        "|---|" + "---|" * len(_COLUMNS),
    ]
    for client, runs in figures["runs"].items():
        cells = [_cell([run[key] for run in runs]) for key, _ in _COLUMNS]
        lines.append(f"| {client} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Ours takes {ratio(figures):.2f} times virsh's delay (bound: {MOST}).",
    ]
    return "\n".join(lines)


def _cell(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
