"""What passing a command line through to virsh costs, beside virsh's own time.

``virsh list`` on libvirt's test driver, the one and the other in turn.  Ours is started as it is installed for use:
by pip in a virtual environment of its own, not from the one that the developers' tools are in.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit import Lab
from scenes.program import SceneError

__all__ = ["TITLE", "add_arguments", "is_good", "measure", "table"]

TITLE = "Passing through: what virsh-postcopy adds to virsh's own time"

MOST = 1.9
"""Our wall time may be so many times virsh's."""

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("-c", "test:///default", "list")

Figures = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """30 of each are little more than a second."""
    parser.set_defaults(runs=30)


def measure(lab: Lab | None, args: argparse.Namespace) -> Figures:
    """Run each in turn."""
    real = shutil.which("virsh")
    if real is None:
        raise SceneError("there is no virsh on PATH")
    with tempfile.TemporaryDirectory(prefix="bench-shim-") as folder:
        ours = _install(Path(folder))
        commands = {"virsh": real, "virsh-postcopy": ours}
        for command in commands.values():  # the files are in memory from here on
            _check([command, *WORDS])
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(args.runs):
            for name, command in commands.items():
                times[name].append(_wall_ms([command, *WORDS]))
    return {
        "python": platform.python_version(),
        "virsh": _check([real, "--version"]).strip(),
        "wall_ms": times,
        "ratio": statistics.median(times["virsh-postcopy"])
        / statistics.median(times["virsh"]),
    }


def _install(folder: Path) -> str:
    """Install as users do, with pip, in an environment that is made as the manuals say."""
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    source = folder / "source"  # pip builds in it
    hidden = shutil.ignore_patterns(".*", "build", "tests", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=hidden)
    _check([*pip, "install", "--quiet", "--no-deps", str(source)])
    return str(folder / "bin" / "virsh-postcopy")


def _check(argv: Sequence[str]) -> str:
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        raise SceneError(f"{argv[0]} failed: {done.stderr.strip()}")
    return done.stdout


def _wall_ms(argv: list[str]) -> float:
    """From the start of the process to its end, with nothing of ours between."""
    null = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    began = time.perf_counter()
    child = os.posix_spawn(argv[0], argv, _environment(), file_actions=null)
    _, status = os.waitpid(child, 0)
    took = time.perf_counter() - began
    if status:
        raise SceneError(f"{argv[0]} ended with {os.waitstatus_to_exitcode(status)}")
    return took * 1000


def _environment() -> dict[str, str]:
    """Without what makes Python start as these tools need it."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTHON")
    }


def table(figures: Mapping[str, Any]) -> str:
    """The figures as a table in Markdown."""
    lines = [
        (
            f"virsh {figures['virsh']}, Python {figures['python']},"
            f" {len(figures['wall_ms']['virsh'])} runs of each in turn"
        ),
        "",
        "| `list` on test:///default | median ms | fastest | slowest |",
        "| --- | --- | --- | --- |",
    ]
    for name, times in figures["wall_ms"].items():
        cells = (statistics.median(times), min(times), max(times))
        lines.append(f"| {name} | " + " | ".join(f"{ms:.1f}" for ms in cells) + " |")
    return "\n".join(
        [*lines, "", f"ratio {figures['ratio']:.2f}, at most {MOST} is asked for"]
    )


def is_good(figures: Mapping[str, Any]) -> bool:
    """Whether it is as fast as it must be."""
    return bool(figures["ratio"] <= MOST)
