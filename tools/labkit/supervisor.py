"""Keeping a host's libvirtd running, and killing it when a test wants that.

The state is here; the loop, the clock and the children's ends are the holder's.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["Supervisor"]

#: A daemon that ends this soon (seconds) has not started.
QUICK = 1.0
#: So many quick ends in a row, and it is given up.
QUICK_LIMIT = 3


class Supervisor:
    """One daemon: running, waiting to be started again, or down."""

    def __init__(
        self, argv: Sequence[str], environment: Mapping[str, str], console: Path
    ) -> None:
        self.pid: int | None = None
        self.starts = 0
        self.last_end: str | None = None
        #: When to start it again; None while it runs and while it stays down.
        self.restart_at: float | None = None
        self._argv = list(argv)
        self._environment = dict(environment)
        self._console = console
        self._started_at = 0.0
        self._quick_ends = 0

    def start(self, now: float) -> None:
        """Start the daemon unless it runs."""
        self.restart_at = None
        if self.pid is not None:
            return
        self._started_at = now
        self.starts += 1
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self.pid = os.posix_spawn(
            self._argv[0],
            self._argv,
            self._environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self._console), append, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            # Python ignores SIGPIPE, and what is ignored stays so in a child.
            setsigdef=[signal.SIGPIPE],
        )

    def kill(self, restart_at: float | None) -> None:
        """Kill the daemon with SIGKILL; its QEMUs live on.

        :param restart_at: When to start it again; None to leave it down.
        """
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = None
            self.last_end = "killed"
        self._quick_ends = 0
        self.restart_at = restart_at

    def ended(self, status: int, now: float) -> None:
        """Take note that the daemon has ended by itself, and plan its restart."""
        self.pid = None
        number = os.waitstatus_to_exitcode(status)
        self.last_end = f"signal {-number}" if number < 0 else f"exit status {number}"
        quick = now - self._started_at < QUICK
        self._quick_ends = self._quick_ends + 1 if quick else 0
        if self._quick_ends < QUICK_LIMIT:
            self.restart_at = now

    def tick(self, now: float) -> None:
        """Start the daemon if its time has come."""
        if self.restart_at is not None and self.restart_at <= now:
            self.start(now)

    def report(self) -> dict[str, object]:
        """What the control socket answers."""
        return {
            "running": self.pid is not None,
            "starts": self.starts,
            "last_end": self.last_end,
        }
