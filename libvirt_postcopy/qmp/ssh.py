"""A unix socket of another host, brought here by the user's own ssh."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from libvirt_postcopy.qmp.commands import ConnectError

__all__ = ["SshForward"]

_OPTIONS = (
    "BatchMode=yes",  # nobody is there to answer
    "ConnectTimeout=5",
    "ExitOnForwardFailure=yes",
    "StreamLocalBindMask=0177",
    "ControlMaster=no",
    "ControlPath=none",  # a shared connection would outlive us with our forwarding
    # It must outlive a link that is dead for minutes: QEMU may take no other connection then.  What is sent meanwhile makes
    # the kernel try again ever more rarely, and give up after a quarter of an hour; what is silent goes on at once.
    "ServerAliveInterval=0",
    "TCPKeepAlive=no",
)
_LOOK_S = 0.02
_END_S = 2.0
_LAST_WORDS_S = 0.5
_LONGEST_LINE = 4096

#: ssh reads ``:``, ``%`` and ``$`` in a path as its own.
_PLAIN_PATH = re.compile(r"/[\w./@+=,-]+")
_PLAIN_HOST = re.compile(r"[\w.:-]+")


class SshForward:
    """Forwards a socket in a folder of our own, which only this user may enter, to a host's.

    :param host: As ssh knows it, which may be a name of ``~/.ssh/config``.
    :param remote: Path of the socket there; need not exist yet.
    :raises ConnectError: If ssh could read the names as something else.
    """

    def __init__(
        self,
        host: str,
        remote: str,
        *,
        user: str = "",
        port: int | None = None,
        side: str = "destination",
    ) -> None:
        self._side = side
        if not _PLAIN_PATH.fullmatch(remote) or not _PLAIN_HOST.fullmatch(host):
            raise ConnectError(
                f"ssh cannot be given the names {host:.80} and {remote:.120}", side=side
            )
        self._host = host
        self._remote = remote
        self._more = [*(["-l", user] if user else []), *(["-p", str(port)] if port else [])]  # fmt: skip
        self._folder: str | None = None
        self._process: subprocess.Popen[str] | None = None
        self._hearing: threading.Thread | None = None
        self._said = ""  # its last line that was not empty

    @property
    def is_open(self) -> bool:
        """Whether ssh runs."""
        process = self._process
        return process is not None and process.poll() is None

    def open(self, timeout_s: float, is_over: threading.Event | None = None) -> str:
        """Start ssh; give the path of the socket here.

        :param is_over: Ends the waiting when it is set.
        :raises ConnectError: If ssh does not get there in time; with its own last words.
        """
        is_over = is_over or threading.Event()
        self._folder = tempfile.mkdtemp(prefix="postcopy-")  # mode 0700
        local = str(Path(self._folder, "monitor"))
        try:
            self._process = self._start(local)
            self._listen(self._process)
            self._await(local, time.monotonic() + timeout_s, is_over)
        except BaseException:
            self.close()
            raise
        return local

    def close(self) -> None:
        """End ssh, and remove what was made."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdin.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _start(self, local: str) -> subprocess.Popen[str]:
        options = [word for each in _OPTIONS for word in ("-o", each)]
        argv = ["ssh", "-T", *options, *self._more, "-L", f"{local}:{self._remote}"]
        try:
            # What runs there ends when our end of its pipe does, however this program ends.  Where the link is dead, ssh
            # cannot say so, and ends itself when the kernel gives that up.
            return subprocess.Popen(
                [*argv, "--", self._host, "cat"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C is for us
            )
        except OSError as error:
            raise ConnectError(
                f"ssh cannot be started: {error}", side=self._side
            ) from error

    def _listen(self, process: subprocess.Popen[str]) -> None:
        """Read what it says all the time: ssh stops when nobody does and the pipe is full."""
        assert process.stderr is not None
        self._said = ""
        self._hearing = threading.Thread(
            target=self._hear, args=(process.stderr,), name="postcopy-ssh", daemon=True
        )
        self._hearing.start()

    def _hear(self, stderr: IO[str]) -> None:
        with stderr, suppress(OSError):
            while line := stderr.readline(_LONGEST_LINE):
                self._said = line.strip() or self._said

    def _await(self, local: str, end_at: float, is_over: threading.Event) -> None:
        """Wait until ssh has made the socket, which it does when it is let in there."""
        assert self._process is not None and self._hearing is not None
        while not Path(local).is_socket():
            if self._process.poll() is not None:
                # Its own children (ProxyCommand) may keep the pipe open for long.
                self._hearing.join(_LAST_WORDS_S)
                why = self._said or f"exit status {self._process.returncode}"
                raise ConnectError(f"ssh {self._host}: {why}", side=self._side)
            if is_over.wait(_LOOK_S) or time.monotonic() >= end_at:
                raise ConnectError(
                    f"ssh {self._host}: no connection in time", side=self._side
                )
