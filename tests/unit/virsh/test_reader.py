"""Who reads a file, told of real processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from libvirt_postcopy.virsh.reader import Reader
from waiting import wait_until

pytestmark = pytest.mark.programs

PATIENCE_S = 20

Start = Callable[..., Reader]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a program that has a pipe for standard input, and whatever it starts too."""
    theirs, ours = os.pipe()
    started: list[subprocess.Popen[bytes]] = []

    def begin(*argv: str) -> Reader:
        started.append(subprocess.Popen(argv, stdin=theirs, start_new_session=True))
        return Reader(started[-1].pid, os.fstat(theirs))

    yield begin
    for process in started:
        os.killpg(process.pid, 9)
        process.wait(PATIENCE_S)
    os.close(theirs)
    os.close(ours)


def has_child(reader: Reader, name: str) -> bool:
    process = reader._process
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return any(Path(f"/proc/{each}/comm").read_text() == f"{name}\n" for each in children)  # fmt: skip


def test_who_waits_in_a_read_reads(start: Start) -> None:
    reader = start("cat")
    wait_until(reader.reads, "a read", PATIENCE_S)
    assert not reader.selects() and not reader.has_guest()


def test_who_waits_as_readline_does(start: Start) -> None:
    code = "import select; select.select([0], [], [])"
    reader = start(sys.executable, "-c", code)
    wait_until(reader.selects, "a select", PATIENCE_S)
    assert not reader.reads()


def test_who_waits_for_something_else(start: Start) -> None:
    other, end = os.pipe()
    code = f"import os; print(end='x', flush=True); os.read({other}, 1)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, pass_fds=[other])  # fmt: skip
    assert process.stdout is not None and process.stdout.read(1) == b"x"
    try:
        pipe = os.fstat(process.stdout.fileno())
        of_other = Reader(process.pid, os.fstat(other))
        wait_until(of_other.reads, "a read", PATIENCE_S)
        assert not Reader(process.pid, pipe).reads()
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        process.stdout.close()
        os.close(other)
        os.close(end)


def test_program_that_virsh_runs_is_a_guest(start: Start) -> None:
    reader = start("sh", "-c", "sleep 60; :")
    wait_until(lambda: has_child(reader, "sleep"), "a child", PATIENCE_S)
    assert reader.has_guest() and not reader.reads()


def test_polkits_agent_is_none(start: Start, tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    assert sleep is not None
    shutil.copy(sleep, tmp_path / "pkttyagent")
    reader = start("sh", "-c", f"{tmp_path}/pkttyagent 60; :")
    wait_until(lambda: has_child(reader, "pkttyagent"), "a child", PATIENCE_S)
    assert not reader.has_guest()


def test_child_that_is_no_program_yet_is_none(start: Start) -> None:
    """As between fork and exec."""
    reader = start("sh", "-c", "(sleep 60; :); :")
    wait_until(lambda: has_child(reader, "sh"), "a child", PATIENCE_S)
    assert not reader.has_guest()


def test_who_has_ended_cannot_be_seen(start: Start) -> None:
    process = subprocess.Popen(["true"])
    process.wait(PATIENCE_S)
    gone = Reader(process.pid, os.fstat(0))
    assert not gone.has_guest()
    with pytest.raises(OSError):
        gone.reads()
