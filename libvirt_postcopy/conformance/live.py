"""Runs scenarios on fresh QEMUs and records what is said; nothing that it starts outlives it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from libvirt_postcopy.conformance import host
from libvirt_postcopy.conformance.boards import BOARDS, Board
from libvirt_postcopy.conformance.evidence import Conversation, greeted
from libvirt_postcopy.conformance.introspection import Facts
from libvirt_postcopy.conformance.machine import Target, end_all
from libvirt_postcopy.conformance.monitor import Record, Stopped
from libvirt_postcopy.conformance.pair import Pair, Unavailable
from libvirt_postcopy.conformance.registry import MISSHAPEN
from libvirt_postcopy.conformance.scenarios import SCENARIOS, Scenario
from libvirt_postcopy.errors import UsageError

__all__ = ["Bench", "board_of", "converse", "examine", "find_qemu"]

FORMAT = 2
#: A scenario takes some seconds; one that takes this long has gone astray.
SCENARIO_S = 90.0
_VERSION_S = 20
#: What ends a scenario and not the run: also an answer of a shape that no QEMU gives, and what the system refuses.
_STOPS = (Stopped, OSError, *MISSHAPEN)


def find_qemu(path: str) -> str:
    """Return a QEMU that can be started.

    :raises UsageError: If there is none.
    """
    found = shutil.which(path)
    if found is None:
        raise UsageError(f"no executable '{path}'", cure="name a QEMU with --qemu PATH")
    try:
        done = subprocess.run(
            [found, "--version"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_VERSION_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"'{path}' cannot be run: {error}") from error
    if b"QEMU" not in done.stdout:
        raise UsageError(
            f"'{path}' is no QEMU: it answers --version with '{done.stdout[:60].decode(errors='replace').strip()}'"
        )
    return found


def board_of(path: str) -> Board:
    """Return what a QEMU emulates.

    :raises UsageError: If there is no guest for it.
    """
    machines = _listed(path, "-machine")
    for board in BOARDS:
        if board.machine in machines and (not board.cpu or board.cpu in _listed(path, "-cpu")):  # fmt: skip
            return board
    kinds = " or ".join(f"qemu-system-{board.target}" for board in BOARDS)
    names = " nor ".join(f"'{board.machine}' of {board.target}" for board in BOARDS)
    raise UsageError(f"'{path}' has no machine type {names}, for which the suite's guests are", cure=f"name a {kinds} with --qemu PATH")  # fmt: skip


def _listed(path: str, option: str) -> set[str]:
    """What a QEMU lists when it is asked for help with an option."""
    try:
        done = subprocess.run(
            [path, option, "help"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_VERSION_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return set()
    rows = done.stdout.decode(errors="replace").splitlines()
    return {row.split()[0] for row in rows if row.strip()}


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End a run on SIGTERM and SIGHUP as Ctrl-C does, so that nothing is left behind; the second one is too late."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    wanted = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]  # fmt: skip
    before = {number: signal.signal(number, end) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Bench:
    """Where scenarios run: a folder of its own, and what this machine has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stopped = threading.Event()
        self._places: dict[str, str] = {"shm": "", "disk": ""}
        self._number = 0
        self._lock = threading.Lock()
        self._pairs: set[Pair] = set()

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Bench]:
        """Make the folder, and take everything away at the end."""
        # Short: a socket's path has at most 107 characters.
        with _ended_by_signals(), tempfile.TemporaryDirectory(prefix="pcc-") as name:
            bench = cls(Path(name))
            with tempfile.TemporaryDirectory(
                prefix="pcc-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None
            ) as shm:
                bench._places["shm"] = shm
                bench._places["disk"] = _folder_on_a_disk(name)
                try:
                    yield bench
                finally:
                    bench.stop()
                    shutil.rmtree(bench._places["disk"], ignore_errors=True)

    def stop(self) -> None:
        """End all QEMUs; scenarios that run are given up."""
        self.stopped.set()
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            pair.record.close()
        end_all()

    def places(self) -> tuple[Path, Mapping[str, str]]:
        """A folder for one conversation, and the other places."""
        with self._lock:
            self._number += 1
            number = self._number
        folder = self.folder / str(number)
        folder.mkdir()
        places = {}
        for name, base in self._places.items():
            places[name] = f"{base}/{number}" if base else ""
            if base:
                os.makedirs(places[name], exist_ok=True)
        return folder, places

    @contextmanager
    def watch(self, pair: Pair) -> Iterator[None]:
        """Give a pair up that takes too long, or when the run is stopped."""
        timer = threading.Timer(SCENARIO_S, pair.record.close)
        timer.daemon = True
        with self._lock:
            self._pairs.add(pair)
        if self.stopped.is_set():  # while the pair was made: nobody else knows of it
            pair.record.close()
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                self._pairs.discard(pair)


def _folder_on_a_disk(name: str) -> str:
    """A folder whose file system is neither tmpfs nor hugetlbfs; empty where there is none."""
    for base in (name, "/var/tmp", os.path.expanduser("~/.cache")):
        kind = host.file_system(base)
        if kind and kind not in ("tmpfs", "hugetlbfs", "ramfs"):
            return tempfile.mkdtemp(prefix="pcc-", dir=base)
    return ""


def examine(bench: Bench, target: Target) -> tuple[Facts, Conversation]:
    """Ask a QEMU what it can do.

    :raises UsageError: If it does not even start.
    """
    seen = converse(bench, SCENARIOS["introspection"], (target, target))
    if not seen.of("greeting"):
        texts = [str(line.msg) for line in (*seen.of("stderr"), *seen.of("timeout"), *seen.of("note"))]  # fmt: skip
        raise UsageError(f"{target} does not start: {' '.join(texts)[:300]}")
    if seen.version == (0,):
        raise UsageError(f"{target} does not greet as a QEMU does: {seen.of('greeting')[0].msg}")  # fmt: skip
    try:
        return Facts.from_conversation(seen), seen
    except _STOPS as error:
        raise UsageError(f"{target} says of itself what no QEMU does: {type(error).__name__}: {error}") from error  # fmt: skip


def converse(
    bench: Bench,
    scenario: Scenario,
    targets: tuple[Target, Target],
    facts: tuple[Facts, Facts] | None = None,
    machine: str = "",
) -> Conversation:
    """Carry a scenario out on a fresh pair and return what was said, whatever happened."""
    record = Record()
    folder, places = bench.places()
    facts = facts or (Facts(), Facts())
    setup = replace(scenario.setup, places={**scenario.setup.places, **places})
    pair = None
    try:
        _require_machine(scenario, places, targets, facts)
        pair = Pair(targets, facts, folder, record, setup, machine)
        with bench.watch(pair):
            try:
                scenario.drive(pair)
            except _STOPS as stop:
                _note(record, stop)
            pair.end_normally()
    except _STOPS as stop:
        _note(record, stop)
    finally:
        if pair is not None:
            pair.close()
        shutil.rmtree(folder, ignore_errors=True)
        for place in filter(None, places.values()):
            shutil.rmtree(place, ignore_errors=True)
    header = _header(scenario, record, targets, machine or targets[0].board.machine)
    header["qemu"] = header["qemu"] or facts[0].text
    return Conversation(header, tuple(record.lines))


def _require_machine(
    scenario: Scenario,
    places: Mapping[str, str],
    targets: tuple[Target, Target],
    facts: tuple[Facts, Facts],
) -> None:
    """Before anything is started: a refusal later on is QEMU's.

    :raises Unavailable: If this machine has not what the scenario needs.
    """
    setup = scenario.setup
    words = " ".join((*setup.src_memory, *setup.dst_memory))
    for name, place in places.items():
        if f"{{{name}}}" in words and not place:
            raise Unavailable(f"not runnable here: no folder of the kind '{name}'")
    reasons = [host.missing(need, targets[1].path) for need in setup.needs]
    if not setup.is_alone and not setup.dst_is_unprivileged:
        reasons.append(host.userfaultfd_missing(facts[1].version))
    for reason in filter(None, reasons):
        raise Unavailable(f"not runnable here: {reason}")


def _note(record: Record, stop: Exception) -> None:
    """Write down why a scenario went no further."""
    if isinstance(stop, Unavailable):
        record.add("", "skip", str(stop))
    elif isinstance(stop, Stopped):
        record.add("", "note", str(stop))
    else:
        record.add("", "note", f"not as documented: {type(stop).__name__}: {stop}")


def _header(
    scenario: Scenario,
    record: Record,
    targets: tuple[Target, Target],
    machine: str,
) -> dict[str, Any]:
    header: dict[str, Any] = {
        "qemu": "",
        "libvirt": None,
        "scenario": scenario.name,
        "format": FORMAT,
        "machine": machine,
        "accel": targets[0].accel,
    }
    for line in record.lines:
        if line.dir == "greeting" and line.side in ("src", "dst"):
            version, package = greeted(line.msg)
            if line.side == "src" and not header["qemu"]:
                header["qemu"] = version
                header["package"] = package
            elif line.side == "dst":
                header["destination"] = version
    return header


def run_all(
    bench: Bench,
    jobs: Sequence[Callable[[], Conversation]],
    workers: int,
    done: Callable[[Conversation], None],
) -> None:
    """Run conversations side by side."""
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="pair")
    futures = [pool.submit(job) for job in jobs]
    try:
        for future in as_completed(futures):
            done(future.result())
    finally:
        for future in futures:
            future.cancel()
        if any(not future.done() for future in futures):
            bench.stop()
        pool.shutdown(wait=True)
