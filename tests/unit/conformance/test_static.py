"""What is said of a QEMU, and of a client, without running anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from libvirt_postcopy.conformance import static
from libvirt_postcopy.conformance.introspection import Facts
from libvirt_postcopy.stats import Stats

FOLDER = Path(__file__).parents[2] / "transcripts"


def facts(version: str) -> Facts:
    return static.read_replies(FOLDER / f"qemu-{version}" / "introspection.ndjson")


class Watched(dict[str, Any]):
    """Remembers what it was asked for."""

    def __init__(self, asked: set[str], **more: Any) -> None:
        super().__init__(more)
        self.asked = asked

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()


def test_own_keys_are_those_that_are_read() -> None:
    asked: set[str] = set()
    Stats.from_query_migrate(Watched(asked, ram=Watched(asked)))
    assert "ram" in asked and asked <= static.consumer_names("own")["keys"]


def test_own_names_are_released_ones() -> None:
    names = static.consumer_names("own")
    assert set(names) == set(static.KINDS)
    found = [facts(version) for version in ("5.2", "7.2", "10.0", "11.1")]
    assert static.consumer_problems(names, found) == []


def test_a_name_of_another_release_is_no_mistake() -> None:
    names = {"statuses": facts("5.2").statuses | {"failing"}, "capabilities": frozenset(["postcopy-premept"])}  # fmt: skip
    (line,) = static.consumer_problems(names, [facts("5.2")])
    assert "'postcopy-premept' exists in none of 5.2.0" in line


def test_what_a_client_need_not_know_is_noted_with_its_releases() -> None:
    found = [facts("10.0"), facts("11.1")]
    names = {kind: static._offered(kind, found[0]) - {"yank"} for kind in static.KINDS}
    notes = static.consumer_notes(names, found)
    assert "commands not known to this client: yank" in notes
    assert any(note.startswith("keys") and "postcopy-latency (11.1.2)" in note for note in notes)  # fmt: skip


def test_what_breaks_a_client_goes_by_name_where_it_has_one() -> None:
    new = facts("11.1")
    assert any("failing: a client" in line for line in static.features([new]))
    less = replace(new, statuses=new.statuses - {"failing"})
    assert not any("failing: a client" in line for line in static.features([less]))
    backport = replace(facts("10.0"), statuses=new.statuses)
    assert any("failing: a client" in line for line in static.features([backport]))
