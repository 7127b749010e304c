"""The cache: where fetched roots are, how one comes in, and who may put it there.

``releases/SUITE-FLAVOUR/`` is a complete root, always: it is made in a hidden folder beside it and renamed when done.
``.SUITE-FLAVOUR.lock`` is held (flock) while one is made, also by the processes that make it, so that a folder of a
dead maker is not touched while one of them still ends. A hidden folder found under the lock is a dead maker's rest.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from releases.errors import MachineError
from releases.known import Flavour, Wanted, order
from releases.root import Root

__all__ = ["Cache", "default_folder"]


def default_folder(env: Mapping[str, str] = os.environ) -> Path:
    """The project's cache folder; LIBVIRT_POSTCOPY_CACHE names another one."""
    if env.get("LIBVIRT_POSTCOPY_CACHE"):
        return Path(env["LIBVIRT_POSTCOPY_CACHE"]).absolute()
    home = Path(
        env.get("XDG_CACHE_HOME") or Path(env.get("HOME") or Path.home()) / ".cache"
    )
    return home.absolute() / "libvirt-postcopy"


class Cache:
    """The roots in one folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = (folder or default_folder()) / "releases"

    def roots(self) -> list[Root]:
        """All complete roots, as the table orders them, QEMU alone first."""
        found = [
            root
            for path in self.folder.glob("[!.]*-*")
            if path.is_dir()
            for root in [_root_of(path)]
            if root
        ]
        flavours = list(Flavour)
        return sorted(
            found, key=lambda root: (order(root.suite), flavours.index(root.flavour))
        )

    def get(self, suite: str, flavour: Flavour) -> Root | None:
        """The root of a suite, or None."""
        return _root_of(self._path(suite, flavour))

    def find(self, wanted: Wanted, *, flavour: Flavour | None = None) -> Root | None:
        """The first root which is what a name means by its real versions, or None."""
        for root in self.roots():
            if flavour in (None, root.flavour) and wanted.fits(
                root.suite, root.qemu, root.libvirt
            ):
                return root
        return None

    def log(self, suite: str, flavour: Flavour) -> Path:
        """Where the making of a root is logged."""
        return self.folder / f"{suite}-{flavour.value}.log"

    @contextmanager
    def lock(
        self, suite: str, flavour: Flavour, *, on_wait: Callable[[], None]
    ) -> Iterator[int]:
        """Hold the right to make a root; yields the lock's file descriptor, for the processes which make it.

        :param on_wait: Called once when another holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        fd = os.open(
            self._hidden(suite, flavour, "lock"), os.O_RDWR | os.O_CREAT, 0o644
        )
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def workshop(self, suite: str, flavour: Flavour) -> Iterator[Path]:
        """A hidden folder to make a root in, for the holder of the lock; gone afterwards, and dead makers' with it."""
        for rest in self.folder.glob(f".{suite}-{flavour.value}.tmp-*"):
            _remove(rest)
        path = tempfile.mkdtemp(
            dir=self.folder, prefix=self._hidden(suite, flavour, "tmp-").name
        )
        try:
            yield Path(path)
        finally:
            _remove(Path(path))

    def put(self, made: Path, suite: str, flavour: Flavour) -> Root:
        """Take over a complete root from its workshop, in place of an older one."""
        path = self._path(suite, flavour)
        made.chmod(0o755)
        if path.exists():
            path.rename(self._hidden(suite, flavour, "tmp-old"))
        made.rename(path)
        _remove(self._hidden(suite, flavour, "tmp-old"))
        return Root(path, suite, flavour)

    def _path(self, suite: str, flavour: Flavour) -> Path:
        return self.folder / f"{suite}-{flavour.value}"

    def _hidden(self, suite: str, flavour: Flavour, end: str) -> Path:
        return self.folder / f".{suite}-{flavour.value}.{end}"


def _root_of(path: Path) -> Root | None:
    """The root in a folder of the cache, or None if the folder is none."""
    suite, _, flavour = path.name.rpartition("-")
    root = (
        Root(path, suite, Flavour(flavour))
        if flavour in [known.value for known in Flavour]
        else None
    )
    return root if root and root.wrapper.exists() else None


def _remove(path: Path) -> None:
    """Remove a folder tree, unless something is mounted in it.

    Processes of a maker that was just killed may still put a file there: it is tried again for two seconds.

    :raises MachineError: If it cannot be removed.
    """
    if not path.exists():
        return
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    inside = [
        line.split()[1]
        for line in mounts.splitlines()
        if line.split()[1].startswith(f"{path}/")
    ]
    if inside:
        raise MachineError(
            f"{inside[-1]} is mounted in a rest of an older fetch; unmount it (umount {inside[-1]})"
        )
    deadline = time.monotonic() + 2
    while path.exists():
        try:
            shutil.rmtree(path)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
