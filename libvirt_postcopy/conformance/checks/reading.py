"""What several checks read out of a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from libvirt_postcopy.conformance.evidence import Conversation, Exchange, Line
from libvirt_postcopy.conformance.introspection import Facts
from libvirt_postcopy.conformance.known import Span
from libvirt_postcopy.conformance.registry import fail, require, unseen, weak

GENERIC = "GenericError"
POSTCOPY = ("postcopy-ram", "x-postcopy-ram")
ACTIVE = "postcopy-active"


def switch(seen: Conversation, side: str = "src") -> Line:
    """The event with which post-copy began."""
    line = seen.first(side, ACTIVE)
    if line is None:
        unseen(f"{side} announced no postcopy-active")
    return line


def need(line: Line | None, what: str) -> Line:
    """Go on only if a line is there."""
    if line is None:
        unseen(what)
    return line


def reached(
    seen: Conversation, side: str, name: str, after: Line | None = None
) -> Line:
    """Require an event, or a status announced by one."""
    line = seen.first(side, name, after=after)
    if line is None:
        fail(
            f"{side} announces {name}",
            f"{side} announced {' '.join(_after(seen, side, after)) or 'nothing'}",
            *_last_words(seen, side),
        )
    return line


def _after(seen: Conversation, side: str, after: Line | None) -> list[str]:
    begin = 0 if after is None else seen.index(after) + 1
    return [
        line.status or line.event
        for line in seen.lines[begin:]
        if line.side == side and line.dir == "event"
    ]


def _last_words(seen: Conversation, side: str) -> list[Line]:
    return [
        line
        for line in seen.lines
        if line.side == side and line.dir in ("proc", "stderr", "timeout")
    ]


def order(seen: Conversation, side: str, *names: str) -> None:
    """Require that events, or statuses announced by events, come in an order."""
    lines = [seen.first(side, name) for name in names]
    for name, line in zip(names, lines):
        if line is None:
            fail(f"{side}: {' '.join(names)}", f"no {name}", *seen.events(side=side))
    places = [seen.index(line) for line in lines if line is not None]
    require(
        places == sorted(places),
        f"{side}: {' '.join(names)}",
        " ".join(name for _, name in sorted(zip(places, names))),
        *lines,
    )


def first_of(exchanges: Sequence[Exchange], what: str) -> Exchange:
    """The first use of a command in the state that a check is about."""
    answered = [each for each in exchanges if each.reply is not None]
    if not answered:
        unseen(what)
    return answered[0]


def refused(exchange: Exchange, *texts: str, weakly: bool = True) -> None:
    """Require a refusal of the generic class; another text than those released so far is weak."""
    require(not exchange.is_ok, "a refusal", exchange.said, exchange)
    require(
        exchange.error_class == GENERIC,
        f"class {GENERIC}",
        f"class {exchange.error_class}: {exchange.desc}",
        exchange,
    )
    if texts and not any(text in exchange.desc for text in texts) and weakly:
        weak(" or ".join(texts), exchange.desc, exchange)


def granted(exchange: Exchange) -> None:
    """Require that QEMU did not refuse."""
    require(exchange.is_ok, "no refusal", exchange.said, exchange)


def set_capabilities(exchange: Exchange) -> dict[str, bool]:
    """What a ``migrate-set-capabilities`` asked for; the last of a name counts."""
    rows = exchange.arguments.get("capabilities")
    return {
        str(row.get("capability")): bool(row.get("state"))
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, Mapping)
    }


def capability(seen: Conversation, side: str, name: str, at: Line) -> bool:
    """Whether a capability had been set before a line."""
    names = POSTCOPY if name == "postcopy-ram" else (name,)
    state = False
    for exchange in seen.asked("migrate-set-capabilities", side):
        if seen.is_before(exchange.cmd, at) and exchange.is_ok:
            for key, value in set_capabilities(exchange).items():
                state = value if key in names else state
    return state


def read_capabilities(
    seen: Conversation, side: str, after: Line
) -> tuple[Mapping[str, bool], Exchange]:
    """What a QEMU said of its capabilities next."""
    for exchange in seen.asked("query-migrate-capabilities", side, after=after):
        if exchange.is_ok and isinstance(exchange.value, list):
            return {
                str(row.get("capability")): bool(row.get("state"))
                for row in exchange.value
                if isinstance(row, Mapping)
            }, exchange
    return unseen(f"the capabilities of {side} were not read back")


def replies(
    seen: Conversation, side: str, *statuses: str
) -> list[tuple[Mapping[str, Any], Exchange]]:
    """``query-migrate`` answers, with one of the statuses."""
    return [
        (exchange.value, exchange)
        for exchange in seen.asked("query-migrate", side)
        if exchange.is_ok
        and isinstance(exchange.value, Mapping)
        and (not statuses or exchange.value.get("status") in statuses)
    ]


def last_reply(
    seen: Conversation, side: str, *statuses: str
) -> tuple[Mapping[str, Any], Exchange]:
    found = replies(seen, side, *statuses)
    if not found:
        unseen(f"no query-migrate of {side} with status {' or '.join(statuses)}")
    return found[-1]


def ram(value: Mapping[str, Any]) -> Mapping[str, Any]:
    found = value.get("ram")
    return found if isinstance(found, Mapping) else {}


def has_status(seen: Conversation, name: str, since: str) -> bool:
    """Whether this QEMU has a status: by its own schema; by its release only where that was not recorded."""
    if isinstance(seen.facts, Facts) and seen.facts.is_told:
        return seen.facts.has(f"status:{name}")
    return Span(since).covers(seen.version)


def run_states(
    seen: Conversation, side: str, after: Line | None = None
) -> list[tuple[str, Exchange]]:
    """``query-status`` answers."""
    return [
        (str(exchange.value.get("status")), exchange)
        for exchange in seen.asked("query-status", side, after=after)
        if exchange.is_ok and isinstance(exchange.value, Mapping)
    ]


def run_state(
    seen: Conversation, side: str, after: Line | None = None
) -> tuple[str, Exchange]:
    """The first ``query-status`` answer after a line."""
    found = run_states(seen, side, after)
    if not found:
        unseen(f"nobody asked {side} for its run state")
    return found[0]


def was_killed(seen: Conversation, side: str) -> bool:
    """Whether the suite itself had killed it."""
    return any("killed" in str(line.msg) for line in seen.of("act", side))


def alive(seen: Conversation, *sides: str) -> None:
    """Require that no QEMU ended by itself, and that each answered."""
    for side in sides:
        for line in seen.of("proc", side):
            if line.msg.get("alive") is False and not was_killed(seen, side):
                fail(
                    f"{side} lives",
                    f"{side} ended by itself: {ending(line.msg.get('rc'))}",
                    line,
                    *seen.of("stderr", side),
                )
        for line in seen.of("timeout", side):
            if str(line.msg).startswith("an answer"):
                fail(f"{side} answers", f"{side} hangs: {line.msg}", line)


def ending(rc: Any) -> str:
    """How a process ended, in words."""
    return f"signal {-rc}" if isinstance(rc, int) and rc < 0 else f"exit status {rc}"


def memory_right(seen: Conversation) -> None:
    """Require that the guest's memory was compared and right."""
    found = seen.of("memory")
    if not found:
        fail("the guest's memory is right after completion", "it never came to that", *(_last_words(seen, "dst") + _last_words(seen, "src")))  # fmt: skip
    for line in found:
        require(
            not line.msg.get("bad-pages") and line.msg.get("edges", 0) <= 1,
            "every page right, at most one edge",
            f"{line.msg.get('bad-pages')} bad pages of {line.msg.get('pages')}, {line.msg.get('edges')} edges: {'; '.join(line.msg.get('bad', []))}",
            line,
        )


def completed(seen: Conversation, after: Line | None = None) -> None:
    """Require that a migration came to its end on both sides, with the guest's memory right."""
    alive(seen, "src", "dst")
    reached(seen, "src", "completed", after)
    reached(seen, "dst", "completed", after)
    memory_right_if_compared(seen)


def recovered(seen: Conversation, after: Line) -> None:
    """Require that recovery of a broken post-copy was accepted and came to its end.

    Our own scenarios try it, and end early where ``migrate-recover`` is refused; anybody else need not have tried.
    """
    resumes = [e for e in seen.asked("migrate", "src", after=after) if e.arguments.get("resume")]  # fmt: skip
    if not seen.is_own and not resumes:
        return
    alive(seen, "src", "dst")
    if seen.is_own:
        for what, tries in (
            ("migrate-recover", seen.asked("migrate-recover", "dst", after=after)),
            ("a resume", resumes),
        ):
            if not tries:
                fail(f"{what} on the way to recovery", "it was not sent", after)
            granted(tries[-1])
    completed(seen, after)


def memory_right_if_compared(seen: Conversation) -> None:
    """Require that the guest's memory is right; our own recordings have it compared after every completed migration."""
    if seen.is_own or seen.of("memory"):
        memory_right(seen)


def running(seen: Conversation) -> Iterator[tuple[Line, frozenset[str]]]:
    """After each line that changes it: the sides on which the guest runs."""
    sides: set[str] = set()
    if any(line.dir == "greeting" and line.side == "src" for line in seen.lines):
        sides.add("src")
    for line in seen.as_it_happened:
        if "-" in line.side:  # a second monitor of a side
            continue
        before = set(sides)
        if line.event == "RESUME":
            sides.add(line.side)
        elif line.event in ("STOP", "SHUTDOWN") or line.dir in ("eof", "proc"):
            sides.discard(line.side)
        if sides != before:
            yield line, frozenset(sides)


def at_most_one_runs(seen: Conversation) -> None:
    """Require that the guest never ran on two sides."""
    for line, sides in running(seen):
        require(
            len(sides) <= 1,
            "the guest runs on one side at most",
            f"it runs on {' and '.join(sorted(sides))}",
            line,
            *[e.reply for s in ("src", "dst") for _, e in run_states(seen, s)[-1:]],
        )
