"""The same checks over recorded conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from libvirt_postcopy.conformance.evidence import Conversation, numbers
from libvirt_postcopy.conformance.introspection import Facts
from libvirt_postcopy.conformance.registry import Check
from libvirt_postcopy.conformance.verdicts import Subject, judge_all

__all__ = ["replay"]


def replay(
    conversations: Sequence[Conversation], chosen: Sequence[Check]
) -> list[Subject]:
    """Judge recorded conversations, by version, as those of a live run are judged.

    What a conversation of our own does not come to is a failure, as it was then; of anybody else's it is skipped.
    """
    subjects = []
    for version in sorted({seen.qemu for seen in conversations}, key=numbers):
        rows = [seen for seen in conversations if seen.qemu == version]
        facts = _facts(rows)
        rows = [replace(seen, facts=facts, _cache={}) for seen in rows]
        accel = next((str(seen.header["accel"]) for seen in rows if seen.header.get("accel")), "tcg")  # fmt: skip
        package = next((str(seen.header["package"]) for seen in rows if seen.header.get("package")), "")  # fmt: skip
        subject = Subject(f"QEMU {version or 'unknown'}", facts, judge_all(chosen, rows, facts, accel), package=package)  # fmt: skip
        subjects.append(subject)
    return subjects


def _facts(rows: Sequence[Conversation]) -> Facts:
    """What these conversations tell of the QEMU; the one with the schema tells most."""
    told = [Facts.from_conversation(seen) for seen in rows]
    best = max(told, key=lambda facts: (facts.is_told, len(facts.commands)))
    return replace(best, version=rows[0].version)
