"""Starts a QEMU with the test guest, and ends it, always."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from libvirt_postcopy.conformance.boards import PC, Board
from libvirt_postcopy.conformance.guest import Guest
from libvirt_postcopy.conformance.monitor import Gone, Hung, Monitor, Record

__all__ = ["Machine", "Target", "end_all", "running_ids"]

START_S = 20.0
NOBODY = "65534"
_END_S = 5.0
_STDERR_BYTES = 2000

_running: set[subprocess.Popen[bytes]] = set()
_running_lock = threading.Lock()


@dataclass(frozen=True)
class Target:
    """A QEMU and how it is to be run."""

    path: str
    accel: str = "tcg"
    label: str = ""  #: how it is called in tables
    board: Board = PC  #: what it emulates

    def __str__(self) -> str:
        return self.label or self.path


def end_all() -> None:
    """Kill every QEMU that this process has started and that still runs."""
    with _running_lock:
        rest = list(_running)
    for process in rest:
        with contextlib.suppress(OSError):
            process.kill()


def running_ids() -> list[int]:
    """The process ids of all QEMUs that run now."""
    with _running_lock:
        return [process.pid for process in _running]


class Machine:
    """A QEMU, its monitor and its guest's serial line."""

    def __init__(
        self,
        target: Target,
        side: str,
        record: Record,
        folder: Path,
        *,
        guest: Guest,
        machine: str = "",
        extra: Sequence[str] = (),
        memory: Sequence[str] = (),
        monitors: int = 1,
        is_unprivileged: bool = False,
    ) -> None:
        """:param machine: The machine type; the board's own unless given.
        :param memory: In the place of ``-m``, where the guest's RAM has another backend.
        :param is_unprivileged: Run it as a user who may nothing special.
        """
        self.side = side
        self.record = record
        self.guest = guest
        self.target = target
        self._folder = folder
        image = folder / f"{side}.image"
        image.write_bytes(target.board.image(guest))
        self._errors: IO[bytes] = (folder / f"{side}.err").open("w+b")
        names = [side, *(f"{side}-{n}" for n in range(2, monitors + 1))]
        listeners = [_listener(folder / f"{name}.qmp") for name in names]
        self._serial = _listener(folder / f"{side}.serial")
        kind = machine or target.board.machine
        backend = ",memory-backend=ram" if "-object" in memory else ""
        argv = [
            target.path,
            *("-machine", f"{kind},accel={target.accel}{backend}"),
            *(memory or ("-m", str(guest.memory_mib))),
            *("-display", "none", "-nodefaults", "-no-user-config"),
            *target.board.arguments(str(image), target.accel),
            *("-chardev", f"socket,id=serial,path={folder}/{side}.serial"),
            *("-serial", "chardev:serial"),
        ]
        for name in names:
            argv += ["-chardev", f"socket,id=mon-{name},path={folder}/{name}.qmp"]
            argv += ["-mon", f"chardev=mon-{name},mode=control"]
        argv += extra
        record.add(side, "argv", argv)
        if is_unprivileged:
            folder.chmod(0o755)
            folder.parent.chmod(0o711)
            for path in folder.iterdir():
                path.chmod(0o666)
        self.process = self._spawn(argv, is_unprivileged)
        self._helpers: list[threading.Thread] = []
        try:
            self._listen_to_guest()
            self.monitors = [
                Monitor(self._accept(listener), name, record)
                for name, listener in zip(names, listeners)
            ]
        except BaseException:
            self.monitors = []
            self.end()
            raise
        finally:
            for listener in (*listeners, self._serial):
                listener.close()

    @property
    def monitor(self) -> Monitor:
        return self.monitors[0]

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def threads(self) -> int:
        """How many threads it has; 0 where this machine does not tell."""
        with contextlib.suppress(OSError):
            return len(os.listdir(f"/proc/{self.process.pid}/task"))
        return 0

    def is_at_rest(self) -> bool:
        """Whether none of its threads has anything to do; so, too, where this machine does not tell."""
        with contextlib.suppress(OSError):
            for each in Path(f"/proc/{self.process.pid}/task").iterdir():
                with contextlib.suppress(FileNotFoundError):  # it has ended
                    state = (each / "stat").read_text().rpartition(")")[2].split()[0]
                    if state not in "SI":
                        return False
        return True

    def kill(self) -> None:
        """End it as a power failure would.

        :raises Hung: If it does not end.
        """
        self.record.add(self.side, "act", "killed by the suite")
        if not self._is_killed():
            raise Hung(f"{self.side} does not end")

    def _is_killed(self) -> bool:
        """Kill it, and say whether it ended; one that waits within the kernel may not."""
        with contextlib.suppress(OSError):
            self.process.kill()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.record.add(self.side, "note", f"process {self.process.pid} does not end when it is killed")  # fmt: skip
            return False
        return True

    def stop_scheduling(self) -> None:
        """As a host that hangs would."""
        self.process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        """End it, and record how it had ended if it had; a second call does nothing."""
        if self._errors.closed:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            if any(
                line.dir == "eof" and line.side == self.side
                for line in self.record.lines
            ):
                self.process.wait(_END_S)  # it is about to end by itself
        rc = self.process.poll()
        self.record.add(self.side, "proc", {"rc": rc, "alive": rc is None})
        self._is_killed()
        with _running_lock:
            _running.discard(self.process)
        for monitor in self.monitors:
            monitor.close()
        for helper in self._helpers:
            helper.join(5)
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace").strip()
        self._errors.close()
        if text:
            self.record.add(self.side, "stderr", text[-_STDERR_BYTES:])

    def _spawn(
        self, argv: Sequence[str], is_unprivileged: bool
    ) -> subprocess.Popen[bytes]:
        # Should this process be killed, the kernel ends its QEMUs.
        guard = shutil.which("setpriv")
        words = [guard, "--pdeathsig", "KILL", *argv] if guard else list(argv)
        if guard and is_unprivileged:
            words[1:1] = ["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                env={**os.environ, "LC_ALL": "C"},
                start_new_session=True,  # Ctrl-C is ours
            )
        except OSError as error:
            raise Gone(f"{argv[0]}: {error.strerror}") from error
        with _running_lock:
            _running.add(process)
        return process

    def _accept(self, listener: socket.socket) -> socket.socket:
        """Wait for QEMU to connect; see at once when it ends instead."""
        listener.settimeout(0.25)
        for _ in range(int(START_S / 0.25)):
            try:
                return listener.accept()[0]
            except socket.timeout:
                if not self.is_alive:
                    break
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()
        self.record.add(self.side, "eof", None)
        raise Gone(f"{self.side} did not start: {said[-500:] or self.process.poll()}")

    def _listen_to_guest(self) -> None:
        connection = self._accept(self._serial)
        connection.settimeout(None)
        helper = threading.Thread(target=self._hear, args=(connection,), daemon=True)
        helper.start()
        self._helpers.append(helper)

    def _hear(self, connection: socket.socket) -> None:
        """Record what the guest says; of its sweeps only the first two after each silence of others."""
        beats = 0
        with contextlib.suppress(OSError), connection:
            while True:
                data = connection.recv(4096)
                if not data:
                    return
                for letter in data.decode("latin-1"):
                    beats = beats + 1 if letter == "B" else 0
                    if beats <= 2:
                        self.record.add(self.side, "serial", letter)


def _listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    return listener
