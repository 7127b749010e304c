"""The checks that make sense of a running domain, over libvirt's monitor passthrough.

Asked is what an idle QEMU is asked in the scenarios ``introspection`` and ``refusals``, as far as it can be asked of a guest that somebody
needs: nothing is stopped, continued, reset, cancelled or migrated, and a capability that was changed is put back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from libvirt_postcopy.conformance.checks.reading import POSTCOPY
from libvirt_postcopy.conformance.evidence import Conversation, Exchange
from libvirt_postcopy.conformance.introspection import QUESTIONS, Facts
from libvirt_postcopy.conformance.monitor import Record
from libvirt_postcopy.conformance.registry import Check
from libvirt_postcopy.conformance.verdicts import Subject, Verdict, judge_all
from libvirt_postcopy.errors import StateError, UsageError

__all__ = ["DISRUPTIVE", "READ_ONLY", "chosen_for_a_domain", "examine", "open_domain"]

Send = Callable[[str], str]
"""Sends a QMP command, as JSON, and gives the reply."""

READ_ONLY = (
    "introspection/lists-agree",
    "introspection/replies-follow-schema",
    "introspection/capabilities",
    "introspection/statuses",
    "introspection/out-of-band",
    "introspection/deprecation",
    "introspection/no-old-name",
    "introspection/migrationthreads",
)
DISRUPTIVE = (
    "start/without-capability",
    "capabilities/last-wins",
    "capabilities/read-back",
)
#: Between two migrations; with any other status, known or not, somebody is at it.
_IDLE = ("", "none", "completed", "failed", "cancelled")


@contextmanager
def open_domain(uri: str, name: str) -> Iterator[Send]:
    """Give the way to a domain's monitor.

    :param name: Name, id or UUID.
    :raises LibvirtError: If it cannot be reached.
    """
    from libvirt_postcopy.vir import calls, monitor, probe

    calls.silence_libvirt()
    connection = calls.open_connection(uri)
    try:
        dom = probe.named_domain(connection, name)
        yield lambda text: monitor.send(dom, text, "")
    finally:
        calls.close_connections([connection])


def chosen_for_a_domain(chosen: list[Check], *, is_disruptive: bool) -> list[Check]:
    """Those of the chosen checks that can be run on a domain.

    :raises UsageError: If there are none.
    """
    ids = {*READ_ONLY, *(DISRUPTIVE if is_disruptive else ())}
    found = [check for check in chosen if check.id in ids]
    if not found:
        raise UsageError("none of these checks can be run on a running domain", cure=f"those that can are {' '.join(READ_ONLY)} and, with --disruptive, {' '.join(DISRUPTIVE)}")  # fmt: skip
    return found


def examine(
    send: Send, label: str, chosen: list[Check], *, is_disruptive: bool = False
) -> Subject:
    """Ask a domain's QEMU and judge what it says.

    :raises LibvirtError: If it cannot be asked.
    :raises StateError: If it is being migrated, and more than questions was wanted.
    """
    talk = _Talk(send)
    for name in QUESTIONS:
        talk.ask(name)
    asked = talk.conversation("introspection")
    facts = Facts.from_conversation(asked)
    found = [replace(asked, facts=facts, _cache={})]
    if is_disruptive:
        talk = _Talk(send)
        _disturb(talk, facts)
        found.append(replace(talk.conversation("refusals", asked), facts=facts, _cache={}))  # fmt: skip
    checks = chosen_for_a_domain(chosen, is_disruptive=is_disruptive)
    subject = Subject(label, facts, judge_all(checks, found, facts), package=facts.package)  # fmt: skip
    if all(each.verdict is Verdict.SKIP for each in subject.findings):
        subject.problem = f"nothing could be checked: {subject.findings[0].reason}"
    return subject


class _Talk:
    """Questions and answers, kept as those of a pair's source."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._record = Record()
        self._number = 0

    def ask(self, name: str, arguments: Mapping[str, Any] | None = None) -> Exchange:
        self._number += 1
        msg: dict[str, Any] = {"execute": name}
        if arguments:
            msg["arguments"] = dict(arguments)
        cmd = self._record.add("src", "cmd", {**msg, "id": self._number})
        text = self._send(json.dumps(msg))
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise UsageError(f"no answer to {name}: {text[:80]!r}")
        # The id is libvirt's.
        reply = self._record.add("src", "reply", {**answer, "id": self._number})
        return Exchange(cmd, reply)

    def set(self, *states: tuple[str, bool]) -> Exchange:
        rows = [{"capability": name, "state": state} for name, state in states]
        return self.ask("migrate-set-capabilities", {"capabilities": rows})

    def conversation(
        self, scenario: str, version_from: Conversation | None = None
    ) -> Conversation:
        header: dict[str, Any] = {"qemu": "", "libvirt": None, "scenario": scenario, "format": 2}  # fmt: skip
        if version_from is not None:
            header |= {"qemu": version_from.qemu}
        seen = Conversation(header, tuple(self._record.lines))
        for each in seen.asked("query-version"):
            number = each.value.get("qemu", {})
            header["qemu"] = ".".join(str(number.get(part, 0)) for part in ("major", "minor", "micro"))  # fmt: skip
            header["package"] = str(each.value.get("package", ""))
        return replace(seen, header=header, _cache={})


def _disturb(talk: _Talk, facts: Facts) -> None:
    """Ask for what is refused, and switch a capability that does nothing without a migration on and off.

    :raises StateError: If the domain is being migrated, or was left set up for it.
    """
    answer = talk.ask("query-migrate").value
    status = str(answer.get("status", "")) if isinstance(answer, dict) else "?"
    if status not in _IDLE:
        raise StateError(f"the domain is being migrated (status '{status}'); only questions were sent", cure="leave --disruptive out, or wait until it is over")  # fmt: skip
    rows = talk.ask("query-migrate-capabilities").value
    states = {str(row["capability"]): bool(row["state"]) for row in rows}
    left = [name for name in POSTCOPY if states.get(name)]
    if left:
        raise StateError(f"the domain was left set up for a migration: {left[0]} is on; only questions were sent", cure="leave --disruptive out")  # fmt: skip
    talk.ask("migrate-start-postcopy")
    before = states["xbzrle"]
    try:
        talk.set(("no-such-capability", True), ("xbzrle", not before))
        talk.ask("query-migrate-capabilities")
        talk.set(("xbzrle", not before))
        talk.ask("query-migrate-capabilities")
        talk.set(("xbzrle", not before), ("xbzrle", before))
        talk.ask("query-migrate-capabilities")
    finally:
        talk.set(("xbzrle", before))
