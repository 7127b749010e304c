"""Going on with a migration that somebody else has started: another client, one that was killed, or virsh."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import libvirt_postcopy.vir.calls as vir
from libvirt_postcopy.actions import Note
from libvirt_postcopy.api import (
    RECOVER,
    Job,
    MigrationResult,
    bandwidth_of,
    begin,
    facts_of,
    patience_of,
    target_of,
    without_flags,
)
from libvirt_postcopy.constants import CLIENT_SIDE_FLAGS, MigrateFlags
from libvirt_postcopy.drivers.attached import AttachedDriver
from libvirt_postcopy.drivers.native import Target
from libvirt_postcopy.drivers.picked_up import PickedUpDriver
from libvirt_postcopy.drivers.runner import Observer, Runner
from libvirt_postcopy.errors import LibvirtError, StateError, UsageError
from libvirt_postcopy.events import Half, Side
from libvirt_postcopy.journal import Entry, Journal, entries, newest, safe_uri
from libvirt_postcopy.policy import Manual, Policy, parse
from libvirt_postcopy.vir.destination import Destination
from libvirt_postcopy.vir.protocols import Domain

__all__ = ["Left", "attach", "left_behind", "recover", "require_broken"]

_SAME_CALL_S = 120.0
"""From the record of a migrate call to libvirt's job, which begins when both daemons have been reached."""


def attach(
    dom: Domain,
    dest: Destination | None = None,
    *,
    policy: Policy | str | None = None,
    flags: int | None = None,
    params: Mapping[str, Any] | None = None,
    recover: float | str = RECOVER,
    recover_bandwidth: int | None = None,
    peer2peer: bool | None = None,
    shadow: bool = False,
    connect: vir.Open | None = None,
    observer: Observer | None = None,
) -> Job:
    """Go on with a migration that another client has started, and return at once.

    What is not given is taken from the journal of the client that started it, if it ran here as the same user.

    :param dom: The domain on the *source*.
    :param dest: Where it goes.  Where nothing tells, the migration is watched and switched, but not resumed.
    :param policy: When to switch, while it is in pre-copy; ``manual`` where no journal tells.  Time counts from the
        beginning of the migration.
    :param flags: ``VIR_MIGRATE_*`` of the migrate call, for a call that resumes it.
    :param params: Its typed parameters.
    :param recover: How long a broken migration is tried to be resumed; see :func:`libvirt_postcopy.start`.
    :param recover_bandwidth: Post-copy's limit in MiB/s for the rest after a recovery, 0 for none; as before if None.
    :param shadow: Send nothing: only watch, and say what would have been sent.
    :raises StateError: If no migration of the domain goes on, if another client of ours drives it, or if this is
        the destination's half.
    :raises LibvirtError: If the source's daemon does not answer, or the domain's connection is read-only and it is to be
        more than watched.
    """
    patience_s, limit = patience_of(recover), bandwidth_of(recover_bandwidth)
    if not shadow:
        vir.require_writable(dom)
    left = left_behind(dom)
    qemus = _of_driver_qemu(left)
    if qemus is None:
        _require_source(dom)
    elif shadow:
        raise UsageError(
            "a migration of the driver qemu cannot be watched only: libvirt tells nothing of it",
            cure="leave out --shadow",
        )
    if left.driver and not shadow:
        raise _driven(dom, left.driver)
    entry = left.entry
    chosen = _policy(policy, entry)
    target = _target(dest, entry, peer2peer)
    known_flags = entry.facts.flags if entry and flags is None else flags or 0
    wanted = _resume_flags(known_flags)
    known_params = dict(entry.facts.params) if entry and params is None else params
    journal = None
    if not shadow:
        facts = facts_of(dom, target, wanted, known_params or {}, chosen, patience_s)
        facts = replace(facts, source_host=left.source_host)
        if qemus is not None:
            facts = replace(facts, driver="qemu", run=qemus.facts.run)
        journal = Journal(facts, entry)
    call = (dom, target, known_params or {}, wanted, partial(vir.open_connection, open_=connect))  # fmt: skip
    options: dict[str, Any] = {"recover_bandwidth": limit, "journal": journal}
    known_entry = entry if params is None else None
    driver: AttachedDriver | PickedUpDriver
    if qemus is not None:
        ran = qemus.has_run_there
        driver = PickedUpDriver(
            *call,
            **options,
            run=qemus.facts.run,
            has_run_there=ran,
            may_run_there=qemus.may_run_there,
            resumed=qemus.resumed,
        )
        reason, doubts = "as it was begun", _held_back(known_entry, "")
    else:
        driver = AttachedDriver(*call, **options)
        is_told = flags is not None or params is not None
        reason, doubts = "", _doubts(driver, known_entry, is_told)
    with _taken_over(journal, dom, entry):
        if observer is not None:
            for text in doubts:
                observer(Note(text))
        runner = Runner(
            driver, chosen, observer, patience_s, journal=journal, is_shadow=shadow
        )
    return begin(runner, driver, reason)


@contextmanager
def _taken_over(
    journal: Journal | None, dom: Domain, entry: Entry | None
) -> Iterator[None]:
    """Take the journal over, and let go of it if what follows fails: another client may attach then.

    :raises StateError: If another client has it.
    """
    if journal is None:
        yield
        return
    try:
        if not journal.hold():
            raise _driven(dom, entry.pid if entry else 0)
        journal.attach()
        yield
    except BaseException:
        journal.close()
        raise


def recover(
    dom: Domain,
    dest: Destination | None = None,
    *,
    flags: int | None = None,
    params: Mapping[str, Any] | None = None,
    recover: float | str = RECOVER,
    recover_bandwidth: int | None = None,
    peer2peer: bool | None = None,
    connect: vir.Open | None = None,
    observer: Observer | None = None,
) -> MigrationResult:
    """Resume a broken migration until it is whole, and wait for that; see :func:`attach` and :meth:`Job.wait`.

    An interrupt (``KeyboardInterrupt``) leaves it as it is.

    :raises StateError: If nothing is broken, too.
    """
    require_broken(dom)
    return attach(
        dom,
        dest,
        policy=Manual(),
        flags=flags,
        params=params,
        recover=recover,
        recover_bandwidth=recover_bandwidth,
        peer2peer=peer2peer,
        connect=connect,
        observer=observer,
    ).wait()


def require_broken(dom: Domain) -> None:
    """Refuse to mend what is not broken.

    :raises StateError: If libvirt does not call the post-copy of this source's half failed.
    """
    if _of_driver_qemu(left_behind(dom)) is not None:
        return  # libvirt does not know of it
    _require_source(dom)
    half = vir.half(dom)
    if half is not Half.SPLIT_FAILED:
        raise StateError(
            f"nothing is broken: the migration of domain '{dom.name()}' is in {_PHASES.get(half, 'an unknown state')}",
            side="source",
            cure="let it go on; attach to it to have it watched and mended",
        )


_PHASES = {
    Half.WHOLE: "pre-copy",
    Half.MIGRATING: "pre-copy",
    Half.SPLIT: "post-copy, and its memory follows",
}


@dataclass(frozen=True)
class Left:
    """What clients have left behind of a domain's migration.

    :ivar entry: The journal, if it is of the migration that goes on.
    :ivar driver: The process that drives it; 0 for none.
    """

    entry: Entry | None = None
    driver: int = 0
    source_host: str | None = None


def left_behind(dom: Domain) -> Left:
    """Look for the journal of the migration that goes on away from here."""
    host = _host(dom)
    entry = _last_entry(dom, host)
    if entry is None or not _is_of_this_job(entry, dom):
        return Left(source_host=host)
    return Left(entry, entry.pid if entry.is_held else 0, host)


def _of_driver_qemu(left: Left) -> Entry | None:
    """The journal, if the migration is the driver ``qemu``'s: libvirt tells nothing of it."""
    entry = left.entry
    return entry if entry is not None and entry.facts.driver == "qemu" else None


def _host(dom: Domain) -> str | None:
    with suppress(LibvirtError):
        return vir.host_uuid(dom.connect())
    return None


def _last_entry(dom: Domain, host: str | None) -> Entry | None:
    """The newest journal of the domain on this host, if its end was not seen."""
    entry = newest(dom.UUIDString(), vir.uri_of(dom.connect()), host)
    return None if entry is None or entry.is_over else entry


def _is_of_this_job(entry: Entry, dom: Domain) -> bool:
    """A client may have been killed, and somebody have started another migration since."""
    if entry.is_held:
        return True
    try:
        stats = vir.leaving_stats(dom)
    except LibvirtError:  # QEMU does not answer now
        return True
    if stats is None or stats.elapsed_ms is None:
        return True
    return time.time() - stats.elapsed_ms / 1000 - entry.began < _SAME_CALL_S


# What is refused


def _require_source(dom: Domain) -> None:
    """Refuse a domain that is not the source's half of a migration.

    :raises StateError: If it is not.
    :raises LibvirtError: If the daemon cannot say.
    """
    if not vir.is_running(dom):
        raise _nothing(dom, "does not run")
    side = vir.migration_side(dom)
    if side is Side.DESTINATION:
        raise StateError(
            f"this is the destination's half of domain '{dom.name()}'",
            side="destination",
            cure=f"run it against the source URI{_known_source(dom)}",
        )
    if side is None and not vir.has_job(dom) and vir.is_paused_by_migration(dom):
        raise _may_be_a_shell(dom)
    if side is None:
        does = "has another job" if vir.has_job(dom) else "runs"
        raise _nothing(dom, f"{does}, and no migration of it goes on here")


def _may_be_a_shell(dom: Domain) -> StateError:
    """libvirt has missed the end of its migration: started on its way again, it would be there twice."""
    return StateError(
        f"nothing to attach to: domain '{dom.name()}' is paused by a migration that does not go on: where the guest runs on"
        " the destination this is a shell with old memory",
        side="source",
        cure="neither resume nor migrate it; look on the destination (virsh domstate --reason), and only if the guest runs"
        " there destroy the shell here",
    )


def _nothing(dom: Domain, does: str) -> StateError:
    """Say what the domain does, and what the last client of ours has left of it."""
    entry = _last_entry(dom, _host(dom))
    cure = "start one with migrate"
    if entry is not None:
        where = entry.facts.destination or "another host"
        cure = f"process {entry.pid} left a migration to {where} behind: libvirt has undone it, or the guest runs there"
    return StateError(
        f"nothing to attach to: domain '{dom.name()}' {does}", side="source", cure=cure
    )


def _known_source(dom: Domain) -> str:
    here = safe_uri(vir.uri_of(dom.connect()) or "")
    uuid = dom.UUIDString()
    for entry in entries():
        facts = entry.facts
        if facts.uuid == uuid and facts.destination == here and facts.source:
            return f", {facts.source}"
    return ""


def _driven(dom: Domain, pid: int) -> StateError:
    return StateError(
        f"the migration of domain '{dom.name()}' is driven by process {pid}",
        side="client",
        cure="leave it to that one, or watch it as a shadow",
    )


# What is taken from the journal


def _policy(policy: Policy | str | None, entry: Entry | None) -> Policy:
    if isinstance(policy, str):
        return parse(policy)
    if policy is not None:
        return policy
    if entry is not None:
        with suppress(UsageError):  # one of the caller's own, or of a later version
            return parse(entry.facts.policy)
    return Manual()


def _target(
    dest: Destination | None, entry: Entry | None, peer2peer: bool | None
) -> Target:
    noted = entry.facts.destination if entry is not None else None
    is_noted = dest in (None, noted)  # our own program names what the journal has
    dest = noted if is_noted else dest
    if dest is None:
        return Target()
    if not isinstance(dest, str) or peer2peer is not None or entry is None:
        return target_of(dest, MigrateFlags(0), peer2peer)
    was_peer2peer = entry.facts.is_peer2peer
    target = target_of(dest, MigrateFlags(0), was_peer2peer)
    was_reached = is_noted and not was_peer2peer
    return replace(target, may_fall_back=True, was_reached=was_reached)


_NOT_OF_A_RESUME = (
    CLIENT_SIDE_FLAGS
    | MigrateFlags.VIR_MIGRATE_PEER2PEER
    | MigrateFlags.VIR_MIGRATE_POSTCOPY_RESUME
)


def _resume_flags(flags: int) -> MigrateFlags:
    needed = MigrateFlags.VIR_MIGRATE_LIVE | MigrateFlags.VIR_MIGRATE_POSTCOPY
    return without_flags(flags, _NOT_OF_A_RESUME) | needed


def _doubts(driver: AttachedDriver, entry: Entry | None, is_told: bool) -> list[str]:
    """What the operator should know of what is not known."""
    doubts = []
    if not driver.knows_destination:
        doubts.append(
            "the destination is not known: the migration is watched, and cannot be resumed if it breaks;"
            " name the URI of its destination"
        )
    if entry is None and not is_told:
        doubts.append(
            "no journal tells how it was started: if it breaks it is resumed without its other options (--tls,"
            " --migrateuri), and what they ask for at its end (--persistent, --undefinesource) is for you to do,"
            " unless you name them here"
        )
    return [*doubts, *_held_back(entry, " if it is resumed")]


def _held_back(entry: Entry | None, when: str) -> list[str]:
    if entry is None or not entry.held_back:
        return []
    names = ", ".join(entry.held_back)
    return [f"not in the journal, and not used{when}: {names}"]
