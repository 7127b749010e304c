"""What is read from outside: an error with its line or a verdict, never a crash, a hang or a gigabyte of memory.

So many inputs for each of the reader of conversations, the deriver of schemas and the reader of replies as ``CONFORMANCE_FUZZ``
says; 100000 take a minute and a half.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FrameType

import pytest

from libvirt_postcopy.conformance import checks, static, transcript
from libvirt_postcopy.conformance.introspection import Facts, Schema
from libvirt_postcopy.conformance.qmpschema import derive
from libvirt_postcopy.conformance.registry import CHECKS
from libvirt_postcopy.conformance.verdicts import Verdict, judge
from libvirt_postcopy.errors import UsageError

FOLDER = Path(__file__).parents[1] / "transcripts"
TURNS = int(os.environ.get("CONFORMANCE_FUZZ", "600"))
JUNK = ["", "{", "}", "[]", "null", "1e999", '"', "\\", "\x00", "é", "-1", '{"a": 1}', "[" * 3000]  # fmt: skip

INPUT_CPU_S = 5.0
MOST_BYTES = 1 << 30

assert checks


@pytest.fixture(autouse=True)
def _memory_is_bounded() -> Iterator[None]:
    """What needs a gigabyte more than there was gets a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def inputs(turns: int) -> Iterator[int]:
    """Number the inputs; one that takes too long is given up with an error."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"this input takes more than {INPUT_CPU_S:g} s")

    before = signal.signal(signal.SIGVTALRM, give_up)
    try:
        for turn in range(turns):
            signal.setitimer(signal.ITIMER_VIRTUAL, INPUT_CPU_S)
            yield turn
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def test_an_input_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "INPUT_CPU_S", 0.05)
    with pytest.raises(AssertionError, match="more than 0.05 s"):
        for _ in inputs(1):
            while True:
                pass


def test_an_input_that_takes_a_gigabyte_is_an_error() -> None:
    with pytest.raises(MemoryError):
        bytearray(MOST_BYTES + (256 << 20))


@cache
def text(name: str) -> str:
    return (FOLDER / f"{name}.ndjson").read_text(encoding="utf-8")


ODD: list[object] = [None, 7, -1.5, "x", [], {}, [[]], {"a": {}}, True]


def mutated(source: str, chance: random.Random) -> str:
    """Cut, doubled, changed or replaced in one to four places."""
    value = source
    for _ in range(chance.randint(1, 4)):
        a = chance.randrange(len(value) + 1)
        b = min(len(value), a + chance.randint(0, 40))
        put = chance.choice([*JUNK, value[a:b] * 2, value[b : b + 20]])
        value = value[:a] + put + value[b:]
    return value


def mutated_value(value: object, chance: random.Random) -> object:
    """JSON with one member somewhere of another type."""
    odd = chance.choice(ODD)
    if chance.random() < 0.25:
        return odd
    if isinstance(value, dict) and value:
        key = chance.choice(list(value))
        return {**value, key: mutated_value(value[key], chance)}
    if isinstance(value, list) and value:
        place = chance.randrange(len(value))
        return [*value[:place], mutated_value(value[place], chance), *value[place + 1 :]]  # fmt: skip
    return odd


@pytest.mark.parametrize("name", ["qemu-10.0/fd-preempt", "qemu-2.5/recorded-no-events", "qemu-10.0/blocker"])  # fmt: skip
def test_reader_says_where_or_reads(name: str) -> None:
    chance = random.Random(name)
    refused = 0
    for _ in inputs(TURNS // 3 + 1):
        try:
            transcript.loads(mutated(text(name), chance), "fuzzed")
        except UsageError as error:
            assert "fuzzed: line" in str(error) or "nothing recorded" in str(error)
            refused += 1
    assert refused


def test_every_check_has_a_verdict_on_messages_of_any_shape() -> None:
    chance = random.Random(2)
    names = ["refusals", "recover", "post-copy-autostart", "cancel-precopy"]
    verdicts = set()
    for turn in inputs(max(TURNS // 30, 20)):
        header, *rows = map(json.loads, text(f"qemu-10.0/{names[turn % 4]}").splitlines())  # fmt: skip
        for _ in range(6):
            place = chance.randrange(len(rows))
            rows[place] = {**rows[place], "msg": mutated_value(rows[place]["msg"], chance)}  # fmt: skip
        try:
            seen = transcript.loads(
                "\n".join(map(json.dumps, [header, *rows])), "fuzzed"
            )
        except UsageError:
            continue
        for check in CHECKS.values():
            verdicts.add(judge(check, seen).verdict)
    assert {Verdict.PASS, Verdict.FAIL} <= verdicts


def test_deriver_derives_or_says_what_is_wrong() -> None:
    chance = random.Random(3)
    whole = static.read_replies(FOLDER / "qemu-11.1" / "introspection.ndjson").schema
    assert whole is not None
    wrong = 0
    for _ in inputs(TURNS):
        entries = mutated_value(list(whole.entries), chance)
        schema = Schema(entries if isinstance(entries, list) else [])
        try:
            derive(schema, "ret", "query-migrate")
        except UsageError:
            wrong += 1
    assert wrong


def test_replies_are_read_or_the_line_is_named(tmp_path: Path) -> None:
    chance = random.Random(4)
    facts = static.read_replies(FOLDER / "qemu-7.2" / "introspection.ndjson")
    assert facts.schema is not None
    whole = "\n\n".join(json.dumps(each, indent=1) for each in ({"execute": "query-qmp-schema"}, {"return": list(facts.schema.entries)[:40], "id": "libvirt-1"}))  # fmt: skip
    path = tmp_path / "caps_7.2.0_x86_64.replies"
    refused = 0
    for _ in inputs(TURNS):
        path.write_text(mutated(whole, chance), encoding="utf-8", errors="replace")
        try:
            assert isinstance(static.read_replies(path), Facts)
        except UsageError:
            refused += 1
    assert refused


@pytest.mark.parametrize("with_commands", [True, False])
def test_replies_as_libvirt_keeps_them(tmp_path: Path, with_commands: bool) -> None:
    facts = static.read_replies(FOLDER / "qemu-7.2" / "introspection.ndjson")
    assert facts.schema is not None
    rows = [{"execute": "query-qmp-schema", "id": "libvirt-4"}, {"return": list(facts.schema.entries), "id": "libvirt-4"}]  # fmt: skip
    kept = rows if with_commands else rows[1:]
    path = tmp_path / "caps_7.2.0_x86_64.replies"
    path.write_text("\n\n".join(json.dumps(row, indent=2) for row in kept))
    found = static.read_replies(path)
    assert found.version == (7, 2, 0)
    assert found.statuses == facts.statuses and "postcopy-paused" in found.statuses
    assert found.capabilities == facts.capabilities
