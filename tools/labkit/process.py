"""Processes that are surely ours, and the tools that the lab runs.

A pid alone is no name: it may have been given to somebody else since. A process is
named by its pid, its start time and the boot, and is signalled through a pidfd that
was opened before the name was checked, so that nobody else can be hit.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import ToolError

__all__ = ["Process", "call", "processes"]

PROC = Path("/proc")


def _started(pid: int) -> int:
    stat = (PROC / str(pid) / "stat").read_text()
    # The second field is the command in parentheses and may hold anything; the start
    # time is field 22, in clock ticks since boot.
    return int(stat.rpartition(")")[2].split()[19])


def _boot() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True)
class Process:
    """One process, whoever gets its pid later."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Process:
        """Name a process.

        :raises ProcessLookupError: If there is none.
        """
        try:
            return cls(pid, _started(pid), _boot())
        except FileNotFoundError:
            raise ProcessLookupError(pid) from None

    @classmethod
    def current(cls) -> Process:
        """Name this process as the mounted ``/proc`` knows it.

        In a new PID namespace whose ``/proc`` is still the old one, that is the name
        by which the outside can kill it; ``os.getpid()`` would be 1.
        """
        return cls.of(int(os.readlink(PROC / "self")))

    @contextmanager
    def _pidfd(self) -> Iterator[int | None]:
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            yield fd if self._is_same() else None
        finally:
            os.close(fd)

    def _is_same(self) -> bool:
        try:
            return self == Process.of(self.pid)
        except ProcessLookupError:
            return False

    def network(self) -> int | None:
        """The number of its network namespace; None if it has ended."""
        try:
            return os.stat(PROC / str(self.pid) / "ns/net").st_ino
        except OSError:
            return None

    def environment(self) -> list[bytes]:
        """The environment it was started with; empty if it has ended."""
        try:
            return (PROC / str(self.pid) / "environ").read_bytes().split(b"\0")
        except OSError:
            return []

    def is_alive(self) -> bool:
        """Tell whether it runs; a zombie does not."""
        return not self.wait(0)

    def wait(self, timeout: float) -> bool:
        """Wait until it has ended; say whether it has."""
        with self._pidfd() as fd:
            return fd is None or bool(select.select([fd], [], [], timeout)[0])

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal if it still runs."""
        with self._pidfd() as fd:
            if fd is not None:
                with suppress(ProcessLookupError):  # a zombie by now
                    signal.pidfd_send_signal(fd, number)


def processes() -> Iterator[Process]:
    """Go through all processes that ``/proc`` shows."""
    for name in os.listdir(PROC):
        if name.isdigit():
            try:
                yield Process.of(int(name))
            except ProcessLookupError:
                continue


def call(
    argv: Sequence[str],
    *,
    text: str | None = None,
    timeout: float = 30,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a tool and return what it printed.

    :param text: Its standard input; none by default.
    :raises ToolError: If it is missing, fails or takes too long.
    """
    try:
        done = subprocess.run(
            argv,
            input=text or "",
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            check=False,
        )
    except FileNotFoundError:
        raise ToolError(argv[:1], "not found; run tools/setup") from None
    except subprocess.TimeoutExpired:
        raise ToolError(argv, f"no answer in {timeout:g} s") from None
    if done.returncode:
        raise ToolError(argv, done.stderr.strip() or f"exit status {done.returncode}")
    return done.stdout
