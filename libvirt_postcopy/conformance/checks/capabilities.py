"""Which capabilities go together, and what happens when the two sides differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from libvirt_postcopy.conformance.checks.reading import (
    POSTCOPY,
    alive,
    at_most_one_runs,
    capability,
    completed,
    first_of,
    granted,
    need,
    reached,
    read_capabilities,
    refused,
    run_state,
    running,
    set_capabilities,
)
from libvirt_postcopy.conformance.evidence import Conversation, Exchange
from libvirt_postcopy.conformance.introspection import Facts
from libvirt_postcopy.conformance.known import in_range
from libvirt_postcopy.conformance.registry import (
    check,
    fail,
    require,
    unseen,
)

__all__: list[str] = []

_CAPS = "migration/options.c migrate_caps_check"
_PAIRS = "capability-pairs"


def _tries(seen: Conversation, partner: str) -> list[Exchange]:
    """Each time that post-copy was asked for in one list with a partner.

    What has no answer is, in a recording of our own, what the QEMU died of or hung at.
    """
    return [
        each
        for each in seen.asked("migrate-set-capabilities")
        if (each.reply is not None or seen.is_own)
        and set_capabilities(each).get(partner)
        and any(set_capabilities(each).get(name) for name in POSTCOPY)
        and not {"postcopy-preempt", "return-path"}
        & set_capabilities(each).keys() - {partner}
    ]


def _pair(seen: Conversation, partner: str, refused_in: str, *texts: str) -> None:
    tries = _tries(seen, partner)
    if not tries:
        unseen(f"post-copy was never asked for together with {partner}")
    for each in tries:
        if in_range(seen.version, refused_in):
            refused(each, *texts)
            _unchanged(seen, each)
        else:
            granted(each)


def _unchanged(seen: Conversation, each: Exchange) -> None:
    """A refused list leaves all as it was."""
    following = seen.asked("query-migrate-capabilities", each.side, after=each.cmd)
    others = seen.asked("migrate-set-capabilities", each.side, after=each.cmd)
    if not following or (others and seen.is_before(others[0].cmd, following[0].cmd)):
        return
    states, asked = read_capabilities(seen, each.side, each.cmd)
    for name in set_capabilities(each):
        if name in states:
            was = capability(seen, each.side, name, each.cmd)
            require(states[name] == was, f"{name} stays {was}", f"it is {states[name]}", each, asked)  # fmt: skip


def _register(
    alias: str, partner: str, since: str, refused_in: str, *texts: str
) -> None:
    def judge(seen: Conversation) -> None:
        _pair(seen, partner, refused_in, *texts)

    judge.__doc__ = (
        f"postcopy-ram together with {partner} is refused in QEMU {refused_in}, with nothing changed, and accepted in others."
        if refused_in
        else f"postcopy-ram together with {partner} is accepted."
    )
    check(f"capabilities/with-{partner}", alias=alias, source=_CAPS, since=since, scenario=_PAIRS, needs=(f"cap:{partner}",))(judge)  # fmt: skip


_register(
    "C1",
    "compress",
    "2.10",
    "2.10-4.2",
    "Postcopy is not currently compatible with compression",
)
_register(
    "C2", "multifd", "4.0", "8.1-10.0", "Postcopy is not yet compatible with multifd"
)
_register(
    "C3",
    "x-ignore-shared",
    "4.0",
    "4.0-",
    "Postcopy is not compatible with ignore-shared",
)
_register(
    "C4",
    "background-snapshot",
    "6.0",
    "6.0-",
    "Background-snapshot is not compatible with postcopy-ram",
)
_register(
    "C5",
    "mapped-ram",
    "9.0",
    "9.0-",
    "Mapped-ram migration is incompatible with postcopy",
)
_register(
    "C6",
    "zero-copy-send",
    "7.1",
    "7.1-",
    "Zero copy only available for non-compressed non-TLS multifd migration",
    "Zero copy only available for non-compressed multifd migration",
)


@check(
    "capabilities/preempt-alone",
    alias="C7",
    source=_CAPS,
    since="7.1",
    scenario=_PAIRS,
    needs=("cap:postcopy-preempt",),
)
def preempt_needs_postcopy(seen: Conversation) -> None:
    """postcopy-preempt without postcopy-ram is refused."""
    tries = [
        each
        for each in seen.asked("migrate-set-capabilities")
        if set_capabilities(each).get("postcopy-preempt")
        and not any(name in set_capabilities(each) for name in POSTCOPY)
        and not capability(seen, each.side, "postcopy-ram", each.cmd)
    ]
    refused(first_of(tries, "preempt was never asked for alone"), "Postcopy preempt requires postcopy-ram")  # fmt: skip


@check(
    "capabilities/preempt-accepted",
    alias="C8",
    source=_CAPS,
    since="7.1",
    scenario=_PAIRS,
    needs=("cap:postcopy-preempt",),
)
def preempt_with_postcopy(seen: Conversation) -> None:
    """postcopy-preempt together with postcopy-ram is accepted, whatever their order in the list."""
    tries = [
        each
        for each in seen.asked("migrate-set-capabilities")
        if set_capabilities(each).get("postcopy-preempt")
        and any(set_capabilities(each).get(name) for name in POSTCOPY)
        and not set_capabilities(each).keys()
        - {"postcopy-preempt", "events", *POSTCOPY}
    ]
    if not tries:
        unseen("preempt was never asked for together with post-copy")
    for each in tries:
        granted(each)


@check(
    "capabilities/preempt-with-compress",
    alias="C8",
    source=_CAPS,
    since="7.2",
    scenario=_PAIRS,
    needs=("cap:postcopy-preempt", "cap:compress"),
)
def preempt_with_compress(seen: Conversation) -> None:
    """postcopy-preempt together with compress is refused, with nothing changed."""
    tries = [e for e in seen.asked("migrate-set-capabilities") if {"postcopy-preempt", "compress"} <= set_capabilities(e).keys()]  # fmt: skip
    first_of(tries, "the two were never asked for together")
    for each in tries:
        refused(each, "Postcopy preempt not compatible with compress")
        _unchanged(seen, each)


_FREE = ("xbzrle", "release-ram", "return-path", "auto-converge", "dirty-bitmaps", "validate-uuid", "pause-before-switchover", "late-block-activate")  # fmt: skip


@check("capabilities/free-partners", alias="C9", source=_CAPS, scenario=_PAIRS)
def free_partners(seen: Conversation) -> None:
    """xbzrle, release-ram, return-path, auto-converge, dirty-bitmaps, validate-uuid, pause-before-switchover and late-block-activate go with post-copy."""
    tries = {partner: _tries(seen, partner) for partner in _FREE}
    if not any(tries.values()):
        unseen("post-copy was never asked for together with any of them")
    for each in chain.from_iterable(tries.values()):
        granted(each)
    alive(seen, "src", "dst")
    if seen.is_own and isinstance(seen.facts, Facts):
        _asked_on_both(tries, seen.facts)


def _asked_on_both(tries: Mapping[str, Sequence[Exchange]], facts: Facts) -> None:
    """Require that no partner that this QEMU has was left out."""
    for partner in facts.capabilities & tries.keys():
        sides = sorted({each.side for each in tries[partner]})
        require(sides == ["dst", "src"], f"{partner} asked for on both sides", f"on {' '.join(sides) or 'none'}")  # fmt: skip


@check(
    "capabilities/with-cpr",
    alias="C10",
    source="migration/migration.c migrate_prepare",
    since="8.2",
    scenario="cpr",
    needs=("param:mode",),
)
def cpr_and_postcopy(seen: Conversation) -> None:
    """migrate in a cpr mode is refused while postcopy-ram is set."""
    modes = [
        each
        for each in seen.asked("migrate-set-parameters", "src")
        if str(each.arguments.get("mode", "")).startswith("cpr") and each.is_ok
    ]
    if not modes:
        unseen("no cpr mode was set")
    asked = first_of(seen.asked("migrate", "src", after=modes[0].cmd), "no migrate in a cpr mode")  # fmt: skip
    refused(asked, "Cannot use postcopy with CPR")


@check(
    "capabilities/postcopy-off-under-preempt",
    alias="C11",
    source=_CAPS,
    since="7.1",
    scenario=_PAIRS,
    needs=("cap:postcopy-preempt",),
)
def postcopy_off_under_preempt(seen: Conversation) -> None:
    """postcopy-ram cannot be switched off while postcopy-preempt is on."""
    tries = [
        each
        for each in seen.asked("migrate-set-capabilities")
        if any(set_capabilities(each).get(name) is False for name in POSTCOPY)
        and "postcopy-preempt" not in set_capabilities(each)
        and capability(seen, each.side, "postcopy-preempt", each.cmd)
    ]
    refused(first_of(tries, "post-copy was never switched off under preempt"), "Postcopy preempt requires postcopy-ram")  # fmt: skip


@check("capabilities/last-wins", alias="C12", source=_CAPS, scenario="refusals")
def last_of_a_list_wins(seen: Conversation) -> None:
    """Of a capability that is twice in one list the last state holds."""
    for each in seen.asked("migrate-set-capabilities"):
        names = [
            row.get("capability") for row in each.arguments.get("capabilities", [])
        ]
        if len(names) == len(set(names)):
            continue
        granted(each)
        states, asked = read_capabilities(seen, each.side, each.cmd)
        for name, state in set_capabilities(each).items():
            require(states.get(name) == state, f"{name} is {state}", f"it is {states.get(name)}", each, asked)  # fmt: skip
        return
    unseen("no capability was twice in a list")


@check("capabilities/fixed-while-active", alias="C13", source=_CAPS)
def fixed_while_active(seen: Conversation) -> None:
    """A source refuses to change a capability while it migrates, and changes nothing."""
    begin = need(seen.first("src", "active"), "no migration was active")
    end = seen.first("src", "completed", "failed", "cancelled", after=begin)
    tries = [
        each
        for each in seen.asked("migrate-set-capabilities", "src", after=begin)
        if end is None or seen.is_before(each.cmd, end)
    ]
    each = first_of(tries, "no capability was set meanwhile")
    refused(each, "There's a migration process in progress", "There is a migration process in progress")  # fmt: skip
    _unchanged(seen, each)


@check(
    "capabilities/fixed-while-listening",
    alias="C14",
    source=_CAPS,
    since="8.1",
    scenario="listening",
)
def fixed_while_listening(seen: Conversation) -> None:
    """A destination that listens refuses to have postcopy-preempt or multifd switched on."""
    begin = first_of([e for e in seen.asked("migrate-incoming", "dst") if e.is_ok], "it never listened")  # fmt: skip
    tries = [
        each
        for each in seen.asked("migrate-set-capabilities", "dst", after=begin.cmd)
        if any(
            set_capabilities(each).get(name) for name in ("postcopy-preempt", "multifd")
        )
    ]
    if not tries:
        unseen("neither was switched on meanwhile")
    for each in tries:
        refused(each, "must be set before incoming starts", "must set before incoming starts", "Postcopy is not yet compatible with multifd")  # fmt: skip


@check(
    "capabilities/read-back",
    alias="C15",
    source="migration/migration.c qmp_migrate_set_capabilities",
    scenario=(_PAIRS, "refusals"),
)
def accepted_is_set(seen: Conversation) -> None:
    """What migrate-set-capabilities has accepted is what query-migrate-capabilities then says."""
    count = 0
    for each in seen.asked("migrate-set-capabilities"):
        following = seen.asked("query-migrate-capabilities", each.side, after=each.cmd)
        others = seen.asked("migrate-set-capabilities", each.side, after=each.cmd)
        if not each.is_ok or not following or (others and seen.is_before(others[0].cmd, following[0].cmd)):  # fmt: skip
            continue
        states, asked = read_capabilities(seen, each.side, each.cmd)
        for name, state in set_capabilities(each).items():
            require(states.get(name) == state, f"{name} reads back {state}", f"it reads back {states.get(name)}", each, asked)  # fmt: skip
        count += 1
    if not count:
        unseen("nothing that was accepted was read back")


def _only(seen: Conversation, name: str, side: str) -> None:
    """Go on only if a capability was set on one side."""
    begin = first_of(seen.asked("migrate", "src"), "no migrate").cmd
    other = "dst" if side == "src" else "src"
    if not capability(seen, side, name, begin) or capability(seen, other, name, begin):
        unseen(f"{name} was not on {side} alone")
    if not seen.first("src", "active"):
        unseen("the migration was never active")


@check(
    "mismatch/postcopy-source",
    alias="C16",
    source="migration/savevm.c loadvm_postcopy_handle_advise",
    since="2.10",
    scenario="mismatch-source",
)
def postcopy_on_source_alone(seen: Conversation) -> None:
    """With postcopy-ram on the source alone the migration fails before the switch and the guest runs on."""
    _only(seen, "postcopy-ram", "src")
    failed = reached(seen, "src", "failed")
    require(seen.first("src", "STOP") is None or seen.first("src", "RESUME"), "the guest runs on the source", "it was stopped there", seen.first("src", "STOP"))  # fmt: skip
    found = seen.asked("query-status", "src", after=failed)
    if found:
        status, asked = run_state(seen, "src", failed)
        require(status == "running", "the source's guest is running", status, asked)
    alive(seen, "src")


@check(
    "mismatch/postcopy-destination",
    alias="C17",
    source="docs/devel/migration/postcopy.rst",
    scenario="mismatch-destination",
)
def postcopy_on_destination_alone(seen: Conversation) -> None:
    """With postcopy-ram on the destination alone pre-copy completes."""
    _only(seen, "postcopy-ram", "dst")
    if seen.scenario != "mismatch-destination" and not seen.first("src", "completed"):
        unseen("the conversation ends before the migration does")
    require(seen.first("src", "postcopy-active") is None, "pre-copy", "post-copy", seen.first("src", "postcopy-active"))  # fmt: skip
    completed(seen)


@check(
    "mismatch/preempt-source",
    alias="C18",
    source="migration/postcopy-ram.c postcopy_preempt_establish_channel",
    since="7.1",
    scenario="mismatch-preempt-source",
    needs=("cap:postcopy-preempt",),
)
def preempt_on_source_alone(seen: Conversation) -> None:
    """With postcopy-preempt on the source alone no guest is lost and none runs twice."""
    _only(seen, "postcopy-preempt", "src")
    at_most_one_runs(seen)
    alive(seen, "src", "dst")
    waited = seen.of("timeout")
    end = seen.first("src", "completed", "failed", "postcopy-paused")
    if waited or end is None:
        fail("an end within 10 s", "it hangs", *seen.events("MIGRATION")[-2:], *waited)
    if end.status != "postcopy-paused":  # from there it can be recovered
        require(_running_at_the_end(seen), "the guest runs", "it runs nowhere", end)


def _running_at_the_end(seen: Conversation) -> frozenset[str]:
    """The sides on which the guest ran before the suite ended the two."""
    sides = frozenset({"src"})
    for line, found in running(seen):
        if line.dir == "proc":
            break
        sides = found
    return sides


@check(
    "mismatch/preempt-destination",
    alias="C19",
    source="migration/postcopy-ram.c",
    since="7.1",
    scenario="mismatch-preempt-destination",
    needs=("cap:postcopy-preempt",),
)
def preempt_on_destination_alone(seen: Conversation) -> None:
    """With postcopy-preempt on the destination alone the migration ends, well or with an error, and does not hang."""
    _only(seen, "postcopy-preempt", "dst")
    waited = seen.of("timeout", "src")
    end = seen.first("src", "completed", "failed", "postcopy-paused")
    if waited or (end is None and not seen.of("timeout")):
        fail("an end within 10 s", "it hangs", *seen.events("MIGRATION")[-2:], *waited)
    at_most_one_runs(seen)


@check(
    "mismatch/ram-size",
    alias="C20",
    source="migration/ram.c parse_ramblocks",
    scenario="mismatch-ram",
)
def different_memory(seen: Conversation) -> None:
    """To a destination with less RAM the migration fails and the guest runs on."""
    if seen.scenario != "mismatch-ram":
        unseen("the two have the same RAM")
    _fails_and_runs_on(seen)


def _fails_and_runs_on(seen: Conversation) -> None:
    failed = reached(seen, "src", "failed")
    status, asked = run_state(seen, "src", failed)
    require(status == "running", "the source's guest is running", status, asked)
    alive(seen, "src")


@check(
    "mismatch/machine",
    alias="C20",
    source="migration/savevm.c configuration_post_load",
    scenario="mismatch-machine",
)
def different_machine(seen: Conversation) -> None:
    """To a destination with another machine type the migration fails and the guest runs on."""
    if seen.scenario != "mismatch-machine":
        unseen("the two have the same machine type")
    _fails_and_runs_on(seen)


@check(
    "mismatch/page-size",
    alias="C20",
    source="migration/savevm.c loadvm_postcopy_handle_advise",
    since="2.9",
    scenario="mismatch-page-size",
)
def different_page_size(seen: Conversation) -> None:
    """To a destination whose RAM has pages of another size the migration fails before the switch and the guest runs on."""
    if seen.scenario != "mismatch-page-size":
        unseen("the two have pages of one size")
    _fails_and_runs_on(seen)
