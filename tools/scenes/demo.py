"""The demo: one guest, moved in vain by pre-copy and then by post-copy.

Exit status 0 only if pre-copy did not converge, post-copy completed, and the guest's memory is right.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guest import GuestParams
from labkit import Lab
from labkit.errors import LabError
from libvirt_postcopy.units import MIB
from libvirt_postcopy.vir.calls import read_stats, silence_libvirt
from scenes.stage import VENV, Stage, own_lab

GUEST = GuestParams(memory_mib=512, working_set_mib=128, rate_mib_s=120)
LINK = "48MiB"
PRECOPY_BOUND_S = 25.0
DESTINATION = "qemu+tcp://b/system"
FOLDER = "/run/libvirt-postcopy-demo"


def say(text: str = "") -> None:
    """Print a line for people; figures alone go to stdout with --json."""
    print(text, file=sys.stderr if "--json" in sys.argv else sys.stdout, flush=True)


class DemoError(Exception):
    """Something else happened than what was to be shown."""


def precopy(stage: Stage) -> dict[str, Any]:
    """Let virsh try, for a bounded time; abort it if it has not come to an end.

    :raises DemoError: If virsh fails by itself, which says nothing about pre-copy.
    """
    argv = ["virsh", "migrate", "--live", stage.name, DESTINATION]
    say(f"$ {' '.join(argv)}")
    began = stage.now()
    host = stage.lab.host("a")
    with host.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as virsh:
        try:
            _, words = virsh.communicate(timeout=PRECOPY_BOUND_S)
        except subprocess.TimeoutExpired:
            try:
                figures = _left_to_send(stage)
            finally:
                host.run(["virsh", "domjobabort", stage.name])
                _end(virsh)
        else:
            if virsh.returncode:
                raise DemoError(f"virsh migrate: {words.strip()}")
            figures = {"converged": True}
    figures["total_ms"] = round((stage.now() - began) * 1000)
    figures["blackout_ms"] = round(stage.blackout_ms(began), 1)
    return figures


def _left_to_send(stage: Stage) -> dict[str, Any]:
    domain = stage.find("a")
    stats = None if domain is None else read_stats(domain)
    if stats is None:
        raise DemoError("virsh migrate is still running, but libvirt knows of no job")
    return {
        "converged": False,
        "passes": stats.sync_count,
        "sent_mib": round((stats.memory_sent or 0) / MIB),
        "remaining_mib": round((stats.memory_remaining or 0) / MIB),
    }


def _end(virsh: subprocess.Popen[str]) -> None:
    """Wait for a virsh that was aborted; it may hang for ever (a race in its main loop)."""
    try:
        virsh.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        virsh.kill()


def postcopy(stage: Stage) -> dict[str, Any]:
    """Move the guest with our command, and look at it over there."""
    migrate = ["migrate", "--live", "--postcopy-after-precopy", "--verbose"]
    argv = ["virsh-postcopy", *migrate, stage.name, DESTINATION]
    say(f"$ {' '.join(argv)}")
    began = stage.now()
    done = stage.run("a", [str(VENV / argv[0]), *argv[1:]], timeout=60)
    ended = stage.now()
    for line in re.split(r"[\r\n]+", done.stderr.strip()):
        say(f"  {line}")
    completed = done.returncode == 0 and stage.active_on() == ["b"]
    figures: dict[str, Any] = {
        "completed": completed,
        "total_ms": round((ended - began) * 1000),
        "blackout_ms": round(stage.blackout_ms(began, ended), 1),
        "downtime_ms": _number(done.stderr, r"downtime (\d+) ms"),
        "passes": _number(done.stderr, r"(\d+) pass(?:es)?\b"),
        "memory_ok": False,
    }
    if completed:
        report = stage.verify("b")
        say(f"  memory on b: {report}")
        figures["memory_ok"] = report.ok and not stage.collector.strays
    return figures


def _number(text: str, pattern: str) -> int | None:
    """The last one of its kind in what the command said, which is that of its closing line."""
    found = re.findall(pattern, text)
    return int(found[-1]) if found else None


def show(figures: dict[str, dict[str, Any]]) -> None:
    """Both migrations beside each other."""
    pre, post = figures["precopy"], figures["postcopy"]
    rows = (
        ("", "pre-copy (virsh)", "post-copy (virsh-postcopy)"),
        (
            "came to its end",
            "yes" if pre["converged"] else "no, aborted",
            "yes" if post["completed"] else "no",
        ),
        ("took", f"{pre['total_ms'] / 1000:.1f} s", f"{post['total_ms'] / 1000:.1f} s"),
        (
            "longest blackout",
            f"{pre['blackout_ms']} ms",
            f"{post['blackout_ms']} ms",
        ),
        ("memory right", "-", "yes, every page" if post["memory_ok"] else "NO"),
    )
    say()
    for row in rows:
        say(f"  {row[0]:<17} {row[1]:<17} {row[2]}")
    say()


def play(lab: Lab) -> dict[str, dict[str, Any]]:
    """Both migrations of one guest over a limited link."""
    lab.limit(LINK)
    with Stage(lab, GUEST, "web1") as stage:
        say(
            f"guest web1 on host a: {GUEST.memory_mib} MiB, rewrites {GUEST.working_set_mib} MiB "
            f"at {GUEST.rate_mib_s:.0f} MiB/s; the link carries {LINK}/s"
        )
        stage.start("a")
        say(f"\n1. pre-copy, for at most {PRECOPY_BOUND_S:.0f} s")
        pre = precopy(stage)
        if pre["converged"]:
            return {"precopy": pre, "postcopy": {}}
        left = f"{pre.get('remaining_mib')} MiB of it still to send"
        say(f"  aborted: {pre.get('sent_mib')} MiB sent, {left}")
        say("\n2. post-copy after the first pass")
        return {"precopy": pre, "postcopy": postcopy(stage)}


def is_shown(figures: dict[str, dict[str, Any]]) -> bool:
    """Whether the demo showed what it says."""
    post = figures["postcopy"]
    return not figures["precopy"]["converged"] and bool(
        post.get("completed") and post.get("memory_ok")
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Play the demo in a lab of its own."""
    parser = argparse.ArgumentParser(prog="tools/demo", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures only")
    args = parser.parse_args(argv)
    silence_libvirt()
    try:
        began = time.monotonic()
        with own_lab(Path(FOLDER)) as lab:
            say(f"two libvirt hosts, a and b, up in {time.monotonic() - began:.1f} s")
            figures = play(lab)
    except (LabError, DemoError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(figures))
    elif figures["postcopy"]:
        show(figures)
    if not is_shown(figures):
        print("error: the demo did not show what it says", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
