"""Commands that leave nothing behind. They need root, as a fetch does."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from releases import cell
from waiting import wait_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
]

#: Leaves a process of another session and a mount, as a maintainer script might.
MESSY = "mount -t tmpfs {name} /mnt; setsid sleep {nap} & echo ready; wait"


def run(script: str, log: Path, *, keep: tuple[int, ...] = ()) -> int:
    return cell.run(
        ["sh", "-c", script], stdin="in\n", log=log, tmp=log.parent, keep=keep
    )


def wait_until_messy(log: Path, nap: str) -> None:
    wait_until(
        lambda: log.exists() and "ready" in log.read_text() and bool(sleepers(nap)),
        "the mess made",
        20,
    )


def sleepers(nap: str) -> list[str]:
    found = [
        path.read_bytes()
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists()
    ]
    return [line.decode() for line in found if line == f"sleep\0{nap}\0".encode()]


@pytest.mark.programs
def test_status_output_input_and_tmpdir(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run("cat; echo $TMPDIR; echo err >&2; exit 7", log) == 7
    assert log.read_text() == f"in\n{tmp_path}\nerr\n"


@pytest.mark.programs
def test_interrupt_ends_all_that_was_started(tmp_path: Path) -> None:
    log = tmp_path / "log"
    nap = f"{os.getpid()}.25"

    def interrupt() -> None:
        try:
            wait_until_messy(log, nap)
        finally:  # else the test would never end
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(MESSY.format(name="messy", nap=nap), log)
    assert sleepers(nap) == []
    assert "messy" not in Path("/proc/self/mounts").read_text()
    thread.join()


@pytest.mark.programs
def test_death_of_the_caller_ends_all_and_then_frees_the_lock(tmp_path: Path) -> None:
    log = tmp_path / "log"
    nap = f"{os.getpid()}.75"
    caller = f"""
import os, sys; from pathlib import Path
sys.path.insert(0, {str(Path(cell.__file__).parents[1])!r})
import fcntl; from releases import cell
lock = os.open({str(tmp_path / "lock")!r}, os.O_RDWR | os.O_CREAT); fcntl.flock(lock, fcntl.LOCK_EX)
argv = ["sh", "-c", {MESSY.format(name="messy", nap=nap)!r}]
cell.run(argv, stdin="", log=Path({str(log)!r}), tmp=Path({str(tmp_path)!r}), keep=[lock])
"""
    with subprocess.Popen([sys.executable, "-c", caller]) as process:
        wait_until_messy(log, nap)
        process.kill()
    with (tmp_path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    wait_until(lambda: not sleepers(nap), "no sleeper left", 20)
