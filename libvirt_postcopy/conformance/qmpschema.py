"""JSON Schema (2020-12) out of QEMU's own ``query-qmp-schema``, and validation by it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from libvirt_postcopy.conformance.introspection import Schema
from libvirt_postcopy.errors import NotSupportedError, UsageError

__all__ = ["Deriver", "Validator", "derive", "validator_of"]

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_BUILTIN: Mapping[str, Mapping[str, Any]] = {
    "string": {"type": "string"},
    "number": {"type": "number"},
    "int": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "object": {"type": "object"},
    "array": {"type": "array"},
    "value": {},
}


class Deriver:
    """Makes schemas of types, each once."""

    def __init__(self, schema: Schema, *, strict: bool = True) -> None:
        """:param strict: A member that is not promised is wrong; right for the same binary, wrong across versions."""
        self.schema = schema
        self.strict = strict
        self.defs: dict[str, Any] = {}

    def ref(self, name: Any) -> dict[str, Any]:
        """Refer to a type, and define it if it is new.

        :raises UsageError: If there is no such type.
        """
        if not isinstance(name, str) or name not in self.schema.by_name:
            raise UsageError(
                f"query-qmp-schema names a type '{str(name)[:60]}' that it does not have"
            )
        todo = [name]
        while todo:
            each = todo.pop()
            if each in self.defs:
                continue
            self.defs[each] = {}
            self.defs[each] = self._define(self.schema.by_name[each], todo)
        return {"$ref": f"#/$defs/{_escaped(name)}"}

    def _to(self, name: Any, todo: list[str]) -> dict[str, Any]:
        if not isinstance(name, str) or name not in self.schema.by_name:
            raise UsageError(
                f"query-qmp-schema names a type '{str(name)[:60]}' that it does not have"
            )
        todo.append(name)
        return {"$ref": f"#/$defs/{_escaped(name)}"}

    def _define(self, entry: Mapping[str, Any], todo: list[str]) -> Any:
        kind = entry.get("meta-type")
        if kind == "builtin":
            return dict(_BUILTIN.get(str(entry.get("json-type")), {}))
        if kind == "enum":
            return {"enum": self.schema.values(entry)}
        if kind == "array":
            return {"type": "array", "items": self._to(entry.get("element-type"), todo)}
        if kind == "alternate":
            members = entry.get("members")
            return {"anyOf": [self._to(each.get("type"), todo) for each in (members if isinstance(members, list) else []) if isinstance(each, Mapping)]}  # fmt: skip
        if kind == "object":
            return self._object(entry, todo)
        raise UsageError(
            f"query-qmp-schema has a type of the kind '{str(kind)[:60]}', which is not known"
        )

    def _object(self, entry: Mapping[str, Any], todo: list[str]) -> dict[str, Any]:
        members = self.schema.members(entry)
        value: dict[str, Any] = {
            "type": "object",
            "properties": {
                name: self._annotated(member, todo) for name, member in members.items()
            },
            "required": [
                name for name, member in members.items() if "default" not in member
            ],
        }
        cases = entry.get("variants")
        tag = entry.get("tag")
        if isinstance(cases, list) and isinstance(tag, str):
            value["allOf"] = [
                {
                    "if": {
                        "properties": {tag: {"const": case.get("case")}},
                        "required": [tag],
                    },
                    "then": self._to(case.get("type"), todo),
                }
                for case in cases
                if isinstance(case, Mapping)
            ]
            if self.strict:
                # Of a variant's own object the members are only part of the whole.
                value["unevaluatedProperties"] = False
        elif self.strict:
            value["additionalProperties"] = False
        return value

    def _annotated(self, member: Mapping[str, Any], todo: list[str]) -> dict[str, Any]:
        found: dict[str, Any] = self._to(member.get("type"), todo)
        features = member.get("features")
        if isinstance(features, list):
            if "deprecated" in features:
                found["deprecated"] = True
            if "unstable" in features:
                found["$comment"] = "unstable"
        return found


def _escaped(name: str) -> str:
    from urllib.parse import quote

    return quote(name.replace("~", "~0").replace("/", "~1"), safe="")


def _opened(value: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """The variants' objects must not close themselves: the members around them belong to the same object."""
    return {
        name: ({k: v for k, v in each.items() if k != "additionalProperties"} if name in names else each)  # fmt: skip
        for name, each in value.items()
    }


def _variant_names(schema: Schema) -> set[str]:
    return {
        case["type"]
        for entry in schema.entries
        if isinstance(entry, Mapping) and isinstance(entry.get("variants"), list)
        for case in entry["variants"]
        if isinstance(case, Mapping) and isinstance(case.get("type"), str)
    }


def derive(
    schema: Schema, kind: str, name: str, *, strict: bool = True
) -> dict[str, Any]:
    """Return the JSON Schema of a command's arguments (``arg``) or answer (``ret``), or of an event's data (``event``).

    :raises UsageError: If there is no such command or event, or its types cannot be followed.
    """
    entry = schema.entry(name, "event" if kind == "event" else "command")
    if not entry:
        raise UsageError(
            f"this QEMU has no {'event' if kind == 'event' else 'command'} '{name}'"
        )
    deriver = Deriver(schema, strict=strict)
    ref = deriver.ref(entry.get("ret-type" if kind == "ret" else "arg-type"))
    return {
        "$schema": DRAFT,
        "title": f"{name}: {'data' if kind == 'event' else 'answer' if kind == 'ret' else 'arguments'}",
        **ref,
        "$defs": _opened(deriver.defs, _variant_names(schema)),
    }


class Validator:
    """Validates answers and events by what this QEMU promises of itself."""

    def __init__(self, schema: Schema) -> None:
        try:
            import jsonschema
        except ImportError as error:
            raise NotSupportedError("validation needs jsonschema", cure="pip install 'libvirt-postcopy[conformance]'") from error  # fmt: skip
        self._jsonschema = jsonschema
        self._schema = schema
        self._made: dict[tuple[str, str], Any] = {}

    def reply(self, command: str, value: Any) -> str:
        """What is wrong with an answer, or empty."""
        return self._problem("ret", command, value)

    def event(self, msg: Mapping[str, Any]) -> str:
        """What is wrong with an event, or empty."""
        name = str(msg.get("event"))
        if not self._schema.entry(name, "event"):
            return f"an event {name} that is not promised"
        extra = set(msg) - {"event", "data", "timestamp"}
        if extra:
            return f"members {sorted(extra)}"
        return self._problem("event", name, msg.get("data", {}))

    def _problem(self, kind: str, name: str, value: Any) -> str:
        key = (kind, name)
        if key not in self._made:
            self._made[key] = self._jsonschema.Draft202012Validator(
                derive(self._schema, kind, name)
            )
        error = next(iter(_leaves(self._made[key].iter_errors(value))), None)
        if error is None:
            return ""
        where = "/".join(map(str, error.absolute_path)) or "the answer"
        return f"{where}: {error.message[:300]}"


def _leaves(errors: Any) -> Iterator[Any]:
    for error in errors:
        if error.context:
            yield from _leaves(error.context)
        yield error


_validators: dict[int, tuple[Schema, Validator]] = {}


def validator_of(schema: Schema) -> Validator:
    """A validator, kept for the next conversation with the same QEMU."""
    found = _validators.get(id(schema))
    if found is None or found[0] is not schema:
        if len(_validators) > 16:
            _validators.clear()
        found = _validators[id(schema)] = (schema, Validator(schema))
    return found[1]
