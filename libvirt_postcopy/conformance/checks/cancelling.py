"""Cancelling, and commands that should never have been sent."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import NoReturn

from libvirt_postcopy.conformance.checks.reading import (
    alive,
    at_most_one_runs,
    completed,
    ending,
    first_of,
    granted,
    need,
    reached,
    recovered,
    refused,
    replies,
    run_states,
    set_capabilities,
    switch,
)
from libvirt_postcopy.conformance.evidence import Conversation, Exchange, Line
from libvirt_postcopy.conformance.registry import (
    check,
    fail,
    lacking,
    outcomes,
    require,
    unseen,
)

__all__: list[str] = []

_CANCEL = "qapi/migration.json migrate_cancel"
_ENDS = ("completed", "failed", "cancelled")


def _cancels(seen: Conversation, side: str = "src") -> list[Exchange]:
    return [e for e in seen.asked("migrate_cancel", side) if e.reply is not None]


@check(
    "cancel/nothing-to-cancel",
    alias="I1",
    source=_CANCEL,
    scenario=("refusals", "post-copy", "cut-in-precopy", "cancel-precopy"),
)
def nothing_to_cancel(seen: Conversation) -> None:
    """migrate_cancel before a migration, or after one has completed or failed, succeeds without an event."""
    migrations = seen.asked("migrate", "src")
    done = 0
    for each in _cancels(seen):
        before = [e for e in migrations if seen.is_before(e.cmd, each.cmd)]
        if before:
            end = seen.first(
                "src", "completed", "failed", "cancelled", after=before[-1].cmd
            )
            if end is None or seen.is_before(each.cmd, end):
                continue
        granted(each)
        later = [e for e in migrations if seen.is_before(each.cmd, e.cmd)]
        stray = [
            line
            for line in seen.events("MIGRATION", "src")
            if seen.is_before(each.cmd, line) and (not later or seen.is_before(line, later[0].cmd))  # fmt: skip
        ]
        require(not stray, "no MIGRATION event", f"{[line.status for line in stray]}", each, *stray)  # fmt: skip
        done += 1
    if not done:
        unseen("nobody cancelled when there was nothing to cancel")


def _cancelled_in(
    seen: Conversation, *states: str, is_answered: bool = True
) -> Exchange:
    """The first migrate_cancel while the last announced status was one of some.

    :param is_answered: Only one that was answered.
    """
    for each in _cancels(seen) if is_answered else seen.asked("migrate_cancel", "src"):
        said = [
            line
            for line in seen.events("MIGRATION", "src")
            if seen.is_before(line, each.cmd)
        ]
        if said and said[-1].status in states:
            return each
    return unseen(f"nobody cancelled in {' or '.join(states)}")


def _in_precopy(seen: Conversation, asked: Exchange) -> None:
    end = reached(seen, "src", "cancelled", asked.cmd)
    alive(seen, "src")
    _runs_on(seen, end, asked)


def _runs_on(seen: Conversation, end: Line, *asked: Exchange) -> None:
    """Require that the guest runs on the source in the end; RESUME may come after the end of a migration is announced."""
    later = seen.asked("migrate", "src", after=end)
    states = [
        (status, e)
        for status, e in run_states(seen, "src", end)
        if not later or seen.is_before(e.cmd, later[0].cmd)
    ]
    if not states:
        unseen("nobody asked src for its run state")
    status, look = states[-1]
    require(status == "running", "the source's guest is running", status, *asked, end, look)  # fmt: skip


@check("cancel/active", alias="I2", source=_CANCEL, scenario="cancel-precopy")
def cancel_active(seen: Conversation) -> None:
    """migrate_cancel in pre-copy ends in cancelled, the guest runs on on the source, and it can be migrated again."""
    asked = _cancelled_in(seen, "active")
    if seen.first("src", "postcopy-active") and seen.is_before(switch(seen), asked.cmd):
        unseen("it was in post-copy")
    granted(asked)
    end = seen.first("src", "cancelled", "failed", after=asked.cmd)
    if end is None:
        end = reached(seen, "src", "cancelled", asked.cmd)
    if seen.is_own:
        _ran_on_and_moved(seen, asked, end)
    # Last: the word must not hide that the guest does not run on.
    require(end.status == "cancelled", "cancelled", end.status, asked, end)


def _ran_on_and_moved(seen: Conversation, asked: Exchange, end: Line) -> None:
    """Require that the guest ran on on the source after a cancel, and that it was migrated later."""
    alive(seen, "src")
    _runs_on(seen, end, asked)
    reached(seen, "src", "completed", asked.cmd)
    found = seen.of("memory", "next")
    require(found and not found[0].msg.get("bad-pages"), "the memory is right after the second migration", str(found[0].msg) if found else "it was not compared", *found)  # fmt: skip


def _asked_for_postcopy(seen: Conversation, asked: Exchange) -> bool:
    return any(
        e.is_ok and seen.is_before(e.cmd, asked.cmd)
        for e in seen.asked("migrate-start-postcopy", "src")
    )


@check(
    "cancel/pre-switchover",
    alias="I3",
    source=_CANCEL,
    since="2.11",
    scenario="cancel-pre-switchover",
    needs=("cap:pause-before-switchover",),
)
def cancel_pre_switchover(seen: Conversation) -> None:
    """migrate_cancel of a pre-copy in pre-switchover lets the guest run on on the source."""
    asked = _cancelled_in(seen, "pre-switchover")
    if _asked_for_postcopy(seen, asked):
        unseen("post-copy had been asked for")
    granted(asked)
    _in_precopy(seen, asked)


@check(
    "cancel/pre-switchover-postcopy",
    alias="I4",
    source=_CANCEL,
    since="2.11",
    scenario="cancel-pre-switchover-postcopy",
    needs=("cap:pause-before-switchover",),
)
def cancel_pre_switchover_postcopy(seen: Conversation) -> None:
    """migrate_cancel of a post-copy in pre-switchover lets the guest run on on the source."""
    asked = _cancelled_in(seen, "pre-switchover")
    if not _asked_for_postcopy(seen, asked):
        unseen("post-copy had not been asked for")
    granted(asked)
    _in_precopy(seen, asked)


@check("cancel/postcopy", alias="I5", source=_CANCEL, scenario="cancel-postcopy")
def cancel_postcopy(seen: Conversation) -> None:
    """migrate_cancel in post-copy is refused: there is no way back for the guest."""
    asked = _cancelled_in(seen, "postcopy-active", is_answered=False)
    if asked.reply is None:
        _died_of(seen, asked)
    refused(asked)
    if seen.is_own:
        alive(seen, "src")
    # Last: that the text is another one must not hide that the source dies.
    refused(asked, "Postcopy migration in progress, cannot cancel.")


def _died_of(seen: Conversation, asked: Exchange) -> NoReturn:
    """Tell how a source ended that did not answer; one that had ended before did not die of the question."""
    ends = [*seen.of("eof", "src"), *seen.of("proc", "src")]
    if not any(seen.is_before(line, asked.cmd) for line in ends):
        alive(seen, "src")
    unseen("the source did not answer")


@check(
    "cancel/paused",
    alias="I5",
    source=_CANCEL,
    since="3.0",
    scenario="cancel-paused",
    needs=("cmd:migrate-recover",),
)
def cancel_paused(seen: Conversation) -> None:
    """migrate_cancel of a broken post-copy is refused, and recovery still works."""
    asked = _cancelled_in(seen, "postcopy-paused")
    refused(asked)
    recovered(seen, asked.cmd)
    # Last: that the text is another one must not hide that recovery is impossible.
    refused(asked, "Postcopy migration in progress, cannot cancel.")


@check("cancel/on-destination", alias="I6", source=_CANCEL)
def cancel_on_destination(seen: Conversation) -> None:
    """migrate_cancel on a destination succeeds and has no effect on what comes in."""
    begin = first_of(seen.asked("migrate", "src"), "no migrate").cmd
    tries = [e for e in _cancels(seen, "dst") if seen.is_before(begin, e.cmd)]
    if seen.of("act"):
        unseen("the link or a side was taken away")
    asked = first_of(tries, "nobody cancelled on the destination")
    granted(asked)
    end = seen.first("src", *_ENDS)
    if end is None and seen.scenario != "post-copy":
        unseen("the migration had no end")
    completed(seen)


@check("cancel/at-random", alias="I7", source=_CANCEL, scenario="random-cancels")
def cancel_at_random(seen: Conversation) -> None:
    """A migrate_cancel at any time leaves the guest running on the source, or the migration completed; not all end in failed."""
    asked = [e for e in seen.asked("migrate", "src") if e.reply is not None]
    if len(asked) < 10 or len(_cancels(seen)) < 10:
        unseen("there were less than ten")
    alive(seen, "src")
    ends = []
    for begin, each in zip(asked, _cancels(seen)):
        granted(each)
        end = seen.first("src", *_ENDS, after=begin.cmd)
        if end is None:
            fail("an end", "none", begin, each)
        if end.status != "completed":
            _runs_on(seen, end, begin, each)
        ends.append(end)
    # That one ends in failed can be luck (cancel/active); that all do is none.
    require(any(end.status == "cancelled" for end in ends), "some end in cancelled", "all end in failed", *ends)  # fmt: skip


@check(
    "robust/migrate-on-destination",
    alias="J1",
    source="migration/migration.c migrate_prepare",
    scenario="migrate-on-destination",
)
def migrate_on_destination(seen: Conversation) -> None:
    """migrate on a destination in post-copy is refused, and what comes in goes on under its own status."""
    begin = switch(seen, "dst")
    end = seen.first("dst", "completed")
    tries = [
        e
        for e in seen.asked("migrate", "dst", after=begin)
        if end is None or seen.is_before(e.cmd, end)
    ]
    if not tries:
        unseen("nobody sent it")
    asked = tries[0]
    alive(seen, "dst")
    if asked.reply is None:
        fail("a refusal", "no answer", asked)
    refused(asked, weakly=False)
    for value, look in replies(seen, "dst"):
        if seen.is_before(asked.cmd, look.cmd):
            require(value.get("status") in ("postcopy-active", "completed"), "status postcopy-active", str(value.get("status")), asked, look)  # fmt: skip
            break
    completed(seen)


@check(
    "robust/stop-cont-with-blocktime",
    alias="J2",
    source="migration/postcopy-ram.c mark_postcopy_blocktime_begin",
    since="3.0",
    scenario="stop-cont-blocktime",
    needs=("cap:postcopy-blocktime",),
    accel="kvm",
)
def stop_and_cont(seen: Conversation) -> None:
    """Under KVM with blocktime a destination in post-copy survives many stop and cont."""
    begin = switch(seen, "dst")
    stops = seen.asked("stop", "dst", after=begin)
    if len(stops) < 20 and not [p for p in seen.of("proc", "dst") if p.msg.get("alive") is False]:  # fmt: skip
        unseen("it was not stopped often")
    alive(seen, "dst")


@check(
    "robust/abuse",
    alias="J3",
    source="docs/interop/qemu-qmp-ref",
    scenario="abuse-destination",
)
def abuse(seen: Conversation) -> None:
    """A destination in post-copy answers stop, cont and device_add, lives on, and completes."""
    begin = switch(seen, "dst")
    tries = [e for e in seen.exchanges if e.side == "dst" and e.name in ("stop", "cont", "device_add") and seen.is_before(begin, e.cmd)]  # fmt: skip
    if not any(e.name == "device_add" for e in tries):
        unseen("nobody abused it")
    for e in tries:
        require(e.reply is not None, "an answer", f"none to {e.name}", e, *seen.of("timeout", "dst"))  # fmt: skip
    completed(seen)


@check(
    "robust/reset",
    alias="J3",
    source="qapi/machine.json system_reset",
    scenario="reset-destination",
)
def reset(seen: Conversation) -> None:
    """A destination in post-copy that is told to reset does, the guest begins anew, and the migration completes."""
    begin = switch(seen, "dst")
    end = seen.first("dst", "completed")
    tries = [e for e in seen.asked("system_reset", "dst", after=begin) if end is None or seen.is_before(e.cmd, end)]  # fmt: skip
    asked = first_of(tries, "nobody reset it in post-copy")
    granted(asked)
    reached(seen, "dst", "RESET", asked.cmd)
    completed(seen)


@check(
    "loss/source-quits",
    alias="J4",
    source="docs/devel/migration/postcopy.rst, recovery",
    since="3.0",
    scenario="quit-source",
)
def source_quits(seen: Conversation) -> None:
    """When the source is told to quit in post-copy the destination pauses and lives, and the source ends without a crash."""
    begin = switch(seen)
    first_of(seen.asked("quit", "src", after=begin), "nobody told it to quit")
    reached(seen, "dst", "postcopy-paused")
    alive(seen, "dst")
    for line in seen.of("proc", "src"):
        rc = line.msg.get("rc")
        said = "it had to be killed" if rc is None else ending(rc)
        require(rc == 0, "exit status 0", said, line, *seen.of("stderr", "src"))


@check(
    "robust/multifd",
    alias="J5",
    source="migration/options.c migrate_caps_check",
    since="4.0",
    scenario="multifd",
    needs=("cap:multifd",),
)
def multifd(seen: Conversation) -> None:
    """Where multifd is accepted together with postcopy-ram, post-copy completes and nothing dies."""
    both = [
        e
        for e in seen.asked("migrate-set-capabilities", "src")
        if set_capabilities(e).get("multifd")
        and set_capabilities(e).get("postcopy-ram")
    ]
    asked = first_of(both, "it was not asked for")
    if not asked.is_ok:
        return  # refused, as 8.1 to 10.0 do
    switch(seen)
    completed(seen)


@check(
    "client/unknown-status",
    alias="J6",
    source="a client must tolerate statuses of later releases",
    scenario="post-copy",
)
def unknown_status(seen: Conversation) -> None:
    """A status that nobody has heard of, wherever it comes, leaves this package's own reading of the migration as it is."""
    switch(seen)
    if not seen.first("src", *_ENDS):
        unseen("the migration had no end")
    was = _read_by_us(seen, "")
    now = _read_by_us(seen, "postcopy-unheard-of")
    require(now == was, f"phase {was[0]}, guest on {was[1]}", f"phase {now[0]}, guest on {now[1]}")  # fmt: skip


def _read_by_us(seen: Conversation, odd: str) -> tuple[str, str]:
    """The phase, and the guest's place, in which our core ends.

    :param odd: A status that is announced after each that was, and that every answer has in the place of its own.
    """
    from libvirt_postcopy.events import Event, Side, StatsSeen, StatusSeen
    from libvirt_postcopy.migration import Migration
    from libvirt_postcopy.policy import parse
    from libvirt_postcopy.stats import Stats

    try:
        from libvirt_postcopy.vir.events import from_monitor
    except ImportError as error:  # all other checks can do without
        lacking(f"libvirt-python is not installed: {error}")

    sides = {"src": Side.SOURCE, "dst": Side.DESTINATION}
    answers = {id(e.reply): value for value, e in replies(seen, "src")}
    core = Migration(parse("manual"), 0.0)
    for line in seen.lines:
        events: list[Event] = []
        try:
            if line.side in sides and line.event in ("MIGRATION", "STOP", "RESUME"):
                side = sides[line.side]
                events += from_monitor(side, line.event, json.dumps(dict(line.data)))
                events += [StatusSeen(side, odd)] if odd and line.status else []
            if id(line) in answers:
                value = answers[id(line)]
                events.append(StatsSeen(Stats.from_query_migrate({**value, "status": odd} if odd else value)))  # fmt: skip
            for event in events:
                core.feed(event, line.t)
        except Exception as error:  # whatever it chokes on
            fail("it is kept", f"{type(error).__name__}: {error}", line)
    return core.phase.value, core.place.value


@check(
    "client/same-verdict",
    alias="J7",
    source="schemas/transcript.schema.json",
    scenario="*",
)
def same_when_replayed(seen: Conversation) -> None:
    """What was recorded, written and read again is the same conversation, and gets the verdicts that it had live."""
    from libvirt_postcopy.conformance import transcript

    text = transcript.dumps(seen)
    again = replace(transcript.loads(text, seen.name or "again"), facts=seen.facts)
    for one, two in zip(seen.lines, again.lines):
        if one.to_json() != two.to_json():
            fail(str(one), str(two), one, two)
    require(len(again.lines) == len(seen.lines), f"{len(seen.lines)} lines", f"{len(again.lines)}")  # fmt: skip
    live = seen.header.get("verdicts")
    was = live if isinstance(live, dict) else outcomes(seen)
    now = outcomes(again)
    for id in sorted({*was} & {*now}):
        require(was[id] == now[id], f"{id}: {was[id]}, as it was live", now[id])


@check(
    "blocker/reason",
    alias="J8",
    source="qapi/migration.json MigrationInfo blocked-reasons",
    since="6.0",
    scenario="blocker",
)
def blocker(seen: Conversation) -> None:
    """A device that cannot be migrated is named in blocked-reasons, and migrate is refused with that text."""
    reasons = [(v["blocked-reasons"], e) for v, e in replies(seen, "src") if v.get("blocked-reasons")]  # fmt: skip
    if not reasons:
        if seen.scenario == "blocker" and replies(seen, "src"):
            fail("blocked-reasons", "none", replies(seen, "src")[0][1])
        unseen("nothing was blocked")
    asked = first_of(seen.asked("migrate", "src"), "no migrate")
    refused(asked, *reasons[0][0], weakly=True)


@check(
    "blocker/vfio",
    alias="J8",
    source="hw/vfio/migration.c vfio_save_setup",
    since="8.2",
    scenario="vfio",
)
def vfio(seen: Conversation) -> None:
    """With a device of the host migrate is refused while postcopy-ram is set."""
    if not any("vfio-pci" in str(line.msg) for line in seen.of("argv", "src")):
        unseen("the guest had no device of the host")
    asked = first_of(seen.asked("migrate", "src"), "no migrate")
    refused(asked, "VFIO migration is not supported with postcopy migration")


@check(
    "guest/one-runs",
    alias="H13",
    source="docs/devel/migration/postcopy.rst",
    scenario=(
        "post-copy",
        "post-copy-autostart",
        "recover",
        "resume-to-nobody",
        "pause",
        "yank",
        "cancel-precopy",
        "preempt",
    ),
)
def one_runs(seen: Conversation) -> None:
    """The guest never runs on two sides."""
    need(seen.first("src", "active"), "no migration was active")
    at_most_one_runs(seen)


@check(
    "host/userfaultfd-denied",
    alias="A8",
    source="migration/postcopy-ram.c postcopy_ram_supported_by_host",
    since="2.7",
    scenario="no-userfaultfd",
)
def userfaultfd_denied(seen: Conversation) -> None:
    """Without userfaultfd a destination refuses postcopy-ram, leaves it off, and from 8.1 on says why."""
    if seen.scenario != "no-userfaultfd":
        unseen("userfaultfd was allowed")
    asked = first_of(
        seen.asked("migrate-set-capabilities", "dst"), "post-copy was not asked for"
    )
    refused(asked, "Postcopy is not supported")
    if seen.version >= (8, 1):
        require(
            "serfaultfd not available" in asked.desc,
            "the reason in the text",
            asked.desc,
            asked,
        )
    for e in seen.asked("query-migrate-capabilities", "dst", after=asked.cmd):
        states = {row["capability"]: row["state"] for row in e.value}
        require(not states.get("postcopy-ram"), "it stays off", "it is on", asked, e)
