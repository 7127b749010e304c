"""What the operator is told: where the guest is, what must not be done, and the next command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from libvirt_postcopy.errors import (
    GuestLost,
    MigrationCancelled,
    MigrationError,
    MigrationFailed,
    MigrationUnknown,
    PostcopyBroken,
    PostcopyError,
)
from libvirt_postcopy.events import Half, Place
from libvirt_postcopy.features import is_about_certificates, is_about_migration_tls
from libvirt_postcopy.virsh.grammar import Value
from libvirt_postcopy.virsh.interrupts import Answer
from libvirt_postcopy.virsh.plan import Plan
from libvirt_postcopy.virsh.progress import Seen
from libvirt_postcopy.virsh.split import (
    attach_command,
    look_command,
    recover_command,
)

__all__ = ["LeftAlone", "Texts"]


_HALVES = (Half.SPLIT, Half.SPLIT_FAILED)
_SILENT_HERE = ((Half.UNKNOWN, Half.GONE), (Half.UNKNOWN, Half.INACTIVE))


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
        Answer.IN_DOUBT: "it cannot be told now where the guest is: looking on"
        " (Ctrl-C again leaves the migration to itself)",
        Answer.NOT_YET: "the guest is not running on the destination yet: leaving as soon as it is",
        Answer.NEEDED: "the guest may still need this program: leaving as soon as it does not",
        Answer.ENDING: "the migration is about to end: still waiting",
    }

    def of(self, error: MigrationError, seen: Seen, guest: str) -> MigrationError:
        """Complete what the library says with what only the command line knows.

        :param guest: What the source says of the guest, for an error that leaves it there.
        """
        if isinstance(error, MigrationCancelled):
            return MigrationCancelled(f"migration aborted: {guest}", phase=error.phase)
        if isinstance(error, MigrationFailed):
            return MigrationFailed(
                f"{error.what}; {guest}",
                side=self._side(error, seen),
                cure=error.cure,
                phase=error.phase,
            )
        if isinstance(error, PostcopyBroken):
            return PostcopyBroken(
                f"{error.what}: {self._halves()}",
                side=error.side,
                cure=f"look: {self._look_commands()}; when the link is back: {self._recover_command()}",
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
                f"the guest '{self.plan.domain}' is lost: {self._missing(error, seen)}: {error.what}",
                cure=f"destroy neither half before you have seen both hosts: {self._look_commands()};"
                " then start it anew from its disks",
                phase=error.phase,
            )
        return error

    def refused(self, error: PostcopyError, guest: str) -> PostcopyError:
        """Complete a refusal before anything was started."""
        return type(error)(f"{error.what}; {guest}", side=error.side, cure=error.cure)

    def _side(self, error: MigrationError, seen: Seen) -> str:
        """Whose fault it is where libvirt's words do not tell."""
        if is_about_certificates(error.what):  # of whoever connects to the destination
            return "source" if self.plan.is_peer2peer else "client"
        if is_about_migration_tls(error.what):
            if seen.is_prepared:  # the destination comes first, and had its own
                return "source"
            return "" if self.plan.is_peer2peer else "destination"
        return error.side

    def _missing(self, error: GuestLost, seen: Seen) -> str:
        """Which half is gone, by the last looks: the call itself may have ended long before."""
        here, there = self._source, self.plan.destination
        is_here, is_there = (half in _HALVES for half in error.halves)
        if error.halves in _SILENT_HERE:
            return (
                f"its half on the destination, {there}, is gone, and the source, {here}, where it had stopped for good,"
                " does not answer"
            )
        if is_here:
            return (
                f"its half on the destination, {there}, is gone,"
                f" and what is left on the source, {here}, cannot go on"
            )
        if is_there:
            return (
                f"its half on the source, {here}, is gone with memory that had not been sent,"
                f" and what is left on the destination, {there}, cannot run without it"
            )
        if seen.has_died_here:
            return f"its QEMU on the source, {here}, ended before the guest had moved"
        return f"both halves are gone, on the source, {here}, and on the destination, {there}"

    def left(self, guest: Place) -> LeftAlone:
        """The user left a migration that cannot be aborted.

        :param guest: Where the guest was then.
        """
        if guest is Place.SPLIT:
            return self._left_split()
        return LeftAlone(
            f"left the migration to itself: {self._unknown()}",
            guest="unknown",
            cure=f"look: {self._look_commands()}; where it goes on:"
            f" {attach_command(self._source, self.plan.domain)}",
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

    def _left_split(self) -> LeftAlone:
        """The user left after the switch."""
        # Without the client that managed it, libvirt marks a migration failed until it completes.
        mark = (
            "" if self.plan.is_peer2peer else "libvirt may call it failed meanwhile; "
        )
        return LeftAlone(
            f"left the migration to itself, and it goes on: {self._halves()}",
            guest="split",
            cure=f"{mark}go on with it, so that it is resumed if it breaks:"
            f" {attach_command(self._source, self.plan.domain)}; look: {self._look_commands()}",
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

    def _look_commands(self) -> str:
        there = str(self._given.get("dname", self.plan.domain))
        here = look_command(self._source, self.plan.domain)
        return f"{here}; {look_command(self.plan.destination, there)}"

    def _recover_command(self) -> str:
        return recover_command(self._source, self.plan.domain, self.plan.destination)
