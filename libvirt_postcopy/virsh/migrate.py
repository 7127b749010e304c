"""``migrate``: a plan becomes a migration, and somebody watches it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from libvirt_postcopy import api
from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.drivers.select import choose
from libvirt_postcopy.errors import (
    MigrationError,
    NotSupportedError,
    PostcopyError,
    StateError,
    UsageError,
)
from libvirt_postcopy.events import Half, Place
from libvirt_postcopy.preflight.run import before_migration
from libvirt_postcopy.vir import calls
from libvirt_postcopy.vir.events import ensure_event_loop
from libvirt_postcopy.vir.metadata import read_policy
from libvirt_postcopy.vir.protocols import Domain
from libvirt_postcopy.virsh.daemon import (
    connect,
    find_domain,
    guest_on_source,
    login,
    require_writable,
    uri_of,
)
from libvirt_postcopy.virsh.grammar import Globals, Value
from libvirt_postcopy.virsh.interrupts import (
    Answer,
    Interrupts,
    Signals,
    easily_interrupted,
)
from libvirt_postcopy.virsh.options import option_names
from libvirt_postcopy.virsh.plan import Plan, check_times, make_plan, meant
from libvirt_postcopy.virsh.progress import Progress
from libvirt_postcopy.virsh.split import SplitDomain
from libvirt_postcopy.virsh.terminal import Terminal
from libvirt_postcopy.virsh.texts import LeftAlone, Texts

__all__ = ["Watch", "run"]

LOG = logging.getLogger("libvirt_postcopy.virsh")

SLICE_S = 0.1
"""How soon an interrupt is seen to; the end of the migration is seen at once."""


def run(
    given: Mapping[str, Value], options: Globals, terminal: Terminal, signals: Signals
) -> None:
    """Migrate, and stay until the end or until the user leaves.

    :raises PostcopyError: What has become of it if it did not come to its end; text for the operator.
    """
    plan = make_plan(given)
    with easily_interrupted():
        dom = _open(plan, options)
        check_times(given, plan)
        plan = _with_own_policy(plan, given, dom, terminal)
        uri = uri_of(dom.connect())
        _check_half(SplitDomain(dom, plan.domain, uri))
        choice = choose(plan.driver, dom, plan.flags, plan.wishes)
        _look_first(plan, choice.driver, dom, terminal, login(options).open)
    texts = Texts(plan, given, uri)
    is_shown = plan.is_verbose and not options.is_quiet
    progress = Progress(terminal, is_verbose=is_shown)
    signals.catch()
    job = api.start(
        dom,
        plan.destination,
        policy=plan.policy,
        flags=plan.flags,
        params=plan.params,
        peer2peer=plan.is_peer2peer,
        recover=plan.patience_s,
        recover_bandwidth=plan.recover_bandwidth,
        driver=plan.driver,
        wishes=plan.wishes,
        connect=login(options).open,
        observer=progress.see,
    )
    for line in driver_lines(job, plan):
        terminal.say(line)
    try:
        Watch(job, progress, signals, texts, terminal).wait()
    except LeftAlone:
        raise
    except PostcopyError as error:
        raise _explained(error, texts, progress, dom) from error


_SAYS_WHEN = ("postcopy-policy", "postcopy-after-precopy", "postcopy-after", "timeout")


def _with_own_policy(
    plan: Plan, given: Mapping[str, Value], dom: Domain, terminal: Terminal
) -> Plan:
    """Take the policy that the domain carries, where post-copy is asked for and nothing says when.

    :raises UsageError: If that forbids post-copy, or cannot be read.
    """
    is_said = not meant(given).keys().isdisjoint(_SAYS_WHEN)
    if is_said or not plan.policy.enables_postcopy:
        return plan
    own = read_policy(dom)
    if own is None:
        return plan
    if not own.enables_postcopy:
        raise UsageError(
            f"the domain's own policy is '{own}'",
            side="source",
            cure="name another one for once: --postcopy-policy SPEC",
        )
    terminal.say(f"note: the domain's own policy: {own}")
    return replace(plan, policy=own)


def driver_lines(job: api.Job, plan: Plan) -> Iterator[str]:
    """What the operator should know of how it is carried out."""
    if plan.is_verbose:
        yield f"driver {job.driver}: {job.driver_reason}"
    if job.driver == "qemu":
        is_plain = not plan.flags & MigrateFlags.VIR_MIGRATE_TLS
        plain = "the guest's memory is sent unencrypted, " if is_plain else ""
        yield (
            f"note: {plain}libvirt shows no migration job, and the domain counts as tainted;"
            " let this program run until the end"
        )


def result_lines(result: api.MigrationResult) -> Iterator[str]:
    """What the result tells that the figures of every migration do not."""
    yield from (f"note: {text}" for text in result.notes)
    if "postcopy-blocktime" in result.blocktime:
        yield f"postcopy-blocktime: {result.blocktime['postcopy-blocktime']} ms"
    yield from _latencies(result.blocktime.get("postcopy-latency-dist", ()))


def _latencies(counts: Sequence[int]) -> Iterator[str]:
    """How many page faults took how long (QEMU >= 10.1): a mean would hide the ones that users feel.

    :param counts: The n-th for faults from 2^n to 2^(n+1) µs.
    """
    told = [f"{count} in {_micros(1 << n)} to {_micros(2 << n)}" for n, count in enumerate(counts) if count]  # fmt: skip
    if told:
        yield f"page faults: {', '.join(told)}"


def _micros(number: int) -> str:
    """As 1 ms where it is about that: the bounds are powers of two."""
    if number < 1024:
        return f"{number} us"
    return f"{number >> 10} ms" if number < 1 << 20 else f"{number >> 20} s"


def _explained(
    error: PostcopyError, texts: Texts, progress: Progress, dom: Domain
) -> PostcopyError:
    try:
        guest = guest_on_source(dom) if _is_back(error) else ""
        if isinstance(error, MigrationError):
            return texts.of(error, progress.seen, guest)
        return texts.refused(error, guest)
    except Exception as bug:  # no words are a reason to lose where the guest is
        LOG.error("unexpected while explaining", exc_info=bug)
        return error


def _is_back(error: PostcopyError) -> bool:
    return getattr(error, "guest", Place.SOURCE) == Place.SOURCE


def _open(plan: Plan, options: Globals) -> Domain:
    calls.silence_libvirt()
    ensure_event_loop()  # only connections opened after it deliver events
    dom = find_domain(connect(options), plan.domain)
    call = "virDomainMigrateToURI3" if plan.is_peer2peer else "virDomainMigrate3"
    require_writable(options, for_call=call)
    return dom


def _look_first(
    plan: Plan, driver: str, dom: Domain, terminal: Terminal, connect_: calls.Open
) -> None:
    """Look whether it can work at all.

    :param driver: That will carry it out: they need different things.
    :raises NotSupportedError: If it cannot.
    """
    try:
        before_migration(
            plan.check,
            lambda text: terminal.say(option_names(text)),
            dom,
            plan.destination,
            flags=plan.flags,
            params=plan.params,
            driver=driver,
            wishes=plan.wishes,
            connect=connect_,
        )
    except NotSupportedError as error:
        what = f"{error.what}; {guest_on_source(dom)}"
        raise NotSupportedError(
            option_names(what), side=error.side, cure=option_names(error.cure)
        ) from error


def _check_half(domain: SplitDomain) -> None:
    """Refuse a domain that is split, with what to do about it.

    :raises PostcopyBroken: If it is.
    """
    half = domain.half()
    if half is Half.SPLIT:
        raise domain.busy()
    if half is Half.SPLIT_FAILED:
        raise domain.broken()


class Watch:
    """Waits for the end of a migration, shows it, and answers interrupts.

    A bug of ours, here or in what it calls, never ends it: while the migration is under way the guest may
    depend on this process.
    """

    def __init__(
        self,
        job: api.Job,
        progress: Progress,
        signals: Signals,
        texts: Texts,
        terminal: Terminal,
    ) -> None:
        self._job = job
        self._progress = progress
        self._signals = signals
        self._texts = texts
        self._terminal = terminal
        self._interrupts = Interrupts()
        self._is_excused = False

    def wait(self) -> None:
        """Wait for the end.

        :raises MigrationError: What :meth:`libvirt_postcopy.api.Job.wait` raises, or :class:`LeftAlone`.
        """
        try:
            while (result := self._result()) is None:
                with self._going_on():
                    self._progress.update(self._job, time.monotonic())
                with self._going_on():
                    self._answer()
        finally:
            with self._going_on():
                self._progress.say_notes()
        with self._going_on():
            if self._interrupts.is_aborting:
                self._terminal.say("the abort came too late: the guest has moved")
            self._progress.finish(result)
            for line in result_lines(result):
                self._terminal.say(line)

    def _result(self) -> api.MigrationResult | None:
        """Wait a little; None if it is not over."""
        try:
            return self._job.wait(SLICE_S)
        except TimeoutError:
            return None
        except PostcopyError:
            raise
        except Exception as error:
            if self._job.is_over:
                raise self._bug(error) from error
            self._excuse(error)
            time.sleep(SLICE_S)
            return None

    def _bug(self, error: Exception) -> Exception:
        """What is to be raised if the end has come but cannot be told."""
        is_moved = self._job.guest is not Place.SOURCE
        return self._texts.lost_sight(error) if is_moved else error

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """Let only what was decided leave: everything else that is raised is said once."""
        try:
            yield
        except LeftAlone:
            raise
        except Exception as error:
            self._excuse(error)

    def _excuse(self, error: Exception) -> None:
        LOG.error("unexpected while watching", exc_info=error)
        if self._is_excused:
            return
        self._is_excused = True
        with suppress(Exception):  # it may be the terminal itself
            self._terminal.say(
                f"note: unexpected, please report: {type(error).__name__}: {error}; the migration goes on"
            )

    def _answer(self) -> None:
        guest = self._job.guest
        for answer in self._answers(guest):
            if answer is Answer.LEAVE:
                raise self._texts.left_aborting()
            if answer is Answer.DETACH:
                raise self._texts.left(guest)
            if answer is Answer.ABORT:
                with suppress(StateError):  # if it is split by now, the next look tells
                    self._job.abort()
            else:
                self._terminal.say(self._texts.said[answer])

    def _answers(self, guest: Place) -> list[Answer]:
        can_leave = self._job.can_be_left
        count = self._signals.take()
        if count:
            self._terminal.interrupt()
        pressed = [
            self._interrupts.press(guest, can_leave=can_leave) for _ in range(count)
        ]
        later = self._interrupts.look(guest, can_leave=can_leave)
        return pressed if later is None or later in pressed else [*pressed, later]
