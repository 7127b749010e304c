"""Starting a member of the lab: the outer end of its holder's leash."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

from .errors import LabError
from .layout import Node
from .process import Process

__all__ = ["Launch"]

TOOLS = Path(__file__).resolve().parent.parent

NAMESPACES = {
    "switch": ["--net"],
    # Without its own PID namespace the client can signal and enter the hosts.
    "client": ["--net", "--mount", "--uts"],
    "host": ["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"],
}


class Launch:
    """A member that is being started; dropped before `keep`, it is gone again."""

    def __init__(self, node: Node, *, alive: int) -> None:
        """Start the holder.

        :param alive: Descriptor to be inherited, see `Folder.hold_alive`.
        """
        self.node = node
        enter: list[str] = []
        if node.role in NAMESPACES:
            enter = ["unshare", *NAMESPACES[node.role], "--"]
        holder = [sys.executable, "-S", "-m", "labkit.holder"]
        arguments = [str(node.lab), node.name, str(alive)]
        with open(node.console, "ab") as console:
            self._process = subprocess.Popen(
                # Forked away at once: its own session, safe from the terminal's
                # Ctrl-C, and no child of whoever uses the Python API.
                ["setsid", "--fork", *enter, *holder, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=console,
                pass_fds=[alive],
                env={**os.environ, "PYTHONPATH": str(TOOLS)},
            )
        self._said = b""

    def expect_placed(self, timeout: float) -> Process:
        """Wait until namespaces and file system are there; return the holder.

        :raises LabError: With the holder's own words if it failed.
        """
        word = self._hear(time.monotonic() + timeout)
        if word != "placed":
            raise LabError(f"host {self.node.name}: {self._why(word)}")
        self._process.wait()  # setsid; it has forked long ago
        holder = self.node.holder()
        assert holder is not None  # written before the word
        return holder

    def start(self) -> None:
        """Have the daemon started: the network is there."""
        self._say(b"start\n")

    def check(self) -> None:
        """See that the holder has not given up.

        :raises LabError: With its last words if it has.
        """
        if self._readable(0):
            word = self._hear(time.monotonic() + 1)
            raise LabError(f"host {self.node.name}: {self._why(word)}")

    def keep(self) -> None:
        """Let the holder off the leash: it stays when we go."""
        self._say(b"keep\n")
        self.drop()

    def drop(self) -> None:
        """Let go of the leash; before `keep` that ends the holder."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()

    def _say(self, words: bytes) -> None:
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), words)
        except BrokenPipeError:
            self.check()
            raise LabError(f"host {self.node.name}: {self._why('')}") from None

    def _readable(self, timeout: float) -> bool:
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], timeout)[0])

    def _hear(self, deadline: float) -> str:
        """Wait for a line; an empty one means that the holder has ended."""
        assert self._process.stdout is not None
        while b"\n" not in self._said:
            if not self._readable(max(0.0, deadline - time.monotonic())):
                raise LabError(f"host {self.node.name}: no word from its holder")
            got = os.read(self._process.stdout.fileno(), 4096)
            if not got:
                return ""
            self._said += got
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    @staticmethod
    def _why(word: str) -> str:
        return word.partition(" ")[2] or "its holder ended"
