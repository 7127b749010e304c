"""The schemas are schemas, and what is recorded follows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from unit.transcripts import FILES

SCHEMAS = sorted((Path(__file__).parents[2] / "schemas").rglob("*.schema.json"))
TRANSCRIPT = next(path for path in SCHEMAS if path.name == "transcript.schema.json")


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_schema_is_valid(path: Path) -> None:
    Draft202012Validator.check_schema(load(path))


@pytest.mark.parametrize(
    "path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_transcript_follows_its_schema(path: Path) -> None:
    schema = load(TRANSCRIPT)
    header, *messages = map(json.loads, path.read_text().splitlines())
    Draft202012Validator({**schema, "oneOf": [{"$ref": "#/$defs/header"}]}).validate(
        header
    )
    message = Draft202012Validator({**schema, "oneOf": [{"$ref": "#/$defs/message"}]})
    assert messages
    for each in messages:
        message.validate(each)


@pytest.mark.parametrize(
    "wrong",
    [
        {"t": "0", "peer": "src", "dir": "<-", "msg": {"event": "STOP"}},
        {"t": 0, "peer": "both", "dir": "<-", "msg": {"event": "STOP"}},
        {"t": 0, "peer": "src", "dir": "<-", "msg": {}},
        {"t": 0, "peer": "src", "dir": "<-", "msg": {"event": "STOP"}, "more": 1},
        {"qemu": "seven", "libvirt": None, "scenario": "x", "format": 1},
    ],
)
def test_what_is_no_line_of_a_transcript(wrong: dict[str, Any]) -> None:
    assert not Draft202012Validator(load(TRANSCRIPT)).is_valid(wrong)
