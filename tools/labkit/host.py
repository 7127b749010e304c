"""One host of the lab, as tests and commands use it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .config import session_environment
from .errors import LabError, NotUpError, ToolError
from .layout import ENVIRONMENT, Node
from .process import Process, call

__all__ = ["Host"]

#: Seconds within which a daemon has to answer after its start.
READY_TIMEOUT = 20.0
VIRSH = "virsh"


class Host:
    """A host, the client, or in a lab without root a session daemon."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.name = node.name

    def __repr__(self) -> str:
        return f"<Host {self.name}>"

    @property
    def address(self) -> str | None:
        return self.node.address

    @property
    def holder(self) -> Process:
        """The process in whose namespaces the host lives.

        :raises NotUpError: If it has ended.
        """
        holder = self.node.holder()
        if holder is None or not holder.is_alive():
            raise NotUpError(f"host {self.name} is gone; run `lab down` and `lab up`")
        return holder

    # libvirt

    @property
    def uri(self) -> str:
        """URI of the daemon from everywhere on this machine, cut off or not."""
        self._need_daemon()
        kind = "session" if self.node.role == "session" else "system"
        return f"qemu+unix:///{kind}?socket={self.node.socket}"

    @property
    def tcp_uri(self) -> str:
        """URI of the daemon from the client and the hosts, over the lab's network."""
        self._need_daemon()
        if self.node.role == "session":
            raise LabError("a session daemon has no TCP; migrate with a unix: URI")
        return f"qemu+tcp://{self.name}/system"

    @property
    def log_path(self) -> Path:
        """The daemon's log: warnings, and all monitor messages with their time."""
        return self.node.log

    def qemu_log(self, domain: str) -> Path:
        """What QEMU itself printed."""
        if self.node.role == "session":
            return self.node.path / f"cache/libvirt/qemu/log/{domain}.log"
        return self.node.path / f"log/qemu/{domain}.log"

    def _need_daemon(self) -> None:
        if not self.node.has_daemon:
            raise LabError(f"{self.name} has no libvirt daemon")

    # commands

    def path(self, inside: str | Path) -> Path:
        """Where a file of the host is found from outside."""
        return Path(f"/proc/{self.holder.pid}/root") / str(inside).lstrip("/")

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that runs a command on the host.

        It starts in the current folder where the host has it, else in ``/``.
        """
        environment = [f"{ENVIRONMENT}={self.node.lab}"]
        if self.node.role == "session":
            own = session_environment(self.node)
            environment += [f"{name}={value}" for name, value in own.items()]
            return ["env", *environment, *argv]
        cwd = os.getcwd()
        where = cwd if self.path(cwd).is_dir() else "/"
        # `lab exec` ignores Ctrl-C so that the command alone decides what it means.
        run = ["env", f"--chdir={where}", "--default-signal=INT", *environment, *argv]
        enter = ["nsenter", f"--target={self.holder.pid}", "--mount", "--net", "--uts"]
        if self.node.role != "host":
            return [*enter, "--", *run]
        # nsenter forks into the PID namespace and would leave its child behind when
        # it is killed, after a time limit for example.
        enter += ["--ipc", "--pid", "--", "setpriv", "--pdeathsig=KILL", "--"]
        return [*enter, *run]

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 60,
        text: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host to its end.

        :param text: Its standard input.
        :raises ToolError: If ``check`` is set and it fails.
        :raises subprocess.TimeoutExpired: It has been killed then.
        """
        done = subprocess.run(
            self.command(argv),
            input=text if text is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            why = done.stderr.strip() or f"exit status {done.returncode}"
            raise ToolError([f"{self.name}:", *argv], why)
        return done

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a command on the host; options are those of `subprocess.Popen`."""
        return subprocess.Popen(self.command(argv), text=True, **options)

    def virsh(self, *words: str, timeout: float = 60) -> str:
        """Run virsh here, connected to the host; return what it printed."""
        return call([VIRSH, "-c", self.uri, *words], timeout=timeout)

    def domains(self) -> list[str]:
        """The names of the host's running domains."""
        return self.virsh("list", "--name").split()

    def state(self, domain: str) -> str:
        """A domain's state and its reason, in virsh's words."""
        return self.virsh("domstate", "--reason", domain).strip()

    # the daemon

    def control(self, request: dict[str, object]) -> dict[str, Any]:
        """Ask the holder to do something with the daemon; see `Supervisor.report`."""
        self._need_daemon()
        holder = self.holder
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(10)
            try:
                line.connect(str(self.node.control))
                line.sendall(json.dumps(request).encode())
                answer = json.loads(line.recv(4096))
            except (OSError, ValueError) as error:
                what = f"host {self.name}: no answer from its holder {holder.pid}"
                raise LabError(f"{what}: {error}") from None
        assert isinstance(answer, dict)
        return answer

    def daemon(self) -> dict[str, Any]:
        """Whether the daemon runs, how often it was started, how it ended last."""
        return self.control({"do": "report"})

    def kill_daemon(self, restart_after: float | None = 0.0) -> None:
        """Kill the daemon with SIGKILL; the guests' QEMUs live on.

        :param restart_after: Seconds until it is started again; None to leave it down.
        """
        self.control({"do": "kill", "restart_after": restart_after})

    def start_daemon(self) -> None:
        """Start the daemon if it is down."""
        self.control({"do": "start"})

    def wait_ready(
        self,
        timeout: float = READY_TIMEOUT,
        *,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait until the daemon answers a call.

        :param check: Called while waiting; raises when there is no hope.
        :raises LabError: If it does not in time.
        """
        if not shutil.which(VIRSH):
            raise LabError("virsh: not found; run tools/setup")
        deadline = time.monotonic() + timeout
        while not self._accepts():
            check()
            if time.monotonic() > deadline:
                raise LabError(f"host {self.name}: libvirtd is not listening")
            time.sleep(0.01)  # another process' listen() makes no event
        # The socket is there before the drivers are; a first call waits for them.
        self.virsh("hostname", timeout=timeout)

    def _accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.node.socket))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
        return True
