"""Makes ``schemas/qmp/*.schema.json``: what this package relies on, over all versions.

Out of the schemas of the recorded QEMUs: a member is required if all of them require it, has ``since`` from QEMU's
documentation, and what is not promised is allowed, because the next release will have it. ::

    python tests/conformance/make_qmp_schemas.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from libvirt_postcopy.conformance.known import COMMANDS, PARAMETERS
from libvirt_postcopy.conformance.qmpschema import DRAFT, Deriver
from libvirt_postcopy.conformance.static import read_replies

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "schemas" / "qmp"
VERSIONS = ("5.2", "7.2", "10.0", "11.1")

RELIED_ON = (
    "cont",
    "migrate",
    "migrate_cancel",
    "migrate-continue",
    "migrate-incoming",
    "migrate-pause",
    "migrate-recover",
    "migrate-set-capabilities",
    "migrate-set-parameters",
    "migrate-start-postcopy",
    "qmp_capabilities",
    "query-commands",
    "query-migrate",
    "query-migrate-capabilities",
    "query-migrate-parameters",
    "query-qmp-schema",
    "query-status",
    "query-version",
    "query-yank",
    "stop",
    "yank",
)
EVENTS: Mapping[str, str] = {
    "MIGRATION": "2.4",
    "MIGRATION_PASS": "2.6",
    "STOP": "0.12",
    "RESUME": "0.12",
    "SHUTDOWN": "0.12",
}
#: By QEMU's documentation (qapi/*.json, "since"); a member without one is older than what is relied on.
MEMBERS: Mapping[str, str] = {
    **{name: span.since for name, span in PARAMETERS.items()},
    "guest": "2.10",
    "reason": "4.0",
    "resume": "3.0",
    "channels": "8.2",
    "exit-on-error": "9.1",
    "postcopy-requests": "2.7",
    "page-size": "2.10",
    "multifd-bytes": "3.0",
    "pages-per-second": "4.0",
    "precopy-bytes": "7.0",
    "postcopy-bytes": "7.0",
    "downtime-bytes": "7.0",
    "dirty-sync-count": "2.1",
    "dirty-sync-missed-zero-copy": "7.1",
    "error-desc": "2.7",
    "postcopy-blocktime": "3.0",
    "postcopy-vcpu-blocktime": "3.0",
    "socket-address": "4.0",
    "blocked-reasons": "6.0",
    "postcopy-latency": "10.1",
    "postcopy-latency-dist": "10.1",
    "postcopy-vcpu-latency": "10.1",
    "postcopy-non-vcpu-latency": "10.1",
    "dirty-limit-throttle-time-per-round": "8.1",
    "dirty-limit-ring-full-time": "8.1",
}
#: Where they are new: the same names are older elsewhere.
NEW: Mapping[str, str] = {
    "remaining": "11.1",  # MigrationInfo, beside that of ram
    "transform": "6.0",  # BitmapMigrationBitmapAlias
}


def made() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each file's name and content."""
    schemas = {v: read_replies(ROOT / f"tests/transcripts/qemu-{v}/introspection.ndjson").schema for v in VERSIONS}  # fmt: skip
    commands = {name: COMMANDS[name].since for name in RELIED_ON}
    for name, since in {**commands, **EVENTS}.items():
        kind = "event" if name in EVENTS else "command"
        parts = {"data": "arg-type"} if kind == "event" else {"arguments": "arg-type", "return": "ret-type"}  # fmt: skip
        value: dict[str, Any] = {"$schema": DRAFT, "$id": f"{name}.schema.json", "title": f"The {kind} {name}", "since": since, "source": f"QEMU's query-qmp-schema {', '.join(VERSIONS)}, and qapi/migration.json", "type": "object", "properties": {}}  # fmt: skip
        for part, key in parts.items():
            merged: Any = None
            for version, schema in schemas.items():
                assert schema is not None
                entry = schema.entry(name, kind)
                if entry:
                    deriver = Deriver(schema, strict=False)
                    tree = _inlined(deriver.ref(entry[key]), deriver.defs, 6)
                    merged = _merged(merged, tree, version)
            if merged is not None:
                value["properties"][part] = merged
        yield f"{name}.schema.json", value


def _inlined(node: Any, defs: Mapping[str, Any], depth: int) -> Any:
    """Without references, down to a depth: the names of types are those of one build."""
    if isinstance(node, dict):
        if "$ref" in node:
            if not depth:
                return {}
            rest = {key: each for key, each in node.items() if key != "$ref"}
            return {**_inlined(defs[node["$ref"].rpartition("/")[2].replace("%5B", "[").replace("%5D", "]")], defs, depth - 1), **rest}  # fmt: skip
        return {key: _inlined(each, defs, depth) for key, each in node.items() if key != "allOf"}  # fmt: skip
    if isinstance(node, list):
        return [_inlined(each, defs, depth) for each in node]
    return node


def _merged(one: Any, two: Any, version: str) -> Any:
    """What holds for both."""
    if "enum" in two:  # the next release will have more
        two = {"type": "string", "examples": two["enum"]}
    if "properties" in two:
        before = (one or {}).get("properties", {})
        properties = {
            name: _member(name, before.get(name), member, version, is_first=one is None)
            for name, member in two["properties"].items()
        }
        kept = {**before, **properties}
        required = set(two["required"]) & set((one or two)["required"])
        return {
            "type": "object",
            "properties": kept,
            "required": sorted(n for n in required if "since" not in kept[n]),
        }
    if "items" in two:
        return {"type": "array", "items": _merged((one or {}).get("items"), two["items"], version)}  # fmt: skip
    if "anyOf" in two:
        return {}
    return two


def _member(name: str, one: Any, two: Any, version: str, *, is_first: bool) -> Any:
    """:raises KeyError: If a release has added it, and it is not written down which."""
    merged = _merged(one, two, version)
    since = MEMBERS.get(name) or (one or {}).get("since")
    if not since and one is None and not is_first:
        since = NEW[name]
    return {**merged, **({"since": since} if since else {})}


def text_of(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file, content in made():
        (FOLDER / file).write_text(text_of(content), encoding="utf-8")
