"""The calls that programs use: start a migration, drive it, get its result."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Union
from uuid import uuid4

import libvirt_postcopy.vir.calls as vir
from libvirt_postcopy.constants import CLIENT_SIDE_FLAGS, MigrateFlags
from libvirt_postcopy.drivers.assisted import AssistedDriver
from libvirt_postcopy.drivers.native import NativeDriver, Target
from libvirt_postcopy.drivers.passthrough import QemuDriver
from libvirt_postcopy.drivers.runner import Observer, Runner
from libvirt_postcopy.drivers.select import choose
from libvirt_postcopy.drivers.wishes import Wishes
from libvirt_postcopy.errors import (
    GuestLost,
    LibvirtError,
    MigrationCancelled,
    MigrationError,
    MigrationFailed,
    MigrationUnknown,
    NotSupportedError,
    PostcopyBroken,
    PostcopyError,
    StateError,
    UsageError,
    refusal,
)
from libvirt_postcopy.events import (
    AbortRequested,
    Half,
    Place,
    StatsWanted,
    SwitchRequested,
)
from libvirt_postcopy.figures import Summary
from libvirt_postcopy.journal import Facts, Journal
from libvirt_postcopy.phases import Phase
from libvirt_postcopy.policy import AfterPrecopy, Policy, parse
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.units import parse_duration
from libvirt_postcopy.vir.destination import Destination, checked_destination
from libvirt_postcopy.vir.metadata import read_policy
from libvirt_postcopy.vir.protocols import Domain

__all__ = [
    "Job",
    "MigrationResult",
    "RECOVER",
    "Wishes",
    "job_stats",
    "migrate",
    "start",
]

RECOVER = "30m"
"""How long a broken migration is tried to be resumed unless told otherwise."""

_FORBIDDEN = {
    MigrateFlags.VIR_MIGRATE_TUNNELLED: "leave out --tunnelled; --tls encrypts without it",
    MigrateFlags.VIR_MIGRATE_OFFLINE: "an offline migration moves no memory; use libvirt's own call for it",
    MigrateFlags.VIR_MIGRATE_POSTCOPY_RESUME: "a migration that is resumed takes no policy; recover() resumes it",
    MigrateFlags.VIR_MIGRATE_PAUSED: "post-copy needs a guest that runs; suspend it after the migration",
}


@dataclass(frozen=True)
class MigrationResult(Summary):
    """A migration that came to its end.

    :ivar domain: The domain, looked up on the destination over a connection to the destination; None
        where this client has none (PEER2PEER to a host that only the source can reach).
    :ivar driver: How it was carried out: ``native``, by libvirt's own job, or ``qemu``, by QEMU's commands.
    :ivar driver_reason: Why so.
    :ivar is_peer2peer: The daemons talked to each other; otherwise the client managed it.
    :ivar blocktime: What the destination's QEMU has counted of its vCPUs' waits for pages, by QEMU's own names and
        units (``postcopy-blocktime`` in ms, …); empty unless it was asked for.
    :ivar notes: What did not work although the guest has moved.
    """

    domain: Domain | None = None
    driver: str = "native"
    driver_reason: str = ""
    is_peer2peer: bool = False
    blocktime: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        way = "peer to peer" if self.is_peer2peer else "managed by this client"
        took = (("moved in", self.total_ms), ("downtime", self.downtime_ms))
        told = [f"{what} {ms:.0f} ms" for what, ms in took if ms is not None]
        told.append(f"passes over memory: {self.passes}")
        if self.switch is None:
            told.append("completed as pre-copy")
        else:
            told.append(f"switched to post-copy: {self.switch.reason}")
        told.append(f"driver {self.driver}, {way}")
        return "; ".join((*told, *self.notes))


_SLICE_S = 0.05


AnyDriver = Union[NativeDriver, QemuDriver]


class Job:
    """A migration under way.  All methods may be called from any thread."""

    def __init__(self, runner: Runner, driver: AnyDriver, reason: str = "") -> None:
        self._runner = runner
        self._driver = driver
        self.driver_reason = reason  #: why it is carried out by this driver

    @property
    def phase(self) -> Phase:
        """Where the migration is."""
        return self._runner.migration.phase

    @property
    def guest(self) -> Place:
        """Where the guest is."""
        return self._runner.migration.place

    @property
    def driver(self) -> str:
        """How it is carried out: ``native`` or ``qemu``."""
        return self._driver.name

    @property
    def can_go_on_alone(self) -> bool:
        """Whether the daemons go on with it when this program ends."""
        if isinstance(self._driver, QemuDriver):
            return self.is_over
        is_theirs = self._driver.is_peer2peer or self._driver.is_attached
        return self.is_over or is_theirs

    @property
    def can_be_left(self) -> bool:
        """Whether the guest survives if this program ends now.

        False only for a moment: while a migration that this client manages carries the guest over.  With the driver
        ``qemu`` False until the end: nobody else would start the guest on the destination.
        """
        if isinstance(self._driver, QemuDriver):
            return self.is_over
        if self._driver.is_peer2peer or self._driver.is_attached:
            return True
        return self._runner.migration.can_be_left_by_its_manager

    @property
    def is_over(self) -> bool:
        """Whether :meth:`wait` would return at once."""
        return self._runner.wait(0)

    def stats(self) -> Stats | None:
        """The last reading of the statistics; None before the first.

        While somebody calls this, one is taken every 0.5 s; otherwise as seldom as the policy allows, since
        a QEMU with a full link may answer only at the end of a pass, and then delays the switch.
        """
        self._runner.put(StatsWanted())
        return self._runner.migration.stats

    def summary(self) -> Summary:
        """The figures so far."""
        return self._runner.migration.summary()

    def start_postcopy(self, reason: str = "asked for") -> None:
        """Ask for the switch, now or as soon as pre-copy has begun.

        Returns at once; the switch is verified, and asked for again if it does not come.

        :raises StateError: If the migration is over, or cannot switch: post-copy was not enabled, or libvirt has
            refused the switch for good.
        """
        if self.is_over:
            raise StateError(f"the migration is over: {self.phase.value}")
        if why := self._runner.migration.cannot_switch:
            raise StateError(why, cure="let it end as pre-copy, or abort it")
        self._runner.put(SwitchRequested(reason))

    def abort(self) -> None:
        """Ask for the migration to be undone; returns at once.

        Has an effect only before the switch.  Afterwards it would lose the guest and is not sent.

        :raises StateError: If the guest is no longer wholly on the source, or if another client has started it.
        """
        if self._driver.is_attached:
            raise StateError(
                "another client has started this migration: it is not aborted from here",
                cure="virsh domjobabort does so before the switch",
            )
        if self.is_over:
            raise StateError(f"the migration is over: {self.phase.value}")
        if self.guest is not Place.SOURCE:
            raise StateError(
                "the guest is split: aborting now would lose it",
                cure="let the migration go on",
            )
        self._runner.put(AbortRequested())

    def wait(self, timeout: float | None = None) -> MigrationResult:
        """Wait for the end.

        :param timeout: Seconds; None waits for ever.
        :raises TimeoutError: If it is not over by then; the migration goes on.
        :raises MigrationCancelled: If :meth:`abort` took effect.
        :raises MigrationFailed: If the guest still runs on the source.
        :raises PostcopyBroken: If the guest is split.
        :raises MigrationUnknown: If a host cannot be asked, so that it may still be going on.
        :raises GuestLost: If it is gone.
        :raises UsageError: If the arguments turned out wrong; nothing was started.
        """
        if not self._runner.wait(timeout):
            raise TimeoutError(f"the migration is still {self.phase.value}")
        migration, driver = self._runner.migration, self._driver
        if migration.place is not Place.DESTINATION:
            raise self._failure()
        summary = migration.summary()
        figures = {each.name: getattr(summary, each.name) for each in fields(Summary)}
        return MigrationResult(
            **figures,
            domain=driver.domain,
            driver=driver.name,
            driver_reason=self.driver_reason,
            is_peer2peer=driver.is_peer2peer,
            blocktime=getattr(driver, "blocktime", {}),
            notes=tuple(getattr(driver, "notes", ())),
        )

    def _failure(self) -> PostcopyError:
        cause = self._driver.error
        phase, place = self.phase, self.guest
        was_refused = isinstance(cause, (UsageError, NotSupportedError))
        if was_refused and place is Place.SOURCE and cause is not None:
            return cause  # of the first call; a resume may be refused too, and then the guest is split
        kind = MigrationCancelled if phase is Phase.CANCELLED else _FAILURES[place]
        given_up = self._runner.migration.given_up
        told = (cause.what if cause else "", given_up)
        made = kind(
            "; ".join(filter(None, told)) or _UNEXPLAINED[place],
            side=cause.side if cause else "",
            cure=_CURES.get(place, "") or (cause.cure if cause else ""),
            phase=phase.value,
        )
        made.halves = self._runner.migration.halves
        if isinstance(cause, LibvirtError) and cause.__cause__ is not None:
            return refusal(made, cause.__cause__)  # type: ignore[arg-type]
        made.__cause__ = cause
        return made


_FAILURES: Mapping[Place, type[MigrationError]] = {
    Place.SOURCE: MigrationFailed,
    Place.SPLIT: PostcopyBroken,
    Place.UNKNOWN: MigrationUnknown,
    Place.LOST: GuestLost,
}
_UNEXPLAINED: Mapping[Place, str] = {
    Place.SOURCE: "the migration has ended without moving the guest",
    Place.SPLIT: "the migration has broken",
    Place.UNKNOWN: "it cannot be seen what has become of the migration",
    Place.LOST: "the guest is on neither host",
}
_CURES: Mapping[Place, str] = {
    Place.SPLIT: "the guest is split over both hosts: destroy, resume and reset neither half",
    Place.UNKNOWN: "it may still be going on: look at the domain on both hosts, and destroy neither",
    Place.LOST: "what is left of it cannot run; look at QEMU's log on both hosts",
}


def start(
    dom: Domain,
    dest: Destination,
    *,
    policy: Policy | str | None = None,
    flags: int = 0,
    params: Mapping[str, Any] | None = None,
    peer2peer: bool | None = None,
    recover: float | str = RECOVER,
    recover_bandwidth: int | None = None,
    driver: str = "auto",
    wishes: Wishes | None = None,
    connect: vir.Open | None = None,
    observer: Observer | None = None,
) -> Job:
    """Start a migration and return at once.

    :param dom: A running domain (``libvirt.virDomain``).
    :param dest: Where to.  A URI means PEER2PEER, and management by this client where the source's
        daemon cannot reach the destination; a connection means management by this client.
    :param policy: When to switch, as an object or a specification; if None the one that the domain carries in its
        ``<metadata>``, else ``after-precopy``.
    :param flags: ``VIR_MIGRATE_*``.  LIVE is added, and POSTCOPY unless the policy is ``never``, with
        which it does not go.
    :param params: Typed parameters of ``virDomainMigrate3``, in libvirt's units (MiB/s, ms).
    :param peer2peer: True or False where the way is not to be chosen.
    :param recover: How long a broken migration is tried to be resumed, counted from the last page that moved:
        seconds, a duration like ``30m``, or ``never``.
    :param recover_bandwidth: Post-copy's limit in MiB/s for the rest after a recovery, 0 for none; as before if None.
    :param driver: ``native``: libvirt's own migration; ``qemu``: QEMU's commands through the monitor passthrough,
        which taints the domain and needs this client until the end; ``auto``: native where it can do what is asked.
    :param wishes: What libvirt's flags and parameters have no word for.
    :param connect: Opens the further connections that a migration needs, instead of ``libvirt.open``: for
        ``libvirt.openAuth``.  Gets a URI.
    :param observer: Is shown each event and action on the migration's own thread; must not block.
    :raises UsageError: If the arguments cannot be meant; nothing was started.
    :raises LibvirtError: If the source's daemon does not answer, or the domain's connection is read-only; nothing was
        started.
    """
    is_own = policy is None and not flags & CLIENT_SIDE_FLAGS
    chosen = _policy(read_policy(dom) if is_own else policy, flags)
    wanted = _flags(chosen, flags, is_own=is_own)
    target = target_of(dest, wanted, peer2peer)
    patience_s = patience_of(recover)
    _check_domain(dom)
    choice = choose(driver, dom, wanted, wishes)
    opener = partial(vir.open_connection, open_=connect)
    flags_for_libvirt = without_flags(wanted, MigrateFlags.VIR_MIGRATE_PEER2PEER)
    limit = bandwidth_of(recover_bandwidth)
    if choice.driver == "qemu":
        target = _managed(target, peer2peer, wanted)
    facts = facts_of(dom, target, wanted, params or {}, chosen, patience_s)
    if choice.driver == "qemu":
        run = uuid4().hex
        journal = Journal(replace(facts, driver="qemu", run=run))
        carrier = QemuDriver(
            dom,
            target,
            params or {},
            flags_for_libvirt,
            opener,
            wishes=wishes,
            recover_bandwidth=limit,
            run=run,
            journal=journal,
        )
        runner = Runner(carrier, chosen, observer, patience_s, journal=journal)
        return begin(runner, carrier, choice.reason)
    journal = Journal(facts)
    native_class: Callable[..., NativeDriver] = NativeDriver
    if wishes is not None and wishes.needs_second_monitor:
        native_class = partial(AssistedDriver, wishes=wishes)
    native = native_class(
        dom,
        target,
        params or {},
        flags_for_libvirt,
        opener,
        recover_bandwidth=limit,
        journal=journal,
    )
    runner = Runner(native, chosen, observer, patience_s, journal=journal)
    return begin(runner, native, choice.reason)


def _managed(target: Target, peer2peer: bool | None, flags: MigrateFlags) -> Target:
    """The client carries it out, whatever the way to the destination.

    :raises UsageError: If the daemons were to do it between them.
    """
    if peer2peer or flags & MigrateFlags.VIR_MIGRATE_PEER2PEER:
        raise UsageError(
            "the driver qemu cannot migrate peer to peer: this client drives both QEMUs",
            cure="leave out --p2p, or leave out --postcopy-driver",
        )
    return replace(target, is_peer2peer=False)


def facts_of(
    dom: Domain,
    target: Target,
    flags: int,
    params: Mapping[str, Any],
    policy: Policy,
    patience_s: float,
) -> Facts:
    """What the journal is to say of a migration."""
    given = target.connection
    return Facts(
        name=dom.name(),
        uuid=dom.UUIDString(),
        source=vir.uri_of(dom.connect()),
        destination=target.uri if given is None else vir.uri_of(given),
        is_peer2peer=target.is_peer2peer,
        flags=int(flags),
        params=params,
        policy=str(policy),
        recover_s=patience_s,
    )


def begin(runner: Runner, driver: AnyDriver, reason: str = "") -> Job:
    """Start the loop, and keep the job until it is over.

    :raises PostcopyError: If nothing was started.
    """
    runner.start(when_over=_keep)
    job = Job(runner, driver, reason)
    _keep(job)
    return job


_jobs: list[Job] = []  # those under way, whether the caller has kept them or not
_keeping = threading.Lock()


def _keep(*new: Job) -> None:
    """Keep those that are under way, and with them their connections; none that is over."""
    with _keeping:
        _jobs[:] = [each for each in (*_jobs, *new) if not each.is_over]


@atexit.register
def _wait_at_exit() -> None:
    """A program that ends must not take a guest with it.

    libvirt cancels a pre-copy whose manager goes; its policy must not switch while another job is waited for.
    """
    for job in list(_jobs):
        if not job.can_go_on_alone:
            with suppress(StateError):
                job.abort()
    for job in list(_jobs):
        _wait_until_left(job)


def _wait_until_left(job: Job) -> None:
    if job.driver == QemuDriver.name:
        with suppress(
            StateError
        ):  # before the switch it can be undone; after it, it comes to its end
            job.abort()
    while not job.can_be_left:
        with suppress(KeyboardInterrupt, TimeoutError, PostcopyError):
            job.wait(_SLICE_S)


def _check_domain(dom: Domain) -> None:
    """Refuse a domain that does not run, may only be looked at, or with which something goes on already.

    :raises UsageError: If it does not run.
    :raises LibvirtError: If its connection is read-only.
    :raises StateError: If it is part of a migration, or has a job of whatever kind.
    """
    if not vir.is_running(dom):
        raise UsageError(
            f"domain '{dom.name()}' is not running",
            side="source",
            cure="start it first; libvirt's own offline migration moves a definition",
        )
    vir.require_writable(dom)
    if vir.half(dom).is_split:
        raise StateError(
            f"domain '{dom.name()}' is one half of a split guest",
            side="source",
            cure="destroy and resume neither half; bring it back with recover(), or virsh-postcopy postcopy-recover",
        )
    if vir.half(dom) is Half.MIGRATING or vir.has_job(dom):
        raise StateError(
            f"another job is running on domain '{dom.name()}'",
            side="source",
            cure="wait for it or abort it; see virsh domjobinfo",
        )


def migrate(
    dom: Domain,
    dest: Destination,
    *,
    policy: Policy | str | None = None,
    flags: int = 0,
    params: Mapping[str, Any] | None = None,
    peer2peer: bool | None = None,
    recover: float | str = RECOVER,
    recover_bandwidth: int | None = None,
    driver: str = "auto",
    wishes: Wishes | None = None,
    connect: vir.Open | None = None,
    observer: Observer | None = None,
) -> MigrationResult:
    """Migrate and wait for the end; see :func:`start` and :meth:`Job.wait`.

    An interrupt (``KeyboardInterrupt``) leaves the migration to itself, as soon as the guest survives that;
    use :func:`start` to decide.
    """
    job = start(
        dom,
        dest,
        policy=policy,
        flags=flags,
        params=params,
        peer2peer=peer2peer,
        recover=recover,
        recover_bandwidth=recover_bandwidth,
        driver=driver,
        wishes=wishes,
        connect=connect,
        observer=observer,
    )
    try:
        return job.wait()
    except KeyboardInterrupt:
        _wait_until_left(job)
        raise


def job_stats(dom: Domain) -> Stats | None:
    """Read the statistics of a domain's running migration; None where there is none.

    ``Stats.sync_count`` is the dirty-sync count of the series, libvirt's ``memory_iteration``.
    """
    return vir.read_stats(dom)


def _policy(policy: Policy | str | None, flags: int) -> Policy:
    """The policy given, else the one that the series' flag means, which is also the default."""
    if isinstance(policy, str):
        policy = parse(policy)
    if policy is None:
        return AfterPrecopy()
    if flags & CLIENT_SIDE_FLAGS and str(policy) != str(AfterPrecopy()):
        raise UsageError(
            f"VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY contradicts the policy '{policy}'",
            cure="give one of them",
        )
    return policy


def bandwidth_of(recover_bandwidth: int | None) -> int | None:
    """Check a limit in MiB/s.

    :raises UsageError: If it is none that libvirt takes.
    """
    if recover_bandwidth is not None and not 0 <= recover_bandwidth < 1 << 43:
        raise UsageError(
            f"a bandwidth cannot be {recover_bandwidth} MiB/s",
            cure="give MiB/s, or 0 for no limit",
        )
    return recover_bandwidth


def patience_of(recover: float | str) -> float:
    """Seconds; 0 for never."""
    if recover == "never":
        return 0.0
    if isinstance(recover, str):
        return parse_duration(recover)
    if not 0 <= recover < float("inf"):
        raise UsageError(
            f"cannot try to recover for {recover} seconds",
            cure="give seconds, a duration like 30m, or never",
        )
    return recover


def _flags(policy: Policy, flags: int, *, is_own: bool) -> MigrateFlags:
    """The flags for libvirt.

    :param is_own: Whether it is the policy that the domain carries.
    """
    wanted = without_flags(flags, CLIENT_SIDE_FLAGS)
    enabled = MigrateFlags.VIR_MIGRATE_POSTCOPY
    if not policy.enables_postcopy:
        if enabled & wanted:
            raise _contradiction(policy, is_own)
        return wanted | MigrateFlags.VIR_MIGRATE_LIVE
    for flag, cure in _FORBIDDEN.items():
        if flag & wanted:
            raise UsageError(f"post-copy and {flag.name} do not go together", cure=cure)
    return wanted | enabled | MigrateFlags.VIR_MIGRATE_LIVE


def _contradiction(policy: Policy, is_own: bool) -> UsageError:
    if is_own:
        return UsageError(
            f"the domain's own policy '{policy}' forbids what VIR_MIGRATE_POSTCOPY asks for",
            side="source",
            cure="name another one for once, or leave the flag out",
        )
    return UsageError(
        f"the policy '{policy}' forbids what VIR_MIGRATE_POSTCOPY asks for",
        cure="leave one of them out",
    )


def without_flags(flags: int, some: MigrateFlags) -> MigrateFlags:
    """As numbers: ``~`` of a flag holds only the names we know, and would drop a later libvirt's."""
    return MigrateFlags(int(flags) & ~int(some))


def target_of(dest: Destination, flags: MigrateFlags, peer2peer: bool | None) -> Target:
    is_asked = peer2peer or bool(flags & MigrateFlags.VIR_MIGRATE_PEER2PEER)
    dest = checked_destination(dest)
    if isinstance(dest, str):
        return Target(
            uri=dest,
            is_peer2peer=peer2peer is not False,
            may_fall_back=peer2peer is None and not is_asked,
        )
    # As libvirt's own migrate3 does: peer to peer with the URI of the connection.
    with vir.refusals("destination"):
        uri = dest.getURI() if is_asked else None
    return Target(uri=uri, connection=dest, is_peer2peer=is_asked)
