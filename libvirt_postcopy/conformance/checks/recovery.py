"""What happens when the link or a side is lost, and how it goes on."""

from __future__ import annotations

from libvirt_postcopy.conformance.checks.reading import (
    alive,
    at_most_one_runs,
    first_of,
    granted,
    has_status,
    last_reply,
    memory_right_if_compared,
    need,
    order,
    reached,
    recovered,
    refused,
    run_state,
    switch,
)
from libvirt_postcopy.conformance.checks.startup import with_tls
from libvirt_postcopy.conformance.evidence import Conversation, Exchange, Line
from libvirt_postcopy.conformance.registry import check, fail, require, unseen, weak

__all__: list[str] = []

_DOC = "docs/devel/migration/postcopy.rst, recovery"
_RECOVER = "qapi/migration.json migrate-recover"
_NEEDS = ("cmd:migrate-recover",)


def _broken(seen: Conversation) -> Line:
    """The source's postcopy-paused, after the switch."""
    begin = switch(seen)
    return need(
        seen.first("src", "postcopy-paused", after=begin), "post-copy was not broken"
    )


def _resumes(seen: Conversation) -> list[Exchange]:
    return [e for e in seen.asked("migrate", "src") if e.arguments.get("resume")]


def _recovers(seen: Conversation) -> list[Exchange]:
    return [e for e in seen.asked("migrate-recover", "dst") if e.reply is not None]


def _to_the_end(seen: Conversation, after: Line) -> None:
    alive(seen, "src", "dst")
    reached(seen, "src", "completed", after)
    reached(seen, "dst", "completed", after)
    memory_right_if_compared(seen)


@check(
    "break/both-paused",
    alias="H1",
    source=_DOC,
    since="3.0",
    scenario="recover",
    needs=_NEEDS,
)
def both_pause(seen: Conversation) -> None:
    """When the link is cut both sides announce postcopy-paused; the source stays in finish-migrate, the destination's guest runs."""
    begin = switch(seen)
    if seen.scenario != "recover":
        _broken(seen)
        if not seen.first("dst", "postcopy-paused"):
            unseen("the destination was not followed")
    paused = reached(seen, "src", "postcopy-paused", begin)
    reached(seen, "dst", "postcopy-paused", begin)
    alive(seen, "src", "dst")
    resumed = seen.first("src", "postcopy-active", after=paused)
    for side, wanted in (("src", "finish-migrate"), ("dst", "running")):
        found = [
            (status, e)
            for status, e in _states(seen, side, paused)
            if resumed is None or seen.is_before(e.cmd, resumed)
        ]
        if side == "dst" and not seen.first("dst", "RESUME"):
            continue
        for status, e in found[:1]:
            require(status == wanted, f"{side} in run state {wanted}", status, e)


def _states(seen: Conversation, side: str, after: Line) -> list[tuple[str, Exchange]]:
    from libvirt_postcopy.conformance.checks.reading import run_states

    return run_states(seen, side, after)


@check(
    "recover/order",
    alias="H2",
    source=_DOC,
    since="3.0",
    scenario="recover",
    needs=_NEEDS,
)
def recovery_order(seen: Conversation) -> None:
    """Recovery goes through postcopy-recover (from 9.1 on the source's postcopy-recover-setup before it) to postcopy-active and completed, and the memory is right."""
    paused = _broken(seen)
    resume = first_of([e for e in _resumes(seen) if e.is_ok], "nobody resumed")
    if len(_resumes(seen)) > 1 or len(_recovers(seen)) > 1:
        unseen("it was tried more than once")
    after = [line.status for line in seen.events("MIGRATION", "src") if seen.is_before(paused, line)]  # fmt: skip
    setup = ["postcopy-recover-setup"] if has_status(seen, "postcopy-recover-setup", "9.1") else []  # fmt: skip
    wanted = [*setup, "postcopy-recover", "postcopy-active", "completed"]
    require(after == wanted, f"source: {' '.join(wanted)}", " ".join(after), resume, *seen.events("MIGRATION", "src"))  # fmt: skip
    gone = need(
        seen.first("dst", "postcopy-paused"), "the destination was not followed"
    )
    late = [line.status for line in seen.events("MIGRATION", "dst") if seen.is_before(gone, line)]  # fmt: skip
    late = [
        status for status in late if status != "setup"
    ]  # migrate-recover announces it up to 8.1
    require(late == ["postcopy-recover", "postcopy-active", "completed"], "destination: postcopy-recover postcopy-active completed", " ".join(late), *seen.events("MIGRATION", "dst"))  # fmt: skip
    _to_the_end(seen, paused)


@check(
    "recover/bad-uri-then-good",
    alias="H3",
    source=_RECOVER,
    since="3.0",
    scenario="recover-bad-address",
    needs=_NEEDS,
)
def second_address(seen: Conversation) -> None:
    """After a migrate-recover that could not bind, another one is accepted and recovery completes."""
    paused = _broken(seen)
    tries = _recovers(seen)
    if not tries or tries[0].is_ok or "nonexistent" not in str(tries[0].arguments) or len(tries) < 2:  # fmt: skip
        unseen("no migrate-recover with an address that cannot be")
    granted(tries[1])
    _to_the_end(seen, paused)


@check(
    "recover/nobody-then-good",
    alias="H4",
    source=_RECOVER,
    since="3.0",
    scenario="resume-to-nobody",
    needs=_NEEDS,
)
def resume_to_nobody(seen: Conversation) -> None:
    """A resume to an address where nobody listens leaves both paused (with an event from 9.1 on), and a good one then completes."""
    paused = _broken(seen)
    resumes = _resumes(seen)
    recovers = _recovers(seen)
    early = [
        e for e in resumes if not recovers or seen.is_before(e.cmd, recovers[0].cmd)
    ]
    if not early or not recovers:
        unseen("nobody resumed before the destination listened")
    if has_status(seen, "postcopy-recover-setup", "9.1"):
        back = [line.status for line in seen.events("MIGRATION", "src") if seen.is_before(early[0].cmd, line)]  # fmt: skip
        require(back[:2] == ["postcopy-recover-setup", "postcopy-paused"], "postcopy-recover-setup postcopy-paused", " ".join(back[:2]), early[0])  # fmt: skip
    _to_the_end(seen, paused)


@check(
    "recover/second-failure",
    alias="H5",
    source=_DOC,
    since="8.2",
    scenario="recover-second-failure",
    needs=("cmd:migrate-recover", "cmd:migrate-pause"),
)
def second_failure(seen: Conversation) -> None:
    """A link that breaks again while the sides shake hands leaves both paused, and the next try completes."""
    paused = _broken(seen)
    if seen.statuses("src").count("postcopy-paused") < 2 or seen.scenario != "recover-second-failure" and not seen.asked("migrate-pause"):  # fmt: skip
        if seen.scenario != "recover-second-failure":
            unseen("it did not break again")
        fail("postcopy-paused again", " ".join(seen.statuses("src")), paused)
    reached(seen, "src", "postcopy-recover", paused)
    _to_the_end(seen, paused)


@check(
    "recover/other-transport",
    alias="H6",
    source=_RECOVER,
    since="3.0",
    scenario="recover",
    needs=_NEEDS,
)
def other_transport(seen: Conversation) -> None:
    """A migration that began over tcp recovers over a unix socket."""
    paused = _broken(seen)
    uris = [
        str(e.arguments.get("uri", "")) for e in seen.asked("migrate", "src") if e.is_ok
    ]
    if len({uri.partition(":")[0] for uri in uris}) < 2:
        unseen("the transport stayed the same")
    _to_the_end(seen, paused)


@check(
    "recover/preempt",
    alias="H7",
    source=_RECOVER,
    since="7.1",
    scenario="recover-preempt",
    needs=("cap:postcopy-preempt",),
)
def with_preempt(seen: Conversation) -> None:
    """Recovery completes with preempt."""
    paused = _broken(seen)
    if not any("postcopy-preempt" in str(e.arguments) and e.is_ok for e in seen.asked("migrate-set-capabilities", "src")):  # fmt: skip
        unseen("preempt was off")
    first_of(_resumes(seen), "nobody resumed")
    _to_the_end(seen, paused)


@check(
    "recover/fd-preempt",
    alias="H7",
    source="migration/migration.c migration_channels_and_transport_compatible",
    since="7.1",
    scenario="recover-fd-preempt",
    needs=("cap:postcopy-preempt",),
)
def fd_with_preempt(seen: Conversation) -> None:
    """With preempt a recovery over a transport that has one channel is refused, on both sides, and another one completes."""
    paused = _broken(seen)
    tries = [e for e in (*_recovers(seen), *_resumes(seen)) if str(e.arguments.get("uri")).startswith("fd:")]  # fmt: skip
    if {e.name for e in tries} != {"migrate-recover", "migrate"}:
        unseen("it was not tried over fd on both sides")
    for each in tries:
        require(each.reply, "an answer", f"none to {each.name}", each)
    for each in tries:
        refused(each, "Migration requires multi-channel URIs (e.g. tcp)")
    _to_the_end(seen, paused)


@check(
    "recover/tls",
    alias="",
    source=_RECOVER,
    since="3.0",
    scenario="recover-tls",
    needs=("param:tls-creds", *_NEEDS),
)
def recovered_with_tls(seen: Conversation) -> None:
    """Recovery completes with TLS."""
    with_tls(seen)
    paused = _broken(seen)
    first_of(_resumes(seen), "nobody resumed")
    _to_the_end(seen, paused)


@check(
    "recover/release-ram",
    alias="H8",
    source="migration/migration.c migrate_prepare",
    since="3.0",
    scenario="recover-release-ram",
    needs=("cap:release-ram", *_NEEDS),
)
def with_release_ram(seen: Conversation) -> None:
    """With release-ram a resume is refused and post-copy stays paused."""
    _broken(seen)
    if not any("release-ram" in str(e.arguments) and e.is_ok for e in seen.asked("migrate-set-capabilities", "src")):  # fmt: skip
        unseen("release-ram was off")
    asked = first_of(_resumes(seen), "nobody resumed")
    refused(asked, "Postcopy recovery cannot work when release-ram capability is set")
    value, look = last_reply(seen, "src")
    require(value.get("status") == "postcopy-paused", "status postcopy-paused", str(value.get("status")), look)  # fmt: skip


@check(
    "break/pause-when-paused",
    alias="H9",
    source="qapi/migration.json migrate-pause",
    since="3.0",
    scenario="recover",
    needs=("cmd:migrate-pause",),
)
def pause_when_paused(seen: Conversation) -> None:
    """migrate-pause is refused when post-copy is paused already."""
    paused = _broken(seen)
    end = seen.first("src", "postcopy-recover-setup", "postcopy-recover", after=paused)
    tries = [e for e in seen.asked("migrate-pause", "src", after=paused) if end is None or seen.is_before(e.cmd, end)]  # fmt: skip
    refused(first_of(tries, "nobody paused it again"), "migrate-pause is currently only supported during postcopy-active")  # fmt: skip


@check(
    "break/pause-in-recovery",
    alias="H10",
    source="qapi/migration.json migrate-pause",
    since="8.2",
    scenario="recover-second-failure",
    needs=("cmd:migrate-pause",),
)
def pause_in_recovery(seen: Conversation) -> None:
    """migrate-pause in postcopy-recover goes back to postcopy-paused."""
    begin = need(
        seen.first("src", "postcopy-recover"), "it was never in postcopy-recover"
    )
    end = seen.first("src", "postcopy-active", after=begin)
    tries = [e for e in seen.asked("migrate-pause", "src", after=begin) if end is None or seen.is_before(e.cmd, end)]  # fmt: skip
    asked = first_of(tries, "nobody paused it then")
    granted(asked)
    reached(seen, "src", "postcopy-paused", asked.cmd)


@check(
    "loss/destination",
    alias="H11",
    source=_DOC,
    since="3.0",
    scenario="kill-destination",
)
def destination_lost(seen: Conversation) -> None:
    """When the destination dies in post-copy the source pauses, and does not let the old guest run by itself."""
    begin = switch(seen)
    killed = [line for line in seen.of("act", "dst") if "killed" in str(line.msg)]
    if not killed:
        unseen("the destination was not killed")
    reached(seen, "src", "postcopy-paused", begin)
    require(seen.first("src", "RESUME", after=begin) is None, "no RESUME on the source", "the old guest runs", seen.first("src", "RESUME"))  # fmt: skip
    status, asked = run_state(seen, "src", begin)
    require(status == "finish-migrate", "run state finish-migrate", status, asked)
    alive(seen, "src")


@check("loss/source", alias="H12", source=_DOC, since="3.0", scenario="kill-source")
def source_lost(seen: Conversation) -> None:
    """When the source dies in post-copy the destination pauses and lives, and what has arrived there can be read."""
    begin = switch(seen)
    killed = [line for line in seen.of("act", "src") if "killed" in str(line.msg)]
    if not killed:
        unseen("the source was not killed")
    gone = reached(seen, "dst", "postcopy-paused", begin)
    alive(seen, "dst")
    for line in seen.of("memory", "dst"):
        if seen.is_before(gone, line) and "page-read" in line.msg:
            require(line.msg["page-read"] == line.msg["expected"], f"a page with {line.msg['expected']:#x}", f"{line.msg['page-read']:#x}", line)  # fmt: skip
            return
    if seen.scenario == "kill-source":
        unseen("no page was read afterwards")


def _cut_in_switch(seen: Conversation, scenario: str) -> Line:
    """The cut; since 10.2 the source says that it is in the switch, and has to have said so."""
    cuts = [line for line in seen.of("act") if "cut" in str(line.msg)]
    if seen.scenario != scenario or not cuts:
        unseen("the link was not cut in the switch")
    said = [line.status for line in seen.events("MIGRATION", "src") if seen.is_before(line, cuts[0])]  # fmt: skip
    if has_status(seen, "postcopy-device", "10.2") and said[-1:] != ["postcopy-device"]:
        unseen(f"the source was in {said[-1:]}, not in postcopy-device")
    return cuts[0]


@check(
    "switch/cut-never-two",
    alias="H13",
    source="migration/migration.c migration_iteration_finish",
    since="3.0",
    scenario="cut-in-switch",
    needs=_NEEDS,
)
def never_two(seen: Conversation) -> None:
    """A link that breaks when the destination runs and the source does not know never lets the guest run on both."""
    cut = _cut_in_switch(seen, "cut-in-switch")
    resume = seen.first("dst", "RESUME")
    if resume is None or not seen.is_before(resume, cut):
        unseen("the destination did not run yet")
    at_most_one_runs(seen)
    alive(seen, "src", "dst")


@check(
    "switch/cut-stopped-destination",
    alias="H14",
    source="migration/migration.c migration_iteration_finish",
    since="3.0",
    scenario="cut-in-switch-stopped",
    needs=_NEEDS,
)
def never_two_with_s(seen: Conversation) -> None:
    """The same with -S on the destination: nothing runs there, and a side that can go on is left."""
    _cut_in_switch(seen, "cut-in-switch-stopped")
    at_most_one_runs(seen)
    require(seen.first("dst", "RESUME") is None, "the destination stays paused", "it runs", seen.first("dst", "RESUME"))  # fmt: skip
    alive(seen, "src")
    if seen.first("src", "RESUME") is None:
        alive(seen, "dst")


@check(
    "switch/device-state-rejected",
    alias="H15",
    source="migration/migration.c postcopy_start",
    scenario="device-state-rejected",
)
def device_state_rejected(seen: Conversation) -> None:
    """When the destination cannot load the devices' state the guest runs on on the source."""
    argv = {side: [" ".join(map(str, line.msg)) for line in seen.of("argv", side)] for side in ("src", "dst")}  # fmt: skip
    sizes = {
        side: text[0].partition("-smp ")[2][:1] for side, text in argv.items() if text
    }
    if seen.scenario != "device-state-rejected" and len(set(sizes.values())) < 2:
        unseen("both sides have the same devices")
    stop = reached(seen, "src", "STOP")
    back = seen.first("src", "RESUME", after=stop)
    require(back, "RESUME on the source", "the guest is lost", *seen.events("MIGRATION", "src")[-1:], *seen.of("stderr", "dst"))  # fmt: skip


@check(
    "recover/tls-without-credentials",
    alias="H16",
    source="migration/tls.c",
    since="3.0",
    scenario="no-tls-creds",
    needs=_NEEDS,
)
def tls_without_credentials(seen: Conversation) -> None:
    """A resume with TLS credentials that do not exist falls back to postcopy-paused; nothing dies, and a good one completes."""
    paused = _broken(seen)
    set_to = [e for e in seen.asked("migrate-set-parameters", "src") if e.arguments.get("tls-creds")]  # fmt: skip
    if not set_to:
        unseen("tls-creds was not set")
    alive(seen, "src", "dst")
    _to_the_end(seen, paused)


@check(
    "break/yank",
    alias="H17",
    source="qapi/yank.json yank",
    since="6.0",
    scenario="yank",
    needs=("cmd:yank",),
)
def yanked(seen: Conversation) -> None:
    """yank of the migration in post-copy pauses both sides, and recovery completes."""
    begin = switch(seen)
    asked = first_of(seen.asked("yank", "src", after=begin), "nobody yanked")
    granted(asked)
    reached(seen, "src", "postcopy-paused", asked.cmd)
    reached(seen, "dst", "postcopy-paused", asked.cmd)
    recovered(seen, asked.cmd)


@check(
    "recover/slow-then-fast",
    alias="H18",
    source="qapi/migration.json MigrationParameter max-postcopy-bandwidth",
    since="3.0",
    scenario="recover-slow",
    needs=("cmd:migrate-recover", "param:max-postcopy-bandwidth"),
)
def slow_then_fast(seen: Conversation) -> None:
    """Recovery under a limit of 4096 bytes a second works, and completes once the limit is lifted."""
    paused = _broken(seen)
    slow = [e for e in seen.asked("migrate-set-parameters", "src") if e.arguments.get("max-postcopy-bandwidth") == 4096]  # fmt: skip
    if not slow or not seen.is_before(slow[0].cmd, paused):
        unseen("the limit was not 4096")
    reached(seen, "src", "postcopy-active", paused)
    _to_the_end(seen, paused)


@check(
    "break/monitor-alive",
    alias="H19",
    source=_DOC,
    since="3.0",
    scenario="paused-long",
    needs=_NEEDS,
)
def monitor_alive(seen: Conversation) -> None:
    """While post-copy is paused and the guest waits for a page, the destination's monitor answers, and the guest stands still."""
    _broken(seen)
    gone = need(
        seen.first("dst", "postcopy-paused"), "the destination was not followed"
    )
    asked = [
        e for e in seen.exchanges if e.side == "dst" and seen.is_before(gone, e.cmd)
    ]
    resumed = seen.first("dst", "postcopy-recover", after=gone)
    asked = [e for e in asked if resumed is None or seen.is_before(e.cmd, resumed)]
    if not asked or asked[-1].cmd.t - gone.t < 2:
        unseen("it was not watched for 2 s")
    for e in asked:
        require(e.reply, "an answer", "none", e)
    beats = [
        line
        for line in seen.of("serial", "dst")
        if line.msg == "B" and line.t > gone.t + 1 and (resumed is None or seen.is_before(line, resumed))  # fmt: skip
    ]
    require(not beats, "no sweep over the memory is completed", "one is", *beats)
    for e in asked:
        took = e.reply.t - e.cmd.t if e.reply else 0
        if took > 2:
            weak("an answer within 2 s", f"after {took:.1f} s", e)


@check(
    "break/by-command",
    alias="H9",
    source="qapi/migration.json migrate-pause",
    since="3.0",
    scenario="pause",
    needs=("cmd:migrate-pause",),
)
def paused_by_command(seen: Conversation) -> None:
    """migrate-pause in post-copy pauses both sides, and recovery completes."""
    begin = switch(seen)
    asked = first_of(
        seen.asked("migrate-pause", "src", after=begin), "nobody paused it"
    )
    before = seen.first("src", "postcopy-paused", after=begin)
    if before is not None and seen.is_before(before, asked.cmd):
        unseen("it was paused already")
    granted(asked)
    reached(seen, "src", "postcopy-paused", asked.cmd)
    reached(seen, "dst", "postcopy-paused", asked.cmd)
    recovered(seen, asked.cmd)
    if _resumes(seen):
        order(seen, "src", "postcopy-paused", "postcopy-recover", "completed")


@check(
    "recover/empty-connection",
    alias="",
    source=_RECOVER,
    since="3.0",
    scenario="recover-empty-connection",
    needs=_NEEDS,
)
def empty_connection(seen: Conversation) -> None:
    """A connection that is opened to a destination that waits for recovery, and closed without data, does it no harm."""
    paused = _broken(seen)
    if not [line for line in seen.of("note", "dst") if line.msg == "a connection without data"]:  # fmt: skip
        unseen("nobody connected without data")
    _to_the_end(seen, paused)
