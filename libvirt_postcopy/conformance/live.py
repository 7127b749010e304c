"""Runs scenarios on fresh QEMUs and records what is said; nothing that it starts outlives it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from libvirt_postcopy.conformance.evidence import Conversation
from libvirt_postcopy.conformance.introspection import Facts
from libvirt_postcopy.conformance.machine import Target, end_all
from libvirt_postcopy.conformance.monitor import Gone, Hung, Record, Stopped
from libvirt_postcopy.conformance.pair import Pair, Setup, Unavailable
from libvirt_postcopy.conformance.scenarios import SCENARIOS, Scenario
from libvirt_postcopy.errors import UsageError

__all__ = ["Bench", "converse", "examine", "find_qemu"]

FORMAT = 2
#: A scenario takes some seconds; one that takes this long has gone astray.
SCENARIO_S = 90.0
_VERSION_S = 20


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
        with tempfile.TemporaryDirectory(prefix="pcc-") as name:
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
        kind = _file_system(base)
        if kind and kind not in ("tmpfs", "hugetlbfs", "ramfs"):
            return tempfile.mkdtemp(prefix="pcc-", dir=base)
    return ""


def _file_system(path: str) -> str:
    with suppress(OSError):
        rows = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
        real = os.path.realpath(path)
        under = [
            (len(row[1]), row[2])
            for row in rows
            if len(row) > 2 and (real + "/").startswith(row[1].rstrip("/") + "/")
        ]
        return max(under)[1] if under else ""
    return ""


def examine(bench: Bench, target: Target) -> tuple[Facts, Conversation]:
    """Ask a QEMU what it can do.

    :raises UsageError: If it does not even start.
    """
    seen = converse(bench, SCENARIOS["introspection"], (target, target))
    if not seen.of("greeting"):
        texts = [str(line.msg) for line in (*seen.of("stderr"), *seen.of("timeout"), *seen.of("note"))]  # fmt: skip
        raise UsageError(f"{target} does not start: {' '.join(texts)[:300]}")
    return Facts.from_conversation(seen), seen


def converse(
    bench: Bench,
    scenario: Scenario,
    targets: tuple[Target, Target],
    facts: tuple[Facts, Facts] | None = None,
    machine: str = "pc",
) -> Conversation:
    """Carry a scenario out on a fresh pair and return what was said, whatever happened."""
    record = Record()
    folder, places = bench.places()
    facts = facts or (Facts(), Facts())
    setup = replace(scenario.setup, places=places)
    pair = None
    try:
        _require_places(setup, places)
        if setup.dst_is_unprivileged:
            _require_no_userfaultfd(targets[1])
        pair = Pair(targets, facts, folder, record, setup, machine)
        with bench.watch(pair):
            try:
                scenario.drive(pair)
            except Stopped as stop:
                _note(record, stop)
            pair.end_normally()
    except Stopped as stop:
        _note(record, stop)
    finally:
        if pair is not None:
            pair.close()
        shutil.rmtree(folder, ignore_errors=True)
        for place in filter(None, places.values()):
            shutil.rmtree(place, ignore_errors=True)
    header = _header(scenario, record, targets, machine)
    header["qemu"] = header["qemu"] or facts[0].text
    return Conversation(header, tuple(record.lines))


def _require_places(setup: Setup, places: Mapping[str, str]) -> None:
    words = " ".join((*setup.src_memory, *setup.dst_memory))
    for name, place in places.items():
        if f"{{{name}}}" in words and not place:
            raise Unavailable(f"no folder of the kind '{name}' on this machine")
    if "hugetlb" in words and not _free_hugepages():
        raise Unavailable("no free huge pages of 2 MiB: sysctl vm.nr_hugepages=64")


def _require_no_userfaultfd(target: Target) -> None:
    """Go on only if an ordinary user can run this QEMU and may not use userfaultfd."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        raise Unavailable("needs root, and setpriv, to run a QEMU as another user")
    with suppress(OSError):
        if Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() == "1":
            raise Unavailable("this machine lets everybody use userfaultfd")
    with suppress(OSError):
        if os.stat("/dev/userfaultfd").st_mode & 0o006:
            raise Unavailable("this machine lets everybody use /dev/userfaultfd")
    for folder in (
        Path(os.path.realpath(target.path)),
        *Path(os.path.realpath(target.path)).parents,
    ):
        if not folder.stat().st_mode & 0o001:
            raise Unavailable(f"an ordinary user cannot reach {target.path}: {folder}")


def _free_hugepages() -> int:
    with suppress(OSError, ValueError):
        return int(
            Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").read_text()
        )
    return 0


def _note(record: Record, stop: Stopped) -> None:
    if isinstance(stop, Unavailable):
        record.add("", "skip", str(stop))
    elif isinstance(stop, (Gone, Hung)):
        record.add("", "note", str(stop))


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
            qmp = line.msg.get("QMP", {}).get("version", {})
            number = qmp.get("qemu", {})
            version = ".".join(
                str(number.get(part, 0)) for part in ("major", "minor", "micro")
            )
            if line.side == "src" and not header["qemu"]:
                header["qemu"] = version
                header["package"] = qmp.get("package", "")
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
