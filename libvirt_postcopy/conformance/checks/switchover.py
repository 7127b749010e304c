"""The switch to post-copy: what is refused, what is announced, in which order."""

from __future__ import annotations

from libvirt_postcopy.conformance.checks.reading import (
    alive,
    capability,
    completed,
    first_of,
    granted,
    has_status,
    order,
    ram,
    reached,
    refused,
    replies,
    run_states,
    switch,
)
from libvirt_postcopy.conformance.evidence import Conversation, Exchange, Line
from libvirt_postcopy.conformance.registry import (
    Level,
    check,
    fail,
    require,
    unseen,
)

__all__: list[str] = []

_START = "qapi/migration.json migrate-start-postcopy"
_STATUS = "qapi/migration.json MigrationStatus"
_ENDS = ("completed", "failed", "cancelled")


def _starts(seen: Conversation, side: str = "src") -> list[Exchange]:
    return [e for e in seen.asked("migrate-start-postcopy", side) if e.reply is not None]  # fmt: skip


def _before_migrate(seen: Conversation, side: str, *, is_set: bool) -> list[Exchange]:
    """Asked for before any migration, with or without the capability."""
    migrations = seen.asked("migrate", side)
    return [
        each
        for each in _starts(seen, side)
        if (not migrations or seen.is_before(each.cmd, migrations[0].cmd))
        and capability(seen, side, "postcopy-ram", each.cmd) == is_set
    ]


@check("start/without-capability", alias="E1", source=_START, scenario="refusals")
def without_the_capability(seen: Conversation) -> None:
    """migrate-start-postcopy without the capability is refused."""
    refused(first_of(_before_migrate(seen, "src", is_set=False), "it was not asked for without"), "Enable postcopy with migrate_set_capability before the start of migration")  # fmt: skip


@check("start/before-migrate", alias="E2", source=_START, scenario="refusals")
def before_migrate(seen: Conversation) -> None:
    """migrate-start-postcopy before migrate is refused."""
    refused(first_of(_before_migrate(seen, "src", is_set=True), "it was not asked for before migrate"), "Postcopy must be started after migration has been started")  # fmt: skip


@check("start/twice", alias="E3", source=_START)
def twice(seen: Conversation) -> None:
    """migrate-start-postcopy in post-copy succeeds and does nothing: there is one switch."""
    begin = switch(seen)
    later = [
        each
        for each in _starts(seen)
        if seen.is_before(begin, each.cmd)
        and not seen.first("src", "completed", "postcopy-paused", after=begin)
        or _is_between(seen, begin, each.cmd)
    ]
    granted(first_of(later, "it was asked for once"))
    end = seen.first("src", *_ENDS, "postcopy-paused", after=begin)
    again = [
        line
        for line in seen.events("MIGRATION", "src")
        if line.status == "postcopy-active" and line is not begin and (end is None or seen.is_before(line, end))  # fmt: skip
    ]
    require(not again, "one switch", f"{1 + len(again)}", begin, *again)


def _is_between(seen: Conversation, begin: Line, cmd: Line) -> bool:
    end = seen.first("src", *_ENDS, "postcopy-paused", after=begin)
    return seen.is_before(begin, cmd) and (end is None or seen.is_before(cmd, end))


@check(
    "start/after-the-end",
    alias="E4",
    source=_START,
    scenario=("post-copy", "recover", "cut-in-precopy"),
)
def after_the_end(seen: Conversation) -> None:
    """migrate-start-postcopy after a migration completed, failed or was paused succeeds and has no effect."""
    end = seen.first("src", *_ENDS, "postcopy-paused")
    if end is None:
        unseen("the migration had no end")
    later = [each for each in _starts(seen) if seen.is_before(end, each.cmd)]
    asked = first_of(later, "it was not asked for afterwards")
    granted(asked)
    resumed = seen.asked("migrate", "src", after=asked.cmd)
    stray = [
        line
        for line in seen.events(side="src")
        if seen.is_before(asked.cmd, line) and (not resumed or seen.is_before(line, resumed[0].cmd))  # fmt: skip
    ]
    require(not stray, "no event follows", f"{stray[0].status or stray[0].event}" if stray else "", asked, *stray)  # fmt: skip


@check("start/on-destination", alias="E5", source=_START, scenario="refusals")
def on_the_destination(seen: Conversation) -> None:
    """migrate-start-postcopy on a destination is refused."""
    asked = first_of(_starts(seen, "dst"), "it was not sent to the destination")
    refused(asked, "Enable postcopy with migrate_set_capability before the start of migration", "Postcopy must be started after migration has been started")  # fmt: skip


@check("start/right-after-migrate", alias="E6", source=_START, scenario="early-start")
def right_after_migrate(seen: Conversation) -> None:
    """migrate-start-postcopy right after migrate is remembered, and the switch comes at the first chance."""
    active = seen.first("src", "active")
    early = [e for e in _starts(seen) if e.is_ok and active is not None and seen.is_before(e.cmd, active)]  # fmt: skip
    asked = first_of(early, "it was not sent before the migration was active")
    begin = reached(seen, "src", "postcopy-active")
    require(begin.t - asked.cmd.t < 10, "the switch within 10 s", f"after {begin.t - asked.cmd.t:.1f} s", asked, begin)  # fmt: skip
    completed(seen)


@check("start/converged", alias="E7", source=_START, scenario="idle-guest")
def converged(seen: Conversation) -> None:
    """migrate-start-postcopy that comes as pre-copy ends is accepted; the migration completes either way."""
    active = seen.first("src", "active")
    asked = [
        e for e in _starts(seen) if active is not None and seen.is_before(active, e.cmd)
    ]
    if seen.scenario != "idle-guest":
        unseen("the guest was not idle")
    granted(first_of(asked, "it was not asked for"))
    completed(seen)


@check(
    "status/source-order",
    alias="E8",
    source=_STATUS,
    scenario=("post-copy", "post-copy-autostart", "post-copy-stopped", "preempt", "fd"),
)
def source_order(seen: Conversation) -> None:
    """The source announces setup, active, the switch, completed; STOP follows postcopy-active up to 9.2 and precedes device and postcopy-active from 10.0 on."""
    begin = switch(seen)
    _no_pause_and_no_user_stop(seen)
    if seen.first("src", *_ENDS) is None:
        unseen("the migration had no end")
    if has_status(seen, "postcopy-device", "10.2"):
        order(seen, "src", "setup", "active", "STOP", "device", "postcopy-device", "postcopy-active")  # fmt: skip
    elif seen.version >= (10, 0):
        order(seen, "src", "setup", "active", "STOP", "device", "postcopy-active")
    else:
        order(seen, "src", "setup", "active", "postcopy-active", "STOP")
    end = seen.first("src", *_ENDS, after=begin)
    require(end is not None and end.status == "completed", "completed last", end.status if end else "no end", begin, end)  # fmt: skip


def _no_pause_and_no_user_stop(seen: Conversation) -> None:
    if seen.first("src", "pre-switchover", "postcopy-paused"):
        unseen("it was paused")
    if seen.asked("stop", "src") or seen.asked("migrate_cancel", "src"):
        begin = switch(seen)
        if any(seen.is_before(e.cmd, begin) for e in (*seen.asked("stop", "src"), *seen.asked("migrate_cancel", "src"))):  # fmt: skip
            unseen("the guest was stopped, or the migration cancelled, by hand")


@check(
    "status/destination-order",
    alias="E9",
    source=_STATUS,
    since="2.6",
    scenario=("post-copy", "post-copy-autostart", "preempt", "fd"),
)
def destination_order(seen: Conversation) -> None:
    """The destination announces setup, active, postcopy-active before RESUME, and completed at any time after postcopy-active."""
    switch(seen)
    if seen.first("dst", "RESUME") is None or seen.first("dst", "postcopy-paused"):
        unseen("the guest never ran there, or the link broke")
    order(seen, "dst", "setup", "active", "postcopy-active", "RESUME")
    if seen.first("src", "completed"):
        order(seen, "dst", "postcopy-active", "completed")


@check(
    "pause/order",
    alias="E10",
    source="qapi/migration.json MigrationCapability pause-before-switchover",
    since="2.11",
    scenario="pause-before-switchover",
    needs=("cap:pause-before-switchover",),
)
def pause_order(seen: Conversation) -> None:
    """With pause-before-switchover the guest stops, pre-switchover is announced, and the switch waits for migrate-continue; device follows from 10.0 on only."""
    waits = seen.first("src", "pre-switchover")
    if waits is None or seen.first("src", "postcopy-active") is None or seen.header.get("format") == 1:  # fmt: skip
        unseen("post-copy was not switched to with pause-before-switchover")
    order(seen, "src", "setup", "active", "STOP", "pre-switchover", "postcopy-active")
    goes = [e for e in seen.asked("migrate-continue", "src") if e.is_ok and seen.is_before(waits, e.cmd)]  # fmt: skip
    require(goes, "migrate-continue before the switch", "none", waits)
    require(seen.is_before(goes[0].cmd, switch(seen)), "the switch after migrate-continue", "before it", goes[0], switch(seen))  # fmt: skip
    device = seen.first("src", "device")
    require((device is not None) == (seen.version >= (10, 0)), "device from 10.0 on only", "device" if device else "no device", device)  # fmt: skip


@check(
    "pause/pre-copy-order",
    alias="E10",
    source="qapi/migration.json MigrationCapability pause-before-switchover",
    since="2.11",
    scenario="pre-copy-pause",
    needs=("cap:pause-before-switchover",),
)
def pre_copy_pause_order(seen: Conversation) -> None:
    """Without post-copy, too, the guest stops, pre-switchover is announced, and device and completed wait for migrate-continue."""
    waits = seen.first("src", "pre-switchover")
    if waits is None or seen.first("src", "postcopy-active") or seen.asked("migrate_cancel", "src"):  # fmt: skip
        unseen("pre-copy did not complete with pause-before-switchover")
    order(seen, "src", "setup", "active", "STOP", "pre-switchover", "device", "completed")  # fmt: skip
    goes = first_of([e for e in seen.asked("migrate-continue", "src", after=waits) if e.is_ok], "nobody let it go on")  # fmt: skip
    device = reached(seen, "src", "device")
    require(seen.is_before(goes.cmd, device), "device after migrate-continue", "before it", goes, device)  # fmt: skip
    completed(seen)


@check(
    "pause/continue-in-a-wrong-state",
    alias="E11",
    source="qapi/migration.json migrate-continue",
    since="2.11",
    scenario="pause-before-switchover",
    needs=("cmd:migrate-continue",),
)
def continue_in_a_wrong_state(seen: Conversation) -> None:
    """migrate-continue with another state than the current one is refused; with the current one, before the pause, it does not undo the pause."""
    waits = seen.first("src", "pre-switchover")
    asked = [e for e in seen.asked("migrate-continue", "src") if e.reply is not None]
    early = [e for e in asked if waits is None or seen.is_before(e.cmd, waits)]
    # "active" is the current one as long as it does not wait.
    wrong = [e for e in asked if e.arguments.get("state") != ("active" if e in early else "pre-switchover")]  # fmt: skip
    if not wrong:
        unseen("migrate-continue was not sent with a wrong state")
    for each in wrong:
        refused(each, "Migration not in expected state")
    if waits is None or len(early) == len(asked):
        return
    goes = next(e for e in asked if e not in early and e not in wrong)
    stray = seen.first("src", "postcopy-active", "device", after=waits)
    require(stray is None or seen.is_before(goes.cmd, stray), "the pause lasts until migrate-continue", "it ends by itself", waits, stray, goes)  # fmt: skip


@check("status/two-vcpus", alias="E12", source=_STATUS, scenario="two-vcpus")
def two_vcpus(seen: Conversation) -> None:
    """A guest with two vCPUs goes through the same states and completes."""
    if not any("-smp" in line.msg for line in seen.of("argv", "src")):
        unseen("the guest has one vCPU")
    order(seen, "src", "setup", "active", "postcopy-active", "completed")
    order(seen, "dst", "postcopy-active", "RESUME")
    completed(seen)


@check(
    "source/stays-stopped",
    alias="E13",
    source="qapi/run-state.json RunState finish-migrate",
    since="4.0",
    scenario=("post-copy", "recover"),
)
def source_stays_stopped(seen: Conversation) -> None:
    """After the switch the source's run state is finish-migrate and cont is refused, until the migration is over."""
    begin = seen.first("src", "STOP", after=None)
    switched = switch(seen)
    if begin is None:
        fail("STOP on the source", "none", switched)
    end = seen.first("src", *_ENDS, after=switched)
    inside = [
        (status, e)
        for status, e in run_states(seen, "src", switched)
        if seen.is_before(begin, e.cmd) and (end is None or seen.is_before(e.cmd, end))
    ]
    conts = [
        e
        for e in seen.asked("cont", "src", after=switched)
        if seen.is_before(begin, e.cmd) and (end is None or seen.is_before(e.cmd, end)) and e.reply  # fmt: skip
    ]
    if not inside and not conts:
        unseen("nobody asked meanwhile")
    for status, e in inside:
        require(status == "finish-migrate", "run state finish-migrate", status, e)
    for e in conts:
        refused(e, "Migration is not finalized yet")


@check(
    "numbers/downtime-in-postcopy",
    alias="E14",
    source="qapi/migration.json MigrationInfo downtime",
)
def downtime_in_postcopy(seen: Conversation) -> None:
    """query-migrate shows downtime in post-copy from 8.0 on, and not before."""
    found = replies(seen, "src", "postcopy-active")
    if not found:
        unseen("nobody asked in post-copy")
    for value, asked in found:
        require(("downtime" in value) == (seen.version >= (8, 0)), f"downtime {'present' if seen.version >= (8, 0) else 'absent'}", "the contrary", asked)  # fmt: skip


@check(
    "numbers/downtime-is-the-sources",
    alias="E15",
    source="qapi/migration.json MigrationInfo downtime",
    scenario="post-copy-autostart",
    level=Level.SHOULD,
)
def downtime_is_the_sources(seen: Conversation) -> None:
    """The downtime that is reported fits between migrate-start-postcopy and the destination's RESUME, and is after completion what it was in post-copy."""
    resume = seen.first("dst", "RESUME")
    if resume is None or not seen.first("src", "completed") or seen.first("src", "postcopy-paused"):  # fmt: skip
        unseen("no RESUME, or the link broke")
    if seen.asked("stop", "src"):
        unseen("the guest was stopped by hand")
    begin = first_of(_starts(seen), "nobody asked for post-copy").cmd
    # The source has the answer's figures after it has counted; RESUME itself can be there before, on a slow machine.
    later = [(v, e) for v, e in replies(seen, "src", "postcopy-active", "completed") if seen.is_before(resume, e.cmd)]  # fmt: skip
    found = [(v, e) for v, e in later if v["status"] == "completed"]
    if not found:
        unseen("nobody asked after completion")
    (early, first), (value, asked) = later[0], found[-1]
    said, most = value.get("downtime"), _seconds_between(begin, first) * 1000
    require(isinstance(said, int) and said <= most, f"at most {most:.0f} ms", f"{said} ms", asked, begin, resume)  # fmt: skip
    was = early.get("downtime", said)
    require(said == was, f"{was} ms, as in post-copy", f"{said} ms", first, asked)


def _seconds_between(begin: Line, asked: Exchange) -> float:
    return (asked.reply or asked.cmd).t - begin.t


@check(
    "numbers/bytes-add-up",
    alias="G1",
    source="qapi/migration.json MigrationRAMStats precopy-bytes",
    since="7.0",
)
def bytes_add_up(seen: Conversation) -> None:
    """precopy-bytes, downtime-bytes and postcopy-bytes together are transferred, to within 1 %."""
    switch(seen)
    for value, asked in replies(seen, "src", "completed")[-1:]:
        figures = ram(value)
        names = [f"{name}-bytes" for name in ("precopy", "downtime", "postcopy")]
        if not set(names) <= set(figures):
            unseen("not all of them are there")
        parts = [figures[name] for name in names]
        total = figures.get("transferred", 0)
        require(abs(sum(parts) - total) <= total * 0.01 + 4096, f"{total} in all", f"{sum(parts)} = {parts}", asked)  # fmt: skip
        return
    unseen("nobody asked after completion")


@check(
    "numbers/remaining",
    alias="G2",
    source="qapi/migration.json MigrationRAMStats remaining, total",
)
def remaining_reaches_zero(seen: Conversation) -> None:
    """remaining is 0 at the end, and total is the same all the time."""
    found = [(v, e) for v, e in replies(seen, "src", "active", "postcopy-active", "completed") if ram(v)]  # fmt: skip
    begin = switch(seen)
    found = [
        (v, e)
        for v, e in found
        if v["status"] != "active" or seen.is_before(e.cmd, begin)
    ]
    if len(found) < 2 or found[-1][0].get("status") != "completed":
        unseen("too few answers, or none after completion")
    totals = {ram(value).get("total") for value, _ in found}
    require(
        len(totals) == 1,
        "one total",
        f"{sorted(map(str, totals))}",
        found[0][1],
        found[-1][1],
    )
    left = ram(found[-1][0]).get("remaining")
    require(left == 0, "remaining 0", str(left), found[-1][1])


@check(
    "numbers/postcopy-bandwidth",
    alias="G3",
    source="qapi/migration.json MigrationParameter max-postcopy-bandwidth",
    since="3.0",
    scenario="bandwidth",
    needs=("param:max-postcopy-bandwidth",),
)
def bandwidth_is_kept(seen: Conversation) -> None:
    """What post-copy sends unasked stays within max-postcopy-bandwidth and a fifth."""
    begin = switch(seen)
    caps = [e.arguments["max-postcopy-bandwidth"] for e in seen.asked("migrate-set-parameters", "src") if "max-postcopy-bandwidth" in e.arguments and seen.is_before(e.cmd, begin)]  # fmt: skip
    if not caps or not caps[-1]:
        unseen("there was no limit")
    lifted = [e for e in seen.asked("migrate-set-parameters", "src", after=begin) if "max-postcopy-bandwidth" in e.arguments]  # fmt: skip
    found = [
        (value, e)
        for value, e in replies(seen, "src", "postcopy-active")
        if not lifted or seen.is_before(e.cmd, lifted[0].cmd)
    ]
    if len(found) < 2 or _seconds_between(found[0][1].cmd, found[-1][1]) < 0.8:
        unseen("it was not watched for 0.8 s")
    (first, a), (last, b) = found[0], found[-1]
    # QEMU counts at some time between question and answer: the longest that it can have been.
    seconds = _seconds_between(a.cmd, b)
    page = ram(last).get("page-size", 4096) + 16
    asked_for = (ram(last).get("postcopy-requests", 0) - ram(first).get("postcopy-requests", 0)) * page  # fmt: skip
    sent = (
        ram(last).get("transferred", 0) - ram(first).get("transferred", 0) - asked_for
    )
    # QEMU counts in windows of 100 ms, and may fill one at once.
    most = caps[-1] * 1.2 * (seconds + 0.1)
    require(
        sent <= most, f"at most {most:.0f} bytes in {seconds:.2f} s", f"{sent}", a, b
    )


@check(
    "numbers/blocktime",
    alias="G4",
    source="qapi/migration.json MigrationInfo postcopy-blocktime",
    since="3.0",
    scenario="two-vcpus",
    needs=("cap:postcopy-blocktime",),
)
def blocktime_fields(seen: Conversation) -> None:
    """Blocktime is told by the destination alone, after completion alone, with one figure a vCPU."""
    begin = first_of(seen.asked("migrate", "src"), "no migrate").cmd
    if not capability(seen, "dst", "postcopy-blocktime", begin):
        unseen("blocktime was off")
    switch(seen)
    for value, asked in replies(seen, "src"):
        require("postcopy-blocktime" not in value, "none on the source", "there", asked)
    done = replies(seen, "dst", "completed")
    for value, asked in replies(seen, "dst"):
        if value.get("status") != "completed":
            require("postcopy-blocktime" not in value, "none before completion", "there", asked)  # fmt: skip
    if not done:
        unseen("nobody asked the destination after completion")
    value, asked = done[-1]
    per_vcpu = value.get("postcopy-vcpu-blocktime", [])
    require("postcopy-blocktime" in value and isinstance(per_vcpu, list), "both figures", str(value), asked)  # fmt: skip
    vcpus = _vcpus(seen)
    require(len(per_vcpu) == vcpus, f"{vcpus} figures", str(per_vcpu), asked)


def _vcpus(seen: Conversation) -> int:
    for line in seen.of("argv", "dst"):
        words = list(line.msg)
        if "-smp" in words:
            return int(words[words.index("-smp") + 1])
    return 1


@check(
    "numbers/no-blocktime-while-stopped",
    alias="G5",
    source="qapi/migration.json MigrationInfo postcopy-blocktime",
    since="3.0",
    scenario="post-copy-stopped",
    needs=("cap:postcopy-blocktime",),
)
def no_blocktime_while_stopped(seen: Conversation) -> None:
    """Blocktime is 0 if the destination never let the guest run."""
    switch(seen)
    if seen.first("dst", "RESUME"):
        unseen("the guest ran there")
    for value, asked in replies(seen, "dst", "completed")[-1:]:
        if "postcopy-blocktime" not in value:
            unseen("blocktime was off")
        require(value["postcopy-blocktime"] == 0, "0 ms", str(value["postcopy-blocktime"]), asked)  # fmt: skip
        return
    unseen("nobody asked after completion")


@check(
    "numbers/latency-distribution",
    alias="G6",
    source="qapi/migration.json MigrationInfo postcopy-latency-dist",
    since="10.1",
    scenario="two-vcpus",
    level=Level.SHOULD,
)
def latency_fits_its_distribution(seen: Conversation) -> None:
    """The mean latency of faults lies within what their distribution allows."""
    for value, asked in replies(seen, "dst", "completed")[-1:]:
        buckets = value.get("postcopy-latency-dist")
        if not isinstance(buckets, list):
            unseen("no postcopy-latency-dist")
        count = sum(buckets)
        if not count:
            unseen("no fault")
        # Bucket N holds 2^N to 2^(N+1) microseconds.
        low = sum(n << k for k, n in enumerate(buckets)) * 1000 / count
        mean = value.get("postcopy-latency", 0)
        require(low <= mean <= 2 * low, f"{low:.0f} to {2 * low:.0f} ns", f"{mean} ns", asked)  # fmt: skip
        return
    unseen("nobody asked the destination after completion")


@check(
    "numbers/requests",
    alias="G7",
    source="qapi/migration.json MigrationRAMStats postcopy-requests",
    since="2.7",
    scenario=("preempt", "post-copy-stopped", "post-copy-autostart"),
)
def requests(seen: Conversation) -> None:
    """A guest that writes everywhere while post-copy is slow asks for pages; one that never runs asks for none."""
    switch(seen)
    found = replies(seen, "src", "completed")
    if not found or "postcopy-requests" not in ram(found[-1][0]):
        unseen("no postcopy-requests after completion")
    value, asked = found[-1]
    count = ram(value)["postcopy-requests"]
    if seen.first("dst", "RESUME") is None:
        require(count == 0, "no request", str(count), asked)
    else:
        require(count > 0, "requests", "none", asked)


@check(
    "numbers/passes",
    alias="G8",
    source="qapi/migration.json MIGRATION_PASS",
    since="2.6",
)
def passes_rise(seen: Conversation) -> None:
    """The numbers of MIGRATION_PASS rise strictly, and the last is dirty-sync-count."""
    numbers = [
        (int(line.data["pass"]), line) for line in seen.events("MIGRATION_PASS", "src")
    ]
    if not numbers:
        unseen("no MIGRATION_PASS")
    if (
        len(seen.asked("migrate", "src")) > 1
        and seen.statuses("src").count("setup") > 1
    ):
        unseen("there were several migrations")
    for (one, _), (two, line) in zip(numbers, numbers[1:]):
        require(one < two, f"more than {one}", str(two), line)
    found = replies(seen, "src", "completed")
    if found:
        count = ram(found[-1][0]).get("dirty-sync-count")
        require(count == numbers[-1][0], f"dirty-sync-count {numbers[-1][0]}", str(count), found[-1][1], numbers[-1][1])  # fmt: skip


@check(
    "numbers/first-pass",
    alias="G9",
    source="qapi/migration.json MIGRATION_PASS",
    since="2.6",
)
def first_pass(seen: Conversation) -> None:
    """The first MIGRATION_PASS is 1."""
    lines = seen.events("MIGRATION_PASS", "src")
    if not lines:
        unseen("no MIGRATION_PASS")
    require(lines[0].data.get("pass") == 1, "pass 1", f"pass {lines[0].data.get('pass')}", lines[0])  # fmt: skip


@check(
    "numbers/remaining-of-all",
    alias="G10",
    source="qapi/migration.json MigrationInfo remaining",
    since="11.1",
)
def remaining_of_all(seen: Conversation) -> None:
    """What remains of all is no less than what remains of RAM, once it has been counted."""
    found = [(v, e) for v, e in replies(seen, "src") if "remaining" in v and ram(v)]
    if not found:
        unseen("no remaining beside that of ram")
    # Its thread counts it: the first question in `active` can be before that, and gets 0.
    early = found[0][0]
    if len(found) > 1 and early.get("status") == "active" and early["remaining"] == 0:
        del found[0]
    for value, asked in found:
        require(value["remaining"] >= ram(value).get("remaining", 0), f"at least {ram(value).get('remaining')}", str(value["remaining"]), asked)  # fmt: skip


_VERIFIED = ("post-copy", "post-copy-autostart", "post-copy-stopped")


@check(
    "memory/working-set",
    alias="F1",
    source="docs/devel/migration/postcopy.rst",
    scenario=_VERIFIED,
)
def working_set(seen: Conversation) -> None:
    """After completion what the guest wrote last is in memory, with one edge at most where it was stopped."""
    for line in _memory(seen):
        require(line.msg.get("edges", 0) <= 1, "one edge at most", f"{line.msg.get('edges')}", line)  # fmt: skip


@check(
    "memory/every-page",
    alias="F2",
    source="docs/devel/migration/postcopy.rst",
    scenario=_VERIFIED,
)
def every_page(seen: Conversation) -> None:
    """After completion every byte of memory is right, also of pages that were never touched."""
    for line in _memory(seen):
        require(not line.msg.get("bad-pages"), "no bad page", f"{line.msg.get('bad-pages')} of {line.msg.get('pages')}: {'; '.join(line.msg.get('bad', []))}", line)  # fmt: skip


def _memory(seen: Conversation) -> list[Line]:
    switch(seen)
    found = seen.of("memory")
    if not found:
        unseen("the memory was not compared")
    return found


def _right(seen: Conversation) -> None:
    for line in _memory(seen):
        require(not line.msg.get("bad-pages") and line.msg.get("edges", 0) <= 1, "every page right, one edge at most", f"{line.msg.get('bad-pages')} bad pages, {line.msg.get('edges')} edges: {'; '.join(line.msg.get('bad', []))}", line)  # fmt: skip
    alive(seen, "src", "dst")


@check(
    "memory/read-ahead",
    alias="F3",
    source="docs/devel/migration/postcopy.rst",
    since="3.0",
    scenario="read-ahead",
    needs=("cmd:migrate-recover",),
)
def read_of_a_missing_page(seen: Conversation) -> None:
    """Reading a page on the destination that has not been sent yet waits for it and gives its content."""
    begin = switch(seen, "dst")
    end = seen.first("dst", "completed")
    for line in seen.of("memory", "dst"):
        if line.msg.get("page-read") is not None and seen.is_before(begin, line):
            require(end is None or seen.is_before(line, end), "read in post-copy", "read after it", line)  # fmt: skip
            require(line.msg["page-read"] == line.msg["expected"], f"{line.msg['expected']}", f"{line.msg['page-read']}", line)  # fmt: skip
            return
    unseen("no page was read in post-copy")


for _id, _name, _since in (
    ("ram", "memory-backend-ram", "5.0"),
    ("memfd", "memory-backend-memfd", "5.0"),
    ("shm", "a file in /dev/shm", "5.0"),
    ("hugepages", "huge pages of 2 MiB", "5.0"),
):

    def _judge(seen: Conversation, _id: str = _id) -> None:
        if seen.scenario != f"memory-{_id}":
            unseen("the guest's memory is of another kind")
        _right(seen)

    _judge.__doc__ = f"Memory of {_name} is right after post-copy."
    check(f"memory/{_id}", alias="F4", source="migration/postcopy-ram.c test_ramblock_postcopiable", since=_since, scenario=f"memory-{_id}")(_judge)  # fmt: skip


@check(
    "memory/file-on-disk",
    alias="F5",
    source="migration/postcopy-ram.c test_ramblock_postcopiable",
    since="8.1",
    scenario="file-backend-disk",
)
def file_on_disk(seen: Conversation) -> None:
    """Memory in a file that is neither on tmpfs nor on hugetlbfs is refused when postcopy-ram is set, from 8.1 on."""
    argv = seen.of("argv", "dst")
    if not argv or "memory-backend-file" not in str(argv[0].msg) or seen.scenario != "file-backend-disk":  # fmt: skip
        unseen("the memory is no file on a disk")
    refused(first_of(seen.asked("migrate-set-capabilities", "dst"), "post-copy was not asked for"), "Host backend files need to be TMPFS or HUGETLBFS only")  # fmt: skip


@check(
    "memory/release-ram",
    alias="F6",
    source="qapi/migration.json MigrationCapability release-ram",
    since="2.9",
    scenario="release-ram",
    needs=("cap:release-ram",),
)
def memory_with_release_ram(seen: Conversation) -> None:
    """With release-ram the memory is right, and the source's own shrinks."""
    if not any("release-ram" in str(e.arguments) and e.is_ok for e in seen.asked("migrate-set-capabilities", "src")):  # fmt: skip
        unseen("release-ram was off")
    _right(seen)
    sizes = [line.msg["rss-kib"] for line in seen.of("note", "src") if isinstance(line.msg, dict) and "rss-kib" in line.msg]  # fmt: skip
    if len(sizes) > 1:
        require(
            sizes[-1] < sizes[0],
            f"less than {sizes[0]} KiB resident",
            f"{sizes[-1]} KiB",
        )


@check(
    "memory/preempt",
    alias="F7",
    source="qapi/migration.json MigrationCapability postcopy-preempt",
    since="7.1",
    scenario="preempt",
    needs=("cap:postcopy-preempt",),
)
def memory_with_preempt(seen: Conversation) -> None:
    """With preempt, and a guest that writes at random, the memory is right."""
    if not any("postcopy-preempt" in str(e.arguments) and e.is_ok for e in seen.asked("migrate-set-capabilities", "src")):  # fmt: skip
        unseen("preempt was off")
    _right(seen)


@check(
    "memory/recovered-thrice",
    alias="F8",
    source="docs/devel/migration/postcopy.rst, recovery",
    since="3.0",
    scenario="recover-thrice",
    needs=("cmd:migrate-recover",),
)
def memory_after_three_recoveries(seen: Conversation) -> None:
    """After three breaks and recoveries the memory is right."""
    recoveries = seen.statuses("src").count("postcopy-recover")
    if recoveries < 3 and seen.scenario != "recover-thrice":
        unseen(f"there were {recoveries} recoveries")
    require(
        recoveries >= 3,
        "three recoveries",
        f"{recoveries}",
        *seen.events("MIGRATION", "src"),
    )
    reached(seen, "src", "completed")
    _right(seen)


@check(
    "memory/onward",
    alias="F9",
    source="docs/devel/migration/postcopy.rst",
    scenario="onward",
)
def memory_after_going_onward(seen: Conversation) -> None:
    """A guest that came by post-copy can go on by post-copy, and its memory is right there."""
    if not seen.of("greeting", "next") or not seen.asked("migrate", "dst"):
        unseen("it did not go on")
    for side in ("src", "dst"):
        reached(seen, side, "postcopy-active")
    reached(seen, "next", "completed")
    found = seen.of("memory", "next")
    require(found, "memory compared on the third", "it was not")
    for line in found:
        require(not line.msg.get("bad-pages") and line.msg.get("edges", 0) <= 1, "every page right", str(line.msg), line)  # fmt: skip
    alive(seen, "src", "dst", "next")


@check(
    "memory/other-version",
    alias="F10",
    source="docs/devel/migration/compatibility.rst",
    scenario="cross",
)
def memory_on_another_version(seen: Conversation) -> None:
    """Between two versions, with a machine type that both have, post-copy completes and the memory is right."""
    # Ours is between two programs, which may call themselves the same.
    there = seen.header.get("destination")
    if seen.scenario != "cross" and (not there or there == seen.qemu):
        unseen("both sides are of one version")
    completed(seen)
    _right(seen)
