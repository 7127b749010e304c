"""What is compared: the real virsh, and ourselves under its name."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import which
from typing import NamedTuple

import pytest
from hypothesis import settings

from waiting import wait_until

# A few lines, the same each time, where somebody waits for them; many and others each time in CI, which prints how to
# have them again.
IN_CI = "CI" in os.environ
settings.register_profile(
    "shim",
    deadline=None,
    max_examples=300 if IN_CI else 75,
    derandomize=not IN_CI,
    print_blob=True,
    database=None,
)
settings.load_profile("shim")

SHIM = Path(sys.executable).with_name("virsh-postcopy")

PATIENCE_S = 60


class Ended(NamedTuple):
    """How a program ended, and what it has printed."""

    status: int
    out: bytes
    err: bytes


class Pair:
    """The real virsh and ours, each found as ``virsh`` on a PATH."""

    def __init__(self, folder: Path) -> None:
        real = which("virsh")
        assert real is not None, "there is no virsh"
        self.virsh = real
        ours = folder / "bin"
        ours.mkdir()
        (ours / "virsh").symlink_to(SHIM)
        self.files = folder / "files"
        self.files.mkdir()
        (self.files / "empty.xml").touch()
        (self.files / "bad.xml").write_text("<domain><name>x</domain>")
        editor = folder / "editor"
        editor.write_text("#!/bin/sh\ncat\n")
        editor.chmod(0o700)
        env = {
            "VISUAL": str(editor),
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "XDG_STATE_HOME": str(folder / "state"),
            "LIBVIRT_DEFAULT_URI": "test:///default",
            "LC_ALL": "C.UTF-8",
            "D": str(self.files),
        }
        path = f"{Path(real).parent}:{env['PATH']}"
        self.environs = (
            {**env, "PATH": path, "MINE": str(folder / "theirs")},
            {**env, "PATH": f"{ours}:{path}", "MINE": str(folder / "ours")},
        )

    def theirs(self, argv: Sequence[str], stdin: bytes = b"") -> Ended:
        """Run a program which starts ``virsh``, with the real one."""
        return ended(argv, self.environs[0], stdin)

    def ours(self, argv: Sequence[str], stdin: bytes = b"") -> Ended:
        """Run it with ours; virsh itself may never end where a migration fails at once."""
        return ended(argv, self.environs[1], stdin)

    def run(self, argv: Sequence[str], stdin: bytes = b"") -> tuple[Ended, Ended]:
        """Run it with each, at the same time; all that both may write is ``$MINE``, a file for each."""
        with ThreadPoolExecutor() as pool:
            theirs, ours = pool.map(lambda env: ended(argv, env, stdin), self.environs)
        return theirs, ours


def ended(argv: Sequence[str], env: dict[str, str], stdin: bytes) -> Ended:
    """Run to the end, with all that it starts: virsh may never end where a migration fails at once."""
    process = subprocess.Popen(
        argv,
        env=env,
        cwd=env["HOME"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(stdin, PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return Ended(process.returncode, timeless(out), timeless(err))


def timeless(text: bytes) -> bytes:
    """Without what differs from one run to the next, and what we add below virsh's own words."""
    text = re.sub(rb"^(CPU time: +)[0-9.]+s$", rb"\1T s", text, flags=re.MULTILINE)
    text = re.sub(rb"^note: .*\n", b"", text, flags=re.MULTILINE)
    text = re.sub(rb"^\[[0-9. :]+ virsh [0-9]+\]", b"[when]", text, flags=re.MULTILINE)
    return re.sub(rb"\(Time: [0-9.]+ ms\)", b"(Time: T ms)", text)


def children_of(process: int) -> list[int]:
    with open(f"/proc/{process}/task/{process}/children", encoding="ascii") as file:
        return [int(each) for each in file.read().split()]


def sleeps(process: int) -> bool:
    """Whether a process waits for something."""
    with open(f"/proc/{process}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


def catches(process: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    with open(f"/proc/{process}/status", encoding="ascii") as file:
        [caught] = [line.split()[1] for line in file if line.startswith("SigCgt")]
    return bool(int(caught, 16) & 1 << (number - 1))


@contextmanager
def on_terminal(
    argv: Sequence[str], env: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run with a terminal of its own, and its other end."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", *argv],
        env=env,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        os.close(ours)


def read_until(file: int, what: bytes) -> bytes:
    """Read what a terminal shows, up to something."""
    os.set_blocking(file, False)
    shown = bytearray()

    def look() -> bool:
        with suppress(OSError):  # nothing yet, or the other end is closed
            shown.extend(os.read(file, 65536))
        return what in shown

    wait_until(look, f"{what!r} on the terminal", PATIENCE_S)
    return bytes(shown)


def rest(terminal: int) -> bytes:
    """What is left to be read, which may not come at once, of a terminal that nobody holds any more."""
    os.set_blocking(terminal, True)
    shown = b""
    with suppress(OSError):  # the other end is closed, and all has been read
        while more := os.read(terminal, 65536):
            shown += more
    return shown


def untouched() -> list[object]:
    """How a terminal is before anybody has it; whoever is started on one may change it before it can be looked at."""
    ours, theirs = pty.openpty()
    try:
        return termios.tcgetattr(ours)
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def compare(pair: Pair) -> Callable[..., Ended]:
    """Run both; what they do must be the same."""

    def run(argv: Sequence[str], stdin: bytes = b"") -> Ended:
        theirs, ours = pair.run(argv, stdin)
        assert ours == theirs
        return theirs

    return run
