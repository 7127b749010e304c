"""The calls: gather, judge, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from libvirt_postcopy.drivers.wishes import Wishes
from libvirt_postcopy.errors import NotSupportedError, UsageError
from libvirt_postcopy.preflight import client, guest, hosts, request, versions
from libvirt_postcopy.preflight.facts import Facts
from libvirt_postcopy.preflight.finding import CHECKS, Finding, look
from libvirt_postcopy.preflight.gather import Gathering, gather
from libvirt_postcopy.preflight.report import Report
from libvirt_postcopy.vir.calls import Open
from libvirt_postcopy.vir.destination import Destination, checked_destination
from libvirt_postcopy.vir.events import ensure_event_loop
from libvirt_postcopy.vir.protocols import Connection, Domain

__all__ = ["MODES", "before_migration", "check", "examine", "judge", "refuse_errors"]

JUDGES = (request, guest, hosts, versions, client)
"""The modules that fill :data:`CHECKS` when they are imported."""

MODES = ("off", "warn", "strict")
"""What :func:`before_migration` does."""


def check(
    dom: Domain,
    dest: Destination,
    *,
    flags: int = 0,
    params: Mapping[str, Any] | None = None,
    probe: bool = False,
    driver: str = "native",
    wishes: Wishes | None = None,
    connect: Open | None = None,
) -> Report:
    """Say beforehand whether a guest can move by post-copy, and what would go wrong.

    The guest is only looked at: its QEMU is asked through libvirt's monitor passthrough, which libvirt notes in the
    domain's log (``custom-monitor``).  What cannot be looked at is a finding too, not an exception.

    :param dom: The domain (``libvirt.virDomain``), over a connection on which no migration is under way: libvirt 9.0
        may answer only at the end of that.
    :param dest: URI of the destination as this client would connect to it, or a connection.
    :param flags: ``VIR_MIGRATE_*`` as for the migration; LIVE and POSTCOPY are understood.
    :param params: Typed parameters as for the migration.
    :param probe: Start a domain of our own on the destination for a moment, paused, without disk and network, and
        ask its QEMU whether it would agree to post-copy.
    :param driver: ``native`` or ``qemu``, which asks less of libvirt.
    :param wishes: As for the migration.
    :param connect: Opens the connection to the destination, instead of ``libvirt.open``: for who must log in there.
    :raises UsageError: If ``dest`` is neither a URI nor a connection.
    """
    by_qemu = driver == "qemu"
    wanted = Gathering(
        dom.connect(),
        dom,
        checked_destination(dest),
        flags,
        params or {},
        connect=connect,
        with_probe=probe,
        by_qemu=by_qemu,
        has_second_monitor=not by_qemu and (wishes or Wishes()).needs_second_monitor,
    )
    return _examined(wanted)


def examine(
    source: Connection,
    dom: Domain | None = None,
    dest: Destination | None = None,
    *,
    flags: int = 0,
    params: Mapping[str, Any] | None = None,
    probe: bool = False,
    owns_source: bool = False,
    connect: Open | None = None,
) -> Report:
    """As :func:`check`, and also of a pair of hosts without a domain, or of one host.

    :param owns_source: The connection to the source was opened by :func:`libvirt_postcopy.vir.calls.open_connection`.
    """
    wanted = Gathering(
        source,
        dom,
        dest,
        flags,
        params or {},
        owns_source,
        connect,
        with_probe=probe,
    )
    return _examined(wanted)


def _examined(wanted: Gathering) -> Report:
    ensure_event_loop()  # without one no connection has keepalive
    facts = gather(wanted)
    return judge(facts, wanted.dom.name() if wanted.dom is not None else "")


def judge(facts: Facts, domain: str = "") -> Report:
    """Carry out all checks.  Asks nobody.

    :param domain: Its name, for the heading.
    """
    verdicts, findings = {}, list[Finding]()
    for id, each in CHECKS.items():
        verdicts[id], found = look(each, facts)
        findings += found
    there = facts.destination
    return Report(
        domain=domain,
        source=facts.source.uri,
        destination=there.uri if there is not None else "",
        findings=tuple(findings),
        checks=verdicts,
        bindings=client.line(facts),
    )


def before_migration(
    mode: str,
    say: Callable[[str], None],
    dom: Domain,
    dest: Destination,
    *,
    flags: int = 0,
    params: Mapping[str, Any] | None = None,
    driver: str = "native",
    wishes: Wishes | None = None,
    connect: Open | None = None,
) -> None:
    """Look before a migration is started: what ``--postcopy-check`` means.

    :param mode: ``off`` looks at nothing; ``warn`` refuses on an error, which is certain, and says the warnings;
        ``strict`` refuses on a warning too.
    :param say: Is given one line for each warning.
    :param connect: As in :func:`check`.
    :raises UsageError: If there is no such mode.
    :raises NotSupportedError: If it refuses; nothing was started.
    """
    if mode not in MODES:
        raise UsageError(f"unknown check '{mode}'", cure=f"one of {', '.join(MODES)}")
    if mode == "off":
        return
    report = check(
        dom,
        dest,
        flags=flags,
        params=params,
        driver=driver,
        wishes=wishes,
        connect=connect,
    )
    refuse_errors(report)
    if mode == "strict":
        _refuse(report.warnings, "--postcopy-check strict: ")
    for each in report.warnings:
        if each.id not in _TOLD_BY_MIGRATION:
            say(_line(each))


_TOLD_BY_MIGRATION = frozenset(("destination/connection", "versions/resume-crash"))
"""What fails at once, with the same words, if it matters to the migration, or is said at its beginning in any case."""


def refuse_errors(report: Report) -> None:
    """Go on only if a report has no error.

    :raises NotSupportedError: With the first of them.
    """
    _refuse(report.errors, "post-copy cannot work: ")


def _refuse(findings: Sequence[Finding], why: str) -> None:
    if not findings:
        return
    first, *more = findings
    others = f", and {len(more)} more" if more else ""
    raise NotSupportedError(
        f"{why}{first.evidence}{others}", side=first.side, cure=first.cure
    )


def _line(each: Finding) -> str:
    where = f" ({each.side})" if each.side else ""
    cure = f" ({each.cure})" if each.cure else ""
    return f"{each.severity.value}: {each.id}{where}: {each.evidence}{cure}"
