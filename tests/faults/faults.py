"""What is broken, and how it is put right again."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import libvirt
import libvirt_qemu

from labkit import Lab
from scenes.stage import Stage

__all__ = ["FAULTS", "Fault", "Setting", "Victim"]

_NOTICE_S = 90.0
_POLL_S = 0.1


class Victim(Protocol):
    """The client under test, as far as a fault may touch it."""

    def has_ended(self) -> bool:
        """Whether the client has exited."""

    def kill(self) -> None:
        """Kill it (SIGKILL)."""


@dataclass(frozen=True)
class Setting:
    """What a migration is asked for where something is wrong from the beginning."""

    options: Sequence[str] = ()
    destination: str = "b"


@contextmanager
def _as_usual(lab: Lab) -> Iterator[Setting]:
    yield Setting()


@dataclass(frozen=True)
class Fault:
    """One way to break something.

    :ivar inject: Breaks it, and puts it right again where the fault is one that passes; returns when that
        is done.
    :ivar setting: What is wrong before the migration begins, and put right after it.
    :ivar kills: The host whose QEMU it kills, if any: no guest survives that after the switch.
    """

    name: str
    inject: Callable[[Stage, Victim], None]
    kills: str = ""
    setting: Callable[[Lab], AbstractContextManager[Setting]] = _as_usual


def _wait(what: Callable[[], bool], timeout: float) -> bool:
    """Wait for something that makes no event; whether it came."""
    pause = threading.Event()
    end = time.monotonic() + timeout
    while not what():
        if time.monotonic() > end:
            return False
        pause.wait(_POLL_S)
    return True


def _is_noticed(stage: Stage, victim: Victim) -> bool:
    """The source's libvirt or the client says that something is wrong."""
    if victim.has_ended():
        return True
    domain = stage.find("a")
    if domain is None:
        return True
    try:
        state, reason = domain.state()
    except libvirt.libvirtError:  # it has ended this moment
        return True
    failed = libvirt.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED
    return bool(state == libvirt.VIR_DOMAIN_PAUSED and reason == failed)


def _cut_for_two_seconds(stage: Stage, victim: Victim) -> None:
    stage.lab.cut("b")
    threading.Event().wait(2.0)  # the fault's own length
    stage.lab.uncut("b")


def _cut_until_noticed(stage: Stage, victim: Victim) -> None:
    stage.lab.cut("b")
    _wait(lambda: _is_noticed(stage, victim), _NOTICE_S)
    stage.lab.uncut("b")


def _cut_until_tcp_gives_up(stage: Stage, victim: Victim) -> None:
    """The source's kernel drops its end without a word, so the destination never hears of it.

    No call of libvirt's makes it notice, so the operator does what we tell him.
    """
    stage.lab.give_up_after(3)
    stage.lab.cut("b")
    _wait(lambda: _is_noticed(stage, victim), _NOTICE_S)
    stage.lab.uncut("b")
    stage.lab.break_migrations(["b"])


def _kill_sockets(stage: Stage, victim: Victim) -> None:
    stage.lab.break_migrations()


def _black_hole(stage: Stage, victim: Victim) -> None:
    stage.lab.swallow_migrations()
    _wait(lambda: _is_noticed(stage, victim), _NOTICE_S)
    stage.lab.pass_migrations()


def _restart(host: str) -> Callable[[Stage, Victim], None]:
    def inject(stage: Stage, victim: Victim) -> None:
        stage.lab.host(host).kill_daemon(restart_after=1.0)
        stage.lab.host(host).wait_ready()

    return inject


def _kill_client(stage: Stage, victim: Victim) -> None:
    victim.kill()


def _pause(stage: Stage, victim: Victim) -> None:
    """Somebody else breaks the migration through the monitor."""
    domain = stage.find("a")
    assert domain is not None
    libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "migrate-pause"}', 0)


def _kill_qemu(host: str) -> Callable[[Stage, Victim], None]:
    def inject(stage: Stage, victim: Victim) -> None:
        pid_file = f"/run/libvirt/qemu/{stage.name}.pid"
        on = stage.lab.host(host)
        # A number of the host's own PID namespace.
        on.run(["kill", "-KILL", on.path(pid_file).read_text().strip()])

    return inject


def _nothing(stage: Stage, victim: Victim) -> None:
    """It is wrong already."""


@contextmanager
def _wrong_port(lab: Lab) -> Iterator[Setting]:
    """Nobody listens where the source's QEMU is sent."""
    yield Setting(options=("--migrateuri", "tcp://client:49152"))


@contextmanager
def _no_userfaultfd(lab: Lab) -> Iterator[Setting]:
    """QEMU runs as an ordinary user there, and the kernel keeps userfaultfd from it."""
    lab.add_host("weak", unprivileged=True)
    try:
        yield Setting(destination="weak")
    finally:
        lab.remove_host("weak")


@contextmanager
def _no_memory(lab: Lab) -> Iterator[Setting]:
    """Its QEMU cannot get the guest's memory; the limit is inherited from the daemon."""
    host = lab.host("b")
    daemon = host.run(["pgrep", "-o", "-x", "libvirtd"]).stdout.strip()
    status = host.run(["cat", f"/proc/{daemon}/status"]).stdout
    (used_kib,) = re.findall(r"^VmData:\s+(\d+) kB$", status, re.MULTILINE)
    limit = (int(used_kib) << 10) + _SPARE_BYTES
    host.run(["prlimit", f"--pid={daemon}", f"--data={limit}"])
    try:
        yield Setting()
    finally:
        host.kill_daemon()  # the next one has no such limit
        host.wait_ready()


_SPARE_BYTES = 64 << 20

FAULTS = {
    fault.name: fault
    for fault in (
        Fault("link cut for 2 s", _cut_for_two_seconds),
        Fault("link cut until noticed", _cut_until_noticed),
        Fault("link cut until TCP gives up, ss -K", _cut_until_tcp_gives_up),
        Fault("sockets killed", _kill_sockets),
        Fault("black hole until noticed", _black_hole),
        Fault("destination's daemon killed", _restart("b")),
        Fault("source's daemon killed", _restart("a")),
        Fault("client killed", _kill_client),
        Fault("migrate-pause by somebody", _pause),
        Fault("destination's QEMU killed", _kill_qemu("b"), kills="b"),
        Fault("source's QEMU killed", _kill_qemu("a"), kills="a"),
        Fault("wrong migrate port", _nothing, setting=_wrong_port),
        Fault("userfaultfd forbidden", _nothing, setting=_no_userfaultfd),
        Fault("destination out of memory", _nothing, setting=_no_memory),
    )
}
