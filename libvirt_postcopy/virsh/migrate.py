"""``migrate``: a command line becomes a plan, the plan a migration, and somebody watches it."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libvirt_postcopy import api
from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.errors import (
    GuestLost,
    MigrationCancelled,
    MigrationError,
    PostcopyBroken,
    StateError,
    UsageError,
)
from libvirt_postcopy.events import Place
from libvirt_postcopy.features import explain
from libvirt_postcopy.policy import After, AfterPrecopy, AnyOf, Manual, Policy, parse
from libvirt_postcopy.vir import calls
from libvirt_postcopy.vir.events import ensure_event_loop
from libvirt_postcopy.virsh.daemon import connect, find_domain
from libvirt_postcopy.virsh.grammar import Globals, Kind, Value
from libvirt_postcopy.virsh.interrupts import Answer, Interrupts, Signals, may_leave
from libvirt_postcopy.virsh.progress import Progress
from libvirt_postcopy.virsh.terminal import Terminal
from libvirt_postcopy.virsh.verbs import MIGRATE_OPTIONS

__all__ = ["LeftAlone", "Plan", "follow", "make_plan", "run"]

SLICE_S = 0.1
"""How soon an interrupt is seen to; the end of the migration is seen at once."""

_LARGEST_XML = 10 << 20  # bytes, as in virsh


class LeftAlone(MigrationError):
    """The user left before the end.

    :param guest: Where the guest was then: ``source`` or ``split``.
    """

    def __init__(self, what: str, *, guest: str, cure: str = "") -> None:
        super().__init__(what, cure=cure)
        self.guest = guest


# The plan


@dataclass(frozen=True)
class Plan:
    """What a valid command line asks for."""

    domain: str
    destination: str
    policy: Policy
    flags: MigrateFlags
    params: Mapping[str, Any]
    is_peer2peer: bool
    is_verbose: bool


def make_plan(given: Mapping[str, Value]) -> Plan:
    """Check what can be checked without a daemon.

    :raises UsageError: If the options cannot be meant together; in virsh's words where it has some.
    """
    _check_pairs(given)
    policy = _policy(given)
    return Plan(
        domain=str(given["domain"]),
        destination=str(given["desturi"]),
        policy=policy,
        flags=_flags(given, policy),
        params=_params(given),
        is_peer2peer="p2p" in given,
        is_verbose="verbose" in given,
    )


_EXCLUSIVE = (
    ("live", "offline"),
    ("timeout-suspend", "timeout-postcopy"),
    ("copy-storage-all", "copy-storage-inc"),
)
_REQUIRED = (
    ("persistent-xml", "persistent"),
    ("tls-destination", "tls"),
)
#: Those that switch, or let somebody switch.
_ENABLING = (
    "postcopy",
    "enable-postcopy",
    "postcopy-after",
    "postcopy-after-precopy",
    "postcopy-policy",
)


def _check_pairs(given: Mapping[str, Value]) -> None:
    for one, other in _EXCLUSIVE:
        if one in given and other in given:
            raise UsageError(f"Options --{one} and --{other} are mutually exclusive")
    for option, needed in _REQUIRED:
        if option in given and needed not in given:
            raise UsageError(f"Option --{needed} is required by option --{option}")
    if not any(name in given for name in _ENABLING):
        asking = "timeout-postcopy" if "timeout-postcopy" in given else "strict-exit"
        raise UsageError(f"Option --postcopy is required by option --{asking}")
    if "postcopy-resume" in given:
        raise UsageError(
            "a migration that is resumed cannot be given a policy",
            cure="leave out virsh-postcopy's own options",
        )
    if "direct" in given:
        raise UsageError(
            "post-copy and --direct do not go together",
            cure="use --p2p, or neither",
        )
    _check_times(given)


def _check_times(given: Mapping[str, Value]) -> None:
    is_live = "live" in given
    if "postcopy-after" in given:
        if not is_live:
            raise UsageError(
                "migrate: Unexpected postcopy-after for offline migration",
                cure="add --live",
            )
        if "timeout" in given:
            raise UsageError("migrate: --postcopy-after is incompatible with --timeout")
    if "timeout" in given and not is_live:
        raise UsageError("migrate: Unexpected timeout for offline migration")
    if "timeout" not in given:
        if "timeout-postcopy" in given or "timeout-suspend" in given:
            raise UsageError("migrate: Unexpected --timeout-* option without --timeout")
    elif "timeout-postcopy" not in given:
        raise UsageError(
            "migrate: to suspend the guest after --timeout does not go with virsh-postcopy's own options",
            cure="add --timeout-postcopy",
        )


def _policy(given: Mapping[str, Value]) -> Policy:
    """What was asked for; of several the first that fires."""
    chosen: list[Policy] = []
    if "postcopy-policy" in given:
        chosen.append(parse(str(given["postcopy-policy"])))
        others = [name for name in _ENABLING if name in given][:-1]
        if not chosen[0].enables_postcopy and (others or "timeout-postcopy" in given):
            other = others[0] if others else "timeout-postcopy"
            raise UsageError(
                f"--postcopy-policy {chosen[0]} forbids what --{other} asks for",
                cure="leave one of them out",
            )
    if "postcopy-after-precopy" in given:
        chosen.append(AfterPrecopy())
    for name in ("postcopy-after", "timeout"):
        if name in given:
            chosen.append(After(int(given[name])))
    if not chosen:
        return Manual()
    return chosen[0] if len(chosen) == 1 else AnyOf(tuple(chosen))


def _flags(given: Mapping[str, Value], policy: Policy) -> MigrateFlags:
    flags = MigrateFlags(0)
    for option in MIGRATE_OPTIONS:
        if option.flag is not None and option.name in given:
            flags |= option.flag
    if not flags & MigrateFlags.VIR_MIGRATE_LIVE and not "offline" in given:
        raise _not_live(policy)
    if policy.enables_postcopy:
        flags |= MigrateFlags.VIR_MIGRATE_POSTCOPY
    return flags & ~MigrateFlags.VIR_MIGRATE_PEER2PEER


def _not_live(policy: Policy) -> UsageError:
    """No --live is ever implied: say what libvirt would say, before anything is started."""
    if not policy.enables_postcopy:
        return UsageError(
            f"--postcopy-policy {policy} needs a live migration", cure="add --live"
        )
    known = explain(
        "post-copy migration is not supported with non-live or paused migration"
    )
    return UsageError(known.what, side=known.side, cure="add --live")


def _params(given: Mapping[str, Value]) -> dict[str, Any]:
    return {
        option.param: _param(option.kind, given[option.name])
        for option in MIGRATE_OPTIONS
        if option.param is not None and option.name in given
    }


def _param(kind: Kind, value: Value) -> Any:
    if kind is Kind.FILE:
        return _read(str(value))
    if kind is Kind.LIST:
        return str(value).split(",")
    return value


def _read(name: str) -> str:
    try:
        with Path(name).open("rb") as file:
            content = file.read(_LARGEST_XML + 1)
        if len(content) > _LARGEST_XML:
            raise UsageError(f"cannot read file '{name}': it is larger than 10 MiB")
        return content.decode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"cannot read file '{name}': {reason}") from error


# The migration


def run(given: Mapping[str, Value], options: Globals, terminal: Terminal) -> None:
    """Migrate, and stay until the end or until the user leaves.

    :raises PostcopyError: What has become of it if it did not come to its end; text for the operator.
    """
    plan = make_plan(given)
    # Until something is started Ctrl-C may simply end the program, also while libvirt blocks in C.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    calls.silence_libvirt()
    ensure_event_loop()
    call = "virDomainMigrateToURI3" if plan.is_peer2peer else "virDomainMigrate3"
    connection = connect(options, for_call=call)
    dom = find_domain(connection, plan.domain)
    progress = Progress(terminal, is_verbose=plan.is_verbose and not options.is_quiet)
    texts = Texts(plan, given, connection.getURI())
    with Signals() as signals:
        job = api.start(
            dom,
            plan.destination,
            policy=plan.policy,
            flags=plan.flags,
            params=plan.params,
            peer2peer=plan.is_peer2peer,
            observer=progress.see,
        )
        try:
            result = follow(job, progress, signals, texts, terminal)
        except MigrationError as error:
            raise texts.of(error) from error
        except Exception as error:  # a bug of ours is no reason to touch either half
            if job.guest is Place.SPLIT:
                raise texts.left_split() from error
            raise
    progress.finish(result, is_peer2peer=result.is_peer2peer)


def follow(
    job: api.Job,
    progress: Progress,
    signals: Signals,
    texts: Texts,
    terminal: Terminal,
) -> api.MigrationResult:
    """Wait for the end, and answer interrupts.

    :raises MigrationError: What :meth:`libvirt_postcopy.api.Job.wait` raises, or :class:`LeftAlone`.
    """
    interrupts = Interrupts()
    while True:
        try:
            result = job.wait(SLICE_S)
            break
        except TimeoutError:
            progress.update(job, time.monotonic())
        for answer in _answers(interrupts, job, progress, signals, texts):
            if answer is Answer.LEAVE:
                raise texts.left_aborting()
            if answer is Answer.DETACH:
                raise texts.left_split()
            if answer is Answer.ABORT:
                _abort(job)
            terminal.say(texts.said[answer])
    if interrupts.is_aborting:
        terminal.say("the abort came too late: the guest has moved")
    return result


def _answers(
    interrupts: Interrupts,
    job: api.Job,
    progress: Progress,
    signals: Signals,
    texts: Texts,
) -> list[Answer]:
    guest = job.guest
    can_leave = may_leave(
        job.phase,
        guest,
        is_managed=not texts.plan.is_peer2peer,
        is_resumed=progress.is_resumed,
    )
    pressed = [
        interrupts.press(guest, can_leave=can_leave) for _ in range(signals.take())
    ]
    later = interrupts.look(guest, can_leave=can_leave)
    return pressed if later is None or later in pressed else [*pressed, later]


def _abort(job: api.Job) -> None:
    try:
        job.abort()
    except StateError:
        pass  # it has ended, or the guest is split by now; the next look tells


# What is said


class Texts:
    """What the operator is told: where the guest is, what must not be done, and the next command."""

    def __init__(self, plan: Plan, given: Mapping[str, Value], source: str) -> None:
        self.plan = plan
        self._given = given
        self._source = source

    said: Mapping[Answer, str] = {
        Answer.ABORT: "aborting: the guest stays on the source",
        Answer.STILL_ABORTING: "the abort is not confirmed yet: still waiting",
        Answer.TOO_LATE: "the abort came too late: the guest is split over both hosts and cannot go back;"
        " the migration goes on (Ctrl-C leaves it to itself)",
        Answer.EXPLAIN: "the guest is split over both hosts and cannot go back: the migration goes on"
        " (Ctrl-C again leaves it to itself)",
        Answer.NOT_YET: "the guest is not running on the destination yet: leaving as soon as it is",
        Answer.ENDING: "the migration is about to end: still waiting",
    }

    def of(self, error: MigrationError) -> MigrationError:
        """Complete what the library says with what only the command line knows."""
        if isinstance(error, MigrationCancelled):
            return MigrationCancelled(
                "migration aborted: the guest runs on the source", phase=error.phase
            )
        if isinstance(error, PostcopyBroken):
            return PostcopyBroken(
                f"{error.what}: {self._halves()}",
                side=error.side,
                cure=f"when the link is back: {self._resume_command()}",
                phase=error.phase,
            )
        if isinstance(error, GuestLost):
            return GuestLost(
                f"{error.what}: the guest '{self.plan.domain}' is lost: a half was gone after the switch,"
                " and the other cannot run without it",
                side=error.side,
                cure=f"look at both hosts: {self._look_commands()}; then start it anew from its disks",
                phase=error.phase,
            )
        return error

    def left_split(self) -> LeftAlone:
        """The user, or a bug, left after the switch."""
        return LeftAlone(
            f"left the migration to itself, and it goes on: {self._halves()}",
            guest="split",
            cure=f"look: {self._look_commands()}",
        )

    def left_aborting(self) -> LeftAlone:
        """The user left while the abort was not confirmed."""
        job_info = shlex.join(
            ["virsh", "-c", self._source, "domjobinfo", self.plan.domain]
        )
        return LeftAlone(
            "left before the abort was confirmed: the guest was on the source",
            guest="source",
            cure=f"look: {job_info}",
        )

    def _halves(self) -> str:
        return (
            f"the guest '{self.plan.domain}' is split, its newest memory on {self.plan.destination},"
            f" the rest on {self._source}: destroy, resume and reset neither half"
        )

    def _look_commands(self) -> str:
        there = self._given.get("dname", self.plan.domain)
        commands = (
            ["virsh", "-c", self._source, "domstate", "--reason", self.plan.domain],
            ["virsh", "-c", self.plan.destination, "domstate", "--reason", str(there)],
        )
        return "; ".join(map(shlex.join, commands))

    def _resume_command(self) -> str:
        """The same call again, as virsh takes it, with libvirt's own recovery."""
        words = ["virsh", "-c", self._source, "migrate", "--live"]
        words += ["--postcopy", "--postcopy-resume"]
        for option in MIGRATE_OPTIONS:
            if option.name not in self._given or option.name in ("live", "postcopy"):
                continue
            if option.is_required or (option.flag is None and option.param is None):
                continue
            words.append(f"--{option.name}")
            if option.kind is not Kind.BOOL:
                words.append(str(self._given[option.name]))
        return shlex.join([*words, self.plan.domain, self.plan.destination])
