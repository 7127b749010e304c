"""Reads and writes recorded conversations, also those that other recorders made, and normalises them.

One JSON object a line; ``schemas/transcript.schema.json`` describes it.  Read are:

* format 2, what this suite records: a header, then ``t``, ``side``, ``dir``, ``msg``;
* format 1, events and replies thinned out: a header, then ``t``, ``peer``, ``dir`` (``->``, ``<-``), ``msg``;
* the lines of format 2 without a header: the version is taken from the greeting.
"""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from libvirt_postcopy.conformance.evidence import Conversation, Line, greeted
from libvirt_postcopy.errors import UsageError

__all__ = ["dumps", "load", "loads", "normalised", "read_folder", "trimmed"]

MOST_BYTES = 256 << 20
_SUFFIXES = (".ndjson", ".jsonl", ".ndjson.gz", ".jsonl.gz")
_KINDS = frozenset(
    [
        "argv",
        "greeting",
        "cmd",
        "reply",
        "event",
        "proc",
        "stderr",
        "eof",
        "timeout",
        "act",
        "memory",
        "serial",
        "skip",
        "note",
    ]
)


def load(path: Path) -> Conversation:
    """Read a file.

    :raises UsageError: If it is none that can be read, with the line's number.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as file:
                data = file.read(MOST_BYTES + 1)
        else:
            with path.open("rb") as plain:
                data = plain.read(MOST_BYTES + 1)
    except (OSError, EOFError) as error:
        raise UsageError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or error}"
        ) from error
    except Exception as error:  # zlib.error is no OSError
        raise UsageError(f"cannot read {path}: {error}") from error
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path} has more than {MOST_BYTES >> 20} MiB")
    return loads(data.decode("utf-8", "replace"), str(path))


def read_folder(path: Path) -> list[Conversation]:
    """Read a file, or all recorded conversations below a folder.

    :raises UsageError: If there is none, or one cannot be read.
    """
    if not path.is_dir():
        return [load(path)]
    found = sorted(
        each
        for each in path.rglob("*")
        if each.name.endswith(_SUFFIXES) and each.is_file()
    )
    if not found:
        raise UsageError(f"no recorded conversation in {path}", cure="name a .ndjson or .jsonl file, or a folder of them")  # fmt: skip
    return [load(each) for each in found]


def loads(text: str, name: str = "") -> Conversation:
    """Read a text.

    :raises UsageError: With the number of the line that is wrong.
    """
    header: Mapping[str, Any] = {}
    lines: list[Line] = []
    for number, row in enumerate(text.split("\n"), 1):
        if not row.strip():
            continue
        value = _json(row, name, number)
        if number == 1 and "format" in value and "msg" not in value:
            header = _header(value, name)
            continue
        line = _line(value, name, number)
        if header.get("format") == 1 and line.dir == "reply":
            # Thinned out: an answer stands alone, without the command that it answers.
            line = replace(line, dir="note", msg={"reply": line.msg})
        lines.append(line)
    if not lines and not header:
        raise UsageError(f"{name}: nothing recorded")
    return Conversation(_completed(header, lines, name), tuple(lines), name)


def _json(row: str, name: str, number: int) -> Mapping[str, Any]:
    try:
        value = json.loads(row)
    except ValueError as error:
        raise UsageError(f"{name}: line {number} is no JSON: {error}") from error
    except RecursionError as error:
        raise UsageError(f"{name}: line {number} is nested too deeply") from error
    if not isinstance(value, dict):
        raise UsageError(f"{name}: line {number} is no JSON object")
    return value


def _header(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if value["format"] not in (1, 2):
        raise UsageError(f"{name}: line 1: format {str(value['format'])[:40]} is not known", cure="1 and 2 are")  # fmt: skip
    for key in ("qemu", "scenario"):
        if not isinstance(value.get(key), str):
            raise UsageError(f"{name}: line 1: '{key}' is no text")
    return value


def _line(value: Mapping[str, Any], name: str, number: int) -> Line:
    def wrong(what: str) -> UsageError:
        return UsageError(f"{name}: line {number}: {what}")

    t = value.get("t")
    if isinstance(t, bool) or not isinstance(t, (int, float)) or not _is_finite(t):
        raise wrong("'t' is no time in seconds")
    side = value.get("side", value.get("peer"))
    if side is not None and not isinstance(side, str):
        raise wrong("'side' is no text")
    kind = value.get("dir")
    if not isinstance(kind, str):
        raise wrong("'dir' is no text")
    if "msg" not in value:
        raise wrong("'msg' is missing")
    msg = value["msg"]
    kind = _arrow(kind, msg) if kind in ("->", "<-") else kind
    if kind in ("cmd", "reply", "event", "greeting", "proc", "memory") and not isinstance(msg, dict):  # fmt: skip
        if msg is None and kind == "reply":
            return Line(float(t), side or "", "eof", None, number)
        raise wrong(f"the message of '{kind}' is no object")
    if kind == "argv" and not isinstance(msg, list):
        raise wrong("the message of 'argv' is no list")
    if kind not in _KINDS:
        return Line(float(t), side or "", "note", {kind: msg}, number)
    return Line(float(t), side or "", kind, msg, number)


def _is_finite(t: float) -> bool:
    try:
        return math.isfinite(t)
    except OverflowError:  # a whole number that no float can hold
        return False


def _arrow(kind: str, msg: Any) -> str:
    if kind == "->":
        return "cmd"
    if isinstance(msg, dict) and "QMP" in msg:
        return "greeting"
    return "event" if isinstance(msg, dict) and "event" in msg else "reply"


def _completed(
    header: Mapping[str, Any], lines: Sequence[Line], name: str
) -> dict[str, Any]:
    found = {"qemu": "", "libvirt": None, "scenario": Path(name).name.partition(".")[0], "format": 2, **header}  # fmt: skip
    for line in lines:
        if (
            line.dir == "greeting"
            and line.side in ("src", "hop0")
            and not found["qemu"]
        ):
            found["qemu"] = greeted(line.msg)[0]
    if not header:
        found["scenario"] = f"recorded-{found['scenario']}"
    return found


def dumps(seen: Conversation) -> str:
    """Write a conversation as format 2."""
    rows = [{**seen.header, "format": 2}, *(line.to_json() for line in seen.lines)]
    return "".join(f"{json.dumps(row, separators=(', ', ': '))}\n" for row in rows)


_PATHS = re.compile(r"(?<![\w.])/(?:[\w.+~@%-]+/)+([\w.+~@%-]+)")
_ADDRESS = re.compile(r"\b(?:127\.0\.0\.1|\[?::1\]?):(\d+)")
_PIDS = re.compile(r"pcc-\w+")


def normalised(
    seen: Conversation, *, keep: Callable[[Line], bool] | None = None
) -> Conversation:
    """Take out what differs from run to run and machine to machine: paths, ports, times of day.

    :param keep: Which lines; all if None.
    """
    begin = seen.lines[0].t if seen.lines else 0.0
    ports: dict[str, str] = {}
    lines = [
        replace(line, t=round(line.t - begin, 4), msg=_clean(line.msg, begin, ports))
        for line in seen.lines
        if keep is None or keep(line)
    ]
    return Conversation(dict(seen.header), tuple(lines), seen.name)


def _clean(value: Any, begin: float, ports: dict[str, str]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"seconds", "microseconds"}:
            return value  # compared with each other only
        cleaned = {key: _clean(each, begin, ports) for key, each in value.items()}
        if isinstance(value.get("port"), str) and value["port"].isdecimal():
            cleaned["port"] = _port(value["port"], ports)
        return cleaned
    if isinstance(value, list):
        return [_clean(each, begin, ports) for each in value]
    if isinstance(value, str):
        value = _PATHS.sub(
            lambda m: m[0] if "nonexistent" in m[0] else f"/x/{m[1]}", value
        )
        return _ADDRESS.sub(lambda m: f"127.0.0.1:{_port(m[1], ports)}" if m[1] not in ("0", "1") else m[0], value)  # fmt: skip
    return value


def _port(port: str, ports: dict[str, str]) -> str:
    return (
        port if port in ("0", "1") else ports.setdefault(port, str(40001 + len(ports)))
    )


#: Commands, events and types of a schema that the checks follow; the rest is left out of what is kept.
_KEPT_COMMANDS = frozenset(
    [
        "migrate",
        "migrate-incoming",
        "migrate_cancel",
        "migrate-continue",
        "migrate-pause",
        "migrate-recover",
        "migrate-start-postcopy",
        "migrate-set-capabilities",
        "migrate-set-parameters",
        "query-migrate",
        "query-migrate-capabilities",
        "query-migrate-parameters",
        "query-status",
        "query-version",
        "query-commands",
        "query-qmp-schema",
        "query-migrationthreads",
        "qmp_capabilities",
        "cont",
        "stop",
        "yank",
        "query-yank",
    ]
)
_KEPT_EVENTS = frozenset(["MIGRATION", "MIGRATION_PASS", "STOP", "RESUME", "SHUTDOWN", "RESET"])  # fmt: skip


def trimmed(seen: Conversation, polls: int = 3) -> Conversation:
    """Keep what the checks read: no more than some answers to ``query-migrate`` in a row, not all of the schema."""
    dropped: set[int] = set()
    lasts: list[int] = []
    smaller: dict[int, Any] = {}
    for exchange in (*seen.exchanges, None):
        is_poll = exchange is not None and exchange.name == "query-migrate" and exchange.reply is not None  # fmt: skip
        if is_poll and exchange is not None and exchange.reply is not None:
            lasts += [id(exchange.cmd), id(exchange.reply)]
            continue
        dropped |= set(lasts[2 * (polls - 1) : -2])
        lasts = []
        if exchange is not None and exchange.reply is not None and exchange.is_ok:
            value = _less(exchange.name, exchange.value)
            if value is not exchange.value:
                smaller[id(exchange.reply)] = {**exchange.reply.msg, "return": value}
    lines = [
        replace(line, msg=smaller.get(id(line), line.msg))
        for line in seen.lines
        if id(line) not in dropped
    ]
    return Conversation(dict(seen.header), tuple(lines), seen.name)


def _less(command: str, value: Any) -> Any:
    """A shorter answer that says the same of migration."""
    if command == "query-qmp-schema" and isinstance(value, list):
        return _reachable(value)
    if command == "query-commands" and isinstance(value, list):
        return [row for row in value if row.get("name") in _KEPT_COMMANDS]
    if command == "query-machines" and isinstance(value, list):
        return [{k: row[k] for k in ("name", "alias", "is-default", "cpu-max", "hotpluggable-cpus", "deprecated", "numa-mem-supported", "acpi") if k in row} for row in value if str(row.get("name")).startswith(("pc", "virt"))]  # fmt: skip
    if command == "device-list-properties":
        return []
    return value


def _reachable(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    by_name = {entry.get("name"): entry for entry in entries}
    todo = [*_KEPT_COMMANDS, *_KEPT_EVENTS]
    kept: set[Any] = set()
    while todo:
        name = todo.pop()
        entry = by_name.get(name)
        if entry is None or name in kept:
            continue
        kept.add(name)
        todo += [entry[key] for key in ("arg-type", "ret-type", "element-type") if key in entry]  # fmt: skip
        todo += [each["type"] for key in ("members", "variants") for each in entry.get(key) or [] if "type" in each]  # fmt: skip
    return [entry for entry in entries if entry.get("name") in kept]
