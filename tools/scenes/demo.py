"""The demo: one guest, moved in vain by pre-copy and then by post-copy.

Exit status 0 only if pre-copy did not converge, post-copy completed, and the guest's memory is right.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from guest import GuestParams
from labkit import Lab
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.units import MIB
from libvirt_postcopy.vir.calls import read_stats, silence_libvirt
from scenes.program import SceneError
from scenes.stage import VENV, Stage, own_lab

GUEST = GuestParams(memory_mib=512, working_set_mib=128, rate_mib_s=120)
LINK = "48MiB"
PRECOPY_BOUND_S = 25.0
POSTCOPY_BOUND_S = 60.0
LOOK_S = 5.0
"""Between two looks at a pre-copy that goes on."""
DESTINATION = "qemu+tcp://b/system"
FOLDER = "/run/libvirt-postcopy-demo"

Say = Callable[[str], None]
Figures = dict[str, Any]


def precopy(stage: Stage, say: Say) -> Figures:
    """Let virsh try, for a bounded time; abort it if it has not come to an end.

    :raises SceneError: If virsh fails by itself, which says nothing about pre-copy.
    """
    argv = ["virsh", "migrate", "--live", stage.name, DESTINATION]
    say(f"$ {' '.join(argv)}")
    began = stage.now()
    with _started(stage, argv) as virsh:
        if _is_over(virsh, began + PRECOPY_BOUND_S, lambda: _show_pass(stage, say)):
            figures: Figures = {"converged": True}
        else:
            try:
                figures = _left_to_send(stage)
            finally:
                stage.run("a", ["virsh", "domjobabort", stage.name])
                _end(virsh)
    figures["total_ms"] = round((stage.now() - began) * 1000)
    figures["blackout_ms"] = round(stage.blackout_ms(began), 1)
    return figures


@contextmanager
def _started(stage: Stage, argv: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """A command on host a, which has ended when we go on; Ctrl-C is for the demo, not for it."""
    with stage.lab.host("a").popen(
        argv,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as program:
        try:
            yield program
        finally:
            program.kill()  # it has ended, or the lab ends with it


def _is_over(
    virsh: subprocess.Popen[str], deadline: float, look: Callable[[], None]
) -> bool:
    """Wait for the end of a migration, and look at it now and then."""
    while (left_s := deadline - time.monotonic()) > 0:
        try:
            _, words = virsh.communicate(timeout=min(left_s, LOOK_S))
        except subprocess.TimeoutExpired:
            look()
            continue
        if virsh.returncode:
            raise SceneError(f"virsh migrate: {words.strip()}")
        return True
    return False


def _show_pass(stage: Stage, say: Say) -> None:
    stats = _job(stage)
    if stats is not None:
        sent, left = _mib(stats.memory_sent), _mib(stats.memory_remaining)
        say(f"  pass {stats.sync_count}: {sent} MiB sent, {left} MiB still to send")


def _job(stage: Stage) -> Stats | None:
    domain = stage.find("a")
    return None if domain is None else read_stats(domain)


def _mib(size: int | None) -> int:
    return round((size or 0) / MIB)


def _left_to_send(stage: Stage) -> Figures:
    stats = _job(stage)
    if stats is None:
        raise SceneError("virsh migrate is still running, but libvirt knows of no job")
    return {
        "converged": False,
        "passes": stats.sync_count,
        "sent_mib": _mib(stats.memory_sent),
        "remaining_mib": _mib(stats.memory_remaining),
    }


def _end(virsh: subprocess.Popen[str]) -> None:
    """Wait for a virsh that was aborted; it may hang for ever (a race in its main loop)."""
    try:
        virsh.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        virsh.kill()


def postcopy(stage: Stage, say: Say) -> Figures:
    """Move the guest with our command, and look at it over there."""
    migrate = ["migrate", "--live", "--postcopy-after-precopy", "--verbose"]
    argv = ["virsh-postcopy", *migrate, stage.name, DESTINATION]
    say(f"$ {' '.join(argv)}")
    began = stage.now()
    status, said = _run_aloud(stage, [str(VENV / argv[0]), *argv[1:]], say)
    ended = stage.now()
    completed = status == 0 and stage.active_on() == ["b"]
    figures: Figures = {
        "completed": completed,
        "total_ms": round((ended - began) * 1000),
        "blackout_ms": round(stage.blackout_ms(began, ended), 1),
        "downtime_ms": _number(said, r"downtime (\d+) ms"),
        "passes": _number(said, r"(\d+) pass(?:es)?\b"),
        "memory_ok": False,
    }
    if completed:
        say(f"  looking at the memory on b, all {GUEST.memory_mib} MiB")
        report = stage.verify("b")
        say(f"  {report}")
        figures["memory_ok"] = report.ok and not stage.collector.strays
    return figures


def _run_aloud(stage: Stage, argv: Sequence[str], say: Say) -> tuple[int, str]:
    """Run a command on host a and show what it says while it says it; its exit status and its words.

    :raises SceneError: If it does not end in time.
    """
    said: list[str] = []
    with _started(stage, argv) as program:
        assert program.stderr is not None
        reader = threading.Thread(
            target=_relay, args=(program.stderr, said, say), daemon=True
        )
        reader.start()
        try:
            program.wait(POSTCOPY_BOUND_S)
        except subprocess.TimeoutExpired:
            bound = f"{POSTCOPY_BOUND_S:.0f} s"
            raise SceneError(f"virsh-postcopy has not ended within {bound}") from None
        reader.join()
    return program.returncode, "\n".join(said)


def _relay(lines: Iterable[str], said: list[str], say: Say) -> None:
    for text in lines:
        for line in filter(None, re.split(r"[\r\n]+", text)):
            said.append(line)
            with suppress(BrokenPipeError):  # the main thread will meet it too
                say(f"  {line}")


def _number(text: str, pattern: str) -> int | None:
    """The last one of its kind in what the command said, which is that of its closing line."""
    found = re.findall(pattern, text)
    return int(found[-1]) if found else None


def table(figures: dict[str, Figures]) -> str:
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
    lines = (f"  {row[0]:<17} {row[1]:<17} {row[2]}" for row in rows)
    return "\n".join(["", *lines, ""])


def play(lab: Lab, say: Say) -> dict[str, Figures]:
    """Both migrations of one guest over a limited link."""
    lab.limit(LINK)
    with Stage(lab, GUEST, "web1") as stage:
        say(
            f"guest web1 on host a: {GUEST.memory_mib} MiB, rewrites {GUEST.working_set_mib} MiB "
            f"at {GUEST.rate_mib_s:.0f} MiB/s; the link carries {LINK}/s"
        )
        stage.start("a")
        say(f"\n1. pre-copy, for at most {PRECOPY_BOUND_S:.0f} s")
        pre = precopy(stage, say)
        if pre["converged"]:
            return {"precopy": pre, "postcopy": {}}
        left = f"{pre['remaining_mib']} MiB still to send"
        say(f"  aborted: {pre['sent_mib']} MiB sent, {left}")
        say("\n2. post-copy after the first pass")
        return {"precopy": pre, "postcopy": postcopy(stage, say)}


def not_shown(figures: dict[str, Figures]) -> str | None:
    """The first claim that did not hold; None if the demo showed what it says."""
    pre, post = figures["precopy"], figures["postcopy"]
    if pre["converged"]:
        took = f"{pre['total_ms'] / 1000:.1f} s"
        return f"pre-copy of this guest does not end (it ended after {took})"
    if not post["completed"]:
        return "post-copy ends, with the guest on host b alone"
    if not post["memory_ok"]:
        return "the guest's memory is right on host b"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Play the demo in a lab of its own."""
    parser = argparse.ArgumentParser(prog="tools/demo", description=__doc__)
    parser.add_argument(
        "--json", action="store_true", help="figures to stdout, the rest to stderr"
    )
    args = parser.parse_args(argv)
    silence_libvirt()
    people = sys.stderr if args.json else sys.stdout

    def say(text: str) -> None:
        print(text, file=people, flush=True)

    began = time.monotonic()
    with own_lab(Path(FOLDER)) as lab:
        say(f"two libvirt hosts, a and b, up in {time.monotonic() - began:.1f} s")
        figures = play(lab, say)
    if args.json:
        print(json.dumps(figures))
    elif figures["postcopy"]:
        print(table(figures))
    if claim := not_shown(figures):
        raise SceneError(f"the demo did not show that {claim}")
    return 0
