"""What a QEMU says of itself, and the protocol."""

from __future__ import annotations

from collections.abc import Mapping

from libvirt_postcopy.conformance.checks.reading import (
    GENERIC,
    ram,
    replies,
    switch,
)
from libvirt_postcopy.conformance.evidence import Conversation, Exchange, Line
from libvirt_postcopy.conformance.introspection import Facts, Schema
from libvirt_postcopy.conformance.known import CAPABILITIES, STATUSES, Span
from libvirt_postcopy.conformance.registry import (
    Level,
    check,
    fail,
    inapplicable,
    require,
    unseen,
    weak,
)
from libvirt_postcopy.errors import NotSupportedError

__all__ = ["introspected"]

_MIGRATION = "qapi/migration.json"
_OOB = ("migrate-recover", "migrate-pause", "yank")
_INTRO = "introspection"


#: Never had one, or, as postcopy-blocktime and x-ignore-shared, not before 11.1.
_NO_PROPERTY = frozenset(["dirty-bitmaps", "late-block-activate", "pause-before-switchover", "postcopy-blocktime", "validate-uuid", "x-ignore-shared"])  # fmt: skip


def introspected(seen: Conversation) -> tuple[Facts, Schema]:
    """What this conversation tells about its source."""
    facts = Facts.from_conversation(seen)
    if facts.schema is None:
        unseen("no query-qmp-schema")
    return facts, facts.schema


def _asked(seen: Conversation, name: str) -> Exchange:
    found = [each for each in seen.asked(name, "src") if each.reply is not None]
    if not found:
        unseen(f"no {name}")
    return found[0]


@check(
    "introspection/lists-agree",
    alias="A1",
    source=f"{_MIGRATION} MigrationCapability",
    scenario=_INTRO,
)
def lists_agree(seen: Conversation) -> None:
    """Every capability of the schema is in query-migrate-capabilities, and no other, and has a property for -global; the same lists for parameters."""
    facts, schema = introspected(seen)
    asked = _asked(seen, "query-migrate-capabilities")
    enum = set(
        schema.values(
            schema.walk(
                "arg", "migrate-set-capabilities", "capabilities", "[]", "capability"
            )
        )
    )
    require(enum == facts.capabilities, f"the same names on both: {sorted(enum)}", f"only in one: {sorted(enum ^ facts.capabilities)}", asked)  # fmt: skip
    values = _asked(seen, "query-migrate-parameters")
    promised = set(schema.members(schema.walk("ret", "query-migrate-parameters")))
    extra = set(values.value) - promised
    require(not extra, f"only {sorted(promised)}", f"also {sorted(extra)}", values)
    for listed in seen.asked("device-list-properties", "src"):
        names = {str(row.get("name")).removeprefix("x-") for row in listed.value if isinstance(row, Mapping)}  # fmt: skip
        lacking = {name for name in facts.capabilities if name.removeprefix("x-") not in names}  # fmt: skip
        if names and not lacking <= _NO_PROPERTY:
            weak("a property of each", f"none of {sorted(lacking - _NO_PROPERTY)}", listed)  # fmt: skip


@check(
    "introspection/replies-follow-schema",
    alias="A2",
    source="query-qmp-schema",
    scenario="*",
)
def replies_follow_schema(seen: Conversation) -> None:
    """Every answer and event is as this QEMU's own schema promises: no member more, no mandatory one less."""
    from libvirt_postcopy.conformance.qmpschema import validator_of

    facts = seen.facts if isinstance(seen.facts, Facts) else None
    schema = facts.schema if facts else None
    if schema is None:
        schema = Facts.from_conversation(seen).schema
    if schema is None:
        unseen("the schema of this QEMU was not recorded")
    try:
        validator = validator_of(schema)
    except NotSupportedError as error:  # no jsonschema; all other checks can do without
        unseen(str(error))
    checked = 0
    for exchange in seen.exchanges:
        if (
            exchange.reply is None
            or not exchange.is_ok
            or exchange.name not in schema.by_name
        ):
            continue
        if exchange.side == "dst" and _is_other(seen):
            continue  # another one's schema
        problem = validator.reply(exchange.name, exchange.value)
        require(
            not problem, f"{exchange.name} as in query-qmp-schema", problem, exchange
        )
        checked += 1
    for line in seen.events():
        if line.side == "dst" and _is_other(seen):
            continue
        problem = validator.event(line.msg)
        require(not problem, f"{line.event} as in query-qmp-schema", problem, line)
        checked += 1
    if not checked:
        unseen("nothing was said")


def _is_other(seen: Conversation) -> bool:
    """Whether the destination is another QEMU than the source."""
    return (
        seen.scenario == "cross"
        or seen.header.get("destination", seen.qemu) != seen.qemu
    )


def _compare(
    found: frozenset[str],
    table: Mapping[str, Span],
    seen: Conversation,
    what: str,
    asked: Exchange,
) -> None:
    version = seen.version[:2]
    expected = {name for name, span in table.items() if span.covers(version)}
    require(
        expected <= found,
        f"{what}: {sorted(expected)}",
        f"without {sorted(expected - found)}",
        asked,
    )
    extra = found - expected
    if extra:
        weak(f"{what} as released so far", f"also {sorted(extra)}", asked)


@check(
    "introspection/capabilities",
    alias="A3",
    source=f"{_MIGRATION} MigrationCapability, since of each",
    scenario=_INTRO,
)
def capabilities_of_the_version(seen: Conversation) -> None:
    """The capabilities are those of the version, by their own documentation."""
    facts, _ = introspected(seen)
    _compare(
        facts.capabilities,
        CAPABILITIES,
        seen,
        "capabilities",
        _asked(seen, "query-migrate-capabilities"),
    )


@check(
    "introspection/statuses",
    alias="A4",
    source=f"{_MIGRATION} MigrationStatus, since of each",
    scenario=_INTRO,
)
def statuses_of_the_version(seen: Conversation) -> None:
    """The migration statuses are those of the version, by their own documentation."""
    facts, _ = introspected(seen)
    _compare(
        facts.statuses, STATUSES, seen, "statuses", _asked(seen, "query-qmp-schema")
    )


@check(
    "introspection/out-of-band",
    alias="A5",
    source=f"{_MIGRATION} migrate-recover, allow-oob",
    since="3.0",
    scenario=_INTRO,
    needs=("cmd:migrate-recover",),
)
def out_of_band_commands(seen: Conversation) -> None:
    """Of migration's commands exactly migrate-recover, migrate-pause and yank may be sent out of band."""
    facts, schema = introspected(seen)
    wanted = {name for name in _OOB if name in facts.commands}
    found = {
        name
        for name, entry in schema.by_name.items()
        if entry.get("meta-type") == "command"
        and entry.get("allow-oob")
        and ("migrat" in name or name == "yank")
    }
    require(
        found == wanted,
        f"{sorted(wanted)}",
        f"{sorted(found)}",
        _asked(seen, "query-qmp-schema"),
    )


_REMOVALS = {
    ("cap", "block"): Span("8.2", "9.0"),
    ("cap", "compress"): Span("8.2", "9.0"),
    ("cap", "zero-blocks"): Span("9.2", "10.2"),
    ("arg", "detach"): Span("10.1", "10.2"),
    ("arg", "blk"): Span("8.2", "9.0"),
    ("cmd", "query-migrationthreads"): Span("9.2", "10.2"),
}


@check(
    "introspection/deprecation",
    alias="A6",
    source="docs/about/deprecated.rst",
    since="8.2",
    scenario=_INTRO,
)
def removals_are_announced(seen: Conversation) -> None:
    """What the next release pair removes carries the feature deprecated in the schema."""
    _, schema = introspected(seen)
    due = [key for key, span in _REMOVALS.items() if span.covers(seen.version[:2])]
    if not due:
        inapplicable("this version announces no removal that is known here")
    enum = schema.walk(
        "arg", "migrate-set-capabilities", "capabilities", "[]", "capability"
    )
    rows = {"cap": schema.members(enum), "arg": schema.members(schema.walk("arg", "migrate")), "cmd": schema.by_name}  # fmt: skip
    for kind, name in due:
        features = rows[kind].get(name, {}).get("features") or []
        require("deprecated" in features, f"{name} is marked deprecated", f"features of {name}: {features}", _asked(seen, "query-qmp-schema"))  # fmt: skip


@check(
    "introspection/no-old-name",
    alias="A7",
    source="QEMU 2.6: x-postcopy-ram was renamed",
    scenario=_INTRO,
)
def one_name_for_postcopy(seen: Conversation) -> None:
    """Post-copy has one name: x-postcopy-ram in 2.5, postcopy-ram from 2.6 on."""
    found = {
        row.get("capability")
        for each in seen.asked("query-migrate-capabilities")
        for row in (each.value if isinstance(each.value, list) else [])
    } & {"postcopy-ram", "x-postcopy-ram"}
    if not seen.asked("query-migrate-capabilities"):
        unseen("no query-migrate-capabilities")
    wanted = {"x-postcopy-ram"} if seen.version < (2, 6) else {"postcopy-ram"}
    require(found == wanted, f"{wanted}", f"{found or 'neither'}", _asked(seen, "query-migrate-capabilities"))  # fmt: skip


@check(
    "introspection/migrationthreads",
    alias="A9",
    source=f"{_MIGRATION} query-migrationthreads",
    since="7.2",
    scenario=_INTRO,
    level=Level.SHOULD,
)
def documented_commands_are_there(seen: Conversation) -> None:
    """query-migrationthreads is there in the versions for which it is documented, 7.2 to 10.2."""
    asked = _asked(seen, "query-commands")
    present = any(row.get("name") == "query-migrationthreads" for row in asked.value)
    wanted = Span("7.2", "10.2").covers(seen.version[:2])
    require(present == wanted, f"{'present' if wanted else 'absent'} in {seen.qemu}", "present" if present else "absent", asked)  # fmt: skip


@check(
    "protocol/greeting",
    alias="B1",
    source="docs/interop/qmp-spec.rst, server greeting",
    scenario=_INTRO,
)
def greeting(seen: Conversation) -> None:
    """The greeting has the version as numbers, and offers oob from 4.0 on."""
    lines = seen.of("greeting", "src")
    if not lines:
        unseen("no greeting")
    qmp = lines[0].msg.get("QMP", {})
    number = qmp.get("version", {}).get("qemu", {})
    require(
        all(isinstance(number.get(part), int) for part in ("major", "minor", "micro"))
        and isinstance(qmp.get("version", {}).get("package"), str),
        "version.qemu as three integers, package as text",
        str(qmp.get("version")),
        lines[0],
    )
    offers = "oob" in qmp.get("capabilities", [])
    require(offers == ((number["major"], number["minor"]) >= (4, 0)), "oob offered from 4.0 on, not before", f"capabilities {qmp.get('capabilities')}", lines[0])  # fmt: skip


@check(
    "protocol/oob-unnegotiated",
    alias="B2",
    source="docs/interop/qmp-spec.rst, out-of-band",
    since="4.0",
    scenario=_INTRO,
)
def oob_without_negotiation(seen: Conversation) -> None:
    """exec-oob on a monitor that has not enabled oob is an error, and the monitor goes on."""
    enabled = any("oob" in each.arguments.get("enable", []) for each in seen.asked("qmp_capabilities", "src"))  # fmt: skip
    sent = [each for each in seen.exchanges if each.is_oob and each.side == "src"]
    if enabled or not sent:
        unseen("nothing was sent out of band without negotiation")
    require(sent[0].reply is not None, "an error", "no answer", sent[0])
    require(not sent[0].is_ok and sent[0].error_class == GENERIC, "an error", sent[0].said, sent[0])  # fmt: skip
    later = seen.asked("query-status", "src", after=sent[0].cmd)
    require(any(each.is_ok and not each.is_oob for each in later), "the monitor answers on", "it does not", sent[0])  # fmt: skip


@check(
    "protocol/ids", alias="B3", source="docs/interop/qmp-spec.rst, id", scenario=_INTRO
)
def ids_come_back(seen: Conversation) -> None:
    """Whatever JSON a command has as id comes back with the answer."""
    sent = [line for line in seen.of("cmd") if isinstance(line.msg, Mapping) and not isinstance(line.msg.get("id", 0), int)]  # fmt: skip
    sent = [line for line in sent if "exec-oob" not in line.msg]
    if not sent:
        unseen("no command had an id that is not a number")
    back = [line.msg.get("id") for line in seen.of("reply")]
    for line in sent:
        require(
            line.msg["id"] in back,
            f"an answer with the id {line.msg['id']}",
            "none",
            line,
        )


@check(
    "protocol/timestamps",
    alias="B4",
    source="docs/interop/qmp-spec.rst, events",
    scenario="*",
)
def timestamps(seen: Conversation) -> None:
    """Every event has seconds and microseconds, which do not go back on one monitor by a second or more (less is weak)."""
    events = seen.events()
    if not events or seen.header.get("format") == 1:
        unseen("no event, or the times were taken away")
    last: dict[str, float] = {}
    # QEMU reads the clock before it waits for its monitors: a thread that is preempted there is overtaken by another's event.
    overtaken: tuple[float, float, Line] | None = None
    for line in events:
        stamp = line.msg.get("timestamp")
        ok = isinstance(stamp, Mapping) and all(isinstance(stamp.get(part), int) for part in ("seconds", "microseconds"))  # fmt: skip
        require(ok, "timestamp with seconds and microseconds", str(stamp), line)
        when = stamp["seconds"] + stamp["microseconds"] / 1e6
        before = last.get(line.side, 0.0)
        require(before - when < 1, f"{before:.6f} or later", f"{when:.6f}", line)
        if when < before:
            overtaken = before, when, line
        last[line.side] = max(before, when)
    if overtaken:
        before, when, line = overtaken
        weak(f"{before:.6f} or later", f"{when:.6f}", line)


@check("protocol/two-monitors", alias="B5", source="docs/interop/qmp-spec.rst, events")
def two_monitors(seen: Conversation) -> None:
    """Two monitors of one QEMU get the same events in the same order."""
    for side in ("src", "dst"):
        one, two = ([(e.event, dict(e.data)) for e in seen.events(side=name)] for name in (side, f"{side}-2"))  # fmt: skip
        if not seen.of("greeting", f"{side}-2"):
            unseen(f"{side} has one monitor only")
        few = min(len(one), len(two))
        require(one[:few] == two[:few] and abs(len(one) - len(two)) <= 1, f"the same on both: {one}", f"the other got {two}", *seen.events(side=f"{side}-2"))  # fmt: skip


@check(
    "protocol/events-off",
    alias="B6",
    source=f"{_MIGRATION} MigrationCapability events",
    scenario="events-off",
)
def events_off(seen: Conversation) -> None:
    """With the capability events off there is no MIGRATION and no MIGRATION_PASS, while STOP is still sent."""
    asked = seen.asked("migrate", "src")
    on = [
        each
        for each in seen.asked("migrate-set-capabilities")
        if any(row.get("capability") == "events" and row.get("state") for row in each.arguments.get("capabilities", []))  # fmt: skip
    ]
    if on or not asked:
        unseen("the capability events was on")
    stop = seen.first("src", "STOP")
    require(stop, "STOP on the source", "none")
    for line in (*seen.events("MIGRATION"), *seen.events("MIGRATION_PASS")):
        allowed = line.side == "dst" and line.status == "setup" and seen.version < (10, 0)  # fmt: skip
        require(allowed, "no MIGRATION event (up to 9.2: one, setup, when the destination listens)", str(line.msg), line)  # fmt: skip


@check(
    "protocol/polling", alias="B7", source=f"{_MIGRATION} query-migrate", since="2.7"
)
def polling(seen: Conversation) -> None:
    """query-migrate, asked as fast as it answers, is always well-formed, and its counters never fall."""
    switch(seen)
    last: dict[str, int] = {}
    count = 0
    for value, asked in replies(seen, "src"):
        if value.get("status") not in ("active", "postcopy-active", "completed", "device", "postcopy-device"):  # fmt: skip
            continue
        count += 1
        for name in ("transferred", "postcopy-requests", "normal-bytes", "duplicate"):
            now = ram(value).get(name)
            if now is None:
                continue
            require(isinstance(now, int) and now >= last.get(name, 0), f"{name} at least {last.get(name, 0)}", str(now), asked)  # fmt: skip
            last[name] = now
    if count < 3:
        unseen("it was asked less than three times")


@check(
    "protocol/oob-while-stuck",
    alias="B8",
    source=f"{_MIGRATION} migrate-recover, allow-oob",
    since="4.0",
    scenario=("recover", "pause"),
    needs=("cmd:migrate-recover",),
)
def oob_while_stuck(seen: Conversation) -> None:
    """A destination whose guest waits for a page answers migrate-recover, sent out of band, within a second."""
    sent = [each for each in seen.asked("migrate-recover", "dst") if each.is_oob]
    if not sent:
        unseen("no migrate-recover was sent out of band")
    for each in sent:
        if each.reply is None:
            fail("an answer within 1 s", "none", each)
        took = each.reply.t - each.cmd.t
        if took > 1:  # one that waits for a page waits for ever
            weak("an answer within 1 s", f"after {took:.2f} s", each)
