"""What the operator is told: where the guest is, what must not be done, and the next command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from libvirt_postcopy.errors import (
    GuestLost,
    MigrationCancelled,
    MigrationError,
    MigrationUnknown,
    PostcopyBroken,
)
from libvirt_postcopy.virsh.grammar import Kind, Value
from libvirt_postcopy.virsh.interrupts import Answer
from libvirt_postcopy.virsh.options import MIGRATE_OPTIONS
from libvirt_postcopy.virsh.plan import Plan

__all__ = ["LeftAlone", "Texts"]


_NO_RESUME = (
    "with libvirt 11.2 or 11.3 on the destination do not resume,"
    " that crashes its daemon (fixed in 11.4)"
)


class LeftAlone(MigrationError):
    """The user left before the end.

    :param guest: Where the guest was then: ``source``, ``split`` or ``unknown``.
    """

    def __init__(self, what: str, *, guest: str, cure: str = "") -> None:
        super().__init__(what, cure=cure)
        self.guest = guest


class Texts:
    """Words for one migration.

    :param given: The options of the command line.
    :param source: The URI of the source.
    """

    def __init__(self, plan: Plan, given: Mapping[str, Value], source: str) -> None:
        self.plan = plan
        self._given = given
        self._source = source

    said: Mapping[Answer, str] = {
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
                cure=f"{self._look_first()}; {_NO_RESUME}; when the link is back: {self._resume_command()}",
                phase=error.phase,
            )
        if isinstance(error, MigrationUnknown):
            return MigrationUnknown(
                f"{error.what}: {self._unknown()}",
                side=error.side,
                cure=f"look: {self._look_commands()}",
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
        """The user left after the switch."""
        # Without the client that managed it, libvirt marks a migration failed until it completes.
        mark = (
            "" if self.plan.is_peer2peer else "libvirt may call it failed meanwhile; "
        )
        return LeftAlone(
            f"left the migration to itself, and it goes on: {self._halves()}",
            guest="split",
            cure=f"{mark}look: {self._look_commands()}",
        )

    def left_aborting(self) -> LeftAlone:
        """The user left while the abort was not confirmed."""
        if self.plan.is_peer2peer:
            return LeftAlone(
                "left before the abort was confirmed: the migration may go on without this client, and "
                f"{self._unknown()}",
                guest="unknown",
                cure=f"look: {self._look_commands()}",
            )
        job_info = shlex.join(
            ["virsh", "-c", self._source, "domjobinfo", self.plan.domain]
        )
        return LeftAlone(
            "left before the abort was confirmed: the guest was on the source",
            guest="source",
            cure=f"look: {job_info}",
        )

    def lost_sight(self, error: Exception) -> LeftAlone:
        """A bug hides the end of a migration that had switched."""
        return LeftAlone(
            f"unexpected, please report: {type(error).__name__}: {error}: {self._unknown()}",
            guest="unknown",
            cure=f"look: {self._look_commands()}",
        )

    def _unknown(self) -> str:
        return (
            f"it cannot be told where the guest '{self.plan.domain}' is, or whether its migration goes on:"
            f" destroy it neither on {self._source} nor on {self.plan.destination}"
        )

    def _halves(self) -> str:
        return (
            f"the guest '{self.plan.domain}' is split, its newest memory on {self.plan.destination},"
            f" the rest on {self._source}: destroy, resume and reset neither half"
        )

    def _look_first(self) -> str:
        """Where only a control connection broke, QEMU goes on, and libvirt refuses to resume."""
        return (
            f"look first: {_look(self._source, self.plan.domain)}; if it is gone or shut off there,"
            " the migration has completed"
        )

    def _look_commands(self) -> str:
        there = str(self._given.get("dname", self.plan.domain))
        here = _look(self._source, self.plan.domain)
        return f"{here}; {_look(self.plan.destination, there)}"

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


def _look(uri: str, domain: str) -> str:
    return shlex.join(["virsh", "-c", uri, "domstate", "--reason", domain])
