"""What was said to QEMUs and by them: the one thing a check looks at, be it live, replayed or altered by a test.

A conversation is a header and lines; a line is ``t`` (seconds), ``side``, ``dir`` and ``msg``:

========== =================================================================================================
``dir``    ``msg``
========== =================================================================================================
argv       the command line that started this side
greeting   the monitor's first message
cmd        a command as it was sent
reply      its answer, ``return`` or ``error``
event      an event
proc       the process has ended or is being ended: ``{"rc": number or null, "alive": it had to be ended}``
stderr     the end of what it wrote to standard error
eof        the monitor's connection has ended
timeout    what was waited for in vain
act        what was done to this side from outside: cut, stall, kill
memory     the guest's memory on this side, compared with what the guest wrote
serial     what the guest said
skip       why this machine cannot do what the scenario needs
note       anything else
========== =================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from typing import Any

__all__ = ["Conversation", "Exchange", "Line", "MIGRATION", "greeted", "numbers"]

MIGRATION = "MIGRATION"
_DIGITS = 9


@dataclass(frozen=True)
class Line:
    """One line."""

    t: float
    side: str
    dir: str
    msg: Any
    number: int = 0  #: in its file, from 1

    @property
    def event(self) -> str:
        """The event's name, or empty."""
        if self.dir != "event" or not isinstance(self.msg, Mapping):
            return ""
        return _text(self.msg.get("event"))

    @property
    def status(self) -> str:
        """The status that a ``MIGRATION`` event announces, or empty."""
        return _text(self.data.get("status")) if self.event == MIGRATION else ""

    @property
    def data(self) -> Mapping[str, Any]:
        """An event's data."""
        data = self.msg.get("data") if isinstance(self.msg, Mapping) else None
        return data if isinstance(data, Mapping) else {}

    @property
    def stamp(self) -> float | None:
        """When QEMU says that its event happened, in seconds of its host's clock; None where it does not say."""
        said = self.msg.get("timestamp") if self.event else None
        if not isinstance(said, Mapping):
            return None
        seconds, rest = said.get("seconds"), said.get("microseconds")
        if not isinstance(seconds, int) or not isinstance(rest, int) or seconds < 0:
            return None
        return seconds + rest / 1e6

    def to_json(self) -> dict[str, Any]:
        return {"t": self.t, "side": self.side, "dir": self.dir, "msg": self.msg}

    def __str__(self) -> str:
        return f"{self.t:9.3f} {self.side or '-':4} {self.dir:8} {_short(self.msg)}"


@dataclass(frozen=True)
class Exchange:
    """A command and its answer."""

    cmd: Line
    reply: Line | None

    @property
    def side(self) -> str:
        return self.cmd.side

    @property
    def name(self) -> str:
        msg = self.cmd.msg if isinstance(self.cmd.msg, Mapping) else {}
        return _text(msg.get("execute", msg.get("exec-oob")))

    @property
    def is_oob(self) -> bool:
        return isinstance(self.cmd.msg, Mapping) and "exec-oob" in self.cmd.msg

    @property
    def arguments(self) -> Mapping[str, Any]:
        msg = self.cmd.msg if isinstance(self.cmd.msg, Mapping) else {}
        arguments = msg.get("arguments")
        return arguments if isinstance(arguments, Mapping) else {}

    @property
    def is_ok(self) -> bool:
        """QEMU did not refuse."""
        return self.reply is not None and "return" in self.reply.msg

    @property
    def value(self) -> Any:
        """What it returned; an empty mapping where it returned nothing of use."""
        return self.reply.msg.get("return", {}) if self.reply is not None else {}

    @property
    def error_class(self) -> str:
        return _text(self._error.get("class"))

    @property
    def desc(self) -> str:
        """The text of the refusal."""
        return _text(self._error.get("desc"))

    @property
    def _error(self) -> Mapping[str, Any]:
        error = self.reply.msg.get("error") if self.reply is not None else None
        return error if isinstance(error, Mapping) else {}

    @property
    def lines(self) -> tuple[Line, ...]:
        return (self.cmd,) if self.reply is None else (self.cmd, self.reply)

    @property
    def said(self) -> str:
        """The answer in a few words."""
        if self.reply is None:
            return "no answer"
        return _short(self.value) if self.is_ok else f"refused: {self.desc}"


@dataclass(frozen=True)
class Conversation:
    """All lines of a run, in the order in which they were seen."""

    header: Mapping[str, Any]
    lines: Sequence[Line]
    name: str = ""  #: of the file, for messages
    facts: Any = None  #: what its source says of itself, where that is known
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def scenario(self) -> str:
        return _text(self.header.get("scenario"))

    @property
    def is_own(self) -> bool:
        """Whether this suite drove it: then it says on which machine."""
        return "machine" in self.header

    @property
    def qemu(self) -> str:
        """The version, as ``7.2.22``."""
        return _text(self.header.get("qemu"))

    @cached_property
    def version(self) -> tuple[int, ...]:
        """For texts and for the table of known deviations, never to gate a check alone."""
        return numbers(self.qemu)[:3] or (0,)

    @cached_property
    def exchanges(self) -> tuple[Exchange, ...]:
        """Every command, with its answer where there is one.

        An answer belongs to the command of its id; without one, to the oldest of its monitor that has none.
        """
        return tuple(_paired(self.lines))

    def asked(
        self, name: str, side: str | None = None, *, after: Line | None = None
    ) -> list[Exchange]:
        """All uses of a command."""
        begin = 0 if after is None else self.index(after) + 1
        return [
            each
            for each in self.exchanges
            if each.name == name
            and (side is None or each.side == side)
            and self.index(each.cmd) >= begin
        ]

    def events(self, name: str | None = None, side: str | None = None) -> list[Line]:
        """All events, of a name and of a side."""
        return [
            line
            for line in self.lines
            if line.dir == "event"
            and (name is None or line.event == name)
            and (side is None or line.side == side)
        ]

    def statuses(self, side: str) -> list[str]:
        """What ``MIGRATION`` events said on a side."""
        return [line.status for line in self.events(MIGRATION, side)]

    def first(self, side: str, *names: str, after: Line | None = None) -> Line | None:
        """The first event that has one of the names, or announces one of the statuses."""
        begin = 0 if after is None else self.index(after) + 1
        return next(
            (
                line
                for line in self.lines[begin:]
                if line.side == side
                and line.dir == "event"
                and (line.event in names or line.status in names)
            ),
            None,
        )

    def of(self, kind: str, side: str | None = None) -> list[Line]:
        """All lines of one ``dir``."""
        return [
            line
            for line in self.lines
            if line.dir == kind and (side is None or line.side == side)
        ]

    def index(self, line: Line) -> int:
        """Where a line is among the lines."""
        if "places" not in self._cache:
            self._cache["places"] = {id(each): n for n, each in enumerate(self.lines)}
        found: int | None = self._cache["places"].get(id(line))
        return self.lines.index(line) if found is None else found

    def is_before(self, first: Line, second: Line) -> bool:
        return self.index(first) < self.index(second)

    @cached_property
    def as_it_happened(self) -> Sequence[Line]:
        """All lines, the events where QEMU's own clock puts them.

        Two monitors are read by two threads: what one side announced first may be seen last.  Both QEMUs of a pair have
        the clock of one host.  What has no time stays behind what was seen before it.
        """
        latest = 0.0
        keys = {}
        for line in self.lines:
            latest = max(latest, line.stamp or 0.0)
            keys[id(line)] = latest if line.stamp is None else line.stamp
        return sorted(self.lines, key=lambda line: keys[id(line)])

    @property
    def skip_reason(self) -> str:
        """Why this machine could not carry the scenario out, or empty."""
        return next((_text(line.msg) for line in self.of("skip")), "")


def numbers(version: str) -> tuple[int, ...]:
    """A version's numbers; it ends at what is none, also at one of more digits than any has."""
    parts = takewhile(lambda part: part.isdecimal() and len(part) <= _DIGITS, version.split("."))  # fmt: skip
    return tuple(map(int, parts))


def greeted(msg: Any) -> tuple[str, str]:
    """The version, as ``7.2.22``, and the package of which a greeting tells; empty where it does not."""
    qmp = msg.get("QMP") if isinstance(msg, Mapping) else None
    version = qmp.get("version") if isinstance(qmp, Mapping) else None
    number = version.get("qemu") if isinstance(version, Mapping) else None
    if not isinstance(version, Mapping) or not isinstance(number, Mapping):
        return "", ""
    parts = (str(number.get(part, 0)) for part in ("major", "minor", "micro"))
    return ".".join(parts), _text(version.get("package"))


def _paired(lines: Sequence[Line]) -> Iterator[Exchange]:
    """Match commands and answers, in the order of the commands."""
    answers: dict[int, Line] = {}
    waiting: dict[str, list[tuple[int, Line]]] = {}
    commands = []
    for n, line in enumerate(lines):
        queue = waiting.setdefault(line.side, [])
        if line.dir == "cmd":
            commands.append((n, line))
            queue.append((n, line))
        elif line.dir == "reply" and isinstance(line.msg, Mapping) and queue:
            place = next(
                (k for k, (_, c) in enumerate(queue) if _is_for(line, c)), None
            )
            if place is not None:
                answers[queue.pop(place)[0]] = line
        elif line.dir in ("timeout", "eof") and queue:
            queue.pop(0)
    for n, line in commands:
        yield Exchange(line, answers.get(n))


def _is_for(reply: Line, cmd: Line) -> bool:
    """An answer to a command that could not be read has no id."""
    if "id" not in reply.msg or not isinstance(cmd.msg, Mapping):
        return "id" not in reply.msg and (
            not isinstance(cmd.msg, Mapping) or "id" not in cmd.msg
        )
    return bool(reply.msg["id"] == cmd.msg.get("id", reply))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _short(value: Any, most: int = 160) -> str:
    import json

    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= most else f"{text[: most - 1]}…"
