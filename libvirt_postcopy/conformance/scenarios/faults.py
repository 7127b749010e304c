"""Scenarios in which the link or a QEMU is lost, and recovery."""

from __future__ import annotations

import socket

from libvirt_postcopy.conformance.guest import Guest
from libvirt_postcopy.conformance.pair import ENDS, STEP_S, Pair, Setup
from libvirt_postcopy.conformance.scenarios.base import scenario
from libvirt_postcopy.conformance.scenarios.memory import HUGE, memory_of
from libvirt_postcopy.conformance.scenarios.switch import TLS, WITH_TLS, hand_sockets

BUSY = Guest(memory_mib=48, fill_mib=24, working_mib=8, delay=300)
RECOVERY = ("cap:postcopy-ram", "cmd:migrate-recover")
OOB = Setup(guest=BUSY, oob=True)


def _broken(pair: Pair, **more: bool) -> None:
    """Go to post-copy and cut the link."""
    pair.prepare(both={pair.postcopy: True, **more})
    pair.limit(post_mib_s=2)
    pair.to_postcopy(linked=True)
    pair.cut()
    pair.wait_broken()


@scenario("recover", OOB, needs=RECOVERY, quick=True)
def recover(pair: Pair) -> None:
    """Cut the link in post-copy, recover over another transport, and verify the memory."""
    _broken(pair)
    pair.look()
    pair.src.cmd("migrate-pause")
    pair.src.cmd("cont")
    pair.start_postcopy()
    pair.migrate()
    paused = pair.src.cmd("query-migrate")
    pair.recover()
    pair.src.wait("postcopy-active", *ENDS, after=paused.cmd)
    pair.finish(after=paused.cmd)
    pair.look()


@scenario("recover-bad-address", OOB, needs=RECOVERY, quick=True)
def recover_bad_address(pair: Pair) -> None:
    """Give the destination an address where it cannot listen, then a good one."""
    _broken(pair)
    pair.dst.cmd("migrate-recover", {"uri": "unix:/nonexistent/folder/again.sock"}, oob=True)  # fmt: skip
    paused = pair.src.cmd("query-migrate")
    if pair.recover().name == "migrate":
        pair.src.wait("postcopy-active", *ENDS, after=paused.cmd)
        pair.finish(after=paused.cmd)


@scenario("resume-to-nobody", OOB, needs=RECOVERY, quick=True)
def resume_to_nobody(pair: Pair) -> None:
    """Resume to an address where nobody listens, then properly."""
    _broken(pair)
    paused = pair.src.cmd("query-migrate")
    pair.migrate(f"unix:{pair.folder}/nobody.sock", resume=True)
    if pair.facts.has("status:postcopy-recover-setup"):
        pair.src.wait("postcopy-paused", after=paused.cmd)
    pair.look()
    again = pair.src.cmd("query-migrate")
    pair.recover()
    pair.src.wait("postcopy-active", *ENDS, after=again.cmd)
    pair.finish(after=again.cmd)
    pair.look()


@scenario("recover-thrice", OOB, needs=RECOVERY)
def recover_thrice(pair: Pair) -> None:
    """Break and recover three times, by turns over unix and tcp."""
    _broken(pair)
    for turn, kind in enumerate(("unix", "tcp", "unix"), 1):
        begin = pair.src.cmd("query-migrate").cmd
        pair.recover(kind, f"turn{turn}")
        pair.src.wait("postcopy-active", *ENDS, after=begin)
        pair.dst.wait("postcopy-active", after=begin)
        if turn < 3:
            pair.src.cmd("migrate-pause")
            pair.src.wait("postcopy-paused", after=begin)
            pair.dst.wait("postcopy-paused", after=begin)
    pair.finish()


@scenario(
    "recover-second-failure",
    OOB,
    needs=(*RECOVERY, "cmd:migrate-pause"),
)
def recover_second_failure(pair: Pair) -> None:
    """Break the link again while the two sides shake hands, then recover."""
    _broken(pair)
    uri = pair.address("unix", "stalled")
    pair.dst.cmd("migrate-recover", {"uri": uri}, oob=True)
    first = pair.src.cmd("query-migrate").cmd
    pair.uri = uri
    through = pair.through_link()
    assert pair.link is not None
    pair.link.stall(answers_only=True)
    pair.resume(through)
    pair.src.wait("postcopy-recover", "postcopy-paused", after=first)
    pair.dst.wait("postcopy-recover", after=first)
    pair.src.cmd("migrate-pause")
    pair.cut()
    pair.src.wait("postcopy-paused", after=first)
    pair.dst.wait("postcopy-paused", "postcopy-recover", after=first)
    if pair.dst.status() != "postcopy-paused":
        pair.dst.cmd("migrate-pause", oob=True)
        pair.dst.wait("postcopy-paused", after=first)
    again = pair.src.cmd("query-migrate").cmd
    pair.recover("unix", "third")
    pair.src.wait("postcopy-active", *ENDS, after=again)
    pair.finish(after=again)


@scenario("recover-preempt", OOB, needs=("cap:postcopy-preempt",))
def recover_preempt(pair: Pair) -> None:
    """Recover with preempt."""
    _broken(pair, **{"postcopy-preempt": True})
    begin = pair.src.cmd("query-migrate").cmd
    pair.recover()
    pair.src.wait("postcopy-active", *ENDS, after=begin)
    pair.finish(after=begin)


@scenario("recover-fd-preempt", OOB, needs=("cap:postcopy-preempt",))
def recover_fd_preempt(pair: Pair) -> None:
    """Ask for a recovery with preempt over a transport that has one channel, then recover."""
    _broken(pair, **{"postcopy-preempt": True})
    hand_sockets(pair)
    pair.dst.cmd("migrate-recover", {"uri": "fd:mig"}, oob=True)
    pair.resume("fd:mig")
    pair.look()
    begin = pair.src.cmd("query-migrate").cmd
    pair.recover()
    pair.src.wait("postcopy-active", *ENDS, after=begin)
    pair.finish(after=begin)


@scenario("recover-tls", WITH_TLS, needs=(*RECOVERY, *TLS))
def recover_tls(pair: Pair) -> None:
    """Recover with TLS."""
    pair.prepare()
    pair.set_tls()
    pair.limit(post_mib_s=2)
    pair.to_postcopy(linked=True)
    pair.cut()
    pair.wait_broken()
    begin = pair.src.cmd("query-migrate").cmd
    pair.recover()
    pair.src.wait("postcopy-active", *ENDS, after=begin)
    pair.finish(after=begin)


@scenario("recover-release-ram", OOB, needs=("cap:release-ram", *RECOVERY))
def recover_release_ram(pair: Pair) -> None:
    """Ask for a resume although the source has freed what it sent."""
    pair.prepare(src={"release-ram": True})
    pair.limit(post_mib_s=2)
    pair.to_postcopy(linked=True)
    pair.cut()
    pair.wait_broken()
    pair.recover()
    pair.look()


@scenario("recover-slow", OOB, needs=RECOVERY)
def recover_slow(pair: Pair) -> None:
    """Recover with a post-copy bandwidth of 4096 bytes a second, then without limit."""
    pair.prepare()
    pair.limit(post_mib_s=2)
    pair.to_postcopy(linked=True)
    pair.src.parameters({"max-postcopy-bandwidth": 4096})
    pair.cut()
    pair.wait_broken()
    begin = pair.src.cmd("query-migrate").cmd
    pair.recover()
    pair.src.wait("postcopy-active", *ENDS, after=begin)
    pair.finish(after=begin)


@scenario("pause", OOB, needs=("cap:postcopy-ram", "cmd:migrate-pause"))
def pause(pair: Pair) -> None:
    """Pause post-copy by command, and recover."""
    pair.prepare()
    pair.limit(post_mib_s=2)
    pair.to_postcopy()
    pair.src.cmd("migrate-pause")
    pair.wait_broken()
    begin = pair.src.cmd("query-migrate").cmd
    pair.recover()
    pair.src.wait("postcopy-active", *ENDS, after=begin)
    pair.finish(after=begin)


@scenario("yank", OOB, needs=("cap:postcopy-ram", "cmd:yank"))
def yank(pair: Pair) -> None:
    """Yank the migration in post-copy, and recover."""
    pair.prepare()
    pair.limit(post_mib_s=2)
    pair.to_postcopy()
    pair.src.cmd("query-yank")
    pair.src.cmd("yank", {"instances": [{"type": "migration"}]})
    pair.wait_broken()
    pair.look()
    begin = pair.src.cmd("query-migrate").cmd
    pair.recover()
    pair.src.wait("postcopy-active", *ENDS, after=begin)
    pair.finish(after=begin)


@scenario(
    "no-tls-creds",
    OOB,
    needs=("cap:postcopy-ram", "cmd:migrate-recover", "param:tls-creds"),
)
def no_tls_creds(pair: Pair) -> None:
    """Name TLS credentials that do not exist, break and resume."""
    pair.prepare()
    pair.limit(post_mib_s=2)
    pair.to_postcopy(linked=True)
    pair.src.parameters({"tls-creds": "nothing"})
    pair.cut()
    pair.wait_broken()
    begin = pair.src.cmd("query-migrate").cmd
    pair.recover()
    # Before 9.1 a source that cannot connect again says nothing.
    is_said = pair.facts.has("status:postcopy-recover-setup")
    pair.src.settle_or_end("postcopy-paused", after=begin, timeout_s=STEP_S if is_said else 1)  # fmt: skip
    pair.look()
    if pair.src.status() == "postcopy-paused":
        pair.src.parameters({"tls-creds": ""})
        begin = pair.src.cmd("query-migrate").cmd
        pair.recover("unix", "plain")
        pair.src.wait("postcopy-active", *ENDS, after=begin)
        pair.finish(after=begin)


@scenario("kill-destination", Setup(guest=BUSY))
def kill_destination(pair: Pair) -> None:
    """Kill the destination in post-copy."""
    pair.prepare()
    pair.limit()
    pair.to_postcopy()
    pair.dst.machine.kill()
    pair.src.wait("postcopy-paused", "failed")
    pair.src.cmd("query-migrate")
    pair.src.cmd("query-status")


@scenario("kill-source", Setup(guest=BUSY, oob=True))
def kill_source(pair: Pair) -> None:
    """Kill the source in post-copy, and read a page that has arrived before."""
    pair.prepare()
    pair.limit()
    pair.to_postcopy()
    pair.read_page(pair.setup.guest.fill_pages - 1)
    pair.src.machine.kill()
    pair.dst.wait("postcopy-paused", "failed")
    pair.read_page(pair.setup.guest.fill_pages - 1)
    pair.dst.cmd("query-migrate")
    pair.dst.cmd("query-status")


@scenario("quit-source", Setup(guest=BUSY))
def quit_source(pair: Pair) -> None:
    """Let the source quit in post-copy."""
    pair.prepare()
    pair.limit()
    pair.to_postcopy()
    pair.src.cmd("quit")
    pair.dst.wait("postcopy-paused", "failed")
    pair.dst.cmd("query-migrate")
    pair.src.wait_ended()


def _cut_in_device(pair: Pair) -> None:
    """Hold the destination's answers, so that the source cannot leave the switch, and cut."""
    pair.prepare()
    pair.limit()
    pair.to_precopy(linked=True)
    assert pair.link is not None
    pair.link.stall(answers_only=True)
    pair.start_postcopy()
    if not pair.setup.dst_is_stopped:
        pair.dst.wait("RESUME")
    else:
        pair.dst.wait("postcopy-active")
        pair.dst.wait_run_state("paused")  # it has loaded the devices
    # Since 10.2 the source stays in postcopy-device; before, it believes that all is well.
    pair.src.wait("postcopy-device", "postcopy-active")
    pair.src.cmd("query-migrate")
    pair.cut()
    pair.src.wait("failed", "postcopy-paused")
    pair.dst.wait("postcopy-paused", "failed")
    pair.look()


@scenario(
    "cut-in-switch", Setup(guest=BUSY, dst_is_stopped=False), needs=RECOVERY, quick=True
)
def cut_in_switch(pair: Pair) -> None:
    """Cut when the destination runs and the source does not know; no -S there."""
    _cut_in_device(pair)


@scenario("cut-in-switch-stopped", Setup(guest=BUSY), needs=RECOVERY, quick=True)
def cut_in_switch_stopped(pair: Pair) -> None:
    """Cut when the destination has the devices and the source does not know; -S there."""
    _cut_in_device(pair)


@scenario("cut-in-precopy", Setup(guest=BUSY))
def cut_in_precopy(pair: Pair) -> None:
    """Cut while the guest still runs on the source, then ask for post-copy."""
    pair.prepare()
    pair.limit(post_mib_s=None)
    pair.to_precopy(linked=True)
    pair.cut()
    pair.src.wait("failed")
    pair.start_postcopy()
    pair.src.cmd("migrate_cancel")
    pair.src.cmd("query-migrate")
    pair.src.cmd("query-status")


@scenario(
    "device-state-rejected",
    Setup(
        guest=BUSY,
        src_extra=("-smp", "2"),
        dst_extra=("-smp", "1"),
        dst_is_stopped=False,
    ),
)
def device_state_rejected(pair: Pair) -> None:
    """Switch to a destination that cannot load the state of the devices."""
    pair.prepare()
    pair.limit()
    pair.to_precopy()
    pair.start_postcopy()
    pair.src.wait("postcopy-paused", "failed")
    pair.src.cmd("query-migrate")
    pair.src.cmd("query-status")


@scenario("mismatch-source", Setup(guest=BUSY))
def mismatch_source(pair: Pair) -> None:
    """Set post-copy on the source alone."""
    pair.prepare(src={pair.postcopy: True}, both={})
    pair.limit(post_mib_s=None)
    pair.to_precopy()
    pair.src.wait(*ENDS)
    pair.src.cmd("query-migrate")
    pair.src.cmd("query-status")


@scenario("mismatch-destination", Setup(guest=BUSY))
def mismatch_destination(pair: Pair) -> None:
    """Set post-copy on the destination alone and let pre-copy end."""
    pair.prepare(dst={pair.postcopy: True}, both={})
    pair.to_precopy()
    pair.start_postcopy()
    pair.src.cmd("stop")
    pair.src.wait(*ENDS)
    pair.dst.wait("completed", "failed")


@scenario(
    "mismatch-preempt-source",
    Setup(guest=BUSY, dst_is_stopped=False),
    needs=("cap:postcopy-preempt",),
)
def mismatch_preempt_source(pair: Pair) -> None:
    """Set preempt on the source alone."""
    pair.prepare(src={"postcopy-preempt": True})
    pair.limit()
    pair.to_precopy(kind="unix")
    pair.start_postcopy()
    pair.src.wait("postcopy-active", "postcopy-paused", *ENDS)
    pair.release()
    pair.src.wait("postcopy-paused", *ENDS)
    pair.look()


@scenario(
    "mismatch-preempt-destination",
    Setup(guest=BUSY, dst_is_stopped=False),
    needs=("cap:postcopy-preempt",),
)
def mismatch_preempt_destination(pair: Pair) -> None:
    """Set preempt on the destination alone."""
    pair.prepare(dst={"postcopy-preempt": True})
    pair.limit()
    pair.listen("unix")
    pair.migrate()
    pair.src.wait("active", "failed")
    pair.start_postcopy()
    pair.src.wait("postcopy-active", "postcopy-paused", *ENDS)
    pair.release()
    pair.src.wait("postcopy-paused", *ENDS, timeout_s=5)
    pair.look()


def _fail_in_precopy(pair: Pair) -> None:
    pair.prepare()
    pair.limit()
    pair.to_precopy()
    pair.src.wait("failed")
    pair.src.cmd("query-migrate")
    pair.src.cmd("query-status")


@scenario(
    "mismatch-ram",
    Setup(guest=BUSY, dst_guest=Guest(memory_mib=32, fill_mib=8, working_mib=8)),
)
def mismatch_ram(pair: Pair) -> None:
    """Migrate to a destination that has less RAM."""
    _fail_in_precopy(pair)


@scenario("mismatch-machine", Setup(guest=BUSY, dst_extra=("-machine", "{older}")))
def mismatch_machine(pair: Pair) -> None:
    """Migrate to a destination whose machine type is an older one."""
    _fail_in_precopy(pair)


@scenario(
    "mismatch-page-size",
    Setup(guest=BUSY, src_memory=memory_of("memory-backend-ram"), dst_memory=memory_of(HUGE), needs=("hugepages",)),
)  # fmt: skip
def mismatch_page_size(pair: Pair) -> None:
    """Migrate to a destination whose memory is huge pages."""
    _fail_in_precopy(pair)


@scenario(
    "exit-on-error",
    Setup(guest=BUSY),
    needs=("cap:postcopy-ram", "arg:migrate-incoming/exit-on-error"),
)
def exit_on_error(pair: Pair) -> None:
    """Break pre-copy towards a destination that shall not exit on an error."""
    pair.prepare()
    pair.limit()
    uri = pair.address("unix")
    pair.dst.cmd("migrate-incoming", {"uri": uri, "exit-on-error": False})
    pair.uri = uri
    pair.migrate(pair.through_link())
    pair.src.wait("active", "failed")
    pair.dst.wait("active", "failed")
    pair.cut()
    pair.src.wait("failed")
    pair.dst.wait("failed")
    pair.dst.cmd("query-migrate")
    pair.dst.cmd("query-status")


@scenario("paused-long", OOB, needs=RECOVERY)
def paused_long(pair: Pair) -> None:
    """Leave post-copy broken for three seconds and ask the destination all the time, then recover."""
    pair.prepare()
    pair.limit(post_mib_s=2)
    pair.to_postcopy(linked=True, resume=False)
    pair.dst.wait_run_state("paused")
    assert pair.link is not None
    pair.link.stall()  # so that pages of the first sweep are missing, however late it is cut
    pair.dst.cmd("cont")
    pair.dst.wait("RESUME")
    pair.cut()
    pair.wait_broken()
    for _ in range(15):
        pair.record.pause(0.2)
        pair.dst.cmd("query-status")
    begin = pair.src.cmd("query-migrate").cmd
    pair.recover()
    pair.src.wait("postcopy-active", *ENDS, after=begin)
    pair.finish(after=begin)


@scenario(
    "read-ahead",
    Setup(guest=Guest(memory_mib=48, fill_mib=24, working_mib=1)),
    needs=("cap:postcopy-ram", "param:max-postcopy-bandwidth"),
)
def read_ahead(pair: Pair) -> None:
    """Read, from outside, a page on the destination that has not been sent yet."""
    pair.prepare()
    pair.limit(pre_mib_s=1, post_mib_s=1)
    pair.to_postcopy()
    pair.read_page(pair.setup.guest.fill_pages - 1)
    pair.finish()


@scenario("recover-empty-connection", OOB, needs=RECOVERY)
def recover_empty_connection(pair: Pair) -> None:
    """Connect to where the destination waits for its recovery, send nothing, close; then recover."""
    _broken(pair)
    uri = pair.address("unix", "probed")
    pair.dst.cmd("migrate-recover", {"uri": uri}, oob=True)
    begin = pair.src.cmd("query-migrate").cmd
    pair.record.add("dst", "note", "a connection without data")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(uri.partition(":")[2])
    pair.dst.settle_or_end("postcopy-paused", after=begin, timeout_s=STEP_S)
    pair.dst.cmd("query-migrate")
    pair.recover("unix", "proper")
    pair.src.wait("postcopy-active", *ENDS, after=begin)
    pair.finish(after=begin)
