"""A destination whose QEMU's main loop waits for a page, so that it answers nobody."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event

from guest import GuestParams
from libvirt_postcopy.events import PassSeen
from libvirt_postcopy.qmp.commands import Qemu
from libvirt_postcopy.qmp.socket import SocketMonitor
from missed import MissedMoment
from scenes.stage import Stage
from waiting import wait_until

__all__ = ["IDLE", "SLOW", "Begun", "ask_qemu", "lookout", "stop_main_loop"]

IDLE = GuestParams(
    memory_mib=128, fill_mib=127, working_set_mib=48, rate_mib_s=1, high_stack=True
)
"""It mostly waits for the next tick, so the first that it does on the destination is to take one: TCG pushes an
interrupt's frame with QEMU's big lock held.  The page for that is the last to be pushed by itself."""

SLOW = {"bandwidth": 8, "bandwidth.postcopy": 2}
"""MiB/s: on a loaded machine, too, most of the guest is still to be sent when it is switched, and what is not asked for
does not come in time."""

_S = 20.0
_LOADED_S = 60.0


class Begun:
    """An observer: the first pass goes on."""

    def __init__(self) -> None:
        self._seen = Event()

    def __call__(self, what: object) -> None:
        if isinstance(what, PassSeen):
            self._seen.set()

    def wait(self) -> None:
        assert self._seen.wait(_S), "no pass was seen"


def lookout(stage: Stage) -> list[str]:
    """QEMU's arguments for a monitor of the test's own: at first the source's, then the destination's."""
    return ["-qmp", f"unix:{_path(stage)},server=on,wait=off"]


def _path(stage: Stage) -> str:
    return f"{stage.lab.shared}/{stage.name}-lookout.sock"


def stop_main_loop(stage: Stage) -> None:
    """Switch a migration that is in pre-copy, and break it where the destination's main loop cannot notice.

    The daemon that would start the guest there is held until all that the guest asks for is swallowed.

    :raises MissedMoment: If the guest was switched while it worked, so that the page it needs first is another.
    """
    with _held_daemon(stage):
        domain = stage.find("a")
        assert domain is not None
        domain.migrateStartPostCopy(0)
        _wait_until_loaded(stage)
        stage.lab.swallow_migrations()
    try:
        _wait_until_stopped(stage)
        assert stage.lab.break_migrations() > 0
    finally:
        stage.lab.pass_migrations()


@contextmanager
def ask_qemu(stage: Stage) -> Iterator[Qemu]:
    """The one that has made the lookout's socket last."""
    # It may have to wait for a page already, behind all that the kernel has taken for a slow link.
    monitor = SocketMonitor(_path(stage), "destination", answer_s=_LOADED_S)
    try:
        monitor.connect()
        yield Qemu(monitor)
    finally:
        monitor.close()


@contextmanager
def _held_daemon(stage: Stage) -> Iterator[None]:
    (daemon,) = stage.run("b", ["pgrep", "-o", "-x", "libvirtd"]).stdout.split()
    stage.run("b", ["kill", "-STOP", daemon])
    try:
        yield
    finally:
        stage.run("b", ["kill", "-CONT", daemon])


def _wait_until_loaded(stage: Stage) -> None:
    with ask_qemu(stage) as qemu:
        wait_until(
            lambda: qemu.run_state() != "inmigrate", "the device state", _LOADED_S
        )


def _wait_until_stopped(stage: Stage) -> None:
    try:
        wait_until(lambda: _stands_still(stage), "the main loop to wait", _S)
    except TimeoutError as error:
        raise MissedMoment(str(error)) from error


def _knock(stage: Stage) -> None:
    """Give the main loop something to do: else it may wait for that, and not for the vCPU's lock."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as caller:
        caller.setblocking(False)  # nobody may answer
        caller.connect(_path(stage))


def _stands_still(stage: Stage) -> bool:
    """Whether the main thread waits for a lock, and a vCPU for a page."""
    _knock(stage)
    (qemu,) = stage.qemus("b")
    of = f"/proc/{qemu}/task"
    main, all_ = (
        stage.run("b", ["bash", "-c", f"cat {threads}/wchan"]).stdout
        for threads in (f"{of}/{qemu}", f"{of}/*")
    )
    return "futex" in main and "handle_userfault" in all_
