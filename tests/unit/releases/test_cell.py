"""Commands that leave nothing behind. They need root, as a fetch does."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from releases import cell

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
]

#: Leaves a process of another session and a mount, as a maintainer script might.
MESSY = "mount -t tmpfs {name} /mnt; setsid sleep {nap} & echo ready; wait"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run(script: str, log: Path, *, keep: tuple[int, ...] = ()) -> int:
    return cell.run(
        ["sh", "-c", script], stdin="in\n", log=log, tmp=log.parent, keep=keep
    )


def sleepers(nap: str) -> list[str]:
    found = [
        path.read_bytes()
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists()
    ]
    return [line.decode() for line in found if line == f"sleep\0{nap}\0".encode()]


def test_status_output_input_and_tmpdir(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert run("cat; echo $TMPDIR; echo err >&2; exit 7", log) == 7
    assert log.read_text() == f"in\n{tmp_path}\nerr\n"


def test_interrupt_ends_all_that_was_started(tmp_path: Path) -> None:
    log = tmp_path / "log"
    nap = f"{os.getpid()}.25"

    def interrupt() -> None:
        wait_for(
            lambda: log.exists() and "ready" in log.read_text() and bool(sleepers(nap))
        )
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(MESSY.format(name="messy", nap=nap), log)
    assert sleepers(nap) == []
    assert "messy" not in Path("/proc/self/mounts").read_text()
    thread.join()


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
        wait_for(
            lambda: log.exists() and "ready" in log.read_text() and bool(sleepers(nap))
        )
        process.kill()
    with (tmp_path / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
    wait_for(lambda: not sleepers(nap))
