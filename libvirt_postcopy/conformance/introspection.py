"""What one QEMU says it can do; checks are gated on this, never on a version alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from libvirt_postcopy.conformance.evidence import Conversation

__all__ = ["Facts", "QUESTIONS", "Schema"]

Entry = Mapping[str, Any]

QUESTIONS = (
    "query-version",
    "query-commands",
    "query-qmp-schema",
    "query-migrate-capabilities",
    "query-migrate-parameters",
    "query-machines",
    "query-migrate",
    "query-status",
)
"""What a QEMU is asked about itself, in this order."""


class Schema:
    """``query-qmp-schema``, by name.

    Types have masked names that change with each build, so everything is reached from a command or an event.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.by_name: dict[str, Entry] = {
            entry["name"]: entry
            for entry in entries
            if isinstance(entry, Mapping) and isinstance(entry.get("name"), str)
        }

    def entry(self, name: str, kind: str) -> Entry:
        """A command or an event; empty where there is none."""
        found = self.by_name.get(name, {})
        return found if found.get("meta-type") == kind else {}

    def type(self, name: Any) -> Entry:
        return self.by_name.get(name, {}) if isinstance(name, str) else {}

    def member(self, entry: Entry, name: str) -> Entry:
        """The type of a member of an object."""
        for member in self._members(entry):
            if member.get("name") == name:
                return self.type(member.get("type"))
        return {}

    def _members(self, entry: Entry) -> Iterator[Entry]:
        members = entry.get("members")
        for member in members if isinstance(members, list) else []:
            if isinstance(member, Mapping):
                yield member

    def members(self, entry: Entry) -> dict[str, Entry]:
        """An object's own members, by name."""
        return {str(m.get("name")): m for m in self._members(entry)}

    def values(self, entry: Entry) -> list[str]:
        """What an enum can be."""
        values = entry.get("values")
        if isinstance(values, list):
            return [v for v in values if isinstance(v, str)]
        return [str(m.get("name")) for m in self._members(entry)]

    def walk(self, kind: str, name: str, *path: str) -> Entry:
        """Follow members from the argument or reply of a command, or the data of an event.

        :param kind: ``arg``, ``ret`` or ``event``.
        :param path: Member names; ``[]`` goes to an array's elements.
        """
        entry = self.entry(name, "event" if kind == "event" else "command")
        found = self.type(entry.get("ret-type" if kind == "ret" else "arg-type"))
        for step in path:
            found = (
                self.type(found.get("element-type"))
                if step == "[]"
                else self.member(found, step)
            )
        return found


@dataclass(frozen=True)
class Facts:
    """A QEMU as it describes itself."""

    version: tuple[int, ...] = (0,)
    capabilities: frozenset[str] = frozenset()
    commands: frozenset[str] = frozenset()
    parameters: frozenset[str] = frozenset()
    statuses: frozenset[str] = frozenset()
    arguments: frozenset[str] = frozenset()  #: ``command/argument``
    machines: frozenset[str] = frozenset()
    default_machine: str = "pc"
    left_out: frozenset[str] = frozenset()  #: what this build of it was made without
    package: str = ""
    schema: Schema | None = field(default=None, compare=False)

    @property
    def is_told(self) -> bool:
        """Whether it was asked for its features; if not, only its version says what it has."""
        return self.schema is not None

    @property
    def text(self) -> str:
        return ".".join(map(str, self.version))

    def has(self, need: str) -> bool:
        """Whether a feature is there.

        :param need: ``cap:NAME``, ``cmd:NAME``, ``param:NAME``, ``status:NAME``, ``arg:COMMAND/NAME``, or
            ``build:NAME``, which no release promises.
        """
        kind, _, name = need.partition(":")
        if kind == "build":
            return name not in self.left_out
        where: Mapping[str, frozenset[str]] = {
            "cap": self.capabilities,
            "cmd": self.commands,
            "param": self.parameters,
            "status": self.statuses,
            "arg": self.arguments,
        }
        if name == "postcopy-ram" and kind == "cap":
            return bool({"postcopy-ram", "x-postcopy-ram"} & self.capabilities)
        return name in where[kind]

    @classmethod
    def from_conversation(cls, seen: Conversation) -> Facts:
        """Read what a conversation tells of its source."""
        schema = _schema(seen)
        version = seen.version
        machines = _rows(seen, "query-machines")
        return cls(
            version=version,
            capabilities=_names(seen, "query-migrate-capabilities", "capability"),
            commands=_names(seen, "query-commands", "name"),
            parameters=(
                frozenset(schema.members(schema.walk("arg", "migrate-set-parameters")))
                if schema
                else frozenset()
            ),
            statuses=(
                frozenset(schema.values(schema.walk("ret", "query-migrate", "status")))
                if schema
                else frozenset()
            ),
            arguments=frozenset(_arguments(schema)) if schema else frozenset(),
            machines=frozenset(str(m.get("name")) for m in machines)
            | frozenset(str(m["alias"]) for m in machines if "alias" in m),
            default_machine=next(
                (str(m.get("name")) for m in machines if m.get("is-default")), "pc"
            ),
            left_out=frozenset(_left_out(seen)),
            package=str(seen.header.get("package", "")),
            schema=schema,
        )


def _arguments(schema: Schema) -> Iterator[str]:
    for name, entry in schema.by_name.items():
        if entry.get("meta-type") == "command":
            for member in schema.members(schema.walk("arg", name)):
                yield f"{name}/{member}"


def _left_out(seen: Conversation) -> Iterator[str]:
    """What it says that it was built without; the types of TLS credentials are listed all the same."""
    for exchange in seen.asked("object-add", "src"):
        if "requires GNUTLS" in exchange.desc:
            yield "gnutls"


def _rows(seen: Conversation, command: str) -> list[Entry]:
    for exchange in seen.asked(command, "src"):
        if exchange.is_ok and isinstance(exchange.value, list):
            return [row for row in exchange.value if isinstance(row, Mapping)]
    return []


def _names(seen: Conversation, command: str, key: str) -> frozenset[str]:
    return frozenset(str(row.get(key)) for row in _rows(seen, command))


def _schema(seen: Conversation) -> Schema | None:
    rows = _rows(seen, "query-qmp-schema")
    return Schema(rows) if rows else None
