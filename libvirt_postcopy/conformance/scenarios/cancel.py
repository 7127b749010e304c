"""Scenarios in which a migration is cancelled, or abused."""

from __future__ import annotations

import random
import time

from libvirt_postcopy.conformance.guest import Guest
from libvirt_postcopy.conformance.pair import ENDS, Pair, Setup
from libvirt_postcopy.conformance.scenarios.base import scenario

BUSY = Guest(memory_mib=48, fill_mib=24, working_mib=8, delay=300)


@scenario("cancel-precopy", Setup(guest=BUSY), quick=True)
def cancel_precopy(pair: Pair) -> None:
    """Cancel while the guest runs on the source, then migrate to another destination."""
    pair.prepare()
    pair.limit(post_mib_s=None)
    pair.to_precopy()
    pair.src.cmd("migrate_cancel")
    pair.src.wait("cancelled", "failed")
    cancelled = pair.src.cmd("query-status").cmd
    pair.dst.wait_ended()
    pair.src.cmd("migrate_cancel")
    third = pair.start_destination("next")
    third.machine.monitor.start()
    third.capabilities({"events": True, pair.postcopy: True})
    pair.listen("unix", side=third)
    pair.migrate()
    pair.src.wait("active", "failed", after=cancelled)
    pair.start_postcopy()
    pair.src.wait("postcopy-active", *ENDS, after=cancelled)
    third.wait("postcopy-active", "failed")
    third.cmd("cont")
    pair.src.wait(*ENDS, after=cancelled)
    third.wait("completed", "failed")
    pair.verify_memory(third)


@scenario(
    "cancel-pre-switchover",
    Setup(guest=Guest(memory_mib=48, fill_mib=8, working_mib=0)),
    needs=("cap:pause-before-switchover",),
)
def cancel_pre_switchover(pair: Pair) -> None:
    """Cancel a pre-copy that waits before its switchover."""
    pair.prepare(src={"pause-before-switchover": True})
    pair.listen()
    pair.migrate()
    pair.src.wait("pre-switchover")
    pair.src.cmd("migrate_cancel")
    pair.src.wait("cancelled", "failed")
    pair.src.wait_run_state("running")  # RESUME may come after it


@scenario(
    "cancel-pre-switchover-postcopy",
    Setup(guest=BUSY),
    needs=("cap:postcopy-ram", "cap:pause-before-switchover"),
)
def cancel_pre_switchover_postcopy(pair: Pair) -> None:
    """Cancel a post-copy that waits before its switch."""
    pair.prepare(src={"pause-before-switchover": True})
    pair.limit()
    pair.to_precopy()
    pair.start_postcopy()
    pair.src.wait("pre-switchover")
    pair.src.cmd("migrate_cancel")
    pair.src.wait("cancelled", "failed")
    pair.src.settle("running")  # RESUME, where there is one, comes after it


@scenario("cancel-postcopy", Setup(guest=BUSY), quick=True)
def cancel_postcopy(pair: Pair) -> None:
    """Cancel in post-copy, which loses the guest where it is accepted."""
    pair.prepare()
    pair.limit()
    pair.to_postcopy()
    answer = pair.src.cmd("migrate_cancel")
    if answer.is_ok:
        pair.src.wait(*ENDS, "postcopy-paused")
        pair.dst.wait("postcopy-paused", "failed")
        pair.look()
    else:
        pair.finish()


@scenario(
    "cancel-paused",
    Setup(guest=BUSY, oob=True),
    needs=("cap:postcopy-ram", "cmd:migrate-recover"),
)
def cancel_paused(pair: Pair) -> None:
    """Cancel when post-copy is broken."""
    pair.prepare()
    pair.limit(post_mib_s=2)
    pair.to_postcopy(linked=True)
    pair.cut()
    pair.wait_broken()
    answer = pair.src.cmd("migrate_cancel")
    pair.src.cmd("query-migrate")
    if not answer.is_ok:
        begin = pair.src.cmd("query-migrate").cmd
        pair.recover()
        pair.src.wait("postcopy-active", *ENDS, after=begin)
        pair.finish(after=begin)


@scenario(
    "random-cancels", Setup(guest=Guest(memory_mib=16, fill_mib=8, working_mib=4))
)
def random_cancels(pair: Pair) -> None:
    """Cancel a hundred migrations, each after another time; as many as a minute allows on a slow machine."""
    pair.src.capabilities({"events": True})
    deadline = time.monotonic() + 60
    chance = random.Random(100)
    third = None
    for turn in range(100):
        if time.monotonic() > deadline:
            break
        uri = f"unix:{pair.folder}/turn{turn}.sock"
        side = pair.dst if third is None else third
        if not side.machine.is_alive or turn:
            side.machine.end()
            third = side = pair.start_destination(f"dst{turn + 1}")
            side.machine.monitor.start()
        side.capabilities({"events": True})
        side.cmd("migrate-incoming", {"uri": uri})
        pair.src.parameters({"max-bandwidth": 8 << 20})
        begin = pair.src.cmd("migrate", {"uri": uri}).cmd
        pair.record.pause(chance.random() * 0.1)
        pair.src.cmd("migrate_cancel")
        end = pair.src.wait(*ENDS, after=begin)
        if end.status == "completed":
            pair.src.cmd("query-status")
            break
        pair.src.wait_run_state("running")


@scenario("migrate-on-destination", Setup(guest=BUSY))
def migrate_on_destination(pair: Pair) -> None:
    """Send the destination a migrate while post-copy is under way."""
    pair.prepare()
    pair.limit()
    pair.to_postcopy()
    pair.dst.cmd("query-migrate")
    pair.dst.cmd("migrate", {"uri": f"unix:{pair.folder}/elsewhere.sock"})
    pair.dst.cmd("query-migrate")
    pair.finish()


@scenario("abuse-destination", Setup(guest=BUSY))
def abuse_destination(pair: Pair) -> None:
    """Stop the destination, let it go on, and plug a device, while post-copy is under way."""
    pair.prepare()
    pair.limit()
    pair.to_postcopy()
    for name, arguments in (
        ("stop", {}),
        ("cont", {}),
        ("device_add", {"driver": "no-such-device", "id": "x"}),
        ("query-status", {}),
        ("stop", {}),
        ("cont", {}),
    ):
        pair.dst.cmd(name, arguments)
    pair.finish()


@scenario("reset-destination", Setup(guest=BUSY))
def reset_destination(pair: Pair) -> None:
    """Reset the guest on the destination while post-copy is under way."""
    pair.prepare()
    pair.limit()
    pair.to_postcopy()
    pair.dst.cmd("system_reset")
    again = pair.dst.wait("RESET")
    pair.src.parameters({"max-postcopy-bandwidth": 0})
    pair.await_guest("dst", after=again)  # what its memory has to be is known again
    pair.finish()


@scenario(
    "stop-cont-blocktime",
    Setup(guest=BUSY),
    needs=("cap:postcopy-blocktime",),
    accel="kvm",
)
def stop_cont_blocktime(pair: Pair) -> None:
    """Stop and continue the destination often in post-copy, with blocktime."""
    pair.prepare(dst={"postcopy-blocktime": True})
    pair.limit(post_mib_s=1)
    pair.to_postcopy()
    for _ in range(300):
        pair.dst.cmd("stop")
        pair.dst.cmd("cont")
    pair.finish()


@scenario(
    "blocker",
    Setup(
        guest=BUSY,
        src_extra=(
            "-device",
            "ivshmem-plain,memdev=shared,master=off",
            "-object",
            "memory-backend-ram,id=shared,size=1M,share=on",
        ),
    ),
)
def blocker(pair: Pair) -> None:
    """Migrate a guest with a device that cannot be migrated."""
    pair.src.cmd("query-migrate")
    pair.prepare()
    pair.listen()
    pair.migrate()
    pair.look()
