"""The state folder: where everything of a lab is, and what is written down.

::

    LAB/
      libvirt-postcopy-lab   marker: this folder is ours to empty
      ready                  written when `up` has finished
      alive                  locked (shared) by each holder for as long as it lives
      hosts.txt              /etc/hosts of all hosts
      shared/                the same folder under the same path on all hosts
      hosts/NAME/
        node.json            what it is
        holder.json          the process whose end is the end of the host
        control              socket of that process: kill and start the daemon
        console.log          what the holder and the daemon print
        run/                 /run of the host; run/libvirt/libvirt-sock
        log/ lib/ cache/     its /var/{log,lib,cache}/libvirt
        etc/ root/ …         layers of its file system
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import LabError
from .process import Process

__all__ = ["Folder", "Node", "default_folder"]

ENVIRONMENT = "LIBVIRT_POSTCOPY_LAB_DIR"
MARKER = "libvirt-postcopy-lab"
#: Seconds to wait for another `up` or `down` to finish its work.
LOCK_TIMEOUT = 60.0


def default_folder() -> Path:
    """Where the lab is unless somebody says otherwise."""
    if ENVIRONMENT in os.environ:
        return Path(os.environ[ENVIRONMENT]).resolve()
    if os.geteuid() == 0:
        return Path("/run/libvirt-postcopy-lab")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime).resolve() / "libvirt-postcopy-lab"
    return Path(f"/tmp/libvirt-postcopy-lab-{os.geteuid()}")


@dataclass(frozen=True)
class Node:
    """What a member of the lab is, as decided before it is started."""

    name: str
    role: str  #: "switch", "client", "host" or "session"
    folder: str  #: of this node, ``LAB/hosts/NAME``
    address: str | None = None
    release: str | None = None  #: None: what the machine has installed
    root: str | None = None  #: folder with the release's root
    unprivileged: bool = False  #: QEMU as an ordinary user

    @property
    def path(self) -> Path:
        return Path(self.folder)

    @property
    def lab(self) -> Path:
        return self.path.parent.parent

    @property
    def uuid(self) -> str:
        """The host's UUID: its own in each lab, and the same each time."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"file://{self.folder}"))

    @property
    def has_daemon(self) -> bool:
        return self.role in ("host", "session")

    @property
    def socket(self) -> Path:
        """The daemon's socket, reachable from outside of the host."""
        return self.path / "run/libvirt/libvirt-sock"

    @property
    def control(self) -> Path:
        return self.path / "control"

    @property
    def console(self) -> Path:
        return self.path / "console.log"

    @property
    def log(self) -> Path:
        return self.path / "log/libvirtd.log"

    def save(self) -> None:
        self.path.mkdir(parents=True)
        _write(self.path / "node.json", dataclasses.asdict(self))

    def save_holder(self, holder: Process) -> None:
        """Write down the calling process as the one whose end is this node's."""
        found = {"process": dataclasses.asdict(holder), "network": holder.network()}
        _write(self.path / "holder.json", found)

    def holder(self) -> Process | None:
        """The process whose end is the end of this node; None before it has said so."""
        found: Any = _read(self.path / "holder.json")
        return Process(**found["process"]) if found else None

    def network(self) -> int | None:
        """The number that the node's network namespace had, if it has its own."""
        found: Any = _read(self.path / "holder.json")
        return found["network"] if found and self.role != "session" else None

    def is_alive(self) -> bool:
        holder = self.holder()
        return holder is not None and holder.is_alive()


class Folder:
    """A lab's state folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shared = path / "shared"
        self.hosts_file = path / "hosts.txt"
        self.ready = path / "ready"

    def node(self, name: str) -> Node | None:
        """What was decided about a member, or None."""
        found: Any = _read(self.path / "hosts" / name / "node.json")
        return Node(**found) if found else None

    def nodes(self) -> list[Node]:
        """All members that were decided on, started or not."""
        hosts = self.path / "hosts"
        names = sorted(os.listdir(hosts)) if hosts.is_dir() else []
        return [node for node in map(self.node, names) if node]

    def is_ours(self) -> bool:
        return (self.path / MARKER).exists()

    def owner(self) -> int:
        return self.path.stat().st_uid

    def create(self) -> None:
        """Mark the locked folder as a lab's and lay it out.

        :raises LabError: If it holds anything else: `down` would delete that.
        """
        if os.listdir(self.path):
            raise LabError(
                f"{self.path} holds other files; set {ENVIRONMENT} to an empty folder"
            )
        (self.path / MARKER).touch()
        self.path.chmod(0o755)
        (self.path / "hosts").mkdir()
        (self.path / "alive").touch()
        self.shared.mkdir()
        self.shared.chmod(0o1777)

    def remove(self) -> None:
        """Empty the locked folder if it is a lab's; empty, it goes with the lock."""
        if not self.is_ours():
            return
        # The marker goes last: what an interrupted removal leaves is still ours.
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != MARKER:
                entry.unlink()
        (self.path / MARKER).unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other `up` and `down` out of this folder.

        It is created if need be, and removed if it is empty afterwards.
        """
        fd = self._lock()
        try:
            yield
        finally:
            with suppress(OSError):
                self.path.rmdir()
            os.close(fd)

    def _lock(self) -> int:
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            fd = self._open()
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # While we waited, a `down` may have removed what we hold locked.
                if os.path.samestat(os.fstat(fd), os.stat(self.path)):
                    return fd
            except FileNotFoundError:
                pass
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(fd)
                    raise LabError(
                        f"another `lab` is at work in {self.path}; wait for it"
                    ) from None
                time.sleep(0.05)  # flock has no time limit of its own
            os.close(fd)

    def _open(self) -> int:
        try:
            self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
            return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except PermissionError:
            raise LabError(
                f"{self.path}: permission denied; set {ENVIRONMENT}"
            ) from None

    def write_hosts(self) -> None:
        """Write all names and addresses to what every host has as ``/etc/hosts``."""
        lines = ["127.0.0.1 localhost"]
        lines += [
            f"{node.address} {node.name}" for node in self.nodes() if node.address
        ]
        # In place: a new file would not be the one that is mounted on the hosts.
        self.hosts_file.write_text("\n".join([*lines, ""]))

    def hold_alive(self) -> int:
        """Open and lock what every holder inherits: locked means that one lives."""
        fd = os.open(self.path / "alive", os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_SH)
        return fd

    def wait_all_gone(self, timeout: float) -> bool:
        """Wait until no holder lives, even one that did not get to say its name."""
        deadline = time.monotonic() + timeout
        with open(self.path / "alive", "ab") as alive:
            while True:
                try:
                    fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return True
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        return False
                    time.sleep(0.005)


def _write(path: Path, value: object) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(value) + "\n")
    new.replace(path)


def _read(path: Path) -> dict[str, object] | None:
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    assert isinstance(found, dict)
    return found
