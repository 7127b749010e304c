"""Scenarios around the switch to post-copy."""

from __future__ import annotations

import os
import socket

from libvirt_postcopy.conformance import host
from libvirt_postcopy.conformance.guest import Guest
from libvirt_postcopy.conformance.monitor import Hung
from libvirt_postcopy.conformance.pair import ENDS, Pair, Setup
from libvirt_postcopy.conformance.scenarios.base import scenario

POLLS = 200
BUSY = Guest(memory_mib=48, fill_mib=24, working_mib=8, delay=300)
IDLE = Guest(memory_mib=48, fill_mib=8, working_mib=0)


@scenario("post-copy", Setup(monitors=2), quick=True)
def post_copy(pair: Pair) -> None:
    """Migrate a busy guest over tcp, ask much on the way, and verify its memory."""
    pair.prepare()
    pair.limit()
    pair.listen()
    pair.dst.cmd("query-migrate")
    pair.dst.cmd("migrate-incoming", {"uri": f"unix:{pair.folder}/second.sock"})
    pair.migrate()
    pair.src.wait("active")
    pair.src.capabilities({"xbzrle": True})
    pair.src.cmd("query-migrate-capabilities")
    pair.dst.cmd("migrate_cancel")
    await_count(pair)
    pair.look()
    pair.migrate()
    pair.start_postcopy()
    pair.src.wait("postcopy-active")
    pair.dst.wait("postcopy-active")
    pair.start_postcopy()
    pair.src.cmd("cont")
    pair.dst.wait_run_state("paused")  # it has loaded the devices
    pair.look()
    pair.dst.cmd("cont")
    pair.dst.wait("RESUME")
    pair.look()
    pair.dst.cmd("migrate_cancel")
    for _ in range(POLLS):
        pair.src.cmd("query-migrate")
    pair.finish()
    pair.look()
    pair.src.cmd("migrate_cancel")
    pair.start_postcopy()
    pair.look()
    for side in pair.sides:  # the second monitors are read up to here, too
        side.machine.monitors[1].cmd("query-status")


def await_count(pair: Pair) -> None:
    """Let the source count what remains of all, where it tells that; its first answer may come before that."""
    first = pair.src.cmd("query-migrate")
    if first.value.get("remaining") == 0:
        pair.src.wait("MIGRATION_PASS", after=first.cmd)


@scenario("post-copy-autostart", Setup(dst_is_stopped=False, guest=BUSY), quick=True)
def post_copy_autostart(pair: Pair) -> None:
    """Migrate to a destination that was started without -S, over a unix socket."""
    pair.prepare()
    pair.limit()
    pair.to_postcopy(kind="unix")
    pair.look()
    pair.finish()
    pair.look()


@scenario("post-copy-stopped", Setup(guest=BUSY))
def post_copy_stopped(pair: Pair) -> None:
    """Migrate to a destination started with -S and never let it run."""
    blocktime = "postcopy-blocktime" in pair.facts.capabilities
    pair.prepare(dst={"postcopy-blocktime": True} if blocktime else {})
    pair.limit()
    pair.to_postcopy(resume=False)
    pair.dst.wait_run_state("paused")  # it has loaded the devices
    pair.look()
    pair.finish()
    pair.look()


@scenario(
    "two-vcpus", Setup(guest=BUSY, src_extra=("-smp", "2"), dst_extra=("-smp", "2"))
)
def two_vcpus(pair: Pair) -> None:
    """Migrate a guest with two vCPUs, with blocktime where there is any."""
    blocktime = "postcopy-blocktime" in pair.facts.capabilities
    pair.prepare(dst={"postcopy-blocktime": True} if blocktime else {})
    pair.limit()
    pair.to_postcopy()
    pair.dst.cmd("query-migrate")
    pair.finish()
    pair.look()


@scenario("events-off", Setup(guest=BUSY))
def events_off(pair: Pair) -> None:
    """Migrate with the capability events off on both sides."""
    pair.prepare(events=False)
    pair.limit(post_mib_s=None)
    pair.listen()
    pair.migrate()
    pair.start_postcopy()
    pair.src.wait("STOP")
    _poll(pair, "src", "completed")
    pair.let_listener_end()
    _poll(pair, "dst", "completed")


def _poll(pair: Pair, side: str, *statuses: str, most: int = 400) -> None:
    """Ask until a status is there; where no event is sent there is no other way."""
    waits = pair.src if side == "src" else pair.dst
    for _ in range(most):
        if waits.status() in statuses:
            return
        pair.record.pause(0.02)
    raise Hung(f"{side}: no status {statuses}")


@scenario(
    "pause-before-switchover",
    Setup(guest=BUSY),
    needs=("cap:postcopy-ram", "cap:pause-before-switchover"),
)
def pause_before_switchover(pair: Pair) -> None:
    """Switch to post-copy with pause-before-switchover."""
    pair.prepare(src={"pause-before-switchover": True})
    pair.limit()
    pair.to_precopy()
    pair.src.cmd("migrate-continue", {"state": "pre-switchover"})
    pair.src.cmd("migrate-continue", {"state": "active"})
    pair.start_postcopy()
    pair.src.wait("pre-switchover")
    pair.look()
    pair.src.cmd("migrate-continue", {"state": "device"})
    pair.src.cmd("query-migrate")
    pair.src.cmd("migrate-continue", {"state": "pre-switchover"})
    pair.src.wait("postcopy-active")
    pair.dst.wait("postcopy-active")
    pair.dst.cmd("cont")
    pair.finish()


@scenario(
    "pre-copy-pause",
    Setup(guest=IDLE),
    needs=("cap:postcopy-ram", "cap:pause-before-switchover"),
)
def pre_copy_pause(pair: Pair) -> None:
    """Complete without post-copy, with pause-before-switchover."""
    pair.prepare(src={"pause-before-switchover": True})
    pair.listen()
    pair.migrate()
    pair.src.wait("pre-switchover")
    pair.src.cmd("migrate-continue", {"state": "pre-switchover"})
    pair.finish()


@scenario("early-start", Setup(guest=BUSY))
def early_start(pair: Pair) -> None:
    """Ask for post-copy right after migrate."""
    pair.prepare()
    pair.limit()
    pair.listen()
    # At once: it may be active before a second message would be sent.
    pair.src.machine.monitor.post(
        {"execute": "migrate", "arguments": {"uri": pair.uri}, "id": "early"},
        {"execute": "migrate-start-postcopy", "id": "start"},
    )
    pair.src.wait("postcopy-active", *ENDS)
    pair.dst.wait("postcopy-active")
    pair.dst.cmd("cont")
    pair.finish()


@scenario("idle-guest", Setup(guest=IDLE, dst_is_stopped=False))
def idle_guest(pair: Pair) -> None:
    """Ask an idle guest's migration, which ends by itself, for post-copy."""
    pair.prepare()
    pair.listen()
    pair.migrate()
    pair.src.wait("active", *ENDS)
    pair.start_postcopy()
    pair.src.wait(*ENDS)
    pair.dst.wait("completed", "failed")
    pair.let_listener_end()
    pair.look()


@scenario("stopped-source", Setup(guest=BUSY, dst_is_stopped=False))
def stopped_source(pair: Pair) -> None:
    """Migrate a guest that its user has stopped, to a destination without -S."""
    pair.src.cmd("stop")
    pair.prepare()
    pair.limit()
    pair.to_precopy()
    pair.start_postcopy()
    pair.src.wait("postcopy-active", *ENDS)
    pair.finish()
    pair.look()


@scenario("stopped-source-stopped", Setup(guest=BUSY))
def stopped_source_stopped(pair: Pair) -> None:
    """Migrate a guest that its user has stopped, to a destination with -S."""
    pair.src.cmd("stop")
    pair.prepare()
    pair.limit()
    pair.to_precopy()
    pair.start_postcopy()
    pair.src.wait("postcopy-active", *ENDS)
    pair.finish()
    pair.look()


@scenario("cont-while-incoming", Setup(guest=BUSY))
def cont_while_incoming(pair: Pair) -> None:
    """Send cont to a destination, started with -S, that nothing has reached."""
    pair.prepare()
    pair.limit()
    pair.listen()
    pair.dst.cmd("cont")
    pair.migrate()
    pair.src.wait("active", "failed")
    pair.start_postcopy()
    pair.src.wait("postcopy-active", *ENDS)
    pair.dst.wait("postcopy-active")
    pair.finish()
    pair.look()


@scenario("tcp6", Setup(guest=BUSY, needs=("ipv6",)))
def tcp6(pair: Pair) -> None:
    """Migrate over IPv6."""
    pair.prepare()
    pair.limit()
    pair.to_postcopy(kind="tcp6")
    pair.finish()


@scenario("vsock", Setup(guest=BUSY, needs=("vsock",)))
def vsock(pair: Pair) -> None:
    """Migrate over vsock, to this machine itself."""
    pair.prepare()
    pair.limit()
    pair.to_postcopy(kind="vsock")
    pair.finish()


@scenario("exec", Setup(guest=BUSY))
def over_exec(pair: Pair) -> None:
    """Migrate through commands: a cat each way, between two named pipes."""
    pair.prepare()
    pair.limit()
    for name in ("there", "back"):
        os.mkfifo(pair.folder / name)
    # In the background a shell's command reads nothing unless it is given what to read.
    words = "exec:{{ cat <&3 >{0}/{1} & }} 3<&0; exec cat {0}/{2}"
    pair.dst.cmd("migrate-incoming", {"uri": words.format(pair.folder, "back", "there")})  # fmt: skip
    pair.migrate(words.format(pair.folder, "there", "back"))
    pair.src.wait("active", "failed")
    pair.start_postcopy()
    pair.src.wait("postcopy-active", *ENDS)
    pair.dst.wait("postcopy-active")
    pair.dst.cmd("cont")
    pair.finish()


_TLS = "tls-creds-psk,id=tls0,dir={folder},endpoint="
TLS = ("param:tls-creds", "build:gnutls")
WITH_TLS = Setup(
    guest=BUSY,
    oob=True,
    src_extra=("-object", f"{_TLS}client,username=qemu"),
    dst_extra=("-object", f"{_TLS}server"),
)


@scenario("tls", WITH_TLS, needs=("cap:postcopy-ram", *TLS))
def tls(pair: Pair) -> None:
    """Migrate over tcp with TLS, by a key that both know."""
    pair.prepare()
    pair.set_tls()
    pair.limit()
    pair.to_postcopy()
    pair.finish()


@scenario("rdma", Setup(guest=BUSY, needs=("rdma",)))
def rdma(pair: Pair) -> None:
    """Ask for post-copy over RDMA."""
    pair.prepare()
    pair.dst.cmd("migrate-incoming", {"uri": "rdma:0.0.0.0:4444"})
    pair.migrate("rdma:127.0.0.1:4444")
    pair.look()


@scenario(
    "vfio",
    Setup(
        guest=BUSY,
        src_extra=("-device", "vfio-pci,host={vfio}"),
        needs=("vfio",),
        places={"vfio": os.environ.get(host.VFIO, "")},
    ),
)
def vfio(pair: Pair) -> None:
    """Ask for post-copy of a guest that has a device of the host."""
    pair.prepare()
    pair.listen()
    pair.migrate()
    pair.look()


def hand_sockets(pair: Pair) -> None:
    """Give each QEMU an end of a socket pair, by name."""
    ends = socket.socketpair()
    for side, end in zip(pair.sides, ends):
        begin = len(pair.record.lines)
        side.machine.monitor.post(
            {"execute": "getfd", "arguments": {"fdname": "mig"}, "id": "fd"},
            files=(end.fileno(),),
        )
        name = side.name
        pair.record.wait(
            lambda line, name=name: line.dir == "reply" and line.side == name,  # type: ignore[misc]
            "an answer to getfd",
            since=begin,
            gone=name,
        )
        end.close()


def _over_sockets(pair: Pair) -> None:
    hand_sockets(pair)
    pair.dst.cmd("migrate-incoming", {"uri": "fd:mig"})
    pair.migrate("fd:mig")


@scenario("fd", Setup(guest=BUSY))
def over_fd(pair: Pair) -> None:
    """Migrate over file descriptors that were handed to both."""
    pair.prepare()
    pair.limit()
    _over_sockets(pair)
    pair.src.wait("active", "failed")
    pair.start_postcopy()
    pair.src.wait("postcopy-active", *ENDS)
    pair.dst.wait("postcopy-active")
    pair.dst.cmd("cont")
    pair.finish()


@scenario("fd-preempt", Setup(guest=BUSY), needs=("cap:postcopy-preempt",))
def over_fd_preempt(pair: Pair) -> None:
    """Ask for preempt over a transport that has one channel."""
    pair.prepare(both={pair.postcopy: True, "postcopy-preempt": True})
    pair.limit()
    _over_sockets(pair)
    pair.look()


@scenario(
    "channels", Setup(guest=BUSY), needs=("cap:postcopy-ram", "arg:migrate/channels")
)
def channels(pair: Pair) -> None:
    """Name the address by channels in the place of uri."""
    pair.prepare()
    pair.limit()

    def channel(path: str) -> dict[str, object]:
        return {"channels": [{"channel-type": "main", "addr": {
            "transport": "socket", "type": "unix", "path": path,
        }}]}  # fmt: skip

    where = channel(f"{pair.folder}/channel.sock")
    pair.dst.cmd("migrate-incoming", where)
    pair.src.cmd("migrate", where)
    pair.src.wait("active", "failed")
    pair.start_postcopy()
    pair.src.wait("postcopy-active", *ENDS)
    pair.dst.wait("postcopy-active")
    pair.dst.cmd("cont")
    pair.finish()


@scenario(
    "preempt",
    Setup(guest=Guest(memory_mib=64, fill_mib=24, working_mib=16, is_random=True)),
    needs=("cap:postcopy-preempt",),
)
def preempt(pair: Pair) -> None:
    """Migrate a guest that writes at random, with preempt."""
    pair.prepare(both={pair.postcopy: True, "postcopy-preempt": True})
    pair.limit(post_mib_s=8)
    pair.to_postcopy(kind="unix")
    pair.look()
    pair.finish()
    pair.look()


@scenario("release-ram", Setup(guest=BUSY), needs=("cap:release-ram",))
def release_ram(pair: Pair) -> None:
    """Migrate with release-ram, and look at the source's resident memory."""
    pair.prepare(src={"release-ram": True})
    pair.limit()
    pair.note_resident(pair.src)
    pair.to_postcopy()
    pair.finish()
    pair.note_resident(pair.src)


@scenario("multifd", Setup(guest=BUSY), needs=("cap:postcopy-ram", "cap:multifd"))
def multifd(pair: Pair) -> None:
    """Migrate with multifd, where it is accepted together with post-copy."""
    pair.prepare(both={pair.postcopy: True, "multifd": True})
    pair.limit()
    pair.to_precopy()
    pair.start_postcopy()
    pair.src.wait("postcopy-active", *ENDS)
    pair.dst.wait("postcopy-active", "failed")
    pair.dst.cmd("cont")
    pair.finish()


@scenario("onward", Setup(guest=BUSY))
def onward(pair: Pair) -> None:
    """Migrate, and from the destination on to a third QEMU."""
    pair.prepare()
    pair.limit()
    pair.to_postcopy()
    pair.finish()
    third = pair.start_destination("next")
    third.machine.monitor.start()
    third.capabilities({"events": True, pair.postcopy: True})
    uri = pair.listen("unix", side=third)
    pair.dst.parameters({"max-bandwidth": 8 << 20, "max-postcopy-bandwidth": 4 << 20})
    begin = pair.dst.cmd("migrate", {"uri": uri})
    pair.dst.wait("active", after=begin.cmd)
    pair.dst.cmd("migrate-start-postcopy")
    pair.dst.wait("postcopy-active", *ENDS, after=begin.cmd)
    third.wait("postcopy-active", "failed")
    third.cmd("cont")
    pair.dst.parameters({"max-postcopy-bandwidth": 0})
    pair.dst.wait(*ENDS, after=begin.cmd)
    third.wait("completed", "failed")
    pair.verify_memory(third)


@scenario(
    "bandwidth",
    Setup(guest=Guest(memory_mib=48, fill_mib=24, working_mib=1, delay=3000)),
    needs=("cap:postcopy-ram", "param:max-postcopy-bandwidth"),
)
def bandwidth(pair: Pair) -> None:
    """Cap post-copy at 8 MiB/s and watch it for a second."""
    pair.prepare()
    # Slow before the switch: there has to be enough left to be watched, also where it comes late.
    pair.limit(pre_mib_s=2, post_mib_s=8)
    pair.to_postcopy()
    pair.src.cmd("query-migrate")
    for _ in range(10):
        pair.record.pause(0.1)
        pair.src.cmd("query-migrate")
    pair.finish()
