"""What is broken, and how it is put right again."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import libvirt
import libvirt_qemu

from faults.moments import Moments
from labkit import Host, Lab, ToolError
from scenes.stage import Stage
from waiting import wait_until

__all__ = [
    "FAULTS",
    "Fault",
    "NOTICE_S",
    "NotInjected",
    "Scene",
    "Setting",
    "Victim",
]

NOTICE_S = 60.0
"""A fault that nobody notices ends after so long; libvirt's keepalive notices within 30 s, our client within 20 s."""

_SOCKETS_S = 2.0


class NotInjected(Exception):
    """The fault did not take place as it is named; the text says why."""


class Victim(Protocol):
    """The client under test, as far as a fault may touch it."""

    def has_ended(self) -> bool:
        """Whether the client has exited."""

    def kill(self) -> None:
        """Kill it (SIGKILL)."""


@dataclass(frozen=True)
class Scene:
    """What a fault has to do with.

    :ivar troubles: What had been said of a broken channel before the fault.
    """

    stage: Stage
    client: Victim
    moments: Moments
    troubles: int = 0

    @property
    def lab(self) -> Lab:
        return self.stage.lab


@dataclass(frozen=True)
class Setting:
    """What a migration is asked for where something is wrong from the beginning."""

    options: Sequence[str] = ()
    destination: str = "b"


@contextmanager
def _as_usual(lab: Lab) -> Iterator[Setting]:
    yield Setting()


def _nothing(scene: Scene) -> bool:
    """It lasts."""
    return True


@dataclass(frozen=True)
class Fault:
    """One way to break something.

    :ivar strike: Breaks it, and makes sure that it did; quick, since the moment passes.
    :ivar mend: Waits for as long as the fault lasts, and puts it right again where it is one that passes.  False if it
        should have lasted until somebody noticed, and nobody did.
    :ivar setting: What is wrong before the migration begins, and put right after it.
    :ivar kills: The host whose QEMU it kills, if any: no guest survives that after the switch.

    The first raises `NotInjected` where the fault is not what its name says.
    """

    name: str
    strike: Callable[[Scene], None]
    mend: Callable[[Scene], bool] = _nothing
    kills: str = ""
    setting: Callable[[Lab], AbstractContextManager[Setting]] = _as_usual


def _is_noticed(scene: Scene) -> bool:
    """Wait until QEMU or libvirt says that the channel is broken or half of the guest at its end, or the client ends."""
    moments = scene.moments
    try:
        wait_until(
            lambda: scene.client.has_ended() or moments.troubles > scene.troubles,
            "a sign that the fault was noticed",
            NOTICE_S,
            pause=0.05,
        )
    except TimeoutError:
        return False
    return True


def _cut(scene: Scene) -> None:
    scene.lab.cut("b")
    if not scene.lab.is_cut("b"):
        raise NotInjected("the link was not cut")


def _uncut_after_two_seconds(scene: Scene) -> bool:
    time.sleep(2.0)  # the fault's own length
    scene.lab.uncut("b")
    return True


def _uncut_when_noticed(scene: Scene) -> bool:
    try:
        return _is_noticed(scene)
    finally:
        scene.lab.uncut("b")


def _cut_where_tcp_gives_up(scene: Scene) -> None:
    """The source's kernel drops its end without a word, so a destination that has asked for nothing never hears of it."""
    scene.lab.give_up_after(3)
    _cut(scene)


def _uncut_and_kill_the_other_end(scene: Scene) -> bool:
    """No call of libvirt's makes the destination notice, so the operator does what we tell him.

    Where a page request of its own was on its way, its kernel has given up too, and there is nothing to kill.
    """
    is_noticed = _uncut_when_noticed(scene)
    scene.lab.break_migrations(["b"])
    return is_noticed


def _kill_sockets(scene: Scene) -> None:
    """As soon as there are any: QEMU says first that it begins, and then connects."""
    try:
        wait_until(scene.lab.break_migrations, "a connection to kill", _SOCKETS_S)
    except TimeoutError:
        raise NotInjected("there was no connection to kill") from None


def _swallow(scene: Scene) -> None:
    scene.lab.swallow_migrations()


def _pass_when_noticed(scene: Scene) -> bool:
    try:
        return _is_noticed(scene)
    finally:
        scene.lab.pass_migrations()


def _kill_daemon(host: str) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        on = scene.lab.host(host)
        on.kill_daemon(restart_after=1.0)
        if on.daemon()["last_end"] != "killed":
            raise NotInjected(f"{host}'s daemon was not killed")

    return strike


def _wait_for_daemon(host: str) -> Callable[[Scene], bool]:
    def mend(scene: Scene) -> bool:
        scene.lab.host(host).wait_ready()
        return True

    return mend


def _kill_client(scene: Scene) -> None:
    if scene.client.has_ended():
        raise NotInjected("the client had ended already")
    scene.client.kill()


def _pause(scene: Scene) -> None:
    """Somebody else breaks the migration through the monitor."""
    domain = scene.stage.find("a")
    if domain is None:
        raise NotInjected("the source has no QEMU any more")
    try:
        libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "migrate-pause"}', 0)
    except libvirt.libvirtError as error:
        raise NotInjected(f"migrate-pause: {error}") from None


def _kill_qemu(host: str) -> Callable[[Scene], None]:
    def strike(scene: Scene) -> None:
        # Numbers of the host's own PID namespace.
        numbers = scene.stage.qemus(host)
        if not numbers:
            raise NotInjected(f"{host} had no QEMU")
        scene.lab.host(host).run(["kill", "-KILL", *map(str, numbers)])

    return strike


@contextmanager
def _wrong_port(lab: Lab) -> Iterator[Setting]:
    """Nobody listens where the source's QEMU is sent."""
    yield Setting(options=("--migrateuri", f"tcp://client:{_PORT}"))


_PORT = 49152


def _is_wrong_port(scene: Scene) -> None:
    listening = ["ss", "-H", "-t", "-l", "-n", f"sport = :{_PORT}"]
    if scene.lab.client.run(listening).stdout:
        raise NotInjected("somebody listens there")


@contextmanager
def _no_userfaultfd(lab: Lab) -> Iterator[Setting]:
    """QEMU runs as an ordinary user there, and the kernel keeps userfaultfd from it."""
    lab.add_host("weak", unprivileged=True)
    try:
        yield Setting(destination="weak")
    finally:
        lab.remove_host("weak")


def _is_userfaultfd_forbidden(scene: Scene) -> None:
    try:
        allowed = scene.lab.host("weak").run(["cat", _USERFAULTFD]).stdout.strip()
    except ToolError as error:
        raise NotInjected(str(error)) from None
    if allowed != "0":
        raise NotInjected("this kernel lets everybody use userfaultfd")


_USERFAULTFD = "/proc/sys/vm/unprivileged_userfaultfd"


@contextmanager
def _no_memory(lab: Lab) -> Iterator[Setting]:
    """Its QEMU cannot get the guest's memory; the limit is inherited from the daemon."""
    host = lab.host("b")
    status = host.run(["cat", f"/proc/{_daemon(host)}/status"]).stdout
    (used_kib,) = re.findall(r"^VmData:\s+(\d+) kB$", status, re.MULTILINE)
    limit = (int(used_kib) << 10) + _SPARE_BYTES
    host.run(["prlimit", f"--pid={_daemon(host)}", f"--data={limit}"])
    try:
        yield Setting()
    finally:
        host.kill_daemon()  # the next one has no such limit
        host.wait_ready()


_SPARE_BYTES = 64 << 20


def _is_memory_limited(scene: Scene) -> None:
    host = scene.lab.host("b")
    shown = [
        "prlimit",
        f"--pid={_daemon(host)}",
        "--data",
        "--noheadings",
        "--output=SOFT",
    ]
    if host.run(shown).stdout.strip() == "unlimited":
        raise NotInjected("the destination's daemon has no limit")


def _daemon(host: Host) -> str:
    return host.run(["pgrep", "-o", "-x", "libvirtd"]).stdout.strip()


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("link cut for 2 s", _cut, _uncut_after_two_seconds),
        Fault("link cut until noticed", _cut, _uncut_when_noticed),
        Fault(
            "link cut until TCP gives up, ss -K",
            _cut_where_tcp_gives_up,
            _uncut_and_kill_the_other_end,
        ),
        Fault("sockets killed", _kill_sockets),
        Fault("black hole until noticed", _swallow, _pass_when_noticed),
        Fault("destination's daemon killed", _kill_daemon("b"), _wait_for_daemon("b")),
        Fault("source's daemon killed", _kill_daemon("a"), _wait_for_daemon("a")),
        Fault("client killed", _kill_client),
        Fault("migrate-pause by somebody", _pause),
        Fault("destination's QEMU killed", _kill_qemu("b"), kills="b"),
        Fault("source's QEMU killed", _kill_qemu("a"), kills="a"),
        Fault("wrong migrate port", _is_wrong_port, setting=_wrong_port),
        Fault(
            "userfaultfd forbidden", _is_userfaultfd_forbidden, setting=_no_userfaultfd
        ),
        Fault("destination out of memory", _is_memory_limited, setting=_no_memory),
    )
}
