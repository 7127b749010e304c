"""Run a command so that nothing of it outlives us: no process, no mount.

The command is the first process of its own PID namespace, within its own mount namespace. When it ends, or is killed,
the kernel ends all it has started, and its mounts go with the last of them. It is killed when we die, even by SIGKILL.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["run"]

CELL = ["setpriv", "--pdeathsig", "KILL", "--"]
CELL += ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]


def run(
    argv: Sequence[str], *, stdin: str, log: Path, tmp: Path, keep: Sequence[int]
) -> int:
    """Run a command and return its exit status; its output goes to ``log``.

    On any exception, a KeyboardInterrupt included, the command and all its children have ended when it is passed on.

    :param tmp: The command's TMPDIR.
    :param keep: File descriptors which stay open in the command, such as a lock that must last as long as it.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*CELL, *argv],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=keep,
            cwd="/",
            env={**os.environ, "TMPDIR": str(tmp), "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        try:
            process.communicate(stdin.encode())
        except BaseException:
            _kill(process)
            raise
    return process.returncode


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the namespace's first process, for whose end unshare waits; then all are gone, not only told to go."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        pids = [int(pid) for pid in children.read_text().split()]
    except OSError:
        pids = []
    for pid in pids or [process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.wait()
