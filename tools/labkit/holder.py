"""The process that holds a member of the lab: it ends, the member is gone.

It runs inside the new namespaces; of a host it is process 1, which reaps the orphans
(libvirtd as process 1 does not: each probe of QEMU then takes 40 s) and takes all
other processes with it when it is killed. It starts libvirtd and keeps it running.

Until `up` has finished it is on a leash: when its standard input ends, so does it.
Therefore an `up` that is killed in the middle leaves no process. The talk on the leash:

===========  =========================================================
holder       ``placed``: the namespaces and the file system are there
`up`         ``start``: the network is there, the daemon can be started
`up`         ``keep``: the lab is up, stay without me
holder       ``error TEXT``, then it ends
===========  =========================================================
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path

from .config import session_environment, write_session_files
from .errors import LabError
from .layout import Folder, Node
from .process import PROC, Process
from .supervisor import Supervisor

__all__ = ["main"]

PR_SET_CHILD_SUBREAPER = 36
LIBVIRTD = "/usr/sbin/libvirtd"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
}


class Holder:
    """The loop around a member's daemon, children, control socket and leash."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._selector = selectors.DefaultSelector()
        self._leash = b""
        self._kept = False
        self._control: socket.socket | None = None
        self._daemon: Supervisor | None = None
        self._ending = False

    def run(self) -> None:
        """Hold the member until the leash is let go or somebody ends us."""
        self._watch_signals()
        self._selector.register(0, selectors.EVENT_READ, self._read_leash)
        if self._node.has_daemon:
            self._daemon = Supervisor(*self._daemon_call())
            self._listen()
        say("placed")
        while not self._ending:
            self._turn()

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._timeout()):
            key.data()
        if self._daemon and self._kept:
            self._daemon.tick(time.monotonic())

    def _timeout(self) -> float | None:
        if not self._daemon or self._daemon.restart_at is None or not self._kept:
            return None
        return max(0.0, self._daemon.restart_at - time.monotonic())

    def _daemon_call(self) -> tuple[list[str], dict[str, str], Path]:
        path = self._node.path
        if self._node.role == "session":
            environment = {**os.environ, **session_environment(self._node)}
            argv = [LIBVIRTD, f"--pid-file={path}/run/libvirtd.pid"]
            return argv, environment, self._node.console
        return [LIBVIRTD, "--listen"], ENVIRONMENT, self._node.console

    # signals and children

    def _watch_signals(self) -> None:
        read, write = os.pipe()
        for fd in (read, write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: None)
        self._selector.register(
            read, selectors.EVENT_READ, lambda: self._take_signals(read)
        )

    def _take_signals(self, read: int) -> None:
        if signal.SIGTERM in os.read(read, 4096):
            self._ending = True
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if self._daemon and pid == self._daemon.pid:
                self._daemon.ended(status, time.monotonic())
                if not self._kept:
                    say(f"error libvirtd ended with {self._daemon.last_end}")
                    self._ending = True

    # the leash

    def _read_leash(self) -> None:
        got = os.read(0, 4096)
        if not got:
            self._ending = True
            return
        *words, self._leash = (self._leash + got).split(b"\n")
        for word in words:
            if word == b"start" and self._daemon:
                self._daemon.start(time.monotonic())
            elif word == b"keep":
                self._let_go()

    def _let_go(self) -> None:
        self._kept = True
        self._selector.unregister(0)
        nothing = os.open("/dev/null", os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        os.close(nothing)

    # the control socket

    def _listen(self) -> None:
        self._control = socket.socket(socket.AF_UNIX)
        # The folder is seen under its usual path in every file system of the lab.
        self._control.bind(str(self._node.control))
        self._node.control.chmod(0o600)
        self._control.listen(8)
        self._selector.register(self._control, selectors.EVENT_READ, self._answer)

    def _answer(self) -> None:
        assert self._control and self._daemon
        caller, _ = self._control.accept()
        with caller:
            caller.settimeout(1)
            try:
                request = json.loads(caller.recv(4096))
                self._obey(request, self._daemon)
                caller.sendall(json.dumps(self._daemon.report()).encode())
            except (OSError, ValueError) as error:
                print(f"control: {error}", file=sys.stderr, flush=True)

    @staticmethod
    def _obey(request: dict[str, object], daemon: Supervisor) -> None:
        now = time.monotonic()
        if request.get("do") == "start":
            daemon.start(now)
        elif request.get("do") == "kill":
            after = request.get("restart_after")
            daemon.kill(now + after if isinstance(after, (int, float)) else None)
            daemon.tick(now)


def say(word: str) -> None:
    """Tell `up` on the leash; nobody may be listening any more."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, word.encode() + b"\n")


def place(node: Node) -> None:
    """Make the member what it is to be, inside its namespaces."""
    if node.role in ("host", "client"):
        # Imported here: only root can do this, and only with these.
        from . import mounts

        socket.sethostname(node.name)
        if node.role == "host":
            mounts.place_host(node)
        else:
            mounts.place_client(node)
    elif node.role == "session":
        # QEMU daemonizes; what libvirtd leaves behind is to come to us.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        write_session_files(node)
    os.chdir("/")
    if node.has_daemon and not os.access(LIBVIRTD, os.X_OK):
        raise LabError(f"{LIBVIRTD} is missing; run tools/setup to install libvirt")


def kill_children() -> None:
    """Kill all descendants; orphans among them become children first."""
    children = PROC / "self/task" / str(os.getpid()) / "children"
    while True:
        pids = [int(pid) for pid in children.read_text().split()]
        if not pids:
            return
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)


def main() -> int:
    """``python -m labkit.holder LAB NAME ALIVE``; see `launch` for the caller."""
    lab, name, alive = sys.argv[1:]
    # Inherited for its lock alone, which our children must not hold.
    os.set_inheritable(int(alive), False)
    os.umask(0o022)
    node = Folder(Path(lab)).node(name)
    assert node is not None
    node.save_holder(Process.current())
    try:
        place(node)
        Holder(node).run()
    except LabError as error:
        say(f"error {error}")
        return 1
    finally:
        if node.role == "session":
            kill_children()
    return 0


if __name__ == "__main__":
    sys.exit(main())
