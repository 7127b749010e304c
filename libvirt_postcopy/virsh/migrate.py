"""``migrate``: a plan becomes a migration, and somebody watches it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress

from libvirt_postcopy import api
from libvirt_postcopy.errors import MigrationError, StateError
from libvirt_postcopy.events import Place
from libvirt_postcopy.vir import calls
from libvirt_postcopy.vir.events import ensure_event_loop
from libvirt_postcopy.vir.protocols import Domain
from libvirt_postcopy.virsh.daemon import connect, find_domain, uri_of
from libvirt_postcopy.virsh.grammar import Globals, Value
from libvirt_postcopy.virsh.interrupts import (
    Answer,
    Interrupts,
    Signals,
    easily_interrupted,
    may_leave,
)
from libvirt_postcopy.virsh.plan import Plan, make_plan
from libvirt_postcopy.virsh.progress import Progress
from libvirt_postcopy.virsh.terminal import Terminal
from libvirt_postcopy.virsh.texts import LeftAlone, Texts

__all__ = ["Watch", "run"]

SLICE_S = 0.1
"""How soon an interrupt is seen to; the end of the migration is seen at once."""


def run(given: Mapping[str, Value], options: Globals, terminal: Terminal) -> None:
    """Migrate, and stay until the end or until the user leaves.

    :raises PostcopyError: What has become of it if it did not come to its end; text for the operator.
    """
    plan = make_plan(given)
    with easily_interrupted():
        dom = _open(plan, options)
        texts = Texts(plan, given, uri_of(dom.connect()))
    progress = Progress(terminal, is_verbose=plan.is_verbose and not options.is_quiet)
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
        watch = Watch(job, progress, signals, texts, terminal)
        try:
            result = watch.wait()
        except LeftAlone:
            raise
        except MigrationError as error:
            raise texts.of(error) from error
        except Exception as error:  # a bug of ours is no reason to touch either half
            if job.guest is Place.SPLIT:
                raise texts.left_split() from error
            raise
    progress.finish(result, is_peer2peer=result.is_peer2peer)


def _open(plan: Plan, options: Globals) -> Domain:
    calls.silence_libvirt()
    ensure_event_loop()  # only connections opened after it deliver events
    call = "virDomainMigrateToURI3" if plan.is_peer2peer else "virDomainMigrate3"
    return find_domain(connect(options, for_call=call), plan.domain)


class Watch:
    """Waits for the end of a migration, shows it, and answers interrupts."""

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

    def wait(self) -> api.MigrationResult:
        """Wait for the end.

        :raises MigrationError: What :meth:`libvirt_postcopy.api.Job.wait` raises, or :class:`LeftAlone`.
        """
        try:
            while True:
                with suppress(TimeoutError):
                    result = self._job.wait(SLICE_S)
                    break
                self._progress.update(self._job, time.monotonic())
                self._answer()
        finally:
            self._progress.say_notes()
        if self._interrupts.is_aborting:
            self._terminal.say("the abort came too late: the guest has moved")
        return result

    def _answer(self) -> None:
        for answer in self._answers():
            if answer is Answer.LEAVE:
                raise self._texts.left_aborting()
            if answer is Answer.DETACH:
                raise self._texts.left_split()
            if answer is Answer.ABORT:
                with suppress(StateError):  # if it is split by now, the next look tells
                    self._job.abort()
            self._terminal.say(self._texts.said[answer])

    def _answers(self) -> list[Answer]:
        guest = self._job.guest
        can_leave = may_leave(
            self._job.phase,
            guest,
            is_managed=not self._texts.plan.is_peer2peer,
            is_resumed=self._progress.is_resumed,
        )
        pressed = [
            self._interrupts.press(guest, can_leave=can_leave)
            for _ in range(self._signals.take())
        ]
        later = self._interrupts.look(guest, can_leave=can_leave)
        return pressed if later is None or later in pressed else [*pressed, later]
