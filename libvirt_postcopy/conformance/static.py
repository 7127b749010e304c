"""What can be said of a QEMU without migrating anything: from its schema, live or as libvirt keeps it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from libvirt_postcopy.conformance import transcript
from libvirt_postcopy.conformance.evidence import Conversation, Line
from libvirt_postcopy.conformance.introspection import Facts, Schema
from libvirt_postcopy.conformance.known import in_range, span_of
from libvirt_postcopy.conformance.qmpschema import derive
from libvirt_postcopy.errors import NotSupportedError, UsageError

__all__ = [
    "consumer_names",
    "consumer_notes",
    "consumer_problems",
    "facts_of",
    "features",
    "json_schema",
    "read_replies",
]

MOST_BYTES = 64 << 20
KINDS = ("statuses", "capabilities", "parameters", "commands", "events", "keys")


def facts_of(
    files: Sequence[Path], qemus: Sequence[str], releases: Sequence[str]
) -> list[Facts]:
    """Read files, or ask QEMUs; this machine's own if nothing is named.

    :raises UsageError: If one tells nothing.
    """
    found = [read_replies(path) for path in files]
    if found and not qemus and not releases:
        return found
    from libvirt_postcopy.conformance import campaign, live

    with live.Bench.open() as bench:
        for target in campaign.targets_of(qemus, releases, "tcg"):
            found.append(live.examine(bench, target)[0])
    return found


def read_replies(path: Path) -> Facts:
    """Read a ``.replies`` file of libvirt, a bare answer to ``query-qmp-schema``, or a recorded conversation.

    :raises UsageError: With the line where it goes wrong.
    """
    try:
        data = path.read_bytes()[: MOST_BYTES + 1]
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path} has more than {MOST_BYTES >> 20} MiB")
    text = data.decode("utf-8", "replace")
    if _is_recorded(text):
        seen = transcript.loads(text, str(path))
    else:
        seen = _conversation(list(documents(text, str(path))), str(path))
    facts = Facts.from_conversation(seen)
    schema = facts.schema
    if schema is None:
        raise UsageError(f"{path} has no answer to query-qmp-schema")
    if not facts.commands:
        names = (each["name"] for each in schema.by_name.values() if each.get("meta-type") == "command")  # fmt: skip
        facts = replace(facts, commands=frozenset(names))
    if not facts.capabilities:
        enum = schema.walk("arg", "migrate-set-capabilities", "capabilities", "[]", "capability")  # fmt: skip
        facts = replace(facts, capabilities=frozenset(schema.values(enum)))
    if facts.version == (0,):
        facts = replace(facts, version=_version_in_name(path))
    return facts


def _is_recorded(text: str) -> bool:
    first = text.lstrip()[:4096].split("\n")[0]
    return '"format"' in first or ('"dir"' in first and '"msg"' in first)


def _version_in_name(path: Path) -> tuple[int, ...]:
    """libvirt's files are called ``caps_10.0.0_x86_64.replies``."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", path.name)
    return tuple(int(part) for part in found.groups() if part) if found else (0,)


def documents(text: str, name: str) -> Iterator[Any]:
    """JSON documents one after the other, with blank space between them.

    :raises UsageError: With the line where it goes wrong.
    """
    decoder = json.JSONDecoder()
    place, end = 0, len(text)
    while True:
        while place < end and text[place].isspace():
            place += 1
        if place == end:
            return
        try:
            value, place = decoder.raw_decode(text, place)
        except ValueError as error:
            where = getattr(error, "lineno", None) or text.count("\n", 0, place) + 1
            raise UsageError(f"{name}: line {where} is no JSON: {getattr(error, 'msg', error)}") from error  # fmt: skip
        except RecursionError as error:
            raise UsageError(f"{name}: line {text.count(chr(10), 0, place) + 1} is nested too deeply") from error  # fmt: skip
        yield value


def _conversation(found: Sequence[Any], name: str) -> Conversation:
    """Make a conversation: commands may be there, or only their answers; then an answer is known by its shape."""
    lines: list[Line] = []
    version = ""
    asked = ""
    for number, value in enumerate(found):
        if isinstance(value, list) or isinstance(value, dict) and "return" in value:
            answer = value if isinstance(value, list) else value["return"]
            command = asked or _guessed(answer)
            asked = ""
            if command:
                lines.append(Line(0, "src", "cmd", {"execute": command, "id": number}))
                lines.append(Line(0, "src", "reply", {"return": answer, "id": number}))
            version = version or _version(answer)
        elif isinstance(value, dict) and isinstance(value.get("execute"), str):
            asked = value["execute"]
        elif isinstance(value, dict):
            asked = ""
    return Conversation({"qemu": version, "scenario": "replies", "format": 2}, tuple(lines), name)  # fmt: skip


def _guessed(answer: Any) -> str:
    """Which question an answer belongs to, where the questions were not kept."""
    rows = [row for row in answer if isinstance(row, dict)] if isinstance(answer, list) else []  # fmt: skip
    if rows and all("meta-type" in row for row in rows):
        return "query-qmp-schema"
    if rows and all(set(row) == {"capability", "state"} for row in rows):
        return "query-migrate-capabilities"
    if rows and all(set(row) == {"name"} for row in rows):
        return "query-commands" if any(row["name"] == "qmp_capabilities" for row in rows) else ""  # fmt: skip
    if rows and all("cpu-max" in row and "name" in row for row in rows):
        return "query-machines"
    return ""


def _version(answer: Any) -> str:
    number = answer.get("qemu") if isinstance(answer, dict) else None
    if isinstance(number, dict) and all(isinstance(number.get(p), int) for p in ("major", "minor", "micro")):  # fmt: skip
        return f"{number['major']}.{number['minor']}.{number['micro']}"
    return ""


#: What is asked of a QEMU, in the words of whoever uses it.
_FEATURES: Sequence[tuple[str, str]] = (
    ("cap:postcopy-ram", "post-copy"),
    ("cmd:migrate-recover", "recovery after a broken link"),
    ("cmd:migrate-pause", "pausing post-copy by command"),
    ("param:max-postcopy-bandwidth", "a bandwidth of its own for post-copy"),
    ("cap:postcopy-blocktime", "blocktime"),
    ("cap:postcopy-preempt", "pages asked for overtake others (preempt)"),
    ("cap:pause-before-switchover", "pausing before the switch"),
    ("cmd:yank", "yanking a connection that hangs"),
    ("arg:migrate/channels", "addresses as channels"),
    ("arg:migrate-incoming/exit-on-error", "a destination that outlives an error"),
    ("status:postcopy-recover-setup", "an event for a failed reconnect"),
    ("status:postcopy-device", "postcopy-device announced"),
    ("status:failing", "failing announced before failed"),
)

#: What breaks which consumer: what has a name is asked for by it, behaviour without one goes by the version.
_BREAKS: Sequence[tuple[str, str]] = (
    ("cap:x-postcopy-ram", "the capability is called x-postcopy-ram"),
    ("2.5-9.2", "migrate_cancel in post-copy is accepted and loses the guest"),
    ("3.0-5.2", "a resume that is refused, then a good one: the source dies"),
    ("10.0-", "device is announced in every migration: a client with a closed list of flows stops"),
    ("status:postcopy-recover-setup", "postcopy-recover-setup: a client with a closed list of statuses stops"),
    ("status:postcopy-device", "postcopy-device: a client with a closed list of statuses stops (libvirt up to 11.3 gives an error when it asks)"),
    ("10.2-11.1", "a cut in the switch leaves two running guests unless the destination was started with -S"),
    ("status:failing", "failing: a client with a closed list of statuses stops"),
    ("11.0-", "MIGRATION_PASS begins with 2 and comes ten times a second: whoever counts passes switches too early (virsh --postcopy-after-precopy)"),
)  # fmt: skip


def features(found: Sequence[Facts]) -> Iterator[str]:
    """Say which features there are, and what breaks whom."""
    for facts in found:
        yield f"QEMU {facts.text}"
        for need, words in _FEATURES:
            yield f"  {'yes' if facts.has(need) else 'no ':3} {words} ({need.partition(':')[2]})"
        for where, words in _BREAKS:
            if facts.has(where) if ":" in where else in_range(facts.version, where):
                yield f"  breaks  {words}"


def json_schema(found: Sequence[Facts], name: str, part: str, *, is_open: bool) -> str:
    """Return one JSON Schema, derived from the first QEMU's own."""
    schema = found[0].schema
    assert schema is not None
    part = "event" if schema.entry(name, "event") else part
    return json.dumps(derive(schema, part, name, strict=not is_open), indent=2) + "\n"


def consumer_names(where: str) -> dict[str, frozenset[str]]:
    """Read a client's own lists.

    :param where: A file, or ``own`` for this package's.
    :raises UsageError: If it is none.
    """
    if where == "own":
        return _own()
    path = Path(where)
    try:
        text = path.read_text(encoding="utf-8")[:MOST_BYTES]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error  # fmt: skip
    value = _parsed(text, path)
    shape = f"lists under some of {', '.join(KINDS)}"
    if not isinstance(value, dict) or not value:
        raise UsageError(f"{path} is no list of names", cure=shape)
    for kind, names in value.items():
        if kind not in KINDS:
            raise UsageError(f"{path}: '{kind}' is not known", cure=shape)
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise UsageError(f"{path}: '{kind}' is no list of names", cure=shape)
    return {kind: frozenset(names) for kind, names in value.items()}


def _parsed(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UsageError(f"{path} is nested too deeply") from error
    except ValueError as error:
        if path.suffix not in (".yaml", ".yml"):
            raise UsageError(f"{path}: {error}") from error
    try:
        import yaml  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise NotSupportedError("YAML needs PyYAML", cure="pip install 'libvirt-postcopy[conformance]', or write JSON") from error  # fmt: skip
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path}: {error}") from error


#: What this package itself sends and reads.
_OWN: Mapping[str, Sequence[str]] = {
    "capabilities": (
        "auto-converge",
        "events",
        "postcopy-blocktime",
        "postcopy-preempt",
        "postcopy-ram",
        "release-ram",
    ),
    "parameters": (
        "downtime-limit",
        "max-bandwidth",
        "max-postcopy-bandwidth",
        "tls-creds",
        "tls-hostname",
    ),
    "commands": (
        "migrate",
        "migrate_cancel",
        "migrate-incoming",
        "migrate-pause",
        "migrate-recover",
        "migrate-set-capabilities",
        "migrate-set-parameters",
        "migrate-start-postcopy",
        "query-migrate",
        "query-migrate-capabilities",
        "query-migrate-parameters",
    ),
    "events": ("MIGRATION", "MIGRATION_PASS", "RESUME", "STOP"),
    "keys": (
        "blocked-reasons",
        "dirty-pages-rate",
        "dirty-sync-count",
        "downtime",
        "duplicate",
        "error-desc",
        "mbps",
        "normal-bytes",
        "page-size",
        "postcopy-blocktime",
        "postcopy-requests",
        "postcopy-vcpu-blocktime",
        "ram",
        "remaining",
        "setup-time",
        "socket-address",
        "status",
        "total",
        "total-time",
        "transferred",
    ),
}


def _own() -> dict[str, frozenset[str]]:
    from libvirt_postcopy.phases import Status

    statuses = frozenset(each.value for each in Status)
    return {"statuses": statuses, **{k: frozenset(v) for k, v in _OWN.items()}}


def consumer_problems(
    names: Mapping[str, frozenset[str]], found: Sequence[Facts]
) -> list[str]:
    """What would make a client stop: a status that it does not know, and a name that no QEMU has, perhaps misspelt."""
    problems = []
    for kind, known in names.items():
        there = {facts.text: _offered(kind, facts) for facts in found}
        everywhere = frozenset().union(*there.values())
        if kind == "statuses":
            problems += [
                f"QEMU {_having(name, there)}: status '{name}' is not known to this client"
                for name in sorted(everywhere - known)
            ]
        for name in sorted(known - everywhere):
            if _is_released(kind, name):
                continue  # by another release than these
            near = _near(name, everywhere)
            hint = f", perhaps '{near}' is meant" if near else ""
            problems.append(
                f"{kind}: '{name}' exists in none of {', '.join(there)}{hint}"
            )
    return problems


def consumer_notes(
    names: Mapping[str, frozenset[str]], found: Sequence[Facts]
) -> list[str]:
    """What else of migration a client does not know, and need not: capabilities, parameters, commands, events and keys."""
    notes = []
    for kind, known in names.items():
        there = {facts.text: _of_migration(kind, facts) for facts in found}
        unknown = sorted(frozenset().union(*there.values()) - known)
        if unknown and kind != "statuses":
            rows = [f"{name}{_where(name, there)}" for name in unknown]
            notes.append(f"{kind} not known to this client: {', '.join(rows)}")
    return notes


def _having(name: str, there: Mapping[str, frozenset[str]]) -> str:
    return ", ".join(version for version, offered in there.items() if name in offered)


def _where(name: str, there: Mapping[str, frozenset[str]]) -> str:
    """In which QEMUs it is, if not in all."""
    return "" if all(name in offered for offered in there.values()) else f" ({_having(name, there)})"  # fmt: skip


_NEED = {"statuses": "status", "capabilities": "cap", "parameters": "param", "commands": "cmd"}  # fmt: skip


def _is_released(kind: str, name: str) -> bool:
    return kind in _NEED and span_of(f"{_NEED[kind]}:{name}") is not None


def _of_migration(kind: str, facts: Facts) -> frozenset[str]:
    """Of commands and events, those that have to do with it."""
    offered = _offered(kind, facts)
    if kind not in ("commands", "events"):
        return offered
    return frozenset(name for name in offered if "migrat" in name.lower() or "yank" in name)  # fmt: skip


def _offered(kind: str, facts: Facts) -> frozenset[str]:
    schema = facts.schema or Schema([])
    if kind == "events":
        return frozenset(
            n for n, e in schema.by_name.items() if e.get("meta-type") == "event"
        )
    if kind == "keys":
        return frozenset(_keys(schema))
    return {
        "statuses": facts.statuses,
        "capabilities": facts.capabilities,
        "parameters": facts.parameters,
        "commands": facts.commands,
    }[kind]


def _keys(schema: Schema) -> Iterator[str]:
    """Members of the answer to ``query-migrate``, with those of what it contains."""
    todo = [schema.walk("ret", "query-migrate")]
    done: set[str] = set()
    while todo:
        entry = todo.pop()
        if str(entry.get("name")) in done:
            continue
        done.add(str(entry.get("name")))
        for name, member in schema.members(entry).items():
            if entry.get("meta-type") == "object":
                yield name
                inner = schema.type(member.get("type"))
                todo.append(schema.type(inner.get("element-type")) if inner.get("meta-type") == "array" else inner)  # fmt: skip


def _near(name: str, among: frozenset[str]) -> str:
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, sorted(among), 1, 0.75)), "")
