"""The lab: several libvirt hosts on one machine, for tests and for people.

::

    with Lab() as lab:                      # up, and down at the end
        lab.host("a").virsh("create", str(lab.shared / "guest.xml"))
        lab.limit("32MiB")
        lab.client.run(["virsh", "-c", lab.host("a").tcp_uri, "migrate", …])

    lab = Lab.attach()                      # the one that `lab up` made
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from . import bringup, network, plan, sweep
from .errors import LabError, NoRootError, NotUpError
from .host import Host
from .layout import Folder, Node, default_folder
from .plan import CLIENT, SWITCH
from .process import Process

__all__ = ["Lab"]

UNDISTURBED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def _answers(host: Host) -> bool:
    try:
        return bool(host.daemon()["running"])
    except NotUpError:
        return False


@contextmanager
def _undone_by(undo: Callable[[], None]) -> Iterator[None]:
    """Undo what was begun if it fails or is interrupted, without interruption."""
    try:
        yield
    except BaseException:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, UNDISTURBED)
        try:
            undo()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        raise


class Lab:
    """A lab in a state folder, up or not. All methods work from inside it too."""

    def __init__(self, folder: Path | None = None) -> None:
        """Name a lab; nothing is started.

        :param folder: Its state folder; by default ``LIBVIRT_POSTCOPY_LAB_DIR`` or
            ``/run/libvirt-postcopy-lab``.
        """
        self.folder = Folder(folder.resolve() if folder else default_folder())

    @classmethod
    def attach(cls, folder: Path | None = None) -> Lab:
        """Find a lab that is up.

        :raises NotUpError: If it is not.
        """
        lab = cls(folder)
        lab._need_up()
        return lab

    def __enter__(self) -> Lab:
        if not self.is_up():
            self.up()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    # up and down

    def up(
        self,
        hosts: Sequence[str] = plan.DEFAULT_HOSTS,
        *,
        releases: Sequence[str] = (),
        unprivileged: Sequence[str] = (),
        session: bool = False,
    ) -> bool:
        """Start hosts; what a crashed `up` has left is cleared away first.

        :param releases: Releases for the hosts in turn; see ``tools/qemu-versions``.
        :param unprivileged: Hosts on which QEMU runs as an ordinary user, so that the
            kernel refuses post-copy there.
        :param session: Session daemons of the calling user, without root or network.
        :returns: False if the same lab was up already.
        :raises LabError: If a part did not start; nothing is left then.
        """
        self._need_owner()
        plan.check_caller(session=session)
        nodes = plan.nodes(
            self.folder,
            hosts,
            releases=releases,
            unprivileged=unprivileged,
            session=session,
        )
        with self.folder.locked():
            if self.is_up():
                if plan.shape(self.folder.nodes()) == plan.shape(nodes):
                    return False
                raise LabError("a different lab is up; run `lab down` first")
            sweep.clear(self.folder)
            with _undone_by(lambda: sweep.clear(self.folder)):
                self.folder.create()
                bringup.launch(self.folder, nodes)
                self.folder.ready.touch()
        return True

    def down(self) -> bool:
        """End all processes of the lab and delete its state folder.

        :returns: False if there was nothing.
        """
        self._need_owner()
        if not self.folder.is_ours():
            return False
        with self.folder.locked():
            sweep.clear(self.folder)
        return True

    def add_host(
        self,
        name: str,
        *,
        release: str | None = None,
        unprivileged: bool = False,
    ) -> Host:
        """Add a host to a lab that is up."""
        self._need_root_lab()
        with self.folder.locked():
            node = plan.another(self.folder, name, release, unprivileged)
            with _undone_by(lambda: self._remove(node)):
                bringup.launch(self.folder, [node])
        return self.host(name)

    def remove_host(self, name: str) -> None:
        """Take a host away, with all that runs on it."""
        self._need_root_lab()
        node = self.host(name).node
        if not node.has_daemon:
            raise LabError(f"{name} goes with the lab; run `lab down`")
        with self.folder.locked():
            self._remove(node)

    def _remove(self, node: Node) -> None:
        # First: the kernel removes the port too, some time after the last process has ended.
        network.unplug(self._switch(), node.name)
        sweep.remove(self.folder, node)

    def is_up(self) -> bool:
        """Tell whether `up` has finished and every part of it still lives."""
        return self.folder.ready.exists() and all(
            node.is_alive() for node in self.folder.nodes()
        )

    # members

    @property
    def shared(self) -> Path:
        """A folder that has the same path on all hosts and outside."""
        return self.folder.shared

    @property
    def client(self) -> Host:
        """An operator's workstation: the hosts' network and names, no daemon."""
        return self.host(CLIENT)

    def host(self, name: str) -> Host:
        """A host by its name.

        :raises LabError: If there is none.
        """
        self._need_up()
        node = self.folder.node(name)
        if node is None or node.role == SWITCH:
            known = [node.name for node in self.folder.nodes() if node.role != SWITCH]
            raise LabError(f"no host {name!r}; there are {' '.join(known)}")
        return Host(node)

    def hosts(self) -> list[Host]:
        """All hosts with a daemon, in the order of their addresses."""
        self._need_up()
        nodes = [node for node in self.folder.nodes() if node.has_daemon]
        return [Host(node) for node in sorted(nodes, key=plan.order)]

    # the network

    def cut(self, name: str) -> None:
        """Pull a host's network cable: packets vanish, nobody is told."""
        network.set_port(self._switch(), self.host(name).name, up=False)

    def uncut(self, name: str) -> None:
        """Plug a host's network cable in again."""
        network.set_port(self._switch(), self.host(name).name, up=True)

    def is_cut(self, name: str) -> bool:
        return not network.ports(self._switch()).get(self.host(name).name, False)

    def break_migrations(self, names: Sequence[str] = ()) -> int:
        """Kill the migration connections of all hosts, or of some.

        :returns: How many ends of connections were killed.
        """
        return sum(network.break_migrations(h.holder) for h in self._some(names))

    def limit(self, rate: str, names: Sequence[str] = ()) -> None:
        """Limit what hosts send of migrations, each; see `network.parse_rate`."""
        speed = network.parse_rate(rate)
        for host in self._some(names):
            network.limit(host.holder, speed)

    def unlimit(self, names: Sequence[str] = ()) -> None:
        for host in self._some(names):
            network.unlimit(host.holder)

    def swallow_migrations(self, names: Sequence[str] = ()) -> None:
        """Make a black hole of the migration ports; libvirt's own connections are not touched."""
        for host in self._some(names):
            network.swallow(self._switch(), host.name)

    def pass_migrations(self, names: Sequence[str] = ()) -> None:
        """Take the black hole away."""
        for host in self._some(names):
            network.unswallow(self._switch(), host.name)

    def give_up_after(self, retries: int) -> None:
        """Let the hosts' TCP notice a dead link sooner; the setting is each host's own and goes with it."""
        for host in self.hosts():
            network.give_up_after(host.holder, retries)

    def rate(self, name: str) -> int | None:
        """The limit of a host in bytes per second, if it has one."""
        self._need_root_lab()
        return network.rate_of(self.host(name).holder)

    def _some(self, names: Sequence[str]) -> list[Host]:
        self._need_root_lab()
        return [self.host(name) for name in names] if names else self.hosts()

    def _switch(self) -> Process:
        self._need_root_lab()
        node = self.folder.node(SWITCH)
        assert node is not None
        return Host(node).holder

    # what it is

    def describe(self, host: Host) -> dict[str, object]:
        """What ``lab status --json`` shows of a host."""
        node = host.node
        answers = _answers(host)
        row: dict[str, object] = {
            "host": host.name,
            "address": node.address,
            "release": node.release or "installed",
            "libvirtd": "up" if answers else "down",
        }
        if not self.is_session():
            row["link"] = "cut" if self.is_cut(host.name) else "up"
            row["limit_bytes_s"] = self.rate(host.name)
        row["domains"] = host.domains() if answers else []
        return row

    def is_session(self) -> bool:
        """Tell whether this is a lab of session daemons."""
        return any(node.role == "session" for node in self.folder.nodes())

    def _need_up(self) -> None:
        self._need_owner()
        if not self.folder.ready.exists():
            raise NotUpError(f"no lab is up in {self.folder.path}; run `lab up`")

    def _need_owner(self) -> None:
        if self.folder.is_ours() and os.geteuid() not in (0, self.folder.owner()):
            raise NoRootError(f"the lab in {self.folder.path} is another user's")

    def _need_root_lab(self) -> None:
        self._need_up()
        if self.is_session():
            raise NoRootError("a session lab has no network; this needs a lab of root")
